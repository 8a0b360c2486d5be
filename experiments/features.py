"""Features: one vector a word at every site, written to disk as the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.corpus import Sentence
from experiments.subject import Batch, Encoded, Subject, pool_words, word_spans
from experiments.words import Pooling
from hooks import ActivationStore, capture


class FeatureError(ValueError):
    """Activations that cannot be used."""


@dataclass(frozen=True)
class Layout:
    """Which row of the features each word of each sentence has; None for a word that lost its tokens.

    Rows are numbered sentence by sentence and word by word.
    """

    encoded: list[Encoded]
    spans: list[list[slice | None]]

    @classmethod
    def of(cls, subject: Subject, sentences: Sequence[Sentence]) -> Layout:
        """Tokenize the sentences and find every word's tokens."""
        encoded = subject.encode([s.text for s in sentences])
        spans = [word_spans(e, [(w.start, w.end) for w in s.words]) for e, s in zip(encoded, sentences, strict=True)]
        return cls(encoded, spans)

    @cached_property
    def rows(self) -> list[list[int | None]]:
        """Row numbers in the shape of the sentences."""
        count = iter(range(sum(len(line) for line in self.spans)))
        return [[None if span is None else next(count) for span in line] for line in self.spans]

    @cached_property
    def n_rows(self) -> int:
        """How many words have a vector."""
        return sum(span is not None for line in self.spans for span in line)

    @property
    def n_lost(self) -> int:
        """How many words truncation or the tokenizer left without tokens."""
        return sum(len(line) for line in self.spans) - self.n_rows

    @property
    def n_tokens(self) -> int:
        """How many tokens the model reads."""
        return sum(len(e) for e in self.encoded)


def extract(
    subject: Subject,
    layout: Layout,
    sites: Sequence[str],
    store: ActivationStore,
    *,
    pooling: Pooling = "mean",
    batch_tokens: int = 4096,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Run the model over the text and store each word's vector at each site.

    Batches are of similar length; the forward runs the body only and stops at the last site. A batch whose shard is
    already in the store is not run again, so an interrupted run continues.

    Args:
        advance: called with the number of texts done, for a progress bar.

    Raises:
        FeatureError: a NaN or infinite activation, with the site and the text where it is.
        StoreError: a shard made from something else, or a disk without room.
    """
    for number, batch in enumerate(subject.batches(layout.encoded, tokens=batch_tokens)):
        if not store.has(number):
            rows = [row for index in batch.rows for row in layout.rows[index] if row is not None]
            store.write(number, torch.tensor(rows, dtype=torch.long), _vectors(subject, layout, batch, sites, pooling))
        advance(len(batch))


def _vectors(
    subject: Subject, layout: Layout, batch: Batch, sites: Sequence[str], pooling: Pooling
) -> dict[str, Float[Tensor, "n d"]]:
    spans = batch.spans(layout.spans)
    with capture(subject.model, *sites, stop=True, clone=True) as acts:
        subject.forward(batch)
    values = {}
    for site in sites:
        value = acts[site]
        values[site] = pooled = pool_words(value.flatten(2) if value.ndim == 4 else value, spans, pooling).float()
        if not pooled.isfinite().all():
            bad = int((~pooled.isfinite().all(dim=1)).nonzero()[0])
            texts = [layout.encoded[i].text for i, line in zip(batch.rows, spans, strict=True) for s in line if s]
            raise FeatureError(f"{site}: expected finite activations, got NaN or infinity in {texts[bad][:60]!r}")
    return values
