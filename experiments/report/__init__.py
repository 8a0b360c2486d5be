"""One self-contained HTML page per run, made from its results.json: readable offline, with no request.

>>> from experiments.report import render_report
>>> render_report({"schema": 1, "kind": "probe", "records": []}).startswith("<!doctype html>")
True
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .curves import layer_curves_svg
from .page import forced_past, page_of, rendered

__all__ = ["layer_curves_svg", "render_report", "write_report"]


def render_report(results: dict[str, Any]) -> str:
    """The report as one HTML text.

    Args:
        results: the content of results.json (schema 1).
    Raises:
        ValueError: no report exists for this kind of run; the message names the kinds there are.
    """
    return rendered(page_of(results), forced_past(results))


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the report of `results` to `path`; a reader sees the old file or the new, never half."""
    path = Path(path)
    text = render_report(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
