"""Memory that one block of rows after the other uses again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Tensors by name, whose memory is kept.

    A block's intermediate results are some megabytes. The system hands such memory out anew each
    time, page by page, which takes longer than the sums that are written into it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[str, Tensor] = {}

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of that shape with any values in it, good until ``name`` is asked for again."""
        size = math.prod(shape)
        memory = self.kept.get(name)
        if memory is None or memory.numel() < size or memory.dtype != dtype:
            memory = self.kept[name] = torch.empty(size, dtype=dtype, device=self.device)
        return memory[:size].view(*shape)

    def product(self, name: str, A: Tensor, B: Tensor) -> Tensor:
        """A B, in the memory of ``name``."""
        return torch.mm(A, B, out=self.empty(name, (len(A), B.shape[1]), A.dtype))

    def cast(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """The values in another type, in the memory of ``name``; themselves where it is theirs."""
        if values.dtype == dtype:
            return values
        return self.empty(name, values.shape, dtype).copy_(values)
