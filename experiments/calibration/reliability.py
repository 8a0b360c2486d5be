"""One set of confidences judged: every measure of calibration with its interval, the diagram's bins, the risk at each coverage.

What it judges is a `Judged`: a confidence and whether it was right, row by row, and where they are known the whole
distributions. A row without a confidence (a refusal, an answer that cannot be parsed) is NaN: it is counted, it is left
out of measures of the confidence itself, and in ``brier_all`` it stands at 1/2, so that silence does not pay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...probes import calibration as cal
from ...probes.evaluation import ClusterBootstrap, Interval, bootstrap_p, holm, interval
from .predictions import Predictions

REPLICATES, WEIGHTS = 2000, 20_000_000
"""Resamples, and the most weights of clusters that are held: many rows have fewer resamples, at least 200."""
COVERAGES = tuple(round(k / 20, 2) for k in range(1, 21))
N_ERRORS = 30


@dataclass(frozen=True)
class Judged:
    """What one method said of the same answers as the others of its run.

    Args:
        method: its name.
        confidence: NaN where there is none.
        probabilities, labels, classes: the whole distributions, where the confidence is their largest.
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
    def of(cls, method: str, predictions: Predictions, probabilities: np.ndarray | None = None) -> Judged:
        """The most probable class's probability as the confidence; ``probabilities`` in place of the rows' own."""
        P = predictions.probabilities if probabilities is None else probabilities
        confidence, correct = cal.top_label(P, predictions.labels)
        classes = predictions.classes if predictions.by_class else ()
        return cls(method, np.minimum(confidence, 1.0), correct, predictions.clusters, P, predictions.labels, classes)

    @property
    def answered(self) -> Bool[np.ndarray, " n"]:
        """The rows that have a confidence."""
        return np.isfinite(self.confidence)


def bootstrap(clusters: Int[np.ndarray, " n"], seed: int) -> ClusterBootstrap:
    """Resamples of the clusters, as many as memory allows."""
    most = WEIGHTS // (int(clusters.max()) + 1)
    return ClusterBootstrap(clusters, min(REPLICATES, max(200, most)), seed)


def judge(judged: Judged, bins: int, seed: int) -> dict[str, Any]:
    """The record of one method, with ``bins``, ``coverage`` and ``classes`` of its pictures and tables.

    Raises:
        CalibrationError: fewer rows than bins.
    """
    rows, n = judged.answered, len(judged.confidence)
    boot_all = bootstrap(judged.clusters, seed)
    accuracy = boot_all.mean(judged.correct.astype(float))
    record: dict[str, Any] = {
        "method": judged.method,
        "n": n,
        "n_answered": int(rows.sum()),
        "n_clusters": boot_all.n_clusters,
        **{f"n_{reason}": count for reason, count in judged.counts.items()},
        **spread("accuracy", accuracy),
    }
    score = np.where(rows, (np.where(rows, judged.confidence, 0.5) - judged.correct) ** 2, 0.25)
    record |= spread("brier_all", boot_all.mean(score))
    if rows.sum() < max(bins, 2):
        if rows.all():
            raise cal.CalibrationError(
                f"expected at least as many rows as bins, got {n} rows and {bins} bins: give --bins"
            )
        return {**record, "measured": False}
    confidence, correct, clusters = judged.confidence[rows], judged.correct[rows], judged.clusters[rows]
    boot = bootstrap(np.unique(clusters, return_inverse=True)[1], seed)
    wide, equal = cal.Bins.of(confidence, bins), cal.Bins.of(confidence, bins, "mass")
    found = cal.ece_interval(confidence, correct, wide, boot)
    by_chance, equal_chance = cal.chance(confidence, wide, seed=seed), cal.chance(confidence, equal, seed=seed)
    auc, area = cal.ranking_intervals(confidence, correct, boot)
    risks = cal.risk_coverage(confidence, correct)
    best = cal.risk_coverage(correct.astype(float), correct)
    values, counts = np.unique(np.round(confidence, 6), return_counts=True)
    record |= {
        "measured": True,
        **spread("confidence", boot.mean(confidence)),
        **spread("overconfidence", boot.mean(confidence - correct)),
        **spread("ece", found),
        "ece_chance": by_chance.mean,
        "ece_p": by_chance.p(found.value),
        **spread("ece_mass", cal.ece_interval(confidence, correct, equal, boot)),
        "ece_mass_chance": equal_chance.mean,
        "maximum_error": float(np.nanmax(np.abs(wide.means(correct.astype(float)) - wide.means(confidence)))),
        **spread("brier_top", boot.mean((confidence - correct) ** 2)),
        **spread("auroc", auc),
        **spread("aurc", area),
        "aurc_best": float(best.mean()),
        "n_values": len(values),
        "commonest": float(values[np.argmax(counts)]),
        "commonest_share": float(counts.max() / len(confidence)),
    }
    record |= _distributions(judged, bins, boot_all, seed)
    low, high = cal.bin_intervals(correct, wide, boot)
    means, shares = wide.means(confidence), wide.means(correct.astype(float))
    record["bins"] = [
        {
            "low": float(wide.high[b] - 1 / bins),
            "high": float(wide.high[b]),
            "n": int(count),
            "confidence": float(means[b]),
            "accuracy": float(shares[b]),
            "accuracy_low": float(low[b]),
            "accuracy_high": float(high[b]),
            "chance_low": float(by_chance.low[b]),
            "chance_high": float(by_chance.high[b]),
        }
        for b, count in enumerate(wide.sums())
        if count
    ]
    at = [max(1, round(c * len(risks))) - 1 for c in COVERAGES]
    record["coverage"] = {
        "share": list(COVERAGES),
        "risk": [float(risks[i]) for i in at],
        "best": [float(best[i]) for i in at],
    }
    return record


