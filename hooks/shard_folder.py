"""What lies in a store's folder: its shards by name and size, their headers,
and the plan that says how many there are.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .folders import Folder
from .shards import FORMAT, INDEX, Header, Slot, StoreError, digest, read_header, read_tensor

PLAN = "store.json"
"""The file that says how many shards and rows there are."""
SHARD = re.compile(r"shard-([0-9]{6,12})\.safetensors")


class ShardFolder:
    """The shards of a folder; a header is read once.

    Args:
        folder: where they lie.
        about: what they have to be made from; None takes any.
        settle: called before the folder is listed, so that what is being written is there.
    """

    def __init__(
        self, folder: Folder, about: dict[str, Any] | None, settle: Callable[[], None]
    ) -> None:
        self.folder, self.about, self._settle = folder, about, settle
        self._headers: dict[tuple[str, int], Header] = {}
        self._rows: dict[tuple[str, int], slice | np.ndarray] = {}

    def forget(self, name: str, size: int) -> None:
        """Nothing is known any more of a shard, which has been written again."""
        self._headers.pop((name, size), None)
        self._rows.pop((name, size), None)

    def clear(self) -> None:
        """Nothing is known any more of any shard."""
        self._headers.clear()
        self._rows.clear()

    def names(self) -> dict[str, int]:
        """The bytes of the shards that are there, by name, once what was given is written."""
        self._settle()
        return {n: size for n, size in self.folder.sizes().items() if SHARD.fullmatch(n)}

    def plan(self) -> dict[str, Any] | None:
        size = self.folder.size(PLAN)
        if size is None:
            return None
        try:
            plan = json.loads(self.folder.read(PLAN, 0, size))
            whole = plan.pop("sha256", None) == digest(plan)
        except (ValueError, TypeError, AttributeError, RecursionError):
            plan, whole = {}, False
        if not whole:
            raise StoreError(
                f"{self.folder}/{PLAN} is damaged: delete it and run again, the shards are kept"
            )
        if plan.get("format") != FORMAT:
            raise StoreError(
                f"{self.folder}/{PLAN} is foreign (expected {FORMAT}, got {plan.get('format')})"
            )
        for count in ("shards", "rows"):
            if type(plan.get(count)) is not int or plan[count] < 0:
                raise StoreError(
                    f"{self.folder}/{PLAN}: expected a number of {count}, "
                    f"got {plan.get(count)!r:.40}"
                )
        plan["sha256"] = digest(plan)
        if self.about is not None:
            self._compare(PLAN, plan.get("about"))
        return plan

    def made_from(self) -> dict[str, Any] | None:
        """What the folder says its rows are made from; None for an empty one."""
        if (plan := self.plan()) is not None:
            return plan["about"]
        first = next(iter(self.names().items()), None)
        return None if first is None else self.header(*first).about

    def missing(self) -> tuple[int, str]:
        """How many shards are missing, and the name of the first;
        however many the plan speaks of.
        """
        numbers = {shard_number(name) for name in self.names()}
        plan = self.plan()
        wanted = plan["shards"] if plan is not None else max(numbers, default=-1) + 1
        missing = wanted - sum(number < wanted for number in numbers)
        first = next(number for number in itertools.count() if number not in numbers)
        return missing, shard_name(first)

    def all(self) -> dict[str, int]:
        """The bytes of all shards by name, none of which is missing."""
        missing, first = self.missing()
        if missing:
            raise StoreError(
                f"{self.folder}: {missing} shards are missing, the first is {first}: run it again"
            )
        return self.names()

    def header(self, name: str, size: int) -> Header:
        if (name, size) not in self._headers:
            header = read_header(self.folder, name, size)
            if self.about is not None:
                self._compare(name, header.about)
            self._headers[name, size] = header
        return self._headers[name, size]

    def rows_of(self, name: str, size: int) -> slice | np.ndarray:
        """Which rows a shard holds: a slice where they follow each other."""
        if (name, size) not in self._rows:
            index = read_tensor(self.folder, name, self.header(name, size), INDEX)
            rows = index.numpy()[:, 0]
            first = int(rows[0]) if len(rows) else 0
            stop = first + len(rows)
            follow_each_other = np.array_equal(rows, np.arange(first, stop))
            self._rows[name, size] = slice(first, stop) if follow_each_other else rows.copy()
        return self._rows[name, size]

    def _compare(self, name: str, saved: Any) -> None:
        wanted, saved = self.about or {}, saved if isinstance(saved, dict) else {}
        differing = sorted(k for k in {*saved, *wanted} if saved.get(k) != wanted.get(k))
        if differing:
            raise StoreError(
                f"{self.folder}/{name} was made from another model, text or setting "
                f"({', '.join(differing)} differ): use another folder or delete it"
            )

    def header_with(self, name: str, size: int, site: str) -> Header:
        header = self.header(name, size)
        if site not in header.slots:
            raise StoreError(
                f"{self.folder}/{name}: expected site {site!r}, it holds {header.sites[:5]}"
            )
        return header

    def slots(self, site: str, parts: Sequence[tuple[str, int]]) -> list[Slot]:
        """Where a site is in each of these shards: at least one, and all in one type and width."""
        if not parts:
            raise StoreError(f"{self.folder}: expected shards, it holds none")
        slots = [self.header_with(*part, site).slots[site] for part in parts]
        for (name, _), slot in zip(parts, slots, strict=True):
            if _kind(slot) != _kind(slots[0]):
                raise StoreError(
                    f"{self.folder}/{name}: expected {site} in {_kind(slots[0])}, got {_kind(slot)}"
                )
        return slots


def shard_name(shard: int) -> str:
    return f"shard-{shard:06d}.safetensors"


def shard_number(name: str) -> int:
    """The number in a shard's name."""
    match = SHARD.fullmatch(name)
    return int(match[1]) if match is not None else -1


def _kind(slot: Slot) -> str:
    """A row's type and shape, as messages show them."""
    return f"{str(slot.dtype).removeprefix('torch.')} {list(slot.shape[1:])}"
