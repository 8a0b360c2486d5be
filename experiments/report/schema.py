"""The fields of ``results.json``: frozen dataclasses, written as JSON and read back with every value checked.

A field without a default is always written; one that still has its default is left out of the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from layerscope.errors import LayerscopeError

T = TypeVar("T")


class ResultsError(LayerscopeError, ValueError):
    """A file of results that no run wrote so; the message is one line with the place in the file."""


def entry(about: str, unit: str = "", default: Any = MISSING, *, spread: bool = False) -> Any:
    """A field of a record, with its meaning and unit.

    Args:
        spread: the field is a mapping, whose items are written as fields of the record itself.
    """
    metadata = {"about": about, "unit": unit, "spread": spread}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence of what was found."""

    property: str = entry("what it speaks of")
    text: str = entry("the sentence")


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was skipped, dropped, unconverged or approximated."""

    kind: str = entry("wrong, skipped, dropped, unconverged, warning, approximate or info")
    text: str = entry("the sentence")


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """What every ``results.json`` holds beside the records of its study."""

    schema: int = entry("version of the format", default=1)
    kind: str = entry("the command", default="")
    provenance: dict[str, Any] = entry("model, data, versions, machine, time, command", default={})
    findings: list[Finding] = entry("what was found, in sentences", default=[])
    notes: list[Note] = entry("what was skipped, dropped, unconverged or approximated", default=[])


def as_json(value: Any) -> Any:
    """Dataclasses, arrays and numbers of numpy as JSON holds them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [
            item
            for item in dataclasses.fields(value)
            if not _is_default(item, getattr(value, item.name))
        ]
        written: dict[str, Any] = {}
        for item in kept:
            inner = as_json(getattr(value, item.name))
            written |= inner if item.metadata.get("spread") else {item.name: inner}
        return written
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default is not MISSING:
        return value is item.default or (
            type(value) is type(item.default) and value == item.default
        )
    return item.default_factory is not MISSING and value == item.default_factory()


def from_json(kind: type[T], value: Any, where: str = "results.json") -> T:
    """A dataclass from what a file holds; keys that it does not know are ignored.

    Raises:
        ResultsError: a field that is missing or holds something else, with its place: ``results.json: records[3].effect``.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = _place(first["loc"], value)
        got = f"{first['input']!r:.60}" if first["type"] != "missing" else "nothing"
        raise ResultsError(f"{where}: {place or 'the whole'}: {first['msg']}, got {got}") from None


def _place(parts: Sequence[int | str], value: Any) -> str:
    """Where in the file: keys and indices, without the names of types that pydantic puts between them."""
    place = ""
    for number, part in enumerate(parts, 1):
        if isinstance(part, int):
            place, value = f"{place}[{part}]", value[part]
        elif isinstance(value, Mapping) and (part in value or number == len(parts)):
            place, value = f"{place}.{part}", value.get(part)
    return place.lstrip(".")


@cache
def _adapter(kind: type) -> Any:
    return TypeAdapter(kind)
