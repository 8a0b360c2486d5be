"""Records of a data file, under every reader of prompts, pairs, questions and predictions.

A file holds JSON lines, a JSON array, CSV or TSV. The format is known by the file's first character
(``{``: an object a line, ``[``: an array), else by its name (``.csv``, ``.tsv``, or ``.txt`` with
tabs). The columns of CSV are separated by commas, or by the semicolons or tabs that its first line
has more of. An empty cell of a table is a field that is not there, and one in brackets or braces is
read as JSON. A table without a line of names is read if its reader knows it (`Headerless`); a line
of names that is repeated, as in joined files, is no record.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from layerscope.errors import InputError, LayerscopeError

from .files import encoding_of, opened_text

Line = TypeVar("Line")
Record = Mapping[str, Any]
Numbered = tuple[int, dict[str, Any]]

MARK = "\ufeff"
"""The byte order mark; joined files have it within."""
MOST_DIGITS = 300
"""Of a whole number: one that a real number can hold."""
MOST_CELL = 10_000_000
"""Characters of a table's cell."""
FORMATS = "a JSON object a line, a JSON array of objects, CSV (.csv) or TSV (.tsv)"
_BETWEEN = re.compile(r"[\s,]*")
"""What stands between the elements of a JSON array."""
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60


@dataclass(frozen=True)
class Headerless:
    """A table without a line of names.

    Args:
        names: of its columns.
        known: a column by which its rows are known.
        values: what that column holds.
    """

    names: tuple[str, ...]
    known: str
    values: frozenset[str]

    def fits(self, row: Sequence[str]) -> bool:
        """Whether a row is one of its rows."""
        return (
            len(row) == len(self.names) and row[self.names.index(self.known)].strip() in self.values
        )


class PromptError(LayerscopeError, ValueError):
    """A file of records that cannot be read; the message begins with ``file:line``."""


@dataclass(frozen=True)
class Unusable:
    """An item of a file that is left out.

    Args:
        line: of the file, from 1; None where it is not known.
        why: in a line.
    """

    line: int | None
    why: str

    def __str__(self) -> str:
        return self.why if self.line is None else f"line {self.line}: {self.why}"


def read_lines_as(
    path: Path,
    limit: int | None,
    make: Callable[[Record], Line],
    unusable: list[Unusable] | None = None,
    headerless: Sequence[Headerless] = (),
    prepare: Callable[[Iterator[Numbered]], Iterator[Numbered]] = iter,
) -> list[Line]:
    """What ``make`` makes of each record of a file; its `ValueError` is given the line's place.

    An item that has a ``line`` is given its own.

    Args:
        unusable: is given the records that ``make`` refuses by an `InputError`; without it, the
            first one is an error.
        headerless: tables without a line of names that it may be.
        prepare: what is done to the records first, such as joining two of them.

    Raises:
        PromptError: a file that cannot be read, another format, what ``make`` refuses, no record
            that can be used.
    """
    out: list[Line] = []
    at, refused = 0, "expected at least one line, got none"

    def counted() -> Iterator[Numbered]:
        nonlocal at
        for number, record in read_records(path, headerless):
            at = number
            yield number, record

    try:
        for _, record in prepare(counted()):
            if limit is not None and len(out) == limit:
                break
            try:
                item: Any = make(record)
            except InputError as error:
                if unusable is None:
                    raise
                unusable.append(Unusable(at, str(error)))
                refused = f"no line can be used; {unusable[0]}"
                continue
            out.append(replace(item, line=at) if hasattr(item, "line") else item)
    except PromptError:
        raise
    except ValueError as error:
        raise PromptError(f"{path}:{at}: {error}") from None
    if not out:
        raise PromptError(f"{path}: {refused}")
    return out


def read_records(path: Path, headerless: Sequence[Headerless] = ()) -> Iterator[Numbered]:
    """The records of a file with the numbers of their lines (of an array: their places), read as
    they are asked for.

    Raises:
        PromptError: a file that cannot be read, is no UTF-8, or is of another format.
    """
    lines = numbered_lines(path, blank=True)
    begun: list[tuple[int, str]] = []  # blank lines, and the first that is not
    for number, line in lines:
        begun.append((number, line))
        if line.strip():
            break
    else:
        return
    # The lines that were looked at come back in front.
    all_lines = chain(begun, lines)
    first = begun[-1][1].lstrip()
    is_table = path.suffix in (".csv", ".tsv", ".tab") or (path.suffix == ".txt" and "\t" in first)
    if is_table and first[0] not in "{[":
        separator = _separator(begun[-1][1]) if path.suffix == ".csv" else "\t"
        yield from _table(path, all_lines, separator, headerless)
    elif first[0] == "[":
        yield from _array(path, "".join(line for _, line in all_lines))
    elif first.strip() == "{" and path.suffix == ".json":
        raise PromptError(f"{path}: expected {FORMATS}, got a JSON object over several lines")
    else:
        yield from _objects(path, all_lines)


