"""What ``layerscope usage`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...report.schema import Interval, entry
from ...sweep.records import EffectRecord, EffectResults, Mean


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What probes read of a layer before and after the property is erased there."""

    property: str = entry("the property")
    decodable: float = entry("test accuracy of a linear probe", "share")
    decodable_interval: Interval | None = entry("its 95% interval over sentences", "share")
    majority: float = entry("share of the most frequent class", "share")
    erased_linear: float = entry("accuracy of a linear probe after the erasure", "share")
    erased_mlp: float = entry("accuracy of a small network after the erasure", "share")
    erased_rank: int = entry("directions that are erased")
    erased_change: float = entry("share of the vectors that the erasure removes", "share")
    l2: float = entry("the probe's penalty")
    converged: bool = entry("whether the probe's solver converged")
    n_train: int = entry("training words")
    n_test: int = entry("test words")


@dataclass(frozen=True, kw_only=True)
class UsageRecord(EffectRecord, Decoding):
    """The effect of a change of one layer, with what probes read there."""

    pushed_to: str | None = entry(
        "the class that vectors are moved to; null for the erasure", default=None
    )


@dataclass(frozen=True, kw_only=True)
class Results(EffectResults):
    """A study of usage."""

    lists_parts: ClassVar[bool] = False

    records: list[UsageRecord] = entry("one for each layer and change")
    baseline: Mean = entry("the metric without edits")
