"""Options of ``layerscope doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.shared_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(RunOptions):
    """Checks of every site on this model."""
