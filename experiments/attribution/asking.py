"""From a target to its question: of a language model, a classifier, or a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...hooks import Site
from ...hooks.configuration import setting
from ..corpus.prompts import Prompt
from ..metrics.probe_metric import check_model, load_probe
from ..metrics.reads import Reads, answer_reads, prediction_reads, text_of
from ..report.schema import Note
from ..subject import Subject
from ..subject.medium import Medium
from ..subject.targets import as_target
from ..subject.word_spans import Encoded, word_spans
from .endpoint import Endpoint, class_end, language_end, probe_end, whole_end
from .question import (
    MEASURES,
    Part,
    Question,
    Target,
    as_encoded,
    clean_logits,
    spelled_token,
    token_types,
)
from .units import AttributionError, Units, find_units, split_words

if TYPE_CHECKING:
    from ...probes import LogisticProbe


def ask(
    subject: Subject,
    text: str,
    target: Target | str | None = None,
    level: str = "word",
    spans: Sequence[tuple[int, int]] | None = None,
    pair: str | None = None,
    medium: Medium | None = None,
) -> Question:
    """The question that a target puts to a subject about a text.

    Args:
        pair: the second text of a classifier of pairs; its words are units too.
        medium: a picture that the model is shown with the text, or a sound that it hears in the
            text's place; its cells are the first units.

    Raises:
        AttributionError: an empty text, one too long, a target that this model cannot be asked for.
        MetricError: an answer whose tokens join the text's, or are not one where one is needed.
    """
    target = target if isinstance(target, Target) else Target(answer=target)
    _check(subject, text, target, pair)
    if medium is not None:
        _check_medium(subject, target, pair, medium)
        return _of_tokens(subject, text, target, level, spans, medium)
    if target.probe is not None:
        return _of_probe(subject, text, target, level, spans)
    if target.word is not None:
        raise AttributionError("--word: a single word is only read by a probe: give --probe FILE")
    if target.prefix is not None and not subject.has_decoder:
        raise AttributionError(
            f"the beginning of a target ({target.prefix[:40]!r}) is for encoder-decoders, "
            f"{subject.name} is none: write it at the text's end"
        )
    if subject.classes:
        return _of_classes(subject, text, target, level, spans, pair)
    return _of_tokens(subject, text, target, level, spans)


def _check(subject: Subject, text: str, target: Target, pair: str | None) -> None:
    """Raise `AttributionError` for what cannot be asked of any model, or not of this one."""
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


def _check_medium(subject: Subject, target: Target, pair: str | None, medium: Medium) -> None:
    """Raise `AttributionError` for what is not asked with a picture or a sound."""
    option = {"picture": "--image", "sound": "--audio"}[medium.kind]
    if target.probe is not None or target.word is not None or pair is not None:
        raise AttributionError(
            f"a {medium.kind} ({option}) goes with one text, and without a probe"
        )
    if not (subject.has_decoder if medium.kind == "sound" else subject.gives_tokens):
        wanted = "speech model that writes" if medium.kind == "sound" else "vision-language model"
        raise AttributionError(
            f"{option}: {subject.name} ({type(subject.model).__name__}) "
            f"has no language-model head; expected a {wanted}"
        )


def _of_tokens(
    subject: Subject,
    text: str,
    target: Target,
    level: str,
    spans: Sequence[tuple[int, int]] | None,
    medium: Medium | None = None,
) -> Question:
    """The question of a language model: how probable it finds an answer, or else the token that it
    says itself.

    Of an encoder-decoder the text is the source; the units are its words and those of the target's
    beginning.
    """
    given = Prompt(text, target.answer or "", target.wrong, target_prefix=target.prefix)
    if medium is not None:
        endpoint, encoded = whole_end(subject), medium.encode(medium.words_of(given))
    else:
        endpoint = language_end(subject)
        encoded = text_of(subject, given) if subject.has_decoder else subject.encode([text])[0]
    continues = subject.continues or medium is not None
    mask = None if continues else getattr(subject.tokenizer, "mask_token_id", None)
    fixed = [i for i, token in enumerate(encoded.ids) if token == mask]
    # A mask that is to be filled is no unit: it stays where it is.
    if medium is None:
        units = find_units(subject, encoded, level, spans, fixed)
    else:
        units = _with_cells(subject, encoded, level, spans, fixed, medium)
    question = Question(
        subject, encoded.text, units, (), endpoint, "", "", units.notes, medium=medium
    )
    if target.answer is None:
        return _of_own_token(question, given, encoded, target.measure or "log-probability")

    has_wrong = target.wrong is not None
    sides = (("answer", 1.0), ("wrong", -1.0)) if has_wrong else (("answer", 1.0),)
    several = target.measure != "logit"
    if medium is not None:
        reads = _medium_reads(subject, medium, encoded, given, sides, several)
    else:
        name = target.measure or "log-probability"
        reads = answer_reads(subject, [given], sides, name, several)
    is_single = len(reads.places) == len(sides)  # each answer is one token
    measure = target.measure
    if measure is None:
        measure = "logit" if has_wrong and is_single else "log-probability"

    parts = []
    for ids, of_row in _terms(reads, continues and is_single).items():
        longer = len(ids) - len(encoded)
        tokens = _moved(units.tokens, fixed, longer)
        parts.append(_trimmed(_part(ids, tokens, int(continues), of_row)))

    notes = units.notes
    if mask is not None and len(parts) > 1:
        sentence = (
            "an answer of several tokens is scored by its pseudo-log-likelihood: "
            "each token is predicted with the others in place"
        )
        notes = (*notes, Note(kind="info", text=sentence))
    answers = f"{target.answer!r} against {target.wrong!r}" if has_wrong else repr(target.answer)
    name = f"{_spaced(measure)} of {answers}"
    return replace(question, parts=tuple(parts), name=name, measure=measure, notes=notes)


def _with_cells(
    subject: Subject,
    encoded: Encoded,
    level: str,
    spans: Sequence[tuple[int, int]] | None,
    fixed: Sequence[int],
    medium: Medium,
) -> Units:
    """The cells of a picture or a sound in their order, and the units of its text."""
    n_cells = medium.n_cells
    cells = Units(
        level,
        tuple(medium.cell_names()),
        ((0, 0),) * n_cells,
        tuple((cell,) for cell in range(n_cells)),
    )
    # A sound may have nothing written of it yet.
    if medium.kind == "sound" and all(encoded.special):
        return cells
    words = find_units(subject, encoded, level, spans, fixed, medium.words_begin(encoded))
    return replace(
        words,
        texts=(*cells.texts, *words.texts),
        spans=(*cells.spans, *words.spans),
        tokens=(*cells.tokens, *words.tokens),
    )


def _medium_reads(
    subject: Subject,
    medium: Medium,
    encoded: Encoded,
    given: Prompt,
    sides: Sequence[tuple[str, float]],
    several: bool,
) -> Reads:
    """Reads of the answers behind the cells and the words."""
    texts, places, weights = [], [], []
    for row, (field, weight) in enumerate(sides):
        answer = str(getattr(given, field))
        ids = medium.answer(encoded, medium.words_of(given), answer)
        if not ids:
            raise AttributionError(f"the {field} {answer!r} has no token")
        if len(ids) > 1 and not several:
            raise AttributionError(f"expected one token, {field} {answer!r} is {len(ids)}")
        if len(ids) > 1 and not subject.continues:
            raise AttributionError(
                f"{subject.name} sees what follows a token: "
                f"expected an answer of one token, {answer!r} is {len(ids)}"
            )
        in_row = map(as_target, ids) if subject.has_decoder else ids
        texts.append(as_encoded((*encoded.ids, *in_row)))
        for number, token in enumerate(ids):
            places.append((row, len(encoded) + number - 1, token, 0))
            weights.append(weight)
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _terms(reads: Reads, ends_at_read: bool) -> dict[tuple[int, ...], list[tuple[int, int, float]]]:
    """Position, token and weight of the reads of each row: they make one part.

    Args:
        ends_at_read: a row ends where it is read; the answer behind it is read by nobody.
    """
    terms: dict[tuple[int, ...], list[tuple[int, int, float]]] = {}
    for place, weight in zip(reads.places.tolist(), reads.weights.tolist(), strict=True):
        row, position, token, _ = place
        ids = reads.texts[row].ids
        if ends_at_read:
            ids = ids[: position + 1]
        terms.setdefault(ids, []).append((position, token, weight))
    return terms


def _of_own_token(question: Question, given: Prompt, encoded: Encoded, measure: str) -> Question:
    """The question of the token that a language model finds most probable."""
    subject = question.subject
    if question.medium is not None:
        back, position = 1, len(encoded) - 1
    else:
        back = int(subject.continues)
        position = int(prediction_reads(subject, [given]).places[0, 1])
    anchor = position + back
    part = Part(encoded.ids, question.units.tokens, (anchor,), back, (0,), (0,), (1.0,))
    # What a causal model reads nothing of need not be run.
    part = _trimmed(part)
    question = replace(question, parts=(part,), measure=measure)
    token = int(clean_logits(question, part).argmax())
    which = "next" if back else "masked"
    name = f"{_spaced(measure)} of {spelled_token(subject, token)!r}, the model's own {which} token"
    return replace(question, parts=(replace(part, classes=(token,)),), name=name)


def _part(
    ids: tuple[int, ...],
    tokens: tuple[tuple[int, ...], ...],
    back: int,
    terms: Sequence[tuple[int, int, float]],
) -> Part:
    places = sorted({position for position, _, _ in terms})
    return Part(
        ids,
        tokens,
        anchors=tuple(position + back for position in places),
        back=back,
        slots=tuple(places.index(position) for position, _, _ in terms),
        classes=tuple(token for _, token, _ in terms),
        weights=tuple(weight for _, _, weight in terms),
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
    moved = []
    for of_unit in tokens:
        moved.append(tuple(at + by if at > fixed[0] else at for at in of_unit))
    return tuple(moved)


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
    """The token behind the first text of a pair, where the model reads token types; None where it
    reads none.

    Raises:
        AttributionError: types that do not change behind the first separator: they would not be
            known for a changed row.
    """
    if 1 not in types or setting(subject.config, "type_vocab_size", default=1) < 2:
        return None
    # The token in front of the second text closes the first.
    separator = encoded.ids[types.index(1) - 1]
    if token_types(torch.tensor([encoded.ids]), separator)[0].tolist() != list(types):
        raise AttributionError(
            f"{subject.name} marks the two texts of a pair in a way that is not known here"
        )
    return separator


def _of_probe(
    subject: Subject, text: str, target: Target, level: str, spans: Sequence[tuple[int, int]] | None
) -> Question:
    probe = target.probe
    if probe is None or isinstance(probe, str | Path):
        probe = load_probe(Path(probe or ""))
    about = _about(subject, probe)
    encoded = subject.encode([text])[0]
    name = f"by the probe of {about.get('property', 'a property')}"
    if target.word is None:
        reads = [i for i, special in enumerate(encoded.special) if not special]
    else:
        reads = _word(encoded, target.word, str(about.get("pooling", "mean")))
        name += f" for word {target.word}, {_name_of(encoded, target.word)!r}"
    end = probe_end(subject, probe, Site(about["site"]))
    labels = [str(c) for c in probe.classes_.tolist()]
    question = _of_labels(subject, encoded, target, level, spans, end, labels, tuple(reads))
    return replace(question, name=f"{question.name} {name}")


def _about(subject: Subject, probe: LogisticProbe) -> dict[str, Any]:
    """What a probe says of itself; it must be one of this model.

    Raises:
        AttributionError: it does not say what it reads.
        MetricError: it was trained on another model or with another BOS.
    """
    about: dict[str, Any] = getattr(probe, "about_", None) or {}
    if not about.get("site"):
        raise AttributionError(
            "the probe does not say which site it reads: expected one that a probing run saved"
        )
    check_model(probe, subject)
    return about


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
    question = Question(
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
        predicted = int(clean_logits(question, part).argmax())
        chosen = [predicted]
        name = f"{_spaced(measure)} of {labels[predicted]!r} (the predicted class)"
    else:
        answers = (target.answer, target.wrong)
        chosen = [_label(answer, labels) for answer in answers if answer is not None]
        name = f"{_spaced(measure)} of " + " against ".join(repr(labels[i]) for i in chosen)
    slots, weights = (0,) * len(chosen), (1.0, -1.0)[: len(chosen)]
    part = replace(part, slots=slots, classes=tuple(chosen), weights=weights)
    return replace(question, parts=(part,), name=name)


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
    positions = list(range(span.start, span.stop))
    return {"first": positions[:1], "last": positions[-1:]}.get(pooling, positions)


def _spaced(measure: str) -> str:
    return measure.replace("-", " ")
