"""Shapley values to a stated error: a Gaussian process over sets, given the values of the sets that
tell most about them.

    phi ~ Normal(E[phi | values], var[phi | values])

Candidates are drawn by their leverage (every size as often, a set with its complement, none twice);
of these the most telling are evaluated (`design`). The Shapley values are normal given their
values, and known once all sets are (`set_process`). Rounds go on until the standard error is small
enough.

The time of the process grows with the cube of its pairs. Later pairs are drawn by leverage and
correct what it misses, without bias: phi is linear in the game, and of each size s the mean over
drawn pairs stands for all N_s that the process was not given,

    phi = E[phi] + lambda sum_s N_s mean_s phi(missed at one pair),  lambda = e^2 / (e^2 + d^2)

with e the process's standard error and d the draw's.

Source: Musco and Witter 2025, algorithm 1 (leverage scores, without replacement); Witter et al.
2025 (a surrogate, corrected on other draws).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from ..report.schema import Note
from .design import most_telling
from .game import Game
from .options import Options
from .result import MethodScores, largest_share
from .set_process import Kernel, SetProcess, shapley_of_one, signs
from .shapley import over_draws
from .units import AttributionError

MOST_SAMPLES = 4096
FIRST_ROUND = 4
"""Pairs of each size in the first round, at most."""
GROWTH = 1.5
"""Every round brings the evaluations to so many times what they were."""
ROUNDING = 1e-12
"""Largest part of the largest value that a line may miss and be exact."""
MOST_IN_PROCESS = 1024
"""Pairs that the process is given, at most: the time grows with their cube."""
EXPECTED_DECAY = 1.0
"""Of the kernel that sets are chosen under: units interact more than the learnt kernel expects at
first, so that all sizes are chosen.
"""
CANDIDATES, MOST_CANDIDATES = 4, 1024
"""Drawn for each pair that is evaluated, and at most so many more than are evaluated."""

Masks = Bool[np.ndarray, "rows units"]


@dataclass
class Stratum:
    """The pairs of a set and its complement with so many units in the smaller one.

    Args:
        size: units of the smaller set.
        taken: which are in the sample, as the bytes of the smaller set.
    """

    units: int
    size: int
    taken: set[bytes] = field(default_factory=set)

    @property
    def n_pairs(self) -> int:
        sets = math.comb(self.units, self.size)
        return sets // 2 if 2 * self.size == self.units else sets

    @property
    def n_left(self) -> int:
        """Pairs that are not in the sample."""
        return self.n_pairs - len(self.taken)

    @property
    def leverage(self) -> int:
        """The number of sizes that it stands for."""
        return 1 if 2 * self.size == self.units else 2

    def draw(self, pairs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """So many different sets that are not in the sample."""
        drawn = set(self.taken)
        while len(drawn) < len(self.taken) + pairs:
            mask = np.zeros(self.units, dtype=bool)
            mask[rng.permutation(self.units)[: self.size]] = True
            if 2 * self.size == self.units and not mask[0]:
                mask = ~mask  # of the two halves the one with the first unit names the pair
            if mask.tobytes() not in drawn:
                drawn.add(mask.tobytes())
                yield mask


class Sample:
    """Pairs of sets: the first are chosen for a process, the others drawn by leverage."""

    def __init__(self, units: int, seed: int) -> None:
        self.units = units
        self.rng = np.random.default_rng(seed)
        self.strata = [Stratum(units, size) for size in range(1, units // 2 + 1)]
        self.firsts: Masks = np.zeros((0, units), dtype=bool)
        """The smaller set of each pair; the other one is its complement."""

    @property
    def n_left(self) -> int:
        """Pairs that are not in the sample."""
        return sum(stratum.n_left for stratum in self.strata)

    @property
    def for_process(self) -> Masks:
        """Of the pairs that the process is given."""
        return self.firsts[:MOST_IN_PROCESS]

    @property
    def rest(self) -> Masks:
        """Of the pairs that the process is not given."""
        return self.firsts[MOST_IN_PROCESS:]

    def grow(self, pairs: int) -> Masks:
        """So many more pairs, or all that are left:
        a set and its complement in neighbouring rows.
        """
        chosen = self._chosen(min(pairs, MOST_IN_PROCESS - len(self.firsts)))
        added = np.concatenate([chosen, self._drawn(pairs - len(chosen))])
        return np.stack([added, ~added], 1).reshape(-1, self.units)

    def _chosen(self, pairs: int) -> Masks:
        """The most telling pairs of a draw."""
        if pairs <= 0:
            return self.firsts[:0]
        candidates = self._draw(min(CANDIDATES * pairs, pairs + MOST_CANDIDATES))
        known = np.vstack([np.ones((1, self.units), dtype=bool), self.firsts])
        kernel = Kernel.first(self.units, EXPECTED_DECAY)
        chosen = candidates[most_telling(kernel, known, candidates, pairs)]
        self._take(chosen)
        return chosen

    def _drawn(self, pairs: int) -> Masks:
        """Pairs drawn by leverage."""
        drawn = self.rng.permutation(self._draw(pairs))[:pairs]
        self._take(drawn)
        return drawn

    def _take(self, firsts: Masks) -> None:
        self.firsts = np.concatenate([self.firsts, firsts])
        for mask in firsts:
            self.strata[mask.sum() - 1].taken.add(mask.tobytes())

    def _draw(self, pairs: int) -> Masks:
        """About so many different sets that are not in the sample, by leverage."""
        drawn: list[np.ndarray] = []
        for stratum, number in zip(self.strata, self._numbers(pairs), strict=True):
            drawn += stratum.draw(number, self.rng)
        return np.array(drawn, dtype=bool).reshape(-1, self.units)

    def _numbers(self, pairs: int) -> list[int]:
        """Of each size, rounded up."""
        numbers = [0] * len(self.strata)
        open_sizes = list(range(len(self.strata)))
        left = pairs
        while open_sizes and left > 0:
            total = sum(self.strata[n].leverage for n in open_sizes)
            each = {n: math.ceil(left * self.strata[n].leverage / total) for n in open_sizes}
            full = [n for n in open_sizes if self.strata[n].n_left <= each[n]]
            if not full:
                for n in open_sizes:
                    numbers[n] = each[n]
                break
            # Sizes with few sets are taken whole; the others share what that leaves.
            for n in full:
                numbers[n] = self.strata[n].n_left
                left -= numbers[n]
                open_sizes.remove(n)
        return numbers


@dataclass(frozen=True)
class Estimate:
    """Shapley values after some rounds.

    Args:
        scores: one for each unit.
        errors: their standard errors.
        weights: what the odd part at each pair, and last at the whole text, adds to each score.
        explained: the share of the values' variance that the surrogate predicts of evaluations it
            has not seen.
    """

    scores: Float[np.ndarray, " units"]
    errors: Float[np.ndarray, " units"]
    weights: Float[np.ndarray, "pairs_and_whole units"]
    explained: float

    @property
    def share(self) -> float:
        """The largest standard error over the largest score."""
        return largest_share(self.scores, self.errors)


def estimated(
    sample: Sample, odd: Float[np.ndarray, " pairs_and_whole"], start: Kernel | None = None
) -> tuple[Estimate, Kernel]:
    """Shapley values of all evaluations so far, and the surrogate's kernel.

    Args:
        odd: the game's odd part at each pair, and last at the whole text.
    """
    known, rest = odd[:-1][:MOST_IN_PROCESS], odd[:-1][MOST_IN_PROCESS:]
    process = SetProcess.fit(sample.for_process, known, float(odd[-1]), start)
    power = float((known**2).mean())
    explained = max(0.0, 1 - float((process.residuals**2).mean()) / power) if power else 0.0
    weights, errors = process.to_shapley, process.errors
    line = linear(sample, odd)
    if line is not None:
        weights, errors = line, np.zeros(sample.units)
    elif not sample.n_left:
        # Every set is known: the Shapley values are those of each by itself.
        whole = np.ones((1, sample.units), dtype=bool)
        weights = shapley_of_one(np.concatenate([sample.firsts, whole]))
        errors = np.zeros(sample.units)
    elif len(rest):
        weights, errors = corrected(sample, process, rest)
    return Estimate(odd @ weights, errors, weights, explained), process.kernel


def linear(
    sample: Sample, odd: Float[np.ndarray, " pairs_and_whole"]
) -> Float[np.ndarray, "pairs_and_whole units"] | None:
    """The weights of all values in the scores where each unit adds the same to every set but for
    rounding, None of other games.
    """
    whole = np.ones((1, sample.units), dtype=bool)
    z = signs(np.concatenate([sample.firsts, whole])) / 2
    solved = np.linalg.pinv(z)
    missed = odd - z @ (solved @ odd)
    return solved.T if np.abs(missed).max() <= ROUNDING * np.abs(odd).max() else None


def corrected(
    sample: Sample, process: SetProcess, rest: Float[np.ndarray, " rest"]
) -> tuple[Float[np.ndarray, "pairs_and_whole units"], Float[np.ndarray, " units"]]:
    """The weights of all values in the scores, and the standard errors, where pairs were drawn that
    the process was not given.

    Args:
        rest: the odd part at these.
    """
    of_one = shapley_of_one(sample.rest)
    missed = (rest - process.predict(sample.rest))[:, None] * of_one
    drawn_sizes, known_sizes = sample.rest.sum(1), sample.for_process.sum(1)
    variance = np.zeros(sample.units)
    for stratum in sample.strata:
        of_size = drawn_sizes == stratum.size
        n, stands_for = (
            int(of_size.sum()),
            stratum.n_pairs - int((known_sizes == stratum.size).sum()),
        )
        of_one[of_size] *= stands_for / max(n, 1)
        if n < stands_for:
            # Of one pair no spread is known, and of none no mean.
            spread = missed[of_size].var(0, ddof=1) if n > 1 else np.inf
            variance += stands_for**2 * (1 - n / stands_for) * spread / max(n, 1)
    if not np.isfinite(variance).all():
        unused = np.zeros((len(rest), sample.units))
        weights = np.concatenate([process.to_shapley[:-1], unused, process.to_shapley[-1:]])
        return weights, process.errors
    # Two independent errors: the process's, and the draw's where all that it missed is added.
    both = (process.errors**2).sum() + variance.sum()
    part = float((process.errors**2).sum() / both) if both else 1.0
    added = part * of_one
    of_process = process.to_shapley - process.predictor(sample.rest).T @ added
    weights = np.concatenate([of_process[:-1], added, of_process[-1:]])
    return weights, np.hypot((1 - part) * process.errors, part * np.sqrt(variance))


def leverage(game: Game, options: Options) -> MethodScores:
    """Shapley values with a standard error below a share of the largest score,
    or as many samples as are allowed.
    """
    ends = game.each(np.array([[True] * game.n, [False] * game.n]))  # draw end
    value, empties = float(ends[:, 0].mean()), ends[:, 1]
    empty = float(empties.mean())
    if game.n == 1:
        scores, errors = over_draws(value - empties[:, None])
        return MethodScores(scores, value, errors, empty, figures={"removal": game.removal})
    wanted = options.asked_error
    most = (MOST_SAMPLES if options.samples is None else options.samples) // 2
    if most < game.n:
        raise AttributionError(
            f"leverage-shap: expected at least {2 * game.n} samples for {game.n} units, "
            f"got {2 * most}"
        )
    sample = Sample(game.n, options.seed)
    odd = np.zeros((game.draws, 0))
    whole = (ends[:, :1] - ends[:, 1:]) / 2
    kernel: Kernel | None = None
    # Rounds are there to stop early: without an error that is asked for, one batch holds all.
    new = min(most, FIRST_ROUND * len(sample.strata) + game.n) if wanted else most
    rounds = 0
    while True:
        values = game.each(sample.grow(new))
        odd = np.concatenate([odd, (values[:, 0::2] - values[:, 1::2]) / 2], 1)
        rounds += 1
        each = np.concatenate([odd, whole], 1)  # draw pair_or_whole
        estimate, kernel = estimated(sample, each.mean(0), kernel)
        pairs = len(sample.firsts)
        if not sample.n_left or pairs >= most or estimate.share <= wanted:
            break
        new = min(most - pairs, math.ceil((GROWTH - 1) * pairs))
    # Two independent errors: of the sets that were chosen, and of what took the removed units'
    # place where that is drawn.
    errors = np.hypot(estimate.errors, over_draws(each @ estimate.weights)[1])
    scores = estimate.scores
    figures = {
        "removal": game.removal,
        "samples": 2 * len(sample.firsts),
        "rounds": rounds,
        "surrogate": estimate.explained,
        "error": estimate.share,
        "asked_error": wanted,
    }
    text = (
        f"with {2 * len(sample.firsts)} changed texts, the largest standard error is "
        f"{estimate.share:.1%} of the largest score; a surrogate predicts "
        f"{estimate.explained:.0%} of the variance of unseen texts"
    )
    notes = [Note(kind="info", text=text)]
    if wanted and estimate.share > wanted:
        short = (
            f"the requested standard error of {wanted:.1%} was not reached with "
            f"{2 * len(sample.firsts)} texts: give more --samples"
        )
        notes.append(Note(kind="warning", text=short))
    return MethodScores(scores, value, errors, empty, notes=tuple(notes), figures=figures)
