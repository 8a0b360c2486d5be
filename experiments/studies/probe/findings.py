"""What the probes of one property show, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.schema import Interval, is_above
from ...report.words import layer_label, runs
from .records import (
    ProbeRecord,
)


def _span(ends: Interval | None) -> str:
    """An interval inside a sentence, where there is one."""
    return f", 95% CI {ends.text()}" if ends else ""


def finding(records: Sequence[ProbeRecord]) -> str:
    """One paragraph in words, from the records of one property."""
    top = max(records, key=lambda record: record.score)
    first, last = records[0], records[-1]
    is_number = top.metric == "r2"
    metric = "R2" if is_number else "accuracy"
    text = (
        f"{top.property}: the {metric} of linear probes is highest at "
        f"{_best_layers(records)} ({top.score:.3f}{_span(top.score_interval)}). "
        f"It is {first.score:.3f} at {_place(first)}, the first that was read, "
        f"and {last.score:.3f} at {_place(last)}, the last."
    )
    if not is_number and not is_above(top.score_interval, top.majority):
        text += (
            f" The highest is not significantly above the most frequent class ({top.majority:.3f})."
        )
    if is_number and not is_above(top.score_interval, 0.0):
        text += " The highest is not significantly above a constant guess (0)."
    guess = "value" if is_number else "label"
    text += f" Guessing each word type's most frequent {guess} gives {top.type_majority:.3f}."
    if top.distance_majority is not None:
        text += (
            f" Guessing from the distance between the two words gives {top.distance_majority:.3f}."
        )
    if top.selectivity is not None:
        span = _span(top.selectivity_interval)
        text += (
            f" Selectivity at the best layer is {top.selectivity:.3f}{span}; "
            f"the control task reaches {top.control:.3f}."
        )
    if top.random_model is not None:
        text += f" The same layer of a random-weight model gives {top.random_model:.3f}."
    return text


def _place(record: ProbeRecord) -> str:
    """Where a record was read, for a sentence."""
    return "the embeddings" if record.layer < 0 else f"layer {record.layer}"


def _best_layers(records: Sequence[ProbeRecord]) -> str:
    """The set of best layers in words."""
    best = [i for i, record in enumerate(records) if record.best]
    names = runs(best, [layer_label(record.layer, record.site) for record in records])
    if names == "emb":
        return "the embeddings"
    return f"layer{'s' if len(best) > 1 else ''} {names}"
