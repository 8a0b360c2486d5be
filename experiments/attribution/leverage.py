"""Shapley values to a stated error: paired leverage-score sampling, adjusted by a surrogate of all
evaluations so far.

    phi(v) = phi(f) + phi(v - f)

f is a Gaussian process over sets (`set_process`), whose Shapley values are exact; those of what it
misses come from the weighted regression that defines them, on sets drawn by their leverage: every
size as often, a set with its complement, none twice. Each size is a stratum of known weight. What f
misses of a set is what the other evaluations miss of it, so that f cannot hide its errors by
passing through the points. Rounds go on until the standard error is small enough.

Source: Musco and Witter 2025, algorithm 1 (leverage scores, without replacement); Witter et al.
2025 (regression adjustment).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from ..report.schema import Note
from .game import Game
from .jackknife import jackknife
from .options import Options
from .result import Found, largest_share
from .set_process import Kernel, SetProcess, signs
from .shapley import kernel_weight, over_draws
from .units import AttributionError

MOST_SAMPLES = 4096
FIRST_ROUND = 4
"""Pairs of each size in the first round, at most."""
GROWTH = 1.5
"""Every round brings the evaluations to so many times what they were."""
MOST_IN_PROCESS = 1024
"""Pairs that the process is fitted on, at most: the time grows with their cube."""
CLEARLY = 0.7
"""What the surrogate must leave of the variance."""
MOST_PULLED = 0.05
"""Least share of a pair's residual that its own pull on the line is taken to leave."""

Masks = Bool[np.ndarray, "rows units"]


