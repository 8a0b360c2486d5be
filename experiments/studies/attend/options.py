"""Options of ``layerscope attend``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import SKIP, RunOptions


@dataclass(frozen=True, kw_only=True)
class AttendOptions(RunOptions):
    """Attention."""

    corpus: Path | None = option("annotated sentences, CoNLL-U", None, metavar="FILE")
    prompts: Path | None = option(
        "texts without annotation, JSONL with prompt (or audio, for a speech model)",
        None,
        metavar="FILE",
    )
    text: tuple[str, ...] = option("a text, instead of a file (repeatable)", (), metavar="TEXT")
    limit: int | None = option(
        "use only the first N sentences or prompts (default: all)", None, metavar="N", least=1
    )
    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)
    effects: Path | None = option(
        "a finished ablation of heads, to compare effects with attention", None, metavar="DIR"
    )
    checkpoints: Path | None = option(
        "a folder of checkpoints of one training run, named by step: "
        "follow how each head's attention develops",
        None,
        metavar="DIR",
    )
    show: int = option("number of texts whose patterns the page shows", 6, metavar="N")
    flow: bool = option("also show attention flow through all layers for these texts", False)
    batch_tokens: int = option("tokens per batch", 4096, least=1)

    @property
    def source(self) -> Path:
        """The file of sentences or prompts."""
        return self.corpus or self.prompts or Path()
