"""Neurons ranked by how much they say of a property, on training rows: a score for each, larger for
more.

    mean_difference      sum over pairs of classes of |m_c - m_c'| (Probeless, Antverg & Belinkov
                         2022; of two classes the mean difference)
    standard_difference  the same of standardised neurons
    f                    F statistic of a one-way analysis of variance
    mutual_information   with the label, estimated from nearest neighbours (Ross 2014), in bits
    elastic_net          linguistic correlation analysis (Dalvi et al. 2019): the smallest share p
                         of a class's weight mass at which the neuron enters that class's top, by a
                         logistic probe with l1 and l2 penalties

A ranking and a probe are separate choices: compare rankings with the same probe, and by what
happens in the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

from .design import as_features, check_finite
from .labels import Labels, encode
from .rows import chosen_blocks

BLOCK = 128
"""Rows at a time: what stays in a processor's cache."""
BAG = 128
"""Rows of a class that are summed in their own type."""
Scores = Float[np.ndarray, " d"]
Rows = Int[np.ndarray, " n"] | None
"""Which rows of X the labels are of: all by default."""


def mean_difference(X: Float[np.ndarray, "m d"], y: Labels, rows: Rows = None) -> Scores:
    """Sum over pairs of classes of the absolute difference of their means."""
    return _apart(_class_means(X, y, rows, squares=False)[0])


def standard_difference(X: Float[np.ndarray, "m d"], y: Labels, rows: Rows = None) -> Scores:
    """The same in standard deviations of each neuron."""
    means, deviation = _class_means(X, y, rows)
    return _apart(means) / np.maximum(deviation, 1e-12)


def _apart(means: Float[np.ndarray, "c d"]) -> Scores:
    total = np.zeros(means.shape[1])
    for c, mean in enumerate(means):
        total = total + np.abs(means[c + 1 :] - mean).sum(0)
    return total


def _class_means(
    X: Float[np.ndarray, "m d"], y: Labels, rows: Rows, squares: bool = True
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " d"]]:
    """Means of the classes, and the standard deviation of all; one pass, summed in float64.

    Args:
        squares: whether the deviation is asked for; 0 without. The means are then about a point
            amid the rows.
    """
    features = as_features(X)
    classes, codes = encode(y)
    counts = np.bincount(codes, minlength=len(classes))
    index = None if rows is None else torch.as_tensor(rows)
    deviation = np.zeros(features.shape[1])
    if squares:
        sums, square_sums = _sums_about(features, index, codes, len(classes))
        n = len(codes)
        deviation = (square_sums / n - (sums.sum(0) / n) ** 2).clamp_min(0).sqrt().numpy()
    else:
        sums = _sums(features, rows, codes, counts)
    # A sum is finite only if all its values are, apart from overflow.
    if not bool(sums.isfinite().all()):
        check_finite(features if index is None else features[index])
    return sums.numpy() / counts[:, None], deviation


