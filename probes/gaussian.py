"""Probes in closed form from class means: mean difference (mass-mean), and linear discriminant
analysis.

    logit_c(x) = m_c' S^-1 x - m_c' S^-1 m_c / 2 + log p_c

S is the identity for the plain mean difference, the pooled within-class covariance (over n) for its
corrected form and for LDA, which shrinks it between standardised features: (1 - a) S + a diag(S),
so that the unit of a feature changes nothing. Of two classes the difference of the logits is theta'
S^-1 (x - midpoint) + log p_1/p_0 with theta = m_1 - m_0 (Marks & Tegmark 2023, with the threshold
at the midpoint).
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from layerscope.errors import InputError

from .checks import features_and_classes, more_rows
from .labels import check_classes
from .linear import LinearClassifier
from .moments import Moments

RANK = 1e-10
"""Eigenvalues of a covariance below this share of the largest count as 0."""


class MeanDifferenceProbe(LinearClassifier):
    """The direction between class means; `partial_fit` trains on more rows than fit in memory.

    Args:
        covariance: correct for the pooled within-class covariance and the classes' shares: LDA
            without shrinkage.

    Attributes:
        coef_, intercept_, classes_: see `LinearClassifier`.
        means_: [c d].
        moments_: the statistics, for `partial_fit` and for merging (`Moments.merge`); files do not
            hold them.

    >>> probe = MeanDifferenceProbe().fit([[0.0, 1.0], [2.0, 1.0]], ["no", "yes"])
    >>> (probe.coef_[1] - probe.coef_[0]).tolist(), probe.predict([[1.1, 7.0]]).tolist()
    ([2.0, 0.0], ['yes'])
    """

    means_: Float[np.ndarray, "c d"]
    moments_: Moments
    _arrays = ("coef_", "intercept_", "means_")

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(self, covariance: bool = False) -> None:
        self.covariance = covariance

    def fit(self, X: Any, y: Any) -> MeanDifferenceProbe:
        """Fit on features [n d] and one label per row.

        Raises:
            ValueError: for X that is not finite, or y with one class.
        """
        self.moments_ = Moments()
        return self._add(*features_and_classes(self, X, y))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> MeanDifferenceProbe:
        """Add rows: in any number of parts they give what they give at once.

        Args:
            classes: not needed; scikit-learn's contract has it.

        Raises:
            ValueError: for X that is not finite, one class only in all rows so far, or a probe read
                from a file.
        """
        return self._add(*more_rows(self, X, y))

    def _add(self, X: np.ndarray, y: np.ndarray) -> MeanDifferenceProbe:
        return self._take(self.moments_.update(X, y.tolist()), shrinkage=0.0)

    def _take(self, moments: Moments, shrinkage: float) -> MeanDifferenceProbe:
        check_classes(moments.classes)
        classes, counts, means = moments.sorted()
        inverse = _inverse(moments.within / moments.n, shrinkage) if self.covariance else None
        coef = means if inverse is None else means @ inverse
        bias = -(coef * means).sum(1) / 2
        if inverse is not None:
            # With the covariance it is Bayes' rule, priors included; the difference of means has
            # none.
            bias = bias + (counts / counts.sum()).log()
        self.classes_, self.means_ = classes, means.cpu().numpy()
        self.coef_, self.intercept_ = coef.cpu().numpy(), bias.cpu().numpy()
        return self


def _takes_parts(probe: LDAProbe) -> bool:
    return probe.shrinkage != "ledoit-wolf"


class LDAProbe(LinearClassifier):
    """Linear discriminant analysis with a shrunk covariance.

    Args:
        shrinkage: a of the formula, from 0 to 1, or ``ledoit-wolf`` (Ledoit & Wolf 2004, of the
            rows centred on their classes and divided by their standard deviation within them).

    Attributes:
        coef_, intercept_, classes_: see `LinearClassifier`.
        shrinkage_: the a that was used.
    """

    shrinkage_: float
    moments_: Moments
    _recorded = ("shrinkage_",)

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(self, shrinkage: float | str = "ledoit-wolf") -> None:
        self.shrinkage = shrinkage

    def fit(self, X: Any, y: Any) -> LDAProbe:
        """Fit on features [n d] and one label per row.

        Raises:
            ValueError: for X that is not finite, y with one class, or an unknown shrinkage.
        """
        X, y = features_and_classes(self, X, y)
        self.moments_ = moments = Moments().update(X, y.tolist())
        if self.shrinkage == "ledoit-wolf":
            classes, _, means = moments.sorted()
            centred = X - means.numpy()[np.searchsorted(classes, y)]
            deviation = np.sqrt((centred.astype(np.float64) ** 2).mean(0))
            # Standardised, as the shrinkage target is the identity in these units.
            centred = centred / np.where(deviation > 0, deviation, 1.0)
            self.shrinkage_ = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
        else:
            self.shrinkage_ = self._number()
        return self._take(moments)

    @available_if(_takes_parts)
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> LDAProbe:
        """Add rows: in any number of parts they give what they give at once. There if ``shrinkage``
        is a number.

        Args:
            classes: not needed; scikit-learn's contract has it.

        Raises:
            AttributeError: ``ledoit-wolf``, which needs all rows at once.
            ValueError: for X that is not finite, one class only in all rows so far, an unknown
                shrinkage, or a probe read from a file.
        """
        self.shrinkage_ = self._number()
        X, y = more_rows(self, X, y)
        return self._take(self.moments_.update(X, y.tolist()))

    def _number(self) -> float:
        if isinstance(self.shrinkage, int | float) and 0 <= self.shrinkage <= 1:
            return float(self.shrinkage)
        raise InputError(
            f"shrinkage: expected 'ledoit-wolf' or a number from 0 to 1, got {self.shrinkage!r}"
        )

    def _take(self, moments: Moments) -> LDAProbe:
        probe = MeanDifferenceProbe(covariance=True)._take(moments, self.shrinkage_)
        self.classes_, self.coef_, self.intercept_ = probe.classes_, probe.coef_, probe.intercept_
        return self


def _inverse(covariance: Float[Tensor, "d d"], shrinkage: float) -> Float[Tensor, "d d"]:
    """Inverse of the covariance, shrunk between standardised features: (1 - a) S + a diag(S).

    Directions without variance are left out, and so are features that are constant but for
    rounding.
    """
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    constant = deviation == 0
    scale = torch.where(constant, torch.ones_like(deviation), deviation)
    shrunk = (1 - shrinkage) * covariance / scale / scale[:, None]
    # In units of the deviations diag(S) is 1; a constant feature keeps 0.
    shrunk.diagonal().add_(shrinkage * (~constant))
    values, vectors = torch.linalg.eigh(shrunk)
    keep = values > RANK * values[-1].clamp_min(0)
    spanning = vectors[:, keep]
    return ((spanning / values[keep]) @ spanning.T) / scale / scale[:, None]
