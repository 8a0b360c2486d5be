r"""Which heads look alike: the overlap of every two heads' attention, from a few rows of each text.

.. math:: S_{ij} = \frac{1}{n} \sum_q \sum_k \sqrt{A^{(i)}_{qk} A^{(j)}_{qk}}

is 1 for heads that look alike and 0 for heads that never look at one place (the Bhattacharyya
coefficient; 1 - S is the squared Hellinger distance). It is a Gram matrix of root patterns, so no
two patterns need be held side by side. Source: Bhattacharyya 1943; Clark et al. 2019, section 6,
compare heads by Jensen-Shannon divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded
from .passes import PATTERN, layers_with_patterns, layers_with_sink, runs, with_sink

ROWS = 16
"""Queries of each text that are compared, evenly spaced."""


@dataclass(frozen=True)
class Similarity:
    """How alike heads look.

    Args:
        heads: of every two heads, heads numbered layer by layer.
        layers: of every two layers' mean patterns.
    """

    heads: Float[np.ndarray, "n n"]
    layers: Float[np.ndarray, "layer layer"]

    @property
    def change(self) -> Float[np.ndarray, " step"]:
        """How much the mean pattern changes from each layer to the next: 1 - S."""
        return 1 - np.diagonal(self.layers, 1)


class SimilarityTotals:
    """Makes `Similarity` in one pass; at most ``ROWS`` queries of each text count."""

    parts = (PATTERN,)

    def __init__(self, subject: Subject, encoded: Sequence[Encoded]) -> None:
        self._encoded, self._n_layers = encoded, len(layers_with_patterns(subject.model))
        self._sinks = layers_with_sink(subject.model)
        self._gram: Tensor | None = None
        self._rows = 0

    def begin(self, batch: Batch) -> None:
        """The rows of a batch are held until its forward is over:
        ``ROWS`` x length a text and head.
        """
        self._batch = batch
        self._held: list[Tensor] = []

    def see(self, layer: int, part: str, value: Float[Tensor, "batch head query key"]) -> None:
        """Keep the roots of some rows of every head, and of the layer's mean."""
        pieces = []
        for run in runs(self._batch, self._encoded):
            n = run.queries.stop - run.queries.start
            picked = (
                torch.linspace(min(1, n - 1), n - 1, min(ROWS, max(n - 1, 1))).long()
                + run.queries.start
            )
            rows = value[run.rows, :, picked, run.keys].float()
            rows = with_sink(rows, self._sinks[layer])
            # Roots: the product of two of them is the Bhattacharyya coefficient of the two
            # distributions.
            rows = torch.cat([rows, rows.mean(1, keepdim=True)], dim=1).sqrt()
            pieces.append(rearrange(rows, "text head query key -> head (text query key)"))
            if layer == 0:
                self._rows += rows.shape[0] * len(picked)
        if pieces:
            self._held.append(torch.cat(pieces, dim=1))

    def end(self) -> None:
        """Add the batch's Gram matrix."""
        if self._held:
            wide = torch.cat(self._held)
            products = (wide @ wide.T).double().cpu()
            self._gram = products if self._gram is None else self._gram + products
        self._held = []

    def result(self) -> Similarity:
        """The mean over rows."""
        if self._gram is None:
            raise InputError("expected texts with at least one token that is not special, got none")
        whole = self._gram.numpy() / self._rows
        n_heads = len(whole) // self._n_layers
        # The last row of each layer is that of its mean pattern.
        means = np.arange(len(whole)) % n_heads == n_heads - 1
        return Similarity(whole[np.ix_(~means, ~means)], whole[np.ix_(means, means)])
