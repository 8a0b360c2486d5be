"""Options of ``layerscope make``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..runs.options import option

DATASETS = {
    "ioi": "prompts with two names, one of them again, and the other as the answer",
    "agreement": "minimal pairs of subject and verb with a noun between them",
    "names": "prompts with a name and the pronoun that takes it up",
    "questions": "questions about well-known facts with four choices",
}


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """A data set whose answers are one token of a model each."""

    model: str = option(
        "hub id, local folder or GGUF file: answers are one of its tokens", metavar="M"
    )
    out: Path | None = option("the file (default: DATASET.jsonl)", None, metavar="FILE")
    n: int = option("items, at most: fewer where the words give no more", 100, least=1)
    seed: int = option("seed of the draws", 0)
    bos: str = option("token placed in front of each text: auto, always, never, or a token", "auto")
    trust_remote_code: bool = option(
        "allow model code that is stored with the weights to run", False
    )
