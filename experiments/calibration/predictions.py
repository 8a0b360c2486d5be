"""Predictions of any classifier from a file: probabilities, labels, and which rows are for fitting
only.

A record (`corpus.records`: JSON lines, a JSON array, CSV or TSV) has ``probabilities`` (a list, or
an object from class to probability) or ``logits``, and ``label``; perhaps ``group`` (rows that are
resampled together), ``split`` (``validation`` for rows that scalings are fitted on) and ``text``.
In a table each class may be a column, ``p_NAME`` or ``logit_NAME``. A label is a class's name,
``3`` the class named "3"; it is a place from 0 where no class is named by a number. An npz file has
``probabilities`` or ``logits`` [n c] and ``labels`` [n]; perhaps ``classes`` [c], ``groups`` [n]
and ``validation`` [n], true or false.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from layerscope.errors import InputError, LayerscopeError

from ...probes.calibration import CalibrationError, check
from ..corpus.records import Numbered, Unusable, group_of, place_of, read_lines_as, shown
from .archive import ArchiveError, read_arrays


class PredictionError(LayerscopeError, ValueError):
    """A file of predictions that cannot be read; the message begins with the file."""


@dataclass(frozen=True)
class Predictions:
    """Rows of probabilities with their labels.

    Args:
        clusters: rows that are resampled together.
        validation: rows that scalings are fitted on, and nothing is measured on.
        texts: what each row is, for a reader; empty where that is not known.
        by_class: whether a class means the same in every row; the choices of questions do not.
        same_width: whether all rows have as many choices; else the last columns of some are 0 for
            what they lack.
        by: columns that rows are compared by, with each row's value.
    """

    probabilities: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    clusters: Int[np.ndarray, " n"]
    validation: Bool[np.ndarray, " n"]
    texts: tuple[str, ...] = ()
    by_class: bool = True
    same_width: bool = True
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Bool[np.ndarray, " n"]) -> Predictions:
        """Some of the rows."""
        texts = ()
        if self.texts:
            texts = tuple(itertools.compress(self.texts, chosen))
        by = {name: tuple(itertools.compress(values, chosen)) for name, values in self.by.items()}
        return replace(
            self,
            probabilities=self.probabilities[chosen],
            labels=self.labels[chosen],
            clusters=self.clusters[chosen],
            validation=self.validation[chosen],
            texts=texts,
            by=by,
        )

    def with_validation(self, other: Predictions) -> Predictions:
        """These rows, and another's to be fitted on.

        Raises:
            PredictionError: other classes.
        """
        if other.classes != self.classes:
            raise PredictionError(
                f"validation rows have the classes {', '.join(other.classes[:6])}, "
                f"expected {', '.join(self.classes[:6])}"
            )
        return Predictions(
            np.concatenate([self.probabilities, other.probabilities]),
            np.concatenate([self.labels, other.labels]),
            self.classes,
            # Groups are numbered in each file by itself.
            np.concatenate([self.clusters, other.clusters + self.clusters.max() + 1]),
            np.concatenate([self.validation, np.ones(len(other), bool)]),
            (*self.texts, *other.texts) if self.texts and other.texts else (),
            self.by_class,
            self.same_width and other.same_width,
            {name: (*values, *other.by[name]) for name, values in self.by.items()},
        )

    def marked(self, validation: Bool[np.ndarray, " n"]) -> Predictions:
        """The same rows, these of them for scalings to be fitted on."""
        return replace(self, validation=validation)


def drawn_groups(
    clusters: Int[np.ndarray, " n"], share: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """The rows of a share of the clusters, drawn at random.

    Raises:
        PredictionError: a share that leaves one side empty.
    """
    names = np.unique(clusters)
    # Whole groups, so that no group is on both sides.
    drawn = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
    if not 0 < len(drawn) < len(names):
        raise PredictionError(
            f"--split {share:g} of {len(names)} groups: expected some for each side"
        )
    return np.isin(clusters, drawn)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as npz, whole or not at all.

    Labels are places, but names where classes are named by numbers in another order: see `_label`.
    """
    numbered = any(name.isdecimal() for name in predictions.classes)
    by_name = numbered and list(predictions.classes) != _places(len(predictions.classes))
    labels = np.array(predictions.classes)[predictions.labels] if by_name else predictions.labels
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(
        partial,
        probabilities=predictions.probabilities.astype(np.float32),
        labels=labels,
        classes=np.array(predictions.classes),
        groups=predictions.clusters,
        validation=predictions.validation,
    )
    # A name of its own until it is whole: an interrupted run leaves no half file.
    partial.replace(path)


