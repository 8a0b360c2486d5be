"""A model continues a text: greedily or by sampling, several copies at a time,
with a generator of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..subject import Subject
from .questions import QuestionError


@torch.inference_mode()
def generate(
    subject: Subject,
    text: str,
    length: int,
    copies: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Continuations of a text, each up to its first line break, an end-of-text token, or ``length``
    tokens.

    Args:
        temperature: 0 takes the most probable token; else tokens are drawn from softmax(logits /
            temperature).

    Raises:
        QuestionError: a model that cannot continue a text, or a text that leaves no room.
    """
    if not subject.causal:
        raise QuestionError(
            f"{subject.name} sees what follows a token: expected a model that continues texts"
        )
    encoded = subject.encode([text])[0]
    if encoded.cut is not None or len(encoded) + length > subject.max_length:
        raise QuestionError(
            f"{text[:40]!r}... and {length} tokens are longer than the model's {subject.max_length}"
        )
    ends = _ends(subject)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([encoded.ids], device=subject.device)
    # One row is read alone: nothing is padded, so positions count themselves.
    out = subject.model(input_ids=ids, use_cache=True)
    cache, logits = out.past_key_values, out.logits[:, -1].expand(copies, -1)
    if copies > 1:
        # The prompt is read once, and its keys and values repeated.
        cache.batch_repeat_interleave(copies)
    rows: list[list[int]] = [[] for _ in range(copies)]
    live = [True] * copies
    for step in range(length):
        chosen = _choose(logits, temperature, generator)
        for k, token in enumerate(chosen.tolist()):
            if not live[k]:
                continue
            if token in ends:
                live[k] = False
                continue
            rows[k].append(token)
            # A line break before the first word is no end.
            live[k] = "\n" not in _text_of(subject, rows[k]).lstrip()
        if not any(live) or step == length - 1:
            break
        column = chosen[:, None].to(subject.device)
        out = subject.model(input_ids=column, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[:, -1]
    return [_first_line(_text_of(subject, row)) for row in rows]


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else ""


def _choose(
    logits: Tensor, temperature: float, generator: torch.Generator
) -> Int[Tensor, " copies"]:
    if temperature == 0:
        return logits.argmax(-1).cpu()
    probabilities = torch.softmax(logits.float().cpu() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _text_of(subject: Subject, row: list[int]) -> str:
    return str(subject.tokenizer.decode(row, skip_special_tokens=True))


def _ends(subject: Subject) -> set[int]:
    """Every token that ends a text or a turn."""
    declared: Any = getattr(getattr(subject.model, "generation_config", None), "eos_token_id", None)
    ends = set(declared if isinstance(declared, list) else [declared]) | {
        subject.tokenizer.eos_token_id,
        subject.bos,
    }
    return {int(token) for token in ends if token is not None}
