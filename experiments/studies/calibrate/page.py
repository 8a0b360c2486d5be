"""The page of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...calibration.page import CONTROLS, confidence_page
from ...calibration.page_groups import group_sections
from ...report.parts import Page
from ...report.provenance import model_name
from .records import Results

__all__ = ["CONTROLS", "page"]


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    made = confidence_page(
        results.records,
        results.comparisons,
        results.errors,
        results.findings,
        title=f"Calibration of {_name(results.provenance)}",
        command="calibrate",
        source=results.source,
    )
    compared = group_sections(results.groups, results.group_differences)
    # behind the first table: what is asked of a classifier in use comes before its diagrams
    return replace(made, sections=[*made.sections[:1], *compared, *made.sections[1:]])


def _name(provenance: Mapping[str, Any]) -> str:
    """The model, or the file of predictions."""
    if provenance.get("model"):
        return model_name(provenance)
    path = (provenance.get("config") or {}).get("predictions")
    return Path(str(path)).stem if path else "a classifier"
