"""Options of ``layerscope ablate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import EffectsOptions, EngineOptions, TextsOptions
from ...sweep.positions import AUTO, positions_option


@dataclass(frozen=True, kw_only=True)
class AblateOptions(TextsOptions, EffectsOptions, EngineOptions):
    """Ablation."""

    component: str = option(
        "what is ablated", "heads", choices=("heads", "neurons", "mlps", "attentions", "layers")
    )
    value: str = option(
        "what replaces it",
        "zero",
        choices=("zero", "mean", "mean-position", "resample", "optimal"),
    )
    race: int | None = option(
        "find the K largest effects: other parts stop early, without running on all prompts",
        None,
        metavar="K",
        least=1,
    )
    positions: str = positions_option(AUTO)
    steps: int = option("with --value optimal: steps of gradient descent", 50, least=1)
    reference: Path | None = option(
        "prompts that supply the values for mean and resample (default: the measured prompts)",
        None,
        metavar="FILE",
    )
    probe: Path | None = option(
        "a saved probe (DIR/probes/... of a probing run) whose prediction is the metric",
        None,
        metavar="FILE",
    )
    corpus: Path | None = option("with --probe: annotated sentences, CoNLL-U", None, metavar="FILE")

    @property
    def source(self) -> Path:
        """The file of prompts, pairs or sentences."""
        return self.corpus or super().source
