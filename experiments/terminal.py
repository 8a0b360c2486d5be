"""What a person sees in the terminal: the plan, progress bars, the results. A run's own words go to standard error.

Colours are left out where standard output or error is no terminal, or NO_COLOR is set.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
SHOWN = ("schema", "kind", "status", "plan", "records", "baseline", "findings", "notes")
"""What ``--json`` prints of the results; results.json holds all."""


@dataclass
class Level:
    """How much is said while a run goes on: 0 nothing, 1 the plan and progress, 2 also details."""

    level: int = 1


talk = Level()


def progress() -> Progress:
    """A progress display; silent where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or talk.level == 0)


def say(text: str) -> None:
    """One line to standard error, unless the run is quiet."""
    if talk.level > 0:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def detail(text: str) -> None:
    """One line to standard error, if the run is verbose."""
    if talk.level > 1:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def show(results: dict[str, Any], out: Path) -> None:
    """The table of a run on standard output, then its findings and where the report is."""
    printer = Console(width=None if console.is_terminal else 140)
    if results["records"]:
        from .tables import TABLES

        for table in TABLES[results["kind"]](results["records"]):
            printer.print(table)
    for finding in results["findings"]:
        printer.print(finding["text"], highlight=False, markup=False)
    for note in results["notes"]:
        if note["kind"] != "info":
            printer.print(f"{note['kind']}: {note['text']}", highlight=False, markup=False)
    if "plan" not in results:
        printer.print(f"report: {out / 'report.html'}", highlight=False, markup=False)


def show_json(results: dict[str, Any], out: Path) -> None:
    """The results on standard output, for a script."""
    shown = {"out": str(out), **{name: results[name] for name in SHOWN if name in results}}
    sys.stdout.write(json.dumps(shown, ensure_ascii=False, indent=1) + "\n")
