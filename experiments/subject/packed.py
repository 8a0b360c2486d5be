"""Tokens, spans and rows of a large corpus in flat arrays.

As Python objects those of a word took 257 bytes with its label, here 81. An object is made when it
is asked for, and forgotten again.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, TypeVar, overload

import numpy as np

from .word_spans import Encoded

T = TypeVar("T")
_NO_SPAN = (-1, -1)
"""In the place of a word's first token and its end."""


class ByPlace(Sequence[T]):
    """A sequence that knows how to make the item at a place."""

    def _at(self, place: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        # A range counts from the end too, and refuses what is past it.
        places = range(len(self))[index]
        return self._at(places) if isinstance(places, int) else self.select(places)

    def select(self, places: Iterable[int]) -> Sequence[T]:
        """Some of them, in the order given."""
        return [self._at(place) for place in places]


class Ragged(ByPlace[tuple[int, ...]]):
    """Lines of integers, each of any length, in one array.

    Args:
        lines: the first ones.
        code: of `array.array`; 32 bits hold row numbers and token ids.

    >>> lines = Ragged([(3, 4), (), (5,)])
    >>> lines[0], len(lines), list(lines[1:]), lines.flat.tolist(), lines.lengths.tolist()
    ((3, 4), 3, [(), (5,)], [3, 4, 5], [2, 0, 1])
    """

    def __init__(self, lines: Iterable[Iterable[int]] = (), code: str = "i") -> None:
        self._flat, self._ends = array(code), array("q", [0])
        for line in lines:
            self.append(line)

    def append(self, line: Iterable[int]) -> None:
        """Add a line."""
        self._flat.extend(line)
        self._ends.append(len(self._flat))

    @property
    def flat(self) -> np.ndarray:
        """The integers of all lines."""
        return np.array(self._flat, dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """How many integers each line has."""
        return np.diff(np.array(self._ends, dtype=np.int64))

    @property
    def digest(self) -> bytes:
        """Equal for equal lines alone, in any process."""
        content = hashlib.sha256(self._flat)
        content.update(self._ends)
        return content.digest()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _at(self, place: int) -> tuple[int, ...]:
        return tuple(self._flat[self._ends[place] : self._ends[place + 1]])

    def select(self, places: Iterable[int]) -> Ragged:
        """Some of them, in the order given."""
        return Ragged(map(self._at, places), self._flat.typecode)


class Spans(ByPlace[list[slice | None]]):
    """The tokens of each word of each text; None for a word without tokens.

    >>> Spans([[slice(1, 3), None], []])[0]
    [slice(1, 3, None), None]
    """

    def __init__(self, lines: Iterable[Sequence[slice | None]] = ()) -> None:
        self._bounds = Ragged()
        for line in lines:
            self.append(line)

    def append(self, line: Sequence[slice | None]) -> None:
        """Add a text's."""
        bounds = [_NO_SPAN if span is None else (span.start, span.stop) for span in line]
        self._bounds.append(chain.from_iterable(bounds))

    def __len__(self) -> int:
        return len(self._bounds)

    def _at(self, place: int) -> list[slice | None]:
        bounds = self._bounds[place]
        spans: list[slice | None] = []
        for start, stop in zip(bounds[::2], bounds[1::2], strict=True):
            spans.append(None if (start, stop) == _NO_SPAN else slice(start, stop))
        return spans


class EncodedTexts(ByPlace[Encoded]):
    """Texts as a model reads them."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids, self._offsets, self._special = Ragged(), Ragged(), Ragged(code="b")
        # Few texts have these: they are cut, or have tokens that are unknown or a lone space.
        self._rest: dict[int, tuple[Any, ...]] = {}

    def append(self, one: Encoded) -> None:
        """Add one."""
        rest = (one.cut, one.prefixes, one.unknown, one.picture, one.sound)
        if rest != (None, (), (), None, None):
            self._rest[len(self)] = rest
        self._texts.append(one.text)
        self._ids.append(one.ids)
        self._offsets.append(chain.from_iterable(one.offsets))
        self._special.append(one.special)

    def __len__(self) -> int:
        return len(self._texts)

    def _at(self, place: int) -> Encoded:
        bounds = self._offsets[place]
        offsets = tuple(zip(bounds[::2], bounds[1::2], strict=True))
        special = tuple(map(bool, self._special[place]))
        rest = self._rest.get(place, ())
        return Encoded(self._texts[place], self._ids[place], offsets, special, *rest)


class Joined(ByPlace[T]):
    """Several sequences as one, without a copy.

    >>> Joined("ab", "", "c")[1:]
    ['b', 'c']
    """

    def __init__(self, *parts: Sequence[T]) -> None:
        self._parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def _at(self, place: int) -> T:
        part = bisect_right(self._starts, place) - 1
        return self._parts[part][place - self._starts[part]]
