"""What calibration looks like by chance, and intervals of its measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

from ..distributions import t_quantile
from ..ranks import average_ranks
from ..resampling import LEVEL, ClusterBootstrap, Interval, interval, wilson
from .measures import Bins, auroc, ece_in, risk_coverage

BLOCK = 1 << 22
"""Random numbers that are held at a time."""
RANKS = 128
"""Groups of confidences in resamples of rankings."""
FREEDOM = 10.0
"""Least degrees of freedom of AUROC's error: of fewer clusters, Newcombe's bound is the wider."""
AGREEING = 10
"""Clusters below which all of them may be alike by chance."""
ROUNDING = 1e-12
"""A difference of confidences and outcomes below this is 0."""
TAILS = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]


@dataclass(frozen=True)
class Chance:
    """What a perfectly calibrated model of the same confidences would show.

    Attributes:
        ece: its ECE in each draw.
        low, high: its accuracy in each bin, 2.5th and 97.5th percentile; NaN where the bin is
            empty.
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
        return float((1 + np.sum(self.ece >= value - ROUNDING)) / (1 + len(self.ece)))


def chance(
    confidence: Float[np.ndarray, " n"],
    bins: Bins,
    replicates: int = 1000,
    seed: int = 0,
    *,
    correct: Bool[np.ndarray, " n"] | None = None,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Chance:
    r"""Labels drawn from the confidences themselves: correct with the probability that each row
    claims.

    Rows of one group (questions on one text) tend to be right together, which makes a larger ECE by
    chance. With ``clusters`` each row takes, with probability :math:`\sqrt\rho`, the number that
    its group has drawn in place of one of its own, so that each row keeps its probability and rows
    of a group have the correlation :math:`\rho` that `correlation` finds in ``correct``. Source:
    Bröcker & Smith 2007; Vaicenavicius et al. 2019, section 5; Lunn & Davies 1998 (groups).
    """
    rng, n, width = np.random.default_rng(seed), len(confidence), len(bins.high)
    # Rows sorted by bin, so that the sums of all bins are one `reduceat`.
    order = np.argsort(bins.index, kind="stable")
    sorted_by_bin, count = confidence[order], bins.sums()
    filled = np.flatnonzero(count)
    starts = np.searchsorted(bins.index[order], filled)
    together, group = 0.0, np.zeros(0, dtype=np.int64)
    if clusters is not None and correct is not None:
        together = correlation(confidence, correct, clusters) ** 0.5
        group = np.unique(clusters, return_inverse=True)[1][order]
    n_right = np.zeros((replicates, width))
    step = max(1, BLOCK // n)
    for at in range(0, replicates, step):
        numbers = rng.random((min(step, replicates - at), n))
        if together:
            shared = rng.random((len(numbers), int(group.max()) + 1))[:, group]
            takes_shared = rng.random(numbers.shape) < together
            numbers = np.where(takes_shared, shared, numbers)
        is_right = numbers < sorted_by_bin
        sums = np.add.reduceat(is_right, starts, axis=1, dtype=np.float64)
        n_right[at : at + len(is_right), filled] = sums
    gaps = (n_right - bins.sums(confidence)) / n
    empty = np.full_like(n_right, np.nan)
    accuracy = np.divide(n_right, count, out=empty, where=count > 0)
    low, high = np.full(width, np.nan), np.full(width, np.nan)
    low[filled], high[filled] = np.quantile(accuracy[:, filled], TAILS, axis=0)
    return Chance(np.abs(gaps).sum(1), low, high, gaps)


def correlation(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
) -> float:
    r"""How far rows of a group are right together beyond what their confidences say, from 0 to 1.

    .. math:: \hat\rho = \sum_{i \ne j} r_i r_j \Big/ \sum_{i \ne j} \min(c_i, c_j)\,(1 - \max(c_i,
        c_j))

    over pairs of rows of one group, with r = correct - confidence less its mean; below the quotient
    is the largest covariance that two such outcomes can have.
    """
    rest = correct - confidence
    rest = rest - rest.mean()
    _, index = np.unique(clusters, return_inverse=True)
    # Over pairs of a group: the squared sum has each pair twice, and each row with itself, which is
    # taken off.
    group_sums = np.bincount(index, rest)
    above = float((group_sums**2).sum() - (rest**2).sum())

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
    r"""The ECE with an interval that holds at 0 and away from it, for 100 rows as for 1,000; the
    bins stay those of the sample.

    With the bins' signed gaps :math:`\delta` and their error :math:`e = \hat\delta - \delta` the
    triangle inequality gives :math:`\lVert\hat\delta\rVert_1 - \lVert e\rVert_1` as lower end; and
    :math:`\lVert\delta\rVert_1 = \sigma\delta \le \lVert\hat\delta\rVert_1 - \sigma e` for the
    signs :math:`\sigma` of :math:`\delta` as upper end. Of both the 97.5th percentile counts, over
    resamples and over draws of ``by_chance``, whichever is wider: resamples of a bin whose rows are
    all right have no spread. The ends hold for any gaps, and are wider than needed for most: they
    cover in 96 to 100%.

    Args:
        by_chance: of these confidences, bins and groups; None draws it without groups.
    """
    n, n_bins = len(confidence), len(bins.high)
    value = ece_in(bins, confidence, correct)
    if boot.n_clusters == 1:
        return Interval(value, float("nan"), float("nan"))
    gaps = correct - confidence
    signed = bins.sums(gaps) / n
    count = boot.grouped(bins.index, n_bins, np.ones(n)).sum(1, keepdims=True)
    resampled = boot.grouped(bins.index, n_bins, gaps) / count - signed
    # Resamples of m clusters vary by (m - 1) / m too little.
    resampled *= (boot.n_clusters / (boot.n_clusters - 1)) ** 0.5
    by_draws = (by_chance or chance(confidence, bins)).gaps
    errors = (resampled, by_draws)
    above = max(float(np.quantile(np.abs(error).sum(1), TAILS[1])) for error in errors)
    spread = max(float((error @ np.sign(signed)).std()) for error in errors)
    low = max(0.0, value - above)
    high = min(1.0, value + NormalDist().inv_cdf(TAILS[1]) * spread)
    return Interval(value, low, high)


def overconfidence_interval(
    confidence: Float[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    boot: ClusterBootstrap,
    by_chance: Chance,
) -> Interval:
    """Mean confidence less accuracy, with an interval over resamples and over what a calibrated
    model shows by chance, whichever is wider.

    Where all answers are right (or all wrong), resamples vary in confidence alone, and their
    interval would call a calibrated model of high confidences underconfident. Below ``AGREEING``
    clusters the interval also covers what Wilson's interval of the accuracy allows: if the answers
    of a cluster agree, a few clusters are often alike by chance (of 3 clusters the interval would
    cover in .74).
    """
    interval = boot.mean(confidence - correct)
    if boot.n_clusters == 1:
        return interval
    least, most = np.quantile(by_chance.gaps.sum(1), TAILS)
    low, high = interval.value + float(least), interval.value + float(most)
    ends = [min(interval.low, low), max(interval.high, high)]
    if boot.n_clusters < AGREEING:
        accuracy = boot.share(correct.astype(float), np.ones(len(correct)))
        claimed = float(confidence.mean())
        ends = [min(ends[0], claimed - accuracy.high), max(ends[1], claimed - accuracy.low)]
    # Where the sample is as chance has it at most, the end is 0, and must not miss it by rounding.
    low, high = (0.0 if abs(end) < ROUNDING else end for end in ends)
    return Interval(interval.value, low, high)


def ranking_intervals(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], boot: ClusterBootstrap
) -> tuple[Interval, Interval]:
    """AUROC of confidence and the area under the risk-coverage curve, with their intervals.

    The area's are percentiles of resamples that take the confidences in at most ``RANKS`` groups of
    equal mass, each one tie.
    """
    groups = Bins.of(confidence, min(RANKS, len(confidence)), "mass")
    size = len(groups.high)
    right = boot.grouped(groups.index, size, correct.astype(float))
    wrong = boot.grouped(groups.index, size, (~correct).astype(float))
    # Area of each resample: from the most confident group down, each row at the middle of its
    # group.
    rows, errors = (right + wrong)[:, ::-1], wrong[:, ::-1]
    errors_before = np.cumsum(errors, 1) - errors / 2
    rows_before = np.cumsum(rows, 1) - rows / 2
    nothing = np.zeros_like(errors_before)
    risks = np.divide(errors_before, rows_before, out=nothing, where=rows_before > 0)
    areas = (risks * rows).sum(1) / rows.sum(1)

    area = float(risk_coverage(confidence, correct).mean())
    ranking = auroc_interval(confidence, correct, boot)
    if boot.n_clusters == 1:
        return ranking, Interval(area, math.nan, math.nan)
    ends = interval(area, boot.widened(area, areas))
    return ranking, Interval(area, max(0.0, ends.low), min(1.0, ends.high))


def auroc_interval(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], boot: ClusterBootstrap
) -> Interval:
    r"""AUROC with Wilson's interval of a share, of as many items as give its standard error.

    .. math:: s^2 = \frac{m_1}{m_1-1} \sum_c a_c^2 + \frac{m_0}{m_0-1} \sum_c b_c^2 +
        \frac{2S}{S-1} \sum_c a_c b_c, \qquad a_c = \sum_{i \in c,\,\text{right}} \frac{V_i -
        A}{n_1}, \quad b_c = \sum_{j \in c,\,\text{wrong}} \frac{V_j - A}{n_0}

    .. math:: n = \min\Bigl(\frac{A(1-A)}{s^2},\ \frac{m_1 m_0}{1 + (m_1 + m_0 - 2)/4}\Bigr)

    with the share of the other side's rows that each row is on the right side of, V. A ranking
    without a mistake has no standard error, and one wrong row tells little of all others: what
    :math:`m_1` and :math:`m_0` clusters with right and with wrong rows can tell at most bounds the
    number of items. Most of the error is that of the rarer side: Student's t has the degrees of
    freedom of both (at least `FREEDOM`). NaN where all are right or all wrong.

    Source: DeLong et al. 1988; Obuchowski 1997 (clusters); Satterthwaite 1946 (degrees of freedom);
    Newcombe 2006, method 5 (the bound).
    """
    value = auroc(confidence, correct)
    if not math.isfinite(value) or boot.n_clusters == 1:
        return Interval(value, math.nan, math.nan)
    if confidence.min() == confidence.max():
        # One confidence for all ranks nothing, in every sample.
        return Interval(value, value, value)
    influence = _influence(confidence, correct, value)
    sides = np.column_stack([correct, ~correct]).astype(float)
    by_cluster = boot.by_cluster(influence[:, None] * sides)
    n = boot.n_clusters
    counts = (boot.by_cluster(sides) > 0).sum(0)
    # A single cluster of a side has no spread; the bound below stands in for it.
    freedoms = np.maximum(counts - 1, 1)
    variances = (by_cluster**2).sum(0) * counts / freedoms
    shared = 2 * float(by_cluster.prod(1).sum()) * n / (n - 1)
    variance = float(variances.sum()) + shared

    with_right, with_wrong = (int(count) for count in counts)
    most = with_right * with_wrong / (1 + (with_right + with_wrong - 2) / 4)
    items = min(most, value * (1 - value) / variance) if variance > 0 else most
    freedom = float(n - 1)
    if variances.any():
        of_sides = float(variances.sum() ** 2 / (variances**2 / freedoms).sum())
        freedom = min(freedom, max(FREEDOM, of_sides))
    quantile = float(t_quantile(TAILS[1], freedom))
    return Interval(value, *wilson(value, items, quantile))


def _influence(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], value: float
) -> Float[np.ndarray, " n"]:
    """How far each row alone moves the AUROC: (V - A) / the rows of its side."""
    n_right, n_wrong = int(correct.sum()), int((~correct).sum())
    ranks, of_right, of_wrong = (
        average_ranks(some) for some in (confidence, confidence[correct], confidence[~correct])
    )
    influence = np.empty(len(confidence))
    # A row's rank among all less that among its own side counts the other side's rows below it.
    influence[correct] = ((ranks[correct] - of_right) / n_wrong - value) / n_right
    influence[~correct] = (1 - (ranks[~correct] - of_wrong) / n_right - value) / n_wrong
    return influence


def bin_intervals(
    correct: Bool[np.ndarray, " n"], bins: Bins, boot: ClusterBootstrap
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """95% interval of each bin's accuracy: the wider of the cluster bootstrap's and Wilson's, which
    has a width even where all rows of a bin are right. Source: Wilson 1927."""
    right = boot.grouped(bins.index, len(bins.high), correct.astype(float))
    count = boot.grouped(bins.index, len(bins.high), np.ones(len(correct)))
    empty = np.full_like(right, np.nan)
    shares = np.divide(right, count, out=empty, where=count > 0)
    n, p = bins.sums(), bins.means(correct.astype(float))
    z = NormalDist().inv_cdf(TAILS[1])
    low, high = np.full(len(n), np.nan), np.full(len(n), np.nan)
    for b in np.flatnonzero(n):
        drawn = np.nanquantile(shares[:, b], TAILS)
        # Where all rows of a bin are right every resample is too, and the bootstrap alone would
        # claim certainty.
        least, most = wilson(float(p[b]), float(n[b]), z)
        low[b], high[b] = min(drawn[0], least), max(drawn[1], most)
    return low, high