def spread(name: str, found: Interval) -> dict[str, float | None]:
    """An interval as three fields; None for what is not finite."""
    fields = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: value if math.isfinite(value) else None for key, value in fields.items()}


def _distributions(judged: Judged, bins: int, boot: ClusterBootstrap, seed: int) -> dict[str, Any]:
    """What needs the whole distribution of a row."""
    P, y = judged.probabilities, judged.labels
    if P is None or y is None:
        return {}
    losses = cal.nll(P, y)
    parts = cal.brier_parts(P, cal.one_hot(y, P.shape[1]), bins)
    out: dict[str, Any] = {
        **spread("brier", boot.mean(cal.brier(P, y))),
        "reliability": parts.reliability,
        "resolution": parts.resolution,
        "uncertainty": parts.uncertainty,
        "within": parts.within,
        "n_impossible": int(np.isinf(losses).sum()),
        **(
            spread("nll", boot.mean(losses))
            if np.isfinite(losses).all()
            else dict.fromkeys(("nll", "nll_low", "nll_high"))
        ),
    }
    if judged.classes:
        errors = cal.classwise(P, y, bins)
        expected = [cal.chance(np.clip(p, 0, 1), cal.Bins.of(np.clip(p, 0, 1), bins), 100, seed).mean for p in P.T]
        out |= {"classwise": float(errors.mean()), "classwise_chance": float(np.mean(expected))}
        out["classes"] = [
            {
                "label": name,
                "support": int((y == k).sum()),
                "share": float((y == k).mean()),
                "probability": float(P[:, k].mean()),
                "ece": float(errors[k]),
                "ece_chance": float(expected[k]),
            }
            for k, name in enumerate(judged.classes)
        ]
    return out


def compare(all_judged: Sequence[Judged], seed: int) -> list[dict[str, Any]]:
    """Every method against the first on the rows that both answered: the difference of their squared errors
    (confidence - correct)^2, paired, Holm-corrected; below 0 the other is better."""
    first, out, p = all_judged[0], [], []
    for other in all_judged[1:]:
        both = first.answered & other.answered
        if both.sum() < 2:
            continue
        boot = bootstrap(np.unique(first.clusters[both], return_inverse=True)[1], seed)
        errors = [((j.confidence - j.correct) ** 2)[both] for j in (first, other)]
        columns = np.column_stack([errors[1] - errors[0], np.ones(int(both.sum()))])
        sums = boot.sums(columns)
        replicates = sums[:, 0] / sums[:, 1]
        found = interval(float(columns[:, 0].mean()), replicates)
        p.append(bootstrap_p(replicates))
        out.append({"a": first.method, "b": other.method, "n": int(both.sum()), **spread("difference", found)})
    return [{**row, "p_holm": value} for row, value in zip(out, holm(p), strict=True)]


def errors_of(
    judged: Judged, texts: Sequence[str], answers: Sequence[str], gold: Sequence[str]
) -> list[dict[str, Any]]:
    """The wrong answers made with most confidence."""
    wrong = [i for i in np.argsort(-np.nan_to_num(judged.confidence, nan=-1.0), kind="stable") if not judged.correct[i]]
    return [
        {
            "method": judged.method,
            "text": texts[i] if texts else f"row {i + 1}",
            "gold": gold[i],
            "predicted": answers[i],
            "confidence": float(judged.confidence[i]) if judged.answered[i] else None,
        }
        for i in wrong[:N_ERRORS]
    ]


def finding(record: Mapping[str, Any]) -> str:
    """One paragraph in words."""
    name = record["method"]
    if not record["measured"]:
        return f"{name}: {record['n_answered']} of {record['n']} answers gave a confidence: too few to measure."
    text = (
        f"{name}: accuracy {record['accuracy']:.3f} (95% {record['accuracy_low']:.3f}-{record['accuracy_high']:.3f}, "
        f"n = {record['n']}), mean confidence {record['confidence']:.3f}; ECE {record['ece']:.3f} "
        f"({record['ece_low']:.3f}-{record['ece_high']:.3f}), where a perfectly calibrated model of these confidences would "
        f"show {record['ece_chance']:.3f} by chance (p {p_text(record['ece_p'])}): {_verdict(record)}."
    )
    if record["auroc"] is not None:
        text += (
            f" Right answers are more confident than wrong ones in {record['auroc']:.3f} of pairs "
            f"({record['auroc_low']:.3f}-{record['auroc_high']:.3f})."
        )
    if record["n_answered"] < record["n"]:
        text += f" {record['n'] - record['n_answered']} of {record['n']} answers gave no confidence."
    return text


def p_text(p: float) -> str:
    """A p-value for a sentence."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _verdict(record: Mapping[str, Any]) -> str:
    if record["ece_p"] >= 0.05:
        return "not to be told from calibrated"
    low, high = record["overconfidence_low"], record["overconfidence_high"]
    if low > 0:
        return f"overconfident by {record['overconfidence']:.3f}"
    if high < 0:
        return f"underconfident by {-record['overconfidence']:.3f}"
    return "miscalibrated, though on average neither clearly too sure nor clearly not sure enough"
