r"""Tests and their corrections: what differs, from 0 or from each other, when many are looked at.

=====================  ==================================================================================================
one mean               `mean_p`: sign flips, exact if effects are symmetric around 0, and the studentised bootstrap, which holds
                       for skewed effects; the larger p counts
pairs of conditions    `compare_pairs`: the paired bootstrap, Holm-corrected
the best condition     `best_set`: a model confidence set, which accounts for the best having been chosen on the same data
many tests             `holm`, `benjamini_hochberg`; `Floor` says what p and q can be reached at all
=====================  ==================================================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from layerscope.errors import InputError

from .resampling import REPLICATES, ClusterBootstrap, Interval, interval

EXACT = 1e-12
"""A relative difference that is rounding."""


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction: :math:`\tilde p_{(i)} = \max_{j\le i} \min(1, (m-j+1)\,p_{(j)})`.

    Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    adjusted, running = np.empty(len(p)), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = running
    return [float(value) for value in adjusted]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    r"""False-discovery rate: :math:`q_{(i)} = \min_{j\ge i} \min(1, m\,p_{(j)}/j)`.

    Source: Benjamini & Hochberg 1995.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    order = np.argsort(p, kind="stable")[::-1]
    adjusted, running = np.empty(len(p)), 1.0
    for place, rank in zip(order, range(len(p), 0, -1), strict=True):
        running = min(running, len(p) * p[place] / rank)
        adjusted[place] = running
    return [float(value) for value in adjusted]


def bootstrap_p(replicates: Float[np.ndarray, " b"], *, two_sided: bool = True) -> float:
    """How often the resampled difference is not above 0 (two-sided: not on the estimate's side), with +1 in both counts.

    Where no replicate is, the counts can only say 1 / (b + 1), which a correction over many pairs never passes; there it is
    the tail of the normal distribution with the replicates' mean and spread, if that is smaller.

    Source: Davison & Hinkley 1997, section 4.2.3.

    Raises:
        ValueError: replicates that are not finite.
    """
    _check_finite("replicates", replicates)
    b = len(replicates)
    smallest = 1 / (b + 1)
    below = (np.sum(replicates <= 0) + 1) / (b + 1)
    above = (np.sum(replicates >= 0) + 1) / (b + 1)
    spread = float(np.std(replicates))
    if min(below, above) == smallest and spread > 0:
        # No replicate is on that side: the counts cannot say how far out 0 is, the normal tail can.
        z = abs(float(np.mean(replicates))) / spread
        tail = math.erfc(z / math.sqrt(2)) / 2
        below = min(below, tail) if below == smallest else below
        above = min(above, tail) if above == smallest else above
    return float(min(1.0, 2 * min(below, above)) if two_sided else below)


