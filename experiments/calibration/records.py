"""What is written of a confidence that was judged, in ``calibrate``, ``ask --confidence`` and
``probe --calibration``.

A number that cannot be had is null: an AUROC where all answers are right, the ends of an interval
where all rows are of one group. What needs whole distributions is left out where there are none.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..report.schema import Interval, entry


@dataclass(frozen=True, kw_only=True)
class BinRecord:
    """The rows with a confidence between two edges; one on an edge belongs to the lower bin."""

    interval: Interval = entry("edges of the bin")
    n: int = entry("rows in it", "rows")
    confidence: float = entry("mean confidence")
    accuracy: float = entry("share of these that are correct")
    accuracy_interval: Interval | None = entry("its 95% interval")
    chance_interval: Interval = entry(
        "2.5th to 97.5th percentile of the accuracy of a perfectly calibrated model"
    )


@dataclass(frozen=True, kw_only=True)
class CoverageRecord:
    """The error rate when only the most confident answers are given."""

    share: list[float] = entry("share of the answers that are given")
    risk: list[float] = entry("error rate of those")
    best: list[float] = entry("error rate if right answers came first")


@dataclass(frozen=True, kw_only=True)
class ClassCalibrationRecord:
    """How the probability of one class fits its frequency."""

    label: str = entry("the class")
    support: int = entry("rows with this label", "rows")
    share: float = entry("share of the rows with this label")
    probability: float = entry("mean probability of the class")
    ece: float = entry("expected calibration error of the class's own probability")
    ece_chance: float = entry("that of a perfectly calibrated model of these probabilities")


@dataclass(frozen=True, kw_only=True)
class JudgedRecord:
    """One confidence against correctness."""

    method: str = entry("the confidence")
    n: int = entry("rows", "rows")
    n_answered: int = entry("rows that have a confidence", "rows")
    n_clusters: int = entry("groups that intervals resample", "groups")
    n_refused: int | None = entry("answers that refuse to give a confidence", "rows", default=None)
    n_unparsable: int | None = entry(
        "answers from which no confidence can be read", "rows", default=None
    )
    accuracy: float = entry("share of all rows that are correct")
    accuracy_interval: Interval | None = entry("its 95% interval")
    squared_error_all: float = entry(
        "mean of (confidence - correct)^2, with 1/2 for a row without a confidence"
    )
    squared_error_all_interval: Interval | None = entry("its 95% interval")
    measured: bool = entry(
        "false if too few rows have a confidence: the fields below are then null or absent"
    )

    confidence: float | None = entry("mean confidence")
    confidence_interval: Interval | None = entry("its 95% interval")
    overconfidence: float | None = entry(
        "mean confidence minus accuracy, over rows with a confidence"
    )
    overconfidence_interval: Interval | None = entry("its 95% interval")
    ece: float | None = entry("expected calibration error, bins of equal width")
    ece_interval: Interval | None = entry("its 95% interval")
    ece_chance: float | None = entry("ECE of a perfectly calibrated model of these confidences")
    ece_p: float | None = entry("probability that such a model has an ECE at least as large")
    ece_p_holm: float | None = entry(
        "the same, Holm-corrected over the confidences of the run", default=None
    )
    ece_mass: float | None = entry("expected calibration error, bins of equal mass")
    ece_mass_interval: Interval | None = entry("its 95% interval")
    ece_mass_chance: float | None = entry(
        "that of a perfectly calibrated model of these confidences"
    )
    maximum_error: float | None = entry("largest gap between accuracy and confidence of a bin")
    squared_error: float | None = entry("mean of (confidence - correct)^2, from 0 to 1")
    squared_error_interval: Interval | None = entry("its 95% interval")
    auroc: float | None = entry(
        "how often a correct answer has a higher confidence than a wrong one"
    )
    auroc_interval: Interval | None = entry("its 95% interval")
    aurc: float | None = entry("area under the risk-coverage curve")
    aurc_interval: Interval | None = entry("its 95% interval")
    aurc_best: float | None = entry("that area for the best order, with correct answers first")
    n_values: int | None = entry("different confidences, at six digits")
    commonest: float | None = entry("the most frequent one")
    commonest_share: float | None = entry("share of rows with this value")

    brier: float | None = entry("Brier score of whole distributions, from 0 to 2", default=None)
    brier_interval: Interval | None = entry("its 95% interval", default=None)
    reliability: float | None = entry(
        "reliability term of the Brier score: the cost of miscalibration", default=None
    )
    resolution: float | None = entry(
        "resolution term: the gain from distinguishing rows", default=None
    )
    uncertainty: float | None = entry(
        "uncertainty term: the Brier score of the label frequencies", default=None
    )
    within: float | None = entry("binning term: what varies inside the bins", default=None)
    n_impossible: int | None = entry(
        "rows with probability 0 for their label; nll is then infinite", "rows", default=None
    )
    nll: float | None = entry(
        "negative log-likelihood of the label, where it is finite", "nats", default=None
    )
    nll_interval: Interval | None = entry("its 95% interval", "nats", default=None)
    classwise: float | None = entry(
        "mean over classes of the ECE of each class's own probability", default=None
    )
    classwise_chance: float | None = entry(
        "that of a perfectly calibrated model of these probabilities", default=None
    )
    classes: list[ClassCalibrationRecord] = entry("one for each class", default=[])

    bins: list[BinRecord] = entry("one for each bin with rows", default=[])
    coverage: CoverageRecord | None = entry("risk at each coverage", default=None)

    @classmethod
    def unmeasured(cls, **given: Any) -> JudgedRecord:
        """The record of a confidence that too few rows have."""
        required = (
            item.name
            for item in fields(cls)
            if item.default is MISSING and item.default_factory is MISSING
        )
        return cls(**{**dict.fromkeys(required), **given, "measured": False})

    @property
    def unanswered(self) -> list[str]:
        """Rows without a confidence, by reason: ``3 refused``."""
        counts = (("refused", self.n_refused), ("unparsable", self.n_unparsable))
        return [f"{count} {reason}" for reason, count in counts if count]


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """Two confidences compared on the rows that both answered."""

    a: str = entry("the first confidence")
    b: str = entry("the other")
    n: int = entry("rows that both answered", "rows")
    difference: float | None = entry(
        "mean squared error of b minus that of a: below 0, b is better"
    )
    difference_interval: Interval | None = entry("its 95% interval; null below 6 groups")
    p: float | None = entry(
        "p of no difference, paired over groups: sign flips and studentised bootstrap, "
        "below 0.05 exactly if the interval excludes 0; null below 6 groups"
    )
    p_holm: float | None = entry("Holm-corrected over all comparisons")


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """One measure of one group of rows."""

    by: str = entry("the column that rows are compared by")
    group: str = entry("its value in these rows")
    measure: str = entry(
        "accuracy, overconfidence, predicted, false_positives, false_negatives, ece or ece_chance"
    )
    label: str | None = entry("the class that it is of; null for all")
    value: float = entry("the group's value")
    value_interval: Interval | None = entry("its 95% interval; null for one group of rows")
    n: int = entry("number of rows in the mean", "rows")


@dataclass(frozen=True, kw_only=True)
class GroupDifferenceRecord:
    """One measure compared between two groups of rows."""

    by: str = entry("the column that rows are compared by")
    measure: str = entry("the measure")
    label: str | None = entry("the class that it is of; null for all")
    a: str = entry("the first group")
    b: str = entry("the second group, or all others")
    difference: float = entry("value of b minus that of a")
    difference_interval: Interval | None = entry("its 95% interval")
    p: float | None = entry(
        "permutation test of no difference; below 0.05 exactly if the interval excludes 0; "
        "null where it cannot be"
    )
    p_holm: float | None = entry("Holm-corrected over all comparisons of the column")


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """A wrong answer."""

    method: str = entry("the confidence")
    text: str = entry("what the row is")
    gold: str = entry("the right answer")
    predicted: str = entry("the answer that was given")
    confidence: float | None = entry("its confidence; null if there is none")