@dataclass
class Stratum:
    """The pairs of a set and its complement with so many units in the smaller one.

    Args:
        size: units of the smaller set.
        n_pairs: how many such pairs there are.
        drawn: which were drawn, as the bytes of the smaller set.
    """

    units: int
    size: int
    drawn: set[bytes] = field(default_factory=set)

    @property
    def n_pairs(self) -> int:
        sets = math.comb(self.units, self.size)
        return sets // 2 if 2 * self.size == self.units else sets

    @property
    def weight(self) -> float:
        """The kernel's weight of one set."""
        return kernel_weight(self.units, self.size)

    def draw(self, pairs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Sets that were not drawn before, as many as there are."""
        wanted = min(pairs, self.n_pairs - len(self.drawn))
        while wanted:
            mask = np.zeros(self.units, dtype=bool)
            mask[rng.permutation(self.units)[: self.size]] = True
            if 2 * self.size == self.units and not mask[0]:
                mask = ~mask  # of the two halves the one with the first unit names the pair
            if mask.tobytes() in self.drawn:
                continue
            self.drawn.add(mask.tobytes())
            wanted -= 1
            yield mask


@dataclass(frozen=True)
class Estimate:
    """Shapley values after some rounds.

    Args:
        scores: one for each unit.
        errors: their standard errors.
        explained: the share of the values' variance that the surrogate predicts of evaluations it
            has not seen.
    """

    scores: Float[np.ndarray, " units"]
    errors: Float[np.ndarray, " units"]
    explained: float

    @property
    def share(self) -> float:
        """The largest standard error over the largest score."""
        return largest_share(self.scores, self.errors)


class Sample:
    """Pairs of sets drawn by leverage, a few more in every round."""

    def __init__(self, units: int, seed: int) -> None:
        self.units = units
        self.rng = np.random.default_rng(seed)
        self.strata = [Stratum(units, size) for size in range(1, units // 2 + 1)]
        self.masks: Masks = np.zeros((0, units), dtype=bool)
        self.stratum_of = np.zeros(0, dtype=int)  # of each pair

    def grow(self, pairs: int) -> Masks:
        """So many more pairs, or all that are left:
        a set and its complement in neighbouring rows.
        """
        new: list[np.ndarray] = []
        numbers: list[int] = []
        targets = self._targets(len(self.stratum_of) + pairs)
        for number, (stratum, target) in enumerate(zip(self.strata, targets, strict=True)):
            for mask in stratum.draw(target - len(stratum.drawn), self.rng):
                new += [mask, ~mask]
                numbers.append(number)
        added = np.array(new, dtype=bool).reshape(-1, self.units)
        self.masks = np.concatenate([self.masks, added])
        self.stratum_of = np.append(self.stratum_of, numbers).astype(int)
        return added

    def _targets(self, pairs: int) -> list[int]:
        """Pairs of each size: the leverage of a size is the number of sizes it stands for, 2,
        or 1 in the middle.
        """
        targets = [0] * len(self.strata)
        open_sizes = list(range(len(self.strata)))
        left = pairs
        while open_sizes and left > 0:
            share = {n: 1 if 2 * self.strata[n].size == self.units else 2 for n in open_sizes}
            total = sum(share.values())
            each = {n: math.ceil(left * share[n] / total) for n in open_sizes}
            full = [n for n in open_sizes if self.strata[n].n_pairs <= each[n]]
            if not full:
                for n in open_sizes:
                    targets[n] = each[n]
                break
            # Sizes with few sets are taken whole; the others share what that leaves.
            for n in full:
                targets[n] = self.strata[n].n_pairs
                left -= targets[n]
                open_sizes.remove(n)
        return [max(t, len(s.drawn)) for t, s in zip(targets, self.strata, strict=True)]

    @property
    def firsts(self) -> Masks:
        """The drawn set of each pair; the other one is its complement."""
        return self.masks[0::2]

    @property
    def is_complete(self) -> bool:
        """Whether every set was evaluated."""
        return all(len(stratum.drawn) == stratum.n_pairs for stratum in self.strata)

    @property
    def weights(self) -> Float[np.ndarray, " pairs"]:
        """Of each pair: the kernel's weight, times how many pairs of its size it stands for."""
        of_stratum = [s.weight * s.n_pairs / max(len(s.drawn), 1) for s in self.strata]
        return np.array(of_stratum)[self.stratum_of]

    def regression(
        self, values: Float[np.ndarray, " pairs"], total: float
    ) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
        """The weighted regression of an odd game on which units are there, under sum(phi) = total;
        its standard errors.

        min_phi sum_p w_p (h_p - z_p.phi / 2)^2
        """
        z = signs(self.firsts) / 2
        # The last unit's share is what the others leave of the total.
        X, y = z[:, :-1] - z[:, -1:], values - z[:, -1] * total
        weighted = X * self.weights[:, None]
        solved = np.linalg.pinv(weighted.T @ X) @ weighted.T
        beta = solved @ y
        scores = np.append(beta, total - beta.sum())
        # What each pair pulls, as if it had not been there (the jackknife, HC3): few pairs fit
        # their own line too well.
        pulled = (X * solved.T).sum(1)
        residuals = (y - X @ beta) / np.maximum(1 - pulled, MOST_PULLED)
        parts = np.vstack([solved, -solved.sum(0)]) * residuals
        # Each size by itself, without replacement: a size of which every set is there adds no
        # error.
        variance = np.zeros(self.units)
        for number, stratum in enumerate(self.strata):
            of_size = parts[:, self.stratum_of == number]
            n = of_size.shape[1]
            if 1 < n < stratum.n_pairs:
                centred = of_size - of_size.mean(1, keepdims=True)
                variance += (1 - n / stratum.n_pairs) * (centred**2).sum(1) * n / (n - 1)
        return scores, np.sqrt(variance)


def estimated(
    sample: Sample,
    values: Float[np.ndarray, " rows"],
    empty: float,
    full: float,
    start: Kernel | None = None,
) -> tuple[Estimate, Kernel | None]:
    """Shapley values of all evaluations so far, with the surrogate where it lowers the error,
    and the surrogate's kernel.
    """
    odd = (values[0::2] - values[1::2]) / 2
    plain = Estimate(*sample.regression(odd, full - empty), explained=0.0)
    spread = float((odd**2).mean())
    if spread == 0 or len(odd) > MOST_IN_PROCESS:
        return plain, start
    process = SetProcess.fit(sample.firsts, odd, start)
    predicted = process.predict(np.ones((1, sample.units), dtype=bool))
    missed, alone = sample.regression(process.residuals, full - empty - 2 * float(predicted[0]))
    # What the surrogate misses is no independent draw, and neither error is known well.
    errors = np.maximum(alone, jackknife(sample, process, full - empty))
    explained = max(0.0, 1 - float((process.residuals**2).mean()) / spread)
    adjusted = Estimate(process.shapley() + missed, errors, explained)
    # Clearly better: of two estimates as good as each other, the smaller error is the luckier one.
    is_better = (adjusted.errors**2).sum() < CLEARLY * (plain.errors**2).sum()
    return (adjusted if is_better else plain), process.kernel


def leverage(game: Game, options: Options) -> Found:
    """Shapley values with a standard error below a share of the largest score,
    or as many samples as are allowed.
    """
    ends = game.each(np.array([[True] * game.n, [False] * game.n]))  # draw end
    value, empties = float(ends[:, 0].mean()), ends[:, 1]
    empty = float(empties.mean())
    if game.n == 1:
        scores, errors = over_draws(value - empties[:, None])
        return Found(scores, value, errors, empty, more={"removal": game.removal})
    wanted = options.asked_error
    most = (MOST_SAMPLES if options.samples is None else options.samples) // 2
    if most < game.n:
        raise AttributionError(
            f"leverage-shap: expected at least {2 * game.n} samples for {game.n} units, "
            f"got {2 * most}"
        )
    sample = Sample(game.n, options.seed)
    each = np.zeros((game.draws, 0))
    kernel: Kernel | None = None
    # Rounds are there to stop early: without an error that is asked for, one batch holds all.
    new = min(most, FIRST_ROUND * len(sample.strata) + game.n) if wanted else most
    rounds = 0
    while True:
        each = np.concatenate([each, game.each(sample.grow(new))], 1)
        rounds += 1
        estimate, kernel = estimated(sample, each.mean(0), empty, value, kernel)
        pairs = len(sample.stratum_of)
        if sample.is_complete or pairs >= most or estimate.share <= wanted:
            break
        new = min(most - pairs, math.ceil((GROWTH - 1) * pairs))
    scores, errors = estimate.scores, estimate.errors
    if len(each) > 1:  # the removal is drawn
        of_draws = []
        for values, of_empty in zip(each, empties.tolist(), strict=True):
            odd = (values[0::2] - values[1::2]) / 2
            of_draws.append(sample.regression(odd, value - of_empty)[0])
        # Two independent errors: of the sets that were drawn, and of what took the removed units'
        # place.
        errors = np.hypot(errors, over_draws(np.stack(of_draws))[1])
    figures = {
        "removal": game.removal,
        "samples": len(sample.masks),
        "rounds": rounds,
        "surrogate": estimate.explained,
        "error": estimate.share,
        "asked_error": wanted,
    }
    text = (
        f"with {len(sample.masks)} changed texts, the largest standard error is "
        f"{estimate.share:.1%} of the largest score; a surrogate predicts "
        f"{estimate.explained:.0%} of the variance of unseen texts"
    )
    notes = [Note(kind="info", text=text)]
    if wanted and estimate.share > wanted:
        short = (
            f"the requested standard error of {wanted:.1%} was not reached with "
            f"{len(sample.masks)} texts: give more --samples"
        )
        notes.append(Note(kind="warning", text=short))
    return Found(scores, value, errors, empty, notes=tuple(notes), more=figures)
