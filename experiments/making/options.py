"""Options of ``layerscope make``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs.options import option

DATASETS = {
    "ioi": "prompts with two names, of which one is repeated and the other is the answer",
    "agreement": "minimal pairs of subject and verb with a noun between them",
    "names": "prompts with a name, answered by the pronoun that refers to it",
    "questions": "questions about well-known facts with four choices",
}


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """Data set."""

    model: str | Any = option(
        "hub id, local folder or GGUF file; every answer is a single token of this model",
        metavar="M",
        in_memory=True,
    )
    out: Path | None = option("output file (default: DATASET.jsonl)", None, metavar="FILE")
    n: int = option("maximum number of items", 100, least=1)
    seed: int = option("seed of every random draw", 0)
    bos: str = option("token placed in front of each text: auto, always, never, or a token", "auto")
    trust_remote_code: bool = option(
        "allow model code that is stored with the weights to run", False
    )
