"""The lines of a CoNLL-U file: checked, parsed by the ``conllu`` package, and aligned with their text.

The package accepts lines that the format forbids (nine columns, two spaces for a tab), so every
line is checked first. In CoNLL-U Plus a line ``# global.columns = ID FORM ...`` names the columns of all lines after it; they
are put into CoNLL-U's order, and a column that CoNLL-U does not have goes into the last one as ``NAME=value``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import conllu

from layerscope.errors import LayerscopeError

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

_WORD_ID = re.compile(r"[1-9][0-9]{0,8}")
_RANGE_ID = re.compile(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,8})")
_EMPTY_ID = re.compile(r"(0|[1-9][0-9]{0,8})\.([1-9][0-9]{0,8})")
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=(.*)")
_NOTHING = ("_", "*")
"""A column that holds nothing; in PARSEME's it is a star."""


class CorpusError(LayerscopeError, ValueError):
    """A corpus that cannot be read; the message is one line ``path:line: expected ..., got ...``."""


class Failure:
    """Raises for line `offset` of the sentence that begins at line `first` of the file."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first = path, first

    def __call__(self, offset: int, expected: str, got: str) -> NoReturn:
        where = f"{self.path}:{self.first + offset}"
        raise CorpusError(f"{where}: expected {expected}, got {got}")


def blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each sentence; a line feed ends a line, or a carriage return if there is none."""
    block: list[str] = []
    start = 0
    # str.splitlines would also break at U+0085 and U+2028, which forms may hold.
    for number, raw in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
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
    return {name: ",".join(found) for name, found in values.items()}


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
    """The columns that hold from these lines on, in small letters: those that a line names, or those from before."""
    for offset, line in enumerate(lines):
        if match := _GLOBAL_COLUMNS.match(line):
            columns = tuple(match[1].lower().split())
            if len(set(columns)) < len(columns) or not {"id", "form"} <= set(columns):
                fail(
                    offset,
                    "global.columns that differ, ID and FORM among them",
                    repr(match[1].strip()[:60]),
                )
    return columns


def in_order(lines: list[str], columns: tuple[str, ...], fail: Failure) -> list[str]:
    """Lines of CoNLL-U Plus as lines of CoNLL-U."""
    if columns == COLUMNS and not any("global.columns" in line for line in lines):
        return lines
    out = []
    for offset, line in enumerate(lines):
        if line.startswith("#"):
            out.append("#" if _GLOBAL_COLUMNS.match(line) else line)
            continue
        values = line.split("\t")
        if len(values) != len(columns):
            expected = f"{len(columns)} tab-separated columns ({' '.join(columns).upper()[:80]})"
            fail(offset, expected, str(len(values)))
        given = dict(zip(columns, values, strict=True))
        more = [f"{name.upper()}={given[name]}" for name in columns if name not in COLUMNS]
        more = [part for part in more if part.partition("=")[2] not in _NOTHING]
        misc = [given["misc"]] if given.get("misc", "_") != "_" else []
        given["misc"] = "|".join([*misc, *more]) or "_"
        out.append("\t".join(given.get(name, "_") for name in COLUMNS))
    return out


