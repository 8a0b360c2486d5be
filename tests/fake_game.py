"""A game of attribution without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.attribution import Game


class Fake(Game):
    """A game whose value is any function of the mask."""

    def __init__(self, n: int, of: Any) -> None:
        self.n, self.of = n, of
        self.removal, self.draws = "none", 1
        self.question: Any = SimpleNamespace(units=SimpleNamespace(texts=tuple(f"u{i}" for i in range(n))))

    def each(self, kept: np.ndarray) -> np.ndarray:
        return np.array([[float(self.of(mask)) for mask in kept]])
