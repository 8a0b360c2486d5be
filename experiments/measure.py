"""Effects of every component over all prompts: exactly, or estimated by gradient with the largest measured exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from experiments import screen
from experiments.components import Component
from experiments.estimate import certificate, estimates, grad_drop, to_verify
from experiments.metrics import Metric
from experiments.run import Run
from experiments.subject import Subject
from experiments.sweep import Chunk, sweep_all
from hooks import edits
from hooks.edits import Edit

EditsFor: TypeAlias = "Callable[[int], Callable[[Component], Edit]]"


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


def measure(
    run: Run,
    name: str,
    subject: Subject,
    metric: Metric,
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    edits_for: EditsFor,
) -> Measured:
    """Effects of all components on all prompts, as the run's configuration asks (``estimate, verify, sample, null, seed``).

    Args:
        edits_for: from the number of a chunk to the edit of each component's whole site there.
    """
    if run.config.estimate == "none":
        effects, clean = sweep_all(run.folder, name, subject, metric, groups, parts, edits_for)
        found = Measured(effects, clean, np.ones(len(parts), dtype=bool), {})
    else:
        found = _screened(run, name, subject, metric, groups, parts, edits_for)
    if not run.config.null:
        return found
    return replace(found, more={**found.more, **_null(run, name, subject, metric, groups, parts, edits_for, found)})


def _null(
    run: Run,
    name: str,
    subject: Subject,
    metric: Metric,
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    edits_for: EditsFor,
    found: Measured,
) -> dict[str, np.ndarray]:
    """Effects of changes as large in random directions, for what was measured exactly.

    ``null`` is the mean of |effect| over draws and ``null_p`` = (1 + draws with at least the edit's |effect|) / (1 + draws).
    """
    mine = np.flatnonzero(found.tested)
    sizes = []
    for draw in range(run.config.null):

        def turned(number: int, draw: int = draw) -> Callable[[Component], Edit]:
            edit_of = edits_for(number)
            return lambda part: edits.turned(edit_of(part), run.config.seed + draw)

        effects, _ = sweep_all(
            run.folder, f"{name} null {draw}", subject, metric, groups, [parts[int(i)] for i in mine], turned
        )
        sizes.append(np.abs(effects.mean(1)))
    drawn, size = np.stack(sizes), np.abs(found.effects[mine].mean(1))
    null, p = np.full(len(parts), np.nan), np.full(len(parts), np.nan)
    null[mine], p[mine] = drawn.mean(0), (1 + (drawn >= size).sum(0)) / (1 + len(drawn))
    return {"null": null, "null_p": p}


def _screened(
    run: Run,
    name: str,
    subject: Subject,
    metric: Metric,
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    edits_for: EditsFor,
) -> Measured:
    """Estimates of all, exact effects of the largest and of a random sample."""
    config = run.config
    count = sum(len(chunk.prompts) for chunk in groups)
    found, drop = np.empty((len(parts), count)), np.zeros(len(parts))
    gate, gate_per_position = np.zeros(len(parts)), np.zeros(len(parts))
    layers = 1 + max(part.layer for part in parts)
    with screen.progress() as bars:
        bar = bars.add_task(f"{name}: gradients", total=len(groups))
        for number, chunk in enumerate(groups):
            edit_of = edits_for(number)
            here = estimates(subject, metric, chunk, parts, edit_of)
            found[:, chunk.prompts] = here.effects
            gate += np.abs(here.effects).sum(1)
            gate_per_position += here.per_position.sum(1)
            if config.estimate == "graddrop":
                drop += grad_drop(subject, metric, chunk, parts, edit_of, layers).sum(1)
            bars.advance(bar)
    sizes = drop if config.estimate == "graddrop" else np.abs(found.sum(1))
    top, sample = to_verify(sizes, config.verify, config.sample, config.seed)
    chosen = sorted([*top, *sample])
    exact, clean = sweep_all(run.folder, name, subject, metric, groups, [parts[i] for i in chosen], edits_for)
    effects, tested = found.copy(), np.zeros(len(parts), dtype=bool)
    effects[chosen], tested[chosen] = exact, True
    more = {"estimate": found.mean(1), "gate": gate / count, "gate_per_position": gate_per_position / count}
    if config.estimate == "graddrop":
        more["graddrop"] = drop / count
    agreement = certificate(found.mean(1), effects.mean(1), top, sample)
    return Measured(effects, clean, tested, more, {"method": config.estimate, **agreement})


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
