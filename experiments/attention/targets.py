"""What the heads of an encoder-decoder attend to while it is given a target: a decoder's its own
earlier tokens and the source, and those of an encoder of sound the sound.

entropy     H(attention) / log(keys that a query sees), mean over the queries; 1 is uniform
            attention
confidence  largest weight, mean over the queries
previous    weight on the position before (a stack's own attention)
first       weight on the first position: the start token, or the first of the source
end         weight on the special tokens behind a text, or on the padding behind a sound
monotone    rank correlation of a token's place with the mean place that it attends to in the source
distance    mean distance of a frame to the frames of the sound that it attends to

The queries are the target's tokens; in an encoder of sound the frames of the sound. All statistics
are of positions, frame by frame; only what is drawn is pooled (`experiments.attention.frames`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Site, observe, sites
from ...probes.ranks import average_ranks
from ..subject import Subject
from ..subject.media import seconds_of
from ..subject.spoken import SpokenSubject
from ..subject.targets import cut_row, source_of
from ..subject.word_spans import Encoded
from .frames import Frames
from .passes import PATTERN

ENCODER = f"blocks.*.{PATTERN}"
DECODER, CROSS = "decoder_blocks.*.attn.hook_pattern", "decoder_blocks.*.cross_attn.hook_pattern"
PATTERNS = {"E": ENCODER, "D": DECODER, "X": CROSS}
"""The letter of a stack's heads, and where their patterns are."""
HeadValues = dict[str, Float[np.ndarray, " head"]]


@dataclass(frozen=True)
class TargetPatterns:
    """One source and target, and where every head looks.

    Args:
        source, target: tokens, as the encoder and the decoder read them; of a sound its spans.
        frames: of a sound.
        weights: a stack's letter -> its patterns as they are drawn, layer by layer.
        statistics: a stack's letter -> the statistics of its heads, layer by layer.
    """

    source: list[str]
    target: list[str]
    frames: Frames | None
    weights: Mapping[str, Float[np.ndarray, "layer head query key"]]
    statistics: Mapping[str, Mapping[str, Float[np.ndarray, "layer head"]]]


def target_patterns(subject: Subject, row: Encoded) -> TargetPatterns:
    """The patterns of one row of source and target, each reduced as its layer is computed."""
    frames = _frames(subject, row)
    letters = "DX" if frames is None else "EDX"
    if not any(not special for special in row.special[len(source_of(row)) :]):
        letters = letters.replace("DX", "")  # nothing is written: the sound alone is looked at
    names = {letter: sites(subject.model, PATTERNS[letter]) for letter in letters}
    letter_of = {name: letter for letter, of_stack in names.items() for name in of_stack}
    source, target = cut_row(row.ids)
    n_end = _n_end(row) if frames is None else frames.n_frames - frames.n_own
    drawn: dict[str, list[np.ndarray]] = {letter: [] for letter in letters}
    values: dict[str, list[HeadValues]] = {letter: [] for letter in letters}

    def see(site: Site, value: Tensor) -> None:
        letter = letter_of[str(site)]
        pattern = value[0].float().cpu().numpy()
        values[letter].append(_of_pattern(pattern, letter, n_end, frames))
        drawn[letter].append(_drawn(pattern, letter, frames))

    (batch,) = subject.batches([row])
    with torch.inference_mode(), observe(subject.model, *letter_of, see=see):
        subject.forward(batch, logits=True)
    statistics = {}
    for letter, of_layers in values.items():
        named = {name: [one[name] for one in of_layers] for name in of_layers[0]}
        statistics[letter] = {name: np.stack(layers) for name, layers in named.items()}
    return TargetPatterns(
        _spelled(subject, source) if frames is None else frames.labels,
        _spelled(subject, target),
        frames,
        {letter: np.stack(layers) for letter, layers in drawn.items()},
        statistics,
    )


def _frames(subject: Subject, row: Encoded) -> Frames | None:
    """The frames of a row whose source is a sound."""
    if row.sound is None or not isinstance(subject, SpokenSubject):
        return None
    path = source_of(row).text
    return Frames.of(row.sound.n_positions, seconds_of(path), subject.longest)


def _n_end(row: Encoded) -> int:
    """Special tokens behind the source."""
    special = source_of(row).special
    return next((i for i, is_special in enumerate(reversed(special)) if not is_special), 0)


def _drawn(
    pattern: Float[np.ndarray, "head query key"], letter: str, frames: Frames | None
) -> Float[np.ndarray, "head row column"]:
    """A pattern as it is drawn."""
    if frames is None or letter == "D":
        return pattern
    pooled = frames.pooled_keys(pattern)
    return frames.pooled_queries(pooled) if letter == "E" else pooled


def _spelled(subject: Subject, ids: Sequence[int]) -> list[str]:
    return [subject.token(token).replace("\u2581", " ").replace("\u0120", " ") for token in ids]


def head_statistics(
    texts: Sequence[TargetPatterns], letter: str
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Each statistic of the heads of a stack, mean over the texts that have it."""
    by_text = [text.statistics[letter] for text in texts if letter in text.statistics]
    return {name: np.mean([one[name] for one in by_text], axis=0) for name in by_text[0]}


def _of_pattern(
    pattern: Float[np.ndarray, "head query key"], letter: str, n_end: int, frames: Frames | None
) -> HeadValues:
    """The statistics of the heads of one layer."""
    n_own = pattern.shape[-1] - n_end
    # The padding behind a sound asks nothing.
    weights = pattern[:, :n_own] if letter == "E" else pattern
    weights = weights.astype(np.float64)
    n_queries, n_keys = weights.shape[-2:]
    # Of its own text a token sees those before it, of the source all.
    visible = np.arange(1, n_queries + 1) if letter == "D" else np.full(n_queries, n_keys)
    nats = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1)
    has_choice = visible > 1
    entropy = np.zeros(len(weights))
    if has_choice.any():
        entropy = (nats[:, has_choice] / np.log(visible[has_choice])).mean(-1)
    values = {
        "entropy": entropy,
        "confidence": weights.max(-1).mean(-1),
        "first": weights[..., 0].mean(-1),
    }
    if letter in "ED":
        rows = np.arange(1, n_queries)
        values["previous"] = weights[:, rows, rows - 1].mean(-1) if len(rows) else entropy * 0
    if letter in "EX":
        values["end"] = weights[..., n_own:].sum(-1).mean(-1) if n_end else entropy * 0
    if letter == "X":
        values["monotone"] = _monotone(weights if frames is None else _within(weights[..., :n_own]))
    if letter == "E" and frames is not None:
        places = np.arange(n_own)
        steps = np.abs(places - places[:, None]) * frames.seconds_a_frame
        values["distance"] = (_within(weights[..., :n_own]) * steps).sum(-1).mean(-1)
    return values


def _within(weights: Float[np.ndarray, "head query key"]) -> Float[np.ndarray, "head query key"]:
    """Weights as shares of those on these keys alone."""
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)


def _monotone(weights: Float[np.ndarray, "head query key"]) -> Float[np.ndarray, " head"]:
    """0 where the target has one token, or the attended place does not move."""
    n_queries, n_keys = weights.shape[-2:]
    places = np.apply_along_axis(average_ranks, -1, weights @ np.arange(n_keys))
    steps = np.arange(1, n_queries + 1)
    moved, order = places - places.mean(-1, keepdims=True), steps - steps.mean()
    scale = np.sqrt((moved**2).sum(-1) * (order**2).sum())
    return np.divide((moved * order).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)
