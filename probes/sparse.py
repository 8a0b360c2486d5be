"""k-sparse probes: how few neurons are sufficient (Gurnee et al. 2023)?

The k neurons that a ranking puts first on the training rows, then a logistic regression on them
alone, its classes weighted
to count alike:

    min_w,b  sum_i v_i log(1 + exp(-s_i (w.z_i + b))) + l2/2 ||w||^2,   v_i = n / (2 n_{y_i}),
             z standardised

There are two baselines: k random neurons, and the first k directions of a random rotation, ranked
in the same way, which shows whether the basis of the neurons matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_expit

from layerscope.errors import InputError

from .checks import features_and_classes
from .linear import LinearClassifier
from .rankings import rank

BAND = (0.025, 0.975)
BOUNDED = 20
"""Steps by the curvature's bound before Newton's method."""
SETTLED = 1e-11
"""Decrement of the bound, a row, below which no step is left ..."""
UNSURE = 0.25
"""... where the curvature is at least this part of its bound on average:
the bound then tells what Newton's decrement would.
"""


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
        if self.k < 1:
            raise InputError(f"k: expected at least 1, got {self.k}")
        self.neurons_ = rank(X, y, self.ranking)[: self.k]
        coef, bias = _weigh(X[:, self.neurons_], y == self.classes_[1], self.l2, [self.k])[self.k]
        # The softmax of (0, w x + b) is the sigmoid of w x + b: the form of a logistic probe of two
        # classes.
        self.coef_, self.intercept_ = np.zeros((2, X.shape[1])), np.array([0.0, bias])
        self.coef_[1, self.neurons_] = coef
        return self


def sparse_sweep(
    X: Float[np.ndarray, "n d"],
    y: np.ndarray,
    X_test: Float[np.ndarray, "m d"],
    y_test: np.ndarray,
    ks: Sequence[int],
    ranking: str = "standard_difference",
    l2: float = 1e-2,
    n_random: int = 20,
    n_rotations: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """F1 and Matthews' correlation as functions of k, with the two baselines.

    Args:
        y, y_test: of two classes; the second in order is the positive one.
        n_random: draws of neurons, the first k of each for k.
        n_rotations: random orthogonal bases.

    Returns:
        For each k: ``k, neurons, f1, mcc``, and ``random_f1, random_f1_low, random_f1_high,
            rotated_f1, ...`` (means and
        95% of the draws; with few rotations their whole range), ``random_mcc, rotated_mcc``.
    """
    classes = np.unique(y)
    if len(classes) != 2:
        raise InputError(
            f"Only binary classification is supported: expected 2 classes, got {len(classes)}"
        )
    positive, gold = y == classes[1], y_test == classes[1]
    d = X.shape[1]
    rng = np.random.default_rng(seed)

    def scores(train: np.ndarray, test: np.ndarray, order: np.ndarray) -> list[tuple[float, float]]:
        """F1 and Matthews' correlation of the probe on the first k neurons, for each k."""
        order = order[: max(ks)]
        # Probes of growing k use the first columns of one order.
        probes = _weigh(train.take(order, axis=1), positive, l2, ks)
        coefs, biases = np.zeros((len(order), len(ks))), np.zeros(len(ks))
        for place, k in enumerate(ks):
            coef, biases[place] = probes[k]
            coefs[: len(coef), place] = coef
        # One product for all k.
        predicted = test.take(order, axis=1).astype(np.float64) @ coefs + biases > 0
        return [(_f1(gold, column), _mcc(gold, column)) for column in predicted.T]

    order = rank(X, y, ranking)
    ranked = scores(X, X_test, order)
    random = [scores(X, X_test, rng.permutation(d)) for _ in range(n_random)]
    rotated = []
    for _ in range(n_rotations):
        # The information is the same in every basis; only what single coordinates tell changes.
        # What is better than this is due to the neurons themselves.
        Q = rotation(d, rng).astype(X.dtype)
        train, test = X @ Q, X_test @ Q
        rotated.append(scores(train, test, rank(train, y, ranking)))
    records = []
    for place, k in enumerate(ks):
        f1, mcc = ranked[place]
        record = {"k": k, "neurons": order[:k].tolist(), "f1": f1, "mcc": mcc}
        record |= _draws_summary("random", [draw[place] for draw in random])
        record |= _draws_summary("rotated", [draw[place] for draw in rotated])
        records.append(record)
    return records


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


