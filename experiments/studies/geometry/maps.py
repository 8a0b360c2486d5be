"""Maps: vectors drawn in the plane, and how far a map can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from layerscope.errors import LayerscopeError

from .measures import Components

METHODS = ("pca", "tsne", "umap")
KEPT = 50
"""Principal components that t-SNE and UMAP start from."""
NEIGHBOURS = 12
"""Neighbours whose ranks trustworthiness compares."""


class MapError(LayerscopeError, ValueError):
    """A map that cannot be drawn."""


def require(methods: Sequence[str]) -> None:
    """Raise `MapError` for a method that is not known or not installed."""
    if unknown := [m for m in methods if m not in METHODS]:
        raise MapError(f"--method {unknown[0]}: expected {', '.join(METHODS)}")
    if "umap" in methods:
        import importlib.util

        if importlib.util.find_spec("umap") is None:
            raise MapError(
                "--method umap: umap-learn is not installed: pip install 'layerscope[geometry]'"
            )


def draw(
    method: str, components: Components, seed: int = 0, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """The plane: the first two components, or t-SNE (van der Maaten & Hinton 2008) or UMAP of the
    first ``KEPT``.

    t-SNE and UMAP start from PCA; what is far apart on them need not be far apart in the space.
    """
    start = components.coordinates[:, :2]
    if start.shape[1] < 2:
        start = np.column_stack([start, np.zeros((len(start), 2 - start.shape[1]))])
    if method == "pca":
        return start
    first = components.coordinates[:, :KEPT]
    if method == "tsne":
        from sklearn.manifold import TSNE

        begin: Any = start / max(float(start[:, 0].std()), 1e-12) * 1e-4
        size = min(perplexity, (len(first) - 1) / 3)
        tsne = TSNE(2, perplexity=size, init=begin.astype(np.float32), random_state=seed)
        return np.asarray(tsne.fit_transform(first))
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed costs it its threads
        umap: Any = importlib.import_module("umap")
        n_neighbors = min(15, len(first) - 1)
        reducer: Any = umap.UMAP(n_components=2, random_state=seed, n_neighbors=n_neighbors)
        return np.asarray(reducer.fit_transform(first))


def aligned(
    points: Float[np.ndarray, "n 2"], to: Float[np.ndarray, "n 2"] | None
) -> Float[np.ndarray, "n 2"]:
    """The map centred, at one scale, and turned or mirrored to lie on another:
    a map has no direction of its own.
    """
    points = points - points.mean(0)
    points = points / max(float(np.sqrt((points**2).sum(1).mean())), 1e-12)
    if to is None:
        return points
    left, _, right = np.linalg.svd(points.T @ to)
    return points @ (left @ right)


def trustworthiness(vectors: Float[np.ndarray, "n d"], points: Float[np.ndarray, "n 2"]) -> float:
    """1 if every neighbour on the map is one in the space too (Venna & Kaski 2001, scikit-learn's);
    0.5 is chance.
    """
    from sklearn.manifold import trustworthiness as of

    return float(of(vectors, points, n_neighbors=min(NEIGHBOURS, (len(vectors) - 1) // 2)))
