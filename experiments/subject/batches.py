"""Batches: of texts, padded the way that `hooks.padding` found for the model, and of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ...hooks.padding import Policy, Side
from .word_spans import Encoded


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded to one.

    Attributes:
        input_ids, attention_mask: token ids and 1 at real tokens.
        position_ids: the position of every real token in its own text, or None where the model
            counts for itself.
        rows: which of the encoded texts each row is.
        shifts: how many pad positions stand before each row's first token.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"] | None
    rows: tuple[int, ...]
    shifts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[Batch, Batch]:
        """The same rows in two batches."""
        middle = len(self) // 2
        first, second = (
            Batch(
                self.input_ids[part],
                self.attention_mask[part],
                None if self.position_ids is None else self.position_ids[part],
                self.rows[part],
                self.shifts[part],
            )
            for part in (slice(0, middle), slice(middle, None))
        )
        return first, second

    def inputs(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """What a model's forward is given."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        inputs |= {"position_ids": self.position_ids} if self.position_ids is not None else {}
        return {name: value.to(device) for name, value in inputs.items()}

    def spans(self, spans: Sequence[Sequence[slice | None]]) -> list[list[slice | None]]:
        """The word spans of this batch's rows, moved past their padding.

        Args:
            spans: the spans of all encoded texts, in their order.
        """
        return [
            [None if s is None else slice(s.start + shift, s.stop + shift) for s in spans[row]]
            for row, shift in zip(self.rows, self.shifts, strict=True)
        ]


@dataclass(frozen=True)
class FileBatch:
    """Pictures, or sounds of one length, that a model reads without padding.

    Attributes:
        paths: of the files.
        rows: which of the encoded files each is.
    """

    paths: tuple[str, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def halves(self) -> tuple[FileBatch, FileBatch]:
        """The same files in two batches."""
        middle = len(self) // 2
        return (
            FileBatch(self.paths[:middle], self.rows[:middle]),
            FileBatch(self.paths[middle:], self.rows[middle:]),
        )

    def spans(self, spans: Sequence[Sequence[slice | None]]) -> list[list[slice | None]]:
        """The spans of this batch's files, as they are: nothing is padded."""
        return [list(spans[row]) for row in self.rows]


AnyBatch = Batch | FileBatch


def make_batches(
    encoded: Sequence[Encoded], policy: Policy, pad_id: int, tokens: int, side: Side
) -> Iterator[Batch]:
    """Batches by falling length; only texts of one length together where padding is impossible."""
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
    while order:
        length = len(encoded[order[0]])
        fit = max(1, tokens // length)
        if not policy.possible:
            fit = min(fit, sum(len(encoded[i]) == length for i in order))
        rows, order = order[:fit], order[fit:]
        padded = policy.pad([encoded[i].ids for i in rows], pad_id, side)
        shifts = tuple(length - len(encoded[i]) if side == "left" else 0 for i in rows)
        yield Batch(*padded, rows=tuple(rows), shifts=shifts)