def read_predictions(
    path: Path,
    limit: int | None = None,
    by: Sequence[str] = (),
    unusable: list[Unusable] | None = None,
) -> Predictions:
    """Read a file of predictions.

    Args:
        by: columns that rows are compared by; of these ``group`` is then not resampled as one.
        unusable: is given the records that are no distribution, or have a label that is no class;
            without it, and in npz, the first one is an error.

    Raises:
        PredictionError: a file or a line that cannot be read, rows that are no distributions,
            labels out of range, a column that is not there.
    """
    is_archive = path.suffix == ".npz"
    predictions = _read_npz(path, by) if is_archive else _read_records(path, by, unusable)
    if limit is not None:
        predictions = predictions.rows(np.arange(len(predictions)) < limit)
    P = predictions.probabilities
    try:
        check(P, predictions.labels)
    except CalibrationError as error:
        raise PredictionError(f"{path}: {error}") from None
    # Printed digits sum to 1 only about.
    return replace(predictions, probabilities=P / P.sum(1, keepdims=True))


FIELDS = ("probabilities", "logits")
COLUMNS = {"probability_": "probabilities", "p_": "probabilities", "logit_": "logits"}
"""How the columns of a table begin that hold a class each, and what they are."""


def _read_npz(path: Path, by: Sequence[str]) -> Predictions:
    try:
        arrays = read_arrays(path)
    except ArchiveError as error:
        raise PredictionError(str(error)) from None
    field, values, labels = _values_and_labels(path, arrays)
    n, n_classes = values.shape
    classes = _places(n_classes)
    if "classes" in arrays:
        classes = [str(name) for name in arrays["classes"].ravel()]
    if len(classes) != n_classes:
        raise PredictionError(
            f"{path}: expected {n_classes} classes, a name each, got {len(classes)}"
        )
    groups: Any = arrays.get("groups", np.arange(n))
    validation: Any = arrays.get("validation", np.zeros(n, bool))
    if validation.dtype.kind not in "biu":
        raise PredictionError(
            f"{path}: expected true or false as validation, got {validation.dtype}"
        )
    for name, column in (("groups", groups), ("validation", validation)):
        if column.shape != labels.shape:
            raise PredictionError(f"{path}: expected {name} [n] of {n} rows, got {column.shape}")
    columns = {name: _array_of(path, arrays, name, n) for name in by}
    if "groups" in by:  # groups that are compared are not resampled as one
        groups = np.arange(n)
    predictions = _predictions(
        path, field, values, labels.tolist(), classes, groups.tolist(), validation.astype(bool)
    )
    return replace(predictions, by=columns)


def _values_and_labels(
    path: Path, arrays: Mapping[str, np.ndarray]
) -> tuple[str, Float[np.ndarray, "n c"], np.ndarray]:
    """What the values are (one of `FIELDS`), the values, and the labels."""
    names = [name for name in FIELDS if name in arrays]
    if len(names) != 1 or "labels" not in arrays:
        got = ", ".join(sorted(arrays))[:200] or "none"
        raise PredictionError(
            f"{path}: expected arrays 'labels' and one of 'probabilities' and 'logits', got {got}"
        )
    field = names[0]
    values, labels = arrays[field], arrays["labels"]
    if values.dtype.kind not in "fiu":
        raise PredictionError(f"{path}: expected numbers as {field}, got {values.dtype}")
    values = values.astype(np.float64)
    if values.ndim != 2 or labels.shape != (len(values),):
        raise PredictionError(
            f"{path}: expected {field} [n c] and labels [n], got {values.shape} and {labels.shape}"
        )
    return field, values, labels


def _array_of(
    path: Path, arrays: Mapping[str, np.ndarray], name: str, count: int
) -> tuple[str, ...]:
    """An array that rows are compared by, as texts."""
    if name not in arrays or arrays[name].shape != (count,):
        got = ", ".join(sorted(arrays))[:200]
        raise PredictionError(
            f"{path}: --group-by {name}: expected an array of {count} rows, got {got}"
        )
    return tuple(map(str, arrays[name].tolist()))


def column_of(record: Mapping[str, Any], name: str) -> str:
    """What a record has in a column that rows are compared by.

    Raises:
        InputError: no such column, or neither a text nor a number in it.
    """
    value = record.get(name)
    if not isinstance(value, str | int | float) or value == "":
        fields = ", ".join(sorted(record))[:200]
        raise InputError(
            f"--group-by {name}: expected a text or a number in this column, "
            f"got {shown(value)}; the line has {fields}"
        )
    return str(value)


def _read_records(path: Path, by: Sequence[str], unusable: list[Unusable] | None) -> Predictions:
    reader = _RecordReader(by)
    rows = read_lines_as(path, None, reader.row, unusable, prepare=_joined)
    values = np.array([row for row, _, _ in rows])
    labels, groups, validation, texts = [], [], [], []
    columns: dict[str, list[str]] = {name: [] for name in by}
    for i, (_, group, record) in enumerate(rows):
        text = record.get("text")
        labels.append(record["label"])
        # Groups that are compared are not resampled as one.
        groups.append(f"row {i}" if group is None or "group" in by else group)
        validation.append(record.get("split") == "validation")
        texts.append(text if isinstance(text, str) else "")
        for name, values_of_rows in columns.items():
            values_of_rows.append(column_of(record, name))
    predictions = _predictions(
        path,
        reader.field,
        values,
        labels,
        reader.classes,
        groups,
        np.array(validation),
        tuple(texts) if any(texts) else (),
    )
    return replace(predictions, by={name: tuple(column) for name, column in columns.items()})


