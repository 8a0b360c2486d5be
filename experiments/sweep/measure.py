"""Effects of every component over all prompts: exactly,
or estimated by gradient with the largest measured exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ...hooks import edits
from ...hooks.edits import Edit
from ..metrics.reads import MetricError
from ..report.schema import Note
from ..runs import console
from ..runs.execute import Run
from ..runs.folder import RunFolder
from .components import Component
from .estimate import certificate, estimates, grad_drop, to_verify
from .grid import Grid, sweep_all, sweep_grid
from .records import Certificate

PUT_IN_ALREADY = "their values already equal what the ablation puts there"


@dataclass(frozen=True)
class Measured:
    """Effects of every component.

    Args:
        effects: exact where ``effects``, estimated elsewhere.
        clean: the metric without edits.
        tested: which components were measured exactly.
        columns: further numbers of each component, by the record's field: what an estimate gave.
        certificate: how estimates and exact effects agree, if there were estimates.
        unchanged: which components' edits left every activation as it was.
    """

    effects: Float[np.ndarray, "components prompts"]
    clean: Float[np.ndarray, " prompts"]
    tested: Bool[np.ndarray, " components"]
    columns: dict[str, Float[np.ndarray, " components"]] = field(default_factory=dict)
    certificate: Certificate | None = None
    unchanged: Bool[np.ndarray, " components"] | None = None

    def of(self, chosen: Sequence[int]) -> Measured:
        """Some of the components."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        unchanged = self.unchanged[chosen] if self.unchanged is not None else None
        return replace(
            self,
            effects=self.effects[chosen],
            tested=self.tested[chosen],
            columns=columns,
            unchanged=unchanged,
        )


def measure_grid(run: Run, grid: Grid) -> Measured:
    """Effects of all components on all prompts, as the run's options ask (an `EffectsOptions`)."""
    if run.options.estimate == "none":
        swept = sweep_grid(run.folder, grid, run.engine)
        tested = np.ones(len(grid.parts), dtype=bool)
        measured = Measured(swept.effects, swept.clean, tested, unchanged=~swept.changed)
    else:
        measured = _screened(run, grid)
    return with_null(run, grid, measured)


def with_null(run: Run, grid: Grid, measured: Measured) -> Measured:
    """The same beside equally large random changes, where the run's options ask for them."""
    if not run.options.null_draws:
        return measured
    return replace(measured, columns={**measured.columns, **_null(run, grid, measured)})


def _null(run: Run, grid: Grid, measured: Measured) -> dict[str, np.ndarray]:
    """Effects of equally large changes in random directions, for what was measured exactly.

    ``null`` is the mean of |effect| over draws and ``null_p`` = (1 + draws with at least the edit's
    |effect|) / (1 + draws).
    """
    tested = np.flatnonzero(measured.tested).tolist()
    seed = run.options.seed
    drawn_sizes = []
    for draw in range(run.options.null_draws):

        def turned(number: int, draw: int = draw) -> Callable[[Component], Edit]:
            edit_of = grid.edits_for(number)
            return lambda part: edits.turned(edit_of(part), seed + draw)

        drawn_grid = replace(grid.of(tested), name=f"{grid.name} null {draw}", edits_for=turned)
        effects, _ = sweep_all(run.folder, drawn_grid, run.engine)
        drawn_sizes.append(np.abs(effects.mean(1)))
    drawn = np.stack(drawn_sizes)  # draw part
    size = np.abs(measured.effects[tested].mean(1))
    n_as_large = (drawn >= size).sum(0)
    null = np.full(len(grid.parts), np.nan)
    null[tested] = drawn.mean(0)
    p = np.full(len(grid.parts), np.nan)
    p[tested] = (1 + n_as_large) / (1 + len(drawn))
    return {"null": null, "null_p": p}


class Gradients(NamedTuple):
    """What gradients say of all components on all prompts.

    Attributes:
        effects: first-order effects.
        gate: mean over prompts of their sizes.
        gate_per_position: the same with sizes summed over positions.
        drop: mean over prompts of GradDrop's sizes; 0 without it.
    """

    effects: Float[np.ndarray, "components prompts"]
    gate: Float[np.ndarray, " components"]
    gate_per_position: Float[np.ndarray, " components"]
    drop: Float[np.ndarray, " components"]


