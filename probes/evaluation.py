r"""How probe predictions are judged: each metric, interval and correction is defined here once.

Intervals and p-values resample *sentences* (clusters), not words: the words of a sentence are not independent, and a
bootstrap over words is too narrow. Every statistic here is a function of sums over items, so one matrix of multinomial
weights (replicates x sentences) serves them all: the resampled sums of any columns are one product,

.. math:: S^*_{bk} = \sum_s W_{bs} \sum_{i \in s} v_{ik}, \qquad W_{b\cdot} \sim \mathrm{Multinomial}(S, 1/S).

Source: Efron & Tibshirani 1993, chapters 6 and 13; Davison & Hinkley 1997, section 3.8 (cluster resampling).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from layerscope.errors import InputError

REPLICATES = 10_000
LEVEL = 0.95
ROUNDING = 1e-12
"""A sum of squares about the mean below this share of that about 0 counts as 0."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval; the ends are NaN where there is none."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """Resamples whole clusters; every statistic of one test set shares the same draws, so differences are paired.

    Args:
        clusters: the cluster (sentence) of each item.
        replicates: how many resamples.
        seed: of the draws.

    >>> boot = ClusterBootstrap(np.array([0, 0, 1, 1, 2]), replicates=1000)
    >>> boot.mean(np.array([1.0, 1, 0, 1, 1])).value
    0.8
    """

    def __init__(self, clusters: Int[np.ndarray, " n"], replicates: int = REPLICATES, seed: int = 0) -> None:
        if not len(clusters):
            raise InputError("expected at least one item to resample, got none")
        _, self._index = np.unique(clusters, return_inverse=True)
        self.n_clusters = int(self._index.max()) + 1
        self._weights = _weights(self.n_clusters, replicates, seed)

    def sums(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "b k"]:
        """The resampled sums of each column."""
        by_cluster = np.zeros((self.n_clusters, values.shape[1]))
        np.add.at(by_cluster, self._index, values)
        return self._weights @ by_cluster

    def statistic(
        self, columns: Float[np.ndarray, "n k"], function: Callable[[np.ndarray], Any], level: float = LEVEL
    ) -> Interval:
        """The interval of a function of column sums, ``[..., k] -> [...]``."""
        return interval(float(function(columns.sum(0))), function(self.sums(columns)), level)

    def mean(self, values: Float[np.ndarray, " n"], level: float = LEVEL) -> Interval:
        """The interval of a mean, such as an accuracy (values 0 and 1) or a difference of two."""
        columns = np.column_stack([values.astype(float), np.ones(len(values))])
        return self.statistic(columns, lambda s: s[..., 0] / s[..., 1], level)

    def means(self, values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "b k"]:
        """Resampled means of several columns, for comparing them in pairs."""
        columns = np.column_stack([values.astype(float), np.ones(len(values))])
        sums = self.sums(columns)
        return sums[:, :-1] / sums[:, -1:]

    def ratios(
        self, above: Float[np.ndarray, "n k"], below: Float[np.ndarray, "n k"], level: float = LEVEL
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Low and high ends of the intervals of ratios of sums, column by column; 0 where ``below`` sums to 0."""
        top, bottom = self.sums(above), self.sums(below)
        replicates = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def grouped(
        self, group: Int[np.ndarray, " n"], size: int, values: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "b size"]:
        """The resampled sums of one column in each group of items, 0 to ``size`` - 1."""
        flat = np.bincount(self._index * size + group, values, minlength=self.n_clusters * size)
        return self._weights @ flat.reshape(self.n_clusters, size)


@functools.lru_cache(maxsize=4)
def _weights(n_clusters: int, replicates: int, seed: int) -> Float[np.ndarray, "b s"]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n_clusters, size=(replicates, n_clusters))
    offset = drawn + np.arange(replicates)[:, None] * n_clusters
    counts = np.bincount(offset.ravel(), minlength=replicates * n_clusters)
    return counts.reshape(replicates, n_clusters).astype(np.float64)


def interval(value: float, replicates: Float[np.ndarray, " b"], level: float = LEVEL) -> Interval:
    """Percentile interval of the replicates around an estimate; those that are NaN, where a resample has no value, are left out.

    Source: Efron & Tibshirani 1993, section 13.3.
    """
    known = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def basic_interval(value: float, replicates: Float[np.ndarray, " b"], level: float = LEVEL) -> Interval:
    r"""Basic interval :math:`[2\hat\theta - \theta^*_{high},\, 2\hat\theta - \theta^*_{low}]`: for statistics that resampling biases.

    Source: Davison & Hinkley 1997, section 5.2.1.
    """
    found = interval(value, replicates, level)
    return Interval(value, 2 * value - found.high, 2 * value - found.low)


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The share of items predicted right."""
    return float(np.mean(gold == predicted))


def confusion_columns(gold: np.ndarray, predicted: np.ndarray, classes: Sequence[Any]) -> Float[np.ndarray, "n k"]:
    """Per item and class: right, predicted, gold (3 x classes columns), whose sums give every F1."""
    is_gold = gold[:, None] == np.asarray(classes, dtype=object)
    is_predicted = predicted[:, None] == np.asarray(classes, dtype=object)
    return np.concatenate([is_gold & is_predicted, is_predicted, is_gold], axis=1).astype(float)


def macro_f1_of_sums(sums: np.ndarray) -> Any:
    r"""Macro-F1 from the sums of `confusion_columns`: :math:`\frac1C\sum_c 2\,TP_c/(P_c+G_c)`, over classes that occur."""
    right, predicted, gold = np.split(sums, 3, axis=-1)
    occurs = (predicted + gold) > 0
    f1 = np.divide(2 * right, predicted + gold, out=np.zeros_like(right), where=occurs)
    return f1.sum(-1) / np.maximum(occurs.sum(-1), 1)


def macro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The unweighted mean of the classes' F1, over the classes that occur in gold or predicted."""
    classes = sorted({*gold, *predicted}, key=str)
    return float(macro_f1_of_sums(confusion_columns(gold, predicted, classes).sum(0)))


def per_class(gold: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Support, precision, recall and F1 of each class, by falling support; precision is None where nothing was predicted."""
    classes = sorted({*gold, *predicted}, key=str)
    right, made, there = np.split(confusion_columns(gold, predicted, classes).sum(0), 3)
    rows = [
        {
            "label": label,
            "support": int(g),
            "precision": float(r / p) if p else None,
            "recall": float(r / g) if g else None,
            "f1": float(2 * r / (p + g)),
        }
        for label, r, p, g in zip(classes, right, made, there, strict=True)
    ]
    return sorted(rows, key=lambda row: (-row["support"], str(row["label"])))


def r2_columns(gold: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
    """Per item: squared error, y, y squared, 1; their sums give :math:`R^2`."""
    return np.column_stack([(gold - predicted) ** 2, gold, gold**2, np.ones(len(gold))])


def r2_of_sums(sums: np.ndarray) -> Any:
    r""":math:`R^2 = 1 - \sum(y-\hat y)^2 / \sum(y-\bar y)^2`, with the mean of the same (re)sample; NaN where y does not vary."""
    total = sums[..., 2] - sums[..., 1] ** 2 / sums[..., 3]
    varies = total > ROUNDING * sums[..., 2]
    return 1 - np.divide(sums[..., 0], total, out=np.full_like(total, np.nan), where=varies)


def r2(gold: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """:math:`R^2`, its sums taken around the mean of gold, which changes nothing but their rounding; NaN if gold is constant."""
    centre = gold.mean()
    return float(r2_of_sums(r2_columns(gold - centre, predicted - centre).sum(0)))


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
    below = (np.sum(replicates <= 0) + 1) / (b + 1)
    above = (np.sum(replicates >= 0) + 1) / (b + 1)
    if min(below, above) == 1 / (b + 1) and (spread := np.std(replicates)) > 0:
        tail = math.erfc(abs(float(np.mean(replicates))) / float(spread) / math.sqrt(2)) / 2
        below, above = (min(side, tail) if side == 1 / (b + 1) else side for side in (below, above))
    return float(min(1.0, 2 * min(below, above)) if two_sided else below)


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


def sign_flip_p(
    values: Float[np.ndarray, "n k"],
    clusters: Int[np.ndarray, " n"] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[float]:
    r"""Two-sided p of each column's mean being 0, if the clusters' sums are symmetric around 0.

    :math:`p = (1 + \#\{|\sum_s \epsilon_s v_s| \ge |\sum_s v_s|\}) / (1 + R)` over random signs; all signs, without
    the added 1, where there are no more than R of them. Source: Fisher 1935, section 21.

    Raises:
        ValueError: values that are not finite.

    >>> sign_flip_p(np.array([[1.0], [2.0], [3.0]]))
    [0.25]
    """
    _check_finite("values", values)
    _, index = np.unique(np.arange(len(values)) if clusters is None else clusters, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    n = len(sums)
    every = n < 60 and 2**n <= replicates
    limit = np.abs(sums.sum(0)) - 1e-12 * np.abs(sums).sum(0)
    if every:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return [float(v) for v in (np.abs(signs @ sums) >= limit).mean(0)]
    rng, as_large = np.random.default_rng(seed), np.ones(values.shape[1])
    for start in range(0, replicates, REPLICATES):
        signs = rng.choice([-1.0, 1.0], size=(min(REPLICATES, replicates - start), n))
        as_large += (np.abs(signs @ sums) >= limit).sum(0)
    return [float(v) for v in as_large / (replicates + 1)]


@dataclass(frozen=True)
class Comparison:
    """One pair of conditions: their difference, its interval and the corrected p-value."""

    a: int
    b: int
    difference: Interval
    p: float


def compare_pairs(estimates: Sequence[float], replicates: Float[np.ndarray, "b k"]) -> list[Comparison]:
    """All pairs of conditions scored on the same resamples, two-sided, Holm-corrected over the pairs.

    Args:
        estimates: each condition's score.
        replicates: the same of each resample, a column a condition.

    Returns:
        For each pair a < b the difference b - a with its percentile interval, and the corrected p.

    Raises:
        ValueError: replicates that are not finite.
    """
    pairs = [(a, b) for a in range(len(estimates)) for b in range(a + 1, len(estimates))]
    differences = [replicates[:, b] - replicates[:, a] for a, b in pairs]
    corrected = holm([bootstrap_p(d) for d in differences])
    return [
        Comparison(a, b, interval(estimates[b] - estimates[a], d), p)
        for (a, b), d, p in zip(pairs, differences, corrected, strict=True)
    ]


def best_set(
    estimates: Sequence[float], replicates: Float[np.ndarray, "b k"], alpha: float = 0.05
) -> tuple[Bool[np.ndarray, " k"], list[float]]:
    """Which conditions are not significantly worse than the best one.

    Each is compared with the best estimate on the same resamples, one-sided, Holm-corrected over the conditions.

    Returns:
        A mask over the conditions, and each one's corrected p of being worse (1 for the best itself).

    Raises:
        ValueError: estimates or replicates that are not finite.
    """
    _check_finite("estimates", np.asarray(estimates))
    best = int(np.argmax(estimates))
    others = [i for i in range(len(estimates)) if i != best]
    corrected = holm([bootstrap_p(replicates[:, best] - replicates[:, i], two_sided=False) for i in others])
    p = np.ones(len(estimates))
    p[others] = corrected
    return p > alpha, [float(v) for v in p]


def _check_finite(name: str, values: np.ndarray) -> None:
    """NaN is on neither side of 0: a count of the other side would call it the plainest effect of all."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise InputError(
            f"{name}: expected finite numbers, got {len(bad)} of {values.size} that are not, first at {place}"
        )


def check_disjoint(splits: Mapping[str, Sequence[Any]]) -> None:
    """Raise `ValueError`, naming an offender, if something is in two splits."""
    seen: dict[Any, str] = {}
    for name, members in splits.items():
        for member in set(members):
            if member in seen:
                raise InputError(f"{str(member)[:60]!r} is in two splits, {seen[member]} and {name}: expected one")
            seen[member] = name
