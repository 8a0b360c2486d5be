"""Predictions of any classifier from a file: probabilities, labels, and which rows are for fitting only.

A JSONL line has ``probabilities`` (a list, or an object from class to probability) or ``logits``, and ``label`` (an index,
or a class's name); perhaps ``group`` (rows that are resampled together), ``split`` (``validation`` for rows that scalings
are fitted on) and ``text``. An npz file has ``probabilities`` or ``logits`` [n c] and ``labels`` [n]; perhaps ``classes``
[c], ``groups`` [n] and ``validation`` [n], true or false.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

from layerscope.errors import InputError, LayerscopeError

from ...probes.calibration import CalibrationError, check
from ..corpus.prompts import group_of, read_lines_as


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
        same_width: whether all rows have as many choices; else the last columns of some are 0 for what they lack.
    """

    probabilities: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    clusters: Int[np.ndarray, " n"]
    validation: Bool[np.ndarray, " n"]
    texts: tuple[str, ...] = ()
    by_class: bool = True
    same_width: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Bool[np.ndarray, " n"]) -> Predictions:
        """Some of the rows."""
        return replace(
            self,
            probabilities=self.probabilities[chosen],
            labels=self.labels[chosen],
            clusters=self.clusters[chosen],
            validation=self.validation[chosen],
            texts=tuple(t for t, on in zip(self.texts, chosen, strict=True) if on) if self.texts else (),
        )

    def with_validation(self, other: Predictions) -> Predictions:
        """These rows, and another's to be fitted on.

        Raises:
            PredictionError: other classes.
        """
        if other.classes != self.classes:
            raise PredictionError(
                f"validation rows have the classes {', '.join(other.classes[:6])}, expected {', '.join(self.classes[:6])}"
            )
        return Predictions(
            np.concatenate([self.probabilities, other.probabilities]),
            np.concatenate([self.labels, other.labels]),
            self.classes,
            np.concatenate([self.clusters, other.clusters + self.clusters.max() + 1]),
            np.concatenate([self.validation, np.ones(len(other), bool)]),
            (*self.texts, *other.texts) if self.texts and other.texts else (),
            self.by_class,
            self.same_width and other.same_width,
        )

    def marked(self, validation: Bool[np.ndarray, " n"]) -> Predictions:
        """The same rows, these of them for scalings to be fitted on."""
        return replace(self, validation=validation)


