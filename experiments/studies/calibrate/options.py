"""Options of ``layerscope calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...calibration.options import ConfidenceOptions
from ...runs.options import option


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(ConfidenceOptions):
    """Confidence against correctness, of predictions in a file or of a language model."""

    model: str | Any | None = option(
        "hub id, local folder or GGUF file; none with --predictions",
        None,
        metavar="M",
        in_memory=True,
    )
    predictions: Path | None = option(
        "any classifier's probabilities and labels: JSONL, JSON, CSV, TSV or npz",
        None,
        metavar="FILE",
    )
