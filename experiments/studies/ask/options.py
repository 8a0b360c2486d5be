"""Options of ``layerscope ask``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class AskOptions(RunOptions):
    """A model says which words mattered, and they are taken out."""

    prompts: Path = option("JSONL with prompt and answer, and perhaps wrong", metavar="FILE")
    limit: int | None = option("use the first N prompts", None, metavar="N", least=1)
    random: int = option("draws of as many random words", 20, least=1)
    attribution: str = option("the attribution method whose first words are compared with", "leave-one-out")
    removal: str | None = option(
        "what a word becomes that is taken out: delete, mask, pad, mean, ... (default: deleted where something stays)",
        None,
    )
    templates: Path | None = option("a folder whose files take the place of the wording", None, metavar="DIR")
    chat: bool = option("ask through the tokenizer's chat template", False)
