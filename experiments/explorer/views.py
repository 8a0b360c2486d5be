"""What the screen shows of a text and its answer: pure functions from a view to plain values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from ...hooks import Site, capture
from ..attention.text_patterns import spelled
from ..attribution.question import spelled_token
from ..attribution.units import split_words
from ..subject.word_spans import pool_words, word_spans
from .bench import Bench
from .runs import Clean, in_force
from .session import View

TOP = 10
"""Tokens of a list of predictions."""
COLUMNS = 16
"""Positions of the lens at first: those that end at the answer."""
ROWS = 128
"""Streams that go through the head at a time."""
BITS = 1 / math.log(2)


def about(bench: Bench) -> dict[str, Any]:
    """What the screen must know of the model before any text."""
    subject = bench.subject
    mask = subject.tokenizer.mask_token if bench.kind == "masked" else None
    return {
        "model": subject.name,
        "architecture": type(subject.model).__name__,
        "kind": bench.kind,
        "layers": subject.n_layers,
        "heads": sum(part.layer == 0 for part in bench.parts("heads")),
        "has_map": bool(bench.site_names),
        "mask": mask,
        "lenses": list(bench.lenses) if bench.kind == "causal" else [],
        "probes": [str(probe.about_.get("property", "")) for probe in bench.probes],
        "notes": list(subject.notes),
    }


def tokens_of(bench: Bench, clean: Clean) -> list[dict[str, Any]]:
    """Each token as the text has it, its characters, and the word that it is of."""
    encoded = clean.encoded
    words = word_spans(encoded, split_words(encoded.text))
    of_word = {at: n for n, span in enumerate(words) if span for at in range(span.start, span.stop)}
    rows = zip(spelled(bench.subject, encoded), encoded.offsets, encoded.special, strict=True)
    return [
        {"text": text, "start": start, "end": end, "special": special, "word": of_word.get(at)}
        for at, (text, (start, end), special) in enumerate(rows)
    ]


def look(bench: Bench, view: View) -> Iterator[dict[str, Any]]:
    """Tokens and answer at once; then the words' surprise, and each edit by itself."""
    clean = bench.read(view.text)
    run = bench.run(view)
    yield {
        "part": "look",
        "tokens": tokens_of(bench, clean),
        "position": clean.position if bench.kind != "classifier" else None,
        "answer": answer(bench, view),
        "unchanged": list(run.unchanged),
        "other": other_text(bench, view),
    }
    if bench.kind == "causal":
        yield {"part": "surprise", "bits": surprise(bench, view)}
    if view.changes and bench.kind != "encoder":
        yield {"part": "edits", **edits_alone(bench, view)}


def answer(bench: Bench, view: View) -> dict[str, Any] | None:
    """The likeliest tokens or classes, clean and edited, and the contrast;
    None of a model without a head.
    """
    if bench.kind == "encoder":
        return None
    clean, run = bench.read(view.text), bench.run(view)
    before = bench.answer(clean.run).double().softmax(-1)
    after = bench.answer(run).double().softmax(-1)
    for side, p in (("", before), (" under these edits", after)):
        if bool(p.isnan().any()):
            raise InputError(f"the model gives NaN for this text{side}: nothing can be shown")
    pair = bench.contrast(view)
    count = min(TOP, len(before))
    best = [*before.topk(count).indices.tolist(), *after.topk(count).indices.tolist(), *pair]
    shown = sorted(dict.fromkeys(best), key=lambda token: -float(max(before[token], after[token])))
    return {
        "rows": [
            {
                "id": token,
                "text": name_of(bench, token),
                "clean": float(before[token]),
                "edited": float(after[token]),
            }
            for token in shown
        ],
        "contrast": {
            "answer": {"id": pair[0], "text": name_of(bench, pair[0])},
            "wrong": {"id": pair[1], "text": name_of(bench, pair[1])},
            "clean": bench.difference(view, clean.run),
            "edited": bench.difference(view, run),
        },
    }


def name_of(bench: Bench, number: int) -> str:
    """A token as a text has it, or a class."""
    if bench.kind == "classifier":
        return bench.subject.classes[number]
    return spelled_token(bench.subject, number)


def surprise(bench: Bench, view: View) -> list[float | None]:
    """-log2 p(token | those before it) under the edits, in bits; None of the first,
    which nothing stands before.
    """
    clean = bench.read(view.text)
    logits = clean.logits(bench.run(view))
    assert logits is not None
    ids = torch.tensor(clean.encoded.ids[1:], device=logits.device)
    of_token = logits[:-1].gather(1, ids[:, None])[:, 0].double()
    total = logits[:-1].double().logsumexp(-1)
    bits = BITS * (total - of_token)
    return [None, *bits.tolist()]


