r"""Tests and their corrections: what differs, from 0 or from each other, when many are looked at.

=====================  =============================================================================
one mean               `sign_flip_p`; with an interval that agrees with it, and for skewed effects:
                       `effects`
the best condition     `best_set`: a model confidence set, which accounts for the best having been
                       chosen on the same data
many tests             `holm`, `benjamini_hochberg`; `Floor` says what p and q can be reached at all
=====================  =============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from layerscope.errors import InputError

from .distributions import normal_tail
from .resampling import REPLICATES

EXACT = 1e-12
"""A relative difference that is rounding."""
ALPHA = 0.05
"""p, or false discovery rate, below which an effect is significant."""


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction: :math:`\tilde p_{(i)} = \max_{j\le i} \min(1,
    (m-j+1)\,p_{(j)})`.

    NaN is no test: it stays NaN and is none of the m. Source: Holm 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order, adjusted = _tested(p)
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[place]))
        adjusted[place] = running
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    r"""False-discovery rate: :math:`q_{(i)} = \min_{j\ge i} \min(1, m\,p_{(j)}/j)`.

    NaN is no test: it stays NaN and is none of the m. Source: Benjamini & Hochberg 1995.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    order, adjusted = _tested(p)
    running = 1.0
    for rank in range(len(order), 0, -1):
        place = order[rank - 1]
        running = min(running, len(order) * p[place] / rank)
        adjusted[place] = running
    return adjusted


def _tested(p: Sequence[float]) -> tuple[list[int], list[float]]:
    """The places of the p that are not NaN, from the smallest, and NaN for every place."""
    order = [int(place) for place in np.argsort(p, kind="stable") if not math.isnan(p[place])]
    return order, [math.nan] * len(p)


