"""What a model's configuration asks for, against what its weight files hold.

A folder or a GGUF file of unknown origin may say anything of itself: a billion layers, a string of
a billion gigabytes. It is judged by sizes that are on disk before transformers builds what it
describes.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SubjectError

LOOPED = re.compile(
    r"(layers?|blocks?|depths?|experts?|groups?|group_num|stages|codebooks|labels)$"
)
"""Ends of the names of settings that say how many modules, or names of classes,
are made one by one.
"""
COUNTED = re.compile(r"^(n|num)_\w*layers?$")
"""Settings that say how many layers there are; ``vision_feature_layer`` is a place,
which may be counted from the end.
"""
FEW = 1024
"""As many of anything are made without asking:
models that share weights have more layers than tensors.
"""
SPARSE = 1.5
"""A model may have so many times the parameters of its files:
heads and poolers are often left out.
"""


@dataclass(frozen=True)
class StoredWeights:
    """What weight files hold.

    Args:
        where: what a message calls them.
        shapes: of every tensor, by name.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        total = 0
        for shape in self.shapes.values():
            count = 1
            for size in shape:
                count *= size
            total += count
        return total

    @property
    def layers(self) -> int:
        """One more than the largest number in a name:
        ``model.layers.11.mlp`` is of 12 layers at least.
        """
        numbers = [
            int(n) for name in self.shapes for n in re.findall(r"(?<=\.)\d{1,6}(?=\.)", name)
        ]
        return max(numbers, default=-1) + 1

    def most(self, name: str) -> int:
        """How many of something there can be: each has a tensor, and each label a row of one."""
        sizes = (max(shape, default=0) for shape in self.shapes.values())
        return max(FEW, len(self.shapes), max(sizes, default=0) if name.endswith("labels") else 0)


def stored_weights(files: Sequence[Path]) -> StoredWeights | None:
    """What .safetensors files hold; None for others.

    Raises:
        SubjectError: a file that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        if path.suffix != ".safetensors":
            return None
        try:
            path.open("rb").close()  # safetensors calls a file that may not be read missing
            with safe_open(str(path), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise SubjectError(f"{path}: expected safetensors ({error})") from None
    where = files[0].name if len(files) == 1 else f"{len(files)} weight files"
    return StoredWeights(where, shapes) if files else None


def check_folder(folder: Path, stored: StoredWeights) -> None:
    """Refuse a config.json that asks for more modules than there are weights.

    Raises:
        SubjectError: the setting, and what the weights hold.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # transformers says what is wrong with it
    for name, value in _numbers(settings):
        _check(str(path), name, value, stored)


def _numbers(settings: Any) -> Iterator[tuple[str, int]]:
    """The whole numbers of a configuration and of those within it, each with its name."""
    items = settings.items() if isinstance(settings, dict) else ()
    for name, value in items:
        several = value if isinstance(value, list) else [value]
        for one in several:
            if isinstance(one, dict):
                yield from _numbers(one)
            elif isinstance(one, int):
                yield str(name), one


def _check(path: str, name: str, value: int, stored: StoredWeights) -> None:
    is_too_few = value < 0 and bool(COUNTED.search(name))
    is_too_many = value > stored.most(name) and bool(LOOPED.search(name))
    if is_too_few or is_too_many:
        shown = str(value) if value < 10**20 else f"a number of {len(str(value))} digits"
        raise SubjectError(
            f"{path}: {name} is {shown}, and {stored.where} holds {len(stored.shapes)} tensors: "
            "the weights are not of this configuration"
        )


def check_parameters(name: str, config: Any, build: Any, stored: StoredWeights) -> None:
    """Refuse a configuration with more layers than the weights, before memory is taken for what is
    missing.

    Args:
        build: makes the model of a configuration (an Auto class).

    Raises:
        SubjectError: the parameters of both.
    """
    import torch

    claimed = [value for key, value in _numbers(config.to_dict()) if COUNTED.search(key)]
    if stored.layers == 0 or max(claimed, default=0) <= stored.layers:
        return
    # More layers than numbers in names: only a model whose layers share their weights is so.
    with torch.device("meta"):
        model = build.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > SPARSE * stored.parameters:
        raise SubjectError(
            f"{name}: config.json describes {max(claimed)} layers and {parameters:,} "
            f"parameters, {stored.where} holds {stored.layers} layers and {stored.parameters:,}: "
            "the weights are not of this configuration"
        )


