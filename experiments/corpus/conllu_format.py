"""The lines of a CoNLL-U file, checked and split into columns.

Columns stay text: what is not needed is not parsed. In CoNLL-U Plus a line ``# global.columns = ID
FORM ...`` names the columns of all lines after it; they are put into CoNLL-U's order, and a column
that CoNLL-U does not have goes into the last one as ``NAME=value``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from layerscope.errors import LayerscopeError

from .files import encoding_of

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

WORD_IDS = tuple(map(str, range(1, 1001)))
"""The ids of a sentence that has words alone; those of a longer one are read one by one."""

_WORD_ID = re.compile(r"[1-9][0-9]{0,8}")
_RANGE_ID = re.compile(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})")
_EMPTY_ID = re.compile(r"(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=(.*)")
_NOTHING = ("_", "*")
"""A column that holds nothing; in PARSEME's it is a star."""


class CorpusError(LayerscopeError, ValueError):
    """A corpus that cannot be read; the message is one line ``path:line: expected ...,
    got ...``.
    """


class Failure:
    """Raises for line `offset` of the sentence that begins at line `first` of the file."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first = path, first

    def __call__(self, offset: int, expected: str, got: str) -> NoReturn:
        where = f"{self.path}:{self.first + offset}"
        raise CorpusError(f"{where}: expected {expected}, got {got}")


def lines_of(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 file, read one at a time; a line feed ends a line, or a carriage return
    if there is none.

    Raises:
        CorpusError: a line that is no UTF-8.
    """
    # str.splitlines would also break at U+0085 and U+2028, which forms may hold.
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            got = encoding_of(error)
            raise CorpusError(f"{path}:{number}: expected UTF-8 text, got {got}") from None
        if number == 1 and not line.endswith("\n"):
            yield from line.split("\r")
        else:
            yield line.removesuffix("\n")


