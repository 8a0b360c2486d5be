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
    """Usage (amnesic probing)."""

    property: str = option("property of words: upos, feats:Number, ...", metavar="P")
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run): "
        "the metric is what it still reads on the test sentences",
        None,
        metavar="FILE",
    )
    eraser: str = option("erasure method", "leace", choices=("leace", "inlp"))
    positions: str = positions_option(AUTO)
    push: float = option(
        "also set the property to each class's mean, scaled by this factor; 0 skips it",
        0.0,
        least=-inf,
    )
    null_draws: int = option(
        "number of random changes of the same size to compare with",
        5,
        metavar="N",
        aliases=("null",),
    )
