"""What a decoder attends to while it is given a target: its own earlier tokens, and the source.

entropy     H(attention) / log(keys that a query sees), mean over the target's tokens; 1 is uniform
            attention
confidence  largest weight, mean over the target's tokens
previous    weight on the token before (the decoder's own attention)
first       weight on the first token: the start token, or the first of the source
end         weight on the special tokens behind the source (cross-attention)
monotone    rank correlation of a token's place with the mean place that it attends to in the source
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ...hooks import capture, sites
from ..subject import Subject
from ..subject.targets import cut_row, source_of
from ..subject.word_spans import Encoded

DECODER, CROSS = "decoder_blocks.*.attn.hook_pattern", "decoder_blocks.*.cross_attn.hook_pattern"
PATTERNS = {"D": DECODER, "X": CROSS}
"""The letter of a stack's heads, and where their patterns are."""


@dataclass(frozen=True)
class TargetPatterns:
    """One source and target, and where every head of the decoder looks.

    Args:
        source, target: tokens, as the encoder and the decoder read them.
        end: special tokens behind the source.
        weights: ``D`` and ``X`` -> the patterns, layer by layer.
    """

    source: list[str]
    target: list[str]
    end: int
    weights: Mapping[str, Float[np.ndarray, "layer head query key"]]


def target_patterns(subject: Subject, row: Encoded) -> TargetPatterns:
    """The patterns of one row of source and target."""
    names = {letter: sites(subject.model, where) for letter, where in PATTERNS.items()}
    (batch,) = subject.batches([row])
    every = [name for of_stack in names.values() for name in of_stack]
    with torch.inference_mode(), capture(subject.model, *every) as acts:
        subject.forward(batch, logits=True)
    weights = {}
    for letter, of_stack in names.items():
        stacked = torch.stack([acts[name][0].float().cpu() for name in of_stack])
        weights[letter] = stacked.numpy()
    source, target = cut_row(row.ids)
    special = source_of(row).special
    end = next((i for i, is_special in enumerate(reversed(special)) if not is_special), 0)
    return TargetPatterns(_spelled(subject, source), _spelled(subject, target), end, weights)


def _spelled(subject: Subject, ids: Sequence[int]) -> list[str]:
    return [subject.token(token).replace("\u2581", " ").replace("\u0120", " ") for token in ids]


def head_statistics(
    texts: Sequence[TargetPatterns], letter: str
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Each statistic of the heads of a stack, mean over texts."""
    by_text = [_of_text(text, letter) for text in texts]
    return {name: np.mean([one[name] for one in by_text], axis=0) for name in by_text[0]}


def _of_text(text: TargetPatterns, letter: str) -> dict[str, Float[np.ndarray, "layer head"]]:
    weights = text.weights[letter].astype(np.float64)
    n_queries, n_keys = weights.shape[-2:]
    # Of its own text a token sees those before it, of the source all.
    visible = np.arange(1, n_queries + 1) if letter == "D" else np.full(n_queries, n_keys)
    bits = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1)
    has_choice = visible > 1
    entropy = np.zeros(weights.shape[:2])
    if has_choice.any():
        entropy = (bits[..., has_choice] / np.log(visible[has_choice])).mean(-1)
    found = {
        "entropy": entropy,
        "confidence": weights.max(-1).mean(-1),
        "first": weights[..., 0].mean(-1),
    }
    if letter == "D":
        rows = np.arange(1, n_queries)
        found["previous"] = weights[..., rows, rows - 1].mean(-1) if len(rows) else entropy * 0
        return found
    behind = weights[..., n_keys - text.end :].sum(-1).mean(-1) if text.end else entropy * 0
    found["end"] = behind
    found["monotone"] = _monotone(weights)
    return found


def _monotone(
    weights: Float[np.ndarray, "layer head query key"],
) -> Float[np.ndarray, "layer head"]:
    """0 where the target has one token, or the attended place does not move."""
    from scipy.stats import rankdata

    n_queries, n_keys = weights.shape[-2:]
    places = rankdata(weights @ np.arange(n_keys), axis=-1)
    steps = np.arange(1, n_queries + 1)
    moved, order = places - places.mean(-1, keepdims=True), steps - steps.mean()
    scale = np.sqrt((moved**2).sum(-1) * (order**2).sum())
    return np.divide((moved * order).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)
