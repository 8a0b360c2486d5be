"""Circuits of heads from the weights: shares of all heads, token pairs of some,
composition between heads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ...lenses.circuits import (
    Heads,
    Pair,
    TokenSides,
    all_heads,
    composition_scores,
    ov_factors,
    ov_shares,
    qk_factors,
    qk_shares,
    token_sides,
    top_pairs,
)
from ...lenses.streams import LensError
from ...report.schema import Note
from ...subject import Subject
from .reading import shown_token
from .records import CircuitRecord, CompositionRecord, PairRecord

PAIRS = 10
"""Token pairs of a circuit."""
STRONGEST = 50
"""Compositions of each kind that are kept."""
HEAD = re.compile(r"L?(?P<layer>\d{1,9})(?:\.|H)(?P<head>\d{1,9})")


def parsed_heads(words: Sequence[str], subject: Subject) -> set[tuple[int, int]]:
    """(block, head) of each word, 5.3 or L5H3.

    Raises:
        LensError: no head, or one that the model does not have.
    """
    n_heads = int(getattr(subject.config, "num_attention_heads", 0) or 0)
    chosen = set()
    for word in words:
        match = HEAD.fullmatch(word)
        if match is None:
            raise LensError(f"--head: expected LAYER.HEAD such as 5.3, got {word!r}")
        layer, head = int(match["layer"]), int(match["head"])
        if layer >= subject.n_layers or head >= n_heads:
            raise LensError(
                f"--head {word}: {subject.name} has {subject.n_layers} blocks of {n_heads} "
                "heads, from 0"
            )
        chosen.add((layer, head))
    return chosen


@torch.no_grad()
def circuits_of(
    subject: Subject, chosen: set[tuple[int, int]], notes: list[Note]
) -> tuple[list[CircuitRecord], list[CompositionRecord]]:
    """Every head's circuits, with token pairs of the chosen ones, and the strongest compositions.

    Raises:
        LensError: a family whose heads are no products of weights.
    """
    heads = all_heads(subject)
    if unread := sorted(layer for layer, _ in chosen if layer not in heads):
        raise LensError(f"--head {unread[0]}: this block of {subject.name} has no attention")
    circuits = []
    tokens: TokenSides | None = None
    for layer, block in heads.items():
        tokens = token_sides(subject, block) if tokens is None else tokens
        shares = zip(ov_shares(block, tokens), qk_shares(block, tokens), strict=True)
        for head, (ov, qk) in enumerate(shares):
            is_chosen = (layer, head) in chosen
            record = CircuitRecord(
                layer=layer,
                head=head,
                ov_share=ov,
                qk_share=qk,
                ov_pairs=_pairs(subject, ov_factors(block, head, tokens)) if is_chosen else [],
                qk_pairs=_pairs(subject, qk_factors(block, head, tokens)) if is_chosen else [],
            )
            circuits.append(record)
    return circuits, _compositions(subject, heads, notes)


def _pairs(subject: Subject, factors: tuple[Tensor, Tensor] | None) -> list[PairRecord]:
    """The largest entries of a circuit, with their tokens."""
    pairs: list[Pair] = [] if factors is None else top_pairs(*factors, PAIRS)
    records = []
    for pair in pairs:
        source, target = (shown_token(subject, token) for token in (pair.source, pair.target))
        records.append(PairRecord(source=source, target=target, value=pair.value))
    return records


def _compositions(
    subject: Subject, heads: dict[int, Heads], notes: list[Note]
) -> list[CompositionRecord]:
    """The strongest pairs of heads of each kind of composition."""
    layers = sorted(heads)
    records = []
    for mode in "QKV":
        try:
            scores = composition_scores(heads, mode)
        except LensError as error:
            notes.append(Note(kind="skipped", text=f"{mode} composition: {error}"))
            continue
        n_heads = scores.shape[1]
        best = scores.flatten().topk(min(STRONGEST, scores.numel()))
        for score, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if score == 0:
                break  # only pairs of one block, or against the order, are left
            writer, reader = divmod(at, scores.shape[2] * n_heads)
            record = CompositionRecord(
                mode=mode,
                writer_layer=layers[writer // n_heads],
                writer_head=writer % n_heads,
                reader_layer=layers[reader // n_heads],
                reader_head=reader % n_heads,
                score=score,
                baseline=subject.d_model**-0.5,
            )
            records.append(record)
    return records
