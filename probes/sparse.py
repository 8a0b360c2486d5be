"""k-sparse probes: how few neurons are sufficient (Gurnee et al. 2023)?

The k neurons that a ranking puts first on the training rows, then a logistic regression on them
alone, its classes weighted to count alike (`probes.nested`).

There are two baselines: k random neurons, and the first k directions of a random rotation, ranked
in the same way, which shows whether the basis of the neurons matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerscope.arguments import checked
from layerscope.errors import InputError

from .checks import features_and_classes
from .design import as_features, check_finite, penalties
from .labels import Labels, as_label_array, encode_classes, encode_with
from .linear import LinearClassifier
from .nested import nested_regressions
from .rankings import rank
from .rows import chosen_blocks

BAND = (0.025, 0.975)
TURNED = 1 << 16
"""Values that are turned at a time: they stay in a processor's cache."""
FEW = 4
"""Rows that are less than this part of a matrix are taken out before their neurons are."""
HOLD = 1 << 27
"""Bytes of neurons that draws may hold together (twice, while they are turned)."""


class SparseProbe(LinearClassifier):
    """A binary probe that reads k neurons.

    Args:
        k: how many (all, where there are fewer).
        ranking: see `probes.rankings`.
        l2: penalty on the standardised weights.

    Attributes:
        neurons_: [k], the most informative first.
        coef_, intercept_, classes_: see `LinearClassifier`; 0 at all other neurons.

    >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0], [5.0, 5.0]])
    >>> SparseProbe(k=1).fit(X, [0, 0, 1, 1]).neurons_.tolist()
    [0]
    """

    neurons_: np.ndarray
    _arrays = ("coef_", "intercept_", "neurons_")

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(self, k: int = 16, ranking: str = "standard_difference", l2: float = 1e-2) -> None:
        self.k = k
        self.ranking = ranking
        self.l2 = l2

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any) -> SparseProbe:
        """Fit on features [n d] and one of two labels per row.

        Raises:
            ValueError: for X that is not finite, other than two classes, or k below 1.
        """
        X, y = features_and_classes(self, X, y)
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            one = "one class" if len(self.classes_) == 1 else f"{len(self.classes_)} classes"
            raise InputError(
                f"Only binary classification is supported: expected 2 classes, got {one}"
            )
        (l2,) = penalties(self.l2)
        if self.k < 1:
            raise InputError(f"k: expected at least 1, got {self.k}")
        self.neurons_ = rank(X, y, self.ranking)[: self.k]
        chosen = torch.from_numpy(X[:, self.neurons_].T)
        coefs, biases = nested_regressions(chosen, y == self.classes_[1], l2, [self.k])
        # The softmax of (0, w x + b) is the sigmoid of w x + b: the form of a logistic probe of two
        # classes.
        self.coef_, self.intercept_ = np.zeros((2, X.shape[1])), np.array([0.0, biases[0]])
        self.coef_[1, self.neurons_] = coefs[0]
        return self


