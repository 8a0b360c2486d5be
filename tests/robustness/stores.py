"""Stores on disk with something changed in them: what is read is what was written, or `problems()`
names the file.

    PYTHONPATH=. python tests/robustness/stores.py --cases 2000

Three kinds of change: bytes (flipped, zeroed, cut, put in another order), whole tensors' rows and
words in another order, and headers and plans whose own hashes were made again. The last kind can
hold anything: it must not end in another error than `StoreError`, run long or ask for much memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hooks import ActivationStore, StoreError

SITES = {"a": torch.float16, "b": torch.float32}
SHARDS, ROWS, WIDTH = 2, 6, 8
LONGEST = 2.0
"""Seconds that one store may take."""
EXTREME = (10**12, 10**30, -1, 0, None, "x", [], {}, 1e300, True, 2**63)


def fill(folder: Path) -> None:
    """Two shards of two sites, sealed."""
    generator = torch.Generator().manual_seed(0)
    with ActivationStore(folder, {"model": "m"}) as store:
        for shard in range(SHARDS):
            number = torch.arange(ROWS) + shard * ROWS
            index = torch.stack([number, number // 3, number % 3, number, number + 1], dim=1)
            values = {
                site: torch.randn(ROWS, WIDTH, generator=generator).to(kind)
                for site, kind in SITES.items()
            }
            store.write(shard, index, values)
        store.seal(SHARDS, SHARDS * ROWS)


def read(folder: Path) -> list[torch.Tensor]:
    """Everything that a store gives, each in the way of whole reads."""
    store = ActivationStore(folder)
    return [store.index, *(store.read(site) for site in SITES)]


def parts(data: bytes) -> tuple[dict[str, Any], int]:
    """A shard's header, and where its data begins."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), 8 + length


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def joined(header: dict[str, Any], data: bytes) -> bytes:
    """A shard whose header carries its own right hash."""
    meta = header["__metadata__"]
    rest = {name: place for name, place in header.items() if name != "__metadata__"}
    header = {"__metadata__": {**meta, "sha256": digest([meta["layerscope"], rest])}, **rest}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


# ---------------------------------------------------------------- changes


def _swapped(data: bytes, first: int, second: int, size: int) -> bytes:
    """Two pieces of one size in each other's place."""
    changed = bytearray(data)
    one, other = data[first : first + size], data[second : second + size]
    changed[first : first + size], changed[second : second + size] = other, one
    return bytes(changed)


def _places(data: bytes, rng: random.Random, unit: int | None) -> tuple[int, int, int]:
    """Two places of one tensor, and their size: rows, or words of so many bytes."""
    header, base = parts(data)
    tensor = rng.choice([name for name in header if name != "__metadata__"])
    start, stop = header[tensor]["data_offsets"]
    size = unit or (stop - start) // header[tensor]["shape"][0]
    count = (stop - start) // size
    first, second = rng.sample(range(count), 2)
    return base + start + first * size, base + start + second * size, size


def swapped_rows(data: bytes, rng: random.Random) -> bytes:
    return _swapped(data, *_places(data, rng, None))


def swapped_words(data: bytes, rng: random.Random) -> bytes:
    return _swapped(data, *_places(data, rng, rng.choice([2, 4, 8, 16])))


def row_twice(data: bytes, rng: random.Random) -> bytes:
    first, second, size = _places(data, rng, None)
    return data[:first] + data[second : second + size] + data[first + size :]


def turned(data: bytes, rng: random.Random) -> bytes:
    """All data moved on by some bytes, the last ones first."""
    _, base = parts(data)
    by = rng.randrange(1, len(data) - base)
    return data[:base] + data[base + by :] + data[base : base + by]


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randrange(1, 200))
    return data[:start] + bytes(stop - start) + data[stop:]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def longer(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 40))


HARMED: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    swapped_rows, swapped_words, row_twice, turned, flipped, zeroed, cut, longer,
)  # fmt: skip


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, below in inner:
        found.append((*path, key))
        if isinstance(below, dict | list):
            found += _leaves(below, (*path, key))
    return found


def _changed(value: Any, rng: random.Random) -> None:
    """One place of a JSON value made something else, or removed."""
    path = rng.choice(_leaves(value))
    for key in path[:-1]:
        value = value[key]
    if rng.random() < 0.15 and isinstance(value, dict):
        del value[path[-1]]
    else:
        value[path[-1]] = rng.choice(EXTREME)


def forged_header(data: bytes, rng: random.Random) -> bytes:
    header, base = parts(data)
    meta = header.pop("__metadata__")
    said = json.loads(meta["layerscope"])
    _changed(rng.choice([header, said]), rng)
    meta["layerscope"] = json.dumps(said)
    return joined({"__metadata__": meta, **header}, data[base:])


def forged_plan(data: bytes, rng: random.Random) -> bytes:
    plan = json.loads(data)
    plan.pop("sha256")
    _changed(plan, rng)
    return json.dumps({**plan, "sha256": digest(plan)}).encode()


# ---------------------------------------------------------------- the rule


def judge(folder: Path, expected: list[torch.Tensor], forged: bool) -> str:
    """What became of a changed store: "right", "named", or what is wrong with it."""
    start = time.perf_counter()
    try:
        problems = ActivationStore(folder).problems()
    except StoreError as error:
        problems = [str(error)]
    try:
        found: list[torch.Tensor] | None = read(folder)
    except StoreError as error:
        found = None
        if "\n" in str(error) or str(folder) not in str(error):
            return f"a line that names no file: {error}"
    if time.perf_counter() - start > LONGEST:
        return "slow"
    if found is None and not problems and not forged:
        return "cannot be read, and problems() is empty"
    if found is None or problems:
        return "named"
    same = all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    return "right" if same or forged else "read wrong, and problems() is empty"


def change(folder: Path, whole: dict[str, bytes], rng: random.Random) -> tuple[str, bool]:
    """Change one store; returns the change's name, and whether hashes were made again."""
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    kind = rng.random()
    shards = [name for name in whole if name.startswith("shard-")]
    if kind < 0.75:
        how, name = rng.choice(HARMED), rng.choice(list(whole))
        if name not in shards and how in HARMED[:4]:
            name = rng.choice(shards)
    elif kind < 0.9:
        how, name = forged_header, rng.choice(shards)
    else:
        how, name = forged_plan, "store.json"
    (folder / name).write_bytes(how(whole[name], rng))
    return how.__name__, kind >= 0.75


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng, counts, faults = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fill(folder)
        whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        whole.pop(".lock", None)
        expected = read(folder)
        for case in range(options.cases):
            name, forged = change(folder, whole, rng)
            try:
                outcome = judge(folder, expected, forged)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            counts[name, outcome if outcome in ("right", "named") else "FAULT"] += 1
            if outcome not in ("right", "named"):
                faults.append(f"case {case}, {name}: {outcome}")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:15} {outcome:6} {count}")
    print(f"{len(faults)} of {options.cases} at fault", *faults[:20], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