def drawn_groups(clusters: Int[np.ndarray, " n"], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """The rows of a share of the clusters, drawn at random.

    Raises:
        PredictionError: a share that leaves one side empty.
    """
    names = np.unique(clusters)
    drawn = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
    if not 0 < len(drawn) < len(names):
        raise PredictionError(f"--split {share:g} of {len(names)} groups: expected some for each side")
    return np.isin(clusters, drawn)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(
        partial,
        probabilities=predictions.probabilities.astype(np.float32),
        labels=predictions.labels,
        classes=np.array(predictions.classes),
        groups=predictions.clusters,
        validation=predictions.validation,
    )
    partial.replace(path)


def read_predictions(path: Path, limit: int | None = None) -> Predictions:
    """Read a file of predictions, JSONL or npz.

    Raises:
        PredictionError: a file or a line that cannot be read, rows that are no distributions, labels out of range.
    """
    made = _read_npz(path) if path.suffix == ".npz" else _read_jsonl(path)
    if limit is not None:
        made = made.rows(np.arange(len(made)) < limit)
    try:
        check(made.probabilities, made.labels)
    except CalibrationError as error:
        raise PredictionError(f"{path}: {error}") from None
    return replace(made, probabilities=made.probabilities / made.probabilities.sum(1, keepdims=True))


def _read_npz(path: Path) -> Predictions:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise PredictionError(f"{path}: cannot be read as npz: {error}") from None
    names = [name for name in ("probabilities", "logits") if name in found]
    if len(names) != 1 or "labels" not in found:
        raise PredictionError(
            f"{path}: expected arrays 'labels' and one of 'probabilities' and 'logits', got {', '.join(sorted(found))}"
        )
    values, labels = found[names[0]], found["labels"]
    if values.dtype.kind not in "fiu":
        raise PredictionError(f"{path}: expected numbers as {names[0]}, got {values.dtype}")
    values = values.astype(np.float64)
    if values.ndim != 2 or labels.shape != (len(values),):
        raise PredictionError(
            f"{path}: expected {names[0]} [n c] and labels [n], got {values.shape} and {labels.shape}"
        )
    classes = [str(v) for v in found["classes"]] if "classes" in found else [str(k) for k in range(values.shape[1])]
    if len(classes) != values.shape[1]:
        raise PredictionError(f"{path}: expected {values.shape[1]} classes, a name each, got {len(classes)}")
    groups = found.get("groups", np.arange(len(values)))
    held = found.get("validation", np.zeros(len(values), bool)).astype(bool)
    for name, column in (("groups", groups), ("validation", held)):
        if column.shape != labels.shape:
            raise PredictionError(f"{path}: expected {name} [n] of {len(values)} rows, got {column.shape}")
    return _predictions(path, names[0], values, labels.tolist(), classes, groups.tolist(), held)


def _read_jsonl(path: Path) -> Predictions:
    field, classes = "", []

    def make(record: Mapping[str, Any]) -> tuple[list[float], str | None, Mapping[str, Any]]:
        nonlocal field, classes
        names = [name for name in ("probabilities", "logits") if name in record]
        if len(names) != 1 or "label" not in record:
            raise InputError(
                f"expected 'label' and one of 'probabilities' and 'logits', got {', '.join(sorted(record))}"
            )
        row = record[names[0]]
        here = (
            list(row) if isinstance(row, dict) else [str(k) for k in range(len(row))] if isinstance(row, list) else []
        )
        field, classes = field or names[0], classes or here
        if names[0] != field or sorted(here) != sorted(classes):
            raise InputError(f"expected {field} of {len(classes)} classes as in the first line, got {str(row)[:60]}")
        ordered = [row[name] for name in classes] if isinstance(row, dict) else row
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in ordered):
            raise InputError(f"expected numbers as {field}, got {str(row)[:60]}")
        _label(record["label"], classes)
        return [float(v) for v in ordered], group_of(record), record

    found = read_lines_as(path, None, make)
    records = [record for _, _, record in found]
    groups = [group or f"row {i}" for i, (_, group, _) in enumerate(found)]
    held = np.array([record.get("split") == "validation" for record in records])
    texts = tuple(str(record.get("text", "")) for record in records)
    values, labels = np.array([row for row, _, _ in found]), [record["label"] for record in records]
    return _predictions(path, field, values, labels, classes, groups, held, texts if any(texts) else ())


def _predictions(
    path: Path,
    field: str,
    values: Float[np.ndarray, "n c"],
    labels: Sequence[Any],
    classes: Sequence[str],
    groups: Sequence[Any],
    held: np.ndarray,
    texts: tuple[str, ...] = (),
) -> Predictions:
    if field == "logits":
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise PredictionError(f"{path}: row {int(np.argmax(bad)) + 1}: expected finite logits")
        values = softmax(values, axis=1)
    try:
        index = np.array([_label(label, classes) for label in labels], dtype=np.int64)
    except ValueError as error:
        raise PredictionError(f"{path}: {error}") from None
    clusters = np.unique(np.array([str(g) for g in groups]), return_inverse=True)[1]
    return Predictions(values, index, tuple(classes), clusters, held, texts)


def _label(label: Any, classes: Sequence[str]) -> int:
    """The place of a class that is given by its name or its place."""
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        return label
    raise InputError(f"expected a label from 0 to {len(classes) - 1} or one of {', '.join(classes[:6])}, got {label!r}")
