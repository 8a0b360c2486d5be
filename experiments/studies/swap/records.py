"""What ``layerscope swap`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import Interval, StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class SwapRecord:
    """How far the answers move when the words of a list are swapped."""

    list: str = entry("the list of words")
    kind: str = entry(
        "swap (a for b, and b for a), same side (other words of the same side) "
        "or random (as many other words)"
    )
    metric: str = entry("what is measured")
    unit: str = entry("its unit")
    n: int = entry("texts with words of one side of the list", "texts")
    n_clusters: int = entry("groups that intervals resample", "groups")
    effect: float | None = entry(
        "swap: mean of the metric with the words of b minus that with the words of a",
        "the metric's",
    )
    effect_interval: Interval | None = entry(
        "its 95% interval; null below 6 groups", "the metric's"
    )
    p: float | None = entry(
        "p of no effect: sign flips and studentised bootstrap, "
        "below 0.05 exactly if the interval excludes 0; null below 6 groups"
    )
    p_holm: float | None = entry("Holm-corrected over the lists")
    size: float = entry("mean size of the change, in either direction", "the metric's")
    size_interval: Interval | None = entry("its 95% interval", "the metric's")
    beyond: float | None = entry(
        "swap: its size minus that of random swaps in the same texts", "the metric's"
    )
    beyond_interval: Interval | None = entry(
        "its 95% interval; null below 6 groups", "the metric's"
    )
    beyond_p: float | None = entry("p of no difference between the sizes, paired over texts")
    beyond_p_holm: float | None = entry("Holm-corrected over the lists")
    flips: float | None = entry("classifiers: share of texts with another predicted class", "share")
    flips_interval: Interval | None = entry("its 95% interval", "share")


@dataclass(frozen=True, kw_only=True)
class MovedText:
    """A text and what the swap does to it."""

    list: str = entry("the list of words")
    text: str = entry("the text")
    swapped: str = entry("the text with the words swapped")
    before: float = entry("metric of the text", "the metric's")
    after: float = entry("metric of the swapped text", "the metric's")
    random: float = entry("mean size of the change under random swaps", "the metric's")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A swap test."""

    records: list[SwapRecord] = entry("one for each list and kind of swap")
    texts: list[MovedText] = entry("the texts with the largest changes")
    positive: str | None = entry("for classifiers: the class that is measured", default=None)
