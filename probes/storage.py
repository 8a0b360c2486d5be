"""Fitted estimators on disk: tensors as safetensors, everything else as JSON in the header."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from layerscope.errors import InputError

KEY = "layerscope"
AnySaved = TypeVar("AnySaved", bound="Saved")


class Saved(BaseEstimator):
    """An estimator that is written and read back. What is read predicts or transforms as before, and takes no further rows.

    Attributes:
        about_: what a file says of where the estimator is from.
    """

    about_: dict[str, Any]
    classes_: np.ndarray
    n_features_in_: int
    _arrays: tuple[str, ...] = ()
    """Fitted attributes that are tensors of the file; the last axis of the first is that of the features."""
    _recorded: tuple[str, ...] = ()
    """Fitted attributes that are JSON values of its header."""

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What of the fit goes into tensors and header."""
        tensors, recorded = (
            {name.rstrip("_"): getattr(self, name) for name in names} for names in (self._arrays, self._recorded)
        )
        return tensors, recorded

    def _restore(self, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        """The fit again; a file of a version that did not keep an attribute leaves it out."""
        found = {**header, **tensors}
        for name in (*self._arrays, *self._recorded):
            if name.rstrip("_") in found:
                setattr(self, name, found[name.rstrip("_")])
        self.n_features_in_ = getattr(self, self._arrays[0]).shape[-1]

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
    def load(cls: type[AnySaved], path: str | Path) -> AnySaved:
        """Read an estimator written by ``save``.

        Raises:
            FileNotFoundError, ValueError: if there is none, or the file is something else.
        """
        tensors, header = read(path, cls.__name__)
        estimator = cls(**header["params"])
        if "classes" in header:
            estimator.classes_ = classes_of(header)
        estimator.about_ = header.get("about", {})
        estimator._restore(tensors, header)
        return estimator


def write(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], header: Any) -> Path:
    """Write a probe to a temporary name beside the target, then rename: never half a file.

    Raises:
        ValueError: if the header holds something that JSON cannot.
    """
    target = Path(path)
    try:
        text = json.dumps({"schema": 1, "kind": kind, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot save {kind}: labels and settings must be JSON values ({error})") from None
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = save(arrays, metadata={KEY: text})
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
    if not all(isinstance(label, str | int | float | None) for label in labels):
        raise InputError(f"cannot save labels {labels}: expected strings, numbers or booleans")
    return {"classes": labels, "classes_dtype": classes.dtype.str}


def classes_of(header: Mapping[str, Any]) -> np.ndarray:
    """The labels again, in their type."""
    kind = np.dtype(object if header["classes_dtype"] == "|O" else header["classes_dtype"])
    return np.asarray(header["classes"], dtype=kind)


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
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    header = json.loads(text) if text else {}
    if header.get("kind") != kind:
        raise InputError(f"expected a saved {kind} in {path}, got {header.get('kind')!r}")
    return tensors, header
