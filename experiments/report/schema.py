"""The fields of ``results.json``: frozen dataclasses, written as JSON and read back with every
value checked.

A field without a default is always written; one that still has its default is left out of the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, Protocol, TypeVar, get_args, get_type_hints, runtime_checkable

import numpy as np

from layerscope.errors import LayerscopeError

from .provenance_fields import Provenance

T = TypeVar("T")
SCHEMA = 2
"""Version of the format of ``results.json``."""


class ResultsError(LayerscopeError, ValueError):
    """A file of results that no run wrote so;
    the message is one line with the place in the file.
    """


def entry(about: str, unit: str = "", default: Any = MISSING, was: str = "") -> Any:
    """A field of a record, with its meaning and unit.

    Args:
        was: its former name, which files may still have.
    """
    metadata = {"about": about, "unit": unit, "was": was}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@runtime_checkable
class Estimate(Protocol):
    """An estimate with the ends of its interval, such as those of `probes.evaluation`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Interval:
    """Interval of a number: 95% unless the field states another level.

    The interval of the field ``score`` is the field ``score_interval``, and None where there is
    none.
    """

    low: float = entry("lower end")
    high: float = entry("upper end")

    @classmethod
    def between(cls, low: float, high: float) -> Interval | None:
        """The interval of two ends; None where they are not numbers, as those of a single group."""
        return cls(float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None

    @classmethod
    def of(cls, estimate: Estimate) -> Interval | None:
        """The interval of an estimate; None where it has none."""
        return cls.between(estimate.low, estimate.high)

    def excludes(self, value: float) -> bool:
        """Whether the value lies outside."""
        return self.low > value or self.high < value

    def text(self, form: str = ".3f") -> str:
        """Both ends in words."""
        return f"{self.low:{form}} to {self.high:{form}}"


def is_above(ends: Interval | None, value: float) -> bool:
    """Whether an interval shows that a number is larger than this one;
    without an interval nothing does.
    """
    return ends is not None and ends.low > value


def estimated(name: str, estimate: Estimate | None) -> dict[str, Any]:
    """The two fields of a number with an interval, ``score`` and ``score_interval``;
    each None where it is not a number.
    """
    if estimate is None or not math.isfinite(estimate.value):
        return {name: None, f"{name}_interval": None}
    return {name: float(estimate.value), f"{name}_interval": Interval.of(estimate)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence of what was found."""

    property: str = entry("its subject")
    text: str = entry("the sentence")


@dataclass(frozen=True, kw_only=True)
class Note:
    """What was skipped, dropped, unconverged or approximated."""

    kind: str = entry("wrong, skipped, dropped, unconverged, warning, approximate or info")
    text: str = entry("the sentence")


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """What every ``results.json`` holds beside the records of its study."""

    schema: int = entry("version of the format", default=SCHEMA)
    kind: str = entry("the command", default="")
    provenance: Provenance = entry("model, data, versions, machine, time, command", default={})
    findings: list[Finding] = entry("what was found, in sentences", default=[])
    notes: list[Note] = entry("what was skipped, dropped, unconverged or approximated", default=[])
    sha256: str = entry("hash of all other fields, as the run wrote them", default="")

    @property
    def is_measured(self) -> bool:
        """Whether there is anything to show."""
        return bool(getattr(self, "records", ()))


def check_schema(raw: Mapping[str, Any], where: str) -> None:
    """Refuse results of another version of the format.

    Raises:
        ResultsError: the version, and what to do.
    """
    if (version := raw.get("schema")) != SCHEMA:
        raise ResultsError(
            f"{where}: expected results of format {SCHEMA}, got format {version!r:.20}, "
            "which numbers layers otherwise (now block k is layer k, the embedding -1): "
            "run the command again in another folder"
        )


JSON_TYPES = frozenset({str, int, float, bool, type(None)})
"""What JSON holds as it is."""


def as_json(value: Any) -> Any:
    """Dataclasses, arrays and numbers of numpy as JSON holds them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [
            item
            for item in dataclasses.fields(value)
            if not _is_default(item, getattr(value, item.name))
        ]
        return {item.name: as_json(getattr(value, item.name)) for item in kept}
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        # Nearly all that results hold are long lists of plain values.
        return [one if type(one) in JSON_TYPES else as_json(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default is not MISSING:
        return value is item.default or (
            type(value) is type(item.default) and value == item.default
        )
    return item.default_factory is not MISSING and value == item.default_factory()


INTERVAL = "interval"
"""What the names of the fields that hold an `Interval` end with."""


def tidy(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of ``results.json`` as a row of a table.

    ``score_interval`` becomes ``score_low`` and ``score_high``, a field within another
    ``outer.inner``.
    """
    row: dict[str, Any] = {}
    for name, value in record.items():
        if name == INTERVAL or name.endswith(f"_{INTERVAL}"):
            of = name.removesuffix(INTERVAL)
            ends = value or {}
            row |= {f"{of}low": ends.get("low"), f"{of}high": ends.get("high")}
        elif isinstance(value, Mapping):
            row |= {f"{name}.{inner}": one for inner, one in tidy(value).items()}
        else:
            row[name] = value
    return row


def from_json(kind: type[T], value: Any, where: str = "results.json") -> T:
    """A dataclass from what a file holds; keys that it does not know are ignored.

    Raises:
        ResultsError: a field that is missing or holds something else, with its place:
            ``results.json: records[3].effect``.
    """
    # A late import: command lines that read no results do not wait for it.
    from pydantic import ValidationError

    value = _renamed(kind, value)
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = _place(first["loc"], value)
        got = f"{first['input']!r:.60}" if first["type"] != "missing" else "nothing"
        raise ResultsError(f"{where}: {place or 'the whole'}: {first['msg']}, got {got}") from None


def _place(parts: Sequence[int | str], value: Any) -> str:
    """Where in the file: keys and indices,
    without the names of types that pydantic puts between them.
    """
    place = ""
    for number, part in enumerate(parts, 1):
        if isinstance(part, int):
            place, value = f"{place}[{part}]", value[part]
        elif isinstance(value, Mapping) and (part in value or number == len(parts)):
            place, value = f"{place}.{part}", value.get(part)
    return place.lstrip(".")


def _renamed(kind: type, value: Any) -> Any:
    """What a file holds, under the present names of fields that had another one."""
    if not isinstance(value, Mapping):
        return value
    former, of_records = _former_names(kind)
    value = dict(value)
    for was, name in former.items():
        if was in value:
            value.setdefault(name, value.pop(was))
    for name, inner in of_records.items():
        if isinstance(value.get(name), list):
            value[name] = [_renamed(inner, one) for one in value[name]]
    return value


@cache
def _former_names(kind: type) -> tuple[dict[str, str], dict[str, type]]:
    """Former names of a record's fields, and its fields with lists of records that have some."""
    if not dataclasses.is_dataclass(kind):
        return {}, {}
    hints, former, of_records = get_type_hints(kind), {}, {}
    for item in dataclasses.fields(kind):
        if was := item.metadata.get("was"):
            former[was] = item.name
        for inner in get_args(hints[item.name]):
            if isinstance(inner, type) and any(_former_names(inner)):
                of_records[item.name] = inner
    return former, of_records


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
