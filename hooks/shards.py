"""One shard: a safetensors file of rows at every site, whose header says what they are and what
they sum to.

    8 bytes   length of the header
    header    JSON: where each tensor is; in ``__metadata__`` what the rows were made from,
              checksums, largest values
    data      ``__index__`` [n 5], then one tensor [n ...] for each site

A header carries a hash of itself. A checksum is the XXH3 hash of a tensor's bytes: as fast as
memory, and changed by other bytes and by the same bytes in another order. The same rows give the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from .folders import Folder

FORMAT = "layerscope-activations-4"
INDEX = "__index__"
COLUMNS = ("row", "sentence", "word", "token", "stop")
"""Of a row: its number, its sentence, the word in it (-1: of no word),
its tokens from ``token`` up to ``stop``.
"""
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_LONGEST_HEADER = 100_000_000
_BLOCK = 1 << 20
"""Bytes that are read, summed and put at a time."""


class StoreError(LayerscopeError, ValueError):
    """A shard that is damaged, foreign or missing, a folder that is in use,
    or a disk without room.
    """


@dataclass(frozen=True)
class Slot:
    """Where a tensor is in a shard's file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a shard says of itself.

    Attributes:
        about: what its rows were made from.
        slots: where each tensor is, the index among them.
        sums: each tensor's checksum.
        largest: largest absolute value at each site.
    """

    about: dict[str, Any]
    slots: dict[str, Slot]
    sums: dict[str, str]
    largest: dict[str, float]

    @property
    def sites(self) -> list[str]:
        """The sites, in the order in which they were written."""
        return [name for name in self.slots if name != INDEX]

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.slots[INDEX].shape[0]


class Image:
    """A shard's data in memory that is used again: rows are copied into it, and it is written from
    there.

    Copying here makes the values safe from a model that changes them, and fresh memory is asked for
    once.
    """

    def __init__(self) -> None:
        self._bytes = torch.zeros(0, dtype=torch.uint8)
        self.slots: dict[str, Slot] = {}

    def fill(
        self, index: Int[Tensor, "n 5"], values: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        """Copy rows in, in the type they are stored in (None: their own)."""
        tensors: dict[str, tuple[Tensor, torch.dtype]] = {INDEX: (index, torch.int64)}
        for site, value in values.items():
            if not value.is_floating_point():
                raise StoreError(
                    f"{site}: expected floating-point values, got {value.dtype}: "
                    "a store holds no others"
                )
            kind = dtype or value.dtype
            if kind not in (torch.float32, torch.float16, torch.bfloat16):
                raise StoreError(
                    f"{site}: expected float32, float16 or bfloat16, got {kind}: "
                    "give the store a dtype"
                )
            if len(value) != len(index):
                raise StoreError(
                    f"{site}: expected a vector for each of {len(index)} rows, got {len(value)}"
                )
            tensors[site] = value, kind
        # each at a multiple of its size
        tensors = dict(sorted(tensors.items(), key=lambda item: -item[1][1].itemsize))
        self.slots, at = {}, 0
        for name, (value, kind) in tensors.items():
            end = at + value.numel() * kind.itemsize
            self.slots[name] = Slot(kind, tuple(value.shape), at, end)
            at = end
        on_gpu = {value.device for value, _ in tensors.values() if value.is_cuda}
        if len(self._bytes) < at or (on_gpu and not self._bytes.is_pinned()):
            self._bytes = torch.empty(at + at // 8, dtype=torch.uint8, pin_memory=bool(on_gpu))
        # From a GPU to pinned memory all sites are on their way at once, and are waited for
        # together.
        for name, (value, _) in tensors.items():
            self._tensor(name).copy_(value.detach(), non_blocking=bool(on_gpu))
        for device in on_gpu:
            torch.cuda.synchronize(device)

    def _tensor(self, name: str) -> Tensor:
        slot = self.slots[name]
        return self._bytes[slot.start : slot.stop].view(slot.dtype).view(slot.shape)

    def write(self, folder: Folder, name: str, about: Mapping[str, Any]) -> int:
        """Write the shard; returns the file's bytes.

        Raises:
            StoreError: a value that is not finite in the type it is stored in.
            OSError: no room, or no permission.
        """
        largest = {site: _largest(site, self._tensor(site)) for site in self.slots if site != INDEX}
        data = self._bytes.numpy()
        sums = {name: checksum(data[slot.start : slot.stop]) for name, slot in self.slots.items()}
        described = {"format": FORMAT, "about": about, "sums": sums, "largest": largest}
        where: dict[str, Any] = {}
        for site, slot in self.slots.items():
            span = [slot.start, slot.stop]
            where[site] = {
                "dtype": _NAMES[slot.dtype],
                "shape": list(slot.shape),
                "data_offsets": span,
            }
        words = json.dumps(described, sort_keys=True)
        header = {"__metadata__": {"layerscope": words, "sha256": digest([words, where])}, **where}
        text = json.dumps(header, separators=(",", ":")).encode()
        # Values begin at a multiple of 8 bytes, as safetensors requires for memory maps.
        text += b" " * (-len(text) % 8)
        size = max(slot.stop for slot in self.slots.values())
        folder.write(name, [len(text).to_bytes(8, "little") + text, data[:size]])
        return 8 + len(text) + size


def _largest(site: str, value: Tensor) -> float:
    if not value.numel():
        return 0.0
    low, high = value.aminmax()
    largest = max(-float(low), float(high))
    if not math.isfinite(largest):
        kind = str(value.dtype).removeprefix("torch.")
        hint = (
            ""
            if value.dtype == torch.float32
            else ": perhaps too large for the type, store bfloat16 or float32"
        )
        raise StoreError(f"{site}: expected finite values, got NaN or infinity in {kind}{hint}")
    return largest


def digest(value: Any) -> str:
    """A hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum(data: np.ndarray) -> str:
    """XXH3 of the bytes, 64 bits as 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data.data)


def read_header(folder: Folder, name: str, size: int) -> Header:
    """The header of a shard, checked against the file's size.

    Raises:
        StoreError: the file is no shard, or not all of one; the message names it.
    """
    path = f"{folder}/{name}"
    # The file says how long its header is; a damaged number would have gigabytes read.
    length = int.from_bytes(folder.read(name, 0, 8), "little")
    if size < 8 or length > min(_LONGEST_HEADER, size - 8):
        raise StoreError(
            f"{path} is damaged (no header of {length} bytes in {size}): delete it and run again"
        )
    try:
        header = json.loads(folder.read(name, 8, 8 + length))
        meta = header.pop("__metadata__", {})
        words = meta.get("layerscope", "{}")
        facts = json.loads(words)
        if facts.get("format") != FORMAT:
            other = str(facts.get("format"))[:40]
            raise StoreError(
                f"{path} is foreign (expected {FORMAT}, got {other!r}): use another folder"
            )
        if meta.get("sha256") != digest([words, header]):
            raise StoreError(f"{path} is damaged (hash of its header): delete it and run again")
        slots = {tensor: _slot(place, 8 + length) for tensor, place in header.items()}
        parsed = Header(
            about=dict(facts["about"]),
            slots=slots,
            sums={tensor: str(facts["sums"][tensor]) for tensor in slots},
            largest={site: float(facts["largest"][site]) for site in slots if site != INDEX},
        )
        _require_rows(parsed)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged (its header cannot be read): delete it and run again"
        ) from error
    end = max(slot.stop for slot in slots.values())
    if end != size:
        kind = "half written" if size < end else "damaged"
        raise StoreError(f"{path} is {kind} ({size} of {end} bytes): delete it and run again")
    return parsed


def _slot(place: Mapping[str, Any], base: int) -> Slot:
    """One tensor's entry in a header; a shape that is not that of its bytes is a ValueError."""
    start, stop = (int(offset) for offset in place["data_offsets"])
    shape = tuple(int(size) for size in place["shape"])
    kind = _TYPES[place["dtype"]]
    n_bytes = math.prod(shape) * kind.itemsize
    if min(start, *shape) < 0 or n_bytes != stop - start:
        raise ValueError(f"{list(shape)} of {kind} are not {stop - start} bytes")
    return Slot(kind, shape, base + start, base + stop)


