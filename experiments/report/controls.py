"""The controls of every kind of run: what each keeps a reader from believing,
and whether this run has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .parts import Cell, Column, Section, Table
from .words import finite

Results = Any
"""The results of a study: `report.schema.StudyResults` with ``records``."""


def always(results: Results) -> bool:
    """Every run of this kind has it."""
    return True


@dataclass(frozen=True)
class Control:
    """One control.

    Args:
        name: what is done.
        guards: what would be believed wrongly without it.
        ran: whether a run's results have it.
        asked: the option that asks for it, where it is not always there.
        applies: whether a run of this kind can have it.
    """

    name: str
    guards: str
    ran: Callable[[Results], bool]
    asked: str = ""
    applies: Callable[[Results], bool] = always


def field(name: str) -> Callable[[Results], bool]:
    """Any record has a number there."""
    return lambda results: any(
        finite(getattr(record, name, None)) is not None for record in results.records
    )


def has_interval(name: str) -> Callable[[Results], bool]:
    """Any record has an interval of that number."""
    return lambda results: any(getattr(one, f"{name}_interval", None) for one in results.records)


def is_given(name: str) -> Callable[[Results], bool]:
    """The option was given."""
    return lambda results: bool(results.provenance.get("config", {}).get(name))


def holds(name: str) -> Callable[[Results], bool]:
    """The results have such a part."""
    return lambda results: bool(getattr(results, name))


OVER_PROMPTS = Control(
    "interval and sign-flip test over prompts", "an effect that only a few prompts show", field("p")
)
GRID = Control(
    "false discovery rate over the grid", "one of many parts that stands out by chance", field("q")
)
TURNED = Control(
    "equally large changes in random directions",
    "any change of that size would have this effect",
    field("null"),
    "--null-draws 20",
)
_DOCTOR = Control(
    "the doctor's quick checks",
    "a site that gives wrong values",
    lambda results: bool(results.provenance.get("doctor")),
)


def controls_section(results: Results, known: Sequence[Control]) -> Section | None:
    """Every control of this kind of run, and whether it ran."""
    if not known or not results.records:
        return None
    if results.provenance.get("model") and "doctor" in results.provenance:
        known = (*known, _DOCTOR)
    rows = [
        [Cell(one.name, head=True), _status(one, one.ran(results)), Cell(one.guards)]
        for one in known
        if one.applies(results)
    ]
    columns = [
        Column("control", False),
        Column("in this run", False),
        Column("what it rules out", False),
    ]
    table = Table(
        "controls-table", "Controls of this run", columns, rows, sortable=False, shows=False
    )
    about = "Controls of this run, and the mistake that each one rules out."
    return Section("controls", "Controls", [table], about)


def _status(control: Control, ran: bool) -> Cell:
    if ran:
        return Cell("yes", "1")
    return Cell(
        "not supported", "0", f"ask with {control.asked}" if control.asked else "", tone="badge"
    )
