"""The residual stream of every layer, and the model's own way from a residual stream to logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from ...hooks import Resume
from ...hooks.output_heads import language_head
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded


class LensError(LayerscopeError, ValueError):
    """A model or text that a lens cannot read."""


def require_lens(subject: Subject) -> None:
    """Refuse a model that does not predict its next token through one head.

    Raises:
        LensError: an encoder, or a model without a language-model head.
    """
    if not subject.causal:
        raise LensError(
            f"{subject.name}: expected a causal language model; "
            "a token of this one sees the next ones and predicts none"
        )
    if language_head(subject.model) is None:
        raise LensError(
            f"{subject.name}: expected a language-model head, "
            f"{type(subject.model).__name__} has none"
        )


@dataclass(frozen=True)
class Streams:
    """One batch: the residual stream in front of every block, and behind the last.

    Args:
        clean: the recorded forward.
        batch: the texts.
        ids: token ids, and ``mask`` which of them are of a text.
    """

    clean: Resume
    batch: Batch
    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]

    @classmethod
    def of(cls, subject: Subject, batch: Batch) -> Streams:
        """Run the model once.

        Raises:
            LensError: final norm and head, run by themselves, do not give the model's logits.
        """
        inputs = batch.inputs(subject.device)
        with torch.no_grad():
            clean = Resume(subject.model, inputs)
        if not clean.exact:
            raise LensError(f"{subject.name}: its final norm and head alone do not give its logits")
        return cls(clean, batch, inputs["input_ids"], inputs["attention_mask"].bool())

    @property
    def n_layers(self) -> int:
        """Blocks of the model; there is one stream more."""
        return self.clean.n_layers

    def stream(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """In front of block ``layer``; ``n_layers`` is behind the last block,
        before the final norm.
        """
        return self.clean.residual(layer)

    def logits(self, stream: Float[Tensor, "*places d_model"]) -> Float[Tensor, "*places vocab"]:
        """The model's own final norm, head, scale and soft cap."""
        return self.clean.finish(stream)


def all_streams(subject: Subject, texts: Sequence[Encoded], batch_tokens: int) -> Iterator[Streams]:
    """Batch by batch, texts with a next token only."""
    usable = [text for text in texts if len(text) > 1]
    for batch in subject.batches(usable, batch_tokens):
        yield Streams.of(subject, batch)
