"""One set of confidences judged: every measure of calibration with its interval, the diagram's
bins, the risk at each coverage.

What it judges is a `Judged`: a confidence and whether it was right, row by row, and where they are
known the whole distributions. A row without a confidence (a refusal, an answer that cannot be
parsed) is NaN: it is counted, it is left out of measures of the confidence itself, and in
``squared_error_all`` it stands at 1/2, so that silence does not pay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...probes import calibration as cal
from ...probes.evaluation import ClusterBootstrap, holm, mean_effects
from ..report.schema import Estimate, Interval, estimated
from .predictions import Predictions
from .records import (
    BinRecord,
    ClassCalibrationRecord,
    ComparisonRecord,
    CoverageRecord,
    ErrorRecord,
    JudgedRecord,
)

REPLICATES, WEIGHTS = 2000, 20_000_000
"""Resamples, and the most weights of clusters that are held: many rows have fewer resamples,
at least 200.
"""
COVERAGES = tuple(round(k / 20, 2) for k in range(1, 21))
N_ERRORS = 30
"""Mistakes that are kept."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Judged:
    """What one method said of the same answers as the others of its run.

    Args:
        method: its name.
        confidence: NaN where there is none.
        probabilities, labels, classes: the whole distributions, where the confidence is their
            largest.
        counts: rows without a confidence, by reason.
    """

    method: str
    confidence: Float[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    clusters: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"] | None = None
    labels: Int[np.ndarray, " n"] | None = None
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, method: str, predictions: Predictions, probabilities: np.ndarray | None = None
    ) -> Judged:
        """The most probable class's probability as the confidence;
        ``probabilities`` in place of the rows' own.
        """
        P = predictions.probabilities if probabilities is None else probabilities
        confidence, correct = cal.top_label(P, predictions.labels)
        classes = predictions.classes if predictions.by_class else ()
        return cls(
            method,
            np.minimum(confidence, 1.0),
            correct,
            predictions.clusters,
            P,
            predictions.labels,
            classes,
        )

    @property
    def answered(self) -> Bool[np.ndarray, " n"]:
        """The rows that have a confidence."""
        return np.isfinite(self.confidence)


def bootstrap(clusters: Int[np.ndarray, " n"], seed: int) -> ClusterBootstrap:
    """Resamples of the clusters, as many as memory allows."""
    # Weights are a table of resamples by clusters.
    most = WEIGHTS // (int(clusters.max()) + 1)
    return ClusterBootstrap(clusters, min(REPLICATES, max(200, most)), seed)


SILENT = 0.5
"""The confidence of a row without one."""


def judge(judged: Judged, bins: int, seed: int) -> JudgedRecord:
    """The record of one method, with ``bins``, ``coverage`` and ``classes`` of its pictures and
    tables.

    Raises:
        CalibrationError: fewer rows than bins.
    """
    answered, n = judged.answered, len(judged.confidence)
    n_answered = int(answered.sum())
    boot = bootstrap(judged.clusters, seed)
    # Silence counts as a confidence of 1/2, whose squared error is 1/4 whatever is right.
    filled = np.where(answered, judged.confidence, SILENT)
    score = np.where(answered, (filled - judged.correct) ** 2, SILENT**2)
    of_all: dict[str, Any] = {
        "method": judged.method,
        "n": n,
        "n_answered": n_answered,
        "n_clusters": boot.n_clusters,
        **{f"n_{reason}": count for reason, count in judged.counts.items()},
        **spread("accuracy", boot.mean(judged.correct), boot),
        **spread("squared_error_all", boot.mean(score), boot, 0.0, 1.0),
    }
    if n_answered >= max(bins, 2):
        of_answered = _confidences(judged, bins, seed)
        of_rows = _distributions(judged, bins, boot, seed)
        return JudgedRecord(**of_all, measured=True, **of_answered, **of_rows)
    if answered.all():
        raise cal.CalibrationError(
            f"expected at least as many rows as bins, got {n} rows and {bins} bins: "
            f"give --bins {n} or less"
        )
    return JudgedRecord.unmeasured(**of_all)


