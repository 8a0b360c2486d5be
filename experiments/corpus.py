"""CoNLL-U in, annotated words with character offsets out.

The parsing itself is the ``conllu`` package's. It accepts lines that the format forbids (nine
columns, two spaces for a tab), so every line is checked first: an error is one line that says
``path:line: expected ..., got ...``.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import conllu

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

_WORD_ID = re.compile(r"[1-9][0-9]*")
_RANGE_ID = re.compile(r"([1-9][0-9]*)-([1-9][0-9]*)")
_EMPTY_ID = re.compile(r"(0|[1-9][0-9]*)\.([1-9][0-9]*)")


class CorpusError(ValueError):
    """A corpus that cannot be read; the message is one line ``path:line: expected ..., got ...``."""


@dataclass(frozen=True, slots=True)
class Word:
    """One syntactic word: its columns, and its character span in the sentence's text.

    ``text[start:end]`` is the form, except inside a multiword token whose surface is not the
    concatenation of its words (``du`` = ``de`` + ``le``): there it is the whole surface token.
    ``head`` is the 1-based id of the governor, 0 at the root. Absent columns stay ``"_"``.
    ``feats`` is shared by all words with the same features: read it, do not change it.
    """

    id: int
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: Mapping[str, str]
    head: int
    deprel: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence: its unique id, its text, its words in order, and the document it is from.

    ``swapped`` is None in every sentence that was read; a rewritten one (property
    ``bigram_shift``) has the id of the first of the two words that changed places, or 0.
    """

    id: str
    text: str
    words: tuple[Word, ...]
    document: str | None = None
    swapped: int | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sentences of one file, with the SHA-256 of the file's bytes.

    ``n_multiword`` and ``n_empty`` count the multiword tokens met and the empty nodes skipped.
    """

    sentences: tuple[Sentence, ...]
    path: Path
    sha256: str
    n_multiword: int = 0
    n_empty: int = 0

    @property
    def n_words(self) -> int:
        """The number of syntactic words."""
        return sum(len(sentence.words) for sentence in self.sentences)

    @cached_property
    def type_counts(self) -> Counter[str]:
        """How often each word type (lower-cased form) occurs; computed once."""
        return Counter(word.form.lower() for s in self.sentences for word in s.words)

    def __len__(self) -> int:
        return len(self.sentences)

    def __iter__(self) -> Iterator[Sentence]:
        return iter(self.sentences)


def read_conllu(path: str | Path, limit: int | None = None) -> Corpus:
    """Read a CoNLL-U file, or its first `limit` sentences.

    Args:
        path: the file.
        limit: how many sentences to read; None reads all. What follows is not checked.

    Raises:
        CorpusError: no such file, not UTF-8, no sentence in it, or a line that is not CoNLL-U;
            the message names the file, the line, what was expected and what was got.

    Example:
        >>> from experiments.demo import demo_paths
        >>> corpus = read_conllu(demo_paths().dev, limit=2)
        >>> [s.text[w.start:w.end] == w.form for s in corpus for w in s.words].count(False)
        0

    Source: https://universaldependencies.org/format.html
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise CorpusError(f"{path}: expected limit to be at least 1, got {limit}")
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"the byte 0x{data[error.start]:02x}"
        raise CorpusError(f"{path}:{line}: expected UTF-8 text, got {got}") from None

    sentences: list[Sentence] = []
    ids: dict[str, int] = {}
    document: str | None = None
    documents = n_multiword = n_empty = 0
    for first_line, lines in _blocks(text):
        fail = _Failure(path, first_line)
        tokens = _parse(lines, fail)
        if "newdoc id" in tokens.metadata or "newdoc" in tokens.metadata:
            documents += 1
            document = tokens.metadata.get("newdoc id") or f"document-{documents}"
        if not tokens:  # comments alone, such as a licence at the end of the file
            continue
        token_lines = [i for i, line in enumerate(lines) if not line.startswith("#")]
        text_line = next((i for i, x in enumerate(lines) if re.match(r"#\s*text\s*=", x)), None)
        given = tokens.metadata.get("text") if text_line is not None else None
        sentence_text, spans = _align(tokens, token_lines, given, text_line or 0, fail)
        words = _words(tokens, token_lines, spans, fail)
        if not words:
            fail(token_lines[0], "a word in the sentence", "only empty nodes")
        name = _unique(tokens.metadata.get("sent_id") or f"sentence-{len(sentences) + 1}", ids)
        sentences.append(Sentence(name, sentence_text, words, document))
        n_multiword += sum(_is(token, "-") for token in tokens)
        n_empty += sum(_is(token, ".") for token in tokens)
        if len(sentences) == limit:
            break
    if not sentences:
        raise CorpusError(f"{path}:1: expected at least one sentence, got none")
    digest = hashlib.sha256(data).hexdigest()
    return Corpus(tuple(sentences), path, digest, n_multiword, n_empty)


