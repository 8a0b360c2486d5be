"""Options of ``layerscope ask``."""

from __future__ import annotations

from dataclasses import dataclass

from ...calibration.options import ConfidenceOptions
from ...runs.options import option


@dataclass(frozen=True, kw_only=True)
class AskOptions(ConfidenceOptions):
    """Self-explanations."""

    reasons: bool = option(
        "ask which words mattered, and remove them (the default without --confidence; "
        "needs --prompts)",
        False,
    )
    null_draws: int = option(
        "with --reasons: number of random sets of as many words", 20, least=1, aliases=("random",)
    )
    attribution: str = option(
        "with --reasons: attribution method whose top words are compared", "leave-one-out"
    )
    removal: str | None = option(
        "with --reasons: how words are removed: delete, mask, pad, mean, ... (default: "
        "delete, if words remain)",
        None,
    )