def _is_number(value: Any) -> bool:
    """To Python true and false are numbers; here they are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class _RecordReader:
    """Reads records one by one; the first says which field they have, and which classes.

    Args:
        by: columns that every record must have.
    """

    def __init__(self, by: Sequence[str]) -> None:
        self.by = by
        self.field = ""
        self.classes: list[str] = []

    def row(self, record: Mapping[str, Any]) -> tuple[list[float], str | None, Mapping[str, Any]]:
        """A record's numbers in the order of the classes, its group, and the record.

        Raises:
            InputError: a record that is none, or is not like the first.
        """
        field = self._field(record)
        row = record[field]
        if not isinstance(row, list | dict):
            raise InputError(f"expected a list or an object as {field}, got {shown(row)}")
        classes = list(row) if isinstance(row, dict) else _places(len(row))
        if not self.field:
            self.field = field
        if not self.classes:
            self.classes = classes
        # Objects may name their classes in any order.
        is_like_first = field == self.field and sorted(classes) == sorted(self.classes)
        if not is_like_first:
            raise InputError(
                f"expected {self.field} of {len(self.classes)} classes as in the first "
                f"line, got {shown(row)}"
            )
        values = [row[name] for name in self.classes] if isinstance(row, dict) else row
        if not all(map(_is_number, values)):
            raise InputError(f"expected numbers as {self.field}, got {shown(row)}")
        numbers = [float(value) for value in values]
        _check_row(numbers, self.field, _label(record["label"], self.classes))
        for name in self.by:
            column_of(record, name)
        return numbers, group_of(record), record

    @staticmethod
    def _field(record: Mapping[str, Any]) -> str:
        """The one of the fields that a record has."""
        names = [name for name in FIELDS if name in record]
        if len(names) != 1 or "label" not in record:
            fields = ", ".join(sorted(record))[:200]
            raise InputError(
                "expected 'label' and one of 'probabilities' and 'logits', or a column p_CLASS or "
                f"logit_CLASS for each class, got {fields}"
            )
        return names[0]


def _check_row(values: Sequence[float], field: str, label: int) -> None:
    """Refuse numbers that are no distribution, or not finite as logits."""
    row = np.array([values], dtype=float)
    if field == "logits":
        if not np.isfinite(row).all():
            raise InputError(f"expected finite logits, got {shown(list(values))}")
        return
    try:
        check(row, np.array([label]))
    except CalibrationError as error:
        raise InputError(str(error).removeprefix("row 1: ")) from None


def _joined(records: Iterator[Numbered]) -> Iterator[Numbered]:
    """Records whose classes are columns of a table (``p_NAME``, ``logit_NAME``),
    with one field for all of them.
    """
    for number, record in records:
        joined: dict[str, dict[str, float]] = {}
        rest: dict[str, Any] = {}
        for name, value in record.items():
            start = next((start for start in COLUMNS if name.startswith(start)), None)
            is_column = start is not None and isinstance(value, str)  # a cell of a table is text
            if start is None or not is_column:
                rest[name] = value
                continue
            of_classes = joined.setdefault(COLUMNS[start], {})
            of_classes[name.removeprefix(start)] = _number(value, name)
        yield number, {**rest, **joined}


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected a number as {name}, got {shown(text)}") from None


def _places(count: int) -> list[str]:
    """Names of classes that have none."""
    return [str(k) for k in range(count)]


def _predictions(
    path: Path,
    field: str,
    values: Float[np.ndarray, "n c"],
    labels: Sequence[Any],
    classes: Sequence[str],
    groups: Sequence[Any],
    validation: np.ndarray,
    texts: tuple[str, ...] = (),
) -> Predictions:
    if field == "logits":
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise PredictionError(f"{path}: row {int(np.argmax(bad)) + 1}: expected finite logits")
        # Infinite logits would give NaN, so they are refused above.
        values = softmax(values, axis=1)
    try:
        index = np.array([_label(label, classes) for label in labels], dtype=np.int64)
    except ValueError as error:
        raise PredictionError(f"{path}: {error}") from None
    # As text: 1 and "1" are one group.
    clusters = np.unique(np.array([str(g) for g in groups]), return_inverse=True)[1]
    return Predictions(values, index, tuple(classes), clusters, validation, texts)


def _label(label: Any, classes: Sequence[str]) -> int:
    """The place of a class that is given by its name,
    or by its place where no class is named by a number.
    """
    place = place_of(label, classes) if isinstance(label, str | int | float) else None
    if place is not None:
        return place
    named = ", ".join(classes[:6])[:200]
    raise InputError(
        f"expected a label from 0 to {len(classes) - 1} or one of {named}, got {shown(label)}"
    )
