"""Activations on disk: safetensors shards that are written once, verified on reading, and never
incomplete.

    with ActivationStore("acts", {"model": "gpt2"}, dtype=torch.float16) as store:
        for batch in batches:
            with capture(model, "blocks.*.hook_resid_post", to=store):
                model(**batch)
    ActivationStore("acts").read("blocks.3.hook_resid_post")      # Float[Tensor, "rows d_model"]

A shard contains the rows of one batch at every site; one site can be read without the others. A
shard gets its final name only when it is complete, so an interrupted run continues with the missing
shards. A thread writes shards while the model runs.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.arguments import checked

from .folders import folder_at
from .shard_folder import PLAN, ShardFolder, shard_name
from .shards import (
    COLUMNS,
    FORMAT,
    INDEX,
    Image,
    StoreError,
    as_tensor,
    digest,
    read_rows,
    read_tensor,
)
from .spool import Spool

__all__ = ["COLUMNS", "ActivationStore", "StoreError"]

_READERS = 8
"""Threads that read a site."""
_AHEAD = 256 << 20
"""Bytes that a disk is asked for before they are read."""


class ActivationStore:
    """A folder of shards, each with the rows of some texts at every site.

    Args:
        folder: a path, or a URL supported by fsspec.
        about: provenance of the rows (model, text and settings). Shards with other provenance are
            rejected. None uses that of the existing store.
        dtype: data type on disk: float32, float16 or bfloat16; None keeps that of the values.
        shared: other processes write other shards of this store, as the workers of an engine do;
            no lock is taken.
    """

    @checked
    def __init__(
        self,
        folder: str | os.PathLike[str],
        about: Mapping[str, Any] | None = None,
        *,
        dtype: torch.dtype | None = None,
        shared: bool = False,
    ) -> None:
        self.folder = folder_at(folder)
        self._dtype, self._shared = dtype, shared
        made_from = None
        if about is not None:
            # As JSON gives it back, so that it compares with what is read.
            made_from = json.loads(json.dumps({**about, **_type(dtype)}, default=str))
        self._files = ShardFolder(self.folder, made_from, self.flush)
        self._lock: Any | None = None
        self._turn = Lock()
        self._spool = Spool(self._write)
        self._index: Int[Tensor, "rows 7"] | None = None
        self._last: tuple[int, int, int, int] | None = None

    def __enter__(self) -> ActivationStore:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Elsewhere it is opened anew: what is being written here, and the lock, stay."""
        again = functools.partial(ActivationStore, dtype=self._dtype, shared=self._shared)
        return again, (
            str(self.folder),
            None if self._files.about is None else dict(self._files.about),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if kind is None:
            self.close()
        else:  # the first error is the one to see
            with suppress(StoreError):
                self.close()

    # -- what it holds

    @property
    def about(self) -> dict[str, Any]:
        """Provenance of the rows: model, text and settings."""
        if self._files.about is None:
            made_from = self._files.made_from()
            if made_from is None:
                return _type(self._dtype)
            self._files.about = made_from
            dtype = made_from.get("dtype")
            if self._dtype is None and dtype is not None:
                self._dtype = getattr(torch, dtype)
            elif _type(self._dtype).get("dtype", dtype) != dtype:
                raise StoreError(
                    f"{self.folder} holds {dtype}, got dtype {self._dtype}: "
                    "use another folder or its type"
                )
        return self._files.about

    @property
    def sites(self) -> list[str]:
        """The sites in the store, in order."""
        first = next(iter(self._files.names().items()), None)
        return [] if first is None else self._files.header(*first).sites

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self._files.names())

    @property
    def n_rows(self) -> int:
        """Number of rows: as sealed, else as found."""
        plan = self._files.plan()
        return (
            int(plan["rows"])
            if plan is not None
            else sum(self._files.header(*part).n_rows for part in self._files.names().items())
        )

    @property
    def sealed(self) -> bool:
        """Whether the total number of shards and rows is recorded (see `seal`)."""
        return self._files.plan() is not None

    @property
    def sha256(self) -> str:
        """Hash of the provenance and of the checksums of all values."""
        headers = [self._files.header(*part) for part in sorted(self._files.names().items())]
        return digest([self.about, *(header.sums for header in headers)])

    def size(self) -> int:
        """Bytes of all shards."""
        return sum(self._files.names().values())

    def width(self, site: str) -> int:
        """Number of values per row at a site.

        Raises:
            StoreError: there is no shard, or no such site in one.
        """
        return math.prod(self._files.slots(site, list(self._files.all().items()))[0].shape[1:])

    def largest(self, site: str) -> float:
        """The largest absolute value at a site; 0 without shards."""
        return max(
            (
                self._files.header_with(*part, site).largest[site]
                for part in self._files.names().items()
            ),
            default=0.0,
        )

    def has(self, shard: int) -> bool:
        """Whether a complete shard with the same provenance exists or is being written.

        Raises:
            StoreError: the shard is damaged, incomplete or foreign.
        """
        if shard in self._spool:
            return True
        size = self.folder.size(shard_name(shard))
        if size is None:
            return False
        self._files.header(shard_name(shard), size)
        return True

    # -- writing

    def claim(self) -> None:
        """Become the only writer of the folder; the first write also does this.

        Raises:
            StoreError: another process is writing there, or the folder contains another store.
        """
        with self._turn:
            self._files.about = self.about
            if self._lock is not None or self._shared:
                return
            with self._explained_errors(""):
                self._lock = self.folder.lock()
        if self._lock is None:
            raise StoreError(
                f"{self.folder}: another process is writing there: wait for it, "
                "or use another folder"
            )

    def write(
        self, shard: int, index: Int[Tensor, "n 5"], values: Mapping[str, Float[Tensor, "n ..."]]
    ) -> None:
        """Write one shard: whose rows these are (``COLUMNS``), and their vectors at each site.

        Returns when the rows are copied; what goes wrong in writing is raised by the next call, or
        by `flush`.

        Raises:
            StoreError: another writer is in the folder, values of another type, a disk without
                room.
        """
        self.claim()
        self._spool.put(shard, index, values, self._dtype)
        self._index = None

    def append(
        self,
        values: Mapping[str, Tensor],
        mask: Tensor | None = None,
        start: int = 0,
        positions: Int[Tensor, "batch pos"] | None = None,
        goes_on: bool = False,
    ) -> int:
        """Write one forward as the next shard: a row for each position of each text; returns the
        shard's number.

        Args:
            values: ``[batch pos ...]`` of each site.
            mask: positions that are tokens; None takes all.
            start: position of the first one; above 0 the texts are those of the shard before, gone
                on.
            positions: instead of both, each token's position in its text, -1 where none stands.
            goes_on: with ``positions``, whether the texts are those of the shard before.
        """
        shard, row, sentence, texts = self._end()
        first = next(iter(values.values()))
        batch, pos = first.shape[:2]
        wrong = [site for site, value in values.items() if value.shape[:2] != first.shape[:2]]
        if wrong:
            raise StoreError(
                f"{wrong[0]}: expected {[batch, pos]} texts and positions, "
                f"got {list(values[wrong[0]].shape)}"
            )
        if positions is None:
            positions, goes_on = torch.arange(start, start + pos).expand(batch, pos), start > 0
            if mask is not None:
                positions = torch.where(mask[:, -pos:].bool().cpu(), positions, -1)
        keep = positions >= 0
        text, _ = keep.nonzero().unbind(1)
        number = torch.arange(len(text)) + row
        token = positions[keep]
        texts = sentence - texts if goes_on else sentence
        index = torch.stack(
            [number, text + texts, torch.full_like(text, -1), token, token + 1], dim=1
        )
        self.write(
            shard, index, {site: value[keep.to(value.device)] for site, value in values.items()}
        )
        self._last = shard + 1, row + len(text), texts + batch, batch
        return shard

    def seal(self, shards: int, rows: int) -> None:
        """Record the total number of shards and rows, so that a missing shard is detected."""
        self.flush()
        plan: dict[str, Any] = {
            "format": FORMAT,
            "about": self.about,
            "shards": shards,
            "rows": rows,
        }
        plan["sha256"] = digest(plan)
        if self._files.plan() != plan:
            self.claim()
            with self._explained_errors(PLAN):
                self.folder.write(PLAN, [json.dumps(plan, indent=1, sort_keys=True).encode()])

    def flush(self) -> None:
        """Wait until all pending shards are written.

        Raises:
            StoreError: a write failed.
        """
        self._spool.flush()

    def close(self) -> None:
        """Finish writing and release the lock; the store can still be read."""
        try:
            self._spool.close()
        finally:
            if self._lock is not None:
                self._lock.release()
            self._lock = None

    def delete(self) -> None:
        """Remove the shards, and the folder if nothing else is in it."""
        self.close()
        for name in self._files.names():
            self.folder.remove(name)
        self.folder.remove(PLAN)
        self.folder.clear()
        self._files.clear()
        self._index = self._last = None

    # -- reading

    def read(self, site: str, rows: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n ..."]:
        """Rows of one site, in order; all rows if none are named.

        Whole tensors are compared with their checksums; single rows are not.

        Raises:
            StoreError: there is no shard, one is damaged or foreign, has no such site or its rows
                in another type or width than the first, or some rows are in no shard.
        """
        if rows is not None:
            return self._some(site, rows)
        n_rows, parts = self._require_rows(), list(self._files.all().items())
        slots, seen = self._files.slots(site, parts), np.zeros(n_rows, dtype=bool)
        kind, width = slots[0].dtype, math.prod(slots[0].shape[1:])
        # numpy asks for large pages, torch does not
        space = np.empty(n_rows * width * kind.itemsize, dtype=np.uint8)
        table = space.reshape(n_rows, width * kind.itemsize)

        ahead = max(1, _AHEAD * len(slots) // max(1, sum(slot.stop - slot.start for slot in slots)))

        def place(number: int) -> slice | np.ndarray:
            """Put a shard's rows where they belong; says where."""
            for soon in range(ahead) if number == 0 else (number + ahead,):
                if soon < len(parts):
                    self.folder.announce(parts[soon][0], slots[soon].start, slots[soon].stop)
            part = parts[number]
            where = self._files.rows_of(*part)
            in_order = isinstance(where, slice)
            first = where.start if in_order else int(where.min())
            last = where.stop - 1 if in_order else int(where.max())
            if first < 0 or last >= n_rows:
                raise StoreError(
                    f"{self.folder}/{part[0]}: expected rows below {n_rows}, got {first} to {last}"
                )
            read_rows(self.folder, part[0], self._files.header(*part), site, table, where)
            return where

        # some shards are read while others are summed and put
        with ThreadPoolExecutor(_READERS) as readers:
            for where in readers.map(place, range(len(parts))):
                seen[where] = True
        if not seen.all():
            raise StoreError(
                f"{self.folder}: {int((~seen).sum())} of {n_rows} rows are in no shard"
            )
        return torch.from_numpy(space).view(kind).view(n_rows, *slots[0].shape[1:])

    def shards(self, site: str) -> Iterator[tuple[Int[Tensor, "n 5"], Float[Tensor, "n ..."]]]:
        """The index of each shard and its rows at one site, memory-mapped:
        for sums over more rows than fit in memory.
        """
        for name, size in self._files.all().items():
            header = self._files.header_with(name, size, site)
            slot = header.slots[site]
            index = read_tensor(self.folder, name, header, INDEX)
            yield index, as_tensor(self.folder.view(name, slot.start, slot.stop), slot)

    def shard(self, number: int, site: str) -> tuple[Int[Tensor, "n 5"], Float[Tensor, "n ..."]]:
        """One shard's index and its rows of one site, compared with their checksums."""
        self.flush()
        name, size = shard_name(number), self.folder.size(shard_name(number))
        if size is None:
            raise StoreError(f"{self.folder}/{name} is missing: run it again")
        header = self._files.header_with(name, size, site)
        return read_tensor(self.folder, name, header, INDEX), read_tensor(
            self.folder, name, header, site
        )

    @property
    def index(self) -> Int[Tensor, "rows 5"]:
        """Sentence, word and tokens of every row, in the order of the rows (``COLUMNS``)."""
        return self._table()[:, :5]

    def rows(
        self, sentence: int, word: int | None = None, token: int | None = None
    ) -> Int[Tensor, " n"]:
        """The rows of a sentence, of a word of it, or those that a token of it is part of."""
        index = self.index
        keep = index[:, 1] == sentence
        if word is not None:
            keep &= index[:, 2] == word
        if token is not None:
            keep &= (index[:, 3] <= token) & (token < index[:, 4])
        return keep.nonzero().squeeze(1)

    def problems(self) -> list[str]:
        """Check every byte of the store: one line per damaged shard."""
        lines = []
        for name, size in self._files.names().items():
            try:
                header = self._files.header(name, size)
                for tensor in header.slots:
                    read_tensor(self.folder, name, header, tensor)
            except StoreError as error:
                lines.append(str(error))
        missing, first = self._files.missing()
        if missing:
            others = f" and {missing - 1} others are" if missing > 1 else " is"
            return [*lines, f"{self.folder}/{first}{others} missing"]
        if not lines:
            try:
                self._table()
            except StoreError as error:
                lines.append(str(error))
        return lines

    # -- inside

    def _table(self) -> Int[Tensor, "rows 7"]:
        """The index, and for each row its shard and its place in it."""
        if self._index is None:
            parts = []
            for number, (name, size) in enumerate(self._files.all().items()):
                part = read_tensor(self.folder, name, self._files.header(name, size), INDEX)
                where = torch.stack(
                    [torch.full((len(part),), number), torch.arange(len(part))], dim=1
                )
                parts.append(torch.cat([part, where], dim=1))
            whole = torch.cat(parts) if parts else torch.zeros(0, 7, dtype=torch.long)
            whole = whole[whole[:, 0].argsort()]
            if not torch.equal(whole[:, 0], torch.arange(self._require_rows())):
                raise StoreError(f"{self.folder}: its rows are not numbered from 0 to {len(whole)}")
            self._index = whole
        return self._index

    def _require_rows(self) -> int:
        """How many rows the shards hold, which is what was sealed."""
        n_rows = sum(self._files.header(*part).n_rows for part in self._files.all().items())
        if n_rows != self.n_rows:
            raise StoreError(
                f"{self.folder}: expected {self.n_rows} rows, its shards hold {n_rows}"
            )
        return n_rows

    def _some(self, site: str, rows: Int[Tensor, " n"]) -> Tensor:
        table, parts = self._table(), list(self._files.all().items())
        slots = self._files.slots(site, parts)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(table)):
            raise StoreError(
                f"{self.folder}: expected rows below {len(table)}, "
                f"got {int(rows.min())} to {int(rows.max())}"
            )
        shard, place = table[rows, 5], table[rows, 6]
        values = torch.empty(len(rows), *slots[0].shape[1:], dtype=slots[0].dtype)
        for number in shard.unique().tolist():
            (name, size), slot = parts[number], slots[number]
            in_shard = (shard == number).nonzero().squeeze(1)
            if 2 * len(in_shard) >= slot.shape[0]:  # most of it: then all of it, with its checksum
                part = read_tensor(self.folder, name, self._files.header(name, size), site)
            else:
                part = as_tensor(self.folder.view(name, slot.start, slot.stop), slot)
            values[in_shard] = part[place[in_shard]]
        return values

    def _end(self) -> tuple[int, int, int, int]:
        """Number of the next shard, row and sentence, and how many texts the shard before has."""
        if self._last is None or self.has(self._last[0]):
            parts = list(self._files.all().items())
            self._last = len(parts), 0, 0, 0
            for name, size in reversed(parts):
                index = read_tensor(self.folder, name, self._files.header(name, size), INDEX)
                if len(index):  # a forward of nothing but padding has no rows
                    row, sentence = (index[:, :2].amax(0) + 1).tolist()
                    self._last = len(parts), row, sentence, len(index[:, 1].unique())
                    break
        return self._last

    def _write(self, shard: int, image: Image) -> None:
        name = shard_name(shard)
        with self._explained_errors(name):
            size = image.write(self.folder, name, self.about)
        self._files.forget(name, size)  # what was known of a shard that stood there before

    @contextmanager
    def _explained_errors(self, name: str) -> Iterator[None]:
        """An error of the disk as one line that says what to do."""
        try:
            yield
        except OSError as error:
            free = self.folder.free()
            room = "" if free is None else f"; {free / 1e9:.2f} GB free there"
            raise StoreError(
                f"cannot write {self.folder}/{name}: {error.strerror or error}{room}. "
                "The shards already written are kept: make room and run the "
                "same command again"
            ) from error


def _type(dtype: torch.dtype | None) -> dict[str, str]:
    return {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
