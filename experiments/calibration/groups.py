"""A classifier's answers compared between groups of rows: accuracy, confidence, and errors of each
kind.

    accuracy         share of the rows that are right
    overconfidence   mean confidence less accuracy
    predicted        share of the rows that are predicted to be the class
    false positives  share of the other classes' rows that are predicted to be the class
    false negatives  share of the class's rows that are predicted to be another

Of two classes the last three are of the positive one, else of each. Groups are compared in pairs,
of more than `MOST_PAIRED` each with all others; p is corrected over all comparisons of a column
(Holm).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from ...probes import calibration as cal
from ...probes.evaluation import Interval, holm
from ...probes.groups import group_difference, group_mean
from ..report.schema import Note, estimated
from .predictions import PredictionError, Predictions
from .records import GroupDifferenceRecord, GroupRecord
from .reliability import bootstrap

MOST_PAIRED = 5
"""Groups up to which all pairs are compared."""
MOST_GROUPS = 50
FEW = 10
"""Rows below which a group's numbers say little."""
REST = "all others"


@dataclass(frozen=True)
class _Measure:
    """A mean over some of the rows.

    Args:
        values: of each row.
        counted: the number of rows in the mean.
        label: the class that it is of; empty for all.
        share: whether the values are 0 and 1.
        confidence: of each row, where the values are confidences less right answers.
    """

    name: str
    values: Float[np.ndarray, " n"]
    counted: Bool[np.ndarray, " n"]
    label: str = ""
    share: bool = True
    confidence: Float[np.ndarray, " n"] | None = None


def positive_class(predictions: Predictions, positive: str | None) -> str | None:
    """Which of two classes errors are counted of: the one that is named, or the second; None for
    more classes.

    Raises:
        PredictionError: no such class.
    """
    classes = predictions.classes
    if positive is not None and positive not in classes:
        raise PredictionError(f"--positive {positive}: expected one of {', '.join(classes[:6])}")
    return positive or (classes[1] if len(classes) == 2 else None)


def compare_groups(
    predictions: Predictions, positive: str | None, bins: int, seed: int
) -> tuple[list[GroupRecord], list[GroupDifferenceRecord], list[Note]]:
    """Every measure of every group of every column, and the differences between groups.

    Raises:
        PredictionError: a column of one value or of too many, an unknown positive class.
    """
    records: list[GroupRecord] = []
    differences: list[GroupDifferenceRecord] = []
    notes: list[Note] = []
    label = positive_class(predictions, positive)
    measures = list(_measures(predictions, label))
    for column, values in predictions.by.items():
        of_row = np.array(values)
        groups = sorted(set(values))
        if not 1 < len(groups) <= MOST_GROUPS:
            raise PredictionError(
                f"--group-by {column}: expected 2 to {MOST_GROUPS} groups of rows, "
                f"got {len(groups)} ({', '.join(groups[:3])})"
            )
        for group in groups:
            rows = of_row == group
            of_group = [
                _record(column, group, measure, rows, predictions, seed) for measure in measures
            ]
            records += [record for record in of_group if record is not None]
            records += _ece(column, group, rows, predictions, bins, seed)
            if rows.sum() < FEW:
                text = f"{column} {group}: {int(rows.sum())} rows are too few for precise rates"
                notes.append(Note(kind="warning", text=text))
        differences += _differences(column, groups, of_row, measures, predictions, seed)
    return records, differences, notes


def _measures(predictions: Predictions, positive: str | None) -> Iterator[_Measure]:
    confidence, correct = cal.top_label(predictions.probabilities, predictions.labels)
    answered = predictions.probabilities.argmax(1)
    every = np.ones(len(predictions), bool)
    yield _Measure("accuracy", correct.astype(float), every)
    confidence = np.minimum(confidence, 1.0)
    gaps = confidence - correct
    yield _Measure("overconfidence", gaps, every, share=False, confidence=confidence)
    for k, name in enumerate(predictions.classes):
        if positive is not None and name != positive:
            continue
        is_class, says_class = predictions.labels == k, answered == k
        yield _Measure("predicted", says_class.astype(float), every, name)
        yield _Measure("false_positives", says_class.astype(float), ~is_class, name)
        yield _Measure("false_negatives", (~says_class).astype(float), is_class, name)


def _record(
    column: str,
    group: str,
    measure: _Measure,
    rows: Bool[np.ndarray, " n"],
    predictions: Predictions,
    seed: int,
) -> GroupRecord | None:
    """A measure of one group; None where it has no rows to count."""
    some = rows & measure.counted
    if not some.any():
        return None
    clusters, values = predictions.clusters[some], measure.values[some]
    if measure.confidence is None:
        mean = group_mean(values, clusters, share=measure.share, seed=seed)
    else:
        mean = _overconfidence(measure.confidence[some], values, clusters, seed)
    return _as_record(column, group, measure.name, measure.label, mean, some)


