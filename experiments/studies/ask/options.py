"""Options of ``layerscope ask``."""

from __future__ import annotations

from dataclasses import dataclass

from ...calibration.options import ConfidenceOptions
from ...runs.options import option


@dataclass(frozen=True, kw_only=True)
class AskOptions(ConfidenceOptions):
    """What a model says about its answers: its reasons, or its confidence."""

    reasons: bool = option(
        "ask which words mattered, and remove them (the default without --confidence; needs --prompts)",
        False,
    )
    null_draws: int = option(
        "with --reasons: draws of as many random words", 20, least=1, aliases=("random",)
    )
    attribution: str = option(
        "with --reasons: attribution method whose top words are the yardstick", "leave-one-out"
    )
    removal: str | None = option(
        "with --reasons: what replaces a removed word: delete, mask, pad, mean, ... (default: deleted if words remain)",
        None,
    )
