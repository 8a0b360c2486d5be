"""What ``layerscope doctor`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...report.schema import StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """One check at one site."""

    check: str = entry("the check")
    site: str = entry("the site; empty for the whole model")
    status: Literal["OK", "UNSUPPORTED", "WRONG"] = entry("the verdict")
    measured: float | None = entry("the measured value; null if it is not finite")
    bound: float | None = entry("OK means at most this; for edits, a change of at least this")
    reason: str = entry("why, in a line")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A model's examination."""

    status: str = entry("WRONG if anything is, else OK")
    records: list[CheckRecord] = entry("one for each check and site")
    checks: dict[str, str] = entry("what each check compares")