@checked
def sparse_sweep(
    X: Float[np.ndarray, "n d"],
    y: Labels,
    X_test: Float[np.ndarray, "m d"],
    y_test: Labels,
    ks: Sequence[int],
    ranking: str = "standard_difference",
    l2: float = 1e-2,
    n_random: int = 20,
    n_rotations: int = 5,
    seed: int = 0,
    train: Int[np.ndarray, " a"] | None = None,
    test: Int[np.ndarray, " b"] | None = None,
) -> list[dict[str, Any]]:
    """F1 and Matthews' correlation as functions of k, with the two baselines.

    Args:
        y, y_test: of two classes; the second in order is the positive one.
        n_random: draws of neurons, the first k of each for k.
        n_rotations: random orthogonal bases.
        train, test: the rows of X and of X_test that count, all by default; with both sides of a
            split in one matrix (``X_test`` is ``X``) nothing is copied out of it.

    Returns:
        For each k: ``k, neurons, f1, mcc``, and ``random_f1, random_f1_low, random_f1_high,
            rotated_f1, ...`` (means and
        95% of the draws; with few rotations their whole range), ``random_mcc, rotated_mcc``.
    """
    ks = list(ks)
    if not ks or min(ks) < 1:
        raise InputError(f"ks: expected numbers of neurons from 1, got {ks}")
    if X.ndim != 2 or X_test.ndim != 2 or X.shape[1] != X_test.shape[1]:
        raise InputError(
            f"expected X and X_test of one width, got {list(X.shape)} and {list(X_test.shape)}"
        )
    (l2,) = penalties(l2)
    labels = _chosen("y", y, len(X), train)
    gold_labels = _chosen("y_test", y_test, len(X_test), test)
    classes, index = encode_classes("y", labels, len(labels))
    if len(classes) != 2:
        raise InputError(
            f"Only binary classification is supported: expected 2 classes, got {len(classes)}"
        )
    positive, gold = index == 1, encode_with(gold_labels, classes) == 1
    d, widest = X.shape[1], max(ks)
    rng = np.random.default_rng(seed)

    def scores(
        X: np.ndarray, X_test: np.ndarray, orders: Sequence[np.ndarray]
    ) -> list[Float[np.ndarray, "c 2"]]:
        """F1 and Matthews' correlation of the probe on each order's first k neurons, for each k."""
        orders = [order[:widest] for order in orders]
        # What several orders read is taken out of the rows once.
        neurons = np.unique(np.concatenate(orders))
        if 2 * len(neurons) > d:
            neurons = np.arange(d)
        columns, test_columns = _columns(neurons, (X, train), (X_test, test))
        _check_columns(columns, X, train, "X")
        _check_columns(test_columns, X_test, test, "X_test")
        scores_by_order = []
        for order in orders:
            place = torch.from_numpy(np.searchsorted(neurons, order))
            coefs, biases = nested_regressions(columns, positive, l2, ks, place)
            read = test_columns.index_select(0, place).double()
            logits = (torch.from_numpy(coefs) @ read).numpy() + biases[:, None]
            scores_by_order.append(_f1_and_mcc(gold, logits > 0))
        return scores_by_order

    order = rank(X, positive, ranking, train)
    (ranked,) = scores(X, X_test, [order])
    draws = [rng.permutation(d) for _ in range(n_random)]
    together = max(1, HOLD // (X.itemsize * len(X) * min(widest, d)))
    random = []
    for start in range(0, n_random, together):
        random += scores(X, X_test, draws[start : start + together])
    rotated = []
    for _ in range(n_rotations):
        # The information is the same in every basis; only what single coordinates tell changes.
        # What is better than this is due to the neurons themselves.
        Q = rotation(d, rng).astype(X.dtype)
        turned = X @ Q
        turned_test = turned if X_test is X else X_test @ Q
        rotated += scores(turned, turned_test, [rank(turned, positive, ranking, train)])
    records = []
    for place, k in enumerate(ks):
        f1, mcc = ranked[place].tolist()
        record = {"k": k, "neurons": order[:k].tolist(), "f1": f1, "mcc": mcc}
        record |= _draws_summary("random", [draw[place] for draw in random])
        record |= _draws_summary("rotated", [draw[place] for draw in rotated])
        records.append(record)
    return records


def _chosen(name: str, y: Labels, n: int, rows: np.ndarray | None) -> np.ndarray:
    """The labels of some rows.

    Raises:
        InputError: not one label for each of n rows.
    """
    labels = as_label_array(y)
    if len(labels) != n:
        raise InputError(f"{name}: expected a label for each of {n} rows, got {len(labels)}")
    return labels if rows is None else labels[rows]


def _columns(
    neurons: Int[np.ndarray, " k"], *sides: tuple[np.ndarray, np.ndarray | None]
) -> list[Tensor]:
    """Values [k n] of some neurons, which are in order, in the rows of each side of a split, one
    neuron after the other.
    """
    side_columns, seen, values = [], None, torch.empty(0, 0)
    for X, rows in sides:
        index = None if rows is None else torch.as_tensor(rows)
        # Of every row, and once: rows are read fastest where they lie.
        if X is not seen:
            values, seen = as_features(X), X
            if index is not None and FEW * len(index) < len(values):
                values, index, seen = values.index_select(0, index), None, None
            if len(neurons) < values.shape[1]:
                values = values.index_select(1, torch.from_numpy(neurons))
        columns = values.new_empty(len(neurons), len(values) if index is None else len(index))
        for block, part in chosen_blocks(values, index, max(1, TURNED // len(neurons))):
            columns[:, block] = part.T
        side_columns.append(columns)
    return side_columns


def _check_columns(
    columns: Float[Tensor, "k n"], X: np.ndarray, rows: np.ndarray | None, name: str
) -> None:
    """Raise `NonFiniteError` for values that are not finite."""
    # The sum is finite only if all values are, apart from overflow.
    if not bool(columns.sum().isfinite()):
        features = as_features(X)
        check_finite(features if rows is None else features[torch.as_tensor(rows)], name)


def _draws_summary(name: str, pairs: Sequence[np.ndarray]) -> dict[str, float]:
    """Means of F1 and of Matthews' correlation over draws, and 95% of the F1s."""
    if not pairs:
        return {}
    f1, mcc = np.array(pairs).T
    low, high = np.quantile(f1, BAND)
    return {
        f"{name}_f1": float(f1.mean()),
        f"{name}_f1_low": float(low),
        f"{name}_f1_high": float(high),
        f"{name}_mcc": float(mcc.mean()),
    }


def rotation(width: int, rng: np.random.Generator) -> Float[np.ndarray, "d d"]:
    """A random orthogonal basis."""
    return np.linalg.qr(rng.normal(size=(width, width)))[0]


def _f1_and_mcc(
    gold: Bool[np.ndarray, " m"], predicted: Bool[np.ndarray, "c m"]
) -> Float[np.ndarray, "c 2"]:
    """F1, 2 TP / (2 TP + FP + FN), 0 without any; and Matthews' correlation, 0 where one side does
    not vary.
    """
    n, n_gold = float(len(gold)), float(np.count_nonzero(gold))
    both = np.count_nonzero(predicted & gold, axis=1).astype(np.float64)
    n_predicted = np.count_nonzero(predicted, axis=1).astype(np.float64)
    size = n_gold * (n - n_gold) * n_predicted * (n - n_predicted)
    apart = n * both - n_gold * n_predicted
    mcc = np.divide(apart, size**0.5, out=np.zeros_like(apart), where=size > 0)
    return np.stack([2 * both / np.maximum(n_gold + n_predicted, 1), mcc], axis=1)
