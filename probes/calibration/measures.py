"""Measures of calibration: confidence against correctness, in bins and over all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from layerscope.errors import LayerscopeError

from ..ranks import average_ranks

BINS = 15
TOLERANCE = 1e-3
"""How far from 1 the probabilities of a row may sum:
what single precision and printed digits leave.
"""
Bands = Literal["width", "mass"]


class CalibrationError(LayerscopeError, ValueError):
    """Probabilities or labels that cannot be judged."""


def check(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> None:
    """Raise one line unless each row is a distribution and each label one of its classes.

    Raises:
        CalibrationError: no rows, fewer than two classes, NaN, a probability outside 0 to 1, a row
            that does not sum to 1, a label that is no class; the first offender is named.
    """
    n, c = P.shape
    if not n or c < 2:
        raise CalibrationError(
            f"expected rows of probabilities of at least 2 classes, got {n} rows of {c}"
        )
    bad = np.asarray(~np.isfinite(P).all(1))
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected finite probabilities, got {_row_text(P[bad][0])}"
        )
    bad = np.asarray(((P < 0) | (P > 1 + TOLERANCE)).any(1))
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected probabilities from 0 to 1, got {_row_text(P[bad][0])}"
        )
    bad = np.abs(P.sum(1) - 1) > TOLERANCE
    if bad.any():
        row = P[bad][0]
        raise CalibrationError(
            f"row {_first(bad)}: expected probabilities that sum to 1, "
            f"got {_row_text(row)}, which sum to {row.sum():.6g} (give logits as logits)"
        )
    bad = (y < 0) | (y >= c)
    if bad.any():
        raise CalibrationError(
            f"row {_first(bad)}: expected a label from 0 to {c - 1}, got {int(y[bad][0])}"
        )


def _first(bad: Bool[np.ndarray, " n"]) -> int:
    return int(np.argmax(bad)) + 1


def _row_text(row: Float[np.ndarray, " c"]) -> str:
    first = ", ".join(f"{v:.4g}" for v in row[:6])
    return first + (", ..." if len(row) > 6 else "")


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
        how: equal in width or in mass; rows of equal confidence share a bin, so that ties make
            fewer bins of equal mass.
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
        is_share = (confidence >= 0) & (confidence <= 1 + TOLERANCE)  # NaN is neither
        if not is_share.all():
            raise CalibrationError("expected confidences from 0 to 1")
        if how == "width":
            high = np.arange(1, bins + 1) / bins
        else:
            last_rows = np.round(np.arange(1, bins + 1) * n / bins).astype(int) - 1
            high = np.unique(np.sort(confidence)[last_rows])
        # A confidence a little above 1, by rounding, belongs to the last bin.
        index = np.minimum(np.searchsorted(high, confidence, side="left"), len(high) - 1)
        return cls(high, index, how)

    def sums(self, values: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " b"]:
        """The sum of some values in each bin, or the number of rows."""
        return np.bincount(self.index, values, minlength=len(self.high)).astype(float)

    def means(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
        """Their mean in each bin; NaN where it is empty."""
        count = self.sums()
        empty = np.full(len(count), np.nan)
        return np.divide(self.sums(values), count, out=empty, where=count > 0)


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
    in_bins = Bins.of(confidence, bins, how)
    gaps = in_bins.means(correct.astype(float)) - in_bins.means(confidence)
    return float(np.nanmax(np.abs(gaps)))


def classwise(
    P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], bins: int = BINS
) -> Float[np.ndarray, " c"]:
    """The ECE of each class's own probability against whether it is the label;
    their mean is the classwise ECE.
    """
    of_class = []
    for k in range(P.shape[1]):
        probability = np.minimum(P[:, k], 1.0)
        of_class.append(ece(probability, y == k, bins))
    return np.array(of_class)


def brier(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The Brier score of each row, from 0 to 2."""
    return ((P - one_hot(y, P.shape[1])) ** 2).sum(1)


