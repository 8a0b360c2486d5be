"""The results of a run on standard output: its tables, findings and notes, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from .pages import blaming_edits
from .runs.console import console
from .studies import STUDIES

SHOWN = ("schema", "kind", "status", "plan", "records", "baseline", "findings", "notes")
"""What ``--json`` prints of the results; results.json holds all."""


def show(results: dict[str, Any], out: Path) -> None:
    """The table of a run on standard output, then its findings and where the report is."""
    printer = Console(width=None if console.is_terminal else 140)
    if "plan" not in results:  # a plan measured nothing
        with blaming_edits(results):
            tables = STUDIES[results["kind"]].tables(results)
        for table in tables:
            printer.print(table)
    # A person may have taken them out of a finished run's results.
    for finding in results.get("findings", ()):
        printer.print(finding["text"], highlight=False, markup=False)
    for note in results.get("notes", ()):
        if note["kind"] != "info":
            printer.print(f"{note['kind']}: {note['text']}", highlight=False, markup=False)
    if "plan" not in results:
        printer.print(f"report: {out / 'report.html'}", highlight=False, markup=False)


def show_json(results: dict[str, Any], out: Path) -> None:
    """The results on standard output, for a script."""
    printed = {"out": str(out), **{name: results[name] for name in SHOWN if name in results}}
    sys.stdout.write(json.dumps(printed, ensure_ascii=False, indent=1) + "\n")
