r"""Means of two groups of items compared: an interval of their difference, and a test that holds
for few and uneven groups.

.. math:: d = \bar v_b - \bar v_a, \qquad
    d - \sqrt{(\bar v_b - l_b)^2 + (u_a - \bar v_a)^2 - 2\rho(\bar v_b - l_b)(u_a - \bar v_a)}
    \;\le\; \delta \;\le\; \ldots

The interval recovers the variances from the two groups' own intervals (Zou & Donner 2008; of shares
Wilson's, so it is Newcombe's of 1998), with :math:`\rho` the correlation of the two means where a
cluster, such as a template, has items in both. Of a mean that is no share, and clusters in both
groups, it is Student's of what each cluster adds to the difference.

The interval holds 0 where the test does not reject it, and p is at least 0.05 where the interval
holds it: both must reject. Where even the most extreme assignment of clusters has a p of 0.05 or
more there is neither.

The test is of permutations. A cluster that is in one group keeps its items together and the groups
are permuted among such clusters; a cluster that is in both swaps them or not. Its statistic is
studentised, so that it also holds where the groups' variances differ (Janssen 1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .distributions import t_quantile
from .effects import agreed
from .resampling import LEVEL, ClusterBootstrap, Interval, effective_items, wilson
from .significance import ALPHA

DRAWS = 5_000
"""Permutations of a test."""
ROUNDING = 1e-12
"""Differences below this, and shares of a value that a draw may miss, are rounding."""
BLOCK = 500
"""Permutations that are held at a time."""


@dataclass(frozen=True)
class Difference:
    """The second group's mean less the first's,
    with its interval and the two-sided p of no difference (NaN: no test).
    """

    interval: Interval
    p: float


def group_mean(
    values: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    *,
    share: bool,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """A group's mean with its interval: of a share Wilson's with the effective number of items, at
    every size.

    Args:
        values: of a share 0 and 1.
        share: whether it is one.
    """
    boot = ClusterBootstrap(clusters, 2000, seed)
    if not share or boot.n_clusters == 1:
        return boot.mean(values, level)
    mean, error = float(values.mean()), float(boot.standard_errors(values[:, None])[0])
    effective = effective_items(mean * (1 - mean), error, len(values), boot.n_clusters)
    quantile = float(t_quantile((1 + level) / 2, boot.n_clusters - 1))
    return Interval(mean, *wilson(mean, effective, quantile))


def group_difference(
    values: Float[np.ndarray, " n"],
    in_second: Bool[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    *,
    share: bool,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """The difference of two groups' means.

    Args:
        in_second: the items of the second group; the others are the first's.
        clusters: items that belong together; a cluster may have items of both groups.
    """
    sums = _Sums.of(values, in_second, clusters)
    means = sums.y.sum(1) / sums.m.sum(1)
    value = float(means[1] - means[0])
    if sums.least_p() >= ALPHA:
        return Difference(Interval(value, math.nan, math.nan), math.nan)

    def ends_at(level: float) -> tuple[float, float]:
        if not share and sums.are_paired:
            return sums.student(value, level)
        first, second = (
            group_mean(values[rows], clusters[rows], share=share, seed=seed, level=level)
            for rows in (~in_second, in_second)
        )
        correlation = sums.correlation()
        below = _recovered(second.value - second.low, first.high - first.value, correlation)
        above = _recovered(second.high - second.value, first.value - first.low, correlation)
        return value - below, value + above

    low, high, p = agreed(ends_at(LEVEL), _permutation_p(sums, draws, seed), ends_at)
    return Difference(Interval(value, low, high), p)


def _recovered(one: float, other: float, correlation: float) -> float:
    """The half width of a difference from two half widths."""
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))


@dataclass(frozen=True)
class _Sums:
    """Sums of values ``y`` and counts ``m`` of each cluster,
    in the first and in the second group.
    """

    y: Float[np.ndarray, "2 s"]
    m: Float[np.ndarray, "2 s"]

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, " n"],
        in_second: Bool[np.ndarray, " n"],
        clusters: Int[np.ndarray, " n"],
    ) -> _Sums:
        _, index = np.unique(clusters, return_inverse=True)
        places = in_second.astype(int), index
        shape = 2, int(index.max()) + 1
        y, m = np.zeros(shape), np.zeros(shape)
        np.add.at(y, places, values)
        np.add.at(m, places, 1.0)
        return cls(y, m)

    @property
    def are_paired(self) -> bool:
        """Whether a cluster has items of both groups."""
        return bool((self.m > 0).all(0).any())

    def least_p(self) -> float:
        """The smallest p that a permutation test can have;
        1 where a group has no second cluster of its own.
        """
        in_both = int((self.m > 0).all(0).sum())
        alone = (self.m > 0).sum(1) - in_both
        if min(alone) + in_both < 2:
            return 1.0
        assignments = math.comb(int(alone.sum()), int(alone[0])) * 2**in_both
        # With as many clusters alone in each group the opposite assignment is as extreme.
        return (2 if alone[0] == alone[1] else 1) / assignments

    def student(self, value: float, level: float) -> tuple[float, float]:
        """Student's interval of the difference, from what each cluster adds to it."""
        shares = self._rest() / self.m.sum(1, keepdims=True)
        of_clusters = shares[1] - shares[0]
        n = len(of_clusters)
        error = math.sqrt(float((of_clusters**2).sum()) * n / (n - 1))
        half = float(t_quantile((1 + level) / 2, n - 1)) * error
        return value - half, value + half

    def _rest(self) -> Float[np.ndarray, "2 s"]:
        """What is left of each cluster's sums when its items had the group's mean."""
        return self.y - self.y.sum(1, keepdims=True) / self.m.sum(1, keepdims=True) * self.m

    def correlation(self) -> float:
        """Of the two groups' means: 0 where no cluster has items of both."""
        rest = self._rest()
        size = math.sqrt(float((rest[0] ** 2).sum() * (rest[1] ** 2).sum()))
        return float((rest[0] * rest[1]).sum()) / size if size > 0 else 0.0


