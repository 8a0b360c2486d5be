"""A language model's confidence in the next token of plain texts,
at every position that a token follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..subject import Subject
from ..subject.word_spans import Encoded
from .questions import QuestionError
from .reliability import Judged

SHOWN = 60
"""Letters of the text in front of a token that name its row."""


@dataclass(frozen=True)
class NextTokens:
    """One row for each token of the texts that has something in front of it.

    Args:
        confidence: p of the most probable token there, ``is_right`` whether it is the one that
            follows.
        text: which text a row is of; rows of one text are resampled together.
        fronts, predicted, following: what stands in front, the most probable token, and the one
            that follows.
    """

    confidence: Float[np.ndarray, " n"]
    is_right: Bool[np.ndarray, " n"]
    text: Int[np.ndarray, " n"]
    fronts: Sequence[str]
    predicted: Sequence[str]
    following: Sequence[str]

    @property
    def judged(self) -> Judged:
        """What is judged of them."""
        return Judged("next token", self.confidence, self.is_right, self.text)


def encoded_texts(subject: Subject, texts: Sequence[str]) -> list[Encoded]:
    """The texts as the model reads them.

    Raises:
        QuestionError: a model that does not predict the next token, a text that is too long or has
            none to predict.
    """
    if not (subject.causal and subject.gives_tokens):
        raise QuestionError(
            "--text: expected a causal language model, which predicts the next token; "
            f"{subject.name} is none"
        )
    encoded = subject.encode(texts)
    for text in encoded:
        if text.cut is not None:
            raise QuestionError(
                f"--text {text.text[:40]!r}: longer than the model's {subject.max_length} tokens"
            )
        if not followed(text):
            raise QuestionError(
                f"--text {text.text[:40]!r}: expected at least 2 tokens, "
                "so that one can be predicted"
            )
    return encoded


def followed(text: Encoded) -> list[int]:
    """The places of a text's own tokens that have another token in front of them."""
    return [place for place in range(1, len(text)) if not text.special[place]]


def next_tokens(subject: Subject, texts: Sequence[Encoded], batch_tokens: int) -> NextTokens:
    """The most probable next token at every position of the texts, in their order."""
    best_of: list[list[tuple[float, int]]] = [[] for _ in texts]
    for batch in subject.batches(texts, tokens=batch_tokens):
        logits = subject.forward(batch, logits=True).logits
        for row, (number, shift) in enumerate(zip(batch.rows, batch.shifts, strict=True)):
            # The token at a place is predicted one position before it.
            before = [shift + place - 1 for place in followed(texts[number])]
            p, token = torch.softmax(logits[row, before].float(), dim=-1).max(-1)
            best_of[number] = list(zip(p.tolist(), token.tolist(), strict=True))
    confidence, is_right, of_text = [], [], []
    fronts, predicted, following = [], [], []
    for number, (text, best) in enumerate(zip(texts, best_of, strict=True)):
        for place, (p, token) in zip(followed(text), best, strict=True):
            confidence.append(min(p, 1.0))  # rounding may leave it a little above
            is_right.append(token == text.ids[place])
            of_text.append(number)
            fronts.append(text.text[: text.offsets[place][0]][-SHOWN:])
            predicted.append(subject.token(token))
            following.append(subject.token(text.ids[place]))
    return NextTokens(
        np.array(confidence), np.array(is_right), np.array(of_text), fronts, predicted, following
    )
