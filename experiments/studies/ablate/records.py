"""What ``layerscope ablate`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import Interval, entry
from ...sweep.records import EffectRecord, EffectResults, Mean


@dataclass(frozen=True, kw_only=True)
class AblationRecord(EffectRecord):
    """The effect of one part taken out;
    heads also with where they look on repeated random tokens.
    """

    ran_on: int | None = entry(
        "with --race: prompts that the part ran on; below all, its effect is an estimate",
        default=None,
    )
    stopped: float | None = entry(
        "with --race, of a part that stopped: its effect over all prompts, estimated from those "
        "that it ran on",
        "the metric's",
        default=None,
    )
    stopped_interval: Interval | None = entry(
        "its 95% interval: of the effect over these prompts, not over others like them",
        "the metric's",
        default=None,
    )
    previous: float | None = entry("a head's mean attention to the token before", default=None)
    duplicate: float | None = entry("to the same token's earlier occurrence", default=None)
    induction: float | None = entry("to the token after that occurrence", default=None)


@dataclass(frozen=True, kw_only=True)
class HeadPatterns:
    """Where every head looks in one text."""

    tokens: list[str] = entry("the text's tokens")
    layers: list[int] = entry("the blocks that have a pattern")
    heads: int = entry("heads of a block")
    weights: str = entry("round(255 w) by layer, head, query and key, base64")


@dataclass(frozen=True, kw_only=True)
class Results(EffectResults):
    """An ablation."""

    records: list[AblationRecord] = entry("one for each part")
    baseline: Mean = entry("the metric without edits")
    patterns: HeadPatterns | None = entry(
        "where the heads attend in the shortest text", default=None
    )
