r"""Ratios of two sums over clusters, such as means: standard errors and the studentised bootstrap.

The mean over items is the sum of each cluster's values divided by the sum of the cluster sizes. The
weight that attention gives to a token is a sum of weights divided by a number of queries. The share
of an effect is a sum of effects divided by the sum of the metric.

**Skewed clusters.** A few clusters rarely show the long tail of a skewed distribution: with 10 to
30 lognormal values the studentised bootstrap covers in .91 to .93. The end on the side of the long
tail is therefore taken at a level between 97.5% and 99%. The level increases with skewness and
decreases with the number of clusters. Coverage is then .94 to .95, and intervals of normal values
change by at most a few hundredths of their width (``benchmarks/coverage.py``).

Source: Efron & Tibshirani 1993, chapters 11 and 12; Kish 1965; Hall & Martin 1988 (calibrated
levels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .distributions import t_quantile, t_tail

LEVEL = 0.95
ALIKE = 0.05
"""A resample's standard error below this share of the sample's counts as 0."""
MOST_ALIKE = 0.01
"""If a larger share of the resamples has no spread, they are not used to studentise."""
ROUNDING = 1e-12
"""A relative difference that is rounding."""
STEEP, CROWD = 2.0, 30
"""The end on the side of the long tail is furthest out at this skewness or more, with this number
of clusters or fewer.
"""
LONGEST = 0.4
"""Factor of the share of resamples beyond that end."""
STUDENT = 5
"""With fewer clusters than this, a mean has Student's interval."""


def effective_number(sizes: Float[np.ndarray, "s k"]) -> Float[np.ndarray, " k"]:
    r"""The number of equal clusters with the same information: :math:`(\sum m)^2 / \sum m^2`.

    Source: Kish 1965, Survey Sampling, section 11.7.
    """
    total, squares = sizes.sum(0), (sizes**2).sum(0)
    return np.divide(total**2, squares, out=np.ones_like(total), where=squares > 0)


@dataclass(frozen=True)
class Ratios:
    """Ratios of two sums over clusters, such as means.

    Attributes:
        above: y, the numerator's sum in each cluster, [s k].
        below: m, the denominator's sum in each cluster, [s k], or [s 1] for all ratios.
    """

    above: Float[np.ndarray, "s k"]
    below: Float[np.ndarray, "s _"]

    @property
    def value(self) -> Float[np.ndarray, " k"]:
        """The ratios; 0 where the denominator is 0."""
        total, size = self.above.sum(0), self.below.sum(0)
        return np.divide(total, size, out=np.zeros_like(total), where=size != 0)

    @property
    def error(self) -> Float[np.ndarray, " k"]:
        r"""Jackknife standard errors: how far the ratio :math:`v` moves if each cluster in turn is
        left out.

        .. math:: s^2 = \frac{S - 1}{S} \sum_c (v - v_{-c})^2, \qquad v - v_{-c} = \frac{y_c -
            v\,m_c}{\sum m - m_c}

        For clusters of equal size this is the usual :math:`s/\sqrt{S}`. For uneven clusters it
        avoids a bias: a large cluster pulls the mean towards itself and then seems close to it.
        """
        n, rest = len(self.above), self.above - self.value * self.below
        # If all clusters are equal, the error is 0 and not a rounding error.
        rest[np.abs(rest) < 1e-12 * np.abs(self.above).max(0, initial=0.0)] = 0.0
        others = self.below.sum(0) - self.below
        # If one cluster holds the whole denominator, nothing is left without it.
        moved = np.divide(rest, others, out=np.zeros_like(rest), where=(others != 0) & (rest != 0))
        return np.sqrt((moved**2).sum(0) * (n - 1) / n)

    @property
    def freedom(self) -> Float[np.ndarray, " _"]:
        r"""Degrees of freedom of the errors: :math:`(\sum m)^2 / \sum m^2 - 1`, the effective
        number of clusters less one.

        Source: Kish 1965 (effective number); Imbens & Kolesár 2016 (few and uneven clusters need
        fewer degrees).
        """
        return np.maximum(1.0, effective_number(np.abs(self.below)) - 1)

    @property
    def skewness(self) -> Float[np.ndarray, " k"]:
        """Skewness of the clusters' contributions; 0 if they are equal or fewer than three."""
        n, rest = len(self.above), self.above - self.value * self.below
        rest = rest - rest.mean(0)
        square = (rest**2).mean(0)
        cube = (rest**3).mean(0)
        skewed = np.divide(cube, square**1.5, out=np.zeros_like(cube), where=self.error > 0)
        return skewed * math.sqrt(n * (n - 1)) / (n - 2) if n > 2 else np.zeros_like(cube)

    def studentised(self, weights: Float[np.ndarray, "b s"]) -> Studentised:
        """Resampled ratios, each divided by its own standard error.

        Args:
            weights: how often each cluster is in each resample.
        """
        y, m, n = self.above, self.below, len(self.above)
        # A resample's own error needs sum_c (y_c - v m_c)^2 at its ratio v. These five sums give
        # it. One product computes them all, so the weights are read once.
        sums = (y, y**2, y * m, m, m**2)
        widths = [columns.shape[1] for columns in sums]
        drawn = np.split(weights @ np.hstack(sums), np.cumsum(widths)[:-1], axis=1)
        total, squares, cross, size, size2 = drawn
        values = np.divide(total, size, out=np.full_like(total, np.nan), where=size != 0)
        variance = (squares - 2 * values * cross + values**2 * size2) * n / (n - 1)
        errors = np.sqrt(np.maximum(variance, 0.0)) / np.where(size == 0, np.nan, np.abs(size))
        value, error = self.value, self.error
        # A resample of one repeated value contains no information on the spread.
        usable = errors > ALIKE * error
        t = np.divide(values - value, errors, out=np.full_like(values, np.nan), where=usable)
        return Studentised(value, error, t, self.freedom, n, self.skewness)


