"""Counts, means and scatter of rows by class, in one pass; can be merged. Sufficient for mean
differences, LDA, LEACE and PCA.

    W = sum_i (x_i - m_{y_i})(x_i - m_{y_i})'          within classes
    B = sum_c n_c (m_c - m)(m_c - m)'                  between classes;  W + B = total scatter

Parts are merged by Chan's formula, sum over classes of n_a n_b / (n_a + n_b) (m_a - m_b)(m_a -
m_b)', so nothing is subtracted from anything large. Products are taken in the type of X, sums in
float64.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

from .design import as_features, check_finite
from .labels import as_label_array, ordered
from .rows import blocks_of

BLOCK = 1 << 13
"""Rows that are centred at a time."""
SHORT = 512
"""Rows that are summed at a time in the type of X."""
FEW = 64
"""Classes up to which sums are products: that of more takes longer than adding row by row."""


@dataclass
class Moments:
    """Statistics of the rows seen so far.

    Attributes:
        labels: the classes, in the order in which they were met.
        counts: [c].
        means: [c d], float64.
        within: W, [d d], float64.

    >>> moments = Moments().update(np.array([[0.0], [2.0], [5.0]]), ["a", "a", "b"])
    >>> moments.classes, moments.means.tolist(), moments.within.item()
    (['a', 'b'], [[1.0], [5.0]], 2.0)
    """

    labels: dict[Hashable, int] = field(default_factory=dict)
    counts: Float[Tensor, " c"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    means: Float[Tensor, "c d"] = field(
        default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64)
    )
    within: Float[Tensor, "d d"] = field(
        default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64)
    )

    @property
    def n(self) -> int:
        """How many rows."""
        return int(self.counts.sum())

    @property
    def classes(self) -> list[Any]:
        """The classes in order."""
        return ordered(self.labels)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of all rows."""
        return (self.counts @ self.means) / self.counts.sum()

    def sorted(self) -> tuple[np.ndarray, Float[Tensor, " c"], Float[Tensor, "c d"]]:
        """Classes in order, with their counts and means."""
        classes = self.classes
        index = torch.tensor([self.labels[c] for c in classes], device=self.means.device)
        return as_label_array(classes), self.counts[index], self.means[index]

    def total(self) -> Float[Tensor, "d d"]:
        """Scatter about the mean of all rows."""
        return self.within + self._between()

    def principal(self, k: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "d k"]]:
        """Principal components of all rows: the k largest variances, over n - 1, and their
        directions.

        Raises:
            ValueError: more components than features, or fewer than two rows.
        """
        if not 1 <= k <= self.means.shape[1] or self.n < 2:
            raise InputError(
                f"expected 1 to {self.means.shape[1]} components of at least 2 rows, "
                f"got {k} of {self.n}"
            )
        # Rising eigenvalues: the last ones are the largest.
        values, vectors = torch.linalg.eigh(self.total() / (self.n - 1))
        return values.flip(0)[:k], vectors.flip(1)[:, :k]

    def _between(self) -> Float[Tensor, "d d"]:
        apart = (self.means - self.mean) * self.counts.sqrt()[:, None]
        return apart.T @ apart

    def update(self, X: Float[Tensor, "n d"] | np.ndarray, labels: Iterable[Hashable]) -> Moments:
        """Add rows; returns itself.

        Raises:
            ValueError: X of another width, or as many labels as it has no rows.
            NonFiniteError: X with NaN or infinity.
        """
        features = as_features(X, self.means.device if self.labels else None)
        check_finite(features)
        values = list(labels)
        if len(values) != len(features):
            raise InputError(
                f"expected a label for each of {len(features)} rows, got {len(values)}"
            )
        if self.labels and features.shape[1] != self.means.shape[1]:
            raise InputError(
                f"X has {features.shape[1]} features, but is expecting "
                f"{self.means.shape[1]} features"
            )
        seen: dict[Hashable, int] = {}
        index = torch.tensor(
            [seen.setdefault(v, len(seen)) for v in values], device=features.device
        )
        return self.merge(_of(features, index, seen))

    def merge(self, other: Moments) -> Moments:
        """Add other statistics; returns itself."""
        if not other.labels:
            return self
        if not self.labels:
            self.labels = dict(other.labels)
            self.counts, self.means, self.within = other.counts, other.means, other.within
            return self
        for label in other.labels:
            self.labels.setdefault(label, len(self.labels))
        # Classes that only the other has come behind, with a count of 0.
        new = len(self.labels) - len(self.counts)
        counts = torch.cat([self.counts, self.counts.new_zeros(new)])
        means = torch.cat([self.means, self.means.new_zeros(new, self.means.shape[1])])
        at = torch.tensor([self.labels[label] for label in other.labels], device=means.device)
        both = counts[at] + other.counts
        # Two sets about their own means: the scatter grows by that of the two means (Chan et al.
        # 1983).
        apart = other.means - means[at]
        weighted = apart * (counts[at] * other.counts / both).sqrt()[:, None]
        self.within = self.within + other.within + weighted.T @ weighted
        means[at] = means[at] + apart * (other.counts / both)[:, None]
        counts[at] = both
        self.counts, self.means = counts, means
        return self


def _of(X: Float[Tensor, "n d"], index: Int[Tensor, " n"], labels: dict[Hashable, int]) -> Moments:
    """Moments of rows at hand, centred on their own class means."""
    counts = torch.bincount(index, minlength=len(labels)).double()
    means = _class_means(X, index, counts)
    centre = means.to(X.dtype)
    within = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64, device=X.device)
    room = X.new_empty(min(BLOCK, len(X)), X.shape[1])
    for rows in blocks_of(len(X), BLOCK):
        part = room[: rows.stop - rows.start]
        torch.index_select(centre, 0, index[rows], out=part)
        torch.sub(X[rows], part, out=part)
        within += part.T @ part
    if not bool(within.isfinite().all()):
        raise InputError(
            f"expected features whose squares are finite in {X.dtype}, "
            f"the largest is {float(X.abs().amax()):.3g}"
        )
    # The rounding of the centres: sum (x - c)(x - c)' = W + n (m - c)(m - c)'.
    off = (means - centre.double()) * counts.sqrt()[:, None]
    return Moments(labels, counts, means, within - off.T @ off)


def _class_means(
    X: Float[Tensor, "n d"], index: Int[Tensor, " n"], counts: Float[Tensor, " c"]
) -> Float[Tensor, "c d"]:
    """Means by class, summed in float64."""
    n_classes = len(counts)
    sums = torch.zeros(n_classes, X.shape[1], dtype=torch.float64, device=X.device)
    if n_classes > FEW:
        for rows in blocks_of(len(X), BLOCK):
            sums.index_add_(0, index[rows], X[rows].double())
        return sums / counts[:, None]
    # Products with the classes' indicators, in the type of X: about a point amid the rows, a short
    # sum loses no digits to a large mean.
    of_class = torch.nn.functional.one_hot(index, n_classes).to(X.dtype).T
    amid = X[:SHORT].mean(0)
    room = X.new_empty(min(SHORT, len(X)), X.shape[1])
    for rows in blocks_of(len(X), SHORT):
        part = torch.sub(X[rows], amid, out=room[: rows.stop - rows.start])
        sums += of_class[:, rows] @ part
    return amid.double() + sums / counts[:, None]
