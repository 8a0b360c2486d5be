"""Options of ``layerscope calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runs.options import option
from ...runs.shared_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(RunOptions):
    """Confidence against correctness, of predictions in a file or of a language model."""

    model: str | Any | None = option(
        "hub id, local folder or GGUF file; none with --predictions", None, metavar="M", in_memory=True
    )
    predictions: Path | None = option("any classifier's probabilities and labels, JSONL or npz", None, metavar="FILE")
    questions: Path | None = option("JSONL with question, choices and answer", None, metavar="FILE")
    prompts: Path | None = option("JSONL with prompt and answer, and perhaps wrong", None, metavar="FILE")
    pairs: Path | None = option("minimal pairs, JSONL with sentence_good, sentence_bad", None, metavar="FILE")
    limit: int | None = option("use the first N rows", None, metavar="N", least=1)
    validation: Path | None = option("another such file, which scalings are fitted on", None, metavar="FILE")
    split: float = option("fit scalings on this share of the groups, drawn at random, and measure the rest", 0.0)
    bins: int = option("bins of equal width", 15, least=2)
    choices: str = option("a question's choices are judged by their", "text", choices=("text", "letter"))
    ask: tuple[str, ...] = option(
        "also ask the model how sure it is: p_true, verbalised or sampled (repeatable)",
        (),
        choices=("p_true", "verbalised", "sampled"),
    )
    samples: int = option("answers drawn for each question with --ask sampled", 10, least=1)
    templates: Path | None = option("a folder whose files take the place of the wording", None, metavar="DIR")
    chat: bool = option("ask through the tokenizer's chat template", False)

    @property
    def source(self) -> Path:
        """The file that is measured."""
        return self.predictions or self.questions or self.prompts or self.pairs or Path()
