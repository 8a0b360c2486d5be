"""The result of a solve: one frozen object per target, in the units of the features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

from .design import as_rows
from .rows import OnDisk


@dataclass(frozen=True)
class Fit:
    """A fitted multinomial logistic regression.

    Attributes:
        l2: the penalty (chosen on dev where a path was given).
        coef, intercept: [c d] and [c], float64, for features in their original units.
        classes: [c], in order.
        objective: sum_i CE_i + l2/2 ||W||^2 (nats; W on standardised features), in float64.
        gradient_norm: norm of its gradient, all rows, computed in float64 from the features as they
            were given.
        gap: bound on objective - minimum that follows from the gradient alone (see
            ``certificate.gap_bound``); loose where the penalty is weak.
        n_iter: Newton iterations at the chosen penalty, from where the choice left it.
        converged: whether gap, or else the Newton decrement of the float64 gradient, is within tol
            * objective.
        dev_scores: dev accuracy, or minus the dev labels' bits (``choose``), by penalty, as the
            choice saw it (``choice.CHOICE_TOL``); a penalty that is absent was not tried.
    """

    l2: float
    coef: Float[Tensor, "c d"]
    intercept: Float[Tensor, " c"]
    classes: np.ndarray
    objective: float
    gradient_norm: float
    gap: float
    n_iter: int
    converged: bool
    dev_scores: dict[float, float] = field(default_factory=dict)

    def log_proba(self, X: Float[Tensor, "n d"] | np.ndarray | OnDisk) -> Float[Tensor, "n c"]:
        """Log-probabilities (nats) of every class for every row, float64."""
        features = as_rows(X, self.coef.device)
        if features.shape[1] != self.coef.shape[1]:
            raise InputError(
                f"X has {features.shape[1]} features, but the fit expects {self.coef.shape[1]}"
            )
        if isinstance(features, OnDisk):
            return torch.cat([self.log_proba(features[rows]) for rows in features.blocks()])
        return torch.log_softmax(features.double() @ self.coef.T + self.intercept, dim=1)

    def predict_proba(self, X: Float[Tensor, "n d"] | np.ndarray | OnDisk) -> Float[Tensor, "n c"]:
        """Probabilities of every class for every row, float64."""
        return self.log_proba(X).exp()

    def predict(self, X: Float[Tensor, "n d"] | np.ndarray | OnDisk) -> np.ndarray:
        """The most probable class of every row."""
        return self.classes[self.log_proba(X).argmax(1).cpu().numpy()]
