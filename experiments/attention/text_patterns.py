"""Attention as a page shows it: every head's weights on a few texts, one byte each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import capture
from ..report.schema import entry
from ..subject import Subject
from ..subject.word_spans import Encoded
from .norms import VALUE, grams_of, norms
from .passes import PATTERN, layers_with_patterns
from .rollout_and_flow import flow, rollout

LENGTHS = (6, 32)
"""Tokens of a text that is pleasant to look at."""
MOST = 3 << 20
"""Weights that a page holds."""


def text_patterns(
    subject: Subject, texts: Sequence[Encoded], most: int = 1 << 20
) -> dict[str, Any] | None:
    """Every head's attention on the shortest of some texts; None for more than ``most`` weights.

    Returns:
        ``tokens``; ``layers`` that have a pattern; ``heads``; ``weights``, round(255 w), in the
        order layer, head, query, key, as base64.
    """
    shortest = min(texts, key=len)
    patterns, _ = _run(subject, shortest)
    if patterns.numel() > most:
        return None
    return {
        "tokens": spelled(subject, shortest),
        "layers": layers_with_patterns(subject.model),
        "heads": patterns.shape[1],
        "weights": as_bytes(patterns),
    }


@dataclass(frozen=True, kw_only=True)
class ShownText:
    """One text's patterns: round(255 x) of numbers from 0 to 1, a byte each, base64."""

    tokens: list[str] = entry("the tokens as the text has them")
    weights: str = entry("attention weights by layer, head, query, key")
    rollout: str = entry("rollout through all layers, by query and key")
    flow: str = entry("flow through all layers, by query and key", default="")
    norms: str = entry(
        "size of each key's value as a share of the head's largest, by layer, head, key", default=""
    )


@dataclass(frozen=True, kw_only=True)
class ShownTexts:
    """Every head's attention on a few texts."""

    layers: list[int] = entry("blocks that have a pattern")
    heads: int = entry("heads of a layer")
    texts: list[ShownText] = entry("the texts")


def shown_texts(
    subject: Subject, texts: Sequence[Encoded], count: int, with_flow: bool = False
) -> ShownTexts:
    """Every head's attention on the first texts of a length that is pleasant to look at, as many as
    a page holds.

    Args:
        count: texts at most.
        with_flow: also the flow through all layers, which takes its time.
    """
    # Patterns grow with the square of the length, times layers and heads.
    texts_of_length = [text for text in texts if LENGTHS[0] <= len(text) <= LENGTHS[1]]
    pleasant = texts_of_length or [min(texts, key=len)]
    room, heads = MOST, 0
    pages: list[ShownText] = []
    for text in pleasant[:count]:
        patterns, sizes = _run(subject, text)
        room -= patterns.numel()
        heads = patterns.shape[1]
        if room < 0 and pages:
            break
        pages.append(_shown(subject, text, patterns, sizes, with_flow))
    return ShownTexts(layers=layers_with_patterns(subject.model), heads=heads, texts=pages)


def _shown(
    subject: Subject,
    text: Encoded,
    patterns: Float[Tensor, "layer head query key"],
    sizes: Float[Tensor, "layer head key"] | None,
    with_flow: bool,
) -> ShownText:
    weights = patterns.double().numpy()
    # Each head's largest is 1: pages compare positions, not heads.
    shares = None if sizes is None else sizes / sizes.amax(-1, keepdim=True).clamp(min=1e-12)
    return ShownText(
        tokens=spelled(subject, text),
        weights=as_bytes(patterns),
        rollout=as_bytes(torch.from_numpy(rollout(weights))),
        flow=as_bytes(torch.from_numpy(flow(weights))) if with_flow else "",
        norms="" if shares is None else as_bytes(shares),
    )


def spelled(subject: Subject, text: Encoded) -> list[str]:
    """The tokens as the text has them, white space in front of a word with its first token;
    special ones by name.
    """
    pieces = []
    for token, (start, end), special in zip(text.ids, text.offsets, text.special, strict=True):
        piece = text.text[start:end]
        if special or not piece.strip():
            pieces.append(subject.token(token))
            continue
        follows_space = start > 0 and text.text[start - 1].isspace()
        pieces.append(" " + piece if follows_space else piece)
    return pieces


def as_bytes(values: Tensor) -> str:
    """Numbers from 0 to 1, round(255 x), as base64."""
    as_integers = (255 * values).round().to(torch.uint8)
    return base64.b64encode(as_integers.numpy().tobytes()).decode()


def _run(
    subject: Subject, text: Encoded
) -> tuple[Float[Tensor, "layer head query key"], Float[Tensor, "layer head key"] | None]:
    """One text's patterns, and the sizes of its values' contributions where they are known."""
    layers = layers_with_patterns(subject.model)
    (batch,) = subject.batches([text])
    patterns_at = [f"blocks.{layer}.{PATTERN}" for layer in layers]
    values_at = [f"blocks.{layer}.{VALUE}" for layer in layers]
    grams = grams_of(subject.model, layers)
    names = [*patterns_at, *values_at] if grams else patterns_at
    with torch.inference_mode(), capture(subject.model, *names) as acts:
        subject.forward(batch)
    patterns = torch.stack([acts[name][0].float().cpu() for name in patterns_at])
    if not grams:
        return patterns, None
    sizes = [norms(acts[name], gram)[0] for name, gram in zip(values_at, grams, strict=True)]
    return patterns, torch.stack(sizes).cpu()
