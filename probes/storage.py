"""Fitted estimators on disk: tensors as safetensors, everything else as JSON in the header."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from layerscope.arguments import checked
from layerscope.errors import InputError

KEY = "layerscope"
LABEL_DTYPE = re.compile(r"\|O|[<>|=][UifbS?]\d{1,6}")
"""Types of labels: objects, text, numbers and booleans."""
AnySaved = TypeVar("AnySaved", bound="Saved")


class Saved(BaseEstimator):
    """An estimator that can be saved and loaded. A loaded estimator predicts or transforms as
    before; it cannot be trained further.

    Attributes:
        about_: provenance of the estimator, read from the file.
    """

    about_: dict[str, Any]
    classes_: np.ndarray
    n_features_in_: int
    _arrays: tuple[str, ...] = ()
    """Fitted attributes that are tensors of the file;
    the last axis of the first is that of the features.
    """
    _recorded: tuple[str, ...] = ()
    """Fitted attributes that are JSON values of its header."""

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What of the fit goes into tensors and header."""
        tensors, recorded = (
            {name.rstrip("_"): getattr(self, name) for name in names}
            for names in (self._arrays, self._recorded)
        )
        return tensors, recorded

    def _restore(self, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        """The fit again; a file of a version that did not keep an attribute leaves it out."""
        attributes = {**header, **tensors}
        for name in (*self._arrays, *self._recorded):
            if name.rstrip("_") in attributes:
                setattr(self, name, attributes[name.rstrip("_")])
        self.n_features_in_ = getattr(self, self._arrays[0]).shape[-1]

    @checked
    def save(self, path: str | Path, about: Mapping[str, Any] | None = None) -> Path:
        """Write the fitted estimator as safetensors with a JSON header; labels must be JSON values.

        Args:
            about: what it was trained on, kept in the header and read back as ``about_``.

        Raises:
            ValueError: if the labels are not strings, numbers or booleans.
        """
        check_is_fitted(self)
        tensors, recorded = self._state()
        classes = classes_header(self.classes_) if hasattr(self, "classes_") else {}
        header = {"params": self.get_params(), **classes, "about": dict(about or {}), **recorded}
        return write(path, type(self).__name__, tensors, header)

    @classmethod
    @checked
    def load(cls: type[AnySaved], path: str | Path) -> AnySaved:
        """Read an estimator written by ``save``.

        Raises:
            FileNotFoundError, ValueError: if there is none, or the file is something else.
        """
        tensors, header = read(path, cls.__name__)
        known = set(cls().get_params())
        # A file may come from anyone: what it holds is checked before it is used.
        params = header.get("params")
        if not isinstance(params, dict) or not set(params) <= known:
            raise InputError(
                f"{path}: params: expected an object of {', '.join(sorted(known))}, "
                f"got {_short(params)}"
            )
        if not isinstance(header.get("about", {}), dict):
            raise InputError(f"{path}: about: expected an object, got {_short(header['about'])}")
        estimator = cls(**params)
        estimator.about_ = header.get("about", {})
        try:
            if "classes" in header:
                estimator.classes_ = classes_of(header)
            estimator._restore(tensors, header)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{path}: not a whole {cls.__name__}: {_short(error)}") from None
        # Parts may fit by themselves and not together.
        estimator._check_restored(path, tensors)
        return estimator

    def _check_restored(self, path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
        """Raise one line unless the tensors are finite and there is one
        class for each row of coefficients.
        """
        for name, values in tensors.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise InputError(f"{path}: {name}: expected finite numbers")
        if not hasattr(self, "classes_"):
            return
        rows = self._class_rows(tensors)
        if rows is not None and rows != len(self.classes_):
            raise InputError(f"{path}: classes: expected {rows} labels, got {len(self.classes_)}")

    def _class_rows(self, tensors: Mapping[str, np.ndarray]) -> int | None:
        """For how many classes the tensors have room; None where they do not say."""
        return len(tensors["coef"]) if "coef" in tensors and tensors["coef"].ndim == 2 else None


def write(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], header: Any) -> Path:
    """Write a probe to a temporary name beside the target, then rename: never half a file.

    Raises:
        ValueError: if the header holds something that JSON cannot.
    """
    target = Path(path)
    try:
        text = json.dumps({"schema": 1, "kind": kind, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"cannot save {kind}: labels and settings must be JSON values ({error})"
        ) from None
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = save(arrays, metadata={KEY: text})
    # In the same folder, since a rename is one step only within a file system; a name of its own
    # for each writer.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def classes_header(classes: np.ndarray) -> dict[str, Any]:
    """What a header says of class labels.

    Raises:
        ValueError: labels that JSON would bring back as something else, such as tuples.
    """
    labels = classes.tolist()
    if not all(map(_is_label, labels)):
        raise InputError(f"cannot save labels {labels}: expected strings, numbers or booleans")
    return {"classes": labels, "classes_dtype": classes.dtype.str}


def classes_of(header: Mapping[str, Any]) -> np.ndarray:
    """The labels again, in their type.

    Raises:
        ValueError: classes that are no list of different labels, or another type than theirs.
    """
    labels, dtype = header["classes"], header.get("classes_dtype")
    if not isinstance(labels, list) or not all(map(_is_label, labels)):
        raise InputError(f"classes: expected a list of labels, got {_short(labels)}")
    if not isinstance(dtype, str) or not LABEL_DTYPE.fullmatch(dtype):
        raise InputError(f"classes_dtype: expected the type of labels, got {_short(dtype)}")
    if len(set(labels)) != len(labels):
        raise InputError(f"classes: expected different labels, got {_short(labels)}")
    return np.asarray(labels, dtype=object if dtype == "|O" else np.dtype(dtype))


def _is_label(value: object) -> bool:
    """Whether JSON brings it back as it is."""
    return isinstance(value, str | int | float | None)


def _short(value: object) -> str:
    """At most 200 characters of a value or an error, on one line."""
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def read(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and header of a probe written by ``write``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a saved {kind} at {path}, found no file")
    try:
        with safe_open(str(path), framework="np") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{path} is not a safetensors file: {_short(error)}") from None
    try:
        header = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: header: expected JSON: {_short(error)}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: header: expected an object, got {_short(header)}")
    if header.get("kind") != kind:
        raise InputError(f"expected a saved {kind} in {path}, got {_short(header.get('kind'))}")
    if header.get("schema") != 1:
        raise InputError(f"{path}: schema: expected 1, got {_short(header.get('schema'))}")
    return tensors, header
