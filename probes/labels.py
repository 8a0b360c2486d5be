"""Labels of any hashable kind, turned into class indices and back."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int

from layerscope.errors import InputError

Labels = Sequence[Any] | np.ndarray | torch.Tensor
"""One label per row: a sequence, a NumPy array or a tensor; labels may be any hashable objects."""
Values = TypeVar("Values")


def as_label_array(labels: Labels) -> np.ndarray:
    """A 1-d array of labels; objects stay objects (tuples are not unpacked into columns).

    Raises:
        ValueError: if the labels are an array of more than one dimension.
    """
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu()
        labels = (labels.float() if labels.dtype == torch.bfloat16 else labels).numpy()
    if isinstance(labels, np.ndarray):
        if labels.ndim != 1:
            raise InputError(f"labels must have one dimension [n], got shape {labels.shape}")
        return labels
    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and (
        (kind := kinds.pop()) in (str, int, bool, float) or issubclass(kind, np.generic)
    ):
        return np.asarray(labels)
    # Filled entry by entry: NumPy would make columns of tuples.
    array = np.empty(len(labels), dtype=object)
    array[:] = list(labels)
    return array


def as_numbers(values: Any, what: str) -> np.ndarray:
    """Values as float64, of any shape; text that spells a number is a label all the same.

    Raises:
        InputError: a value that is no number, by its row.
    """
    refuse_text(values, what)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: expected numbers ({error})") from None


def refuse_text(values: Any, what: str) -> None:
    """Raise `InputError` for the first value that is not a number, by its row."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return
    for place, value in np.ndenumerate(np.asarray(values, dtype=object)):
        if not isinstance(value, int | float | complex | np.number | np.bool_):
            row = place[0] if place else 0
            raise InputError(f"{what}: expected numbers, got {value!r:.80} in row {row}")


def ordered(values: Iterable[Hashable]) -> list[Any]:
    """Distinct values in a fixed order: their own where they have one, else by type and repr."""
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct)  # type: ignore[type-var]
    except TypeError:
        return sorted(distinct, key=lambda value: (type(value).__name__, repr(value)))


def encode(labels: Labels) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Classes in order and the class index of each row: ``classes[index] == labels``.

    >>> encode(["b", "a", "b"])
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))
    """
    array = as_label_array(labels)
    # NumPy sorts what is of one type; labels of mixed types need an order of our own.
    if array.dtype != object:
        classes, index = np.unique(array, return_inverse=True)
        return classes, index.astype(np.int64)
    try:
        kinds = ordered(array.tolist())
    except TypeError as error:
        raise InputError(f"labels must be hashable ({error})") from None
    place = {kind: i for i, kind in enumerate(kinds)}
    index = np.fromiter((place[label] for label in array), dtype=np.int64, count=len(array))
    classes = np.empty(len(kinds), dtype=object)
    classes[:] = kinds
    return classes, index


def encode_classes(name: str, labels: Labels, n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The same of a target to be fitted on n rows.

    Raises:
        ValueError: one class only, a label that is NaN, or not one label per row.
    """
    array = as_label_array(labels)
    is_missing = np.asarray(array != array)  # only NaN differs from itself
    if is_missing.any():
        row = int(np.flatnonzero(is_missing)[0])
        raise InputError(f"target {name!r}: the label of row {row} is NaN, expected a class")
    classes, index = encode(array)
    check_classes(classes.tolist(), f"target {name!r}: ")
    if len(index) != n:
        raise InputError(f"target {name!r} has {len(index)} labels, but X has {n} rows")
    return classes, index


def check_classes(classes: Collection[Hashable], where: str = "") -> None:
    """Raise `ValueError`, beginning with ``where``, unless there are two classes to tell apart."""
    if len(classes) < 2:
        got = f"one class: {next(iter(classes))!r}" if classes else "none"
        raise InputError(f"{where}expected at least 2 classes, got {got}")


def of_dev(name: str, dev: Mapping[str, Values]) -> Values:
    """A target's dev labels or numbers.

    Raises:
        ValueError: there are none.
    """
    if name not in dev:
        raise InputError(f"target {name!r} has no dev labels, got them for {list(dev)}")
    return dev[name]


def encode_dev(
    name: str, dev: Mapping[str, Labels], classes: np.ndarray, m: int
) -> Int[np.ndarray, " m"]:
    """Class index of each of a target's labels for m dev rows; -1 where training has it not.

    Raises:
        ValueError: there are none, not one label per row, or none that training has.
    """
    labels = of_dev(name, dev)
    index = encode_with(labels, classes)
    if len(index) != m:
        raise InputError(f"target {name!r} has {len(index)} dev labels for {m} rows")
    if not (index >= 0).any():
        known, first = classes.tolist()[0], as_label_array(labels).tolist()[:1]
        raise InputError(
            f"target {name!r}: none of its dev labels is in training, "
            f"expected some such as {known!r}, got {first} and others"
        )
    return index


def encode_with(labels: Labels, classes: np.ndarray) -> Int[np.ndarray, " n"]:
    """Class index of each row among known classes; -1 for a label that is not among them."""
    place = {label: i for i, label in enumerate(classes.tolist())}
    array = as_label_array(labels).tolist()
    return np.fromiter((place.get(label, -1) for label in array), dtype=np.int64, count=len(array))
