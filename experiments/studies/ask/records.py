"""What ``layerscope ask`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...calibration.records import ComparisonRecord, ErrorRecord, JudgedRecord
from ...report.schema import Interval, StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class WordsRecord:
    """One kind of words, removed."""

    words: Literal["named", "random", "attribution"] = entry(
        "named by the model, drawn, or an attribution's top words"
    )
    unit: str = entry("unit of the effects")
    effect: float = entry("value of the text minus its value without the words, mean over prompts")
    effect_interval: Interval | None = entry("its 95% interval; null below 6 groups of prompts")
    over_random: float | None = entry(
        "effect minus that of as many random words; null for the random words themselves"
    )
    over_random_interval: Interval | None = entry(
        "its 95% interval; null below 6 groups of prompts"
    )
    p: float | None = entry(
        "of over_random being 0: sign flips and studentised bootstrap over groups, "
        "below 0.05 exactly if its interval excludes 0; null below 6 groups"
    )
    p_holm: float | None = entry("Holm-corrected over both kinds of words")
    n: int = entry("prompts that are tested", "prompts")
    n_clusters: int = entry("groups that are resampled", "groups")


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """One prompt, and what the model names."""

    text: str = entry("the prompt")
    answer: str = entry("the continuation that the model prefers")
    said: str = entry("the model's answer to the question which words mattered")
    named: list[str] = entry("words of the prompt that the model names")
    absent: list[str] = entry("named words that are not in the prompt")
    reason: str = entry(
        "why it is not tested: refused, unparsable, or everything; empty where it is"
    )
    n_words: int = entry("words of the prompt", "words")
    clean: float = entry("value of the whole prompt")
    named_effect: float | None = entry(
        "effect of removing the named words; null where it is not tested"
    )
    random_effect: float | None = entry("effect of as many random words, mean over draws")
    attribution_effect: float | None = entry("effect of as many top words of the attribution")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """Reasons or confidences."""

    records: list[WordsRecord | JudgedRecord] = entry(
        "one for each kind of words (reasons), or for each confidence"
    )
    prompts: list[PromptRecord] = entry("reasons: one for each prompt", default=[])
    comparisons: list[ComparisonRecord] = entry(
        "confidence: the first against each other one", default=[]
    )
    errors: list[ErrorRecord] = entry(
        "confidence: the wrong answers with the highest first confidence", default=[]
    )
    source: str = entry("confidence: what was measured: questions, prompts or pairs", default="")

    @property
    def words(self) -> list[WordsRecord]:
        """The records of reasons."""
        return [record for record in self.records if isinstance(record, WordsRecord)]

    @property
    def confidences(self) -> list[JudgedRecord]:
        """The records of confidence."""
        return [record for record in self.records if isinstance(record, JudgedRecord)]