def _confidences(judged: Judged, bins: int, seed: int) -> dict[str, Any]:
    """What needs a confidence: the measures over the rows that have one."""
    rows = judged.answered
    confidence, correct = judged.confidence[rows], judged.correct[rows]
    groups = np.unique(judged.clusters[rows], return_inverse=True)[1]
    boot = bootstrap(groups, seed)
    wide, equal = cal.Bins.of(confidence, bins), cal.Bins.of(confidence, bins, "mass")

    def by_chance(of_bins: cal.Bins) -> cal.Chance:
        return cal.chance(confidence, of_bins, seed=seed, correct=correct, clusters=groups)

    wide_chance, equal_chance = by_chance(wide), by_chance(equal)
    error = cal.ece_interval(confidence, correct, wide, boot, wide_chance)
    error_mass = cal.ece_interval(confidence, correct, equal, boot, equal_chance)
    over = cal.overconfidence_interval(confidence, correct, boot, wide_chance)
    squared = boot.mean(cal.squared_error(confidence, correct))
    auc, area = cal.ranking_intervals(confidence, correct, boot)
    # Rows of one group may all be right together: nothing says how often chance does that.
    p = wide_chance.p(error.value) if boot.n_clusters > 1 else None
    # The best ranking of the same answers: every right one before every wrong one.
    best = cal.risk_coverage(correct.astype(float), correct)
    gaps = wide.means(correct.astype(float)) - wide.means(confidence)
    values, counts = np.unique(np.round(confidence, 6), return_counts=True)
    return {
        **spread("confidence", boot.mean(confidence), boot, 0.0, 1.0),
        **spread("overconfidence", over, boot, -1.0, 1.0),
        **spread("ece", error, boot),
        "ece_chance": wide_chance.mean,
        "ece_p": p,
        "ece_p_holm": p,
        **spread("ece_mass", error_mass, boot),
        "ece_mass_chance": equal_chance.mean,
        "maximum_error": float(np.nanmax(np.abs(gaps))),
        **spread("squared_error", squared, boot, 0.0, 1.0),
        **spread("auroc", auc, boot),
        **spread("aurc", area, boot),
        "aurc_best": float(best.mean()),
        "n_values": len(values),
        "commonest": float(values[np.argmax(counts)]),
        "commonest_share": float(counts.max() / len(confidence)),
        "bins": _bins(confidence, correct, wide, wide_chance, boot),
        "coverage": _coverage(cal.risk_coverage(confidence, correct), best),
    }


def _bins(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    bins: cal.Bins,
    by_chance: cal.Chance,
    boot: ClusterBootstrap,
) -> list[BinRecord]:
    """The bins that hold rows."""
    low, high = cal.bin_intervals(correct, bins, boot)
    means, shares = bins.means(confidence), bins.means(correct.astype(float))
    width = 1 / len(bins.high)
    records = []
    for b, count in enumerate(bins.sums()):
        if not count:
            continue
        records.append(
            BinRecord(
                interval=Interval(float(bins.high[b] - width), float(bins.high[b])),
                n=int(count),
                confidence=float(means[b]),
                accuracy=float(shares[b]),
                accuracy_interval=Interval.between(low[b], high[b]),
                chance_interval=Interval(float(by_chance.low[b]), float(by_chance.high[b])),
            )
        )
    return records


def _coverage(risks: Float[np.ndarray, " n"], best: Float[np.ndarray, " n"]) -> CoverageRecord:
    """The error rate of the most confident shares of the rows."""
    places = [max(1, round(share * len(risks))) - 1 for share in COVERAGES]
    return CoverageRecord(
        share=list(COVERAGES),
        risk=[float(risks[i]) for i in places],
        best=[float(best[i]) for i in places],
    )


def spread(
    name: str,
    estimate: Estimate,
    boot: ClusterBootstrap,
    least: float = -math.inf,
    most: float = math.inf,
) -> dict[str, Any]:
    """A number and its interval; None for what is not finite, and for the interval where there is
    one group to resample.

    Args:
        least: the smallest value that the quantity can have; an interval ends there, and covers as
            much.
        most: the largest.
    """
    fields = estimated(name, estimate)
    ends = fields[f"{name}_interval"] if boot.n_clusters > 1 else None
    within = ends and Interval(max(ends.low, least), min(ends.high, most))
    return {**fields, f"{name}_interval": within}


def _distributions(judged: Judged, bins: int, boot: ClusterBootstrap, seed: int) -> dict[str, Any]:
    """What needs the whole distribution of a row."""
    P, y = judged.probabilities, judged.labels
    if P is None or y is None:
        return {}
    losses = cal.nll(P, y)
    parts = cal.brier_parts(P, cal.one_hot(y, P.shape[1]), bins)
    fields = {
        **spread("brier", boot.mean(cal.brier(P, y)), boot, 0.0, 2.0),
        "reliability": parts.reliability,
        "resolution": parts.resolution,
        "uncertainty": parts.uncertainty,
        "within": parts.within,
        "n_impossible": int(np.isinf(losses).sum()),
    }
    # One row that gives its label no probability makes the mean infinite.
    if np.isfinite(losses).all():
        fields |= spread("nll", boot.mean(losses), boot, 0.0)
    if judged.classes:
        fields |= _by_class(P, y, judged.classes, bins, seed)
    return fields


CLASS_DRAWS = 100
"""Draws by chance for each class."""


