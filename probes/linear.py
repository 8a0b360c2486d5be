"""Linear probes as scikit-learn estimators, based on the joint solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin

from .checks import features_and_classes, features_and_numbers, fitted_features, more_rows
from .design import as_features, check_finite, penalties
from .fit import Fit
from .moments import Moments
from .ridge import ridge_many
from .solver import fit_many
from .storage import Saved


class LinearClassifier(ClassifierMixin, Saved):
    """What every probe of classes with one linear map shares: predictions, and files.

    Attributes:
        coef_, intercept_: [c d] and [c], for features in their original units (also for two
            classes).
        classes_: [c].
    """

    classes_: np.ndarray
    n_features_in_: int
    coef_: Float[np.ndarray, "c d"]
    intercept_: Float[np.ndarray, " c"]
    _arrays = ("coef_", "intercept_")

    def _logits(self, X: Any) -> Float[np.ndarray, "n c"]:
        return fitted_features(self, X) @ self.coef_.T + self.intercept_

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits [n c]; for two classes the log-odds of the second one, [n]."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row."""
        index = self._logits(X).argmax(1)  # first: it says if the probe is not fitted
        return self.classes_[index]

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """Log-probabilities in nats."""
        logits = self._logits(X)
        # The largest is 0 then, and no exponential overflows.
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """Probabilities of the classes, in the order of ``classes_``."""
        return np.exp(self.predict_log_proba(X))


