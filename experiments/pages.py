"""The page of a finished run: one self-contained HTML file, made from its ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerscope.errors import InputError

from .report.parts import Page
from .report.render import forced_past, rendered, write_page
from .runs.folder import write_text
from .studies import STUDIES
from .tidy import as_csv, tidy_rows


def page_of(results: Mapping[str, Any]) -> Page:
    """The page of a run, as parts.

    Raises:
        InputError: no study has this name; the message gives those there are.
    """
    kind = str(results.get("kind"))
    if kind not in STUDIES:
        raise InputError(f"expected results of kind {' or '.join(STUDIES)}, got {kind!r}")
    return STUDIES[kind].page(results)


def render_report(results: Mapping[str, Any]) -> str:
    """The report as one HTML text."""
    return rendered(page_of(results), forced_past(results))


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report of a run; a reader sees the old file or the new, never half."""
    write_page(page_of(results), Path(path), forced_past(results))


def complete(results: Mapping[str, Any], folder: Path) -> Exception | None:
    """Make the page and ``records.csv`` of a run whose results are saved, unless they are there; returns what went wrong, if
    anything did."""
    path, table = folder / "report.html", folder / "records.csv"
    if path.exists() and table.exists():
        return None
    try:
        write_text(table, as_csv(tidy_rows(results)))
        write_report(results, path)
    except Exception as error:
        return error
    return None
