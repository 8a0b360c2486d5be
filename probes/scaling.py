r"""Confidences mended after training, from validation rows alone; the most probable class is kept
by temperature only.

    TemperatureScaling   softmax(z / T), one number
    VectorScaling        softmax(w * z + b), two numbers a class
    IsotonicScaling      each class's probability through a monotone step function, then normalised

``z`` are logits, or log-probabilities, which differ from them by a constant a row. Each is fitted
by ``fit(logits, labels)`` on rows [n c] with labels 0 to c-1, so columns are classes and not
features: they are scikit-learn estimators in their parameters, their attributes and their copies,
not in taking any X.

Source: Guo et al. 2017 (temperature, vector); Zadrozny & Elkan 2002 (isotonic, one class against
the rest).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, no_type_check

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted

from . import storage
from .calibration import CalibrationError, one_hot

COLDEST, HOTTEST = 1e-3, 1e3
Scaling = TypeVar("Scaling", bound="Scaler")


def as_logits(P: Float[np.ndarray, "n c"], floor: float = 1e-12) -> Float[np.ndarray, "n c"]:
    """Log-probabilities, with a floor for what was given none."""
    return np.log(np.maximum(P, floor))


class Scaler(BaseEstimator):
    """What the three share: input checks and files.

    Attributes:
        converged_: whether the fit reached an optimum within its bounds.
        n_rows_: validation rows it was fitted on.
    """

    converged_: bool
    n_rows_: int
    _tensors: tuple[str, ...] = ()

    def _checked(self, logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
        if z.ndim != 2 or z.shape[1] < 2 or len(z) != len(y) or not len(y):
            raise CalibrationError(
                f"expected logits [n c] and n labels, got {list(z.shape)} and {len(y)}"
            )
        if not np.isfinite(z).all():
            raise CalibrationError("expected finite logits, got NaN or infinity")
        if y.min() < 0 or y.max() >= z.shape[1]:
            raise CalibrationError(
                f"expected labels from 0 to {z.shape[1] - 1}, got {int(y.min())} to {int(y.max())}"
            )
        self.n_rows_ = len(y)
        return z, y.astype(np.int64)

    def predict_proba(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Mended probabilities."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The fitted numbers, for a report."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in self._tensors}

    def save(self, path: str | Path) -> Path:
        """Write the fitted scaling as safetensors with a JSON header."""
        check_is_fitted(self)
        header = {"params": self.get_params(), "converged": self.converged_, "n_rows": self.n_rows_}
        tensors = {
            name: np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
            for name in self._tensors
        }
        return storage.write(path, type(self).__name__, tensors, header)

    @classmethod
    def load(cls: type[Scaling], path: str | Path) -> Scaling:
        """Read a scaling written by ``save``.

        Raises:
            FileNotFoundError, ValueError: if there is none, or the file is something else.
        """
        tensors, header = storage.read(path, cls.__name__)
        scaling = cls(**header["params"])
        scaling.converged_, scaling.n_rows_ = header["converged"], header["n_rows"]
        for name in cls._tensors:
            setattr(scaling, name, tensors[name])
        return scaling


class TemperatureScaling(Scaler):
    r"""One temperature for all logits, :math:`\min_T -\sum_i \ln \mathrm{softmax}(z_i / T)_{y_i}`.

    The loss is convex in 1/T; its slope's root is found between temperatures of 0.001 and 1000, and
    a fit that ends at one of them (labels that the logits separate, or that they say nothing of)
    has ``converged_`` False.

    Attributes:
        temperature_: T, [1].

    >>> z = np.log([[0.8, 0.2]]).repeat(10, 0)
    >>> round(float(TemperatureScaling().fit(2 * z, np.arange(10) // 8).temperature_[0]), 6)
    2.0
    """

    temperature_: Float[np.ndarray, " one"]
    _tensors = ("temperature_",)

    def fit(
        self, logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
    ) -> TemperatureScaling:
        """Fit on validation rows.

        Raises:
            CalibrationError: logits that are not finite, or a label that is no class.
        """
        z, y = self._checked(logits, labels)
        z = z - z.max(1, keepdims=True)
        mean_logit = z[np.arange(len(y)), y].mean()

        def slope(log_temperature: float) -> float:
            """Of the mean loss in 1/T:
            the logit that the model expects less the one of the label.
            """
            beta = np.exp(-log_temperature)
            p = np.exp(log_softmax(beta * z, axis=1))
            return float((p * z).sum(1).mean() - mean_logit)

        low, high = np.log(COLDEST), np.log(HOTTEST)
        at_low, at_high = slope(low), slope(high)
        self.converged_ = bool(at_low > 0 > at_high)
        if self.converged_:
            log_temperature = float(brentq(slope, low, high, xtol=1e-12))  # type: ignore[arg-type]
        else:  # the slope in 1/T is negative up to the coldest, or positive down to the hottest
            log_temperature = low if at_low <= 0 else high
        self.temperature_ = np.array([np.exp(log_temperature)])
        return self

    def predict_proba(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """softmax(z / T)."""
        check_is_fitted(self)
        return np.exp(log_softmax(logits / self.temperature_[0], axis=1))


MAX_ITER = 1000
"""Iterations of vector scaling at most."""


class VectorScaling(Scaler):
    r"""A factor and a bias for each class, :math:`\min_{w,b} \sum_i NLL_i + \frac{\lambda}{2}(|w -
    1|^2 + |b|^2)`.

    Args:
        l2: pull towards no change, as strong as so many rows: it keeps classes without validation
            rows finite.

    Attributes:
        weight_, bias_: [c] and [c].
    """

    weight_: Float[np.ndarray, " c"]
    bias_: Float[np.ndarray, " c"]
    _tensors = ("weight_", "bias_")

    @no_type_check
    def __init__(self, l2: float = 1.0) -> None:
        self.l2 = l2

    def fit(self, logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> VectorScaling:
        """Fit on validation rows.

        Raises:
            CalibrationError: logits that are not finite, or a label that is no class.
        """
        z, y = self._checked(logits, labels)
        # A softmax does not see a number that is added to all logits of a row, but a scale for each
        # class would.
        z = z - z.mean(1, keepdims=True)
        c = z.shape[1]
        truth = one_hot(y, c)

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            w, b = parameters[:c], parameters[c:]
            log_p = log_softmax(w * z + b, axis=1)
            rest = np.exp(log_p) - truth
            penalty = self.l2 / 2 * (((w - 1) ** 2).sum() + (b**2).sum())
            value = -(log_p * truth).sum() + penalty
            slope_w = (rest * z).sum(0) + self.l2 * (w - 1)
            slope_b = rest.sum(0) + self.l2 * b
            return value, np.concatenate([slope_w, slope_b])

        unchanged = np.r_[np.ones(c), np.zeros(c)]
        optimum = minimize(
            loss, unchanged, jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITER}
        )
        self.weight_, self.bias_ = optimum.x[:c], optimum.x[c:]
        self.converged_ = bool(optimum.success)
        return self

    def predict_proba(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """softmax(w * z + b), each row of z around its mean."""
        check_is_fitted(self)
        z = logits - logits.mean(1, keepdims=True)
        return np.exp(log_softmax(self.weight_ * z + self.bias_, axis=1))


class IsotonicScaling(Scaler):
    """Each class's probability through the monotone function that fits its validation labels best,
    then normalised.

    A row in which every class gets 0 becomes uniform. Rows as few as hundreds are memorised by its
    steps.

    Attributes:
        knots_, values_, sizes_: the step functions of all classes behind each other, and how many
            knots each has.
    """

    knots_: Float[np.ndarray, " k"]
    values_: Float[np.ndarray, " k"]
    sizes_: Float[np.ndarray, " c"]
    _tensors = ("knots_", "values_", "sizes_")

    def fit(
        self, logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
    ) -> IsotonicScaling:
        """Fit on validation rows.

        Raises:
            CalibrationError: logits that are not finite, or a label that is no class.
        """
        z, y = self._checked(logits, labels)
        P = np.exp(log_softmax(z, axis=1))
        knots, values = [], []
        for k, p in enumerate(P.T):
            regression = IsotonicRegression(y_min=0.0, y_max=1.0).fit(p, (y == k).astype(float))
            # A function of one step has numbers here, not arrays.
            knots.append(np.atleast_1d(regression.X_thresholds_))
            values.append(np.atleast_1d(regression.y_thresholds_))
        self.knots_, self.values_ = np.concatenate(knots), np.concatenate(values)
        self.sizes_ = np.array([float(len(of_class)) for of_class in knots])
        self.converged_ = True
        return self

    def predict_proba(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """The step functions' values, normalised;
        outside the validation rows' range the nearest one's.
        """
        check_is_fitted(self)
        # The classes' knots stand one behind the other; `ends` says where each one's stop.
        ends = np.cumsum(self.sizes_).astype(int)
        P = np.exp(log_softmax(logits, axis=1))
        columns = []
        for p, end, size in zip(P.T, ends, self.sizes_, strict=True):
            of_class = slice(end - int(size), end)
            columns.append(np.interp(p, self.knots_[of_class], self.values_[of_class]))
        out = np.column_stack(columns)
        total = out.sum(1, keepdims=True)
        # Where every class has 0, nothing is known: all alike.
        return np.where(total > 0, out / np.where(total > 0, total, 1.0), 1 / out.shape[1])


SCALINGS: dict[str, type[TemperatureScaling] | type[VectorScaling] | type[IsotonicScaling]] = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "isotonic": IsotonicScaling,
}
