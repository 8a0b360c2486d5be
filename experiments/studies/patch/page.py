"""The page of ``layerscope patch``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...report.controls import GRID, OVER_PROMPTS, TURNED, Control
from ...report.parts import Page
from ...sweep.page import effects_page

CONTROLS = (
    OVER_PROMPTS,
    GRID,
    TURNED,
    Control(
        "both directions",
        "a part that is enough is taken for one that is needed",
        lambda results: len({record.get("value") for record in results.get("records") or ()}) > 1,
        "--direction both",
    ),
)
"""What each control rules out."""


def page(results: Mapping[str, Any]) -> Page:
    """The page of a run, as parts."""
    return effects_page(results)
