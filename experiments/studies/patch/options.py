"""Options of ``layerscope patch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import SKIP, EffectsOptions
from ...sweep.positions import ALL, positions_option


@dataclass(frozen=True, kw_only=True)
class PatchOptions(EffectsOptions):
    """Values of one run put into another, one head, position or layer at a time."""

    clean: Path = option(
        "prompts, JSONL with prompt, answer, wrong and perhaps corrupted", metavar="FILE"
    )
    corrupted: Path | None = option(
        "the corrupted prompts, a line for each of --clean (default: their 'corrupted')",
        None,
        metavar="FILE",
    )
    by: str = option("what is patched", "head", choices=("head", "position", "layer"))
    site: str | None = option(
        "another site of a block (default: by head attn.hook_z, by position hook_resid_pre)", None
    )
    direction: str = option(
        "clean into corrupted, corrupted into clean",
        "both",
        choices=("both", "denoising", "noising"),
    )
    positions: str = positions_option(ALL)
    metric: str = option("what is measured", "logit_difference")
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)
    skip: float = option(SKIP, 0.1, metavar="SHARE")
