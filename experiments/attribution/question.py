"""What is explained: one number that a model gives for a text, and everything needed to ask for it again of a changed text.

    log-probability  log2 p(answer | text), summed over the answer's tokens, in bits; with a wrong answer the difference
    logit            l(answer), in nats; with a wrong answer l(answer) - l(wrong)

Where the labels of a classifier do not exclude each other, p is the sigmoid of the label's own logit.

Of a language model the answer is a continuation (in a masked model, what its mask stands for), of a classifier a class, of
a probe one of its labels. Without an answer it is what the model says of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...hooks import Site
from ...hooks.configuration import setting
from ...probes import LogisticProbe
from ..corpus.prompts import Prompt
from ..metrics.metrics import BITS
from ..metrics.reads import answer_reads, prediction_reads
from ..report.schema import Note
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded, word_spans
from .endpoint import Endpoint, class_end, language_end, probe_end
from .units import AttributionError, Units, find_units, split_words

MEASURES = {"log-probability": "bits", "logit": "nats"}


@dataclass(frozen=True)
class Target:
    """What is asked of the model.

    Args:
        answer: a continuation (with its space), a class, or a label of the probe; by default what the model says.
        wrong: another answer, which the first is compared with.
        measure: ``log-probability`` or ``logit``; by default a logit where a class, a label or two single tokens are
            compared, else a log-probability.
        probe: a saved probe (of a probing run) or its file; the answer is then one of its labels.
        word: with a probe, the number of the word that it reads, from 0; by default it reads the mean of all words.
    """

    answer: str | None = None
    wrong: str | None = None
    measure: str | None = None
    probe: LogisticProbe | Path | None = None
    word: int | None = None


def as_encoded(ids: Sequence[int]) -> Encoded:
    """A row of token ids as texts are batched; without their characters."""
    return Encoded("", tuple(ids), ((0, 0),) * len(ids), (False,) * len(ids))


@dataclass(frozen=True)
class Part:
    """One row of token ids, and what is read of it.

    A read stands before an anchor, in a causal model, or at it: when tokens before it are deleted it moves with them.

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
        separator: of a pair of texts, the token behind the first one, where the model tells the two by token types.
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

    @property
    def excludes(self) -> bool:
        """Whether one answer excludes the others: not where a text may have several labels."""
        return self.endpoint.site is not None or not has_many_labels(self.subject)

    def forward(self, batch: Batch, logits: bool = False, grad: bool = False) -> Any:
        """Run the model on rows of this question, with the token types of a pair."""
        more = {}
        if self.separator is not None:
            more["token_type_ids"] = token_types(batch.input_ids, self.separator).to(
                self.subject.device
            )
        return self.subject.forward(batch, logits=logits, grad=grad, **more)

    @property
    def unit(self) -> str:
        """The unit of the number."""
        return MEASURES[self.measure]

    def value(
        self, logits: Float[Tensor, "rows slots classes"], part: Part
    ) -> Float[Tensor, " rows"]:
        """A part's share of the number, from the logits at its reads."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.measure == "log-probability":
            wide = BITS * (
                wide.log_softmax(-1) if self.excludes else torch.nn.functional.logsigmoid(wide)
            )
        terms = wide[:, list(part.slots), list(part.classes)]
        return (terms * torch.tensor(part.weights).to(terms)).sum(1)


def ask(
    subject: Subject,
    text: str,
    target: Target | str | None = None,
    level: str = "word",
    spans: Sequence[tuple[int, int]] | None = None,
    pair: str | None = None,
) -> Question:
    """The question that a target puts to a subject about a text.

    Args:
        pair: the second text of a classifier of pairs; its words are units too.

    Raises:
        AttributionError: an empty text, one too long, a target that this model cannot be asked for.
        MetricError: an answer whose tokens join the text's, or are not one where one is needed.
    """
    target = target if isinstance(target, Target) else Target(answer=target)
    if target.measure not in (None, *MEASURES):
        raise AttributionError(f"measure {target.measure!r}: expected {' or '.join(MEASURES)}")
    if not text.strip():
        raise AttributionError(f"expected a text with words, got {text!r}")
    if target.wrong is not None and target.answer is None:
        raise AttributionError(
            f"a wrong answer ({target.wrong!r}) needs the answer that it is compared with"
        )
    if pair is not None and (target.probe is not None or not subject.classes):
        raise AttributionError("a second text is for classifiers of pairs (--text-pair)")
    if pair is not None and not pair.strip():
        raise AttributionError(f"expected a second text with words, got {pair!r}")
    if target.probe is not None:
        return _of_probe(subject, text, target, level, spans)
    if target.word is not None:
        raise AttributionError("a word is read by a probe: give one")
    if subject.classes:
        return _of_classes(subject, text, target, level, spans, pair)
    return _of_tokens(subject, text, target, level, spans)


def _of_tokens(
    subject: Subject, text: str, target: Target, level: str, spans: Sequence[tuple[int, int]] | None
) -> Question:
    endpoint = language_end(subject)
    encoded = subject.encode([text])[0]
    mask = None if subject.causal else getattr(subject.tokenizer, "mask_token_id", None)
    fixed = [i for i, token in enumerate(encoded.ids) if token == mask]
    units = find_units(subject, encoded, level, spans, fixed)
    back = int(subject.causal)
    if target.answer is None:
        places = prediction_reads(subject, [Prompt(text, "")]).places
        part = _trimmed(
            Part(encoded.ids, units.tokens, (int(places[0, 1]) + back,), back, (0,), (0,), (1.0,))
        )
        measure = target.measure or "log-probability"
        asked = Question(subject, text, units, (part,), endpoint, "", measure, units.notes)
        token = int(clean_logits(asked, part).argmax())
        name = f"{_shown(measure)} of {spelled_token(subject, token)!r}, the model's own {'next' if back else 'masked'} token"
        return replace(asked, parts=(replace(part, classes=(token,)),), name=name)
    both = target.wrong is not None
    what = (("answer", 1.0), ("wrong", -1.0)) if both else (("answer", 1.0),)
    prompt = Prompt(text, target.answer, target.wrong)
    reads = answer_reads(
        subject, [prompt], what, target.measure or "log-probability", target.measure != "logit"
    )
    single = len(reads.places) == len(what)
    measure = target.measure or ("logit" if both and single else "log-probability")
    terms: dict[tuple[int, ...], list[tuple[int, int, float]]] = {}
    for (row, position, token, _), weight in zip(
        reads.places.tolist(), reads.weights.tolist(), strict=True
    ):
        ids = reads.texts[row].ids[: position + 1] if single and back else reads.texts[row].ids
        terms.setdefault(ids, []).append((position, token, weight))
    parts = [
        _trimmed(_part(ids, _moved(units.tokens, fixed, len(ids) - len(encoded)), back, found))
        for ids, found in terms.items()
    ]
    answers = f"{target.answer!r} against {target.wrong!r}" if both else repr(target.answer)
    notes = units.notes
    if mask is not None and len(parts) > 1:
        sentence = "an answer of several tokens is a pseudo-log-likelihood: each token read with the others there"
        notes = (*notes, Note(kind="info", text=sentence))
    return Question(
        subject,
        text,
        units,
        tuple(parts),
        endpoint,
        f"{_shown(measure)} of {answers}",
        measure,
        notes,
    )


def spelled_token(subject: Subject, token: int) -> str:
    """A token as it stands in a text, or, where it is part of a character, as the tokenizer spells it."""
    text = subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return subject.token(token) if "\ufffd" in text or not text.strip() else text


def _part(
    ids: tuple[int, ...],
    tokens: tuple[tuple[int, ...], ...],
    back: int,
    terms: Sequence[tuple[int, int, float]],
) -> Part:
    places = sorted({position for position, _, _ in terms})
    slots = tuple(places.index(position) for position, _, _ in terms)
    anchors = tuple(position + back for position in places)
    return Part(
        ids,
        tokens,
        anchors,
        back,
        slots,
        tuple(t for _, t, _ in terms),
        tuple(w for _, _, w in terms),
    )


def _trimmed(part: Part) -> Part:
    """Without what stands behind the last read of a causal row: it changes nothing."""
    return replace(part, ids=part.ids[: part.anchors[-1]]) if part.back else part


def _moved(
    tokens: tuple[tuple[int, ...], ...], fixed: Sequence[int], by: int
) -> tuple[tuple[int, ...], ...]:
    """The units' positions where an answer of several tokens has taken a mask's place."""
    if not by or not fixed:
        return tokens
    return tuple(tuple(at + by if at > fixed[0] else at for at in own) for own in tokens)


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


def _of_classes(
    subject: Subject,
    text: str,
    target: Target,
    level: str,
    spans: Sequence[tuple[int, int]] | None,
    pair: str | None,
) -> Question:
    labels = list(subject.classes)
    if len(labels) == 1 and target.measure == "log-probability":
        raise AttributionError(
            f"{subject.name} gives one number and no probabilities: choose --measure logit"
        )
    if pair is None:
        (encoded,) = subject.encode([text])
        return _of_labels(subject, encoded, target, level, spans, class_end(subject), labels, ())
    encoded, types = subject.encode_pair(text, pair)
    separator = _separator(subject, encoded, types)
    return _of_labels(
        subject, encoded, target, level, spans, class_end(subject), labels, (), separator
    )


def _separator(subject: Subject, encoded: Encoded, types: Sequence[int]) -> int | None:
    """The token behind the first text of a pair, where the model reads token types; None where it reads none.

    Raises:
        AttributionError: types that do not change behind the first separator: they would not be known for a changed row.
    """
    if 1 not in types or setting(subject.config, "type_vocab_size", default=1) < 2:
        return None
    separator = encoded.ids[types.index(1) - 1]
    if token_types(torch.tensor([encoded.ids]), separator)[0].tolist() != list(types):
        raise AttributionError(
            f"{subject.name} marks the two texts of a pair in a way that is not known here"
        )
    return separator


def _of_probe(
    subject: Subject, text: str, target: Target, level: str, spans: Sequence[tuple[int, int]] | None
) -> Question:
    probe = (
        target.probe
        if isinstance(target.probe, LogisticProbe)
        else LogisticProbe.load(target.probe or Path())
    )
    about: dict[str, Any] = getattr(probe, "about_", None) or {}
    if not about.get("site"):
        raise AttributionError(
            "the probe does not say which site it reads: expected one that a probing run saved"
        )
    if about.get("model_sha256") not in (None, subject.sha256):
        raise AttributionError(
            f"the probe was trained on another model than {subject.name}: expected its run's model"
        )
    if about.get("bos", subject.bos) != subject.bos:
        raise AttributionError(
            f"the probe was trained with BOS {about['bos']}, here it is {subject.bos}: give --bos"
        )
    encoded = subject.encode([text])[0]
    if target.word is None:
        reads = [i for i, special in enumerate(encoded.special) if not special]
    else:
        reads = _word(encoded, target.word, str(about.get("pooling", "mean")))
    end = probe_end(subject, probe, Site(about["site"]))
    labels = [str(c) for c in probe.classes_.tolist()]
    asked = _of_labels(subject, encoded, target, level, spans, end, labels, tuple(reads))
    where = (
        ""
        if target.word is None
        else f" for word {target.word}, {_name_of(encoded, target.word)!r}"
    )
    return replace(
        asked, name=f"{asked.name} by the probe of {about.get('property', 'a property')}{where}"
    )


def _of_labels(
    subject: Subject,
    encoded: Encoded,
    target: Target,
    level: str,
    spans: Sequence[tuple[int, int]] | None,
    endpoint: Endpoint,
    labels: list[str],
    anchors: tuple[int, ...],
    separator: int | None = None,
) -> Question:
    """The question of one of several labels."""
    units = find_units(subject, encoded, level, spans)
    part = Part(encoded.ids, units.tokens, anchors, 0, (0,), (0,), (1.0,))
    measure = target.measure or "logit"
    asked = Question(
        subject,
        encoded.text,
        units,
        (part,),
        endpoint,
        "",
        measure,
        units.notes,
        tuple(labels),
        separator,
    )
    if target.answer is None:
        chosen = [int(clean_logits(asked, part).argmax())]
        name = f"{_shown(measure)} of {labels[chosen[0]]!r}, the predicted class"
    else:
        chosen = [
            _label(answer, labels) for answer in (target.answer, target.wrong) if answer is not None
        ]
        name = f"{_shown(measure)} of " + " against ".join(repr(labels[i]) for i in chosen)
    slots, weights = (0,) * len(chosen), (1.0, -1.0)[: len(chosen)]
    parts = (replace(part, slots=slots, classes=tuple(chosen), weights=weights),)
    return replace(asked, parts=parts, name=name)


def _label(answer: str, labels: list[str]) -> int:
    if answer in labels:
        return labels.index(answer)
    raise AttributionError(f"class {answer!r}: expected one of {', '.join(labels[:20])}")


def _name_of(encoded: Encoded, word: int) -> str:
    start, end = split_words(encoded.text)[word]
    return encoded.text[start:end]


def _word(encoded: Encoded, word: int, pooling: str) -> list[int]:
    """The positions that a probe reads for a word."""
    words = split_words(encoded.text)
    if not 0 <= word < len(words):
        raise AttributionError(f"word {word}: the text has words 0 to {len(words) - 1}")
    (span,) = word_spans(encoded, [words[word]])
    if span is None:
        raise AttributionError(
            f"word {word} ({_name_of(encoded, word)!r}) has no token to be read at"
        )
    every = list(range(span.start, span.stop))
    return {"first": every[:1], "last": every[-1:]}.get(pooling, every)


def _shown(measure: str) -> str:
    return measure.replace("-", " ")


def clean_logits(question: Question, part: Part) -> Float[Tensor, "slots classes"]:
    """The logits at the reads of the unchanged row.

    Raises:
        AttributionError: the model gives no numbers for the text.
    """
    subject, endpoint = question.subject, question.endpoint
    (batch,) = subject.batches([part.encoded])
    with torch.inference_mode():
        states = endpoint.states(lambda whole: question.forward(batch, logits=whole))
        hidden = states[:, list(part.reads) or [0]]
        logits = endpoint.of(
            hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        )[0]
    if bool(logits.isnan().any()):
        raise AttributionError(no_number(question))
    return logits


def no_number(question: Question) -> str:
    """What to say of a model that answers with NaN or infinity."""
    return (
        f"{question.subject.name} gives NaN or infinity for {question.text[:40]!r} or a changed version of it: its weights, "
        "or an embedding of one of the tokens, are not finite numbers"
    )