def parse(lines: list[str], fail: Failure) -> conllu.TokenList:
    """Check the lines, then let ``conllu`` parse them."""
    expected_id = 1
    range_end = 0
    for offset, line in enumerate(lines):
        if line.startswith("#"):
            continue
        columns = line.split("\t")
        if len(columns) != 10:
            fail(offset, "10 tab-separated columns", str(len(columns)))
        if "" in columns or "  " in line:
            wrong = next(i for i, value in enumerate(columns) if not value or "  " in value)
            what = "two spaces in a row" if columns[wrong] else "nothing"
            fail(offset, f"column {COLUMNS[wrong]} to hold text or _", what)
        number = columns[0]
        if number == str(expected_id):
            expected_id += 1
        elif _WORD_ID.fullmatch(number):
            fail(offset, f"the word id {expected_id}", number)
        elif match := _RANGE_ID.fullmatch(number):
            first, last = int(match[1]), int(match[2])
            if first != expected_id or last < first or first <= range_end:
                want = f"a multiword token that begins at word {expected_id}, outside any other"
                fail(offset, want, number)
            range_end = last
        elif match := _EMPTY_ID.fullmatch(number):
            if int(match[1]) != expected_id - 1:
                fail(offset, f"an empty node {expected_id - 1}.n", number)
        else:
            fail(offset, "an id such as 3, 3-4 or 3.1", repr(number))
        if not _well_formed(columns[5]):
            fail(offset, "features as Name=Value|Name=Value or _", repr(columns[5]))
    if range_end >= expected_id:
        fail(len(lines) - 1, f"words up to {range_end} in a multiword token", str(expected_id - 1))
    try:
        parsed = conllu.parse("\n".join(lines), field_parsers=_FIELD_PARSERS)
    except Exception as error:  # the parser's own refusal, whatever its class
        fail(0, "a CoNLL-U sentence", f"{type(error).__name__}: {error}")
    return parsed[0] if parsed else conllu.TokenList()


@lru_cache(maxsize=100_000)
def _well_formed(feats: str) -> bool:
    parts = [part.partition("=") for part in feats.split("|")]
    return feats == "_" or all(name.strip() and value.strip() for name, _, value in parts)


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
    spans: dict[int, tuple[int, int]] = {}
    if text is None:
        built = ""
        for index, first, _ in surface_tokens(tokens):
            form = tokens[index]["form"]
            spans[first] = (len(built), len(built) + len(form))
            no_space = "SpaceAfter=No" in tokens[index]["misc"].split("|")
            built += form if no_space else form + " "
        return built.rstrip(" "), spans
    cursor = 0
    for index, first, _ in surface_tokens(tokens):
        form = tokens[index]["form"]
        start = _skip_blank(text, cursor, form)
        end = _match(text, start, form)
        if end is None:
            expected = f"{form!r} in the text at character {start}"
            got = repr(text[start : start + len(form) + 10])
            if unicodedata.normalize("NFC", text[start:]).startswith(
                unicodedata.normalize("NFC", form)
            ):
                got = f"it in another Unicode form ({_unicode_form(text[start:])}, and {_unicode_form(form)} in column form)"
            fail(lines[index], expected, got)
        spans[first] = (start, end)
        cursor = end
    rest = text[_skip_blank(text, cursor, "") :]
    if rest:
        fail(text_line, "the text to end with the last token", f"{rest[:30]!r} after it")
    return text, spans


def _skip_blank(text: str, cursor: int, form: str) -> int:
    """The next character that is neither white space nor invisible (zero width, soft hyphen)."""
    while cursor < len(text) and not text.startswith(form or "\0", cursor):
        if not (text[cursor].isspace() or text[cursor] in "\u200b\u200c\u200d\u2060\ufeff\xad"):
            break
        cursor += 1
    return cursor


def _unicode_form(text: str) -> str:
    return next(
        (form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, text)),
        "neither NFC nor NFD",
    )


def _match(text: str, start: int, form: str) -> int | None:
    """Where `form` ends if the text holds it at `start`; any white space equals any other."""
    if text.startswith(form, start):
        return start + len(form)
    pieces = form.split()
    if len(pieces) < 2:
        return None
    found = re.compile(r"\s+".join(map(re.escape, pieces))).match(text, start)
    return found.end() if found else None


def deal(
    surface: str, first: int, parts: list[str], span: tuple[int, int]
) -> dict[int, tuple[int, int]]:
    """Each word its own part of a multiword token if the parts make up the surface, else all."""
    if "".join(parts) != surface or span[1] - span[0] != len(surface):
        return {first + i: span for i in range(len(parts))}
    edges = [span[0]]
    for part in parts:
        edges.append(edges[-1] + len(part))
    return {first + i: edge for i, edge in enumerate(pairwise(edges))}
