"""What a model answers for a text, before anything is explained: its likeliest classes,
labels or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .question import Question, clean_logits, spelled_token

MOST = 10
"""Answers of a text that are kept, the likeliest."""


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Args:
        answer: a class, a label, or a token as it stands in a text.
        probability: by the softmax; by the sigmoid where a text may have several labels.
    """

    answer: str
    probability: float


def predictions(question: Question, most: int = MOST) -> list[Prediction]:
    """The likeliest answers to a question about the whole text, the likeliest first; of a
    continuation the first token.

    A model that gives one number has no probabilities, and none are returned.
    """
    if len(question.labels) == 1:
        return []
    part = question.parts[0]
    logits = clean_logits(question, part)[part.slots[0]]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Labels that do not exclude each other have a probability each.
    probabilities = wide.softmax(-1) if question.excludes else wide.sigmoid()
    best = probabilities.topk(min(most, len(probabilities)))
    return [
        Prediction(question.labels[i] if question.labels else spelled_token(question.subject, i), p)
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
