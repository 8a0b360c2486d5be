"""The most probable classes, labels or tokens of a model for the unchanged text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .question import Question, clean_logits, spelled_token

MOST = 10
"""Default number of answers kept per text."""


@dataclass(frozen=True)
class Prediction:
    """One answer and its probability.

    Args:
        answer: a class, a label, or a token as it is spelled in a text.
        probability: from a softmax, or from a sigmoid if a text may have several labels.
    """

    answer: str
    probability: float


def predictions(question: Question, most: int = MOST) -> list[Prediction]:
    """Return the most probable answers for the whole text, in descending order.

    For a continuation, these are candidates for its first token. A model with a single output
    number has no probabilities, so the list is empty.
    """
    if len(question.labels) == 1:
        return []
    part = question.parts[0]
    logits = clean_logits(question, part)[part.slots[0]]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Labels that are not mutually exclusive each have their own probability.
    probabilities = wide.softmax(-1) if question.excludes else wide.sigmoid()
    best = probabilities.topk(min(most, len(probabilities)))
    return [
        Prediction(question.labels[i] if question.labels else spelled_token(question.subject, i), p)
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
