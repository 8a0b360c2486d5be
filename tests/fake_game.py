"""A game of attribution without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.attribution import Game


class Fake(Game):
    """A game whose value is any function of the mask, or one for each draw of its removal."""

    def __init__(self, n: int, *of: Any) -> None:
        self.n, self.of, self._each = n, of[0], of
        self.removal, self.draws = "none", len(of)
        self.question: Any = SimpleNamespace(
            units=SimpleNamespace(texts=tuple(f"u{i}" for i in range(n)))
        )

    def each(self, kept: np.ndarray) -> np.ndarray:
        return np.array([[float(of(mask)) for mask in kept] for of in self._each])
