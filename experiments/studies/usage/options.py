"""Options of ``layerscope usage``."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import (
    EffectsOptions,
    EngineOptions,
    ProbesOptions,
    TextsOptions,
    WordsOptions,
)
from ...sweep.positions import AUTO, positions_option


@dataclass(frozen=True, kw_only=True)
class UsageOptions(WordsOptions, ProbesOptions, TextsOptions, EffectsOptions, EngineOptions):
    """A property probed at every layer, erased there, and missed or not by the model."""

    property: str = option("a property of words: upos, feats:Number, ...", metavar="P")
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): measure what it still reads of the test sentences instead",
        None,
        metavar="FILE",
    )
    eraser: str = option("how it is erased", "leace", choices=("leace", "inlp"))
    positions: str = positions_option(AUTO)
    push: float = option(
        "also put the property where each class has its mean, times this; 0 does not",
        0.0,
        least=-inf,
    )
    null_draws: int = option(
        "random changes as large as the erasure to compare with", 5, metavar="N", aliases=("null",)
    )
