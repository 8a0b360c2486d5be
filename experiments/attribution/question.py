"""What is explained: one number that a model gives for a text, and everything needed to ask for it again of a changed text.

    log-probability  log2 p(answer | text), summed over the answer's tokens, in bits; with a wrong answer the difference
    logit            l(answer), in nats; with a wrong answer l(answer) - l(wrong)

Of a language model the answer is a continuation (in a masked model, what its mask stands for), of a classifier a class, of
a probe one of its labels. Without an answer it is what the model says of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Site
from ...probes import LogisticProbe
from ..corpus.prompts import Prompt
from ..metrics.metrics import BITS
from ..metrics.reads import answer_reads, prediction_reads
from ..subject import Subject
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
    """A row of token ids as texts are batched; which characters they are is not told."""
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
    """

    subject: Subject
    text: str
    units: Units
    parts: tuple[Part, ...]
    endpoint: Endpoint
    name: str
    measure: str
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of the number."""
        return MEASURES[self.measure]

    def value(self, logits: Float[Tensor, "rows slots classes"], part: Part) -> Float[Tensor, " rows"]:
        """A part's share of the number, from the logits at its reads."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.measure == "log-probability":
            wide = BITS * torch.log_softmax(wide, dim=-1)
        terms = wide[:, list(part.slots), list(part.classes)]
        return (terms * torch.tensor(part.weights).to(terms)).sum(1)