def _weigh(
    X: Float[np.ndarray, "n k"], positive: np.ndarray, l2: float, ks: Sequence[int]
) -> dict[int, tuple[np.ndarray, float]]:
    """For each k, weights and bias of the first k neurons in their own units, in float64; each
    starts from the one before.

    First with the curvature's bound Z' diag(v) Z / 4, made once for all k, under which every step
    lowers the loss (Böhning & Lindsay 1988); where that is slow, since predictions are sure, by
    Newton's method with a line search.
    """
    n, width = X.shape
    Z = np.empty((n, width + 1), order="F")
    Z[:, 0], Z[:, 1:] = 1.0, X
    features = Z[:, 1:]
    mean = features.mean(0)
    features -= mean
    scale = np.maximum(np.sqrt(np.einsum("nk,nk->k", features, features) / n), 1e-12)
    features /= scale
    # Both classes weigh the same, however many rows they have.
    n_positive = positive.sum()
    n_negative = n - n_positive
    share = np.where(positive, n / (2 * n_positive), n / (2 * n_negative))
    # Rows times their labels' signs: the loss is then a function of Z w alone.
    Z *= np.where(positive, 1.0, -1.0)[:, None]
    ridge = np.full(width + 1, l2)
    ridge[0] = 0.0  # the bias
    bound = (Z * (share / 4)[:, None]).T @ Z + np.diag(ridge + 1e-10 * n)
    probes, w = {}, np.zeros(width + 1)
    for k in sorted({min(k, width) for k in ks}):
        first_k = slice(0, k + 1)
        inverse = np.linalg.inv(bound[first_k, first_k])
        w[first_k] = _solve(Z[:, first_k], share, ridge[first_k], inverse, w[first_k])
        coef = w[1 : k + 1] / scale[:k]
        probes[k] = coef, float(w[0] - coef @ mean[:k])
    return {k: probes[min(k, width)] for k in ks}


def _solve(
    Z: Float[np.ndarray, "n k"],
    share: Float[np.ndarray, " n"],
    ridge: Float[np.ndarray, " k"],
    bound: Float[np.ndarray, "k k"],
    w: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """The weights of least loss, of rows times their labels' signs;
    ``bound`` is the inverse of the curvature's bound.
    """

    def loss(w: np.ndarray) -> float:
        return float(-share @ log_expit(Z @ w) + ridge @ w**2 / 2)

    for _ in range(BOUNDED):
        p = expit(-(Z @ w))
        slope = ridge * w - Z.T @ (share * p)
        step = bound @ slope
        w = w - step
        # The decrement of the bound: what a step can still win.
        if slope @ step < SETTLED * len(Z):
            if 4 * np.mean(p * (1 - p)) > UNSURE:
                return w
            break
    loss_now = loss(w)
    for _ in range(100):
        p = expit(-(Z @ w))
        slope = ridge * w - Z.T @ (share * p)
        curvature = (Z * (share * p * (1 - p))[:, None]).T @ Z + np.diag(ridge + 1e-10 * len(Z))
        step = np.linalg.solve(curvature, slope)
        decrement, length = float(slope @ step), 1.0
        if decrement < 1e-9 * max(loss_now, 1e-3):
            return w - step
        # Backtracking until the step wins a share of what its slope promises.
        while loss(w - length * step) > loss_now - 0.1 * length * decrement and length > 1e-8:
            length /= 2
        w = w - length * step
        loss_now = loss(w)
    return w
