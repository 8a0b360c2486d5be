r"""How probe predictions are judged: accuracy, F1, :math:`R^2` and selectivity.

Their intervals are those of `resampling`, their tests those of `significance`, and of effects
`effects` has both; all are importable from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from layerscope.errors import InputError

from .distributions import t_quantile
from .effects import Comparison as Comparison
from .effects import Effects as Effects
from .effects import compare_pairs as compare_pairs
from .effects import mean_effects as mean_effects
from .effects import mean_p as mean_p
from .resampling import LEVEL as LEVEL
from .resampling import REPLICATES as REPLICATES
from .resampling import TESTABLE as TESTABLE
from .resampling import ClusterBootstrap as ClusterBootstrap
from .resampling import Interval as Interval
from .resampling import Kind as Kind
from .resampling import effective_clusters as effective_clusters
from .resampling import few_clusters as few_clusters
from .resampling import interval as interval
from .significance import ALPHA as ALPHA
from .significance import Floor as Floor
from .significance import benjamini_hochberg as benjamini_hochberg
from .significance import best_set as best_set
from .significance import floor_of as floor_of
from .significance import holm as holm
from .significance import sign_flip_p as sign_flip_p
from .significance import stratum_weights as stratum_weights
from .significance import weighted_spearman as weighted_spearman

ROUNDING = 1e-12
"""A sum of squares about the mean below this share of that about 0 counts as 0."""


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The share of items predicted right."""
    return float(np.mean(gold == predicted))


def confusion_columns(
    gold: np.ndarray, predicted: np.ndarray, classes: Sequence[Any]
) -> Float[np.ndarray, "n k"]:
    """Per item and class: right, predicted, gold (3 x classes columns),
    whose sums give every F1.
    """
    is_gold = gold[:, None] == np.asarray(classes, dtype=object)
    is_predicted = predicted[:, None] == np.asarray(classes, dtype=object)
    return np.concatenate([is_gold & is_predicted, is_predicted, is_gold], axis=1).astype(float)


def macro_f1_of_sums(sums: np.ndarray) -> Any:
    r"""Macro-F1 from the sums of `confusion_columns`: :math:`\frac1C\sum_c 2\,TP_c/(P_c+G_c)`, over
    classes that occur.

    Of a resample it leaves out the classes that fell out of it, which makes a percentile interval
    too narrow: `macro_f1_interval` does not.
    """
    right, predicted, gold = np.split(sums, 3, axis=-1)
    occurs = (predicted + gold) > 0
    f1 = np.divide(2 * right, predicted + gold, out=np.zeros_like(right), where=occurs)
    return f1.sum(-1) / np.maximum(occurs.sum(-1), 1)


def macro_f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """The unweighted mean of the classes' F1, over the classes that occur in gold or predicted."""
    classes = sorted({*gold, *predicted}, key=str)
    return float(macro_f1_of_sums(confusion_columns(gold, predicted, classes).sum(0)))


