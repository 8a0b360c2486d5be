"""Files with something wrong in them, and values that no option expects.

`edit` knows a file's format by its name and makes one change in it: a value, a cell, a field, a
tensor, a byte. Files are replaced and never written to, since they may be hard links
(`place.linked_copy`).
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rng = random.Random

STRANGE = (
    "", " ", "-1", "0", "1", "3", "nan", "inf", "-inf", "1e999", "9" * 310, "-" + "9" * 310, "9" * 5000, "0x10", "1_000", "１２", "½",
    "true", "None", "[]", "{}", "../..", "/", "/dev/null", "no/such/file", ".", "~", "a\x00b", "\ud800", "é", "e\u0301",
    "😀" * 50, "x" * 5000, "'; drop", "<script>", "%s", "{0}", "\\", "\n", "2GB", "-3GB", "1e999GB", "blocks.*.hook_z",
    "hook_resid_post[0]", "module:x:output", "blocks.99.hook_resid_post", "upos", "feats:", "misc:x", "all", "meta", "cuda:99",
    "blocks.0.attn.hook_z[1]=zero", "hook_embed=nan", "first..last", "0.hook_z[", "[bold]", "10**400", "1e-400", "-0.0",
)  # fmt: skip
"""Texts in the place of an option's value."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 99, 5, 0.5, 1.5, -0.0, 1e308, 1e-320, 10**5, 10**9, 10**19, 10**400, float("nan"),
    float("inf"), "", " ", "a", "\ud800", "\x00", "e\u0301", "<script>", "x" * 10_000, [], {}, [[]], ["a"], ["a", "a"], [1, 2],
    [None], {"a": 1}, {"a": None}, {"": []}, [[[[]]]], "NaN",
)  # fmt: skip
"""JSON values in the place of another."""
FIELDS = (
    "prompt", "answer", "wrong", "corrupted", "group", "sentence_good", "sentence_bad", "question", "choices", "probabilities",
    "logits", "label", "text", "sentences", "validation", "positions", "image", "target_prefix", "one_prefix_prefix", "split",
    "text_pair",
)  # fmt: skip
"""Names that readers of rows know."""
CELLS = (
    "",
    "_",
    "0",
    "-1",
    "99",
    "1-2",
    "1.1",
    "a=b|c",
    "x\ud800",
    "\x00",
    "9" * 30,
    "nan",
    '"',
    "[1",
    "{}",
    "x" * 300,
)
"""Texts in the place of a cell."""
LINES = (
    "",
    "# text = x",
    "# global.columns = ID FORM",
    "# newdoc",
    "\ufeff# x",
    "1\tx",
    ",,",
    '"',
    "[" * 3000,
)
"""Lines in the place of another."""
TEMPLATES = (
    "{{ raise_exception('no') }}", "{% for", ("{{ messages.__class__.__mro__ "
    "}}"), ("{% for i in range(10**9) "
    "%}x{% endfor %}"),
    "{{ 'a' * 10**10 }}", "{{ messages[0]['content'] }}", "", "{{ 1/0 }}", "{{ messages[9].x.y }}", "{% macro m() %}{{ m() "
    "}}{% endmacro %}{{ m() }}",
)  # fmt: skip
"""Chat templates."""


def edit(path: Path, rng: Rng) -> None:
    """Change one thing of a file, or put something else in its place."""
    if not path.is_file():  # it was edited before
        return
    way = rng.random()
    if way < 0.06:
        _something_else(path, rng)
    elif way < 0.2:
        _rewrite(path, damaged(path.read_bytes(), rng))
    else:
        change = BY_SUFFIX.get(path.suffix, damaged)
        try:
            data = change(path.read_bytes(), rng)
        except Exception:
            data = damaged(
                path.read_bytes(), rng
            )  # it was edited before, and is no file of its format any more
        _rewrite(path, data)


