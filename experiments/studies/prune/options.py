"""Options of ``layerscope prune``."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.options import option
from ...runs.shared_options import TextsOptions


@dataclass(frozen=True, kw_only=True)
class PruneOptions(TextsOptions):
    """Pruning."""

    steps: int | None = option(
        "number of steps (default: until one head per layer is left)", None, metavar="N", least=1
    )
    null_draws: int = option(
        "number of models with random heads removed to compare with; 0 skips them",
        2,
        aliases=("random",),
    )
