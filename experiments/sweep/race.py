"""A race: the K parts with the largest effects, without running every part on every prompt.

Prompts come in random order, in stages that grow. After each stage a part leaves the race where K
others are significantly ahead of it: for each of the K largest, k, and both signs of the part's own
effect,

    mean(s_k e_k -+ e_i) > t * standard error,    s_k the sign of k's mean effect

with t the quantile of Student's distribution at `WRONG` over the stages (Bonferroni), paired by
prompt and over groups of prompts. All K tests and both signs must agree, which is far stricter than
one test: in simulations with heavy tails some part of the true top K left in fewer than 1% of the
races. Those that are left have run on every prompt: their effects, intervals and tests are those of
a run without a race. What left has an estimate from the prompts that it ran on, and no interval: it
was selected for being small.

Source: Maron and Moore 1994 (Hoeffding races), with t instead of Hoeffding's bound; Even-Dar et al.
2006 (elimination).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from ...hooks.edits import Edit
from ...probes.distributions import t_quantile
from ..metrics.reads import MetricError, Reads
from ..report.schema import Note
from ..runs.execute import Run
from ..subject import Subject
from .components import Component
from .measure import Measured
from .sweep import Chunk, Grid, chunks, sweep_grid

FIRST, GROWTH = 10, 1.5
"""Groups of prompts in the first stage, and what each stage multiplies them by."""
WRONG = 0.05
"""Level of the tests of one part over all stages."""


def stages(clusters: Int[np.ndarray, " prompts"], seed: int) -> tuple[Int[np.ndarray, " _"], ...]:
    """The prompts of each stage, whole groups of them in random order.

    Raises:
        MetricError: too few groups for a second stage.
    """
    count = int(clusters.max()) + 1
    if count <= FIRST:
        raise MetricError(
            f"--race: expected more than {FIRST} prompts or groups of them, got {count}: "
            "run without it"
        )
    order = np.random.default_rng(seed).permutation(count)
    cuts = [FIRST]
    while cuts[-1] < count:
        cuts.append(min(count, math.ceil(GROWTH * cuts[-1])))
    pieces = np.split(order, cuts[:-1])
    return tuple(np.flatnonzero(np.isin(clusters, piece)) for piece in pieces)


def staged_chunks(
    subject: Subject, reads: Reads, tokens: int, prompts: Sequence[Int[np.ndarray, " _"]]
) -> list[list[Chunk]]:
    """The batches of each stage."""
    return [list(chunks(subject, reads, tokens, set(stage.tolist()))) for stage in prompts]


@dataclass(frozen=True)
class Race:
    """What a race measured.

    Args:
        measured: effects of every part; of one that left, on the prompts that it did not run on the
            mean of the others.
        ran_on: on how many prompts each part ran.
        share: of the edited forwards that a run without a race takes.
    """

    measured: Measured
    ran_on: Int[np.ndarray, " components"]
    share: float

    def note(self, noun: str, keep: int) -> Note:
        """How many left when."""
        total = int(self.ran_on.max())
        left = []
        for n in np.unique(self.ran_on[self.ran_on < total]).tolist():
            left.append(f"{int((self.ran_on == n).sum())} after {n} prompts")
        who = ", ".join(left) if left else "none"
        text = (
            f"race for the {keep} largest effects: {int((self.ran_on == total).sum())} of "
            f"{len(self.ran_on)} {noun} ran on all {total} prompts, and only these have "
            f"intervals and tests. Dropped: {who}. The race took {self.share:.0%} of the "
            "edited forward passes of a full run"
        )
        return Note(kind="info", text=text)


def run_race(
    run: Run,
    grid: Grid,
    of_stages: Sequence[Sequence[Chunk]],
    clusters: Int[np.ndarray, " prompts"],
    keep: int,
) -> Race:
    """The effects of all parts,
    those that are surely not among the largest ``keep`` on some prompts alone.
    """
    n_parts, n_prompts = len(grid.parts), grid.n_prompts
    effects = np.full((n_parts, n_prompts), np.nan)
    clean = np.empty(n_prompts)
    changed = np.zeros(n_parts, dtype=bool)
    alive = np.arange(n_parts)
    seen = np.zeros(n_prompts, dtype=bool)
    first_group = 0
    for stage, groups in enumerate(of_stages):
        prompts, stage_grid = _stage(grid, stage, groups, first_group)
        first_group += len(groups)
        swept = sweep_grid(run.folder, stage_grid.of(alive.tolist()), run.engine)
        effects[np.ix_(alive, np.asarray(prompts))] = swept.effects
        clean[prompts] = swept.clean
        changed[alive] |= swept.changed
        seen[prompts] = True
        if stage + 1 < len(of_stages):
            level = WRONG / (len(of_stages) - 1)
            behind = surely_behind(effects[np.ix_(alive, seen)], clusters[seen], keep, level)
            alive = alive[~behind]
    ran = np.isfinite(effects)
    ran_on = ran.sum(1)
    means = np.where(ran, effects, 0).sum(1) / ran_on
    filled = np.where(ran, effects, means[:, None])
    measured = Measured(filled, clean, ran_on == n_prompts, unchanged=~changed)
    return Race(measured, ran_on, float(ran.mean()))


def _stage(
    grid: Grid, stage: int, groups: Sequence[Chunk], first_group: int
) -> tuple[list[int], Grid]:
    """One stage's prompts, and the grid of them alone, numbered from 0."""
    prompts: list[int] = []
    own: list[Chunk] = []
    for chunk in groups:
        numbers = list(range(len(prompts), len(prompts) + len(chunk.prompts)))
        own.append(replace(chunk, prompts=numbers))
        prompts += chunk.prompts

    def edits_for(number: int) -> Callable[[Component], Edit]:
        return grid.edits_for(first_group + number)

    name = f"{grid.name} stage {stage}"
    return prompts, replace(grid, name=name, groups=own, edits_for=edits_for)


def surely_behind(
    effects: Float[np.ndarray, "alive prompts"],
    clusters: Int[np.ndarray, " prompts"],
    keep: int,
    level: float,
) -> Bool[np.ndarray, " alive"]:
    """Which parts have ``keep`` others significantly ahead of them.

    Args:
        level: chance of a wrong answer for each part.
    """
    names, of_prompt = np.unique(clusters, return_inverse=True)
    # Sums over each group: the mean over prompts is a ratio of them, and groups are what is drawn.
    sizes = np.bincount(of_prompt).astype(float)
    sums = np.zeros((len(effects), len(names)))
    np.add.at(sums.T, of_prompt, effects.T)
    means = effects.mean(1)
    behind = np.zeros(len(effects), dtype=bool)
    if len(effects) <= keep:
        return behind
    order = np.argsort(-np.abs(means), kind="stable")
    leaders, others = order[:keep], order[keep:]
    t = t_quantile(1 - level, len(names) - 1)
    is_ahead = np.ones(len(others), dtype=bool)
    for leader in leaders:
        ahead = np.sign(means[leader]) * sums[leader]
        for sign in (1, -1):
            difference = ahead - sign * sums[others]
            mean = difference.sum(1) / sizes.sum()
            centred = difference - mean[:, None] * sizes
            spread = np.sqrt((centred**2).sum(1) * len(names) / (len(names) - 1)) / sizes.sum()
            is_ahead &= mean > t * spread
    behind[others] = is_ahead
    return behind