class _Failure:
    """Raises for line `offset` of the sentence that begins at line `first` of the file."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first = path, first

    def __call__(self, offset: int, expected: str, got: str) -> NoReturn:
        where = f"{self.path}:{self.first + offset}"
        raise CorpusError(f"{where}: expected {expected}, got {got}")


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.conllu"))
        hint = f" (it holds {', '.join(inside[:5])})" if inside else ""
        raise CorpusError(f"{path}: expected a CoNLL-U file, got a directory{hint}")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; the nearest is {path.parent / near[0]}" if near else ""
        raise CorpusError(f"{path}: expected a CoNLL-U file, got no such file{hint}")
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CorpusError(f"{path}: expected a readable file, got {reason}") from None


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each sentence; only a line feed ends a line."""
    block: list[str] = []
    start = 0
    # str.splitlines would also break at U+0085 and U+2028, which forms may hold.
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip("\r")
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
    pairs = [part.partition("=") for part in column.split("|")]
    return {name: value for name, _, value in pairs}


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


def _parse(lines: list[str], fail: _Failure) -> conllu.TokenList:
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
    return feats == "_" or all(name and value for name, _, value in parts)


def _is(token: Mapping[str, Any], mark: str) -> bool:
    """Is it a multiword token (``-``) or an empty node (``.``)?"""
    return isinstance(token["id"], tuple) and token["id"][1] == mark


def _surface(tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, int]]:
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


def _align(
    tokens: Sequence[Mapping[str, Any]],
    lines: list[int],
    text: str | None,
    text_line: int,
    fail: _Failure,
) -> tuple[str, dict[int, tuple[int, int]]]:
    """The text, and the character span of every surface token by its first word's id."""
    spans: dict[int, tuple[int, int]] = {}
    if text is None:
        built = ""
        for index, first, _ in _surface(tokens):
            form = tokens[index]["form"]
            spans[first] = (len(built), len(built) + len(form))
            no_space = "SpaceAfter=No" in tokens[index]["misc"].split("|")
            built += form if no_space else form + " "
        return built.rstrip(" "), spans
    cursor = 0
    for index, first, _ in _surface(tokens):
        form = tokens[index]["form"]
        start = _skip_blank(text, cursor, form)
        end = _match(text, start, form)
        if end is None:
            expected = f"{form!r} in the text at character {start}"
            fail(lines[index], expected, repr(text[start : start + len(form) + 10]))
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


def _match(text: str, start: int, form: str) -> int | None:
    """Where `form` ends if the text holds it at `start`; any white space equals any other."""
    if text.startswith(form, start):
        return start + len(form)
    pieces = form.split()
    if len(pieces) < 2:
        return None
    found = re.compile(r"\s+".join(map(re.escape, pieces))).match(text, start)
    return found.end() if found else None


def _words(
    tokens: Sequence[Mapping[str, Any]],
    lines: list[int],
    spans: dict[int, tuple[int, int]],
    fail: _Failure,
) -> tuple[Word, ...]:
    """The syntactic words, with heads checked and spans inside multiword tokens dealt out."""
    rows = [(i, token) for i, token in enumerate(tokens) if isinstance(token["id"], int)]
    for index, first, last in _surface(tokens):
        if last > first:
            parts = [token["form"] for _, token in rows[first - 1 : last]]
            spans.update(_deal(tokens[index]["form"], first, parts, spans[first]))
    heads = [0]
    for index, token in rows:
        head = token["head"]
        if not head.isascii() or not head.isdigit():
            fail(lines[index], "a head that is a word id or 0", repr(head))
        heads.append(int(head))
        if heads[-1] > len(rows):
            fail(lines[index], f"a head from 0 to {len(rows)}", head)
    rooted = {0}
    for index, token in rows:
        at, path = token["id"], []
        while at not in rooted:
            path.append(at)
            if len(path) > len(rows):
                got = f"a cycle from word {token['id']}"
                fail(lines[index], "a chain of heads that ends at 0", got)
            at = heads[at]
        rooted.update(path)
    return tuple(
        Word(
            id=token["id"],
            form=token["form"],
            lemma=token["lemma"],
            upos=token["upos"],
            xpos=token["xpos"],
            feats=token["feats"],
            head=heads[token["id"]],
            deprel=token["deprel"],
            start=spans[token["id"]][0],
            end=spans[token["id"]][1],
        )
        for _, token in rows
    )


def _deal(surface: str, first: int, parts: list[str], span: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Each word its own part of a multiword token if the parts make up the surface, else all."""
    if "".join(parts) != surface or span[1] - span[0] != len(surface):
        return {first + i: span for i in range(len(parts))}
    edges = [span[0]]
    for part in parts:
        edges.append(edges[-1] + len(part))
    return {first + i: edge for i, edge in enumerate(pairwise(edges))}


def _unique(name: str, seen: dict[str, int]) -> str:
    """`name`, or `name#2`, `name#3` ... where the file uses an id again."""
    unique = name
    while unique in seen:
        seen[name] += 1
        unique = f"{name}#{seen[name]}"
    seen[unique] = 1
    return unique
