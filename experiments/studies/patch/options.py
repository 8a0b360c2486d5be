"""Options of ``layerscope patch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import SKIP, EffectsOptions
from ...sweep.positions import ALL, positions_option


@dataclass(frozen=True, kw_only=True)
class PatchOptions(EffectsOptions):
    """Activation patching."""

    clean: Path = option(
        "prompts, JSONL with prompt, answer, wrong and, optionally, corrupted", metavar="FILE"
    )
    corrupted: Path | None = option(
        "corrupted prompts, one for each line of --clean (default: the field 'corrupted')",
        None,
        metavar="FILE",
    )
    by: str = option("what is patched", "head", choices=("head", "position", "layer"))
    site: str | None = option(
        "site to patch in each block (default: attn.hook_z by head, hook_resid_pre by position)",
        None,
    )
    direction: str = option(
        "denoising (clean values into the corrupted run), noising (the reverse), or both",
        "both",
        choices=("both", "denoising", "noising"),
    )
    positions: str = positions_option(ALL)
    metric: str = option("metric", "logit_difference")
    limit: int | None = option(
        "use only the first N prompts (default: all)", None, metavar="N", least=1
    )
    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)