def sign_flip_p(
    values: Float[np.ndarray, "n k"],
    clusters: Int[np.ndarray, " n"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[float]:
    r"""Two-sided p of each column's mean being 0, **assuming that the clusters' sums are symmetric
    around 0**.

    Of skewed effects with mean 0 it rejects too often (11 to 17% at 5% for 10 to 30 clusters):
    `effects.mean_effects` does not.

    :math:`p = (1 + \#\{|\sum_s \epsilon_s v_s| \ge |\sum_s v_s|\}) / (1 + R)` over random signs;
    all signs, without the added 1, where there are no more than R of them. Source: Fisher 1935,
    section 21.

    Raises:
        ValueError: values that are not finite.

    >>> sign_flip_p(np.array([[1.0], [2.0], [3.0]]))
    [0.25]
    """
    check_finite("values", values)
    groups = np.arange(len(values)) if clusters is None else clusters
    _, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    n = len(sums)
    # Sums that are equal but for rounding count as equal.
    limit = np.abs(sums.sum(0)) - EXACT * np.abs(sums).sum(0)
    if has_all_signs(n, replicates):
        # Row i has the signs that the bits of i say.
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        signs = 1.0 - 2.0 * bits
        return [float(share) for share in (np.abs(signs @ sums) >= limit).mean(0)]
    rng, as_large = np.random.default_rng(seed), np.ones(values.shape[1])
    for start in range(0, replicates, REPLICATES):
        signs = rng.choice([-1.0, 1.0], size=(min(REPLICATES, replicates - start), n))
        as_large += (np.abs(signs @ sums) >= limit).sum(0)
    return [float(p) for p in as_large / (replicates + 1)]


def has_all_signs(n_clusters: int, replicates: int) -> bool:
    """Whether all assignments of signs are no more than would be drawn."""
    return n_clusters < 60 and 2**n_clusters <= replicates


@dataclass(frozen=True)
class Floor:
    """What the smallest p of sign flips means on a grid of tests.

    Attributes:
        p: the smallest p that one test can have.
        q: the smallest false discovery rate of a part that stands alone.
        together: how many parts must have the smallest p for their q to be below 0.05.
    """

    p: float
    q: float
    together: int

    @property
    def silent(self) -> bool:
        """Whether no single part can reach q < 0.05: that none does is then no finding."""
        return self.q >= ALPHA


def floor_of(n_clusters: int, tests: int, replicates: int = REPLICATES) -> Floor:
    r"""The floor of sign flips: :math:`2 / 2^n`; where they are drawn :math:`1 / (R + 1)`, or
    `tail_p` of equal values.

    >>> floor_of(13, 270).silent, floor_of(14, 270, 16384).silent
    (True, False)
    """
    p = min(1.0, 2.0 ** (1 - n_clusters))
    if not has_all_signs(n_clusters, replicates):
        p = min(1 / (replicates + 1), float(tail_p(np.ones((n_clusters, 1)))[0]))
    # Benjamini and Hochberg: the i smallest have q = p tests / i.
    together = math.floor(p * tests / ALPHA) + 1
    return Floor(p, min(1.0, p * tests), min(tests + 1, together))


RADEMACHER = 1 / (4 * float(normal_tail(math.sqrt(2))))
"""By how much a sum of signed values is likelier to be large than a normal variable, at most."""


def tail_p(values: Float[np.ndarray, "s k"]) -> Float[np.ndarray, " k"]:
    r"""A bound of the p of all signs, where none of the drawn ones is as extreme, and at least
    :math:`2 / 2^n`.

    .. math:: p \le 2 c\,P(Z \ge |\textstyle\sum y| / \sqrt{\sum y^2}), \qquad c = 1 / 4 P(Z \ge
        \sqrt 2) \approx 3.18

    Source: Bentkus & Dzindzalieta 2015.
    """
    size = np.sqrt((values**2).sum(0))
    z = np.divide(np.abs(values.sum(0)), size, out=np.zeros_like(size), where=size > 0)
    bound = np.maximum(2.0 ** (1 - len(values)), 2 * RADEMACHER * normal_tail(z))
    return np.minimum(1.0, bound)


def best_set(
    estimates: Sequence[float], replicates: Float[np.ndarray, "b k"], alpha: float = 0.05
) -> tuple[Bool[np.ndarray, " k"], list[float]]:
    r"""The model confidence set: conditions that the data do not show to be worse than the others.

    From all conditions the worst is left out, again and again, as long as equality of those that
    are left is rejected:

    .. math:: t_i = (\bar\theta - \theta_i) / s_i, \qquad p = P(\max_i t^*_i \ge \max_i t_i)

    with the resampled, centred differences from the mean of those that are left. The best one is in
    the set in at least 1 - alpha of the cases; among equal conditions any is left out in alpha of
    them. Source: Hansen, Lunde & Nason 2011.

    Args:
        estimates: each condition's score, larger is better.
        replicates: the same of each resample, a column a condition; of fewer than 500 clusters
            `ClusterBootstrap.widened`. Plain resamples of 6 to 20 clusters leave out one of four
            equal conditions in 21 to 8% of the cases at 5%, widened ones in 6.6 to 4.5%.

    Returns:
        A mask over the conditions, and the p at which each one leaves the set (1 for the last).

    Raises:
        ValueError: estimates or replicates that are not finite.
    """
    scores = np.asarray(estimates, dtype=float)
    check_finite("estimates", scores)
    check_finite("replicates", replicates)
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
    r"""Rank correlation of a whole grid from a sample of it, each item standing for ``weights`` of
    the grid's.

    The sample's weight is one over the share of its stratum that was drawn: 1 for parts that are
    always measured, m / k for k drawn of m. Ranks are the mid-ranks of a grid that holds every item
    as often as its weight says; with weights that are whole numbers it is Spearman's correlation of
    that grid. NaN where one side does not vary.
    """
    x, y = _weighted_ranks(a, weights), _weighted_ranks(b, weights)
    total = weights.sum()
    x = x - (weights * x).sum() / total
    y = y - (weights * y).sum() / total
    size = math.sqrt(float((weights * x**2).sum() * (weights * y**2).sum()))
    return float((weights * x * y).sum() / size) if size else math.nan


def stratum_weights(top: int, sampled: int, total: int) -> Float[np.ndarray, " n"]:
    """Weights of a sample of the ``top`` largest parts of a grid and then of ``sampled`` of the
    others, drawn at random.

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


def check_finite(name: str, values: np.ndarray) -> None:
    """NaN is on neither side of 0:
    a count of the other side would call it the plainest effect of all.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise InputError(
            f"{name}: expected finite numbers, got {len(bad)} of {values.size} that are "
            f"not, first at {place}"
        )
