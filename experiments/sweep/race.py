"""A race: the K parts with the largest effects, without running every part on every prompt.

Prompts come in random order, in stages that grow. After each stage a part stops if K others are
surely ahead of it (`elimination`), given one gradient of every prompt and its effects so far. In
simulations, some part of the true top K stopped in fewer than `WRONG` of the races, also with heavy
tails and with effects on three of ten prompts alone; an effect on fewer prompts, of which the
gradient shows nothing, can be missed (7% of the races at one of five).

Those that are left have run on every prompt: their effects, intervals and tests are those of a run
without a race. A part that stopped has an estimate of its effect over all prompts, and an interval
of that; it has no test, because it was selected for being small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from layerscope.errors import LayerscopeError

from ...hooks.edits import Edit
from ..metrics.reads import MetricError, Reads
from ..report.schema import Note
from ..report.words import plural
from ..runs.execute import Run
from ..subject import Subject
from .components import Component
from .elimination import WRONG, Eliminated, eliminate
from .grid import Grid, sweep_grid
from .measure import Measured, gradients
from .sweep import Chunk, chunks

FIRST, GROWTH = 8, 1.35
"""Prompts in the first stage, and what each stage multiplies them by."""


def stages(count: int, seed: int) -> list[list[int]]:
    """The prompts of each stage, in random order.

    Raises:
        MetricError: too few prompts for a second stage.
    """
    if count <= FIRST:
        raise MetricError(
            f"--race: expected more than {FIRST} prompts, got {count}: run without it"
        )
    order = np.random.default_rng(seed).permutation(count)
    cuts = [FIRST]
    while cuts[-1] < count:
        cuts.append(min(count, math.ceil(GROWTH * cuts[-1])))
    return [piece.tolist() for piece in np.split(order, cuts[:-1])]


def staged_chunks(
    subject: Subject, reads: Reads, tokens: int, prompts: Sequence[Sequence[int]]
) -> list[list[Chunk]]:
    """The batches of each stage."""
    return [list(chunks(subject, reads, tokens, set(stage))) for stage in prompts]


@dataclass(frozen=True)
class Race:
    """What a race measured.

    Args:
        measured: effects of every part, those that ran on all prompts tested.
        outcome: on how many prompts each part ran, and the intervals of those that stopped.
        no_gradient: why the race did without estimates; None if it had them.
    """

    measured: Measured
    outcome: Eliminated
    no_gradient: str | None

    def note(self, noun: str, keep: int) -> Note:
        """How many stopped when."""
        ran_on, total = self.outcome.ran_on, int(self.outcome.ran_on.max())
        stopped = []
        for n in np.unique(ran_on[ran_on < total]).tolist():
            stopped.append(f"{int((ran_on == n).sum())} after {n} prompts")
        share = ran_on.mean() / total
        gradients = "and one gradient of each prompt"
        if self.no_gradient is not None:
            gradients = f"without gradients ({self.no_gradient})"
        text = (
            f"race for the {plural(keep, 'largest effect')}: {int((ran_on == total).sum())} of "
            f"{len(ran_on)} {noun} ran on all {total} prompts, and only these are tested. "
            f"Stopped: {', '.join(stopped) or 'none'}. The race took {share:.0%} of the "
            f"edited forward passes of a full run, {gradients}. A part of the true {keep} "
            f"largest stops in at most {WRONG:.0%} of such races, unless its effect is confined "
            "to a few prompts"
        )
        return Note(kind="info", text=text)


def run_race(
    run: Run,
    grid: Grid,
    of_stages: Sequence[Sequence[Chunk]],
    keep: int,
) -> Race:
    """The effects of all parts,
    those that are surely not among the largest ``keep`` on some prompts alone.
    """
    clean = np.empty(grid.n_prompts)
    changed = np.zeros(len(grid.parts), dtype=bool)
    prompts_of, grid_of = [], []
    for stage, groups in enumerate(of_stages):
        first_group = sum(len(earlier) for earlier in of_stages[:stage])
        prompts, stage_grid = _stage(grid, stage, groups, first_group)
        prompts_of.append(prompts)
        grid_of.append(stage_grid)

    def effects_of(
        stage: int, alive: Int[np.ndarray, " alive"]
    ) -> Float[np.ndarray, "alive stage"]:
        swept = sweep_grid(run.folder, grid_of[stage].of(alive.tolist()), run.engine)
        clean[prompts_of[stage]] = swept.clean
        changed[alive] |= swept.changed
        return swept.effects

    estimated, no_gradient = _estimates(run, grid)
    site_names = [part.site.name for part in grid.parts]
    outcome = eliminate(effects_of, prompts_of, estimated, site_names, keep)
    tested = outcome.ran_on == grid.n_prompts
    measured = Measured(outcome.effects, clean, tested, unchanged=~changed)
    return Race(measured, outcome, no_gradient)


def _estimates(run: Run, grid: Grid) -> tuple[Float[np.ndarray, "components prompts"], str | None]:
    """First-order effects of all parts on all prompts; zeros, and why, where there are none.

    A metric of steps, such as an accuracy, has no gradient, nor have some operations of some models
    (a RuntimeError of PyTorch's). A race is right without, and only longer.
    """
    try:
        return gradients(run.folder, grid, "gradient").effects, None
    except (LayerscopeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        return np.zeros((len(grid.parts), grid.n_prompts)), reason


def _stage(
    grid: Grid, stage: int, groups: Sequence[Chunk], first_group: int
) -> tuple[list[int], Grid]:
    """One stage's prompts, and the grid of them alone, numbered from 0."""
    prompts: list[int] = []
    stage_groups: list[Chunk] = []
    for chunk in groups:
        numbers = list(range(len(prompts), len(prompts) + len(chunk.prompts)))
        stage_groups.append(replace(chunk, prompts=numbers))
        prompts += chunk.prompts

    def edits_for(number: int) -> Callable[[Component], Edit]:
        return grid.edits_for(first_group + number)

    name = f"{grid.name} stage {stage}"
    return prompts, replace(grid, name=name, groups=stage_groups, edits_for=edits_for)
