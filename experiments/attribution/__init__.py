"""Attribution: which words of a text made a model say what it says.

>>> from layerscope.experiments.attribution import attribute  # doctest: +SKIP
>>> found = attribute(subject, "The keys to the cabinet", target=" are", method="kernel-shap")  # doctest: +SKIP
>>> dict(zip(found.units, found.scores))  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..subject import Subject
from . import discretised, gradients, hidden, perturbation, relevance, shapley, surrogates
from .game import REMOVALS, Game
from .options import Options
from .question import Question, Target, ask
from .result import Attribution, Found, joined
from .scorer import Cost, Scorer
from .units import LEVELS, AttributionError, Units, find_units

__all__ = [
    "LEVELS",
    "METHODS",
    "REMOVALS",
    "Attribution",
    "AttributionError",
    "Cost",
    "Found",
    "Game",
    "Options",
    "Question",
    "Scorer",
    "Target",
    "Units",
    "ask",
    "attribute",
    "explain",
    "find_units",
]

Method = Callable[[Scorer, Options], Found]


def _of_game(method: Callable[[Game, Options], Found]) -> Method:
    """A method of a text with units absent."""

    def run(scorer: Scorer, options: Options) -> Found:
        return method(Game(scorer, options.removal, options.seed, options.draws, options.proposals), options)

    return run


METHODS: dict[str, Method] = {
    "leave-one-out": _of_game(perturbation.leave_one_out),
    "windows": _of_game(perturbation.windows),
    "input-reduction": _of_game(perturbation.input_reduction),
    "hidden-out": hidden.hidden_out,
    "saliency": gradients.saliency,
    "grad-input": gradients.grad_input,
    "ig": gradients.integrated,
    "dig": discretised.discretised,
    "smoothgrad": gradients.smoothgrad,
    "conductance": gradients.conductance,
    "lrp": relevance.lrp,
    "cp-lrp": partial(relevance.lrp, attention="cp-lrp"),
    "deep-taylor": partial(relevance.lrp, attention="cp-lrp", rule="zplus"),
    "chefer": relevance.chefer,
    "lime": _of_game(surrogates.lime),
    "tree": _of_game(surrogates.tree),
    "shapley": _of_game(shapley.exact),
    "kernel-shap": _of_game(shapley.kernel),
    "permutation-shap": _of_game(shapley.permutations),
}


def attribute(
    subject: Subject,
    text: str,
    *,
    target: Target | str | None = None,
    method: str = "leave-one-out",
    level: str = "word",
    seed: int = 0,
    spans: Sequence[tuple[int, int]] | None = None,
    batch_tokens: int = 2048,
    **settings: Any,
) -> Attribution:
    """How much each word, token or span of a text adds to what the model says.

    Args:
        subject: a causal or masked language model, a classifier of texts, or any model whose saved probe the target names.
        target: a continuation, a class, a label, or a `Target`; by default what the model itself says.
        method: a name of `METHODS`.
        level: word, token or span.
        seed: everything drawn comes from it.
        spans: (start, end) in characters of each unit, for the level ``span``; by default the clauses.
        batch_tokens: tokens of the changed texts that share a batch.
        settings: fields of `Options`.

    Raises:
        AttributionError: an unknown method or setting, an empty text, one too long, a target that cannot be asked for.
        MetricError: an answer whose tokens join the text's.
    """
    question = ask(subject, text, target, level, spans)
    return explain(Scorer(question, batch_tokens), method, seed=seed, **settings)


def method_named(name: str) -> Method:
    """A method of `METHODS`.

    Raises:
        AttributionError: there is none of that name.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise AttributionError(f"method {name!r}: expected one of {', '.join(METHODS)}{hint}")
    return METHODS[name]


def explain(scorer: Scorer, method: str = "leave-one-out", **settings: Any) -> Attribution:
    """One method on a question; methods that share a scorer share what it has computed, which the cost then does not count.

    Args:
        settings: fields of `Options`.
    """
    made = method_named(method)
    if unknown := sorted(set(settings) - set(Options.__dataclass_fields__)):
        raise AttributionError(f"setting {unknown[0]!r}: expected one of {', '.join(Options.__dataclass_fields__)}")
    before = scorer.cost
    found = made(scorer, Options(**settings))
    return joined(method, scorer.question, found, scorer.cost - before, tuple(scorer.notes))