class LogisticProbe(LinearClassifier):
    """Multinomial logistic regression on standardised features, solved by ``fit_many``.

        min_W,b  sum_i -log softmax(W x_i + b)[y_i] + l2/2 ||W||_F^2

    The same as scikit-learn's ``LogisticRegression(C=1/l2)`` on standardised features for three or
    more classes. Two classes are a two-column softmax, which equals ``C=2/l2`` there.

    Args:
        l2: strength of the penalty; the bias is not penalised.
        standardize: divide features by their standard deviation on the training rows.
        tol: largest relative error of the objective.
        max_iter: Newton iterations.
        device: where to solve ("cuda", "cpu"); None is the CPU.

    Attributes:
        coef_, intercept_: [c d] and [c], for features in their original units (also for two
            classes).
        classes_: [c].
        n_iter_, converged_: iterations, and whether tol was reached.
        objective_, gradient_norm_: in float64, over all rows.

    >>> probe = LogisticProbe(l2=1.0).fit([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
    >>> probe.predict([[2.5]]).tolist()
    ['b']
    """

    n_iter_: int
    converged_: bool
    objective_: float
    gradient_norm_: float
    _recorded = ("n_iter_", "converged_", "objective_", "gradient_norm_")

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(
        self,
        l2: float = 1.0,
        standardize: bool = True,
        tol: float = 1e-8,
        max_iter: int = 100,
        device: torch.device | str | None = None,
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def fit(self, X: Any, y: Any) -> LogisticProbe:
        """Fit on features [n d] and one label per row.

        Raises:
            ValueError: for X that is not finite, or y with one class.

        Warns:
            ConvergenceWarning: if tol was not reached.
        """
        X, y = features_and_classes(self, X, y)
        fit = fit_many(
            X,
            {"y": y},
            l2=self.l2,
            standardize=self.standardize,
            tol=self.tol,
            max_iter=self.max_iter,
            device=self.device,
        )["y"]
        return self._take(fit)

    @classmethod
    def of(cls, fit: Fit) -> LogisticProbe:
        """The probe that a joint solve found."""
        probe = cls(l2=fit.l2)._take(fit)
        probe.n_features_in_ = fit.coef.shape[1]
        return probe

    def _take(self, fit: Fit) -> LogisticProbe:
        self.classes_ = fit.classes
        self.coef_ = fit.coef.cpu().numpy()
        self.intercept_ = fit.intercept.cpu().numpy()
        self.n_iter_ = max(1, fit.n_iter)
        self.converged_ = fit.converged
        self.objective_ = fit.objective
        self.gradient_norm_ = fit.gradient_norm
        return self


class RidgeProbe(MultiOutputMixin, RegressorMixin, Saved):
    """Ridge regression on standardised features, in closed form; `partial_fit` trains on more rows
    than fit in memory.

        min_w,b  sum_i (y_i - w.x_i - b)^2 + l2 ||w||^2

    The same as scikit-learn's ``Ridge(alpha=l2)`` on standardised features. For several penalties
    from one factorisation see ``ridge_many``.

    Args:
        l2: strength of the penalty; the bias is not penalised.
        standardize: divide features by their standard deviation on the training rows.
        device: where to solve; None is the CPU.

    Attributes:
        coef_, intercept_: [d] and a number, or [t d] and [t] for y of shape [n t]; for features in
            their original units.
        objective_, gradient_norm_: in float64, summed (in quadrature) over outputs.
    """

    coef_: np.ndarray
    intercept_: Any
    moments_: Moments
    n_features_in_: int
    _arrays = ("coef_", "intercept_")
    _recorded = ("objective_", "gradient_norm_")

    @no_type_check  # scikit-learn's contract: any value is taken here, and judged in fit
    def __init__(
        self, l2: float = 1.0, standardize: bool = True, device: torch.device | str | None = None
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.device = device

    def fit(self, X: Any, y: Any) -> RidgeProbe:
        """Fit on features [n d] and numbers [n] or [n t].

        Raises:
            ValueError: for X or y that are not finite.
        """
        X, y = features_and_numbers(self, X, y)
        self.moments_ = Moments()
        columns = {str(j): column for j, column in enumerate(np.atleast_2d(y.T))}
        fits = ridge_many(
            X, columns, l2=self.l2, standardize=self.standardize, device=self.device
        ).values()
        # The targets share nothing but the factorisation, so that their objectives add up.
        coef = np.stack([fit.coef.cpu().numpy() for fit in fits])
        intercept = np.array([fit.intercept for fit in fits])
        is_single = y.ndim == 1
        self.coef_ = coef[0] if is_single else coef
        self.intercept_ = intercept[0] if is_single else intercept
        self.objective_ = float(sum(fit.objective for fit in fits))
        self.gradient_norm_ = float(np.sqrt(sum(fit.gradient_norm**2 for fit in fits)))
        return self

    def partial_fit(self, X: Any, y: Any) -> RidgeProbe:
        """Add rows to the statistics and solve again: rows in any number of parts give what they
        give at once.

            S w = c,   S = cov(Z) n + l2,  c = Z'(y - mean y)

        from the joint scatter of features and numbers (`Moments`), in float64. ``fit`` keeps none:
        parts after it begin anew.

        Raises:
            ValueError: for X or y that are not finite, a penalty that is not positive, or a probe
                read from a file.
        """
        (l2,) = penalties(self.l2)
        X, y = more_rows(self, X, y, features_and_numbers)
        check_finite(as_features(X))
        whole = torch.from_numpy(np.column_stack([X.astype(np.float64), y])).to(self.device)
        self.moments_.update(whole, [0] * len(whole))
        return self._solve(X.shape[1], y.ndim, l2)

    def _solve(self, d: int, ndim: int, l2: float) -> RidgeProbe:
        mean, scatter, n = self.moments_.mean, self.moments_.within, self.moments_.n
        deviation = (scatter.diagonal()[:d] / n).sqrt()
        rounding = 10 * torch.finfo(torch.float64).eps * mean[:d].abs()
        constant = deviation <= rounding
        scale = deviation if self.standardize else torch.ones_like(deviation)
        scale = torch.where(constant, torch.ones_like(scale), scale)
        # Features and targets were gathered as one table: its scatter matrix has X'X, X'Y and Y'Y
        # in blocks.
        gram = scatter[:d, :d] / scale / scale[:, None]
        cross = scatter[:d, d:] / scale[:, None]
        squares = scatter[d:, d:].diagonal()
        ridge = gram + l2 * torch.eye(d).to(gram)
        w = torch.linalg.solve(ridge, cross)
        # Back to the features' own units.
        weights = torch.where(constant[:, None], 0.0, w / scale[:, None]).T
        coef = weights.cpu().numpy()
        intercept = (mean[d:] - weights @ mean[:d]).cpu().numpy()
        is_table = ndim == 2
        self.coef_ = coef if is_table else coef[0]
        self.intercept_ = intercept if is_table else intercept[0]
        of_targets = squares - 2 * (w * cross).sum(0) + (w * (ridge @ w)).sum(0)
        self.objective_ = float(of_targets.sum())
        self.gradient_norm_ = float(2 * (ridge @ w - cross).norm())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predicted numbers, [n] or [n t] as in fit."""
        return fitted_features(self, X) @ self.coef_.T + self.intercept_

    @classmethod
    def load(cls, path: str | Path) -> RidgeProbe:
        """Read a probe written by ``save``; see `Saved.load`."""
        probe = super().load(path)
        if probe.coef_.ndim == 1:
            probe.intercept_ = float(probe.intercept_[0])
        return probe