def blocks(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each sentence."""
    block: list[str] = []
    start = 0
    for number, raw in enumerate(lines, start=1):
        # a byte order mark, where a file begins that was joined to another
        line = raw.rstrip("\r").lstrip("\ufeff")
        if line.strip():
            if not block:
                start = number
            block.append(line)
        elif block:
            yield start, block
            block = []
    if block:
        yield start, block


@lru_cache(maxsize=100_000)
def features(column: str) -> dict[str, str]:
    """A column of features by name, the same object for the same column."""
    if column == "_":
        return {}
    values: dict[str, list[str]] = {}
    for part in column.split("|"):
        name, _, value = part.partition("=")
        values.setdefault(name.strip(), []).append(value.strip())
    # as the format writes several values
    return {name: ",".join(several) for name, several in values.items()}


def global_columns(lines: list[str], columns: tuple[str, ...], fail: Failure) -> tuple[str, ...]:
    """The columns that hold from these lines on, in small letters: those that a line names,
    or those from before.
    """
    for offset, line in enumerate(lines):
        match = _GLOBAL_COLUMNS.match(line) if line.startswith("#") else None
        if match is None:
            continue
        columns = tuple(match[1].lower().split())
        are_unique = len(set(columns)) == len(columns)
        if not are_unique or not {"id", "form"} <= set(columns):
            expected = "global.columns that differ, ID and FORM among them"
            fail(offset, expected, repr(match[1].strip()[:60]))
    return columns


def in_order(lines: list[str], columns: tuple[str, ...], fail: Failure) -> list[str]:
    """Lines of CoNLL-U Plus as lines of CoNLL-U."""
    if columns == COLUMNS and not any("global.columns" in line for line in lines):
        return lines
    ordered = []
    for offset, line in enumerate(lines):
        if line.startswith("#"):
            # The line that names the columns would make the parser expect them.
            ordered.append("#" if _GLOBAL_COLUMNS.match(line) else line)
            continue
        values = line.split("\t")
        if len(values) != len(columns):
            expected = f"{len(columns)} tab-separated columns ({' '.join(columns).upper()[:80]})"
            fail(offset, expected, str(len(values)))
        given = dict(zip(columns, values, strict=True))
        given["misc"] = _with_further(given)
        ordered.append("\t".join(given.get(name, "_") for name in COLUMNS))
    return ordered


def _with_further(given: Mapping[str, str]) -> str:
    """The last column, with ``NAME=value`` for each column that CoNLL-U does not have."""
    misc = given.get("misc", "_")
    parts = [misc] if misc != "_" else []
    for name, value in given.items():
        if name not in COLUMNS and value not in _NOTHING:
            parts.append(f"{name.upper()}={value}")
    return "|".join(parts) or "_"


@dataclass(frozen=True, slots=True)
class TokenLines:
    """The lines of a sentence that are no comments, column by column.

    Args:
        columns: in the order of `COLUMNS`, as they stand.
        offsets: their places among all lines of the sentence.
        words: which of them are words; all, in a sentence without multiword tokens and empty nodes.
        surface: (row, first word id, last word id) of every token that the text has.
        metadata: what the comments say, by name.
    """

    columns: Sequence[Sequence[str]]
    offsets: Sequence[int]
    words: Sequence[int]
    surface: Iterable[tuple[int, int, int]]
    metadata: Mapping[str, str | None]

    def __len__(self) -> int:
        return len(self.offsets)

    def column(self, name: str) -> Sequence[str]:
        """One column of all lines."""
        return self.columns[COLUMNS.index(name)]

    def of_words(self, name: str) -> Sequence[str]:
        """One column of the words."""
        column = self.column(name)
        return column if len(self.words) == len(column) else [column[row] for row in self.words]


def parse(lines: list[str], fail: Failure) -> TokenLines:
    """The lines of one sentence, checked: all at once, and one by one where that finds a fault."""
    comments, token_lines, offsets = [], [], []
    for offset, line in enumerate(lines):
        if line.startswith("#"):
            comments.append(line)
        else:
            token_lines.append(line)
            offsets.append(offset)
    metadata = _metadata(comments)
    rows = [line.split("\t") for line in token_lines]
    if not rows:
        return TokenLines([()] * len(COLUMNS), (), (), (), metadata)
    if not _are_sound("\n".join(token_lines), rows):
        _fail_first(rows, offsets, fail)
    columns = list(zip(*rows, strict=True))
    # White space at the end of a line belongs to no column.
    columns[-1] = tuple(map(str.rstrip, columns[-1]))
    if "" in columns[-1]:
        row = columns[-1].index("")
        _fail_blank([column[row] for column in columns], offsets[row], fail)
    n = len(rows)
    if columns[0] == WORD_IDS[:n]:
        surface = zip(range(n), range(1, n + 1), range(1, n + 1), strict=True)
        return TokenLines(columns, offsets, range(n), list(surface), metadata)
    ids = _Ids(fail)
    for offset, number in zip(offsets, columns[0], strict=True):
        ids.check(offset, number)
    ids.end(len(lines) - 1)
    return TokenLines(columns, offsets, ids.words, ids.surface, metadata)


def _are_sound(text: str, rows: Sequence[list[str]]) -> bool:
    """Whether all lines have all columns, none of them empty or with two spaces in a row,
    and well-formed features.
    """
    if set(map(len, rows)) != {len(COLUMNS)}:
        return False
    is_filled = not any(blank in text for blank in ("\t\t", "\t\n", "\n\t", "  "))
    if not is_filled or text.startswith("\t") or text.endswith("\t"):
        return False
    return all(_well_formed(columns[5]) for columns in rows)


def _fail_first(rows: Sequence[list[str]], offsets: Sequence[int], fail: Failure) -> None:
    """Name the first fault."""
    ids = _Ids(fail)
    for offset, columns in zip(offsets, rows, strict=True):
        if len(columns) != len(COLUMNS):
            fail(offset, f"{len(COLUMNS)} tab-separated columns", str(len(columns)))
        if "" in columns or any("  " in value for value in columns):
            _fail_blank(columns, offset, fail)
        ids.check(offset, columns[0])
        if not _well_formed(columns[5]):
            fail(offset, "features as Name=Value|Name=Value or _", repr(columns[5]))


def _metadata(comments: Iterable[str]) -> dict[str, str | None]:
    """What comments say as ``# name = value``; a new document or paragraph may have no value."""
    metadata: dict[str, str | None] = {}
    for comment in comments:
        name, equals, value = comment[1:].partition("=")
        name, value = name.strip(), value.strip()
        if name in ("newdoc", "newpar"):
            metadata[name] = value if equals else None
        elif name and value:
            metadata[name] = value
    return metadata


def _fail_blank(columns: list[str], offset: int, fail: Failure) -> NoReturn:
    """Name the first column that holds nothing, or two spaces for a tab."""
    wrong = next(i for i, value in enumerate(columns) if not value or "  " in value)
    what = "two spaces in a row" if columns[wrong] else "nothing"
    fail(offset, f"column {COLUMNS[wrong]} to hold text or _", what)


class _Ids:
    """The ids of a sentence's lines, checked one by one: words count from 1,
    multiword tokens stand before their words.

    Attributes:
        words, surface: see `TokenLines`.
    """

    def __init__(self, fail: Failure) -> None:
        self.fail = fail
        self.words: list[int] = []
        self.surface: list[tuple[int, int, int]] = []
        self.row = 0
        self.next_word = 1
        self.range_end = 0

    def check(self, offset: int, number: str) -> None:
        """The id of one line."""
        if number == str(self.next_word):
            self.words.append(self.row)
            if self.next_word > self.range_end:
                self.surface.append((self.row, self.next_word, self.next_word))
            self.next_word += 1
        elif _WORD_ID.fullmatch(number):
            self.fail(offset, f"the word id {self.next_word}", number)
        elif match := _RANGE_ID.fullmatch(number):
            first, last = int(match[1]), int(match[2])
            if first != self.next_word or last < first or first <= self.range_end:
                expected = (
                    f"a multiword token that begins at word {self.next_word}, outside any other"
                )
                self.fail(offset, expected, number)
            self.range_end = last
            self.surface.append((self.row, first, last))
        elif match := _EMPTY_ID.fullmatch(number):
            last_word = self.next_word - 1
            if int(match[1]) != last_word:
                self.fail(offset, f"an empty node {last_word}.n", number)
        else:
            self.fail(offset, "an id such as 3, 3-4 or 3.1", repr(number))
        self.row += 1

    def end(self, offset: int) -> None:
        """The sentence is over."""
        if self.range_end >= self.next_word:
            expected = f"words up to {self.range_end} in a multiword token"
            self.fail(offset, expected, str(self.next_word - 1))


@lru_cache(maxsize=100_000)
def _well_formed(feats: str) -> bool:
    if feats == "_":
        return True
    for feature in feats.split("|"):
        name, _, value = feature.partition("=")
        if not name.strip() or not value.strip():
            return False
    return True
