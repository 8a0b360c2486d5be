"""What ``layerscope calibrate`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...calibration.records import (
    ComparisonRecord,
    ErrorRecord,
    GroupDifferenceRecord,
    GroupRecord,
    JudgedRecord,
)
from ...report.schema import StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A calibration."""

    records: list[JudgedRecord] = entry("one for each confidence")
    comparisons: list[ComparisonRecord] = entry("the first confidence against each other one")
    errors: list[ErrorRecord] = entry("the wrong answers with the highest first confidence")
    source: str = entry(
        "what was measured: predictions, labelled, text, questions, prompts or pairs"
    )
    groups: list[GroupRecord] = entry(
        "with --group-by: each measure of each group of rows", default=[]
    )
    group_differences: list[GroupDifferenceRecord] = entry(
        "with --group-by: each measure compared between groups", default=[]
    )
