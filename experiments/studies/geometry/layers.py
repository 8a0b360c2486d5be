"""One layer as a space: its figures, each word's nearest words, and its maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...features.sites import layer_of
from ...report.schema import estimated
from . import maps, measures
from .map_points import FEW
from .options import GeometryOptions
from .records import NeighbourAccuracy, Separability

NEIGHBOURS = 5
"""Nearest words of each word that the page shows."""
COMPONENTS = 10
"""Principal components whose shares are written."""
DIGITS = 4
"""Digits of a map's coordinates."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLayer:
    """What is kept of a layer while the run goes on.

    Args:
        figures: fields of its record.
        separability: how well neighbours tell each property.
        maps: each method's points.
        near: each word's nearest words.
    """

    figures: dict[str, Any]
    separability: dict[str, Separability]
    maps: dict[str, list[list[float]]]
    near: list[list[int]]


@dataclass(frozen=True)
class LayerSpace:
    """One site's vectors, and what is known of their words.

    Args:
        place: the site's place among the study's.
        labels: each property's value of each word.
        sentences: the sentence of each word.
    """

    site: str
    place: int
    vectors: Float[np.ndarray, "n d"]
    labels: dict[str, np.ndarray]
    sentences: Int[np.ndarray, " n"]

    def measured(self, options: GeometryOptions, before: dict[str, np.ndarray]) -> MeasuredLayer:
        """The layer's figures, maps and neighbours.

        Args:
            before: the maps of the layer before, on which these are turned to lie.
        """
        components = measures.components(self.vectors)
        figures = self._figures(components)
        drawn: dict[str, np.ndarray] = {}
        for method in options.methods:
            points = maps.draw(method, components, options.seed, options.perplexity)
            figures[f"trust_{method}"] = maps.trustworthiness(self.vectors, points)
            drawn[method] = maps.aligned(points, before.get(method))
        return MeasuredLayer(
            figures=figures,
            separability=self._separability({"space": self.vectors, **drawn}, options.seed),
            maps={method: np.round(points, DIGITS).tolist() for method, points in drawn.items()},
            near=measures.nearest(self.vectors, NEIGHBOURS).tolist(),
        )

    def _figures(self, components: measures.Components) -> dict[str, Any]:
        vectors = self.vectors
        return {
            "site": self.site,
            "layer": layer_of(self.site, self.place),
            "n": len(vectors),
            "explained": [float(share) for share in components.explained[:COMPONENTS]],
            "explained_2": float(components.explained[:2].sum()),
            "components_90": components.needed(),
            "anisotropy": measures.anisotropy(vectors),
            "anisotropy_centred": measures.anisotropy(vectors - vectors.mean(0)),
            "intrinsic_dimension": measures.intrinsic_dimension(vectors),
        }

    def _separability(self, clouds: dict[str, np.ndarray], seed: int) -> dict[str, Separability]:
        """How well neighbours tell each property that has classes,
        in the space and on every map.
        """
        by_name: dict[str, Separability] = {}
        for name, values in self.labels.items():
            # Words without a value, and numbers, have no class.
            has_class = np.array([isinstance(value, str) for value in values])
            classes = values[has_class].astype(str)
            sentences = self.sentences[has_class]
            if len(classes) < FEW or len(set(classes)) < 2 or len(set(sentences)) < 2:
                continue
            counts = np.unique(classes, return_counts=True)[1]
            places = {}
            for where, points in clouds.items():
                score = measures.separability(points[has_class], classes, sentences, seed=seed)
                places[where] = NeighbourAccuracy(**estimated("accuracy", score))
            by_name[name] = Separability(majority=float(counts.max() / counts.sum()), places=places)
        return by_name