def numbered_lines(path: Path, blank: bool = False) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, read as they are asked for.

    Args:
        blank: also those that are empty.

    Raises:
        PromptError: a file that cannot be read, or is no UTF-8.
    """
    try:
        with opened_text(path) as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(MARK)
                if "\0" in text:
                    raise PromptError(f"{path}:{number}: expected UTF-8 text, got a zero byte")
                if blank or text.strip():
                    yield number, text
    except OSError as error:
        raise PromptError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: expected UTF-8 text, got {encoding_of(error)}") from None


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        InputError: no JSON, nested too deeply, a whole number of too many digits, half a character
            (a lone surrogate).
    """
    try:
        value = json.loads(text, parse_int=_whole)
        if _SURROGATE_ESCAPE.search(text):
            _check_text(value)
    except json.JSONDecodeError as error:
        raise InputError(f"expected JSON: {error}") from None
    except RecursionError:
        raise InputError("expected JSON, got brackets that are nested too deeply") from None
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise InputError(
            f"expected numbers of at most {MOST_DIGITS} digits, got one of {len(digits)}"
        )
    return int(digits)


def _check_text(value: Any) -> None:
    """Refuse text that no encoding can hold.

    Raises:
        InputError: a lone surrogate.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise InputError(
                f"expected text, got half a character ({half}, a lone surrogate)"
            ) from None
    elif isinstance(value, dict):
        for key, one in value.items():
            _check_text(key)
            _check_text(one)
    elif isinstance(value, list):
        for one in value:
            _check_text(one)


def _objects(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Numbered]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except InputError as error:
            kind = "" if line.lstrip()[0] == "{" else f"expected {FORMATS}: "
            raise PromptError(f"{path}:{number}: {kind}{_as_object(error)}") from None
        yield number, _object(path, number, record)


def _as_object(error: InputError) -> str:
    return str(error).replace("expected JSON: ", "expected a JSON object: ")


def _object(path: Path, number: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise PromptError(f"{path}:{number}: expected a JSON object, got {shown(record)}")
    return record


def _array(path: Path, text: str) -> Iterator[Numbered]:
    try:
        records = parse_json(text)
    except InputError as error:
        raise PromptError(f"{path}: {error}") from None
    for number, record in zip(_lines_of_array(text), records, strict=True):
        yield number, _object(path, number, record)


def _lines_of_array(text: str) -> Iterator[int]:
    """The line on which each element of a JSON array begins."""
    decoder, at, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while True:
        at = _BETWEEN.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]
        if text[at] == "]":
            return
        line += text.count("\n", counted, at)
        counted = at
        yield line
        _, at = decoder.raw_decode(text, at)


SEPARATORS = ",;\t"


def _separator(line: str) -> str:
    """The one that a line has most of; of equally many the comma."""
    return max(SEPARATORS, key=line.count)


def _table(
    path: Path,
    lines: Iterable[tuple[int, str]],
    separator: str,
    headerless: Sequence[Headerless],
) -> Iterator[Numbered]:
    """The rows of a table. TSV has no quotes: a quotation mark there is part of the text."""
    csv.field_size_limit(MOST_CELL)
    texts = (line for _, line in lines)
    quotes = path.suffix == ".csv"
    if quotes:
        rows = csv.reader(texts, delimiter=separator, strict=True)
    else:
        rows = csv.reader(texts, delimiter=separator, quoting=csv.QUOTE_NONE)
    names: Sequence[str] = ()
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = next((form.names for form in headerless if form.fits(row)), row)
            if row == names:  # the first row names the columns, and that of a joined file again
                continue
            if len(row) != len(names):
                expected = f"{len(names)} columns ({', '.join(names)[:_SHOWN]})"
                raise PromptError(f"{path}:{rows.line_num}: expected {expected}, got {len(row)}")
            cells = zip(names, row, strict=True)
            yield rows.line_num, {name: _cell(cell) for name, cell in cells if cell != ""}
    except (csv.Error, InputError) as error:
        raise PromptError(
            f"{path}:{rows.line_num}: expected {'CSV' if quotes else 'TSV'}: {error}"
        ) from None


def _cell(text: str) -> Any:
    """A list or an object in a cell, or its text."""
    if text[0] + text[-1] in ("[]", "{}"):
        try:
            return parse_json(text)
        except InputError:
            return text  # a text in brackets
    return text


def shown(value: Any) -> str:
    """A value in an error, in short."""
    try:
        return repr(value)[:_SHOWN]
    except RecursionError:
        return "nested brackets"


def first_of(record: Record, names: Iterable[str]) -> Any:
    """The value of the first of these fields that a record has; None for none."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def place_of(label: object, names: Sequence[str]) -> int | None:
    """The place of a name that is given as a text or a number, or by its place where no name is a
    number.

    >>> place_of("kind", ("rude", "kind")), place_of(1, ("rude", "kind"))
    (1, 1)
    >>> place_of("1", ("2", "1")), place_of("x", ("y",))
    (1, None)
    """
    spellings = [str(label)]
    if isinstance(label, bool):
        spellings.append(str(label).lower())
    elif isinstance(label, float) and label.is_integer():
        spellings.append(str(int(label)))
    for spelling in spellings:
        if spelling in names:
            return names.index(spelling)
    last = spellings[-1]
    is_place = last.isdecimal() and int(last) < len(names)
    return int(last) if is_place and not any(name.isdecimal() for name in names) else None


def group_of(record: Record) -> str | None:
    """The group of a line, resampled together; None where the line has none, or null.

    Raises:
        InputError: neither a text nor a number.
    """
    value = record.get("group")
    if value is None:
        return None
    if not isinstance(value, str | int | float) or value == "":
        raise InputError(f"expected 'group' to be a text or a number, got {shown(value)}")
    return str(value)
