"""Features: one vector a word, or a token, at every site, written to disk as the model runs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from ...hooks import ActivationStore, capture
from ..corpus import Sentence
from ..subject import Subject
from ..subject.batches import AnyBatch
from ..subject.packed import ByPlace, EncodedTexts, Spans
from ..subject.word_spans import Encoded, Pooling, is_unknown, word_spans

WINDOW = 4096
"""Texts that are tokenized and sorted by length together: enough for batches without padding,
few enough to hold.
"""


class FeatureError(LayerscopeError, ValueError):
    """Activations that cannot be used."""


@dataclass(frozen=True)
class Layout:
    """Which row of the features each word of each sentence has; None for a word that lost its
    tokens.

    Rows are numbered sentence by sentence and word by word. Of tokens instead of words, each token
    has a row, special ones too, and ``words`` says which word it is of. A word that is the
    tokenizer's unknown token and nothing else has no vector, and counts in ``n_unknown``.
    """

    encoded: Sequence[Encoded]
    spans: Sequence[list[slice | None]]
    words: list[list[int]] | None = None
    n_unknown: int = 0

    @classmethod
    def of(cls, subject: Subject, sentences: Sequence[Sentence]) -> Layout:
        """Tokenize the sentences and find every word's tokens."""
        encoded, spans, n_unknown = EncodedTexts(), Spans(), 0
        for window in windows(sentences, WINDOW):
            texts = subject.encode([sentence.text for sentence in window])
            for text, sentence in zip(texts, window, strict=True):
                places = [(word.start, word.end) for word in sentence.words]
                of_words = subject.spans_of(text, places)
                known: list[slice | None] = []
                for span in of_words:
                    is_lost = span is None or is_unknown(text, span)
                    known.append(None if is_lost else span)
                # Words that have tokens, but only the unknown one.
                n_unknown += known.count(None) - of_words.count(None)
                encoded.append(text)
                spans.append(known)
        return cls(encoded, spans, n_unknown=n_unknown)

    @classmethod
    def of_sentences(cls, subject: Subject, sentences: Sequence[Sentence], last: bool) -> Layout:
        """Tokenize the sentences; each has one row: its first token, such as CLS or BOS,
        or the last that is of a word.
        """
        words = cls.of(subject, sentences)
        spans = Spans()
        for line in words.spans:
            ends = [span.stop for span in line if span is not None]
            if not ends:
                spans.append([None])
                continue
            end = max(ends) if last else 1
            spans.append([slice(end - 1, end)])
        return cls(words.encoded, spans, n_unknown=words.n_unknown)

    @classmethod
    def of_tokens(cls, subject: Subject, texts: Sequence[str | Sentence]) -> Layout:
        """Tokenize texts; each token is a row."""
        encoded = subject.encode([s if isinstance(s, str) else s.text for s in texts])
        spans: list[list[slice | None]] = []
        words = []
        for tokens, text in zip(encoded, texts, strict=True):
            word_of = [-1] * len(tokens)
            if isinstance(text, Sentence):
                of_words = word_spans(tokens, [(word.start, word.end) for word in text.words])
                # a token that two words share is of the first
                for number, span in reversed(list(enumerate(of_words))):
                    if span is not None:
                        word_of[span] = [number] * (span.stop - span.start)
            spans.append([slice(i, i + 1) for i in range(len(tokens))])
            words.append(word_of)
        return cls(encoded, spans, words)

    @cached_property
    def starts(self) -> Sequence[int]:
        """The first row of each text, and how many rows there are."""
        sizes = (sum(span is not None for span in line) for line in self.spans)
        return array("q", accumulate(sizes, initial=0))

    @property
    def rows(self) -> Sequence[list[int | None]]:
        """Row numbers in the shape of the sentences, made when they are asked for."""
        return _RowNumbers(self)

    @property
    def n_rows(self) -> int:
        """How many words have a vector."""
        return self.starts[-1]

    @property
    def n_lost(self) -> int:
        """How many words truncation or the tokenizer left without tokens."""
        return sum(len(line) for line in self.spans) - self.n_rows

    @property
    def n_tokens(self) -> int:
        """How many tokens the model reads."""
        return sum(len(e) for e in self.encoded)

    def of_texts(self, texts: Sequence[int]) -> Layout:
        """The layout of some of the texts alone."""
        words = None if self.words is None else [self.words[i] for i in texts]
        return Layout([self.encoded[i] for i in texts], [self.spans[i] for i in texts], words)

    def index(self, texts: Sequence[int], row: int = 0, sentence: int = 0) -> Int[Tensor, "n 5"]:
        """What a store keeps of the rows of some texts: row, sentence, word and tokens
        (``hooks.store.COLUMNS``).

        Args:
            row, sentence: numbers of the layout's first ones in the store.
        """
        places = []
        for text in texts:
            # A store's rows go on from those of the texts before.
            at = row + self.starts[text]
            for number, span in enumerate(self.spans[text]):
                if span is not None:
                    word = number if self.words is None else self.words[text][number]
                    places.append((at, sentence + text, word, span.start, span.stop))
                    at += 1
        return torch.tensor(places, dtype=torch.long).view(-1, 5)


