"""The lines of a CoNLL-U file: checked, parsed by the ``conllu`` package, and aligned with their
text.

The package accepts lines that the format forbids (nine columns, two spaces for a tab), so every
line is checked first. In CoNLL-U Plus a line ``# global.columns = ID FORM ...`` names the columns
of all lines after it; they are put into CoNLL-U's order, and a column that CoNLL-U does not have
goes into the last one as ``NAME=value``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import conllu

from layerscope.errors import LayerscopeError

from .files import encoding_of

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

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
def _feats(column: str) -> dict[str, str]:
    if column == "_":
        return {}
    values: dict[str, list[str]] = {}
    for part in column.split("|"):
        name, _, value = part.partition("=")
        values.setdefault(name.strip(), []).append(value.strip())
    # as the format writes several values
    return {name: ",".join(several) for name, several in values.items()}


def _raw(columns: list[str], i: int) -> str:
    return columns[i]


# The columns after the id stay text: what is not needed is not parsed (half of the time).
_FIELD_PARSERS: dict[str, Callable[[list[str], int], Any]] = {
    "xpos": _raw,
    "feats": lambda columns, i: _feats(columns[i]),
    "head": _raw,
    "deps": _raw,
    "misc": _raw,
}


def global_columns(lines: list[str], columns: tuple[str, ...], fail: Failure) -> tuple[str, ...]:
    """The columns that hold from these lines on, in small letters: those that a line names,
    or those from before.
    """
    for offset, line in enumerate(lines):
        match = _GLOBAL_COLUMNS.match(line)
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


def parse(lines: list[str], fail: Failure) -> conllu.TokenList:
    """Check the lines, then let ``conllu`` parse them."""
    ids = _Ids(fail)
    for offset, line in enumerate(lines):
        if line.startswith("#"):
            continue
        columns = line.split("\t")
        if len(columns) != len(COLUMNS):
            fail(offset, f"{len(COLUMNS)} tab-separated columns", str(len(columns)))
        if "" in columns or "  " in line:
            _fail_blank(columns, offset, fail)
        ids.check(offset, columns[0])
        if not _well_formed(columns[5]):
            fail(offset, "features as Name=Value|Name=Value or _", repr(columns[5]))
    ids.end(len(lines) - 1)
    try:
        parsed = conllu.parse("\n".join(lines), field_parsers=_FIELD_PARSERS)
    except Exception as error:  # the parser's own refusal, whatever its class
        fail(0, "a CoNLL-U sentence", f"{type(error).__name__}: {error}")
    return parsed[0] if parsed else conllu.TokenList()


def _fail_blank(columns: list[str], offset: int, fail: Failure) -> NoReturn:
    """Name the first column that holds nothing, or two spaces for a tab."""
    wrong = next(i for i, value in enumerate(columns) if not value or "  " in value)
    what = "two spaces in a row" if columns[wrong] else "nothing"
    fail(offset, f"column {COLUMNS[wrong]} to hold text or _", what)


class _Ids:
    """The ids of a sentence's lines, checked one by one: words count from 1,
    multiword tokens stand before their words.
    """

    def __init__(self, fail: Failure) -> None:
        self.fail = fail
        self.next_word = 1
        self.range_end = 0

    def check(self, offset: int, number: str) -> None:
        """The id of one line."""
        if number == str(self.next_word):
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
        elif match := _EMPTY_ID.fullmatch(number):
            last_word = self.next_word - 1
            if int(match[1]) != last_word:
                self.fail(offset, f"an empty node {last_word}.n", number)
        else:
            self.fail(offset, "an id such as 3, 3-4 or 3.1", repr(number))

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


def is_kind(token: Mapping[str, Any], mark: str) -> bool:
    """Is it a multiword token (``-``) or an empty node (``.``)?"""
    return isinstance(token["id"], tuple) and token["id"][1] == mark


def surface_tokens(tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, int]]:
    """(index in `tokens`, first word id, last word id) of every surface token."""
    covered = 0
    for index, token in enumerate(tokens):
        identity = token["id"]
        if isinstance(identity, int):
            if identity > covered:
                yield index, identity, identity
        elif identity[1] == "-":
            covered = identity[2]
            yield index, identity[0], identity[2]


def align(
    tokens: Sequence[Mapping[str, Any]],
    lines: list[int],
    text: str | None,
    text_line: int,
    fail: Failure,
) -> tuple[str, dict[int, tuple[int, int]]]:
    """The text, and the character span of every surface token by its first word's id."""
    if text is None:
        return _built(tokens)
    spans: dict[int, tuple[int, int]] = {}
    cursor = 0
    for index, first, _ in surface_tokens(tokens):
        form = tokens[index]["form"]
        start = _skip_blank(text, cursor, form)
        # The text decides where a word is, not the SpaceAfter of its column.
        end = _match(text, start, form)
        if end is None:
            fail(
                lines[index],
                f"{form!r} in the text at character {start}",
                _instead(text, start, form),
            )
        spans[first] = (start, end)
        cursor = end
    rest = text[_skip_blank(text, cursor, "") :]
    if rest:
        fail(text_line, "the text to end with the last token", f"{rest[:30]!r} after it")
    return text, spans