def _rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _something_else(path: Path, rng: Rng) -> None:
    """No file, a folder, a link to nowhere or to itself, a device, another file of its folder."""
    path.unlink()
    others = [one for one in path.parent.iterdir() if one.is_file()]
    way = rng.randrange(6)
    if way == 1:
        path.mkdir()
    elif way in (2, 3):
        path.symlink_to(path if way == 2 else path.with_name("nowhere"))
    elif way == 4:
        path.symlink_to("/dev/null")
    elif way == 5 and others:
        shutil.copy(rng.choice(others), path)


def damaged(data: bytes, rng: Rng) -> bytes:
    """Bytes cut, doubled, changed, with another end of line, a mark in the middle,
    or brackets without end.
    """
    if not data:
        return rng.choice((b"x", b"{", b"\0", b"[]"))
    at = rng.randrange(len(data))
    way = rng.randrange(7)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if way == 2:
        return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
    if way == 3:
        return data[:at] + b"\xef\xbb\xbf" + data[at:]
    if way == 4:
        return data + b"[" * 3000
    if way == 5:
        return data[at:]
    return b""


# -- JSON


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that lies in a JSON value, with at most three items of a list."""
    inner: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = list(enumerate(value))[:3]
    found: list[tuple[Any, ...]] = []
    for key, below in inner:
        found += [(*path, key), *places_of(below, (*path, key))]
    return found


def change_value(value: Any, rng: Rng) -> None:
    """Take out, wrap, double or replace one place of a JSON value."""
    path = rng.choice(places_of(value))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, way = path[-1], rng.random()
    if way < 0.25:
        del holder[key]
    elif way < 0.4:
        holder[key] = [holder[key]]
    elif way < 0.5 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif way < 0.6 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)


def first_difference(one: Any, other: Any, where: str = "") -> str:
    """Where two values differ first; empty where they do not."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one]
    elif (
        isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other)
    ):
        pairs = [(place, *both) for place, both in enumerate(zip(one, other, strict=True))]
    else:
        return "" if one == other else f"{where}: {one!r:.80} and {other!r:.80}"
    for key, a, b in pairs:
        if difference := first_difference(a, b, f"{where}.{key}"):
            return difference
    return ""


