"""CoNLL-U in, annotated words with character offsets out.

Lines are checked and parsed in `experiments.corpus.conllu_format`; an error is one line that says
``path:line: expected ..., got ...``.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from .alignment import Span, align
from .annotation import Sentence, Word
from .conllu_format import (
    COLUMNS,
    CorpusError,
    Failure,
    TokenLines,
    blocks,
    features,
    global_columns,
    in_order,
    lines_of,
    parse,
)
from .files import encoding_of, opened_bytes, parsed_sha256
from .spooled import Repeated, Sentences

__all__ = ["Corpus", "CorpusError", "Sentence", "Word", "read_conllu"]


Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
"""What sentences are for: to train on, to choose by, to score on."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sentences of one file, with the SHA-256 of the file's bytes.

    Those of a large file lie on disk (`experiments.corpus.spooled`): go through them in a loop.
    """

    sentences: Sequence[Sentence]
    path: Path
    sha256: str

    @cached_property
    def n_words(self) -> int:
        """The number of syntactic words."""
        if isinstance(self.sentences, Sentences):
            return self.sentences.n_words
        return sum(len(sentence.words) for sentence in self.sentences)

    def texts(self) -> Iterator[str]:
        """The sentences' texts."""
        if isinstance(self.sentences, Sentences):
            return self.sentences.texts()
        return (sentence.text for sentence in self.sentences)

    def select(self, places: Iterable[int]) -> Self:
        """The corpus with some of its sentences, by their places, in the order given."""
        if isinstance(self.sentences, Sentences):
            return replace(self, sentences=self.sentences.select(places))
        return replace(self, sentences=tuple(self.sentences[place] for place in places))

    @cached_property
    def type_counts(self) -> Counter[str]:
        """How often each word type (lower-cased form) occurs; computed once."""
        return Counter(word.form.lower() for s in self.sentences for word in s.words)

    def __len__(self) -> int:
        return len(self.sentences)

    def __iter__(self) -> Iterator[Sentence]:
        return iter(self.sentences)


def read_conllu(path: str | Path, limit: int | None = None) -> Corpus:
    """Read a CoNLL-U or CoNLL-U Plus file, or its first `limit` sentences.

    In a file without any head (``_`` throughout) all words are roots, so that nothing of a tree can
    be read from it.

    Args:
        path: the file.
        limit: how many sentences to read; None reads all. What follows is not checked.

    Raises:
        CorpusError: no such file, not UTF-8, no sentence in it, or a line that is not CoNLL-U;
            the message names the file, the line, what was expected and what was got.

    Example:
        >>> from layerscope.experiments.demo import demo_paths
        >>> corpus = read_conllu(demo_paths().dev, limit=2)
        >>> [s.text[w.start:w.end] == w.form for s in corpus for w in s.words].count(False)
        0

    Source: https://universaldependencies.org/format.html
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise CorpusError(f"{path}: expected limit to be at least 1, got {limit}")
    _require_file(path)
    reader = _SentenceReader(path)
    # Line by line, and of a large corpus only the first sentences stay in memory.
    with _readable(path), opened_bytes(path) as file:
        sentences = Sentences.of(islice(reader.read(file), limit), reader.once)
    if not sentences:
        raise CorpusError(f"{path}:1: expected at least one sentence, got none")
    return Corpus(sentences, path, parsed_sha256(path))


class _SentenceReader:
    """Reads the sentences of a file one by one, with what holds from one to the next.

    Attributes:
        once: gives a text as the same object wherever the file has it.
        columns: of the lines, as CoNLL-U Plus names them.
        document: the one that is open, and how many there were.
        has_heads: whether the file's first sentence has heads, and all others with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.once = Repeated()
        self.columns = COLUMNS
        self.document: str | None = None
        self.n_documents = 0
        self.n_sentences = 0
        self.has_heads = True
        self._ids: dict[str, int] = {}

    def read(self, file: Iterable[bytes]) -> Iterator[Sentence]:
        """The sentences of a file."""
        for first_line, lines in blocks(lines_of(self.path, file)):
            sentence = self._sentence(first_line, lines)
            if sentence is not None:
                yield sentence

    def _sentence(self, first_line: int, given_lines: list[str]) -> Sentence | None:
        """The lines of one sentence; comments alone, such as a licence at the end of the file,
        are none.
        """
        fail = Failure(self.path, first_line)
        self.columns = global_columns(given_lines, self.columns, fail)
        lines = in_order(given_lines, self.columns, fail)
        tokens = parse(lines, fail)
        # Before anything else: a new document may be told by comments without a sentence.
        self._see_document(tokens.metadata)
        if not tokens:
            return None
        text_line = next((i for i, line in enumerate(lines) if _TEXT_LINE.match(line)), None)
        given_text = tokens.metadata.get("text") if text_line is not None else None
        text, spans = align(tokens, given_text, text_line or 0, fail)
        words = _words(tokens, spans, self.once, fail)
        self.n_sentences += 1
        name = tokens.metadata.get("sent_id") or f"sentence-{self.n_sentences}"
        sentence = Sentence(_unique(name, self._ids), text, words, self.document)
        self._check_heads(tokens, fail)
        return sentence

    def _see_document(self, metadata: Mapping[str, str | None]) -> None:
        if "newdoc id" in metadata or "newdoc" in metadata:
            self.n_documents += 1
            self.document = metadata.get("newdoc id") or f"document-{self.n_documents}"

    def _check_heads(self, tokens: TokenLines, fail: Failure) -> None:
        """Sentences with and without trees in one file are a mistake of whoever joined them."""
        heads = tokens.of_words("head")
        has_heads = heads.count("_") < len(heads)
        if self.n_sentences == 1:
            self.has_heads = has_heads
        elif has_heads != self.has_heads:
            which = "have heads" if self.has_heads else "have none"
            expected = f"heads in all sentences or in none (those before {which})"
            fail(tokens.offsets[0], expected, "the opposite")


