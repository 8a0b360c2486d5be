r"""Effects tested against 0. The interval holds the values that the tests do not reject, so that it
and p never disagree.

A value is rejected if all of these reject it; p is their largest, the interval reaches from their
lowest to their
highest end:

=====================  =============================================================================
sign flips             exact if the clusters' sums are symmetric around the value
studentised bootstrap  right to second order for skewed effects
Student's t            for heavy tails and uneven clusters
Newcombe's interval    in addition, of values -1, 0 and 1; of single items it takes the places of
                       the last two
=====================  =============================================================================

**Sign flips inverted.** The clusters F whose signs are turned give a sum at least as large as the
sample's where :math:`\sum_{s\in F} (y_s - \theta m_s) \le 0`, so :math:`\theta` is not rejected
from below while enough of the ratios

.. math:: r_F = \sum_{s \in F} y_s \Big/ \sum_{s \in F} m_s

are at most :math:`\theta`: the ends of the interval are order statistics of the ratios of all
subsets, or of drawn ones (Hartigan's typical values). Two of the :math:`2^n` assignments of signs
are as extreme as any sample's own: below `TESTABLE` clusters no effect, however large, can be
rejected at 5%. There is then no interval and no p.

Source: Fisher 1935, section 21; Hartigan 1969 (typical values); Efron & Tibshirani 1993, section
12.5; Newcombe 1998.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .ratios import Ratios
from .resampling import LEVEL, REPLICATES, TESTABLE, ClusterBootstrap, Interval
from .significance import ALPHA, EXACT, check_finite, has_all_signs, holm, tail_p

BLOCK = 128
"""Columns whose resamples are held at a time."""
ROWS = 2_000
"""Assignments of signs that are multiplied at a time."""
FAR = 20
"""Flips as extreme as the sample below which more of them are drawn, if more are asked for."""
Ends = tuple[float, float]


@dataclass(frozen=True)
class Effects:
    """Effects, a column each, with their 95% intervals and two-sided p of being 0;
    all NaN where they cannot be tested.
    """

    value: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    p: Float[np.ndarray, " k"]

    def interval(self, column: int = 0) -> Interval:
        """One effect with its interval."""
        return Interval(
            float(self.value[column]), float(self.low[column]), float(self.high[column])
        )


def mean_p(
    values: Float[np.ndarray, "n k"],
    clusters: Int[np.ndarray, " n"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[float]:
    """The p of `mean_effects` alone.

    Args:
        clusters: the cluster of each row; None: each row is one.
        replicates: sign flips; resamples are at most as many.
    """
    groups = np.arange(len(values)) if clusters is None else clusters
    boot = ClusterBootstrap(groups, min(replicates, REPLICATES), seed)
    return mean_effects(values, boot, replicates, seed).p.tolist()


def mean_effects(
    values: Float[np.ndarray, "n k"],
    boot: ClusterBootstrap,
    flips: int = REPLICATES,
    seed: int = 0,
    zeros_are_answers: Bool[np.ndarray, " k"] | None = None,
) -> Effects:
    """Means of columns tested against 0.

    Args:
        values: an effect a column; all of values -1, 0 and 1 are differences of two answers.
        boot: the clusters, and their resamples.
        flips: sign flips, of which effects far from 0 have as many, all others at most
            `REPLICATES`.
        zeros_are_answers: columns whose zeros, too, are differences of two answers, which may
            differ in other items; by default none: an effect that is 0 in all items is 0.

    Raises:
        InputError: values that are not finite.
    """
    check_finite("values", values)
    k = values.shape[1]
    size = boot.by_cluster(np.ones((len(values), 1)))
    value = np.empty(k)
    low, high, p = np.full(k, np.nan), np.full(k, np.nan), np.full(k, np.nan)
    is_testable = boot.n_clusters >= TESTABLE
    signs = _Signs.of(boot.n_clusters, min(flips, REPLICATES), seed) if is_testable else None
    for start in range(0, k, BLOCK):
        part = slice(start, start + BLOCK)
        ratios = Ratios(boot.by_cluster(values[:, part]), size)
        value[part] = ratios.value
        if signs is not None:
            studentised = boot.studentised_ratios(ratios)
            lowest, highest, of_flips = signs.test(ratios, flips)
            ends = studentised.ends()
            low[part], high[part] = np.minimum(lowest, ends[0]), np.maximum(highest, ends[1])
            p[part] = np.maximum(of_flips, studentised.p())
            are_answers = _are_answers(values[:, part])
            if zeros_are_answers is not None:
                are_answers |= zeros_are_answers[part] & ~values[:, part].any(axis=0)
            (answers,) = np.nonzero(are_answers)
            if len(answers):
                places = start + answers
                if len(values) == boot.n_clusters:
                    # Of single answers symmetry is the null hypothesis itself: flips are exact.
                    low[places], high[places], p[places] = np.inf, -np.inf, of_flips[answers]
                ends = _with_newcombe(values[:, places], boot, low[places], high[places], p[places])
                low[places], high[places], p[places] = ends
    return Effects(value, low, high, p)


def _are_answers(values: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, " k"]:
    """Columns of -1, 0 and 1, but those of zeros."""
    are_whole = np.isin(values, (-1.0, 0.0, 1.0)).all(axis=0)
    return np.asarray(are_whole & values.any(axis=0))


def _with_newcombe(
    values: Float[np.ndarray, "n k"],
    boot: ClusterBootstrap,
    low: Float[np.ndarray, " k"],
    high: Float[np.ndarray, " k"],
    p: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, " k"], ...]:
    """Ends and p of other tests, with those of Newcombe's interval of differences of answers."""
    lows, highs = boot.answers_ends(values, LEVEL, "difference")
    p = p.copy()
    for j, ends in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):

        def ends_at(level: float, column: np.ndarray = values[:, [j]]) -> Ends:
            (one,), (other,) = boot.answers_ends(column, level, "difference")
            return float(one), float(other)

        lows[j], highs[j], p[j] = agreed(ends, float(p[j]), ends_at)
    return np.minimum(lows, low), np.maximum(highs, high), p