def _built(tokens: Sequence[Mapping[str, Any]]) -> tuple[str, dict[int, tuple[int, int]]]:
    """A text made of the forms, and the spans of the surface tokens."""
    built = ""
    spans: dict[int, tuple[int, int]] = {}
    for index, first, _ in surface_tokens(tokens):
        form = tokens[index]["form"]
        spans[first] = (len(built), len(built) + len(form))
        has_no_space = "SpaceAfter=No" in tokens[index]["misc"].split("|")
        built += form if has_no_space else form + " "
    return built.rstrip(" "), spans


def _instead(text: str, start: int, form: str) -> str:
    """What a text has in the place of a form."""
    rest = text[start:]
    normal = unicodedata.normalize("NFC", form)
    if unicodedata.normalize("NFC", rest).startswith(normal):
        return (
            f"it in another Unicode form ({_unicode_form(rest)}, "
            f"and {_unicode_form(form)} in column form)"
        )
    return repr(text[start : start + len(form) + 10])


_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\xad"
"""Zero width, and the soft hyphen."""


def _skip_blank(text: str, cursor: int, form: str) -> int:
    """The next character that is neither white space nor invisible (zero width, soft hyphen)."""
    while cursor < len(text) and not text.startswith(form or "\0", cursor):
        is_blank = text[cursor].isspace() or text[cursor] in _INVISIBLE
        if not is_blank:
            break
        cursor += 1
    return cursor


def _unicode_form(text: str) -> str:
    for form in ("NFC", "NFD"):
        if unicodedata.is_normalized(form, text):
            return form
    return "neither NFC nor NFD"


def _match(text: str, start: int, form: str) -> int | None:
    """Where `form` ends if the text holds it at `start`; any white space equals any other."""
    if text.startswith(form, start):
        return start + len(form)
    pieces = form.split()
    if len(pieces) < 2:
        return None
    spaced = re.compile(r"\s+".join(map(re.escape, pieces)))
    match = spaced.match(text, start)
    return match.end() if match else None


def deal(
    surface: str, first: int, parts: list[str], span: tuple[int, int]
) -> dict[int, tuple[int, int]]:
    """Each word its own part of a multiword token if the parts make up the surface, else all."""
    is_made_of_parts = "".join(parts) == surface and span[1] - span[0] == len(surface)
    if not is_made_of_parts:
        return {first + i: span for i in range(len(parts))}
    edges = [span[0]]
    for part in parts:
        # The parts of "im" are not "in" and "dem": only parts that spell the surface are dealt out.
        edges.append(edges[-1] + len(part))
    return {first + i: edge for i, edge in enumerate(pairwise(edges))}
