"""Labelled pictures and sounds: a table that names files and says what is in them.

    file,colour,shape,split            file,start,end,phone
    img/001.png,red,circle,train       clips/a.wav,0.00,0.35,aa
    img/002.png,blue,square,test       clips/a.wav,0.35,0.90,sh

``file`` is read from the table's folder. ``split`` (train, dev, test) is optional. ``start`` and
``end``, in seconds, make each line a stretch of a sound; without them a line is the whole file.
``item`` is optional and names what a line shows, where several lines show the same thing (a
speaker, an object): control tasks give all of them one label. Every other column is a property that
probes can read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from layerscope.errors import InputError, LayerscopeError

from . import SPLITS, Corpus, CorpusError, Sentence, Split, Word
from .files import parsed_sha256
from .records import Record, Unusable, read_lines_as

COLUMNS = ("file", "split", "start", "end", "item")
"""Columns with a meaning of their own; the others are properties."""
MILLISECONDS = 1000
WHOLE = (0, 1)
"""The span of a whole file, in the place of milliseconds."""
Check = Callable[[str], object]
"""Raises a `LayerscopeError` for a file, given by its path, that a model cannot be given."""


@dataclass(frozen=True, eq=False)
class Items(Corpus):
    """The items of a table: a sentence is a file, a word a line, a feature of the word a column.

    Args:
        properties: the columns that are properties.
        files: of the whole table, whatever split they are in, in its order.
    """

    properties: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def item_properties(corpus: Corpus) -> tuple[str, ...]:
    """The properties of a table of items; none of any other corpus."""
    return corpus.properties if isinstance(corpus, Items) else ()


def read_items(
    path: Path, check: Check | None = None, unusable: list[Unusable] | None = None
) -> Corpus | dict[Split, Corpus]:
    """The items of a table, by split where it has that column.

    The hash is of the table and of every file that is read.

    Args:
        check, unusable: see `all_items`.

    Raises:
        CorpusError: a table without properties, a split without items.
        PromptError: see `all_items`.
    """
    files, whole = _read(path, check, unusable)
    if not whole.properties:
        raise CorpusError(f"{path}: expected a column to read from the items, such as label")
    sentences: dict[str, list[Sentence]] = {}
    for split, sentence in files:
        sentences.setdefault(split, []).append(sentence)
    if set(sentences) == {""}:
        return replace(whole, sentences=tuple(sentences[""]))
    if set(sentences) != set(SPLITS):
        names = ", ".join(repr(name) for name in sentences)
        raise CorpusError(f"{path}: split: expected items of train, dev and test, got {names}")
    return {split: replace(whole, sentences=tuple(sentences[split])) for split in SPLITS}


def all_items(
    path: Path, check: Check | None = None, unusable: list[Unusable] | None = None
) -> Items:
    """The items of a table, whatever their splits and whether or not it has a column to read from
    them.

    Files stand in the order in which the table first names them.

    Args:
        check: what else a file must pass.
        unusable: is given the lines that cannot be used; without it, the first one is an error.

    Raises:
        PromptError: a line without a file, a file that is not there or does not pass, a time that
            is no time; with ``unusable`` only a table without any line that can be used.
    """
    files, whole = _read(path, check, unusable)
    return replace(whole, sentences=tuple(sentence for _, sentence in files))


def _read(
    path: Path, check: Check | None, unusable: list[Unusable] | None
) -> tuple[list[tuple[str, Sentence]], Items]:
    """Each file with its items and its split, and the table without them."""

    @cache
    def fault(file: str) -> str:
        """Why a file cannot be used; nothing if it can. It is read once however many lines name
        it.
        """
        try:
            if check is not None:
                check(file)
        except LayerscopeError as error:
            return str(error)
        return ""

    lines = read_lines_as(path, None, partial(_line, path.parent, fault), unusable)
    properties = tuple(name for name in lines[0] if name not in COLUMNS)
    by_file: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        by_file.setdefault((line.get("split", ""), line["file"]), []).append(line)
    digest = hashlib.sha256(parsed_sha256(path).encode())
    files = []
    for (split, file), of_file in by_file.items():
        digest.update(Path(file).read_bytes())
        files.append((split, _sentence(file, of_file, properties)))
    names = tuple(sentence.text for _, sentence in files)
    return files, Items((), path, digest.hexdigest(), properties, names)


def _line(folder: Path, fault: Callable[[str], str], record: Record) -> dict[str, str]:
    """A line of the table as text, with the path of its file."""
    line = {name: str(value) for name, value in record.items() if value is not None}
    if not line.get("file"):
        raise InputError("expected a column 'file' with the path of a file, got none")
    file = folder / line["file"]
    if not file.is_file():
        raise InputError(f"no such file: {file}")
    _span(line)
    if why := fault(str(file)):
        raise InputError(why)
    return {**line, "file": str(file)}


def _sentence(file: str, lines: Sequence[Mapping[str, str]], properties: Sequence[str]) -> Sentence:
    """One file with its items."""
    words = []
    for number, line in enumerate(lines, 1):
        start, end = _span(line)
        labels = {name: line[name] for name in properties if line.get(name)}
        name = line.get("item") or f"{file}#{number}"
        words.append(Word(number, name, "_", "_", "_", labels, 0, "_", start, end))
    return Sentence(file, file, tuple(words))


def _span(line: Mapping[str, str]) -> tuple[int, int]:
    """Start and end in milliseconds, or the whole."""
    if "start" not in line and "end" not in line:
        return WHOLE
    try:
        start, end = (round(float(line[name]) * MILLISECONDS) for name in ("start", "end"))
    except (KeyError, ValueError, OverflowError):
        start = end = 0
    if not 0 <= start < end:
        got = f"{line.get('start')!r} and {line.get('end')!r}"
        raise InputError(f"expected start and end in seconds, start before end, got {got}")
    return start, end
