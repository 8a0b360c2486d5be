"""Options of ``layerscope neurons``."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import StoreOptions, TextsOptions, WordsOptions


@dataclass(frozen=True, kw_only=True)
class NeuronsOptions(WordsOptions, StoreOptions, TextsOptions):
    """Neurons ranked by what they say of a property, read by probes, and changed in the running model."""

    property: str = option("a property of words: upos, feats:Number, ...", metavar="P")
    dev: Path | None = option("sentences kept out of training (default: a tenth of the corpus)", None, metavar="FILE")
    test: Path | None = option(
        "sentences that are scored, and measured where no prompts or pairs are given (default: a tenth of the corpus)",
        None,
        metavar="FILE",
    )
    site: str = option("whose neurons: a block's own site, or a glob", "mlp.hook_post")
    layer: tuple[int, ...] = option("a layer (repeatable; default: all)", ())
    ranking: tuple[str, ...] = option("how neurons are ranked (repeatable; default: every way there is)", ())
    gradient: bool = option(
        "also rank by the gradient of the metric, on half of the texts; effects are then measured on the others", False
    )
    k: tuple[int, ...] = option(
        "how many of the first neurons (repeatable; 1 is always there)", (1, 4, 16, 64), least=1
    )
    value: str = option("what takes the neurons' place", "mean", choices=("mean", "zero"))
    translate: float = option("also move the neurons towards each class, times this; 0 does not", 0.0, least=-inf)
    random: int = option("random sets of as many neurons to compare with", 20)
    rotations: int = option("random rotations to compare with; 0 skips them, and the report says so", 3)
    show: int = option("how many of each ranking's first neurons the page names", 3)
