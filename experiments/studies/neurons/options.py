"""Options of ``layerscope neurons``."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import StoreOptions, TextsOptions, WordsOptions


@dataclass(frozen=True, kw_only=True)
class NeuronsOptions(WordsOptions, StoreOptions, TextsOptions):
    """Neurons."""

    property: str = option("property of words: upos, feats:Number, misc:NER, ...", metavar="P")
    dev: Path | None = option(
        "sentences kept out of training (default: a tenth of the corpus)", None, metavar="FILE"
    )
    test: Path | None = option(
        "sentences used for scoring, and as texts if neither prompts nor pairs are given "
        "(default: a tenth of the corpus)",
        None,
        metavar="FILE",
    )
    site: str = option("site whose neurons are ranked: a name or a glob", "mlp.hook_post")
    layer: tuple[int, ...] = option("a layer (repeatable; default: all)", ())
    ranking: tuple[str, ...] = option(
        "how neurons are ranked (repeatable; default: all rankings)", ()
    )
    gradient: bool = option(
        "also rank by the gradient of the metric on half of the texts; "
        "effects are then measured on the other half",
        False,
    )
    k: tuple[int, ...] = option(
        "number of top-ranked neurons to use (repeatable; 1 is always included)",
        (1, 4, 16, 64),
        least=1,
    )
    value: str = option("what replaces the neurons' values", "mean", choices=("mean", "zero"))
    translate: float = option(
        "also move the neurons towards each class, scaled by this factor; 0 skips it",
        0.0,
        least=-inf,
    )
    null_draws: int = option(
        "number of random sets of the same size to compare with", 20, aliases=("random",)
    )
    rotations: int = option(
        "number of random rotations to compare with; 0 skips them, and the report says so", 3
    )
    show: int = option("number of neurons of each ranking that the page describes", 3)