def other_text(bench: Bench, view: View) -> dict[str, Any] | None:
    """The compared text: its tokens, and the same contrast there."""
    if not view.other.strip():
        return None
    try:
        clean = bench.read(view.other)
        difference = (
            None
            if bench.kind == "encoder"
            else bench.difference(
                View(view.other, answer=bench.contrast(view)[0], wrong=bench.contrast(view)[1]),
                clean.run,
            )
        )
    except InputError as error:
        return {"problem": str(error)}
    return {"tokens": tokens_of(bench, clean), "difference": difference}


def edits_alone(bench: Bench, view: View) -> dict[str, Any]:
    """The effect on the contrast of each edit by itself, of all together,
    and the sum of the single ones.
    """
    alone = [bench.effect(view, [change]) for change in view.changes]
    return {
        "alone": [
            {"edit": str(change), "effect": effect}
            for change, effect in zip(view.changes, alone, strict=True)
        ],
        "together": bench.effect(view, view.changes),
        "sum": sum(alone),
    }


# -- the lens


def lens(
    bench: Bench, view: View, kind: str = "logit", first: int | None = None
) -> Iterator[dict[str, Any]]:
    """The likeliest next token behind each position at each layer: the column of the answer first,
    then those before it.

    Args:
        kind: a lens of the bench.
        first: the first of the ``COLUMNS`` positions; by default they end at the answer.
    """
    streams = _streams(bench, view)
    length = len(streams[0])
    end = length if first is None else min(length, first + COLUMNS)
    start = max(0, end - COLUMNS)
    for positions in ([end - 1], list(range(start, end - 1))):
        if positions:
            columns = _columns(bench, view, streams, positions, kind)
            yield {
                "part": "lens",
                "kind": kind,
                "positions": positions,
                "start": start,
                "length": length,
                "columns": columns,
            }


def cell(
    bench: Bench, view: View, layer: int, position: int, kind: str = "logit"
) -> dict[str, Any]:
    """The ten likeliest tokens behind one position at one layer;
    layer -1 is the embedding's stream.
    """
    streams = _streams(bench, view)
    if not (-1 <= layer < len(streams) - 1 and 0 <= position < len(streams[0])):
        raise InputError(
            f"expected a layer from -1 to {len(streams) - 2} and a position below "
            f"{len(streams[0])}, got {layer} and {position}"
        )
    moved = bench.lens(kind)(layer + 1, streams[layer + 1][position : position + 1])
    logits = _ended(bench, view, moved)[0]
    best = logits.double().softmax(-1).topk(TOP)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        "part": "cell",
        "layer": layer,
        "position": position,
        "rows": [{"id": i, "text": name_of(bench, i), "p": p} for i, p in rows],
    }


def _streams(bench: Bench, view: View) -> list[Float[Tensor, "pos d_model"]]:
    """The residual stream in front of every block and behind the last, as it is under the edits.

    Raises:
        InputError: a model that does not predict a next token from its last stream.
    """
    clean = bench.read(view.text)
    if bench.kind != "causal" or not clean.goes_on:
        raise InputError(
            "lens: expected a causal language model with known final norm and head, "
            f"{bench.subject.name} is none"
        )
    streams = {**clean.run.streams, **bench.run(view).streams}
    return [streams[layer] for layer in sorted(streams)]


def _columns(
    bench: Bench, view: View, streams: Sequence[Tensor], positions: Sequence[int], kind: str
) -> list[list[dict[str, Any] | None]]:
    """At each position every layer: the likeliest token, its probability, and that of the followed
    answer.

    A stream in front of the first edit is the unedited one: it is read once for all edits. None
    where the lens has no matrix.
    """
    lens = bench.lens(kind)
    followed = bench.contrast(view)[0]
    changed = set(bench.run(view).streams) if view.changes else set()
    known = bench.once(("lens", view.text, kind, followed), dict)
    cells: dict[tuple[int, int], dict[str, Any]] = {}
    wanted = []
    for layer in range(len(streams)):
        for at in positions:
            if layer in lens.missing:
                continue
            if layer not in changed and (layer, at) in known:
                cells[layer, at] = known[layer, at]
            else:
                wanted.append((layer, at))
    for start in range(0, len(wanted), ROWS):
        some = wanted[start : start + ROWS]
        moved = torch.stack([lens(layer, streams[layer][at]) for layer, at in some])
        for place, cell in zip(some, _likeliest(bench, view, moved, followed), strict=True):
            cells[place] = cell
            if place[0] not in changed:
                known[place] = cell
    return [[cells.get((layer, at)) for layer in range(len(streams))] for at in positions]