def _by_class(
    P: Float[np.ndarray, "n c"],
    y: Int[np.ndarray, " n"],
    names: Sequence[str],
    bins: int,
    seed: int,
) -> dict[str, Any]:
    """Each class's own probability against whether it is the label."""
    errors = cal.classwise(P, y, bins)
    classes, expected = [], []
    for k, name in enumerate(names):
        is_class, probability = y == k, np.clip(P[:, k], 0, 1)
        by_chance = cal.chance(probability, cal.Bins.of(probability, bins), CLASS_DRAWS, seed)
        expected.append(by_chance.mean)
        classes.append(
            ClassCalibrationRecord(
                label=name,
                support=int(is_class.sum()),
                share=float(is_class.mean()),
                probability=float(P[:, k].mean()),
                ece=float(errors[k]),
                ece_chance=float(by_chance.mean),
            )
        )
    means = {"classwise": float(errors.mean()), "classwise_chance": float(np.mean(expected))}
    return {**means, "classes": classes}


def judge_all(all_judged: Sequence[Judged], bins: int, seed: int) -> list[JudgedRecord]:
    """The record of every method, with the p of its ECE corrected over them."""
    records = [judge(judged, bins, seed) for judged in all_judged]
    tested = [n for n, record in enumerate(records) if record.ece_p is not None]
    corrected = holm([records[n].ece_p or 0.0 for n in tested])
    for n, p in zip(tested, corrected, strict=True):
        records[n] = replace(records[n], ece_p_holm=p)
    return records


def compare(all_judged: Sequence[Judged], seed: int) -> list[ComparisonRecord]:
    """Every method against the first on the rows that both answered: the difference of their
    squared errors (confidence - correct)^2, paired, Holm-corrected; below 0 the other is better."""
    first, rows, p = all_judged[0], [], []
    for other in all_judged[1:]:
        both = first.answered & other.answered
        n = int(both.sum())
        if n < 2:
            continue
        boot = bootstrap(np.unique(first.clusters[both], return_inverse=True)[1], seed)
        of_first = cal.squared_error(first.confidence, first.correct)[both]
        of_other = cal.squared_error(other.confidence, other.correct)[both]
        difference = mean_effects((of_other - of_first)[:, None], boot, seed=seed)
        p += difference.p.tolist()
        fields = {"a": first.method, "b": other.method, "n": n}
        rows.append({**fields, **spread("difference", difference.interval(), boot)})
    records = []
    for row, *tests in zip(rows, p, holm(p), strict=True):
        of_pair, corrected = (value if math.isfinite(value) else None for value in tests)
        records.append(ComparisonRecord(**row, p=of_pair, p_holm=corrected))
    return records


def errors_of(
    judged: Judged, texts: Sequence[str], answers: Sequence[str], gold: Sequence[str]
) -> list[ErrorRecord]:
    """The wrong answers made with most confidence."""
    # Answers without a confidence come last.
    order = np.argsort(-np.nan_to_num(judged.confidence, nan=-1.0), kind="stable")
    wrong = [int(i) for i in order if not judged.correct[i]]
    return [
        ErrorRecord(
            method=judged.method,
            text=texts[i] if texts else f"row {i + 1}",
            gold=gold[i],
            predicted=answers[i],
            confidence=float(judged.confidence[i]) if judged.answered[i] else None,
        )
        for i in wrong[:N_ERRORS]
    ]


def finding(record: JudgedRecord) -> str:
    """One paragraph in words; it claims no more than the intervals and the test support."""
    name = record.method
    if not record.measured:
        return (
            f"{name}: only {record.n_answered} of {record.n} answers gave a confidence, "
            "too few to measure."
        )
    ends = [f"n = {record.n}"]
    if record.accuracy_interval is not None:
        ends.insert(0, f"95% CI {record.accuracy_interval.text()}")
    error = f"{record.ece:.3f}"
    if record.ece_interval is not None:
        error += f" ({record.ece_interval.text()})"
    tested = f" (p {p_text(record.ece_p_holm)})" if record.ece_p_holm is not None else ""
    text = (
        f"{name}: {_verdict(record)}{tested}. The accuracy is {record.accuracy:.3f} "
        f"({', '.join(ends)}) and the mean confidence {record.confidence:.3f}. "
        f"The ECE is {error}; a perfectly calibrated model with these confidences would "
        f"have {record.ece_chance:.3f} by chance."
    )
    if record.auroc is not None:
        text += f" A right answer is more confident than a wrong one in {record.auroc:.3f} of pairs"
        text += f" ({record.auroc_interval.text()})." if record.auroc_interval else "."
    if record.n_answered < record.n:
        text += f" {record.n - record.n_answered} of {record.n} answers gave no confidence."
    return text


def p_text(p: float) -> str:
    """A p-value for a sentence."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _verdict(record: JudgedRecord) -> str:
    if record.ece_p_holm is None:
        return "miscalibration cannot be tested on a single group"
    if record.ece_p_holm >= SIGNIFICANT:
        return "not significantly miscalibrated"
    ends = record.overconfidence_interval
    assert record.overconfidence is not None
    if ends is not None and ends.low > 0:
        return f"significantly miscalibrated, overconfident by {record.overconfidence:.3f}"
    if ends is not None and ends.high < 0:
        return f"significantly miscalibrated, underconfident by {-record.overconfidence:.3f}"
    return (
        "significantly miscalibrated, but on average neither significantly overconfident nor "
        "underconfident"
    )