def gradients(folder: RunFolder, grid: Grid, method: str) -> Gradients:
    """First-order effects of all components on all prompts.

    They are kept in the run's folder: those made again could rank the components otherwise, by
    their rounding, and the exact effects that are kept would be of others.

    Raises:
        MetricError: the metric has no gradient, or one that is not finite.
    """
    n_parts = len(grid.parts)
    effects, drop = np.empty((n_parts, grid.n_prompts)), np.zeros(n_parts)
    gate, gate_per_position = np.zeros(n_parts), np.zeros(n_parts)
    with console.progress() as bars:
        bar = bars.add_task(f"{grid.name}: gradients", total=len(grid.groups))
        for number, chunk in enumerate(grid.groups):
            of_group = folder.kept(
                f"{grid.name} estimate-{number}", partial(_estimated, grid, number, method)
            )
            effects[:, chunk.prompts] = of_group["effects"]
            # Sums over prompts of sizes: opposite signs do not cancel.
            gate += np.abs(of_group["effects"]).sum(1)
            gate_per_position += of_group["per_position"]
            drop += of_group["graddrop"]
            bars.advance(bar)
    count = grid.n_prompts
    return Gradients(effects, gate / count, gate_per_position / count, drop / count)


def _screened(run: Run, grid: Grid) -> Measured:
    """Estimates of all, exact effects of the largest and of a random sample."""
    options, parts = run.options, grid.parts
    estimated, gate, gate_per_position, drop = gradients(run.folder, grid, options.estimate)
    sizes = drop if options.estimate == "graddrop" else np.abs(estimated.sum(1))
    top, sample = to_verify(sizes, options.verify, options.verify_drawn, options.seed)
    # The largest by the estimate, and a random sample to judge the estimate by.
    chosen = sorted([*top, *sample])
    swept = sweep_grid(run.folder, grid.of(chosen), run.engine)
    effects, tested = estimated.copy(), np.zeros(len(parts), dtype=bool)
    # Exact effects take the estimates' places where they were measured.
    effects[chosen], tested[chosen] = swept.effects, True
    unchanged = np.zeros(len(parts), dtype=bool)
    unchanged[chosen] = ~swept.changed
    columns = {
        "estimate": estimated.mean(1),
        "gate": gate,
        "gate_per_position": gate_per_position,
    }
    if options.estimate == "graddrop":
        columns["graddrop"] = drop
    agreement = certificate(options.estimate, estimated.mean(1), effects.mean(1), top, sample)
    return Measured(effects, swept.clean, tested, columns, agreement, unchanged)


def _estimated(grid: Grid, number: int, method: str) -> dict[str, Any]:
    """What the gradients give for every component on one group of prompts;
    sums over prompts where no effect is kept.
    """
    about = grid.subject, grid.metric, grid.groups[number], grid.parts, grid.edits_for(number)
    of_group, drop = estimates(*about), np.zeros(len(grid.parts))
    if not np.isfinite(of_group.effects).all():
        raise MetricError(
            f"metric {grid.metric.name}: expected gradients that are numbers, got NaN or infinity"
        )
    if method == "graddrop":
        drop = grad_drop(*about, 1 + max(part.layer for part in grid.parts)).sum(1)
    return {
        "effects": of_group.effects.tolist(),
        "per_position": of_group.per_position.sum(1).tolist(),
        "graddrop": drop.tolist(),
    }


def unchanged_notes(
    measured: Measured, noun: str, metric: str, why: str = PUT_IN_ALREADY, kind: str = "warning"
) -> list[Note]:
    """Which measured edits did nothing: to the activation, or only to the metric.

    A metric of few values, such as an accuracy, can stay the same although the answer moved.

    Args:
        noun: what the parts are called, such as ``heads``.
        why: what it means that an activation did not change, and ``kind`` that note's kind.
    """
    tested = measured.tested
    unchanged = measured.unchanged if measured.unchanged is not None else np.zeros_like(tested)
    same_metric = tested & ~unchanged & (measured.effects == 0).all(1)
    total = int(tested.sum())
    notes = []
    if count := int((tested & unchanged).sum()):
        text = f"{count} of {total} measured {noun} changed no activation: {why}"
        notes.append(Note(kind=kind, text=text))
    if count := int(same_metric.sum()):
        text = (
            f"{count} of {total} measured {noun} changed activations but not the "
            f"{metric} of any prompt"
        )
        notes.append(Note(kind="info", text=text))
    return notes


def certificate_notes(name: str, agreement: Certificate) -> list[Note]:
    """The certificate in a sentence; a warning where the estimate misleads."""
    text = (
        f"{name}: effects are estimated from gradients and exact for {agreement.n_top} of "
        f"the largest and {agreement.n_sample} drawn at random: Spearman "
        f"{_figure(agreement.spearman)}, top-half overlap {agreement.overlap:.0%}, "
        f"same sign {_figure(agreement.same_sign, '.0%')}"
    )
    if agreement.misleads:
        reasons = "; ".join(agreement.misleads)
        return [Note(kind="warning", text=f"{text}. The estimate misleads here: {reasons}")]
    return [Note(kind="info", text=text)]


def _figure(value: float | None, form: str = ".2f") -> str:
    return "not defined" if value is None else format(value, form)