def _likeliest(
    bench: Bench, view: View, rows: Float[Tensor, "rows d_model"], followed: int
) -> list[dict[str, Any]]:
    """Through the final norm and the head: the likeliest token of each row,
    and the followed one's probability.
    """
    logits = _ended(bench, view, rows)
    total = logits.logsumexp(-1)
    best, tokens = logits.max(-1)
    p, answers = (best - total).exp(), (logits[:, followed] - total).exp()
    columns = zip(tokens.tolist(), p.tolist(), answers.tolist(), strict=True)
    return [{"text": name_of(bench, token), "p": p, "answer": a} for token, p, a in columns]


def _ended(
    bench: Bench, view: View, rows: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """The model's own final norm and head."""
    resume = bench.read(view.text).resume
    assert resume is not None
    with torch.no_grad():
        return resume.finish(rows).float()


# -- saved probes


def probes(bench: Bench, view: View) -> dict[str, Any]:
    """What each saved probe reads on each word:
    its likeliest label and that label's probability.
    """
    clean = bench.read(view.text)
    places = split_words(clean.encoded.text)
    spans = word_spans(clean.encoded, places)
    words = [view.text[a:b] for (a, b), span in zip(places, spans, strict=True) if span is not None]
    names = [str(probe.about_["site"]) for probe in bench.probes]
    if not names:
        raise InputError("probes: none was loaded: start with --probe FILE")
    acts = values_under_edits(bench, view, names)
    rows = []
    for probe, name in zip(bench.probes, names, strict=True):
        pooling = probe.about_.get("pooling", "mean")
        features = pool_words(acts[name], [spans], pooling).float().cpu().numpy()
        probabilities = probe.predict_proba(features)
        best = probabilities.argmax(1)
        cells = [
            {"label": str(probe.classes_[k]), "p": float(probabilities[i, k])}
            for i, k in enumerate(best)
        ]
        rows.append(
            {
                "property": probe.about_.get("property"),
                "site": name,
                "layer": Site.parse(name).layer,
                "cells": cells,
            }
        )
    return {"part": "probes", "words": words, "rows": rows}


def values_under_edits(bench: Bench, view: View, names: Sequence[str]) -> dict[str, Tensor]:
    """What sites hold on the text with the edits in force."""
    clean = bench.read(view.text)
    layers = {Site.parse(name).layer for name in names}
    layer = layers.pop() if len(layers) == 1 else None
    # a module by its path may stand in any block
    has_paths = any(change.site.startswith("module:") for change in view.changes)
    resume = clean.resume if clean.goes_on and not has_paths else None
    inside = view
    if layer is not None and resume is not None:
        # The stream in front of the block holds what edits did before it: no other block need run.
        inside = replace(view, changes=tuple(c for c in view.changes if c.layer == layer))
        stream = {**clean.run.streams, **bench.run(view).streams}[layer]
        forward = partial(resume.block, layer, stream[None])
    else:
        forward = partial(bench.model, **clean.inputs)
    with torch.no_grad(), in_force(bench.model, bench.groups(inside)):
        with capture(bench.model, *dict.fromkeys(names)) as acts:
            forward()
    return {name: acts[name] for name in names}


# -- generation


def generate(bench: Bench, view: View, length: int = 40) -> Iterator[dict[str, Any]]:
    """Greedy continuations, a token at a time: without edits and, where there are some, with them,
    in turns.
    """
    if bench.kind != "causal":
        raise InputError(
            f"generate: expected a causal language model, {bench.subject.name} is none"
        )
    clean = bench.read(view.text)
    if not 1 <= length <= bench.subject.max_length - len(clean.encoded):
        raise InputError(
            f"generate: expected 1 to {bench.subject.max_length - len(clean.encoded)} "
            f"tokens, got {length}"
        )
    sides = {"clean": continued(bench, view, length, is_edited=False)}
    if view.changes:
        sides["edited"] = continued(bench, view, length, is_edited=True)
    ids: dict[str, list[int]] = {side: [] for side in sides}
    for step in itertools.zip_longest(*sides.values()):
        for side, token in zip(sides, step, strict=True):
            if token is not None:
                ids[side].append(token)
                yield {
                    "part": "generated",
                    "side": side,
                    "ids": list(ids[side]),
                    "text": decoded(bench, ids[side]),
                }


def decoded(bench: Bench, ids: Sequence[int]) -> str:
    """Tokens as text."""
    return bench.subject.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def continued(bench: Bench, view: View, length: int, is_edited: bool) -> Iterator[int]:
    """The tokens of a greedy continuation, up to an end-of-text token;
    edits hold only while the model runs.
    """
    clean = bench.read(view.text)
    groups = bench.groups(view, generating=True) if is_edited else []
    ends = bench.end_tokens
    ids = torch.tensor([clean.encoded.ids], device=bench.subject.device)
    cache = None
    for _ in range(length):
        with torch.inference_mode(), in_force(bench.model, groups):
            out = bench.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        if token in ends:
            return
        yield token
        ids = torch.tensor([[token]], device=bench.subject.device)
