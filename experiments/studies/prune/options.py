"""Options of ``layerscope prune``."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.options import option
from ...runs.shared_options import TextsOptions


@dataclass(frozen=True, kw_only=True)
class PruneOptions(TextsOptions):
    """The least important heads cut out of the weights, step by step."""

    steps: int | None = option(
        "stop after so many steps (default: at one head a layer)", None, metavar="N", least=1
    )
    null_draws: int = option(
        "models with as many heads drawn at random to compare with; 0 skips them",
        2,
        aliases=("random",),
    )