def agreed(ends: Ends, p: float, ends_at: Callable[[float], Ends]) -> tuple[float, float, float]:
    """A 95% interval and the p of another test of 0 made to agree: 0 is rejected if both reject it.

    Where the test does not reject 0 the interval is made to hold it; where the interval holds 0 and
    the test rejects it, p is that of the interval: 1 less the level at which it just holds 0.

    Args:
        ends: of the interval.
        p: of the test.
        ends_at: the interval's ends at another level.
    """
    low, high = ends
    if p >= ALPHA:
        return min(low, 0.0), max(high, 0.0), p
    if low > 0 or high < 0:
        return low, high, p
    outside, inside = 0.0, LEVEL
    for _ in range(30):
        level = (outside + inside) / 2
        low_at, high_at = ends_at(level)
        if low_at > 0 or high_at < 0:
            outside = level
        else:
            inside = level
    return low, high, max(ALPHA, 1 - inside)


@dataclass(frozen=True)
class _Signs:
    """Assignments of signs to clusters, each counted together with its opposite.

    Attributes:
        turned: the clusters with a minus, a row an assignment.
        added: 1 where assignments are drawn (the sample's own is counted too), 0 where all are
            there.
        seed: of further draws.
    """

    turned: Bool[np.ndarray, "r s"]
    added: int
    seed: int

    @classmethod
    def of(cls, n_clusters: int, flips: int, seed: int) -> _Signs:
        if has_all_signs(n_clusters, flips):
            # The opposite of each of these turns cluster 0.
            numbers = np.arange(2 ** (n_clusters - 1)) << 1
            return cls((numbers[:, None] >> np.arange(n_clusters)) & 1 == 1, 0, seed)
        drawn = np.random.default_rng(seed).random((flips, n_clusters)) < 0.5
        return cls(drawn, 1, seed)

    @property
    def _least(self) -> int:
        """How many ratios on a side of a value leave it unrejected at 5%."""
        total = self.added + len(self.turned)
        return math.ceil(ALPHA * total - self.added)

    def test(self, ratios: Ratios, flips: int) -> tuple[Float[np.ndarray, " k"], ...]:
        """The lowest and the highest ratio that is not rejected, and the two-sided p of 0.

        Args:
            flips: how many draws ratios far from 0 have.
        """
        sums = _sums_of(self.turned, ratios.above)
        sizes = np.broadcast_to(_sums_of(self.turned, ratios.below), sums.shape)
        low, high = self._ends(sums, sizes)
        return low, high, self._p(sums, ratios.above, flips)

    def _ends(
        self, sums: Float[np.ndarray, "r k"], sizes: Float[np.ndarray, "r k"]
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        # Subsets without a size are on the one side or the other of every ratio; the empty one is
        # on both.
        typical = np.where(sums > 0, np.inf, -np.inf)
        np.divide(sums, sizes, out=typical, where=sizes > 0)
        n_on_both = ((sizes == 0) & (sums == 0)).sum(0)
        least, columns = self._least, np.arange(sums.shape[1])
        # Those on both sides are ordered as the lowest, and count as the highest as well.
        last = len(typical) - 1
        from_above = np.clip(last + 1 - least + n_on_both, 0, last)
        typical.partition([least - 1, *np.unique(from_above)], axis=0)
        high = np.where(n_on_both >= least, np.inf, typical[from_above, columns])
        return typical[least - 1], high

    def _p(
        self, sums: Float[np.ndarray, "r k"], values: Float[np.ndarray, "s k"], flips: int
    ) -> Float[np.ndarray, " k"]:
        count, drawn = _as_extreme(sums, values), len(self.turned)
        p = (self.added + count) / (self.added + drawn)
        far = np.flatnonzero(count < FAR)
        if self.added and len(far):
            for further_flips in self._further(flips - drawn):
                count[far] += _as_extreme(_sums_of(further_flips, values[:, far]), values[:, far])
                drawn += len(further_flips)
            p[far] = (1 + count[far]) / (1 + drawn)
            p = np.minimum(p, tail_p(values))
        return np.minimum(1.0, p)

    def _further(self, flips: int) -> Iterator[Bool[np.ndarray, "r s"]]:
        rng = np.random.default_rng((self.seed, 1))
        for start in range(0, flips, ROWS):
            yield rng.random((min(ROWS, flips - start), self.turned.shape[1])) < 0.5


def _sums_of(
    turned: Bool[np.ndarray, "r s"], values: Float[np.ndarray, "s k"]
) -> Float[np.ndarray, "r2 k"]:
    """Sums over the clusters that are turned, and below them those over all others;
    0 where they are but for rounding.
    """
    rows = len(turned)
    sums = np.empty((2 * rows, values.shape[1]))
    for start in range(0, rows, ROWS):
        end = min(rows, start + ROWS)
        np.matmul(turned[start:end].astype(float), values, out=sums[start:end])
    np.subtract(values.sum(0), sums[:rows], out=sums[rows:])
    return _without_rounding(sums, values)


def _without_rounding(
    sums: Float[np.ndarray, "*r k"], values: Float[np.ndarray, "s k"]
) -> Float[np.ndarray, "*r k"]:
    sums[np.abs(sums) <= EXACT * np.abs(values).sum(0)] = 0.0
    return sums


def _as_extreme(
    sums: Float[np.ndarray, "r k"], values: Float[np.ndarray, "s k"]
) -> Int[np.ndarray, " k"]:
    """Assignments and opposites that leave a sum as far on the sample's side:
    what they turn takes nothing away from it.
    """
    total = _without_rounding(values.sum(0), values)
    return np.where(total > 0, (sums <= 0).sum(0), (sums >= 0).sum(0))


@dataclass(frozen=True)
class Comparison:
    """One pair of conditions: their difference with its interval, its p,
    and that p corrected over all pairs (NaN: no test).
    """

    a: int
    b: int
    difference: Interval
    p: float
    p_holm: float


def compare_pairs(
    columns: Float[np.ndarray, "n k"], boot: ClusterBootstrap, scale: float = 1.0, seed: int = 0
) -> list[Comparison]:
    r"""All pairs of conditions on the same items, tested as `mean_effects` are; p is also
    Holm-corrected over the pairs.

    Args:
        columns: of each condition and item what its score is a mean of: 1 for a right answer.
        scale: what the means are divided by. For :math:`R^2` columns are :math:`-(y - \hat y)^2`
            and the scale is the variance of y, which is taken as it is: two :math:`R^2` are equal
            where the squared errors are.

    Returns:
        For each pair a < b the difference b - a.

    Raises:
        InputError: values that are not finite.
    """
    pairs = list(itertools.combinations(range(columns.shape[1]), 2))
    intervals: list[Interval] = []
    p: list[float] = []
    for start in range(0, len(pairs), BLOCK):
        first, second = np.array(pairs[start : start + BLOCK]).T
        effects = mean_effects(columns[:, second] - columns[:, first], boot, seed=seed)
        for ends in zip(
            effects.value / scale, effects.low / scale, effects.high / scale, strict=True
        ):
            intervals.append(Interval(*(float(end) for end in ends)))
        p += effects.p.tolist()
    return [
        Comparison(a, b, interval, one, adjusted)
        for (a, b), interval, one, adjusted in zip(pairs, intervals, p, holm(p), strict=True)
    ]
