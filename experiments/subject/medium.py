"""What a model sees or hears with its words, cut into cells, each of which may be absent.

A row of token ids holds a cell's id for each cell and then the words' tokens: what removes and
counts the tokens of a text does the same with cells. Only the medium knows what its cells are and
what the model is given of them.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..corpus.prompts import Prompt
from .batches import Batch
from .cells import cell_of, is_cell
from .word_spans import Encoded

KEPT = 512
"""Versions of a medium whose processed values are kept."""


class Medium(ABC):
    """A picture or a sound.

    Attributes:
        kind: picture or sound.
        cell: what one of its cells is called.
        absent_cell: what a cell is where it is absent.
        path: of its file.
        forced_values: processed values that rows are given whatever their cells, or None.
    """

    kind: ClassVar[str]
    cell: ClassVar[str]
    absent_cell: ClassVar[str]
    path: str
    forced_values: Tensor | None = None

    @property
    @abstractmethod
    def n_cells(self) -> int:
        """How many cells it has."""

    @abstractmethod
    def cell_names(self) -> list[str]:
        """A name for each cell."""

    @abstractmethod
    def words_of(self, prompt: Prompt) -> str:
        """The words of a prompt that stand beside it in a row."""

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """The cells, and the tokens of such words."""

    def words_begin(self, encoded: Encoded) -> int:
        """The character of a row's text at which its words begin."""
        return 0

    @abstractmethod
    def answer(self, encoded: Encoded, text: str, answer: str) -> tuple[int, ...]:
        """An answer's ids as they follow a row."""

    @abstractmethod
    def processed(self, absent: frozenset[int] = frozenset()) -> Tensor:
        """What the processor makes of it with some cells absent."""

    @abstractmethod
    def given(self, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """The batch as the model reads it, and what it is given beside it."""

    @contextlib.contextmanager
    def forced(self, values: Tensor) -> Iterator[None]:
        """While this lasts rows have these processed values, whatever their cells."""
        self.forced_values = values
        try:
            yield
        finally:
            self.forced_values = None


def absent_cells(ids: Sequence[int]) -> frozenset[int]:
    """The cells of a row that are absent."""
    cells = [cell_of(token) for token in ids if is_cell(token)]
    return frozenset(cell for cell, is_absent in cells if is_absent)


def equal_cells(length: float, size: float) -> list[tuple[float, float]]:
    """Start and end of cells of about one size that fill a length.

    >>> equal_cells(1.0, 0.4)
    [(0.0, 0.5), (0.5, 1.0)]
    """
    count = max(1, round(length / size))
    edges = np.linspace(0, length, count + 1).tolist()
    return list(itertools.pairwise(edges))
