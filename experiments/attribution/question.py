"""What is explained: one number that a model gives for a text, and everything needed to ask for it
again of a changed text.

    log-probability  log2 p(answer | text), summed over the answer's tokens, in bits; with a wrong
                     answer the difference
    logit            l(answer), in nats; with a wrong answer l(answer) - l(wrong)

Where the labels of a classifier do not exclude each other, p is the sigmoid of the label's own
logit.

Of a language model the answer is a continuation (in a masked model, what its mask stands for), of a
classifier a class, of a probe one of its labels. Without an answer it is what the model says of the
whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..corpus.prompts import check_apart
from ..metrics.metrics import BITS
from ..report.schema import Note
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.medium import Medium
from ..subject.word_spans import Encoded
from .endpoint import Endpoint
from .units import AttributionError, Units

if TYPE_CHECKING:
    from ...probes import LogisticProbe

MEASURES = {"log-probability": "bits", "logit": "nats"}


@dataclass(frozen=True)
class Target:
    """What is asked of the model.

    Args:
        answer: a continuation (with its space), a class, or a label of the probe; by default what
            the model says.
        wrong: another answer, which the first is compared with.
        measure: ``log-probability`` or ``logit``; by default a logit where a class, a label or two
            single tokens are compared, else a log-probability.
        probe: a saved probe (of a probing run) or its file; the answer is then one of its labels.
        prefix: of an encoder-decoder, what its decoder has written before the answer; its words are
            units too.
        word: with a probe, the number of the word that it reads, from 0; by default it reads the
            mean of all words.
    """

    answer: str | None = None
    wrong: str | None = None
    measure: str | None = None
    probe: LogisticProbe | Path | None = None
    word: int | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        check_apart(self.answer, self.wrong)


def as_encoded(ids: Sequence[int]) -> Encoded:
    """A row of token ids as texts are batched; without their characters."""
    return Encoded("", tuple(ids), ((0, 0),) * len(ids), (False,) * len(ids))


@dataclass(frozen=True)
class Part:
    """One row of token ids, and what is read of it.

    A read stands before an anchor, in a causal model, or at it: when tokens before it are deleted
    it moves with them.

    Args:
        ids: token ids of the text and of what is fixed around it.
        tokens: for each unit the positions of its tokens.
        anchors: a position for each read; none where the model answers for the whole text.
        back: 1 where a read is one position before its anchor.
        slots, classes, weights: the terms of the sum: which read, which class, and the weight.
    """

    ids: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    anchors: tuple[int, ...]
    back: int
    slots: tuple[int, ...]
    classes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def encoded(self) -> Encoded:
        """The unchanged row as texts are batched."""
        return as_encoded(self.ids)

    @property
    def reads(self) -> tuple[int, ...]:
        """The positions that are read of the unchanged row."""
        return tuple(anchor - self.back for anchor in self.anchors)


@dataclass(frozen=True)
class Question:
    """A text, its units, and the number that is explained: a sum over parts.

    Args:
        name: what is explained, in words.
        measure: log-probability or logit.
        labels: the answers of a classifier or a probe; empty for a language model.
        separator: of a pair of texts, the token behind the first one, where the model tells the two
            by token types.
        medium: the picture or the sound that the text is about; its cells are the first units.
    """

    subject: Subject
    text: str
    units: Units
    parts: tuple[Part, ...]
    endpoint: Endpoint
    name: str
    measure: str
    notes: tuple[Note, ...] = ()
    labels: tuple[str, ...] = ()
    separator: int | None = None
    medium: Medium | None = None

    @property
    def excludes(self) -> bool:
        """Whether one answer excludes the others: not where a text may have several labels."""
        return self.endpoint.site is not None or not has_many_labels(self.subject)

    def forward(self, batch: Batch, logits: bool = False, grad: bool = False) -> Any:
        """Run the model on rows of this question, with the token types of a pair."""
        types = {}
        if self.separator is not None:
            of_tokens = token_types(batch.input_ids, self.separator)
            types["token_type_ids"] = of_tokens.to(self.subject.device)
        if self.medium is not None:
            batch, shown = self.medium.given(batch)
            types |= {name: value.to(self.subject.device) for name, value in shown.items()}
        return self.subject.forward(batch, logits=logits, grad=grad, **types)

    @property
    def unit(self) -> str:
        """The unit of the number."""
        return MEASURES[self.measure]

    def read_at(self, batch: Batch, reads: Sequence[Sequence[int]]) -> Int[Tensor, "rows reads"]:
        """Where the states of a batch hold each row's reads; -1 for one that was deleted.

        The states of an encoder-decoder are the target's alone, and a row begins with its source;
        before a text stand the cells of its medium.
        """
        at = torch.tensor([list(of_row) or [0] for of_row in reads])
        before = torch.tensor(batch.n_before)[:, None]
        return torch.where(at < 0, at, at - before)

    def value(
        self, logits: Float[Tensor, "rows slots classes"], part: Part
    ) -> Float[Tensor, " rows"]:
        """A part's share of the number, from the logits at its reads."""
        # Half precision would lose small differences of log-probabilities.
        numbers = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.measure == "log-probability":
            if self.excludes:
                log_p = numbers.log_softmax(-1)
            else:
                log_p = torch.nn.functional.logsigmoid(numbers)
            numbers = BITS * log_p
        terms = numbers[:, list(part.slots), list(part.classes)]
        return (terms * torch.tensor(part.weights).to(terms)).sum(1)


def spelled_token(subject: Subject, token: int) -> str:
    """A token as it stands in a text, or, where it is part of a character,
    as the tokenizer spells it.
    """
    text = subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return subject.token(token) if "\ufffd" in text or not text.strip() else text


def has_many_labels(subject: Subject) -> bool:
    """Whether a text may have several of the model's labels at once."""
    return (
        bool(subject.classes)
        and getattr(subject.config, "problem_type", None) == "multi_label_classification"
    )


def token_types(ids: Int[Tensor, "rows pos"], separator: int) -> Int[Tensor, "rows pos"]:
    """0 up to the first separator of each row, 1 behind it."""
    seen = (ids == separator).long().cumsum(1)
    return ((seen - (ids == separator).long()) > 0).long()


def clean_logits(question: Question, part: Part) -> Float[Tensor, "slots classes"]:
    """The logits at the reads of the unchanged row.

    Raises:
        AttributionError: the model gives no numbers for the text.
    """
    subject, endpoint = question.subject, question.endpoint
    (batch,) = subject.batches([part.encoded])
    with torch.inference_mode():
        states = endpoint.states(lambda whole: question.forward(batch, logits=whole))
        hidden = states[:, question.read_at(batch, [part.reads])[0].tolist()]
        is_token = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        logits = endpoint.of(hidden, is_token)[0]
    if bool(logits.isnan().any()):
        raise AttributionError(no_number(question))
    return logits


def no_number(question: Question) -> str:
    """What to say of a model that answers with NaN or infinity."""
    return (
        f"{question.subject.name} gives NaN or infinity for {question.text[:40]!r} or a "
        "changed version of it: its weights, or an embedding of one of the tokens, "
        "are not finite numbers"
    )
