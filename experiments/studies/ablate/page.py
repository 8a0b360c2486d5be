"""The page of ``layerscope ablate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...report.controls import GRID, OVER_PROMPTS, TURNED
from ...report.parts import Page
from ...sweep.page import effects_page

CONTROLS = (OVER_PROMPTS, GRID, TURNED)
"""What each control rules out."""


def page(results: Mapping[str, Any]) -> Page:
    """The page of a run, as parts."""
    return effects_page(results)
