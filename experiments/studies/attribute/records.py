"""What ``layerscope attribute`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...report.schema import Interval, Note, StudyResults, entry, tidy

RANDOM = "random"
"""The method of the record that random attributions have."""
MEASURED = ("comprehensiveness", "sufficiency", "deletion", "insertion", "infidelity")
"""Measures of faithfulness that every record has."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What every record has: the text, what is explained of it, and how faithful the scores are."""

    item: int = entry("the text's number")
    method: str = entry("the method")
    text: str = entry("the text; a pair has two lines")
    target: str = entry("what is explained, in words")
    unit: str = entry("its unit: bits or nats")
    comprehensiveness: float = entry(
        "drop of the value without the top units, mean over shares; higher is better"
    )
    sufficiency: float = entry("drop of the value with only these units; lower is better")
    deletion: float = entry(
        "mean value while units are removed, highest score first; lower is better"
    )
    insertion: float = entry(
        "mean value while units are added, highest score first; higher is better"
    )
    infidelity: float = entry(
        "error in predicting the effect of removing random units, from 0 to 1; lower is better"
    )
    deleted: list[float] = entry(
        "value with 0, 10, ..., 100% of the units removed, highest score first"
    )
    inserted: list[float] = entry(
        "value with 0, 10, ..., 100% of the units there, the highest first"
    )
    measured_by: str = entry("the removal that the measures use")


@dataclass(frozen=True, kw_only=True)
class MethodRecord(Measured):
    """One method on one text."""

    units: list[str] = entry("the words, tokens or spans")
    spans: list[list[int]] = entry("start and end of each in characters")
    scores: list[float] = entry("signed contribution of each to the value", "the value's unit")
    errors: list[float] | None = entry("standard errors; null for methods without sampling")
    value: float = entry("the explained value, on the whole text")
    baseline: float | None = entry(
        "the value with all units removed, if the method has such a state"
    )
    asked: int = entry("changed texts that the method evaluated")
    forwards: int = entry("texts run through the model, each distinct one once")
    backwards: int = entry("texts for which a gradient was computed")
    notes: list[Note] = entry("what was joined, left out, approximated or is incomplete")
    inner: list[list[float]] | None = entry("scores by head, neuron or site, if requested")
    more: dict[str, Any] = entry("the method's own settings and figures")
    stability: float | None = entry(
        "rank correlation of the scores over seeds; null for methods that draw nothing"
    )
    sensitivity: float | None = entry(
        "largest relative change of the scores under small noise; null if not requested"
    )
    patches: int = entry(
        "how many of the first units are patches of the picture, row by row, or spans of the sound",
        default=0,
    )


@dataclass(frozen=True, kw_only=True)
class RandomRecord(Measured):
    """Random attributions of one text: the mean of their measures, and the extremes."""

    draws: int = entry("random attributions")
    comprehensiveness_interval: Interval = entry("lowest and highest draw")
    sufficiency_interval: Interval = entry("lowest and highest draw")
    deletion_interval: Interval = entry("lowest and highest draw")
    insertion_interval: Interval = entry("lowest and highest draw")
    infidelity_interval: Interval = entry("lowest and highest draw")


Record = MethodRecord | RandomRecord


@dataclass(frozen=True, kw_only=True)
class Flip:
    """The fewest words found whose change makes the model give another answer."""

    changes: list[tuple[int, str, str]] = entry("unit, its text and its replacement, in order")
    values: list[float] = entry(
        "the answer's lead over the other one, before and after each change", "nats"
    )
    flipped: bool = entry("whether the order of the two was reversed")
    other: int = entry("the index of the answer that it is compared with")


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A known text like this one."""

    text: str = entry("the known text")
    cosine: float = entry("cosine of the mean activations, centred on all known texts")
    label: str | None = entry("its label")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One text's explanations by example."""

    item: int = entry("the text's number")
    flip: Flip | None = entry("the changed words; null if not requested")
    nearest: list[Neighbour] = entry("the most similar reference texts")


@dataclass(frozen=True, kw_only=True)
class AnswerProbability:
    """One answer of the model."""

    answer: str = entry("a class, a label or a token")
    probability: float = entry(
        "by the softmax; by the sigmoid where a text may have several labels"
    )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model answers for one text, before anything is explained."""

    item: int = entry("the text's number")
    answers: list[AnswerProbability] = entry("the most likely answers, in order")
    labels: bool = entry("whether they are classes or labels; else tokens")
    gold: str | None = entry("the right label, where the file gives one", default=None)


@dataclass(frozen=True, kw_only=True)
class Modalities:
    """How much of one answer comes from the picture or the sound, and how much from the words."""

    item: int = entry("the text's number")
    kind: str = entry("picture or sound")
    value: float = entry("the explained value, with everything", "its unit")
    without_medium: float = entry("with all patches grey, or all spans silent", "its unit")
    without_words: float = entry("with all words removed", "its unit")
    without_both: float = entry("with both", "its unit")
    medium: float = entry(
        "Shapley value of the picture or the sound as one player of two: "
        "the mean of its contributions with and without the words",
        "its unit",
    )
    words: float = entry("the same of the words; both sum to value - without_both", "its unit")
    measured_by: str = entry("how words are removed")


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """A picture as the page shows it, and the grid of its patches."""

    item: int = entry("the text's number")
    file: str = entry("its file")
    rows: int = entry("rows of patches")
    columns: int = entry("columns of patches")
    width: int = entry("of the file", "pixels")
    height: int = entry("of the file", "pixels")
    jpeg: str = entry("the picture, made smaller, base64")


@dataclass(frozen=True, kw_only=True)
class ShownSound:
    """A sound as the page shows it, and its spans."""

    item: int = entry("the text's number")
    file: str = entry("its file")
    seconds: float = entry("its length", "s")
    spans: list[list[float]] = entry("start and end of each span", "s")
    loudness: list[float] = entry("largest size of a sample in each of equal stretches, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """Which words made the model give its answers."""

    records: list[MethodRecord | RandomRecord] = entry(
        "one for each text and method; random attributions last"
    )
    agreement: dict[str, dict[str, float | None]] = entry(
        "rank correlation of every two methods, mean over texts"
    )
    examples: list[Example] = entry("explanations by example, if requested")
    predictions: list[Prediction] = entry("the model's answer for each text", default=[])
    modalities: list[Modalities] = entry(
        "of texts with a picture or a sound, the share of each in the answer", default=[]
    )
    pictures: list[ShownPicture] = entry("the pictures that the model was shown", default=[])
    sounds: list[ShownSound] = entry("the sounds that the model heard", default=[])


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each unit that has a score: text, unit, place, method, score;
    for random scores a row with the measures.
    """
    plain = {name: value for name, value in record.items() if not isinstance(value, list)}
    plain.pop("more", None)
    plain = tidy(plain)
    plain["measured_in"] = plain.pop("unit", None)
    if "scores" not in record:
        return [plain]
    named = zip(record["units"], record["scores"], strict=True)
    return [
        {
            "text": record["text"],
            "unit": unit,
            "place": place,
            "method": record["method"],
            "score": score,
            **plain,
        }
        for place, (unit, score) in enumerate(named)
    ]