def _overconfidence(
    confidence: Float[np.ndarray, " n"],
    gaps: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    seed: int,
) -> Interval:
    """The mean of confidences less right answers (gaps), as of all rows."""
    correct = confidence - gaps > 0.5
    # The sum over bins is the same in one bin.
    one_bin = cal.Bins.of(confidence, 1)
    by_chance = cal.chance(confidence, one_bin, seed=seed, correct=correct, clusters=clusters)
    boot = bootstrap(np.unique(clusters, return_inverse=True)[1], seed)
    return cal.overconfidence_interval(confidence, correct, boot, by_chance)


def _ece(
    column: str,
    group: str,
    rows: Bool[np.ndarray, " n"],
    predictions: Predictions,
    bins: int,
    seed: int,
) -> list[GroupRecord]:
    """The calibration error of one group, with what chance alone gives;
    none of fewer rows than bins.
    """
    if rows.sum() < bins:
        return []
    clusters = np.unique(predictions.clusters[rows], return_inverse=True)[1]
    confidence, correct = cal.top_label(predictions.probabilities[rows], predictions.labels[rows])
    confidence = np.minimum(confidence, 1.0)
    cut = cal.Bins.of(confidence, bins)
    by_chance = cal.chance(confidence, cut, seed=seed, correct=correct, clusters=clusters)
    boot = bootstrap(clusters, seed)
    error = cal.ece_interval(confidence, correct, cut, boot, by_chance)
    expected = Interval(by_chance.mean, math.nan, math.nan)
    return [
        _as_record(column, group, "ece", "", error, rows),
        _as_record(column, group, "ece_chance", "", expected, rows),
    ]


def _as_record(
    column: str,
    group: str,
    measure: str,
    label: str,
    mean: Interval,
    rows: Bool[np.ndarray, " n"],
) -> GroupRecord:
    return GroupRecord(
        by=column,
        group=group,
        measure=measure,
        label=label or None,
        **estimated("value", mean),
        n=int(rows.sum()),
    )


def _differences(
    column: str,
    groups: Sequence[str],
    of_row: np.ndarray,
    measures: Sequence[_Measure],
    predictions: Predictions,
    seed: int,
) -> list[GroupDifferenceRecord]:
    """All pairs of groups in all measures, or each group against all others."""
    records: list[GroupDifferenceRecord] = []
    p: list[float] = []
    for first, second in _pairs(groups):
        in_first = of_row == first
        in_second = of_row != first if second == REST else of_row == second
        for measure in measures:
            some = measure.counted & (in_first | in_second)
            if not (some & in_first).any() or not (some & in_second).any():
                continue
            difference = group_difference(
                measure.values[some],
                in_second[some],
                predictions.clusters[some],
                share=measure.share,
                seed=seed,
            )
            p.append(difference.p)
            records.append(
                GroupDifferenceRecord(
                    by=column,
                    measure=measure.name,
                    label=measure.label or None,
                    a=first,
                    b=second,
                    **estimated("difference", difference.interval),
                    p=_finite(difference.p),
                    p_holm=None,
                )
            )
    return _corrected(records, p)


def _pairs(groups: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(groups) <= MOST_PAIRED:
        yield from itertools.combinations(groups, 2)
    else:
        yield from ((group, REST) for group in groups)


def _corrected(
    records: Sequence[GroupDifferenceRecord], p: Sequence[float]
) -> list[GroupDifferenceRecord]:
    """The records with their p corrected over all that could be tested."""
    out = []
    for record, corrected in zip(records, holm(p), strict=True):
        p_holm = corrected if math.isfinite(corrected) else None
        out.append(replace(record, p_holm=p_holm))
    return out


def group_findings(
    differences: Sequence[GroupDifferenceRecord], level: float = 0.05
) -> list[tuple[str, str]]:
    """For each column what differs significantly between its groups, in a sentence."""
    sentences = []
    for column in dict.fromkeys(record.by for record in differences):
        of_column = [record for record in differences if record.by == column]
        passing = [r for r in of_column if r.p_holm is not None and r.p_holm < level]
        head = f"significant differences between groups (Holm): {len(passing)} of {len(of_column)}"
        largest = sorted(passing, key=lambda r: -abs(r.difference))[:3]
        named = [f"{measure_name(r.measure, r.label)} {r.b} − {r.a} {_signed(r)}" for r in largest]
        largest_first = f". The largest: {'; '.join(named)}" if named else ""
        sentences.append((column, f"{column}: {head}{largest_first}."))
    return sentences


def _signed(record: GroupDifferenceRecord) -> str:
    ends = record.difference_interval
    if ends is not None:
        return f"{record.difference:+.3f} ({ends.text('+.3f')})"
    return f"{record.difference:+.3f}"


def measure_name(measure: str, label: str | None) -> str:
    """A measure in words: ``false positives of toxic``."""
    name = "ECE" if measure == "ece" else measure.replace("_", " ")
    return name + (f" of {label}" if label else "")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
