"""Which positions of each text are read, also in copies of the texts."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .shortcuts import padded


@dataclass(frozen=True)
class Reads:
    """The positions that are read of a batch of texts.

    Of several copies of the batch, rows k * batch to (k + 1) * batch are the k-th.

    Args:
        positions: pairs of text and position, any number per text; None reads all positions.
        batch: how many texts there are.
    """

    positions: Int[Tensor, "reads 2"] | None
    batch: int

    def of(self, values: Tensor, copies: int = 1) -> Tensor:
        """The values that are read, of all copies: those of the first copy first.

        Args:
            values: ``rows pos ...``, or ``rows classes`` of whole texts.
        """
        if self.positions is None:
            return values
        texts, positions = self.positions.to(values.device).unbind(1)
        starts = torch.arange(copies, device=values.device)[:, None] * self.batch
        rows = (starts + texts).flatten()
        if values.ndim == 2:  # a classifier's logits are of whole texts
            return values[rows]
        return values[rows, positions.repeat(copies)]

    def of_late(
        self,
        values: Float[Tensor, "rows late d_model"],
        copies: int,
        start: int,
        recorded: Float[Tensor, "batch pos d_model"],
    ) -> Tensor:
        """`of` a residual stream that begins at position ``start``: what is read before it is as
        it was recorded.
        """
        if self.positions is None:
            return torch.cat([recorded[:, :start].repeat(copies, 1, 1), values], dim=1)
        is_late = self.positions[:, 1] >= start
        late_positions = self.positions[is_late] - self.positions.new_tensor([0, start])
        read = self.of(recorded).repeat(copies, 1)
        of_late = Reads(late_positions, self.batch).of(values, copies)
        read[is_late.repeat(copies).to(read.device)] = of_late
        return read

    @functools.cached_property
    def table(self) -> Int[Tensor, "batch p"]:
        """The positions that are read in each text, in a row of its own; see `padded`."""
        rows: list[list[int]] = [[] for _ in range(self.batch)]
        pairs = [] if self.positions is None else self.positions.tolist()
        for text, position in sorted({*map(tuple, pairs)}):
            rows[text].append(position)
        return padded(rows)