class _RowNumbers(ByPlace[list[int | None]]):
    """The row of each word of each text of a layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __len__(self) -> int:
        return len(self._layout.spans)

    def _at(self, place: int) -> list[int | None]:
        # Rows are numbered in reading order; words without tokens have none.
        row = self._layout.starts[place]
        numbers: list[int | None] = []
        for span in self._layout.spans[place]:
            numbers.append(None if span is None else row)
            row += span is not None
        return numbers


@dataclass(frozen=True)
class Piece:
    """A batch on its way to be a shard: all that a worker needs beside the model.

    Args:
        index: what the store keeps of its rows.
        batch: its rows are those of ``layout``, which holds these texts alone.
    """

    shard: int
    index: Int[Tensor, "n 5"]
    batch: AnyBatch
    layout: Layout


def pieces(subject: Subject, layouts: Iterable[Layout], batch_tokens: int) -> Iterator[Piece]:
    """The batches of one layout after the other, each layout forgotten when it is done."""
    shard = row = text = 0
    for layout in layouts:
        for batch in subject.batches(layout.encoded, tokens=batch_tokens):
            # A piece goes to a worker: its rows are numbered by its own layout.
            alone = replace(batch, rows=tuple(range(len(batch))))
            index = layout.index(batch.rows, row, text)
            yield Piece(shard, index, alone, layout.of_texts(batch.rows))
            shard += 1
        row, text = row + layout.n_rows, text + len(layout.encoded)


@dataclass(frozen=True)
class End:
    """What was written, of a shard or of many.

    Attributes:
        texts, rows, tokens: how many.
        lost: words without tokens.
        cut: texts that are longer than the model takes.
        halved: batches that were halved for want of memory.
    """

    shards: int = 0
    texts: int = 0
    rows: int = 0
    tokens: int = 0
    lost: int = 0
    cut: int = 0
    halved: int = 0

    def __add__(self, other: End) -> End:
        return End(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Writer:
    """From pieces to shards; a piece whose shard is in the store already is not run again.

    Args:
        at_once: a shard is on disk when its piece is done, as a worker's must be; else it is
            written while the next is made.
    """

    subject: Subject
    places: Sequence[str]
    store: ActivationStore
    pooling: Pooling
    at_once: bool = False

    def __call__(self, piece: Piece) -> End:
        """Write one; what was written.

        Raises:
            FeatureError: a NaN or infinite activation, with the site and the text where it is.
            StoreError: a shard made from something else, another writer, or a disk without room.
        """
        parts, layout = 1, piece.layout
        if not self.store.has(piece.shard):
            values, parts = in_memory(self.subject, layout, piece.batch, self.places, self.pooling)
            self.store.write(piece.shard, piece.index, values)
        if self.at_once:
            self.store.flush()
        return End(
            shards=1,
            texts=len(layout.encoded),
            rows=layout.n_rows,
            tokens=layout.n_tokens,
            lost=layout.n_lost,
            cut=sum(text.cut is not None for text in layout.encoded),
            halved=parts - 1,
        )


def extract(
    subject: Subject,
    layout: Layout,
    places: Sequence[str],
    store: ActivationStore,
    *,
    pooling: Pooling = "mean",
    batch_tokens: int = 4096,
    advance: Callable[[int], None] = lambda rows: None,
) -> End:
    """Run the model over the text and store each word's vector at each site.

    Batches are of similar length; the forward runs the body only and stops at the last site, while
    the batch before is being written. An interrupted run continues with the batch whose shard is
    missing.

    Args:
        advance: called with the number of texts done, for a progress bar.

    Raises:
        FeatureError, StoreError: see `Writer`.
    """
    writer = Writer(subject, places, store, pooling)
    return sealed(store, map(writer, pieces(subject, [layout], batch_tokens)), advance)


def sealed(
    store: ActivationStore,
    written: Iterable[End],
    advance: Callable[[int], None] = lambda texts: None,
) -> End:
    """Let all shards be written, by whoever writes them,
    and then say in the store how many there are.
    """
    end = End()
    with store:
        # One writer: another that began meanwhile is told so.
        store.claim()
        for one in written:
            advance(one.texts)
            end += one
        store.seal(end.shards, end.rows)
    return end


def windows(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Items, so many at a time."""
    rest = iter(items)
    while window := list(islice(rest, size)):
        yield window