def _sums(
    X: Float[Tensor, "m d"], rows: Rows, codes: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"]
) -> Float[Tensor, "c d"]:
    """Sums by class: of a few rows of a class at a time where they lie, in the type of X."""
    # Small integers are sorted by counting.
    small = codes.astype(np.min_scalar_type(len(counts)))
    order = np.argsort(small, kind="stable")  # the rows of one class after another
    order = order if rows is None else rows[order]
    bags = -(-counts // BAG)  # of each class
    of_class = np.repeat(np.arange(len(counts)), bags)
    within = np.arange(len(of_class)) - np.repeat(bags.cumsum() - bags, bags)
    starts = np.repeat(counts.cumsum() - counts, bags) + within * BAG
    parts = torch.nn.functional.embedding_bag(
        torch.from_numpy(order), X, torch.from_numpy(starts), mode="sum"
    )
    first = bags.cumsum() - bags
    return torch.from_numpy(np.add.reduceat(parts.double().numpy(), first, axis=0))


def _sums_about(
    X: Float[Tensor, "m d"],
    index: Int[Tensor, " n"] | None,
    codes: Int[np.ndarray, " n"],
    n_classes: int,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " d"]]:
    """Sums by class and of all squares, about a point amid the rows."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(codes), n_classes)
    of_class = one_hot.to(X.dtype).T
    width = X.shape[1]
    sums = torch.zeros(n_classes, width, dtype=torch.float64)
    square_sums = torch.zeros(width, dtype=torch.float64)
    room, ones = X.new_empty(BLOCK, width), X.new_ones(BLOCK)
    amid = None
    for block, values in chosen_blocks(X, index, BLOCK):
        # About a point amid the rows, squares lose no digits to a large mean.
        amid = values.mean(0) if amid is None else amid
        part = torch.sub(values, amid, out=room[: len(values)])
        sums += of_class[:, block] @ part
        square_sums += ones[: len(part)] @ part.square_()
    return sums, square_sums


def f(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """Variance between classes over variance within."""
    from sklearn.feature_selection import f_classif

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(f_classif(X, encode(y)[1])[0], nan=0.0)


def mutual_information(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """Bits that a neuron's value tells of the label.

    Raises:
        InputError: every class has one item: none has a neighbour in its class.
    """
    from sklearn.feature_selection import mutual_info_classif

    classes, codes = encode(y)
    if np.bincount(codes).max() < 2:
        raise InputError(
            "ranking mutual_information: expected a class with at least 2 items, "
            f"got {len(classes)} classes of one item"
        )
    return mutual_info_classif(X, codes, random_state=0) / np.log(2)


def elastic_net(
    X: Float[np.ndarray, "n d"], y: Labels, l1: float = 1e-5, l2: float = 1e-5
) -> Scores:
    """1 - p, p the smallest share of weight mass at which any class takes the neuron."""
    weights = elastic_net_weights(X, y, l1, l2).abs().numpy()
    falling = np.sort(weights, axis=1)[:, ::-1]
    total = np.maximum(weights.sum(1, keepdims=True), 1e-300)
    mass = falling.cumsum(1) / total
    # Each neuron's place in each class's order, and the mass that is reached there.
    place = (-weights).argsort(1, kind="stable").argsort(1, kind="stable")
    reached = np.take_along_axis(mass, place, 1)
    return 1 - reached.min(0) + 1e-12 * weights.max(0)  # ties by the weight itself


RANKINGS: dict[str, Callable[..., Scores]] = {
    "mean_difference": mean_difference,
    "standard_difference": standard_difference,
    "f": f,
    "mutual_information": mutual_information,
    "elastic_net": elastic_net,
}
BY_MEANS = ("mean_difference", "standard_difference")
"""Rankings that read some rows of a matrix without a copy of them."""


def rank(
    X: Float[np.ndarray, "m d"], y: Labels, ranking: str, rows: Rows = None
) -> Int[np.ndarray, " d"]:
    """Neurons from the most to the least informative.

    Raises:
        ValueError: an unknown ranking.

    >>> X = np.array([[0.0, 0.0], [0.1, 1.0], [0.0, 2.0], [0.1, 3.0]])
    >>> rank(X, ["no", "no", "yes", "yes"], "mean_difference").tolist()
    [1, 0]
    """
    if ranking not in RANKINGS:
        raise InputError(f"ranking: expected {', '.join(RANKINGS)}, got {ranking!r}")
    if rows is None:
        scores = RANKINGS[ranking](X, y)
    elif ranking in BY_MEANS:
        scores = RANKINGS[ranking](X, y, rows)
    else:
        scores = RANKINGS[ranking](X[rows], y)
    return np.argsort(-scores, kind="stable")


LOOK_EVERY = 20
"""Iterations after which the loss is looked at."""


def elastic_net_weights(
    X: Float[np.ndarray, "n d"],
    y: Labels,
    l1: float,
    l2: float,
    tol: float = 1e-7,
    max_iter: int = 2000,
) -> Float[Tensor, "c d"]:
    """Weights on standardised features, by accelerated proximal gradient.

    min_W,b  (1/n) sum_i CE(W x_i + b, y_i) + l1 |W|_1 + l2 ||W||^2  (nats; the bias is free)
    """
    features = as_features(X)
    check_finite(features)
    classes, index = encode(y)
    Z = features.double()
    Z = (Z - Z.mean(0)) / Z.std(0, correction=0).clamp_min(1e-12)
    Z = torch.cat([Z, Z.new_ones(len(Z), 1)], 1).float()
    target = torch.nn.functional.one_hot(torch.from_numpy(index), len(classes)).float()
    n = len(Z)

    def loss(W: Tensor) -> float:
        log_p = torch.log_softmax(Z @ W, 1)
        nats = -(log_p * target).sum() / n
        return float(nats + l1 * W[:-1].abs().sum() + l2 * (W[:-1] ** 2).sum())

    largest = float(torch.linalg.eigvalsh((Z.T @ Z).double())[-1]) / n
    step = 1 / (largest / 2 + 2 * l2)  # the softmax's curvature is at most 1/2
    W = torch.zeros(Z.shape[1], len(classes))
    ahead, momentum, loss_before = W, 1.0, np.inf
    for iteration in range(max_iter):
        slope = Z.T @ (torch.softmax(Z @ ahead, 1) - target) / n
        slope[:-1] += 2 * l2 * ahead[:-1]
        new = ahead - step * slope
        # The proximal step of |W|_1: towards 0, and not beyond.
        new[:-1] = new[:-1].sign() * (new[:-1].abs() - step * l1).clamp_min(0)
        # Nesterov's momentum, as in FISTA (Beck & Teboulle 2009).
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / faster * (new - W)
        W, momentum = new, faster
        if iteration % LOOK_EVERY == LOOK_EVERY - 1:
            loss_now = loss(W)
            if loss_now > loss_before:
                ahead, momentum = W, 1.0  # restart: the momentum overshot
            elif loss_before - loss_now < tol * abs(loss_now):
                break
            loss_before = min(loss_now, loss_before)
    return W[:-1].T
