"""Explanations by example: the fewest words whose change makes the model say something else,
and known texts like this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...hooks import capture
from ..subject import Subject
from ..subject.targets import as_target, in_target
from ..subject.word_spans import pool_words
from .lookups import PIECE, embedding, ordinary_tokens
from .question import Part, Question, clean_logits
from .scorer import Row, Scorer
from .slope import Slope
from .units import AttributionError

CANDIDATES = 20
"""Replacements of each word that are tried, those whose gradient promises most."""


@dataclass(frozen=True)
class Flip:
    """Words changed until the model says something else.

    Args:
        changes: (unit, its text, what took its place), in the order in which they were made.
        values: the answer's lead over the other one, before and after each change.
        flipped: whether the order of the two was reversed.
        other: the answer that it was compared with, by its index.
    """

    changes: tuple[tuple[int, str, str], ...]
    values: tuple[float, ...]
    flipped: bool
    other: int


def flip(scorer: Scorer, most: int = 3) -> Flip:
    """Greedy word flips: of all replacements that the gradient proposes, the one that costs the
    answer's lead most.

    Units of one token are changed for other tokens of the vocabulary. Without a wrong answer the
    runner-up is what the answer is compared with. Source: Ebrahimi et al. 2018 (HotFlip), with the
    change measured, not estimated.

    Args:
        most: how many words may change.

    Raises:
        AttributionError: see `flippable`.
    """
    question = scorer.question
    part = flippable(question)
    if len(part.classes) == 1:
        part = _against_runner_up(question, part)
        question = replace(question, parts=(part,), measure="logit")
        scorer = Scorer(question, scorer.batch_tokens)
    ordinary = torch.tensor(ordinary_tokens(question.subject))
    # A word of several tokens cannot be changed one token at a time: what is between is no word.
    free = {places[0]: unit for unit, places in enumerate(part.tokens) if len(places) == 1}
    values = [float(scorer([Row(part.ids, part.reads)], part)[0])]
    changes: list[tuple[int, str, str]] = []
    while values[-1] >= 0 and len(changes) < most and free:
        # The gradient only proposes; each proposal is run: a word is too large a step for a
        # straight line.
        candidates = _candidates(scorer, part, list(free), ordinary)
        rows = [Row(_with_token(part.ids, at, token), part.reads) for at, token in candidates]
        measured = scorer(rows, part)
        best = int(measured.argmin())
        if measured[best] >= values[-1]:  # no replacement costs the answer anything
            break
        at, token = candidates[best]
        unit = free.pop(at)
        word = question.subject.tokenizer.decode([token]).strip()
        changes.append((unit, question.units.texts[unit], word or question.subject.token(token)))
        values.append(float(measured[best]))
        part = replace(part, ids=rows[best].ids)
    return Flip(tuple(changes), tuple(values), values[-1] < 0, part.classes[1])


def _against_runner_up(question: Question, part: Part) -> Part:
    """The lead of the part's answer over the most probable other one."""
    answer = part.classes[0]
    logits = clean_logits(question, part)[part.slots[0]].clone()
    logits[answer] = -torch.inf
    rival = int(logits.argmax())
    return replace(part, slots=part.slots * 2, classes=(answer, rival), weights=(1.0, -1.0))


def _candidates(
    scorer: Scorer, part: Part, positions: Sequence[int], tokens: Int[Tensor, " tokens"]
) -> list[tuple[int, int]]:
    """At each position the tokens whose vectors promise to lower the value most, to first order."""
    slope = Slope(scorer, part)
    gradient = slope.at(slope.clean()[None])[1][0].float()
    n_best = min(CANDIDATES, len(tokens))
    candidates = []
    for side in (False, True):
        of_side = [at for at in positions if in_target(part.ids[at]) == side]
        if not of_side:
            continue
        # The token's own vector is the same for all that may take its place.
        promised = []
        for ids in tokens.split(PIECE):
            vectors = embedding(scorer.subject, ids, side).float()
            promised.append(slope.in_width(vectors) @ gradient[of_side].T)
        best = torch.cat(promised).topk(n_best, dim=0, largest=False).indices
        for at, of_position in zip(of_side, best.T.cpu(), strict=True):
            candidates += [(at, token) for token in tokens[of_position].tolist()]
    return candidates


def _with_token(ids: tuple[int, ...], at: int, token: int) -> tuple[int, ...]:
    token = as_target(token) if in_target(ids[at]) else token
    return (*ids[:at], token, *ids[at + 1 :])


def flippable(question: Question) -> Part:
    """The one part of a question whose answer can flip.

    Raises:
        AttributionError: an answer, or a wrong one, of several tokens.
    """
    part = question.parts[0]
    if question.medium is not None:
        raise AttributionError(
            f"word flips: expected a text without a {question.medium.kind} (--flips 0)"
        )
    if len(question.parts) > 1 or part.weights not in ((1.0,), (1.0, -1.0)):
        raise AttributionError(
            f"word flips: expected answers of one token, got the {question.name}"
        )
    return part


@dataclass(frozen=True)
class Neighbour:
    """A known text, its cosine to this one in the space of activations, and its label."""

    text: str
    cosine: float
    label: str | None


def nearest(
    subject: Subject, text: str, known: Sequence[tuple[str, str | None]], site: str, n: int = 5
) -> list[Neighbour]:
    """The known texts, with their labels, whose mean activation at a site is most like this text's,
    centred on them all.

    Args:
        known: texts and labels, such as the training set of a probe.
        site: whose activations are compared.
    """
    if len(known) < 2:
        raise AttributionError(
            f"nearest examples: expected at least 2 known texts, got {len(known)}"
        )
    vectors = _means(subject, [text, *(t for t, _ in known)], site)
    # Without the mean all texts would be alike: activations share a large common part.
    centred = torch.nn.functional.normalize(vectors - vectors[1:].mean(0), dim=1)
    cosines = centred[1:] @ centred[0]
    order = cosines.argsort(descending=True, stable=True)[:n].tolist()
    return [Neighbour(known[i][0], float(cosines[i]), known[i][1]) for i in order]


def _means(subject: Subject, texts: Sequence[str], site: str) -> Float[Tensor, "texts d"]:
    """Each text's mean over its own tokens."""
    encoded = subject.encode(texts)
    spans: list[list[slice | None]] = []
    for text in encoded:
        words = [i for i, special in enumerate(text.special) if not special]
        if not words:
            raise AttributionError(f"expected a text with words, got {text.text[:40]!r}")
        # Special tokens are the same in every text, and would make all texts alike.
        spans.append([slice(words[0], words[-1] + 1)])
    rows: dict[int, Tensor] = {}
    for batch in subject.batches(encoded):
        with capture(subject.model, site, stop=True) as acts:
            subject.forward(batch)
        (name,) = acts
        value = acts[name]
        pooled = pool_words(value.flatten(2), batch.spans(spans)).float().cpu()
        rows |= dict(zip(batch.rows, pooled, strict=True))
    return torch.stack([rows[i] for i in range(len(encoded))])