def in_memory(
    subject: Subject, layout: Layout, batch: AnyBatch, places: Sequence[str], pooling: Pooling
) -> tuple[dict[str, Float[Tensor, "n ..."]], int]:
    """`vectors` of a batch, or of its halves where memory does not suffice for the whole; and in
    how many parts.

    Raises:
        FeatureError: memory does not suffice for one text.
    """
    try:
        return vectors(subject, layout, batch, places, pooling), 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(batch) == 1:
            text = layout.encoded[batch.rows[0]].text
            raise FeatureError(
                f"memory does not suffice for the one text {text[:40]!r}: take fewer sites"
            ) from error
    # Outside the except block, whose traceback keeps the failed forward's tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    halves = [in_memory(subject, layout, half, places, pooling) for half in batch.halves()]
    values = {}
    for place in places:
        values[place] = torch.cat([of_half[place] for of_half, _ in halves])
    return values, sum(n_parts for _, n_parts in halves)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    known = ("can't allocate memory", "not enough memory", "out of memory")
    return any(words in str(error) for words in known)


def vectors(
    subject: Subject, layout: Layout, batch: AnyBatch, places: Sequence[str], pooling: Pooling
) -> dict[str, Float[Tensor, "n d"]]:
    """The vectors of a batch's words at each site.

    Raises:
        FeatureError: one is not finite.
    """
    spans = batch.spans(layout.spans)
    with capture(subject.model, *places, stop=True, clone=True) as acts:
        subject.forward(batch)  # pyright: ignore[reportArgumentType]  # each subject reads batches of its own
    pool = subject.pooler(spans, pooling, batch)
    values: dict[str, Tensor] = {}
    finite: dict[str, Tensor] = {}
    for site in places:
        value = acts[site]
        values[site] = pooled = pool(value.flatten(2) if value.ndim == 4 else value)
        finite[site] = pooled.isfinite().all()
    # Asked once for all sites: each answer waits for the device. Sites may lie on several of them.
    by_device: dict[torch.device, list[Tensor]] = {}
    for flag in finite.values():
        by_device.setdefault(flag.device, []).append(flag)
    if all(bool(torch.stack(flags).all()) for flags in by_device.values()):
        return values
    site = next(name for name, flag in finite.items() if not flag)
    bad = int((~values[site].isfinite().all(dim=1)).nonzero()[0])
    text = _text_of_row(layout, batch, spans, bad)
    raise FeatureError(f"{site}: expected finite activations, got NaN or infinity in {text[:60]!r}")


def _text_of_row(
    layout: Layout, batch: AnyBatch, spans: Sequence[Sequence[slice | None]], row: int
) -> str:
    """The text that a row of pooled words is of."""
    texts = []
    for i, line in zip(batch.rows, spans, strict=True):
        texts += [layout.encoded[i].text for span in line if span]
    return texts[row]
