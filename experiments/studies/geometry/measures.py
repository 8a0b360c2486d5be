r"""Figures of a cloud of vectors: variance, direction, dimension, neighbourhoods,
and how alike two clouds are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerscope.errors import InputError

from ....probes.evaluation import ClusterBootstrap, Interval


@dataclass(frozen=True)
class Components:
    """Principal components.

    Args:
        coordinates: of each vector, along the components by falling variance.
        explained: each component's share of the variance.
    """

    coordinates: Float[np.ndarray, "n k"]
    explained: Float[np.ndarray, " k"]

    def needed(self, share: float = 0.9) -> int:
        """How many components hold this share of the variance."""
        return int(np.searchsorted(np.cumsum(self.explained), share - 1e-12)) + 1


def components(vectors: Float[np.ndarray, "n d"]) -> Components:
    r"""PCA, with scikit-learn's signs.

    .. math:: X - \bar x = U S V^\top, \qquad \text{coordinates } U S, \quad \text{shares } s_i^2 /
        \textstyle\sum s^2

    The largest entry of each axis (row of :math:`V^\top`) is positive.
    """
    centred = vectors - vectors.mean(0)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(axes).argmax(1)
    signs = np.sign(axes[np.arange(len(axes)), largest])
    variances = sizes**2
    total = max(float(variances.sum()), 1e-300)
    return Components(left * sizes * signs, variances / total)


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The vectors at length 1; a vector of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def anisotropy(vectors: Float[np.ndarray, "n d"]) -> float:
    r"""Mean cosine of two different vectors: 0 where directions are spread evenly, 1 where all
    point one way.

    .. math:: \frac{\lVert \sum_i u_i \rVert^2 - n}{n (n - 1)}, \quad u_i = x_i / \lVert x_i \rVert

    Source: Ethayarajh 2019, section 3.3.
    """
    n = len(vectors)
    summed = unit(vectors).sum(0)
    return float((summed @ summed - n) / (n * (n - 1)))


def intrinsic_dimension(vectors: Float[np.ndarray, "n d"], discard: float = 0.1) -> float:
    r"""TwoNN: from the ratio :math:`\mu` of the distances to the second and the first neighbour.

    If density is even around each point, :math:`-\log(1 - F(\mu)) = d \log \mu`; d is the slope
    through the origin, without the ``discard`` share of the largest ratios. Vectors that stand
    twice are taken once. Source: Facco et al. 2017.
    """
    distinct = np.unique(vectors, axis=0)
    if len(distinct) < 3:
        got = f"{len(distinct)} among {len(vectors)}: the model gives the same one for other words"
        raise InputError(f"expected at least 3 different vectors at every layer, got {got}")
    near = np.sort(_squared(distinct), axis=1)[:, 1:3]
    ratio = np.sort(0.5 * np.log(near[:, 1] / np.maximum(near[:, 0], 1e-300)))
    n = len(ratio)
    small = ratio[: int(n * (1 - discard))]
    # -log(1 - F) at each ratio, F its place among all.
    heights = -np.log1p(-np.arange(1, len(small) + 1) / n)
    return float((small @ heights) / (small @ small))


def _squared(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    size = (vectors**2).sum(1)
    squares = np.maximum(size[:, None] + size - 2 * vectors @ vectors.T, 0)
    np.fill_diagonal(squares, 0)
    return squares


def nearest(vectors: Float[np.ndarray, "n d"], k: int = 5) -> Int[np.ndarray, "n k"]:
    """The k vectors with the largest cosine to each, itself left out, the nearest first."""
    directions = unit(vectors)
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def separability(
    points: Float[np.ndarray, "n d"],
    labels: np.ndarray,
    sentences: Int[np.ndarray, " n"],
    k: int = 10,
    seed: int = 0,
) -> Interval:
    """Accuracy of the k nearest neighbours' majority (Euclidean), neighbours of the same sentence
    left out.

    Words of at least two sentences; where fewer than k are of other sentences, these alone vote.

    Asked of the space and of its map alike, it says how much of the classes' separation a map keeps
    or makes up.
    """
    distance = _squared(points)
    is_same_sentence = sentences[:, None] == sentences
    distance[is_same_sentence] = np.inf
    near = np.argsort(distance, axis=1, kind="stable")[:, :k]
    # Where fewer than k are of other sentences, the rest has no vote.
    has_vote = np.isfinite(np.take_along_axis(distance, near, axis=1))
    classes, index = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(points), len(classes)))
    voter = np.arange(len(points))[:, None]
    np.add.at(votes, (voter, index[near]), has_vote.astype(float))
    is_right = votes.argmax(1) == index
    return ClusterBootstrap(sentences, seed=seed).mean(is_right)


def centred_gram(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """The Gram matrix, U-centred: inner products with it estimate HSIC without bias.

    Source: Song et al. 2012; Székely & Rizzo 2014.
    """
    wide = vectors.astype(np.float64)
    gram = wide @ wide.T
    np.fill_diagonal(gram, 0)
    n, rows = len(gram), gram.sum(1)
    gram -= (rows[:, None] + rows) / (n - 2) - rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(gram, 0)
    return gram


def cka(a: Float[np.ndarray, "k n n"], b: Float[np.ndarray, "m n n"]) -> Float[np.ndarray, "k m"]:
    r"""Linear CKA of every two clouds of the same items, from their centred Gram matrices, without
    the bias of few items.

    .. math:: \frac{\langle \tilde K, \tilde L \rangle}{\lVert \tilde K \rVert \lVert \tilde L
        \rVert}

    1 for a cloud and a rotated or scaled copy, about 0 for unrelated ones. Source: Kornblith et al.
    2019, with the unbiased HSIC of Song et al. 2012.
    """
    flat = [grams.reshape(len(grams), -1) for grams in ((a,) if b is a else (a, b))]
    units = [
        grams / np.maximum(np.linalg.norm(grams, axis=1, keepdims=True), 1e-300) for grams in flat
    ]
    return units[0] @ units[-1].T
