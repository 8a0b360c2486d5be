"""Options of a model's confidence, shared by ``calibrate`` and ``ask --confidence``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..runs.options import option
from ..runs.shared_options import SKIP, RunOptions

SOURCES = ("predictions", "labelled", "text", "questions", "prompts", "pairs")
"""Options of which one says what is measured; ``ask`` has the last three."""

ASKED = ("p_true", "verbalised", "sampled")
"""Ways to ask a model how sure it is."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions(RunOptions):
    """Texts, wording and measures of confidence."""

    questions: Path | None = option(
        "questions with choices and answer: JSONL, JSON, CSV or TSV", None, metavar="FILE"
    )
    prompts: Path | None = option(
        "prompts with answer and, optionally, wrong: JSONL, JSON, CSV or TSV", None, metavar="FILE"
    )
    pairs: Path | None = option("minimal pairs: JSONL, JSON, CSV or TSV", None, metavar="FILE")
    limit: int | None = option(
        "use only the first N rows (default: all)", None, metavar="N", least=1
    )
    validation: Path | None = option(
        "a file in the same format to fit scalings on", None, metavar="FILE"
    )
    split: float = option(
        "fit scalings on this share of the groups, drawn at random, and measure the rest",
        0.0,
        most=1,
    )
    bins: int = option("number of bins of equal width", 15, least=2)
    choices: str = option(
        "judge a question's choices by their text or their letter",
        "text",
        choices=("text", "letter"),
    )
    confidence: tuple[str, ...] = option(
        "ask the model how sure it is: p_true, verbalised or sampled (repeatable)",
        (),
        choices=ASKED,
    )
    samples: int = option("answers drawn for each question with --confidence sampled", 10, least=1)
    templates: Path | None = option(
        "folder with files that replace the wording of questions", None, metavar="DIR"
    )
    skip: float = option(SKIP, 0.1, metavar="SHARE", most=1)
    chat: bool = option("ask through the tokenizer's chat template", False)

    @property
    def source(self) -> Path:
        """The file that is measured; no path where texts are."""
        for name in SOURCES:
            if isinstance(path := getattr(self, name, None), Path):
                return path
        return Path()
