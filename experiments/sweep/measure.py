"""Effects of every component over all prompts: exactly, or estimated by gradient with the largest measured exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ...hooks import edits
from ...hooks.edits import Edit
from ..metrics.reads import MetricError
from ..runs import console
from ..runs.execute import Run
from .components import Component
from .estimate import certificate, estimates, grad_drop, to_verify
from .sweep import Grid, sweep_all


@dataclass(frozen=True)
class Measured:
    """Effects of every component.

    Args:
        effects: exact where ``tested``, estimated elsewhere.
        clean: the metric without edits.
        tested: which components were measured exactly.
        more: further numbers of each component, by name: what an estimate said.
        certificate: how estimates and exact effects agree, if there were estimates.
    """

    effects: Float[np.ndarray, "components prompts"]
    clean: Float[np.ndarray, " prompts"]
    tested: np.ndarray
    more: dict[str, Float[np.ndarray, " components"]]
    certificate: dict[str, Any] | None = None

    def of(self, mine: Sequence[int]) -> Measured:
        """Some of the components."""
        more = {name: values[mine] for name, values in self.more.items()}
        return Measured(self.effects[mine], self.clean, self.tested[mine], more, self.certificate)


def measure(run: Run, grid: Grid) -> Measured:
    """Effects of all components on all prompts, as the run's configuration asks (an `EffectsOptions`)."""
    if run.config.estimate == "none":
        effects, clean = sweep_all(run.folder, grid, run.engine)
        found = Measured(effects, clean, np.ones(len(grid.parts), dtype=bool), {})
    else:
        found = _screened(run, grid)
    if not run.config.null_draws:
        return found
    return replace(found, more={**found.more, **_null(run, grid, found)})


def _null(run: Run, grid: Grid, found: Measured) -> dict[str, np.ndarray]:
    """Effects of changes as large in random directions, for what was measured exactly.

    ``null`` is the mean of |effect| over draws and ``null_p`` = (1 + draws with at least the edit's |effect|) / (1 + draws).
    """
    mine = np.flatnonzero(found.tested).tolist()
    sizes, seed = [], run.config.seed
    for draw in range(run.config.null_draws):

        def turned(number: int, draw: int = draw) -> Callable[[Component], Edit]:
            edit_of = grid.edits_for(number)
            return lambda part: edits.turned(edit_of(part), seed + draw)

        drawn_grid = replace(grid.of(mine), name=f"{grid.name} null {draw}", edits_for=turned)
        effects, _ = sweep_all(run.folder, drawn_grid, run.engine)
        sizes.append(np.abs(effects.mean(1)))
    drawn, size = np.stack(sizes), np.abs(found.effects[mine].mean(1))
    null, p = np.full(len(grid.parts), np.nan), np.full(len(grid.parts), np.nan)
    null[mine], p[mine] = drawn.mean(0), (1 + (drawn >= size).sum(0)) / (1 + len(drawn))
    return {"null": null, "null_p": p}


def _screened(run: Run, grid: Grid) -> Measured:
    """Estimates of all, exact effects of the largest and of a random sample.

    Estimates are kept in the run's folder: those made again could rank the components otherwise, by their rounding, and the
    exact effects that are kept would be of others.
    """
    config, parts, count = run.config, grid.parts, grid.n_prompts
    found, drop = np.empty((len(parts), count)), np.zeros(len(parts))
    gate, gate_per_position = np.zeros(len(parts)), np.zeros(len(parts))
    with console.progress() as bars:
        bar = bars.add_task(f"{grid.name}: gradients", total=len(grid.groups))
        for number, chunk in enumerate(grid.groups):
            here = run.folder.kept(f"{grid.name} estimate-{number}", partial(_estimated, grid, number, config.estimate))
            found[:, chunk.prompts] = here["effects"]
            gate += np.abs(here["effects"]).sum(1)
            gate_per_position += here["per_position"]
            drop += here["graddrop"]
            bars.advance(bar)
    sizes = drop if config.estimate == "graddrop" else np.abs(found.sum(1))
    top, sample = to_verify(sizes, config.verify, config.verify_drawn, config.seed)
    chosen = sorted([*top, *sample])
    exact, clean = sweep_all(run.folder, grid.of(chosen), run.engine)
    effects, tested = found.copy(), np.zeros(len(parts), dtype=bool)
    effects[chosen], tested[chosen] = exact, True
    more = {"estimate": found.mean(1), "gate": gate / count, "gate_per_position": gate_per_position / count}
    if config.estimate == "graddrop":
        more["graddrop"] = drop / count
    agreement = certificate(found.mean(1), effects.mean(1), top, sample)
    return Measured(effects, clean, tested, more, {"method": config.estimate, **agreement})


def _estimated(grid: Grid, number: int, method: str) -> dict[str, Any]:
    """What the gradients say of every component on one group of prompts; the prompts' sum where no effect is told."""
    about = grid.subject, grid.metric, grid.groups[number], grid.parts, grid.edits_for(number)
    here, drop = estimates(*about), np.zeros(len(grid.parts))
    if not np.isfinite(here.effects).all():
        raise MetricError(f"metric {grid.metric.name}: expected gradients that are numbers, got NaN or infinity")
    if method == "graddrop":
        drop = grad_drop(*about, 1 + max(part.layer for part in grid.parts)).sum(1)
    return {
        "effects": here.effects.tolist(),
        "per_position": here.per_position.sum(1).tolist(),
        "graddrop": drop.tolist(),
    }


def certificate_notes(name: str, certificate: dict[str, Any]) -> list[dict[str, str]]:
    """What the certificate says, in a line; a warning where the estimate misleads."""
    rho = certificate["spearman"]
    text = (
        f"{name}: effects are estimated from gradients and exact for {certificate['n_top']} of the largest and "
        f"{certificate['n_sample']} drawn at random: Spearman {'not defined' if rho is None else f'{rho:.2f}'}, "
        f"top-half overlap {certificate['overlap']:.0%}, same sign {certificate['same_sign']:.0%}"
    )
    if certificate["misleads"]:
        return [
            {"kind": "warning", "text": f"{text}. The estimate misleads here: {'; '.join(certificate['misleads'])}"}
        ]
    return [{"kind": "info", "text": text}]
