"""Options of ``layerscope calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...calibration.options import ASKED, ConfidenceOptions
from ...runs.options import option


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(ConfidenceOptions):
    """Calibration."""

    model: str | Any | None = option(
        "hub id, local folder or GGUF file; not needed with --predictions",
        None,
        metavar="M",
        in_memory=True,
    )
    predictions: Path | None = option(
        "probabilities and labels of any classifier: JSONL, JSON, CSV, TSV or npz",
        None,
        metavar="FILE",
    )
    labelled: Path | None = option(
        "labelled texts for a --model that classifies texts: JSONL, JSON, "
        "CSV or TSV with text and label",
        None,
        metavar="FILE",
    )
    text: tuple[str, ...] = option(
        "a text whose every next token a language model predicts (repeatable)", (), metavar="TEXT"
    )
    group_by: tuple[str, ...] = option(
        "compare accuracy, calibration and errors between the values of this column of "
        "--predictions or --labelled (repeatable)",
        (),
        metavar="COLUMN",
        aliases=("by",),
    )
    positive: str | None = option(
        "with --group-by and two classes: the class whose false positives and negatives are "
        "counted (default: the second)",
        None,
        metavar="CLASS",
    )
    # What a model says of its confidence is the command ask's; earlier versions took these here.
    confidence: tuple[str, ...] = option(
        "see layerscope ask --confidence", (), choices=ASKED, aliases=("ask",), hidden=True
    )
    samples: int = option("see layerscope ask --samples", 10, least=1, hidden=True)