def ask(
    subject: Subject,
    text: str,
    target: Target | str | None = None,
    level: str = "word",
    spans: Sequence[tuple[int, int]] | None = None,
) -> Question:
    """The question that a target puts to a subject about a text.

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
        raise AttributionError(f"a wrong answer ({target.wrong!r}) needs the answer that it is compared with")
    if target.probe is not None:
        return _of_probe(subject, text, target, level, spans)
    if target.word is not None:
        raise AttributionError("a word is read by a probe: give one")
    if subject.classes:
        return _of_classes(subject, text, target, level, spans)
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
        part = Part(encoded.ids, units.tokens, (int(places[0, 1]) + back,), back, (0,), (0,), (1.0,))
        token = int(clean_logits(endpoint, _trimmed(part)).argmax())
        measure = target.measure or "log-probability"
        name = (
            f"{_shown(measure)} of {_spelled(subject, token)!r}, the model's own {'next' if back else 'masked'} token"
        )
        parts = (_trimmed(replace(part, classes=(token,))),)
        return Question(subject, text, units, parts, endpoint, name, measure, units.notes)
    both = target.wrong is not None
    what = (("answer", 1.0), ("wrong", -1.0)) if both else (("answer", 1.0),)
    prompt = Prompt(text, target.answer, target.wrong)
    reads = answer_reads(subject, [prompt], what, target.measure or "log-probability", target.measure != "logit")
    single = len(reads.places) == len(what)
    measure = target.measure or ("logit" if both and single else "log-probability")
    terms: dict[tuple[int, ...], list[tuple[int, int, float]]] = {}
    for (row, position, token, _), weight in zip(reads.places.tolist(), reads.weights.tolist(), strict=True):
        ids = reads.texts[row].ids[: position + 1] if single and back else reads.texts[row].ids
        terms.setdefault(ids, []).append((position, token, weight))
    parts = [
        _trimmed(_part(ids, _moved(units.tokens, fixed, len(ids) - len(encoded)), back, found))
        for ids, found in terms.items()
    ]
    answers = f"{target.answer!r} against {target.wrong!r}" if both else repr(target.answer)
    notes = units.notes
    if mask is not None and len(parts) > 1:
        notes = (
            *notes,
            "an answer of several tokens is a pseudo-log-likelihood: each token read with the others there",
        )
    return Question(subject, text, units, tuple(parts), endpoint, f"{_shown(measure)} of {answers}", measure, notes)


def _spelled(subject: Subject, token: int) -> str:
    """A token as it stands in a text, or, where it is part of a character, as the tokenizer spells it."""
    text = subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return subject.token(token) if "\ufffd" in text or not text.strip() else text


def _part(
    ids: tuple[int, ...], tokens: tuple[tuple[int, ...], ...], back: int, terms: Sequence[tuple[int, int, float]]
) -> Part:
    places = sorted({position for position, _, _ in terms})
    slots = tuple(places.index(position) for position, _, _ in terms)
    anchors = tuple(position + back for position in places)
    return Part(ids, tokens, anchors, back, slots, tuple(t for _, t, _ in terms), tuple(w for _, _, w in terms))


def _trimmed(part: Part) -> Part:
    """Without what stands behind the last read of a causal row: it changes nothing."""
    return replace(part, ids=part.ids[: part.anchors[-1]]) if part.back else part


def _moved(tokens: tuple[tuple[int, ...], ...], fixed: Sequence[int], by: int) -> tuple[tuple[int, ...], ...]:
    """The units' positions where an answer of several tokens has taken a mask's place."""
    if not by or not fixed:
        return tokens
    return tuple(tuple(at + by if at > fixed[0] else at for at in own) for own in tokens)


def _of_classes(
    subject: Subject, text: str, target: Target, level: str, spans: Sequence[tuple[int, int]] | None
) -> Question:
    return _of_labels(subject, text, target, level, spans, class_end(subject), list(subject.classes), ())


def _of_probe(
    subject: Subject, text: str, target: Target, level: str, spans: Sequence[tuple[int, int]] | None
) -> Question:
    probe = target.probe if isinstance(target.probe, LogisticProbe) else LogisticProbe.load(target.probe or Path())
    about: dict[str, Any] = getattr(probe, "about_", None) or {}
    if not about.get("site"):
        raise AttributionError("the probe does not say which site it reads: expected one that a probing run saved")
    if about.get("model_sha256") not in (None, subject.sha256):
        raise AttributionError(f"the probe was trained on another model than {subject.name}: expected its run's model")
    if about.get("bos", subject.bos) != subject.bos:
        raise AttributionError(f"the probe was trained with BOS {about['bos']}, here it is {subject.bos}: give --bos")
    encoded = subject.encode([text])[0]
    if target.word is None:
        reads = [i for i, special in enumerate(encoded.special) if not special]
    else:
        reads = _word(encoded, target.word, str(about.get("pooling", "mean")))
    end = probe_end(subject, probe, Site(about["site"]))
    labels = [str(c) for c in probe.classes_.tolist()]
    asked = _of_labels(subject, text, target, level, spans, end, labels, tuple(reads))
    where = "" if target.word is None else f" for word {target.word}, {_name_of(encoded, target.word)!r}"
    return replace(asked, name=f"{asked.name} by the probe of {about.get('property', 'a property')}{where}")


def _of_labels(
    subject: Subject,
    text: str,
    target: Target,
    level: str,
    spans: Sequence[tuple[int, int]] | None,
    endpoint: Endpoint,
    labels: list[str],
    anchors: tuple[int, ...],
) -> Question:
    """The question of one of several labels."""
    encoded = subject.encode([text])[0]
    units = find_units(subject, encoded, level, spans)
    part = Part(encoded.ids, units.tokens, anchors, 0, (0,), (0,), (1.0,))
    measure = target.measure or "logit"
    if target.answer is None:
        chosen = [int(clean_logits(endpoint, part).argmax())]
        name = f"{_shown(measure)} of {labels[chosen[0]]!r}, the predicted class"
    else:
        chosen = [_label(answer, labels) for answer in (target.answer, target.wrong) if answer is not None]
        name = f"{_shown(measure)} of " + " against ".join(repr(labels[i]) for i in chosen)
    slots, weights = (0,) * len(chosen), (1.0, -1.0)[: len(chosen)]
    parts = (replace(part, slots=slots, classes=tuple(chosen), weights=weights),)
    return Question(subject, text, units, parts, endpoint, name, measure, units.notes)


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
        raise AttributionError(f"word {word} ({_name_of(encoded, word)!r}) has no token to be read at")
    every = list(range(span.start, span.stop))
    return {"first": every[:1], "last": every[-1:]}.get(pooling, every)


def _shown(measure: str) -> str:
    return measure.replace("-", " ")


def clean_logits(endpoint: Endpoint, part: Part) -> Float[Tensor, "slots classes"]:
    """The logits at the reads of the unchanged row."""
    subject = endpoint.subject
    (batch,) = subject.batches([part.encoded])
    with torch.inference_mode():
        states = endpoint.states(lambda whole: subject.forward(batch, logits=whole))
        hidden = states[:, list(part.reads) or [0]]
        return endpoint.of(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))[0]
