"""The terminal's tables of ``layerscope calibrate``."""

from __future__ import annotations

from ...calibration.tables import confidence_tables as tables

__all__ = ["tables"]
