r"""Is a confidence of 80% right in 80 of 100 cases? Measures of calibration from probabilities and labels alone.

A classifier gives each row a distribution over classes; its *confidence* is the largest probability and it is *correct*
if that class is the label. Bins are ``(low, high]``: equal in width, or in the number of rows that they hold.

.. math::
    \mathrm{ECE} = \sum_b \tfrac{n_b}{n}\,|\bar a_b - \bar c_b|, \qquad
    \mathrm{Brier} = \tfrac1n \sum_i \sum_k (p_{ik} - [y_i = k])^2, \qquad
    \mathrm{NLL} = -\tfrac1n \sum_i \ln p_{i y_i}

*Brier* is the score of whole distributions, from 0 to 2, and nothing else; the squared distance of a confidence from its
outcome, from 0 to 1, is `squared_error`.

An ECE is above 0 by chance alone, the more so the fewer rows: `chance` says how far a perfectly calibrated model of the
same confidences would be. For the same reason no percentile of resampled ECEs is an end of an interval: `ece_interval`.

Source: Naeini et al. 2015; Guo et al. 2017 (ECE, maximum error); Nguyen & O'Connor 2015 (equal mass); Nixon et al. 2019
(classwise); Brier 1950; Bröcker & Smith 2007 (what a calibrated forecast shows by chance); Lunn & Davies 1998 (correlated
outcomes).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from layerscope.errors import LayerscopeError

from .resampling import LEVEL, ClusterBootstrap, Interval, interval, wilson

BINS = 15
TOLERANCE = 1e-3
"""How far from 1 the probabilities of a row may sum: what single precision and printed digits leave."""
Bands = Literal["width", "mass"]
BLOCK = 1 << 22
"""Random numbers that are held at a time."""
RANKS = 128
"""Groups of confidences in resamples of rankings."""


class CalibrationError(LayerscopeError, ValueError):
    """Probabilities or labels that cannot be judged."""


def check(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> None:
    """Raise one line unless each row is a distribution and each label one of its classes.

    Raises:
        CalibrationError: no rows, fewer than two classes, NaN, a probability outside 0 to 1, a row that does not sum to 1,
            a label that is no class; the first offender is named.
    """
    n, c = P.shape
    if not n or c < 2:
        raise CalibrationError(
            f"expected rows of probabilities of at least 2 classes, got {n} rows of {c}"
        )
    bad = np.asarray(~np.isfinite(P).all(1))
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected finite probabilities, got {_shown(P[bad][0])}"
        )
    bad = np.asarray(((P < 0) | (P > 1 + TOLERANCE)).any(1))
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected probabilities from 0 to 1, got {_shown(P[bad][0])}"
        )
    bad = np.abs(P.sum(1) - 1) > TOLERANCE
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected probabilities that sum to 1, got {_shown(P[bad][0])}, which sum to "
            f"{P[bad][0].sum():.6g} (give logits as logits)"
        )
    bad = (y < 0) | (y >= c)
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected a label from 0 to {c - 1}, got {int(y[bad][0])}"
        )


def _first(bad: Bool[np.ndarray, " n"]) -> int:
    return int(np.argmax(bad)) + 1


def _shown(row: Float[np.ndarray, " c"]) -> str:
    return ", ".join(f"{v:.4g}" for v in row[:6]) + (", ..." if len(row) > 6 else "")


def top_label(
    P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Confidence and correctness of the most probable class of each row."""
    return P.max(1), P.argmax(1) == y