def sign_flip_p(
    values: Float[np.ndarray, "n k"],
    clusters: Int[np.ndarray, " n"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[float]:
    r"""Two-sided p of each column's mean being 0, **assuming that the clusters' sums are symmetric around 0**.

    Of skewed effects with mean 0 it rejects too often (11 to 17% at 5% for 10 to 30 clusters): `mean_p` does not assume it.

    :math:`p = (1 + \#\{|\sum_s \epsilon_s v_s| \ge |\sum_s v_s|\}) / (1 + R)` over random signs; all signs, without
    the added 1, where there are no more than R of them. Source: Fisher 1935, section 21.

    Raises:
        ValueError: values that are not finite.

    >>> sign_flip_p(np.array([[1.0], [2.0], [3.0]]))
    [0.25]
    """
    _check_finite("values", values)
    groups = np.arange(len(values)) if clusters is None else clusters
    _, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    n = len(sums)
    # Sums that are equal but for rounding count as equal.
    limit = np.abs(sums.sum(0)) - EXACT * np.abs(sums).sum(0)
    if _all_signs(n, replicates):
        # Row i has the signs that the bits of i say.
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        signs = 1.0 - 2.0 * bits
        return [float(share) for share in (np.abs(signs @ sums) >= limit).mean(0)]
    rng, as_large = np.random.default_rng(seed), np.ones(values.shape[1])
    for start in range(0, replicates, REPLICATES):
        signs = rng.choice([-1.0, 1.0], size=(min(REPLICATES, replicates - start), n))
        as_large += (np.abs(signs @ sums) >= limit).sum(0)
    return [float(p) for p in as_large / (replicates + 1)]


def _all_signs(n_clusters: int, replicates: int) -> bool:
    return n_clusters < 60 and 2**n_clusters <= replicates


def mean_p(
    values: Float[np.ndarray, "n k"],
    clusters: Int[np.ndarray, " n"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[float]:
    r"""Two-sided p of each column's mean being 0, for symmetric and for skewed effects.

    The larger of two: that of sign flips (`sign_flip_p`), exact if effects are symmetric, and that of the studentised bootstrap,

    .. math:: p = 2 \min\bigl(P(t^* \ge t),\, P(t^* \le t)\bigr), \qquad t = \bar v / s, \quad t^* = (\bar v^* - \bar v) / s^*

    right to second order if they are not (Efron & Tibshirani 1993, section 12.5). Values of -1, 0 and 1 only, whose mean is 0
    only if they are symmetric, have the first. NaN for a single cluster, which cannot be tested.

    Args:
        values: a column an effect.
        clusters: the cluster of each row; None: each row is one.
        replicates: sign flips; resamples are at most as many.

    Raises:
        ValueError: values that are not finite.
    """
    _check_finite("values", values)
    groups = np.arange(len(values)) if clusters is None else clusters
    if len(np.unique(groups)) == 1:
        return [math.nan] * values.shape[1]
    p = np.array(sign_flip_p(values, groups, replicates, seed))
    boot = ClusterBootstrap(groups, min(replicates, REPLICATES), seed)
    for start in range(0, values.shape[1], BLOCK):
        block = values[:, start : start + BLOCK]
        # Of answers (-1, 0 and 1) symmetry is the null hypothesis itself.
        is_skewed = ~np.isin(block, (-1.0, 0.0, 1.0)).all(0)
        if is_skewed.any():
            columns = start + np.flatnonzero(is_skewed)
            p[columns] = np.maximum(p[columns], boot.studentised(block[:, is_skewed]).p())
    return [float(value) for value in p]


BLOCK = 256
"""Columns whose resamples are held at a time."""


LEVEL = 0.05
"""False-discovery rate below which a part is significant."""


@dataclass(frozen=True)
class Floor:
    """What the smallest p of sign flips means on a grid of tests.

    Attributes:
        p: the smallest p that one test can have.
        q: the smallest false-discovery rate of a part that stands alone.
        together: how many parts must have the smallest p for their q to be below 0.05.
    """

    p: float
    q: float
    together: int

    @property
    def silent(self) -> bool:
        """Whether no single part can reach q < 0.05: that none does is then no finding."""
        return self.q >= LEVEL


def floor_of(n_clusters: int, tests: int, replicates: int = REPLICATES) -> Floor:
    r"""The floor of `sign_flip_p` and `mean_p`: :math:`2 / 2^n`, or :math:`1 / (R + 1)` where signs are drawn.

    >>> floor_of(13, 270).silent, floor_of(14, 270, 16384).silent
    (True, False)
    """
    p = 2.0 / 2**n_clusters if _all_signs(n_clusters, replicates) else 1 / (replicates + 1)
    p = min(1.0, p)
    # Benjamini and Hochberg: the i smallest have q = p tests / i.
    together = math.floor(p * tests / LEVEL) + 1
    return Floor(p, min(1.0, p * tests), min(tests + 1, together))


@dataclass(frozen=True)
class Comparison:
    """One pair of conditions: their difference, its interval and the corrected p-value."""

    a: int
    b: int
    difference: Interval
    p: float


def compare_pairs(
    estimates: Sequence[float],
    replicates: Float[np.ndarray, "b k"],
    boot: ClusterBootstrap | None = None,
) -> list[Comparison]:
    """All pairs of conditions scored on the same resamples, two-sided, Holm-corrected over the pairs.

    Args:
        estimates: each condition's score.
        replicates: the same of each resample, a column a condition.
        boot: what drew them. Of few clusters their spread is too small, and far out their tails too thin: intervals are then
            those of `ClusterBootstrap.widened`, and no p is below Student's.

    Returns:
        For each pair a < b the difference b - a with its percentile interval, and the corrected p.

    Raises:
        ValueError: replicates that are not finite.
    """
    pairs = list(itertools.combinations(range(len(estimates)), 2))
    found: list[Interval] = []
    p: list[float] = []
    for a, b in pairs:
        value, drawn = estimates[b] - estimates[a], replicates[:, b] - replicates[:, a]
        least = 0.0
        if boot is not None and boot.n_clusters > 1:
            least = _student_p(value, drawn, boot.n_clusters)
            drawn = boot.widened(value, drawn)
        found.append(interval(value, drawn))
        p.append(max(least, bootstrap_p(drawn)))
    return [
        Comparison(a, b, ends, corrected)
        for (a, b), ends, corrected in zip(pairs, found, holm(p), strict=True)
    ]


def _student_p(value: float, replicates: Float[np.ndarray, " b"], n_clusters: int) -> float:
    """Two-sided p of 0, from the replicates' spread and Student's t of so many clusters."""
    # Resamples of n clusters vary by (n - 1) / n less than samples do.
    error = float(replicates.std()) * math.sqrt(n_clusters / (n_clusters - 1))
    if error < EXACT:
        return 1.0 if abs(value) < EXACT else 0.0
    return float(2 * stats.t.sf(abs(value) / error, n_clusters - 1))


def best_set(
    estimates: Sequence[float], replicates: Float[np.ndarray, "b k"], alpha: float = 0.05
) -> tuple[Bool[np.ndarray, " k"], list[float]]:
    r"""The model confidence set: conditions that the data do not show to be worse than the others.

    From all conditions the worst is left out, again and again, as long as equality of those that are left is rejected:

    .. math:: t_i = (\bar\theta - \theta_i) / s_i, \qquad p = P(\max_i t^*_i \ge \max_i t_i)

    with the resampled, centred differences from the mean of those that are left. The best one is in the set in at least 1 -
    alpha of the cases; among equal conditions any is left out in alpha of them. Source: Hansen, Lunde & Nason 2011.

    Args:
        estimates: each condition's score, larger is better.
        replicates: the same of each resample, a column a condition.

    Returns:
        A mask over the conditions, and the p at which each one leaves the set (1 for the last).

    Raises:
        ValueError: estimates or replicates that are not finite.
    """
    scores = np.asarray(estimates, dtype=float)
    _check_finite("estimates", scores)
    _check_finite("replicates", replicates)
    centred = replicates - replicates.mean(0)
    left, p, largest = list(range(len(scores))), np.ones(len(scores)), 0.0
    while len(left) > 1:
        behind = scores[left].mean() - scores[left]
        drawn = centred[:, left].mean(1, keepdims=True) - centred[:, left]
        spread = drawn.std(0)
        varies = spread > EXACT
        # A condition that is always as far behind is worse for certain, or equal.
        t = np.where(behind > EXACT, np.inf, 0.0)
        t[varies] = behind[varies] / spread[varies]
        drawn_t = (drawn[:, varies] / spread[varies]).max(1, initial=0.0)
        as_large = 1 + np.sum(drawn_t >= t.max() - EXACT)
        # The p of leaving cannot fall: a condition that stayed longer was not easier to reject.
        largest = max(largest, float(as_large / (1 + len(drawn_t))))
        worst = left.pop(int(np.argmax(t)))
        p[worst] = largest
    return p > alpha, [float(value) for value in p]


def weighted_spearman(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    r"""Rank correlation of a whole grid from a sample of it, each item standing for ``weights`` of the grid's.

    The sample's weight is one over the share of its stratum that was drawn: 1 for parts that are always measured, m / k for k
    drawn of m. Ranks are the mid-ranks of a grid that holds every item as often as its weight says; with weights that are whole
    numbers it is Spearman's correlation of that grid. NaN where one side does not vary.
    """
    x, y = _weighted_ranks(a, weights), _weighted_ranks(b, weights)
    total = weights.sum()
    x = x - (weights * x).sum() / total
    y = y - (weights * y).sum() / total
    size = math.sqrt(float((weights * x**2).sum() * (weights * y**2).sum()))
    return float((weights * x * y).sum() / size) if size else math.nan


def stratum_weights(top: int, sampled: int, total: int) -> Float[np.ndarray, " n"]:
    """Weights of a sample of the ``top`` largest parts of a grid and then of ``sampled`` of the others, drawn at random.

    >>> stratum_weights(2, 2, 10).tolist()
    [1.0, 1.0, 4.0, 4.0]
    """
    return np.concatenate([np.ones(top), np.full(sampled, (total - top) / max(sampled, 1))])


def _weighted_ranks(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Weight below, and half of the weight of ties."""
    _, place = np.unique(values, return_inverse=True)
    at_value = np.bincount(place, weights)
    return (np.cumsum(at_value) - at_value / 2)[place]


def _check_finite(name: str, values: np.ndarray) -> None:
    """NaN is on neither side of 0: a count of the other side would call it the plainest effect of all."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise InputError(
            f"{name}: expected finite numbers, got {len(bad)} of {values.size} that are not, first at {place}"
        )