def one_hot(y: Int[np.ndarray, " n"], classes: int) -> Float[np.ndarray, "n c"]:
    """1 where the label is the class, else 0."""
    return (y[:, None] == np.arange(classes)).astype(float)


def squared_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    r""":math:`(c_i - [\text{correct}_i])^2` of each row, from 0 to 1;
    of two classes half of the row's Brier score.
    """
    return (confidence - correct) ** 2


@dataclass(frozen=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty + within.

    ``within`` is what bins add: the variance of the forecasts within a bin less twice their
    covariance with the outcome.
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

    .. math:: \sum_b \tfrac{n_b}{n}(\bar f_b - \bar o_b)^2 - \sum_b \tfrac{n_b}{n}(\bar o_b - \bar
        o)^2 + \bar o(1 - \bar o)
        + \tfrac1n \sum_i (f_i - \bar f_b)^2 - \tfrac2n \sum_i (f_i - \bar f_b)(o_i - \bar o_b)

    Source: Murphy 1973; Stephenson, Coelho & Jolliffe 2008 (the terms within bins, which make it
    exact).

    Raises:
        CalibrationError: one column, which is half of a score of two classes.
    """
    if forecast.shape[1] < 2:
        raise CalibrationError(
            "expected probabilities of at least 2 classes, got one column: give p and 1 - p"
        )
    total, n = np.zeros(4), len(forecast)
    for f, o in zip(forecast.T, outcome.T, strict=True):
        in_bins = Bins.of(np.clip(f, 0, 1), bins)
        share = in_bins.sums() / n
        f_mean = np.nan_to_num(in_bins.means(f))  # of an empty bin, which has share 0
        o_mean = np.nan_to_num(in_bins.means(o))
        f_rest, o_rest = f - f_mean[in_bins.index], o - o_mean[in_bins.index]
        total += [
            share @ (f_mean - o_mean) ** 2,
            share @ (o_mean - o.mean()) ** 2,
            o.mean() * (1 - o.mean()),
            (f_rest**2 - 2 * f_rest * o_rest).mean(),
        ]
    reliability, resolution, uncertainty, within = (float(v) for v in total)
    return BrierParts(reliability, resolution, uncertainty, within)


def nll(P: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Negative log-likelihood of each row's label in nats;
    infinite where it was given no probability.
    """
    with np.errstate(divide="ignore"):
        return -np.log(P[np.arange(len(y)), y])


def auroc(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> float:
    r"""How often a right row is more confident than a wrong one, ties half; NaN where all are right
    or all wrong.

    >>> auroc(np.full(4, 0.9), np.array([True, False, True, True]))
    0.5
    """
    n_right, n_wrong = int(correct.sum()), int((~correct).sum())
    if not n_right or not n_wrong:
        return float("nan")
    # Mann-Whitney's U: the ranks of the right rows, less what they would sum to among themselves.
    rank_sum = average_ranks(confidence)[correct].sum()
    pairs_won = rank_sum - n_right * (n_right + 1) / 2
    return float(pairs_won / (n_right * n_wrong))


def risk_coverage(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    r"""The error rate of the k most confident rows, k = 1 to n; of tied rows the expectation over
    their orders.

    Its mean is the area under the risk-coverage curve. Source: Geifman & El-Yaniv 2017.
    """
    order = np.argsort(-confidence, kind="stable")
    is_first = np.r_[True, np.diff(confidence[order]) != 0]
    first = np.flatnonzero(is_first)  # of each group of ties
    size = np.diff(np.r_[first, len(order)])
    wrong_share = np.add.reduceat((~correct[order]).astype(float), first) / size
    # Within a tie every order is as likely, so each of its rows is wrong with the tie's share.
    wrong = np.repeat(wrong_share, size)
    return np.cumsum(wrong) / np.arange(1, len(order) + 1)
