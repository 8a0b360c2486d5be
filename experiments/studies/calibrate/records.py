"""What ``layerscope calibrate`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...calibration.records import ComparisonRecord, ErrorRecord, JudgedRecord
from ...report.schema import StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A calibration."""

    records: list[JudgedRecord] = entry("one for each confidence")
    comparisons: list[ComparisonRecord] = entry("the first confidence against each other one")
    errors: list[ErrorRecord] = entry("the wrong answers that the first confidence was surest of")
    source: str = entry("what was measured: predictions, questions, prompts or pairs")
