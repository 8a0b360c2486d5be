"""Run one attribution method on one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..subject import Subject
from ..subject.medium import Medium
from .asking import ask
from .methods import method_named
from .options import Options
from .question import Target
from .result import Attribution, joined
from .scorer import Scorer
from .units import AttributionError

FORMER = {"hidden": "value"}
"""Renamed settings: the earlier name and the present one."""


def attribute(
    subject: Subject,
    text: str,
    *,
    target: Target | str | None = None,
    method: str = "leave-one-out",
    level: str = "word",
    seed: int = 0,
    spans: Sequence[tuple[int, int]] | None = None,
    pair: str | None = None,
    picture: Medium | None = None,
    sound: Medium | None = None,
    batch_tokens: int = 2048,
    **settings: Any,
) -> Attribution:
    """Score the contribution of each word, token or span of a text to the model's answer.

    Args:
        subject: a causal or masked language model, a text classifier, or any model if the target
            names a saved probe for it.
        target: a continuation, a class, a label, or a `Target`; the default is the model's own
            answer.
        method: a name in `METHODS`.
        level: word, token or span.
        seed: the seed of every random draw.
        spans: (start, end) of each unit in characters, for the level ``span``; the default is
            the clauses.
        pair: the second text, for a classifier of text pairs.
        picture: the image input of a vision-language model; its patches are the first units.
        sound: the input of a speech model, which has no input text (``text`` is the path of the
            sound). Its spans are the first units, followed by the words at the beginning of
            the target.
        batch_tokens: number of tokens of perturbed texts in one batch.
        settings: fields of `Options`.

    Raises:
        AttributionError: an unknown method or setting, a text that is empty or too long, or an
            invalid target.
        MetricError: an answer whose tokens merge with those of the text.
    """
    question = ask(subject, text, target, level, spans, pair, picture or sound)
    return explain(Scorer(question, batch_tokens), method, seed=seed, **settings)


def explain(scorer: Scorer, method: str = "leave-one-out", **settings: Any) -> Attribution:
    """Run one method on a question.

    Methods that share a scorer reuse its results. The cost counts only new computation.

    Args:
        settings: fields of `Options`.
    """
    chosen = method_named(method)
    settings = {FORMER.get(name, name): value for name, value in settings.items()}
    if unknown := sorted(set(settings) - set(Options.__dataclass_fields__)):
        raise AttributionError(
            f"setting {unknown[0]!r}: expected one of {', '.join(Options.__dataclass_fields__)}"
        )
    before = scorer.cost
    scores = chosen(scorer, Options(**settings))
    return joined(method, scorer.question, scores, scorer.cost - before, tuple(scorer.notes))
