"""k-sparse probes: how few neurons are sufficient (Gurnee et al. 2023)?

The k neurons that a ranking puts first on the training rows, then a logistic regression on them
alone, its classes weighted to count alike (`probes.nested`).

There are two baselines: k random neurons, and the first k directions of a random rotation, ranked
in the same way, which shows whether the basis of the neurons matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

from .checks import features_and_classes
from .design import as_features, check_finite, penalties
from .labels import Labels, as_label_array, encode_classes, encode_with
from .linear import LinearClassifier
from .nested import nested_regressions
from .rankings import rank
from .rows import chosen_blocks

BAND = (0.025, 0.975)
GATHERED = 256
"""Rows at a time whose chosen neurons are taken out: they stay in a processor's cache."""
HOLD = 1 << 28
"""Bytes of neurons that draws may hold together."""


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products as small as a sweep's gain nothing from threads; beside other processes, every one
    of them would wait for a thread that is not running.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
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
    if not ks or min(ks) < 1:
        raise InputError(f"ks: expected numbers of neurons from 1, got {list(ks)}")
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
    ) -> list[list[tuple[float, float]]]:
        """F1 and Matthews' correlation of the probe on each order's first k neurons, for each k."""
        orders = [order[:widest] for order in orders]
        # What several orders read is taken out of the rows once.
        neurons = np.unique(np.concatenate(orders))
        columns = _columns(X, train, neurons, "X")
        test_columns = _columns(X_test, test, neurons, "X_test")
        found = []
        for order in orders:
            place = torch.from_numpy(np.searchsorted(neurons, order))
            coefs, biases = nested_regressions(columns.index_select(0, place), positive, l2, ks)
            read = test_columns.index_select(0, place).double()
            logits = (torch.from_numpy(coefs) @ read).numpy() + biases[:, None]
            predicted = logits > 0
            found.append([(_f1(gold, row), _mcc(gold, row)) for row in predicted])
        return found

    order = rank(X, labels, ranking, train)
    (ranked,) = scores(X, X_test, [order])
    draws = [rng.permutation(d) for _ in range(n_random)]
    together = max(1, HOLD // (X.itemsize * len(labels) * min(widest, d)))
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
        rotated += scores(turned, turned_test, [rank(turned, labels, ranking, train)])
    records = []
    for place, k in enumerate(ks):
        f1, mcc = ranked[place]
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
    X: np.ndarray, rows: np.ndarray | None, neurons: np.ndarray, name: str
) -> Float[Tensor, "k n"]:
    """The rows' values of some neurons, one neuron after the other.

    Raises:
        NonFiniteError: values that are not finite.
    """
    features, chosen = as_features(X), torch.from_numpy(neurons)
    index = None if rows is None else torch.as_tensor(rows)
    n = len(features) if index is None else len(index)
    columns = features.new_empty(len(neurons), n)
    room = features.new_empty(min(GATHERED, n), len(neurons))
    for block, values in chosen_blocks(features, index, GATHERED):
        part = torch.index_select(values, 1, chosen, out=room[: len(values)])
        columns[:, block] = part.T
    # The sum is finite only if all values are, apart from overflow.
    if not bool(columns.sum().isfinite()):
        check_finite(features if index is None else features[index], name)
    return columns


def _draws_summary(name: str, pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
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


def _f1(gold: np.ndarray, predicted: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN); 0 without any."""
    return float(2 * (gold & predicted).sum() / max(gold.sum() + predicted.sum(), 1))


def _mcc(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews' correlation; 0 where one side does not vary."""
    n, both = len(gold), float((gold & predicted).sum())
    n_gold, n_predicted = float(gold.sum()), float(predicted.sum())
    size = n_gold * (n - n_gold) * n_predicted * (n - n_predicted)
    return (n * both - n_gold * n_predicted) / size**0.5 if size else 0.0