@dataclass(frozen=True)
class Bins:
    """Confidences in bins ``(low, high]``.

    Attributes:
        high: upper edge of each bin.
        index: the bin of each row.
        how: equal in width or in mass; rows of equal confidence share a bin, so that ties make fewer bins of equal mass.
    """

    high: Float[np.ndarray, " b"]
    index: Int[np.ndarray, " n"]
    how: Bands

    @classmethod
    def of(
        cls, confidence: Float[np.ndarray, " n"], bins: int = BINS, how: Bands = "width"
    ) -> Bins:
        """Bins of some confidences.

        Raises:
            CalibrationError: fewer rows than bins, or a confidence that is none.
        """
        n = len(confidence)
        if bins < 1 or n < bins:
            raise CalibrationError(
                f"expected at least as many rows as bins, got {n} rows and {bins} bins"
            )
        if not (
            np.isfinite(confidence).all()
            and confidence.min() >= 0
            and confidence.max() <= 1 + TOLERANCE
        ):
            raise CalibrationError("expected confidences from 0 to 1")
        if how == "width":
            high = np.arange(1, bins + 1) / bins
        else:
            ends = np.round(np.arange(1, bins + 1) * n / bins).astype(int) - 1
            high = np.unique(np.sort(confidence)[ends])
        return cls(
            high, np.minimum(np.searchsorted(high, confidence, side="left"), len(high) - 1), how
        )

    def sums(self, values: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " b"]:
        """The sum of some values in each bin, or the number of rows."""
        return np.bincount(self.index, values, minlength=len(self.high)).astype(float)

    def means(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
        """Their mean in each bin; NaN where it is empty."""
        count = self.sums()
        return np.divide(self.sums(values), count, out=np.full(len(count), np.nan), where=count > 0)


def ece(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    bins: int = BINS,
    how: Bands = "width",
) -> float:
    """Expected calibration error.

    >>> round(ece(np.full(20, 0.9), np.arange(20) < 14), 3)
    0.2
    """
    return ece_in(Bins.of(confidence, bins, how), confidence, correct)


def ece_in(
    bins: Bins, confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> float:
    """The same in bins that are made already."""
    return float(np.abs(bins.sums(correct - confidence)).sum() / len(confidence))


def maximum_error(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    bins: int = BINS,
    how: Bands = "width",
) -> float:
    """The largest gap between accuracy and confidence of any bin that holds rows."""
    made = Bins.of(confidence, bins, how)
    return float(np.nanmax(np.abs(made.means(correct.astype(float)) - made.means(confidence))))


def classwise(
    P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], bins: int = BINS
) -> Float[np.ndarray, " c"]:
    """The ECE of each class's own probability against whether it is the label; their mean is the classwise ECE."""
    return np.array([ece(np.minimum(P[:, k], 1.0), y == k, bins) for k in range(P.shape[1])])


def brier(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The Brier score of each row, from 0 to 2."""
    return ((P - one_hot(y, P.shape[1])) ** 2).sum(1)


def one_hot(y: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n c"]:
    """1 where the label is the class, else 0."""
    return (y[:, None] == np.arange(classes)).astype(float)


def squared_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    r""":math:`(c_i - [\text{correct}_i])^2` of each row, from 0 to 1; of two classes half of the row's Brier score."""
    return (confidence - correct) ** 2


@dataclass(frozen=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty + within.

    ``within`` is what bins add: the variance of the forecasts within a bin less twice their covariance with the outcome.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float

    @property
    def brier(self) -> float:
        """The score itself."""
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_parts(
    forecast: Float[np.ndarray, "n c"], outcome: Float[np.ndarray, "n c"], bins: int = BINS
) -> BrierParts:
    r"""The Brier score taken apart, summed over the classes, each in its own equal-width bins.

    .. math:: \sum_b \tfrac{n_b}{n}(\bar f_b - \bar o_b)^2 - \sum_b \tfrac{n_b}{n}(\bar o_b - \bar o)^2 + \bar o(1 - \bar o)
        + \tfrac1n \sum_i (f_i - \bar f_b)^2 - \tfrac2n \sum_i (f_i - \bar f_b)(o_i - \bar o_b)

    Source: Murphy 1973; Stephenson, Coelho & Jolliffe 2008 (the terms within bins, which make it exact).

    Raises:
        CalibrationError: one column, which is half of a score of two classes.
    """
    if forecast.shape[1] < 2:
        raise CalibrationError(
            "expected probabilities of at least 2 classes, got one column: give p and 1 - p"
        )
    total, n = np.zeros(4), len(forecast)
    for f, o in zip(forecast.T, outcome.T, strict=True):
        made = Bins.of(np.clip(f, 0, 1), bins)
        share, f_mean, o_mean = (
            made.sums() / n,
            np.nan_to_num(made.means(f)),
            np.nan_to_num(made.means(o)),
        )
        f_rest, o_rest = f - f_mean[made.index], o - o_mean[made.index]
        total += [
            share @ (f_mean - o_mean) ** 2,
            share @ (o_mean - o.mean()) ** 2,
            o.mean() * (1 - o.mean()),
            (f_rest**2 - 2 * f_rest * o_rest).mean(),
        ]
    return BrierParts(*(float(v) for v in total))


def nll(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Negative log-likelihood of each row's label in nats; infinite where it was given no probability."""
    with np.errstate(divide="ignore"):
        return -np.log(P[np.arange(len(y)), y])


def auroc(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> float:
    r"""How often a right row is more confident than a wrong one, ties half; NaN where all are right or all wrong.

    >>> auroc(np.full(4, 0.9), np.array([True, False, True, True]))
    0.5
    """
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return float("nan")
    ranks = rankdata(confidence)[correct].sum()
    return float((ranks - right * (right + 1) / 2) / (right * wrong))


def risk_coverage(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    r"""The error rate of the k most confident rows, k = 1 to n; of tied rows the expectation over their orders.

    Its mean is the area under the risk-coverage curve. Source: Geifman & El-Yaniv 2017.
    """
    order = np.argsort(-confidence, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(confidence[order]) != 0])
    size = np.diff(np.r_[first, len(order)])
    share = np.add.reduceat((~correct[order]).astype(float), first) / size
    return np.cumsum(np.repeat(share, size)) / np.arange(1, len(order) + 1)


@dataclass(frozen=True)
class Chance:
    """What a perfectly calibrated model of the same confidences would show.

    Attributes:
        ece: its ECE in each draw.
        low, high: its accuracy in each bin, 2.5th and 97.5th percentile; NaN where the bin is empty.
        gaps: accuracy less confidence of each bin in each draw, times the bin's share of the rows.
    """

    ece: Float[np.ndarray, " r"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    gaps: Float[np.ndarray, "r b"]

    @property
    def mean(self) -> float:
        """The ECE to expect."""
        return float(self.ece.mean())

    def p(self, value: float) -> float:
        """How often chance gives an ECE as large, with 1 added in both counts."""
        return float((1 + np.sum(self.ece >= value - 1e-12)) / (1 + len(self.ece)))


def chance(
    confidence: Float[np.ndarray, " n"],
    bins: Bins,
    replicates: int = 1000,
    seed: int = 0,
    *,
    correct: Bool[np.ndarray, " n"] | None = None,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Chance:
    r"""Labels drawn from the confidences themselves: correct with the probability that each row claims.

    Rows of one group (questions on one text) tend to be right together, which makes a larger ECE by chance. With ``clusters``
    each row takes, with probability :math:`\sqrt\rho`, the number that its group has drawn in place of one of its own, so that
    each row keeps its probability and rows of a group have the correlation :math:`\rho` that `correlation` finds in
    ``correct``. Source: Bröcker & Smith 2007; Vaicenavicius et al. 2019, section 5; Lunn & Davies 1998 (groups).
    """
    rng, n, width = np.random.default_rng(seed), len(confidence), len(bins.high)
    order = np.argsort(bins.index, kind="stable")
    sorted_by_bin, count = confidence[order], bins.sums()
    there = np.flatnonzero(count)
    starts = np.searchsorted(bins.index[order], there)
    together, group = 0.0, np.zeros(0, dtype=np.int64)
    if clusters is not None and correct is not None:
        together = correlation(confidence, correct, clusters) ** 0.5
        group = np.unique(clusters, return_inverse=True)[1][order]
    rights = np.zeros((replicates, width))
    step = max(1, BLOCK // n)
    for at in range(0, replicates, step):
        numbers = rng.random((min(step, replicates - at), n))
        if together:
            shared = rng.random((len(numbers), int(group.max()) + 1))[:, group]
            numbers = np.where(rng.random(numbers.shape) < together, shared, numbers)
        drawn = numbers < sorted_by_bin
        rights[at : at + len(drawn), there] = np.add.reduceat(
            drawn, starts, axis=1, dtype=np.float64
        )
    gaps = (rights - bins.sums(confidence)) / n
    shares = np.divide(rights, count, out=np.full_like(rights, np.nan), where=count > 0)
    low, high = (np.full(width, np.nan) for _ in range(2))
    low[there], high[there] = np.quantile(
        shares[:, there], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0
    )
    return Chance(np.abs(gaps).sum(1), low, high, gaps)


def correlation(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
) -> float:
    r"""How far rows of a group are right together beyond what their confidences say, from 0 to 1.

    .. math:: \hat\rho = \sum_{i \ne j} r_i r_j \Big/ \sum_{i \ne j} \min(c_i, c_j)\,(1 - \max(c_i, c_j))

    over pairs of rows of one group, with r = correct - confidence less its mean; below the quotient is the largest covariance
    that two such outcomes can have.
    """
    rest = correct - confidence
    rest = rest - rest.mean()
    _, index = np.unique(clusters, return_inverse=True)
    above = float((np.bincount(index, rest) ** 2).sum() - (rest**2).sum())
    order = np.lexsort((confidence, index))
    c, sizes = confidence[order], np.bincount(index)
    first = np.cumsum(sizes) - sizes
    later = np.cumsum(1 - c)
    end = np.repeat(later[first + sizes - 1], sizes)
    # of sorted rows the earlier is the smaller of each pair
    below = 2 * float((c * (end - later)).sum())
    return min(1.0, max(0.0, above / below)) if below > 0 else 0.0


def ece_interval(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    bins: Bins,
    boot: ClusterBootstrap,
    by_chance: Chance | None = None,
) -> Interval:
    r"""The ECE with an interval that holds at 0 and away from it, for 100 rows as for 1,000; the bins stay those of the sample.

    With the bins' signed gaps :math:`\delta` and their error :math:`e = \hat\delta - \delta` the triangle inequality gives
    :math:`\lVert\hat\delta\rVert_1 - \lVert e\rVert_1` as lower end; and :math:`\lVert\delta\rVert_1 = \sigma\delta \le
    \lVert\hat\delta\rVert_1 - \sigma e` for the signs :math:`\sigma` of :math:`\delta` as upper end. Of both the 97.5th
    percentile counts, over resamples and over draws of ``by_chance``, whichever is wider: resamples of a bin whose rows are all
    right have no spread. The ends hold for any gaps, and are wider than needed for most: they cover in 96 to 100%.

    Args:
        by_chance: of these confidences, bins and groups; None draws it without groups.
    """
    n, size = len(confidence), len(bins.high)
    value = ece_in(bins, confidence, correct)
    if boot.n_clusters == 1:
        return Interval(value, float("nan"), float("nan"))
    signed = bins.sums(correct - confidence) / n
    count = boot.grouped(bins.index, size, np.ones(n)).sum(1, keepdims=True)
    resampled = boot.grouped(bins.index, size, correct - confidence) / count - signed
    resampled *= (boot.n_clusters / (boot.n_clusters - 1)) ** 0.5
    drawn = (by_chance or chance(confidence, bins)).gaps
    end = (1 + LEVEL) / 2
    above = max(float(np.quantile(np.abs(error).sum(1), end)) for error in (resampled, drawn))
    spread = max(float((error @ np.sign(signed)).std()) for error in (resampled, drawn))
    return Interval(
        value, max(0.0, value - above), min(1.0, value + NormalDist().inv_cdf(end) * spread)
    )


def ranking_intervals(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], boot: ClusterBootstrap
) -> tuple[Interval, Interval]:
    """AUROC of confidence and the area under the risk-coverage curve, with percentile intervals.

    The values are exact; their resamples take the confidences in at most ``RANKS`` groups of equal mass, of which each is
    one tie.
    """
    groups = Bins.of(confidence, min(RANKS, len(confidence)), "mass")
    size = len(groups.high)
    right, wrong = (
        boot.grouped(groups.index, size, side.astype(float)) for side in (correct, ~correct)
    )
    pairs = right.sum(1) * wrong.sum(1)
    won = (right * (np.cumsum(wrong, 1) - wrong / 2)).sum(1)
    drawn = won[pairs > 0] / pairs[pairs > 0]
    held, lost = (right + wrong)[:, ::-1], wrong[:, ::-1]
    before, count = np.cumsum(lost, 1) - lost / 2, np.cumsum(held, 1) - held / 2
    risks = np.divide(before, count, out=np.zeros_like(before), where=count > 0)
    areas = (risks * held).sum(1) / held.sum(1)
    value, area = auroc(confidence, correct), float(risk_coverage(confidence, correct).mean())
    known = np.isfinite(value) and len(drawn)
    return interval(value, drawn) if known else Interval(value, value, value), interval(area, areas)


def bin_intervals(
    correct: Bool[np.ndarray, " n"], bins: Bins, boot: ClusterBootstrap
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """95% interval of each bin's accuracy: the wider of the cluster bootstrap's and Wilson's, which has a width even
    where all rows of a bin are right. Source: Wilson 1927."""
    right, count = (
        boot.grouped(bins.index, len(bins.high), values)
        for values in (correct.astype(float), np.ones(len(correct)))
    )
    shares = np.divide(right, count, out=np.full_like(right, np.nan), where=count > 0)
    n, p, z = bins.sums(), bins.means(correct.astype(float)), NormalDist().inv_cdf((1 + LEVEL) / 2)
    low, high = (np.full(len(n), np.nan) for _ in range(2))
    for b in np.flatnonzero(n):
        drawn = np.nanquantile(shares[:, b], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        least, most = wilson(float(p[b]), float(n[b]), z)
        low[b], high[b] = min(drawn[0], least), max(drawn[1], most)
    return low, high