def _permutation_p(sums: _Sums, draws: int, seed: int) -> float:
    r"""(1 + draws with at least the sample's |t|) / (1 + draws)."""
    rng = np.random.default_rng(seed)
    in_both = (sums.m > 0).all(0)
    alone = np.flatnonzero(~in_both)
    is_second = sums.m[1, alone] > 0
    n_clusters = sums.m.shape[1]
    # What a cluster gives to its own group, and to the other: nothing, unless it is in both.
    own_group = np.where(in_both, 0, sums.m[1] > 0).astype(int)
    each = np.arange(n_clusters)
    y = np.stack([sums.y[own_group, each], np.where(in_both, sums.y[1], 0.0)])
    m = np.stack([sums.m[own_group, each], np.where(in_both, sums.m[1], 0.0)])
    is_second_group = np.asarray(own_group == 1)
    observed = abs(_studentised(y, m, is_second_group[None])[0])
    # Draws that differ from the sample by rounding alone count as large.
    limit = observed * (1 - ROUNDING)
    as_large = 1
    for start in range(0, draws, BLOCK):
        count = min(BLOCK, draws - start)
        # A cluster in both groups exchanges its parts; the others are dealt again.
        swapped = rng.random((count, n_clusters)) < 0.5
        swapped[:, alone] = rng.permuted(np.tile(is_second, (count, 1)), axis=1)
        drawn = np.abs(_studentised(y, m, swapped))
        as_large += int((drawn >= limit).sum())
    return as_large / (draws + 1)


def _studentised(
    y: Float[np.ndarray, "2 s"], m: Float[np.ndarray, "2 s"], swapped: Bool[np.ndarray, "b s"]
) -> Float[np.ndarray, " b"]:
    """The difference of the groups' means in its own standard errors, for each assignment of
    clusters to groups.

    Args:
        y, m: sums and counts of each cluster, in its first part and in its second.
        swapped: whether the first part is in the second group.
    """
    is_swapped = swapped.astype(float)
    means, shares = [], []
    for part, other in ((0, 1), (1, 0)):
        # What each cluster gives to this group: its own part, or where it is swapped the other one.
        sums = y[part] + is_swapped * (y[other] - y[part])
        counts = m[part] + is_swapped * (m[other] - m[part])
        n = counts.sum(1, keepdims=True)
        mean = sums.sum(1, keepdims=True) / n
        means.append(mean)
        shares.append((sums - mean * counts) / n)
    # By how much each cluster moves the difference: the delta method.
    error = np.sqrt(((shares[1] - shares[0]) ** 2).sum(1))
    difference = (means[1] - means[0])[:, 0]
    difference[np.abs(difference) < ROUNDING] = 0.0
    without_spread = np.where(difference == 0, 0.0, np.inf)
    return np.divide(np.abs(difference), error, out=without_spread, where=error > ROUNDING)
