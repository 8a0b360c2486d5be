r"""Is a confidence of 80% right in 80 of 100 cases? Measures of calibration from probabilities and
labels alone.

A classifier gives each row a distribution over classes; its *confidence* is the largest probability
and it is *correct* if that class is the label. Bins are ``(low, high]``: equal in width, or in the
number of rows that they hold.

.. math::
    \mathrm{ECE} = \sum_b \tfrac{n_b}{n}\,|\bar a_b - \bar c_b|, \qquad
    \mathrm{Brier} = \tfrac1n \sum_i \sum_k (p_{ik} - [y_i = k])^2, \qquad
    \mathrm{NLL} = -\tfrac1n \sum_i \ln p_{i y_i}

*Brier* is the score of whole distributions, from 0 to 2, and nothing else; the squared distance of
a confidence from its outcome, from 0 to 1, is `squared_error`.

An ECE is above 0 by chance alone, the more so the fewer rows: `chance` says how far a perfectly
calibrated model of the same confidences would be. For the same reason no percentile of resampled
ECEs is an end of an interval: `ece_interval`.

Source: Naeini et al. 2015; Guo et al. 2017 (ECE, maximum error); Nguyen & O'Connor 2015 (equal
mass); Nixon et al. 2019 (classwise); Brier 1950; Bröcker & Smith 2007 (what a calibrated forecast
shows by chance); Lunn & Davies 1998 (correlated outcomes).
"""

from .intervals import (
    Chance,
    auroc_interval,
    bin_intervals,
    chance,
    correlation,
    ece_interval,
    overconfidence_interval,
    ranking_intervals,
)
from .measures import (
    BINS,
    TOLERANCE,
    Bins,
    BrierParts,
    CalibrationError,
    auroc,
    brier,
    brier_parts,
    check,
    classwise,
    ece,
    ece_in,
    maximum_error,
    nll,
    one_hot,
    risk_coverage,
    squared_error,
    top_label,
)
from .measures import (
    Bands as Bands,
)

__all__ = [
    "BINS",
    "Bins",
    "BrierParts",
    "CalibrationError",
    "Chance",
    "TOLERANCE",
    "auroc",
    "auroc_interval",
    "bin_intervals",
    "brier",
    "brier_parts",
    "chance",
    "check",
    "classwise",
    "correlation",
    "ece",
    "ece_in",
    "ece_interval",
    "maximum_error",
    "nll",
    "one_hot",
    "overconfidence_interval",
    "ranking_intervals",
    "risk_coverage",
    "squared_error",
    "top_label",
]