def dumped(value: Any, rng: Rng) -> bytes:
    """JSON, perhaps with half characters as they are."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    return text.encode("utf-8", "surrogatepass")


def _json(data: bytes, rng: Rng) -> bytes:
    value = json.loads(data)
    change_value(value, rng)
    return dumped(value, rng)


def _rows(data: bytes, rng: Rng) -> bytes:
    """JSON lines: fields of one to three rows."""
    rows = [json.loads(line) for line in data.splitlines() if line.strip()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rng.choice(rows)
        name = rng.choice([*row, *row, *FIELDS])
        if rng.random() < 0.25:
            row.pop(name, None)
        else:
            row[name] = rng.choice(VALUES)
    return b"\n".join(dumped(row, rng) for row in rows) + b"\n"


# -- tables and corpora


def _separated(separator: str) -> Callable[[bytes, Rng], bytes]:
    def change(data: bytes, rng: Rng) -> bytes:
        """Cells of one to three lines, or a line."""
        lines = data.decode("utf-8", "replace").split("\n")
        for _ in range(rng.choice((1, 1, 2, 3))):
            at, way = rng.randrange(len(lines)), rng.random()
            cells = lines[at].split(separator)
            if way < 0.7:
                cells[rng.randrange(len(cells))] = rng.choice(CELLS)
            elif way < 0.8:
                cells.append("_")
            elif way < 0.85:
                cells.pop()
            lines[at] = rng.choice(LINES) if way > 0.9 else separator.join(cells)
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    return change


def _template(data: bytes, rng: Rng) -> bytes:
    return rng.choice(TEMPLATES).encode()


# -- arrays


def _safetensors(data: bytes, rng: Rng) -> bytes:
    """A value of the header, one of the JSON texts in its metadata,
    or the numbers of a tensor or of all.
    """
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = rng.random()
    if way < 0.4:
        return data[: 8 + length] + _other_numbers(header, values, rng)
    facts = header.get("__metadata__") or {}
    nested = [name for name, text in facts.items() if text[:1] in ("{", "[")]
    if nested and way < 0.75:
        name = rng.choice(nested)
        inner = json.loads(facts[name])
        change_value(inner, rng)
        facts[name] = json.dumps(inner)
    else:
        change_value(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def _other_numbers(header: dict[str, Any], values: bytes, rng: Rng) -> bytes:
    """Numbers that are zero, huge, tiny, infinite or none, in one tensor or in all."""
    names = [name for name in header if name != "__metadata__" and header[name]["dtype"] == "F32"]
    chosen = names if rng.random() < 0.5 else [rng.choice(names)]
    factor = rng.choice((0.0, 1e30, 1e-30, -1.0, np.nan, np.inf))
    changed = bytearray(values)
    for name in chosen:
        start, stop = header[name]["data_offsets"]
        numbers = np.frombuffer(values[start:stop], np.float32)
        with np.errstate(all="ignore"):
            changed[start:stop] = (numbers * np.float32(factor)).astype(np.float32).tobytes()
    return bytes(changed)


def _archive(data: bytes, rng: Rng) -> bytes:
    """An npz file with one array of another kind or shape, or without it."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = rng.choice(sorted(arrays))
    values = arrays.pop(name)
    others = (
        None, values * np.nan, values[:1], values[..., None], values.astype(str), values.astype(np.int8), -values,
        np.zeros(0), np.array(3), values.astype(complex), values > 0, values.astype(np.float16) * 1e4,
    )  # fmt: skip
    other = rng.choice(others)
    if other is not None:
        arrays[name] = other
    buffer = io.BytesIO()
    with np.errstate(all="ignore"):
        np.savez(buffer, **arrays)
    return buffer.getvalue()


def _picture(data: bytes, rng: Rng) -> bytes:
    """The header of a picture of ten gigapixels, or other bytes."""
    if rng.random() < 0.4:
        side = (100_000).to_bytes(4, "big")
        return data[:16] + side + side + data[24:]
    return damaged(data, rng)


def _gguf(data: bytes, rng: Rng) -> bytes:
    """A number, a letter of a name, or a byte of the header; or the numbers of the tensors."""
    changed = bytearray(data)
    header = data.rindex(b".weight") + 48  # the last tensor's name, shape, type and place
    way = rng.random()
    if way < 0.4:
        at = rng.randrange(4, header - 8)
        code, number = rng.choice((("<I", 2**32 - 1), ("<Q", 2**64 - 1), ("<I", 0), ("<I", 99)))
        number = rng.choice((number, 1, 10**9))
        changed[at : at + struct.calcsize(code)] = struct.pack(code, number)
    elif way < 0.6:
        names = list(re.finditer(rb"[a-z_]{3,}(\.[a-z_0-9]+)+", data[:header]))
        changed[rng.randrange(*rng.choice(names).span())] ^= 1
    elif way < 0.7:
        changed[rng.randrange(header)] = rng.randrange(256)
    elif way < 0.85:
        start = -(len(data) - header) // 4 * 4 or None
        factor = np.float32(rng.choice((0.0, 1e30, -1.0, np.nan, np.inf)))
        with np.errstate(all="ignore"):
            numbers = np.frombuffer(data[start:], np.float32) * factor
        changed[start:] = numbers.astype(np.float32).tobytes()
    else:
        return damaged(data, rng)
    return bytes(changed)


BY_SUFFIX: dict[str, Callable[[bytes, Rng], bytes]] = {
    ".json": _json,
    ".jsonl": _rows,
    ".conllu": _separated("\t"),
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _separated(" "),
    ".toml": _separated(" "),
    ".jinja": _template,
    ".safetensors": _safetensors,
    ".gguf": _gguf,
    ".npz": _archive,
    ".png": _picture,
}
