r"""Intervals that resample whole clusters (sentences), not words: the words of a sentence are not
independent.

Every statistic is a function of sums over items, so one matrix of multinomial weights (replicates x
clusters) serves them all: the resampled sums of any columns are one product,

.. math:: S^*_{bk} = \sum_s W_{bs} \sum_{i \in s} v_{ik}, \qquad W_{b\cdot} \sim
    \mathrm{Multinomial}(S, 1/S).

Below `FEW` clusters percentiles of the replicates are too narrow, and the interval is made in
another way:

=====================  =============================================================================
one cluster            none: both ends are NaN
a share                Wilson's, with the effective number of items and Student's t; never of width
                       0
values -1, 0, 1        a difference of two shares, by the recovery of variances from their Wilson
                       intervals
a mean, a ratio        the wider of the studentised bootstrap, for skewed values, and Student's t,
                       for heavy tails and uneven clusters; t alone below `ratios.STUDENT` clusters,
                       where resamples repeat each other
any other statistic    the bias-corrected and accelerated bootstrap, at levels widened by Student's
                       t
=====================  =============================================================================

Errors are the jackknife's, and Student's t has the degrees of freedom of as many clusters of one
size (`ratios`): a mean over clusters of 1 to 12 items is then covered as one over equal clusters.

Source: Efron & Tibshirani 1993, chapters 6, 11 to 14; Davison & Hinkley 1997, sections 3.8 and 5.2;
Newcombe 1998; Hesterberg 2015, section 3.5 (levels widened by Student's t); Kish 1965.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from layerscope.errors import InputError

from .distributions import normal_cdf, normal_quantile, t_quantile
from .ratios import LEVEL as LEVEL
from .ratios import Ratios, Studentised, effective_number, student

REPLICATES = 10_000
FEW = 500
"""Clusters below which intervals are not percentiles of the replicates."""
Kind = Literal["share", "difference"]
"""What values of -1, 0 and 1 are."""
TESTABLE = 6
"""Clusters from which on a difference can be significant:
two of the 2^n assignments of signs are as extreme as any.
"""
WARNED = 20
"""Clusters below which 95% intervals cover skewed effects in about 90%.

