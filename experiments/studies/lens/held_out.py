"""How far each lens can be believed: every layer against the model,
on texts that nothing was fitted on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....probes.evaluation import (
    TESTABLE,
    ClusterBootstrap,
    few_clusters,
    floor_of,
    holm,
    mean_effects,
)
from ...lenses.jacobian import Reliability
from ...lenses.lens import Lens
from ...lenses.streams import all_streams
from ...report.schema import Note, estimated
from ...subject import Subject
from ...subject.word_spans import Encoded
from .inputs import LensInputs
from .records import ComparisonRecord, LayerRecord, ReliabilityRecord

Scores: TypeAlias = Float[np.ndarray, "layer measure token"]
"""KL, loss, agreement and rank of the true next token, and the number of the token's text."""


def scores_of(
    subject: Subject,
    lenses: Mapping[str, Lens],
    texts: Sequence[Encoded],
    batch_tokens: int,
) -> dict[str, Scores]:
    """For each lens KL, loss, agreement and rank of every token at every layer; the last row is the
    token's text.

    NaN at a layer that a lens has no matrix for.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in lenses}
    with torch.no_grad():
        for streams in all_streams(subject, texts, batch_tokens):
            places = streams.mask[:, :-1] & streams.mask[:, 1:]
            places[:, : 1 if subject.has_sink_position else 0] = False
            if not places.any():
                continue
            following = streams.ids[:, 1:][places]
            model = streams.clean.logits[:, :-1][places].float().log_softmax(-1)
            rows = places.nonzero()[:, 0].tolist()
            owners = torch.tensor([float(streams.batch.rows[row]) for row in rows])
            for name, lens in lenses.items():
                table = torch.full((streams.n_layers, 5, len(rows)), torch.nan)
                table[:, 4] = owners
                for layer in range(streams.n_layers):
                    if layer in lens.missing:
                        continue
                    stream = streams.stream(layer)[:, :-1][places]
                    guess = streams.logits(lens(layer, stream)).float().log_softmax(-1)
                    table[layer, :4] = _judged(guess, model, following).cpu()
                parts[name].append(table)
    return {name: torch.cat(tables, dim=2).double().numpy() for name, tables in parts.items()}


def with_shuffled(lenses: Sequence[Lens]) -> dict[str, Lens]:
    """Every lens, and each that has matrices again with its layers shuffled."""
    named = {lens.kind: lens for lens in lenses}
    for lens in lenses:
        if lens.weight is not None:
            named[f"{lens.kind}, layers shuffled"] = lens.shuffled()
    return named


def _judged(guess: Tensor, model: Tensor, following: Tensor) -> Float[Tensor, "4 token"]:
    """KL(model || layer) and loss in bits, agreement with the model,
    rank of the true next token.
    """
    bits = float(np.log(2))
    kl = (model.exp() * (model - guess)).sum(-1) / bits
    of_next = guess.gather(1, following[:, None])
    loss = -of_next[:, 0] / bits
    agree = (guess.argmax(-1) == model.argmax(-1)).float()
    rank = (guess > of_next).sum(-1).float()
    return torch.stack([kl, loss, agree, rank])


def layer_records(
    kind: str, scores: Scores, seed: int, reliabilities: Sequence[Reliability] = ()
) -> list[LayerRecord]:
    """Means and medians with intervals over texts."""
    boot = ClusterBootstrap(scores[0, 4].astype(int), seed=seed)
    records = []
    for layer, (kl, loss, agreement, rank, _) in enumerate(scores):
        if np.isnan(kl).any():
            continue
        measured = {
            "kl": boot.mean(kl),
            "loss": boot.mean(loss),
            "agreement": boot.mean(agreement, kind="share"),
            "median_rank": boot.median(rank),
        }
        fields: dict[str, Any] = {}
        for name, interval in measured.items():
            fields |= estimated(name, interval)
        if layer < len(reliabilities):
            here = reliabilities[layer]
            fields |= {
                "cosine": here.cosine,
                "overlap": here.overlap,
                "texts_needed": here.texts_needed,
            }
        record = LayerRecord(
            kind=kind, layer=layer - 1, n_texts=boot.n_clusters, n_tokens=len(kl), **fields
        )
        records.append(record)
    return records


def reliability_records(reliabilities: Sequence[Reliability]) -> list[ReliabilityRecord]:
    """The reliability of every layer's Jacobian as texts were added."""
    records = []
    for layer, here in enumerate(reliabilities):
        for texts, value in here.curve:
            records.append(ReliabilityRecord(layer=layer - 1, texts=texts, reliability=value))
    return records


def random_models(subject: Subject, inputs: LensInputs) -> list[LayerRecord]:
    """The logit lens of the same architecture with random weights, against its own predictions."""
    options = inputs.options
    logit = {"logit": Lens("logit")}
    records = []
    for number in range(options.random_models):
        twin = subject.random_twin(options.seed + number)
        scores = scores_of(twin, logit, inputs.test, options.batch_tokens)
        records += layer_records("logit, random weights", scores["logit"], options.seed)
        del twin  # before the next one is drawn
    return records


def test_notes(texts: int, comparisons: int) -> list[Note]:
    """What so few held-out texts cannot show."""
    notes = []
    if few := few_clusters(texts, "held-out texts"):
        notes.append(Note(kind="warning", text=f"only {few}"))
    floor = floor_of(texts, comparisons)
    if comparisons and floor.silent:
        text = (
            f"with {texts} held-out texts the smallest possible p is {floor.p:.2g}: "
            "no comparison of lenses can reach 0.05 after Holm's correction over "
            f"{comparisons}"
        )
        notes.append(Note(kind="warning", text=text))
    return notes


def compared(
    scores: Mapping[str, Scores], kinds: Sequence[str], seed: int
) -> list[ComparisonRecord]:
    """Every two lenses, paired over texts, at every layer that both read; Holm over all."""
    texts = scores[kinds[0]][0, 4].astype(int)
    boot = ClusterBootstrap(texts, seed=seed)
    if boot.n_clusters < TESTABLE:
        return []
    places, columns = [], []
    for a, b in itertools.combinations(kinds, 2):
        differences = scores[b][:, 0] - scores[a][:, 0]
        for layer, values in enumerate(differences):
            if np.isnan(values).any():
                continue
            places.append((a, b, layer))
            columns.append(values)
    if not places:
        return []
    averaged = mean_effects(np.column_stack(columns), boot, seed=seed)
    corrected = holm(averaged.p.tolist())
    records = []
    for number, (a, b, layer) in enumerate(places):
        record = ComparisonRecord(
            a=a,
            b=b,
            layer=layer - 1,
            **estimated("difference", averaged.interval(number)),
            p=float(averaged.p[number]),
            p_holm=corrected[number],
        )
        records.append(record)
    return records
