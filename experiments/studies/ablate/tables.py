"""The terminal's tables of ``layerscope ablate``."""

from __future__ import annotations

from ...sweep.tables import tables as tables
