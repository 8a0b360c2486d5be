"""Texts that are read: every layer and position under every lens,
and the parts of the target's logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...corpus.prompts import Prompt
from ...lenses.contributions import Contributions, contributions, exact_effects
from ...lenses.lens import Lens
from ...lenses.streams import Streams
from ...report.schema import Note
from ...subject import Subject
from ...subject.word_spans import Encoded
from .options import LensOptions
from .records import Candidate, ContributionRecord, ReadingRecord, TextRecord

TOP = 10
"""Candidates of a reading."""


@dataclass(frozen=True)
class ReadText:
    """One text: its record, its readings, and the parts of its target's logit."""

    record: TextRecord
    readings: list[ReadingRecord]
    parts: list[ContributionRecord]


def read_text(
    subject: Subject,
    number: int,
    prompt: Prompt,
    lenses: Sequence[Lens],
    options: LensOptions,
    notes: list[Note],
) -> ReadText:
    """A text under every lens, and its target's logit divided among the parts."""
    (encoded,) = subject.encode([prompt.prompt])
    target = first_token(subject, encoded, prompt.answer, notes)
    wrong = first_token(subject, encoded, prompt.wrong, notes)
    record = TextRecord(
        text=prompt.prompt,
        tokens=spelled(subject, encoded),
        target=prompt.answer or None,
        wrong=prompt.wrong,
    )
    readings = readings_of(subject, number, encoded, lenses, target)
    if target is None:
        return ReadText(record, readings, [])
    direct = contributions(subject, encoded, target, wrong, options.by or "head")
    parts = contribution_records(subject, number, encoded, direct, target, wrong, options.verify)
    record = replace(record, logit=direct.logit, bias=direct.biases, sum_error=direct.error)
    return ReadText(record, readings, parts)


def spelled(subject: Subject, text: Encoded) -> list[str]:
    """The tokens as a reader knows them: decoded, white space shown."""
    return [shown_token(subject, i) for i in text.ids]


def shown_token(subject: Subject, token: int) -> str:
    """One token, decoded; a token that is no text by itself keeps the tokenizer's spelling."""
    decoded = subject.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    plain = decoded if decoded and "\ufffd" not in decoded else subject.token(token)
    return plain.replace("\n", "⏎").replace("\t", "⇥")


def first_token(
    subject: Subject, text: Encoded, answer: str | None, notes: list[Note]
) -> int | None:
    """The first token of a continuation, as it stands behind the text."""
    if not answer:
        return None
    (whole,) = subject.encode([text.text + answer])
    ids = subject.tokenizer.encode(answer, add_special_tokens=False)
    n_before = len([s for s in text.special if not s]) + sum(text.special[:1])
    token = (
        whole.ids[n_before]
        if whole.ids[:n_before] == text.ids[:n_before] and len(whole.ids) > n_before
        else ids[0]
    )
    if len(ids) > 1:
        note = Note(
            kind="info",
            text=f"{answer!r} has {len(ids)} tokens: only the first, "
            f"{shown_token(subject, token)!r}, is followed",
        )
        if note not in notes:
            notes.append(note)
    return int(token)


def readings_of(
    subject: Subject, number: int, text: Encoded, lenses: Sequence[Lens], target: int | None
) -> list[ReadingRecord]:
    """Every layer and position of a text, under every lens; the last layer is the model itself,
    once.
    """
    (batch,) = subject.batches([text])
    streams = Streams.of(subject, batch)
    tokens = spelled(subject, text)
    records: list[ReadingRecord] = []
    with torch.no_grad():
        for lens in lenses:
            for layer in range(streams.n_layers):
                if layer not in lens.missing:
                    logits = streams.logits(lens(layer, streams.stream(layer))[0])
                    records += _layer_readings(
                        subject, logits, lens.kind, layer, number, tokens, target
                    )
        logits = streams.logits(streams.stream(streams.n_layers)[0])
        records += _layer_readings(
            subject, logits, "model", streams.n_layers, number, tokens, target
        )
    return records


def _layer_readings(
    subject: Subject,
    logits: Float[Tensor, "pos vocab"],
    kind: str,
    layer: int,
    number: int,
    tokens: Sequence[str],
    target: int | None,
) -> list[ReadingRecord]:
    """One layer: at each position the likeliest tokens, and the target's probability and rank."""
    logits = logits.float()
    largest = logits.topk(min(TOP, logits.shape[-1]), -1)
    total = logits.logsumexp(-1, keepdim=True)
    followed: list[float | None] = [None] * len(tokens)
    ranks: list[int | None] = [None] * len(tokens)
    if target is not None:
        column = logits[:, target, None]
        followed = (column - total).exp()[:, 0].tolist()
        ranks = (logits > column).sum(-1).tolist()
    values, ids = (largest.values - total).exp().tolist(), largest.indices.tolist()
    records = []
    for position, token in enumerate(tokens):
        top = []
        for token_id, probability in zip(ids[position], values[position], strict=True):
            top.append(Candidate(token=shown_token(subject, token_id), probability=probability))
        record = ReadingRecord(
            text=number,
            kind=kind,
            layer=layer - 1,
            position=position,
            token=token,
            top=top,
            target_probability=followed[position],
            target_rank=ranks[position],
        )
        records.append(record)
    return records


def contribution_records(
    subject: Subject,
    number: int,
    text: Encoded,
    direct: Contributions,
    target: int,
    wrong: int | None,
    exact: int,
) -> list[ContributionRecord]:
    """Every part, and the exact effect of the largest that can be edited."""
    editable = [part for part in direct.parts if part.site]
    largest = sorted(editable, key=lambda part: -abs(part.logit))[:exact]
    effects = dict(
        zip(map(id, largest), exact_effects(subject, text, largest, target, wrong), strict=True)
    )
    return [
        ContributionRecord(
            text=number,
            component=part.component,
            layer=part.layer,
            index=part.index,
            logit=part.logit,
            exact=effects.get(id(part)),
        )
        for part in direct.parts
    ]
