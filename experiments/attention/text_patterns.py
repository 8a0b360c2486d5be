"""Attention as a page shows it: every head's weights on a few texts, one byte each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import capture
from ..subject import Subject
from ..subject.word_spans import Encoded
from . import paths
from .norms import VALUE, grams_of, norms
from .passes import PATTERN, layers_with_patterns

LENGTHS = (6, 32)
"""Tokens of a text that is pleasant to look at."""
MOST = 3 << 20
"""Weights that a page holds."""


def text_patterns(subject: Subject, texts: Sequence[Encoded], most: int = 1 << 20) -> dict[str, Any] | None:
    """Every head's attention on the shortest of some texts; None for more than ``most`` weights.

    Returns:
        ``tokens``; ``layers`` that have a pattern; ``heads``; ``weights``, round(255 w), in the order layer, head, query,
        key, as base64.
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


def shown_texts(subject: Subject, texts: Sequence[Encoded], count: int, with_flow: bool = False) -> dict[str, Any]:
    """Every head's attention on the first texts of a length that is pleasant to look at.

    Returns:
        ``layers``, ``heads``, and for each of ``texts`` its ``tokens``, ``weights`` as in `text_patterns`, ``norms`` (layer,
        head, key: ‖v W_O‖ as a share of the head's largest; absent where it is not known) and the paths through all layers
        that were asked for, ``rollout`` and ``flow`` (query, key).
    """
    pleasant = [text for text in texts if LENGTHS[0] <= len(text) <= LENGTHS[1]] or [min(texts, key=len)]
    layers, n_heads, room = layers_with_patterns(subject.model), 0, MOST
    shown: list[dict[str, Any]] = []
    for text in pleasant[:count]:
        patterns, sizes = _run(subject, text)
        room, n_heads = room - patterns.numel(), patterns.shape[1]
        if room < 0 and shown:
            break
        weights = patterns.double().numpy()
        one = {
            "tokens": spelled(subject, text),
            "weights": as_bytes(patterns),
            "rollout": as_bytes(torch.from_numpy(paths.rollout(weights))),
        }
        if with_flow:
            one["flow"] = as_bytes(torch.from_numpy(paths.flow(weights)))
        if sizes is not None:
            one["norms"] = as_bytes(sizes / sizes.amax(-1, keepdim=True).clamp(min=1e-12))
        shown.append(one)
    return {"layers": layers, "heads": n_heads, "texts": shown}


def spelled(subject: Subject, text: Encoded) -> list[str]:
    """The tokens as the text has them, white space in front of a word with its first token; special ones by name."""
    out = []
    for token, (start, end), special in zip(text.ids, text.offsets, text.special, strict=True):
        piece = text.text[start:end]
        if special or not piece.strip():
            out.append(subject.token(token))
        else:
            out.append((" " if start and text.text[start - 1].isspace() else "") + piece)
    return out


def as_bytes(values: Tensor) -> str:
    """Numbers from 0 to 1, round(255 x), as base64."""
    return base64.b64encode((255 * values).round().to(torch.uint8).numpy().tobytes()).decode()


def _run(
    subject: Subject, text: Encoded
) -> tuple[Float[Tensor, "layer head query key"], Float[Tensor, "layer head key"] | None]:
    """One text's patterns, and the sizes of its values' contributions where they are known."""
    layers = layers_with_patterns(subject.model)
    (batch,) = subject.batches([text])
    looks, values = ([f"blocks.{n}.{part}" for n in layers] for part in (PATTERN, VALUE))
    grams = grams_of(subject.model, layers)
    with torch.inference_mode(), capture(subject.model, *looks, *(values if grams else ())) as acts:
        subject.forward(batch)
    patterns = torch.stack([acts[name][0].float().cpu() for name in looks])
    if not grams:
        return patterns, None
    return patterns, torch.stack([norms(acts[name], g)[0] for name, g in zip(values, grams, strict=True)]).cpu()
