"""Neurons ranked by how much they say of a property, on training rows: a score for each, larger for more.

    mean_difference      sum over pairs of classes of |m_c - m_c'| (Probeless, Antverg & Belinkov 2022; of two classes the
                         mean difference)
    standard_difference  the same of standardised neurons
    f                    F statistic of a one-way analysis of variance
    mutual_information   with the label, estimated from nearest neighbours (Ross 2014), in bits
    elastic_net          linguistic correlation analysis (Dalvi et al. 2019): the smallest share p of a class's weight
                         mass at which the neuron enters that class's top, by a logistic probe with l1 and l2 penalties

A ranking and a probe are separate choices: compare rankings with the same probe, and by what happens in the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from .design import as_features, check_finite
from .labels import Labels, encode

BLOCK = 512
"""Rows at a time: what stays in a processor's cache."""
Scores = Float[np.ndarray, " d"]


def mean_difference(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """Sum over pairs of classes of the absolute difference of their means."""
    return _apart(_class_means(X, y)[0])


def standard_difference(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """The same in standard deviations of each neuron."""
    means, deviation = _class_means(X, y)
    return _apart(means) / np.maximum(deviation, 1e-12)


def _apart(means: Float[np.ndarray, "c d"]) -> Scores:
    return sum(
        (np.abs(means[c + 1 :] - mean).sum(0) for c, mean in enumerate(means)),
        np.zeros(means.shape[1]),
    )


def _class_means(
    X: Float[np.ndarray, "n d"], y: Labels
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " d"]]:
    """Means of the classes about a point amid the rows, and the standard deviation of all; one pass, summed in float64."""
    features = as_features(X)
    check_finite(features)
    classes, index = encode(y)
    of_class = (
        torch.nn.functional.one_hot(torch.from_numpy(index), len(classes)).to(features.dtype).T
    )
    amid = features[:BLOCK].mean(0)
    wide = features.shape[1]
    sums, squares = (
        torch.zeros(len(classes), wide, dtype=torch.float64),
        torch.zeros(wide, dtype=torch.float64),
    )
    room, ones = features.new_empty(BLOCK, wide), features.new_ones(BLOCK)
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        part = torch.sub(rows, amid, out=room[: len(rows)])
        sums += of_class[:, start : start + BLOCK] @ part
        squares += ones[: len(rows)] @ part.square_()
    n, mean = len(features), sums.sum(0) / len(features)
    deviation = (squares / n - mean**2).clamp_min(0).sqrt()
    return (sums / of_class.sum(1, dtype=torch.float64)[:, None]).numpy(), deviation.numpy()


def f(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """Variance between classes over variance within."""
    from sklearn.feature_selection import f_classif

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(f_classif(X, encode(y)[1])[0], nan=0.0)


def mutual_information(X: Float[np.ndarray, "n d"], y: Labels) -> Scores:
    """Bits that a neuron's value tells of the label."""
    from sklearn.feature_selection import mutual_info_classif

    return mutual_info_classif(X, encode(y)[1], random_state=0) / np.log(2)


def elastic_net(
    X: Float[np.ndarray, "n d"], y: Labels, l1: float = 1e-5, l2: float = 1e-5
) -> Scores:
    """1 - p, p the smallest share of weight mass at which any class takes the neuron."""
    weights = elastic_net_weights(X, y, l1, l2).abs().numpy()
    mass = np.sort(weights, axis=1)[:, ::-1].cumsum(1) / np.maximum(
        weights.sum(1, keepdims=True), 1e-300
    )
    place = (-weights).argsort(1, kind="stable").argsort(1, kind="stable")
    return 1 - np.take_along_axis(mass, place, 1).min(0) + 1e-12 * weights.max(0)


RANKINGS: dict[str, Callable[..., Scores]] = {
    "mean_difference": mean_difference,
    "standard_difference": standard_difference,
    "f": f,
    "mutual_information": mutual_information,
    "elastic_net": elastic_net,
}


def rank(X: Float[np.ndarray, "n d"], y: Labels, ranking: str) -> np.ndarray:
    """Neurons from the most to the least informative.

    Raises:
        ValueError: an unknown ranking.

    >>> X = np.array([[0.0, 0.0], [0.1, 1.0], [0.0, 2.0], [0.1, 3.0]])
    >>> rank(X, ["no", "no", "yes", "yes"], "mean_difference").tolist()
    [1, 0]
    """
    if ranking not in RANKINGS:
        raise InputError(f"ranking: expected {', '.join(RANKINGS)}, got {ranking!r}")
    return np.argsort(-RANKINGS[ranking](X, y), kind="stable")


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
    top = float(torch.linalg.eigvalsh((Z.T @ Z).double())[-1]) / n
    step = 1 / (top / 2 + 2 * l2)  # the softmax's curvature is at most 1/2
    W = torch.zeros(Z.shape[1], len(classes))
    ahead, momentum, before = W, 1.0, np.inf
    for iteration in range(max_iter):
        slope = Z.T @ (torch.softmax(Z @ ahead, 1) - target) / n
        slope[:-1] += 2 * l2 * ahead[:-1]
        new = ahead - step * slope
        new[:-1] = new[:-1].sign() * (new[:-1].abs() - step * l1).clamp_min(0)
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / faster * (new - W)
        W, momentum = new, faster
        if iteration % 20 == 19:
            logp = torch.log_softmax(Z @ W, 1)
            loss = float(
                -(logp * target).sum() / n + l1 * W[:-1].abs().sum() + l2 * (W[:-1] ** 2).sum()
            )
            if loss > before:
                ahead, momentum = W, 1.0  # restart: the momentum overshot
            elif before - loss < tol * abs(loss):
                break
            before = min(loss, before)
    return W[:-1].T
