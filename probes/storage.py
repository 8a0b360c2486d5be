"""Fitted probes on disk: tensors as safetensors, everything else as JSON in the header."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

KEY = "layerscope"


def write(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], header: Any) -> Path:
    """Write a probe to a temporary name beside the target, then rename: never half a file.

    Raises:
        ValueError: if the header holds something that JSON cannot.
    """
    target = Path(path)
    try:
        text = json.dumps({"schema": 1, "kind": kind, **header}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot save {kind}: labels and settings must be JSON values ({error})") from None
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = save(arrays, metadata={KEY: text})
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def classes_header(classes: np.ndarray) -> dict[str, Any]:
    """What a header says of class labels."""
    return {"classes": classes.tolist(), "classes_dtype": classes.dtype.str}


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
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    header = json.loads(text) if text else {}
    if header.get("kind") != kind:
        raise ValueError(f"expected a saved {kind} in {path}, got {header.get('kind')!r}")
    return tensors, header
