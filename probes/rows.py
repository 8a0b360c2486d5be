"""Rows that stay in a file: for features that memory does not hold.

What a solve needs of its rows is blocks of them, one after the other, and now and then a sample.
Both are read into memory of their own, so that what a solve holds is what it asked for, whatever
the system keeps of the file.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import InputError

BLOCK = 1 << 13
"""Most rows that are looked through at a time."""
_BLOCK_BYTES = 1 << 24


def block_of(width: int) -> int:
    """How many rows of so many bytes are looked through at a time."""
    return min(BLOCK, max(256, _BLOCK_BYTES // max(width, 1)))


class _Nameless:
    """A file without a name, closed when nothing refers to it any more."""

    def __init__(self, folder: str | Path | None) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)


class OnDisk:
    """A matrix [n d] in a file without a name, which goes when it is closed or its process ends,
    however it ends.

    Args:
        shape: rows and columns.
        folder: where the file is; None takes the system's place for temporary files.
        hold: bytes that may be held beside a block: what a sample of the rows may take.
        device: where what is read goes.

    >>> rows = OnDisk((3, 2))
    >>> rows[:] = torch.ones(3, 2)
    >>> rows[torch.tensor([2])] = torch.zeros(1, 2)
    >>> rows[1:].tolist(), rows[torch.tensor([2, 0])].tolist()
    ([[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]])
    """

    is_cuda = property(lambda self: self.device.type == "cuda")
    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        folder: str | Path | None = None,
        hold: int = 1 << 28,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.folder, self.hold, self.dtype = shape, folder, hold, dtype
        self.device = torch.device(device)
        self._file = _Nameless(folder)
        os.truncate(self._file.descriptor, shape[0] * self._width)

    @property
    def _width(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def like(self, n: int, d: int) -> OnDisk:
        """Room for other rows in the same folder."""
        return OnDisk((n, d), self.folder, self.hold, self.dtype, self.device)

    def to(self, device: torch.device | str) -> OnDisk:
        """The same rows, read to another device."""
        other = object.__new__(OnDisk)
        other.__dict__.update(self.__dict__, device=torch.device(device))
        return other

    @property
    def block(self) -> int:
        """How many rows are looked through at a time."""
        return block_of(self._width)

    def blocks(self) -> Iterator[slice]:
        """Slices that together are all rows, in order."""
        return blocks_of(len(self), self.block)

    def __getitem__(self, rows: slice | Tensor) -> Float[Tensor, "m d"]:
        """Rows of a slice, or of an index in any order;
        raises ValueError for a slice with steps.
        """
        if isinstance(rows, slice):
            return self._read(*self._span(rows)).to(self.device)
        order = torch.argsort(rows.cpu())
        wanted = rows.cpu()[order]
        out = torch.empty(len(wanted), self.shape[1], dtype=self.dtype)
        at = 0
        while at < len(wanted):  # what lies within a block is read in one go
            first = int(wanted[at])
            stop = int(torch.searchsorted(wanted, first + self.block))
            part = self._read(first, int(wanted[stop - 1]) + 1)
            out[order[at:stop]] = part[wanted[at:stop] - first]
            at = stop
        return out.to(self.device)

    def __setitem__(self, rows: slice | Tensor, values: Float[Tensor, "m d"]) -> None:
        """Write rows where ``__getitem__`` reads them;
        raises ValueError unless there is one for each place.
        """
        start, stop = self._span(rows) if isinstance(rows, slice) else (0, len(rows))
        if values.shape != (stop - start, self.shape[1]):
            raise InputError(
                f"expected {stop - start} rows of {self.shape[1]}, got {list(values.shape)}"
            )
        stored = values.detach().to("cpu", self.dtype).contiguous()
        if isinstance(rows, slice):
            self._write(start, stored)
            return
        ends = (torch.diff(rows.cpu()) != 1).nonzero().squeeze(1) + 1
        # runs of neighbours
        for start, stop in zip([0, *ends.tolist()], [*ends.tolist(), len(rows)], strict=True):
            if stop > start:
                self._write(int(rows[start]), stored[start:stop])

    def _span(self, rows: slice) -> tuple[int, int]:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise InputError(f"expected a slice of neighbouring rows, got step {step}")
        return start, max(start, stop)

    def _read(self, start: int, stop: int) -> Tensor:
        out = torch.empty(stop - start, self.shape[1], dtype=self.dtype)
        rest, at = _bytes(out), start * self._width
        while rest:
            count = os.preadv(self._file.descriptor, [rest], at)
            if not count:
                raise OSError(f"rows {start} to {stop} of {len(self)} are not in the file")
            rest, at = rest[count:], at + count
        return out

    def _write(self, start: int, values: Tensor) -> None:
        if not 0 <= start <= len(self) - len(values):
            raise InputError(
                f"expected rows from 0 to {len(self) - 1}, got {start} to {start + len(values) - 1}"
            )
        rest, at = _bytes(values), start * self._width
        while rest:
            count = os.pwrite(self._file.descriptor, rest, at)
            rest, at = rest[count:], at + count


def _bytes(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().reshape(-1).data


def blocks_of(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that together are n rows, in order."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def chosen_blocks(
    X: Float[Tensor, "n d"], rows: Int[Tensor, " m"] | None, size: int
) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
    """Some rows of a matrix (all without ``rows``), at most ``size`` at a time: their places among
    those, and their values, which stand until the next block.
    """
    if rows is None:
        for block in blocks_of(len(X), size):
            yield block, X[block]
        return
    # One piece of memory for all blocks: it stays in a processor's cache.
    room = X.new_empty(min(size, len(rows)), X.shape[1])
    for block in blocks_of(len(rows), size):
        place = room[: block.stop - block.start]
        yield block, torch.index_select(X, 0, rows[block], out=place)