def macro_f1_interval(
    gold: np.ndarray, predicted: np.ndarray, boot: ClusterBootstrap, level: float = LEVEL
) -> Interval:
    r"""Macro-F1 over the classes of this sample, fixed, with an interval that does not lose the
    rare ones.

    .. math:: u_i = \frac1C \sum_c \frac{2\,tp_{ic} - F_c (p_{ic} + g_{ic})}{P_c + G_c}, \qquad
        s^2 = \mathrm{Var}\Bigl(\sum_i u_i\Bigr) + \frac{1}{C^2} \sum_c \max(0, v_c - s_c^2)

    The first term is the delta method over clusters. A class of few items that are all right (or
    all wrong) would add nothing to it: there :math:`v_c`, the variance of a share of as many items
    with one right and one wrong more, takes the place of the class's own :math:`s_c^2`. A class
    that the sample does not have is in neither the value nor the interval.
    """
    classes = sorted({*gold, *predicted}, key=str)
    columns = confusion_columns(gold, predicted, classes)
    right, n_predicted, n_gold = np.split(columns.sum(0), 3)
    f1 = 2 * right / (n_predicted + n_gold)
    value, n = float(f1.mean()), boot.n_clusters
    if n == 1:
        return Interval(value, float("nan"), float("nan"))
    # u_i: what each item adds to each class's F1, to first order, summed over each cluster.
    is_right, is_predicted, is_gold = np.split(columns, 3, axis=1)
    of_item = (2 * is_right - f1 * (is_predicted + is_gold)) / (n_predicted + n_gold)
    influence = boot.by_cluster(of_item)
    spread = n / (n - 1)
    of_class = spread * (influence**2).sum(0)
    # v_c: the variance of a share with one right and one wrong item more.
    size = (n_predicted + n_gold) / 2 + 2
    smoothed = (2 * right + 1) / (n_predicted + n_gold + 2)
    rare = np.maximum(smoothed * (1 - smoothed) / size - of_class, 0.0)
    variance = spread * (influence.mean(1) ** 2).sum() + rare.sum() / len(classes) ** 2
    half = float(t_quantile((1 + level) / 2, n - 1)) * float(np.sqrt(variance))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def selectivity(
    right: Float[np.ndarray, " n"],
    control_right: Float[np.ndarray, " n"],
    control_scores: Sequence[float],
    boot: ClusterBootstrap,
    level: float = LEVEL,
) -> Interval:
    r"""The task's accuracy less the control tasks', over test sentences *and* over the control
    tasks that might be drawn.

    .. math:: s^2 = s_\text{sentences}^2 + \max\Bigl(0, \frac{s_\text{seeds}^2}{S} -
        \frac{\overline{m_i (1 - m_i)}}{(S - 1)\,n}\Bigr)

    with the variance of the control scores between S seeds, less what the test items alone add to
    it: of seeds that right an item with probability :math:`m_i`. Student's t has the degrees of
    freedom of Satterthwaite (1946). With one seed the spread of control tasks is not known, and
    there is no interval.

    Args:
        right: 1 for each test item that the task's probe gets right.
        control_right: the share of control seeds that get it right.
        control_scores: accuracy of each control seed.
    """
    value = float(right.mean() - np.mean(control_scores))
    seeds, n = len(control_scores), boot.n_clusters
    if seeds < 2 or n < 2:
        return Interval(value, float("nan"), float("nan"))
    of_sentences = float(boot.standard_errors((right - control_right)[:, None])[0]) ** 2
    of_items = float((control_right * (1 - control_right)).mean()) / ((seeds - 1) * len(right))
    of_tasks = max(0.0, float(np.var(control_scores, ddof=1)) / seeds - of_items)
    variance = of_sentences + of_tasks
    if variance == 0:
        return Interval(value, value, value)
    # Satterthwaite (1946)
    freedom = variance**2 / (of_sentences**2 / (n - 1) + of_tasks**2 / (seeds - 1))
    half = float(t_quantile((1 + level) / 2, freedom)) * variance**0.5
    return Interval(value, value - half, value + half)


def per_class(gold: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Support, precision, recall and F1 of each class, by falling support;
    precision is None where nothing was predicted.
    """
    classes = sorted({*gold, *predicted}, key=str)
    columns = confusion_columns(gold, predicted, classes)
    # Right, predicted and gold, a third of the columns each.
    counts = np.split(columns.sum(0), 3)
    rows = []
    for label, right, n_predicted, n_gold in zip(classes, *counts, strict=True):
        rows.append(
            {
                "label": label,
                "support": int(n_gold),
                "precision": float(right / n_predicted) if n_predicted else None,
                "recall": float(right / n_gold) if n_gold else None,
                "f1": float(2 * right / (n_predicted + n_gold)),
            }
        )
    return sorted(rows, key=lambda row: (-row["support"], str(row["label"])))


def r2_columns(
    gold: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n k"]:
    """Per item: squared error, y, y squared, 1; their sums give :math:`R^2`."""
    return np.column_stack([(gold - predicted) ** 2, gold, gold**2, np.ones(len(gold))])


def r2_of_sums(sums: np.ndarray) -> Any:
    r""":math:`R^2 = 1 - \sum(y-\hat y)^2 / \sum(y-\bar y)^2`, with the mean of the same (re)sample;
    NaN where y does not vary.
    """
    total = sums[..., 2] - sums[..., 1] ** 2 / sums[..., 3]
    varies = total > ROUNDING * sums[..., 2]
    return 1 - np.divide(sums[..., 0], total, out=np.full_like(total, np.nan), where=varies)


def r2(gold: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """:math:`R^2`, its sums taken around the mean of gold, which changes nothing but their
    rounding; NaN if gold is constant.
    """
    centre = gold.mean()
    return float(r2_of_sums(r2_columns(gold - centre, predicted - centre).sum(0)))


def check_disjoint(splits: Mapping[str, Sequence[Any]]) -> None:
    """Raise `ValueError`, naming an offender, if something is in two splits."""
    seen: dict[Any, str] = {}
    for name, members in splits.items():
        for member in set(members):
            if member in seen:
                raise InputError(
                    f"{str(member)[:60]!r} is in two splits, {seen[member]} and {name}: "
                    "expected one"
                )
            seen[member] = name