@dataclass(frozen=True)
class Studentised:
    """Ratios, their standard errors, and the t statistics of resamples.

    Attributes:
        value, error: ratios and standard errors of the sample, [k].
        t: each resample's difference from the ratio over its own standard error, [b k]; NaN where
            all drawn clusters are equal.
        freedom: degrees of freedom of Student's t, for each ratio or for all.
        n_clusters: number of clusters.
        skewness: skewness of the clusters.
    """

    value: Float[np.ndarray, " k"]
    error: Float[np.ndarray, " k"]
    t: Float[np.ndarray, "b k"]
    freedom: Float[np.ndarray, " _"]
    n_clusters: int
    skewness: Float[np.ndarray, " k"]

    @property
    def _shares(self) -> Float[np.ndarray, "2 k"]:
        """Factors of the shares of resamples in the lower and the upper tail of t; below 1 on the
        side of the long tail.

        If values are skewed to the right, a resample with a low mean also has a small error, so the
        long tail of t is the lower one.
        """
        steep = np.minimum(1.0, np.abs(self.skewness) / STEEP)
        longest = 1 - (1 - LONGEST) * steep * min(1.0, CROWD / self.n_clusters)
        is_right = self.skewness > 0
        return np.stack([np.where(is_right, longest, 1.0), np.where(is_right, 1.0, longest)])

    @property
    def _has_spread(self) -> Bool[np.ndarray, " k"]:
        """Columns whose resamples can be studentised. If too many resamples hold one value only,
        Student's t is used instead.
        """
        enough = self.n_clusters >= STUDENT
        return enough & (np.isfinite(self.t).mean(0) >= 1 - MOST_ALIKE)

    def ends(self, level: float = LEVEL) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Low and high ends, value - t error, where t is the quantile of the resamples or of
        Student's t, whichever is further out.

        Student's t alone is too narrow for skewed values. Resamples alone are too narrow for heavy
        tails on both sides.
        """
        ends = student(self.freedom, level, len(self.value))
        lower, upper = -ends, ends.copy()
        below, above = (1 - level) / 2 * self._shares
        # Very few clusters give too few different resamples for quantiles: Student's t stays.
        for j in np.flatnonzero(self._has_spread):
            drawn = self.t[:, j]
            drawn = drawn[np.isfinite(drawn)]
            # The order statistics at which `p` passes 1 - level.
            first, last = (
                max(1, math.ceil(share * (len(drawn) + 1) - 1)) for share in (below[j], above[j])
            )
            drawn.partition([first - 1, len(drawn) - last])
            lower[j] = min(drawn[first - 1], lower[j])
            upper[j] = max(drawn[-last], upper[j])
        # The upper quantile of t gives the lower end: a mean that is too high has a positive t.
        low, high = self.value - upper * self.error, self.value - lower * self.error
        for end in (low, high):
            end[np.abs(end) < ROUNDING * np.abs(self.value)] = 0.0
        return low, high

    def p(self) -> Float[np.ndarray, " k"]:
        """Two-sided p-value of each ratio being 0: below 1 - level where the interval excludes 0.

        It is the larger of the p-values of the resamples and of Student's t, and Student's where no
        resample is as far out.
        """
        observed = np.full_like(self.value, np.inf)
        np.divide(self.value, self.error, out=observed, where=self.error > 0)
        observed[(self.error == 0) & (self.value == 0)] = 0.0
        tail = t_tail(np.abs(observed), self.freedom)
        # A resample that is as far out up to rounding counts.
        observed = observed * (1 - ROUNDING)
        count = np.isfinite(self.t).sum(0)
        with np.errstate(invalid="ignore"):  # NaN is on neither side
            above, below = (self.t >= observed).sum(0), (self.t <= observed).sum(0)
        n_beyond = np.where(observed > 0, above, below)
        share = np.where(observed > 0, *self._shares[::-1])
        beyond = (n_beyond + 1) / (share * (count + 1))
        p = np.where(n_beyond == 0, tail, np.maximum(tail, beyond))
        return np.minimum(1.0, 2 * np.where(self._has_spread, p, tail))


def student(freedom: Float[np.ndarray, " _"], level: float, count: int) -> Float[np.ndarray, " k"]:
    """The quantile of Student's t for a level, for each of ``count`` columns."""
    return np.broadcast_to(t_quantile((1 + level) / 2, freedom), count).astype(float)