Of lognormal values (``benchmarks/coverage.py --only mean uneven``, 1,200 studies each): of equal
clusters .92 at 8 to 15 and .947 at 20; of clusters of 1 to 12 items .885 to .92 at 6 to 15, .92
at 20 to 30 and .94 at 40.
"""
WARNED_UNEQUAL, EQUAL = 40, 0.9
"""The same of clusters of unequal size: their effective number is below this share of them."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; the ends are NaN where there is none."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """Resamples whole clusters; every statistic of one test set shares the same draws, so
    differences are paired.

    Args:
        clusters: the cluster (sentence) of each item.
        replicates: how many resamples.
        seed: of the draws.

    >>> boot = ClusterBootstrap(np.array([0, 0, 1, 1, 2]), replicates=1000)
    >>> boot.mean(np.array([1.0, 1, 0, 1, 1])).value
    0.8
    """

    def __init__(
        self, clusters: Int[np.ndarray, " n"], replicates: int = REPLICATES, seed: int = 0
    ) -> None:
        if not len(clusters):
            raise InputError("expected at least one item to resample, got none")
        _, self._index = np.unique(clusters, return_inverse=True)
        self.n_clusters = int(self._index.max()) + 1
        self._weights = _weights(self.n_clusters, replicates, seed)

    def by_cluster(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "s k"]:
        """The sum of each column in each cluster."""
        sums = np.zeros((self.n_clusters, values.shape[1]))
        np.add.at(sums, self._index, values)
        return sums

    def sums(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "b k"]:
        """The resampled sums of each column."""
        return self._weights @ self.by_cluster(values)

    def statistic(
        self,
        columns: Float[np.ndarray, "n k"],
        function: Callable[[np.ndarray], Any],
        level: float = LEVEL,
    ) -> Interval:
        """The interval of a function of column sums, ``[..., k] -> [...]``."""
        value, replicates = float(function(columns.sum(0))), function(self.sums(columns))
        if self.n_clusters >= FEW:
            return interval(value, replicates, level)
        if self.n_clusters == 1:
            return Interval(value, math.nan, math.nan)
        # The jackknife: the statistic without each cluster in turn.
        by_cluster = self.by_cluster(columns)
        without = function(by_cluster.sum(0) - by_cluster)
        return _accelerated(value, replicates, np.asarray(without), level)

    def mean(
        self,
        values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"],
        level: float = LEVEL,
        kind: Kind | None = None,
    ) -> Interval:
        """The interval of a mean, such as an accuracy (booleans, or a ``kind`` of share) or a
        difference of two; see `mean_ends`.

        >>> ClusterBootstrap(np.arange(4)).mean(np.zeros(4, dtype=bool)).high > 0.5
        True
        """
        if kind is None and values.dtype == bool:
            kind = "share"
        low, high = self.mean_ends(values[:, None].astype(float), level, kind)
        return Interval(float(values.mean()), float(low[0]), float(high[0]))

    def median(self, values: Float[np.ndarray, " n"], level: float = LEVEL) -> Interval:
        r"""The interval of a median: the quantiles at the ends of the interval of the share that
        lies below it.

        .. math:: [Q(1/2 - (u - p)),\ Q(1/2 + (p - l))], \qquad p = \hat F(\tilde m) \in [l, u]

        Source: Woodruff 1952.

        >>> ClusterBootstrap(np.arange(101)).median(np.arange(101.0))
        Interval(value=50.0, low=40.0, high=60.0)
        """
        value = float(np.median(values))
        share = self.mean((values <= value).astype(float), level, "share")
        if math.isnan(share.low):
            return Interval(value, math.nan, math.nan)
        below, above = share.high - share.value, share.value - share.low
        levels = np.clip([0.5 - below, 0.5 + above], 0.0, 1.0)
        low, high = np.quantile(values, levels, method="inverted_cdf")
        return Interval(value, float(low), float(high))

    def mean_ends(
        self, values: Float[np.ndarray, "n k"], level: float = LEVEL, kind: Kind | None = None
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Low and high ends of the intervals of several columns' means, from one product.

        Args:
            kind: ``share`` of values 0 and 1, ``difference`` of two such answers (-1, 0 and 1);
                None goes by the values, and takes a column of zeros for a measurement that is 0.
        """
        k = values.shape[1]
        if self.n_clusters == 1:
            return np.full(k, np.nan), np.full(k, np.nan)
        ratios = self._of_values(values)
        low, high = self._ends(ratios, level)
        are_answers = np.isin(values, (-1.0, 0.0, 1.0)).all(0)
        if kind is None:
            are_answers &= values.any(0)
        # Resamples of answers that all agree have no spread, and those of a few clusters too
        # little.
        if self.n_clusters >= FEW:
            are_answers &= ratios.error == 0
        (some,) = np.nonzero(are_answers)
        if len(some):
            low[some], high[some] = self.answers_ends(values[:, some], level, kind)
        return low, high

    def answers_ends(
        self, values: Float[np.ndarray, "n k"], level: float = LEVEL, kind: Kind | None = None
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Wilson's intervals of shares and Newcombe's of differences, for columns of -1, 0 and 1.

        Args:
            kind: of all columns; None takes a column with a -1 for a difference.
        """
        ratios = self._of_values(values)
        (quantile,) = student(ratios.freedom, level, 1).tolist()
        low, high = np.empty(values.shape[1]), np.empty(values.shape[1])
        for j, (column, error) in enumerate(zip(values.T, ratios.error.tolist(), strict=True)):
            is_difference = kind == "difference" or bool((column == -1).any())
            low[j], high[j] = _answers_ends(column, error, self.n_clusters, quantile, is_difference)
        return low, high

    def _ends(
        self, ratios: Ratios, level: float
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Of few clusters studentised; of many the percentiles,
        or Student's where a few of them hold most of the items.
        """
        if self.n_clusters < FEW:
            return ratios.studentised(self._weights).ends(level)
        total, size = self._weights @ ratios.above, self._weights @ ratios.below
        replicates = np.divide(total, size, out=np.zeros_like(total), where=size != 0)
        low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        half = student(ratios.freedom, level, len(low)) * ratios.error
        return np.minimum(low, ratios.value - half), np.maximum(high, ratios.value + half)

    def means(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "b k"]:
        """Resampled means of several columns, for comparing them in pairs."""
        sums = self.sums(_with_ones(values))
        return sums[:, :-1] / sums[:, -1:]

    def standard_errors(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
        """Of the means; see `Ratios.error`."""
        return self._of_values(values).error

    def studentised(self, values: Float[np.ndarray, "n k"]) -> Studentised:
        """Resampled means of columns, each divided by its own standard error."""
        return self.studentised_ratios(self._of_values(values))

    def studentised_ratios(self, ratios: Ratios) -> Studentised:
        """Resampled ratios of sums over these clusters, each divided by its own standard error."""
        return ratios.studentised(self._weights)

    def _of_values(self, values: Float[np.ndarray, "n k"]) -> Ratios:
        """Means of items are ratios of the clusters' sums to the clusters' sizes."""
        sums = self.by_cluster(_with_ones(values))
        return Ratios(sums[:, :-1], sums[:, -1:])

    def ratio_ends(
        self, above: Float[np.ndarray, "n k"], below: Float[np.ndarray, "n _"], level: float = LEVEL
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Low and high ends of the intervals of ratios of sums, column by column; 0 where ``below``
        sums to 0.

        Args:
            below: one column for all ratios, or one for each.
        """
        k = above.shape[1]
        if self.n_clusters == 1:
            return np.full(k, np.nan), np.full(k, np.nan)
        return self._ends(Ratios(self.by_cluster(above), self.by_cluster(below)), level)

    def share(
        self, right: Float[np.ndarray, " n"], of: Float[np.ndarray, " n"], level: float = LEVEL
    ) -> Interval:
        """A share of answers that are counted, so many ``right`` ``of`` so many,
        with Wilson's interval.

        >>> of_8 = ClusterBootstrap(np.arange(4)).share(np.zeros(4), np.full(4, 2.0))
        >>> of_8.value, of_8.low, of_8.high > 0.2
        (0.0, 0.0, True)
        """
        n = float(of.sum())
        value = float(right.sum()) / n if n else 0.0
        if self.n_clusters == 1 or not n:
            return Interval(value, math.nan, math.nan)
        ratios = Ratios(self.by_cluster(right[:, None]), self.by_cluster(of[:, None]))
        error, (quantile,) = float(ratios.error[0]), student(ratios.freedom, level, 1).tolist()
        with_answers = float((self.by_cluster(of[:, None]) > 0).sum())
        effective = effective_items(value * (1 - value), error, n, with_answers)
        return Interval(value, *wilson(value, effective, quantile))

    def ratio(
        self, above: Float[np.ndarray, " n"], below: Float[np.ndarray, " n"], level: float = LEVEL
    ) -> Interval:
        """A ratio of two sums with its interval, such as a mean over some of the items."""
        low, high = self.ratio_ends(
            above[:, None].astype(float), below[:, None].astype(float), level
        )
        total = float(below.sum())
        value = float(above.sum()) / total if total else 0.0
        return Interval(value, float(low[0]), float(high[0]))

    def widened(
        self,
        value: Float[np.ndarray, " k"] | float,
        replicates: Float[np.ndarray, "b *k"],
        among: int = 2,
    ) -> Float[np.ndarray, "b *k"]:
        r"""Replicates as far from the value as Student's t of so few clusters asks for.

        .. math:: v + \sqrt{\tfrac{S}{S-1}}\,\frac{t_{S-1}(1 - \alpha/k)}{z(1 - \alpha/k)}\,(v^* -
            v)

        Percentiles, tests and sets of best conditions of them hold where those of plain replicates
        are too narrow; for a statistic that is not a mean and has no error of its own in each
        resample. Source: Hesterberg 2015, section 3.5.

        Args:
            among: k, the conditions of which the largest difference is judged. It is as far out as
                an alpha / k of each alone, where t is further from z. The two ends of one interval
                count as 2.
        """
        n = self.n_clusters
        tail = 1 - (1 - LEVEL) / among
        factor = math.sqrt(n / (n - 1)) * float(t_quantile(tail, n - 1) / normal_quantile(tail))
        return value + factor * (replicates - value)

    def grouped(
        self, group: Int[np.ndarray, " n"], size: int, values: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "b size"]:
        """The resampled sums of one column in each group of items, 0 to ``size`` - 1."""
        # One bin for each cluster and group, so that one product resamples them all.
        bins = self._index * size + group
        sums = np.bincount(bins, values, minlength=self.n_clusters * size)
        return self._weights @ sums.reshape(self.n_clusters, size)


def _with_ones(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k1"]:
    return np.column_stack([values.astype(float), np.ones(len(values))])


@functools.lru_cache(maxsize=4)
def _weights(n_clusters: int, replicates: int, seed: int) -> Float[np.ndarray, "b s"]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n_clusters, size=(replicates, n_clusters))
    # How often each cluster is drawn in each resample, counted in one pass.
    offset = drawn + np.arange(replicates)[:, None] * n_clusters
    counts = np.bincount(offset.ravel(), minlength=replicates * n_clusters)
    return counts.reshape(replicates, n_clusters).astype(np.float64)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    r"""Interval of a share of n items: :math:`\frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 +
    z^2/n}`.

    Source: Wilson 1927.
    """
    centre, size = share + quantile**2 / (2 * n), 1 + quantile**2 / n
    half = quantile * math.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
    low = (centre - half) / size if share > 0 else 0.0  # exact where half is the centre
    high = (centre + half) / size if share < 1 else 1.0
    return max(0.0, low), min(1.0, high)


def effective_items(variance: float, error: float, n: float, clusters: float) -> float:
    """The number of items that gives the clusters' standard error, at most n;
    without a spread to judge it by, the number of clusters.
    """
    return min(n, variance / error**2) if error > 0 else clusters


def _answers_ends(
    column: Float[np.ndarray, " n"], error: float, clusters: int, quantile: float, difference: bool
) -> tuple[float, float]:
    """Ends of the mean of values -1, 0 and 1: of one share, or of the difference of two."""
    n, mean = len(column), float(column.mean())
    effective = effective_items(float(column.var()), error, n, clusters)
    up, down = float((column == 1).mean()), float((column == -1).mean())
    if not difference:
        return wilson(up, effective, quantile)
    # Newcombe's method: the ends of both shares, put together as squares.
    up_low, up_high = wilson(up, effective, quantile)
    down_low, down_high = wilson(down, effective, quantile)
    # An item is not up and down: the shares are correlated by -apart, which widens their
    # difference.
    apart = math.sqrt(up * down / ((1 - up) * (1 - down))) if max(up, down) < 1 else 0.0
    low_up, high_up = up - up_low, up_high - up
    low_down, high_down = down - down_low, down_high - down
    below = low_up**2 + high_down**2 + 2 * apart * low_up * high_down
    above = high_up**2 + low_down**2 + 2 * apart * high_up * low_down
    return max(-1.0, mean - math.sqrt(below)), min(1.0, mean + math.sqrt(above))


def interval(value: float, replicates: Float[np.ndarray, " b"], level: float = LEVEL) -> Interval:
    """Percentile interval of the replicates around an estimate; those that are NaN, where a
    resample has no value, are left out.

    It is too narrow below `FEW` clusters: `ClusterBootstrap.mean` and `ClusterBootstrap.statistic`
    know how many there are.

    Source: Efron & Tibshirani 1993, section 13.3.
    """
    known = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _accelerated(
    value: float,
    replicates: Float[np.ndarray, " b"],
    without: Float[np.ndarray, " s"],
    level: float,
) -> Interval:
    r"""The bias-corrected and accelerated interval: percentiles at :math:`\Phi(z_0 + \frac{z_0 +
    z}{1 - a(z_0 + z)})`.

    Args:
        without: the statistic without each cluster in turn, from which the acceleration a is.
    """
    known, left = replicates[~np.isnan(replicates)], without[~np.isnan(without)]
    if np.isnan(value) or not len(known) or len(left) < 2:
        return Interval(value, math.nan, math.nan)
    n, b = len(without), len(known)
    away = left.mean() - left
    size = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * size**1.5) if size > 0 else 0.0
    below = (np.sum(known < value) + np.sum(known == value) / 2) / b
    # Where all resamples are on one side, the bias would be infinite.
    bias = float(normal_quantile(np.clip(below, 1 / (b + 1), b / (b + 1))))
    # Of few clusters a percentile interval is too narrow by sqrt((n - 1) / n), and t is wider than
    # z.
    widened = math.sqrt(n / (n - 1)) * float(t_quantile((1 + level) / 2, n - 1))
    places = []
    for z in (-widened, widened):
        shifted = bias + z
        corrected = bias + shifted / max(1e-3, 1 - acceleration * shifted)
        places.append(float(normal_cdf(corrected)))
    low, high = np.quantile(known, places)
    return Interval(value, float(low), float(high))


def effective_clusters(clusters: Int[np.ndarray, " n"]) -> float:
    """How many clusters of one size carry as much as these; see `ratios.effective_number`.

    >>> effective_clusters(np.array([0, 0, 1, 1])), effective_clusters(np.array([0, 0, 0, 1]))
    (2.0, 1.6)
    """
    return float(effective_number(np.bincount(clusters).astype(float)[:, None])[0])


def few_clusters(
    n_clusters: int, what: str = "sentences", effective: float | None = None
) -> str | None:
    """What a reader must know of intervals and tests of so few clusters; None where they hold.

    Args:
        effective: see `effective_clusters`; by default the clusters are of one size.

    >>> few_clusters(1, "prompts")
    'one of prompts: no interval, and nothing can be tested'
    """
    if n_clusters == 1:
        return f"one of {what}: no interval, and nothing can be tested"
    if n_clusters < TESTABLE:
        return (
            f"{n_clusters} {what}: differences have no interval and cannot be tested, "
            f"for which {TESTABLE} are needed"
        )
    is_unequal = effective is not None and effective < EQUAL * n_clusters
    if n_clusters < (WARNED_UNEQUAL if is_unequal else WARNED):
        sizes = " of unequal size" if is_unequal else ""
        return (
            f"{n_clusters} {what}{sizes}: if effects are skewed, 95% intervals cover the truth in "
            "only about 90% of cases"
        )
    return None
