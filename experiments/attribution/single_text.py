"""One method on one text."""

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
"""Settings that had another name in an earlier version."""


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
    """The contribution of each word, token or span of a text to the model's answer.

    Args:
        subject: a causal or masked language model, a classifier of texts, or any model whose saved
            probe the target names.
        target: a continuation, a class, a label, or a `Target`; by default what the model itself
            says.
        method: a name of `METHODS`.
        level: word, token or span.
        seed: everything drawn comes from it.
        spans: (start, end) in characters of each unit, for the level ``span``; by default the
            clauses.
        pair: the second text of a classifier of pairs.
        picture: that a vision-language model is shown with the text; its patches are the first
            units.
        sound: that a speech model hears, which is then no text (the text is its path): its spans
            are the first units, behind them the words of the target's beginning.
        batch_tokens: tokens of the changed texts that share a batch.
        settings: fields of `Options`.

    Raises:
        AttributionError: an unknown method or setting, an empty text, one too long, a target that
            cannot be asked for.
        MetricError: an answer whose tokens join the text's.
    """
    question = ask(subject, text, target, level, spans, pair, picture or sound)
    return explain(Scorer(question, batch_tokens), method, seed=seed, **settings)


def explain(scorer: Scorer, method: str = "leave-one-out", **settings: Any) -> Attribution:
    """One method on a question; methods that share a scorer share what it has computed, which the
    cost then does not count.

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
