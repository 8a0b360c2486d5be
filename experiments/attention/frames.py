"""Frames of a sound as a reader can see them: pooled to spans of time.

An encoder of speech has 50 positions a second, 1,500 of a window of 30 s. With A the pattern of a
head, a span's column is the sum of its frames' columns, and a span's row the mean of its frames'
rows: rows of the pooled pattern sum to 1 as those of A do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..subject.medium import equal_cells

SPAN, MOST_SPANS = 0.1, 48
"""Seconds of a span at least, and how many spans a sound has at most."""
PADDING = "padding"
"""The name of the frames behind the sound, with which the extractor fills its window."""


@dataclass(frozen=True)
class Frames:
    """The frames of one sound.

    Args:
        n_frames: positions of the encoder.
        n_own: those that the sound covers; padding follows them.
        seconds: length of the sound.
        edges: the first frame of each span, and behind them ``n_own``.
    """

    n_frames: int
    n_own: int
    seconds: float
    edges: tuple[int, ...]

    @classmethod
    def of(cls, n_frames: int, seconds: float, window: float) -> Frames:
        """The frames of a sound.

        Args:
            window: seconds that all frames cover; 0 where that is the sound's own length.
        """
        share = 1.0 if not window else min(seconds / window, 1.0)
        n_own = min(max(1, round(n_frames * share)), n_frames)
        spans = equal_cells(seconds, max(SPAN, seconds / MOST_SPANS))[:n_own]
        edges = np.linspace(0, n_own, len(spans) + 1).round().astype(int)
        return cls(n_frames, n_own, seconds, tuple(edges.tolist()))

    @property
    def seconds_a_frame(self) -> float:
        return self.seconds / self.n_own

    @property
    def labels(self) -> list[str]:
        """When each span begins, in seconds; and the padding."""
        starts = [f"{edge * self.seconds_a_frame:.1f} s" for edge in self.edges[:-1]]
        return [*starts, PADDING] if self.n_own < self.n_frames else starts

    def pooled_keys(
        self, weights: Float[np.ndarray, "head query frame"]
    ) -> Float[np.ndarray, "head query span"]:
        """The weight on each span, and on the padding."""
        starts = [*self.edges[:-1], self.n_own] if self.n_own < self.n_frames else self.edges[:-1]
        return np.add.reduceat(weights, starts, axis=-1)

    def pooled_queries(
        self, weights: Float[np.ndarray, "head frame key"]
    ) -> Float[np.ndarray, "head span key"]:
        """The mean over each span's frames; the padding asks nothing."""
        sums = np.add.reduceat(weights[:, : self.n_own], self.edges[:-1], axis=1)
        return sums / np.diff(self.edges)[:, None]