_TEXT_LINE = re.compile(r"#\s*text\s*=")


def read_text(path: Path) -> tuple[str, str]:
    """A corpus file's text, without a byte order mark, and its SHA-256.

    Raises:
        CorpusError: no such file, a directory, a file that cannot be read or is no UTF-8.
    """
    _require_file(path)
    with _readable(path):
        data = path.read_bytes()
    try:
        return data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = encoding_of(error)
        raise CorpusError(f"{path}:{line}: expected UTF-8 text, got {got}") from None


def _require_file(path: Path) -> None:
    """Refuse what is no file, with what there is."""
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.conllu"))
        hint = f" (it holds {', '.join(inside[:5])})" if inside else ""
        raise CorpusError(f"{path}: expected a corpus file, got a directory{hint}")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; the nearest is {path.parent / near[0]}" if near else ""
        raise CorpusError(f"{path}: expected a corpus file, got no such file{hint}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Make one line of a file that cannot be read."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CorpusError(f"{path}: expected a readable file, got {reason}") from None


def _words(
    tokens: TokenLines, spans: Sequence[Span], once: Repeated, fail: Failure
) -> tuple[Word, ...]:
    """The syntactic words, with heads checked."""
    n = len(tokens.words)
    if n == 0:
        fail(tokens.offsets[0], "a word in the sentence", "only empty nodes")
    starts, ends = zip(*spans, strict=True)
    forms, lemmas = once.all(tokens.of_words("form")), once.all(tokens.of_words("lemma"))
    upos, xpos = once.all(tokens.of_words("upos")), once.all(tokens.of_words("xpos"))
    feats = map(features, tokens.of_words("feats"))
    heads, deprels = _heads(tokens, fail), once.all(tokens.of_words("deprel"))
    deps, misc = once.all(tokens.of_words("deps")), once.all(tokens.of_words("misc"))
    # By place: of a corpus of a million words this is the innermost loop.
    columns = (forms, lemmas, upos, xpos, feats, heads, deprels, starts, ends, deps, misc)
    return tuple(map(Word, range(1, n + 1), *columns))


def _heads(tokens: TokenLines, fail: Failure) -> Sequence[int]:
    """The head of each word; every chain of heads must end at 0."""
    column = tokens.of_words("head")
    if column.count("_") == len(column):
        return [0] * len(column)
    lines = tokens.offsets
    heads = [0]  # place 0 is the root's own
    for row, head in zip(tokens.words, column, strict=True):
        is_number = head.isascii() and head.isdigit() and len(head) <= 9
        if not is_number:
            fail(lines[row], "a head that is a word id or 0", repr(head))
        heads.append(int(head))
        if heads[-1] > len(column):
            fail(lines[row], f"a head from 0 to {len(column)}", head)
    # Where each word is after 1, 2, 4, ... arcs.
    above, steps = heads, 1
    while any(above):
        if steps > len(column):
            word = next(word for word, at in enumerate(above) if at)
            got = f"a cycle from word {word}"
            fail(lines[tokens.words[word - 1]], "a chain of heads that ends at 0", got)
        above = [above[at] for at in above]
        steps *= 2
    return heads[1:]


def _unique(name: str, seen: dict[str, int]) -> str:
    """`name`, or `name#2`, `name#3` ... where the file uses an id again."""
    unique = name
    while unique in seen:
        seen[name] += 1
        unique = f"{name}#{seen[name]}"
    seen[unique] = 1
    return unique
