"""The terminal's tables of ``layerscope patch``."""

from __future__ import annotations

from ...sweep.tables import tables as tables
