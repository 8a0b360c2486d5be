"""Sentences in order, of which only so many are in memory:
the others are in a temporary file and are read when asked for.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, overload

from .annotation import Sentence, Word
from .conllu_format import CorpusError

WORDS_IN_MEMORY = 250_000
"""Words of a file that stay in memory, about 40 MB;
all of the English Web Treebank's 204,609 do.
"""
TEXTS_IN_MEMORY = 200_000
"""Different forms, lemmas and other columns that are one object wherever they occur."""
PENDING = 1 << 20
"""Bytes that are written at a time."""

_columns = attrgetter(
    "id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "start", "end", "deps", "misc"
)


class Repeated:
    """Gives a text as the same object each time: most of a corpus is repeated.

    It remembers a bounded number of texts.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        if len(self._texts) < TEXTS_IN_MEMORY:
            return self._texts.setdefault(text, text)
        return self._texts.get(text, text)

    def all(self, texts: Sequence[str]) -> Iterable[str]:
        """Each of them as that object."""
        if len(self._texts) < TEXTS_IN_MEMORY:
            return map(self._texts.setdefault, texts, texts)
        return map(self._texts.get, texts, texts)


class Sentences(Sequence[Sentence]):
    """Sentences of one file, all of them or a selection. An access may read from disk: go through
    them in one loop.

    Args:
        places: of the file's sentences, those that are meant.
    """

    def __init__(self, spool: Spool, places: Sequence[int]) -> None:
        self._spool, self._places = spool, places

    @classmethod
    def of(cls, sentences: Iterable[Sentence], once: Repeated | None = None) -> Sentences:
        """All of them, as they come."""
        spool = Spool(once)
        for sentence in sentences:
            spool.append(sentence)
        return spool.sentences

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sentence: ...

    @overload
    def __getitem__(self, index: slice) -> Sentences: ...

    def __getitem__(self, index: int | slice) -> Sentence | Sentences:
        if isinstance(index, slice):
            return Sentences(self._spool, self._places[index])
        return self._spool.sentence(self._places[index])

    def __iter__(self) -> Iterator[Sentence]:
        return map(self._spool.sentence, self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sentences.of, (list(self),)  # the file is this process's

    def select(self, indices: Iterable[int]) -> Sentences:
        """Some of them, by their index here, in the order given."""
        return Sentences(self._spool, array("q", (self._places[i] for i in indices)))

    def texts(self) -> Iterator[str]:
        """Their texts; no word is read."""
        return map(self._spool.text, self._places)

    @property
    def n_words(self) -> int:
        """Words in all."""
        return sum(self._spool.n_words[place] for place in self._places)


class Spool:
    """All sentences of a file: the first ones as objects,
    each other one as two lines of JSON in a file without a name.
    """

    def __init__(self, once: Repeated | None = None) -> None:
        self.once = once or Repeated()
        self.n_words = array("l")
        self._first: list[Sentence] = []
        self._n_words_in_memory = 0
        self._starts = array("q", [0])
        self._pending = bytearray()
        self._descriptor = -1

    def append(self, sentence: Sentence) -> None:
        """Add one."""
        n_words = len(sentence.words)
        self.n_words.append(n_words)
        is_full = self._n_words_in_memory + n_words > WORDS_IN_MEMORY
        if not is_full and len(self._first) + 1 == len(self.n_words):  # none is on disk yet
            self._n_words_in_memory += n_words
            self._first.append(sentence)
            return
        head = [sentence.id, sentence.text, sentence.document, sentence.label]
        words = [_columns(word) for word in sentence.words]
        lines = f"{json.dumps(head, ensure_ascii=False)}\n{json.dumps(words, ensure_ascii=False)}"
        data = lines.encode("utf-8", "surrogatepass")
        self._pending += data
        self._starts.append(self._starts[-1] + len(data))
        if len(self._pending) > PENDING:
            self._write()

    @property
    def sentences(self) -> Sentences:
        """All that there are."""
        return Sentences(self, range(len(self.n_words)))

    def sentence(self, place: int) -> Sentence:
        """One of them."""
        if place < len(self._first):
            return self._first[place]
        head, words = self._lines(place)
        name, text, document, label = json.loads(head)
        rows = tuple(self._word(row) for row in json.loads(words))
        return Sentence(name, text, rows, document, label)

    def text(self, place: int) -> str:
        """The text of one."""
        if place < len(self._first):
            return self._first[place].text
        return json.loads(self._lines(place)[0])[1]

    def _lines(self, place: int) -> tuple[bytes, bytes]:
        if self._pending:
            self._write()
        index = place - len(self._first)
        start, end = self._starts[index], self._starts[index + 1]
        # by position, so that two readers do not move each other's
        data = os.pread(self._descriptor, end - start, start)
        head, _, words = data.partition(b"\n")
        return head, words

    def _write(self) -> None:
        if self._descriptor < 0:
            with tempfile.TemporaryFile() as file:
                self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)
        rest = memoryview(self._pending)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise CorpusError(
                f"{tempfile.gettempdir()}: expected room for the sentences of a large "
                f"corpus, got {error.strerror} (TMPDIR names another folder)"
            ) from error
        self._pending = bytearray()

    def _word(self, row: list[Any]) -> Word:
        number, form, lemma, upos, xpos, feats, head, deprel, start, end, deps, misc = row
        once = self.once
        texts = once(form), once(lemma), once(upos), once(xpos)
        return Word(number, *texts, feats, head, once(deprel), start, end, once(deps), once(misc))
