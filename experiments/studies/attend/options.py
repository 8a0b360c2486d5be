"""Options of ``layerscope attend``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runs.options import option
from ...runs.shared_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class AttendOptions(RunOptions):
    """What every head looks at."""

    corpus: Path | None = option("annotated sentences, CoNLL-U", None, metavar="FILE")
    prompts: Path | None = option(
        "or texts without annotation, JSONL with prompt", None, metavar="FILE"
    )
    text: tuple[str, ...] = option("or a text (repeatable)", (), metavar="TEXT")
    limit: int | None = option("use the first N sentences or prompts", None, metavar="N", least=1)
    effects: Path | None = option(
        "a finished ablation of heads, to compare effects with attention", None, metavar="DIR"
    )
    checkpoints: Path | None = option(
        "a folder of models of one training run, named by their step: how each head comes to look where it looks",
        None,
        metavar="DIR",
    )
    show: int = option("texts whose patterns the page shows", 6, metavar="N")
    flow: bool = option(
        "also attention flow through all layers, for the texts that are shown", False
    )
    batch_tokens: int = option("tokens of the texts that share a batch", 4096, least=1)

    @property
    def source(self) -> Path:
        """The file of sentences or prompts."""
        return self.corpus or self.prompts or Path()