def _require_rows(header: Header) -> None:
    """Every site has a row for each row of the index; else a ValueError."""
    index = header.slots[INDEX]
    if index.dtype != torch.int64 or index.shape[1:] != (len(COLUMNS),):
        raise ValueError(f"an index of {list(index.shape)}")
    for site in header.sites:
        if header.slots[site].shape[:1] != index.shape[:1]:
            raise ValueError(f"{site} has other rows than the index")


def read_tensor(folder: Folder, name: str, header: Header, tensor: str) -> Tensor:
    """A tensor of a shard, its checksum compared.

    Raises:
        StoreError: the bytes are not those that were written.
    """
    slot = header.slots[tensor]
    data = np.empty(slot.stop - slot.start, dtype=np.uint8)
    read_rows(
        folder,
        name,
        header,
        tensor,
        data.reshape(max(1, slot.shape[0]), -1),
        slice(0, slot.shape[0]),
    )
    return as_tensor(data.data, slot)


def read_rows(
    folder: Folder,
    name: str,
    header: Header,
    tensor: str,
    table: np.ndarray,
    where: slice | np.ndarray,
) -> None:
    """Read a tensor's rows to where they belong in ``table``, ``[rows bytes]``, and compare their
    checksum.

    In blocks that stay in the processor's cache while they are summed and moved.

    Raises:
        StoreError: the bytes are not those that were written.
    """
    slot, width = header.slots[tensor], table.shape[1]
    step = max(1, _BLOCK // max(1, width))
    n_rows, total = slot.shape[0], xxhash.xxh3_64()
    buffer = np.empty((min(step, n_rows), width), dtype=np.uint8)
    with folder.part(name, slot.start, slot.stop) as file:
        for first in range(0, n_rows, step):
            stop = min(first + step, n_rows)
            if isinstance(where, slice):
                rows = table[where.start + first : where.start + stop]
            else:
                rows = buffer[: stop - first]
            _fill(rows.reshape(-1).data, file, f"{folder}/{name}")
            total.update(rows.reshape(-1).data)
            # as memory moves it, which torch's own copy by index does not
            if not isinstance(where, slice):
                table[where[first:stop]] = rows
    if total.hexdigest() != header.sums[tensor]:
        raise StoreError(
            f"{folder}/{name} is damaged (checksum of {tensor}): delete it and run again"
        )


def _fill(buffer: memoryview, file: RawIOBase | BytesIO, path: str) -> None:
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise OSError(f"{path} ends early")
        buffer = buffer[count:]


def as_tensor(data: Any, slot: Slot) -> Tensor:
    """Bytes as the tensor that they are."""
    if not math.prod(slot.shape):
        return torch.empty(slot.shape, dtype=slot.dtype)
    return torch.frombuffer(data, dtype=slot.dtype).view(slot.shape)