# -- GGUF

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the types of values."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


class _Gguf:
    """Walks over the header of a GGUF file; nothing is taken for granted that the file's size does
    not allow.

    Attributes:
        counts: whole numbers that are settings, by name.
        shapes: of the tensors.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    def __init__(self, path: Path, data: Any) -> None:
        self.path, self.data, self.at = path, data, 0
        self.counts: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        if bytes(data[:4]) != b"GGUF":
            self._fail("the four letters GGUF", repr(bytes(data[:4])))
        (version,) = struct.unpack_from("<I", data, 4) if len(data) >= 8 else (0,)
        # written on a machine of the other byte order
        self.order = "<" if version & 0xFFFF else ">"
        self.at = 8
        n_tensors, n_settings = self._number(8), self._number(8)
        self._require(n_settings, 13, "settings")
        for _ in range(n_settings):
            self._setting()
        self._require(n_tensors, 25, "tensors")
        total = sum(self._tensor() for _ in range(n_tensors))
        if total > len(data):
            self._fail(f"tensors within the file's {len(data):,} bytes", f"{total:,} bytes of them")

    def _fail(self, expected: str, got: str) -> None:
        raise SubjectError(f"{self.path}: expected {expected}, got {got}: the GGUF file is damaged")

    def _require(self, count: int, size: int, what: str) -> None:
        """Refuse more items than the rest of the file can hold."""
        left = len(self.data) - self.at
        if count * size > left:
            self._fail(f"{what} within the {left:,} bytes that are left", f"{count:,}")

    def _number(self, size: int) -> int:
        self._require(1, size, "a number")
        kind = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
        (value,) = struct.unpack_from(self.order + kind, self.data, self.at)
        self.at += size
        return value

    def _text(self) -> str:
        length = self._number(8)
        self._require(length, 1, "a text")
        start, self.at = self.at, self.at + length
        return bytes(self.data[start : self.at]).decode("utf-8", "replace")

    def _setting(self) -> None:
        name, kind = self._text(), self._number(4)
        if kind in _SCALARS and _SCALARS[kind] in (4, 8) and kind not in (6, 12):
            self.counts[name] = self._number(_SCALARS[kind])
        else:
            self._value(kind)

    def _value(self, kind: int, inside: bool = False) -> None:
        """Step over a value."""
        if kind in _SCALARS:
            self._require(1, _SCALARS[kind], "a value")
            self.at += _SCALARS[kind]
        elif kind == _STRING:
            self._text()
        elif kind == _ARRAY and not inside:
            of, count = self._number(4), self._number(8)
            size = _SCALARS.get(of, 8)
            self._require(count, size, "an array")
            if of in _SCALARS:
                self.at += count * size
                return
            for _ in range(count):
                self._value(of, inside=True)
        else:
            self._fail("a type of value that GGUF has", str(kind))

    def _tensor(self) -> int:
        """The bytes of a tensor by its shape and type."""
        import gguf

        name, n_dimensions = self._text(), self._number(4)
        if n_dimensions > _MOST_DIMENSIONS:
            self._fail(f"at most {_MOST_DIMENSIONS} dimensions", str(n_dimensions))
        shape = tuple(self._number(8) for _ in range(n_dimensions))
        self.shapes[name] = shape
        kind, _ = self._number(4), self._number(8)
        sizes = {int(one): of_block for one, of_block in gguf.GGML_QUANT_SIZES.items()}
        values, size = sizes.get(kind, (1, 1))
        count = 1
        for one in shape:
            count *= one
        return count // values * size


def check_gguf(path: Path) -> None:
    """Refuse a GGUF file whose header says more than the file can hold.

    Raises:
        SubjectError: what was expected and what is there.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise SubjectError(f"{path}: expected a GGUF file, it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Gguf(path, data)
    stored = StoredWeights(path.name, header.shapes)
    for name, value in header.counts.items():
        # block_count, expert_count: as a configuration's num_blocks
        if name.endswith("_count"):
            _check(str(path), name.removesuffix("_count"), value, stored)
