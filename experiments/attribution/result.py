"""An attribution: a signed score for each unit of a text, with its error, its cost and notes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from ..report.schema import Note
from .question import Question, no_number
from .scorer import Cost
from .units import AttributionError


@dataclass(frozen=True)
class MethodScores:
    """The result of a method, before it is combined with its question.

    Args:
        scores: a number for each unit.
        errors: standard errors, where the method draws.
        value: the explained number for the whole text.
        baseline: the same where every unit is absent, where the method has such a state.
        inner: a number for each unit and each head, neuron or other part of a site, where one was
            asked for.
        figures: other results of the method.
    """

    scores: Float[np.ndarray, " units"]
    value: float
    errors: Float[np.ndarray, " units"] | None = None
    baseline: float | None = None
    inner: Float[np.ndarray, "units parts"] | None = None
    notes: tuple[Note, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)


def largest_share(
    scores: Float[np.ndarray, " units"], errors: Float[np.ndarray, " units"]
) -> float:
    """Largest standard error / largest absolute score: the stopping criterion of sampling."""
    largest, error = float(np.abs(scores).max()), float(errors.max())
    if error == 0:
        return 0.0
    return error / largest if largest > 0 else math.inf


@dataclass(frozen=True)
class Attribution:
    """The contribution of each unit of a text to a number that a model gives.

    Args:
        method: the method's name.
        text: the text.
        units: the words, tokens or spans.
        spans: each one's start and end in characters.
        scores: how much each one adds to the number, signed.
        errors: standard errors of the scores, if the method samples; 0 where the result is
            exact.
        target: what is explained, in words.
        unit: the number's unit (bits or nats).
        value: the number for the whole text.
        baseline: the number with every unit absent, where the method has such a state.
        cost: forwards, backwards and changed texts asked for.
        notes: what was joined, left out, approximated or did not converge.
        inner: a number for each unit and each part of a site (heads, neurons), where one was asked
            for.
        more: other results of the method: rules, curves, settings.
    """

    method: str
    text: str
    units: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    scores: Float[np.ndarray, " units"]
    errors: Float[np.ndarray, " units"] | None
    target: str
    unit: str
    value: float
    baseline: float | None
    cost: Cost
    notes: tuple[Note, ...]
    inner: Float[np.ndarray, "units parts"] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def top(self, n: int = 2) -> tuple[str, ...]:
        """The units with the largest scores, whatever their sign."""
        return tuple(self.units[i] for i in np.argsort(-np.abs(self.scores), kind="stable")[:n])

    def to_json(self) -> dict[str, Any]:
        """The record of a results file."""
        return {
            "method": self.method,
            "text": self.text,
            "units": list(self.units),
            "spans": [list(span) for span in self.spans],
            "scores": self.scores.tolist(),
            "errors": None if self.errors is None else self.errors.tolist(),
            "target": self.target,
            "unit": self.unit,
            "value": self.value,
            "baseline": self.baseline,
            "asked": self.cost.asked,
            "forwards": self.cost.forwards,
            "backwards": self.cost.backwards,
            "notes": list(self.notes),
            "inner": None if self.inner is None else self.inner.tolist(),
            "more": self.more,
        }


def joined(
    method: str, question: Question, result: MethodScores, cost: Cost, notes: tuple[Note, ...]
) -> Attribution:
    """Combine a method's scores with its question.

    Raises:
        AttributionError: a score that is not finite.
    """
    if not np.isfinite(result.scores).all():
        raise AttributionError(f"{method}: {no_number(question)}")
    return Attribution(
        method=method,
        text=question.text,
        units=question.units.texts,
        spans=question.units.spans,
        scores=result.scores,
        errors=result.errors,
        target=question.name,
        unit=question.unit,
        value=result.value,
        baseline=result.baseline,
        cost=cost,
        notes=(*question.notes, *notes, *result.notes),
        inner=result.inner,
        more=result.figures,
    )
