"""What a prediction is worth: each metric defined once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from probes.labels import Labels, as_label_array, encode_with, ordered


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Precision, recall and F1 of one class; support is its number of gold items."""

    label: Any
    support: int
    precision: float
    recall: float
    f1: float


def paired_codes(gold: Labels, predicted: Labels) -> tuple[np.ndarray, Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Classes that occur in gold or predicted, and both as indices among them."""
    gold_array, predicted_array = as_label_array(gold), as_label_array(predicted)
    if len(gold_array) != len(predicted_array) or not len(gold_array):
        raise ValueError(
            "expected as many predictions as gold labels and at least one, got "
            f"{len(predicted_array)} and {len(gold_array)}"
        )
    kinds = ordered(gold_array.tolist() + predicted_array.tolist())
    classes = np.empty(len(kinds), dtype=object)
    classes[:] = kinds
    return classes, encode_with(gold_array, classes), encode_with(predicted_array, classes)


def accuracy(gold: Labels, predicted: Labels) -> float:
    """Share of items that are right: (1/n) sum_i 1[gold_i = predicted_i]."""
    _, g, p = paired_codes(gold, predicted)
    return float((g == p).mean())


def f1_from_counts(
    hits: Float[np.ndarray, "*r c"], gold: Float[np.ndarray, "*r c"], said: Float[np.ndarray, "*r c"]
) -> Float[np.ndarray, "*r c"]:
    """F1 = 2 hits / (gold + said) per class; NaN for a class that neither occurs nor is said."""
    total = gold + said
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2 * hits / total, np.nan)


def macro_f1(gold: Labels, predicted: Labels) -> float:
    """Unweighted mean of F1 over the classes that occur in gold or predicted.

        F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)

    The same as scikit-learn's ``f1_score(average="macro", zero_division=0)``.
    """
    return float(np.mean([score.f1 for score in per_class(gold, predicted)]))


def per_class(gold: Labels, predicted: Labels) -> list[ClassScore]:
    """Support, precision, recall and F1 of every class in gold or predicted (0 where 0/0)."""
    classes, g, p = paired_codes(gold, predicted)
    c = len(classes)
    support, said = np.bincount(g, minlength=c), np.bincount(p, minlength=c)
    hits = np.bincount(g[g == p], minlength=c)
    return [
        ClassScore(
            label=classes[i],
            support=int(support[i]),
            precision=float(hits[i] / max(said[i], 1)),
            recall=float(hits[i] / max(support[i], 1)),
            f1=float(2 * hits[i] / (support[i] + said[i])),
        )
        for i in range(c)
    ]


def r2(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Coefficient of determination: 1 - sum (y - f)^2 / sum (y - mean y)^2.

    Raises:
        ValueError: if the gold values are all the same: nothing is there to explain.
    """
    y, f = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    total = float(((y - y.mean()) ** 2).sum())
    if total == 0:
        raise ValueError(f"R^2 needs gold values that vary, got {len(y)} equal values")
    return float(1 - ((y - f) ** 2).sum() / total)


def average_ranks(values: ArrayLike) -> Float[np.ndarray, " n"]:
    """Ranks from 1; tied values share the mean of the ranks that they take up."""
    _, index, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def spearman(gold: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of the (average) ranks; NaN if one side is constant."""
    a, b = average_ranks(gold), average_ranks(predicted)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / scale) if scale > 0 else float("nan")
