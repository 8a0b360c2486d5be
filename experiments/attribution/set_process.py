"""A Gaussian process over sets of units: what a game's value is expected to be where it was not
evaluated.

Shapley values are those of a game's odd part alone, h(S) = (v(S) - v(all without S)) / 2, so that
is what is modelled. With z_i = 1 for a unit that is there and -1 for one that is absent:

    h ~ GP(0, k - k(not .)),  k(S, T) = s^2 / 2 exp(-sum over units i in exactly one of S and T of
        theta_i) + l^2 z_S.z_T / M

The exponential is a product over units, so that its Shapley values are a one-dimensional integral:

    phi_i(k(., T)) = (g_i(1) - g_i(0)) int_0^1 prod over j /= i of [t g_j(1) + (1 - t) g_j(0)] dt

with g_j(1) the factor of unit j where it is there, and g_j(0) where it is absent. The integrand is
a polynomial of degree M - 1 in t: Gauss-Legendre gives it exactly. A large theta lets a unit
matter, alone and together with other such units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

FIRST_DECAY = 0.5
"""Where every theta starts, over the square root of the units."""
PRIOR_SPREAD = 1.0
"""Standard deviation of log theta around that start:
few evaluations then cannot make one unit everything.
"""
FIRST_SCALE, FIRST_LINE, FIRST_NOISE = 1.0, 1.0, 0.1
"""Where the variances of the process, of its line and of the noise start,
in variances of the values.
"""
LEARN_FROM = 256
"""Pairs that the kernel's parameters are learnt from, at most: the time grows with their cube."""
ITERATIONS = 25
_DECAYS, _VARIANCES = (-9.0, 3.0), (-14.0, 7.0)
"""Bounds of the logarithms."""
_FAILED = 1e10

Masks = Bool[np.ndarray, "pairs units"]


def signs(masks: Masks) -> Float[np.ndarray, "pairs units"]:
    """1 for a unit that is there, -1 for one that is absent."""
    return np.where(masks, 1.0, -1.0)


@dataclass(frozen=True)
class Kernel:
    """The kernel's parameters, as logarithms.

    Args:
        log_decays: of theta, for each unit.
        log_variances: of the process (s^2), its line (l^2) and the noise, in variances of the
            values.
    """

    log_decays: Float[np.ndarray, " units"]
    log_variances: Float[np.ndarray, " 3"]

    @classmethod
    def first(cls, units: int) -> Kernel:
        """Where learning starts."""
        decays = np.full(units, math.log(FIRST_DECAY / math.sqrt(units)))
        return cls(decays, np.log([FIRST_SCALE, FIRST_LINE, FIRST_NOISE]))

    @property
    def noise(self) -> float:
        """The variance of what the process does not follow."""
        return math.exp(self.log_variances[2])

    def __call__(
        self, a: Bool[np.ndarray, "a units"], b: Bool[np.ndarray, "b units"]
    ) -> Float[np.ndarray, "a b"]:
        """Covariance of the odd parts at two lists of sets."""
        decays = np.exp(self.log_decays)
        z, w = signs(a), signs(b)
        scale, line, _ = np.exp(self.log_variances)
        # The distance to a set is (sum of theta - z.theta.w) / 2, that to its complement the rest
        # of the sum.
        agreement = (z * decays) @ w.T / 2
        half = decays.sum() / 2
        return scale / 2 * (np.exp(agreement - half) - np.exp(-agreement - half)) + (
            line / z.shape[1]
        ) * (z @ w.T)

    def shapley(self, masks: Masks) -> Float[np.ndarray, "pairs units"]:
        """Shapley values of the odd game of each set."""
        units = masks.shape[1]
        scale, line, _ = np.exp(self.log_variances)
        small = np.exp(-np.exp(self.log_decays))
        points, weights = np.polynomial.legendre.leggauss(units // 2 + 1)
        there, absent = np.where(masks, 1.0, small), np.where(masks, small, 1.0)
        integral = np.zeros(masks.shape)
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            factors = point * there + (1 - point) * absent
            integral += weight * factors.prod(1, keepdims=True) / factors
        # A game and its odd part have the same Shapley values: half of k(., T) less half of k(.,
        # not T) gives them all.
        return scale * (there - absent) * integral + 2 * line / units * signs(masks)


def learnt(masks: Masks, values: Float[np.ndarray, " pairs"], start: Kernel) -> Kernel:
    """The kernel of largest marginal likelihood, with a prior on the thetas, from another one;
    values are standardised.
    """
    pairs, units = masks.shape
    z = signs(masks)
    products = (z[:, None] * z[None]).reshape(pairs * pairs, units)
    centre = Kernel.first(units).log_decays

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        decays = np.exp(logs[:units])
        scale, line, noise = np.exp(logs[units:])
        agreement, half = (products @ decays).reshape(pairs, pairs) / 2, decays.sum() / 2
        near, far = np.exp(agreement - half), np.exp(-agreement - half)
        process = scale / 2 * (near - far)
        lines = line / units * (z @ z.T)
        try:
            factor = cho_factor(process + lines + noise * np.eye(pairs), lower=True)
        except LinAlgError:
            return _FAILED, np.zeros_like(logs)
        alpha = cho_solve(factor, values)
        inverse = cho_solve(factor, np.eye(pairs))
        pull = (logs[:units] - centre) / PRIOR_SPREAD
        value = values @ alpha / 2 + np.log(np.diag(factor[0])).sum() + pull @ pull / 2
        # d loss / d K, then the chain rule to each logarithm.
        by_covariance = (inverse - np.outer(alpha, alpha)) / 2
        by_near_and_far = by_covariance * scale / 2 * (near + far)
        by_process = (by_covariance * process).sum()
        slope = np.empty_like(logs)
        slope[:units] = (by_near_and_far.ravel() @ products - by_process) * decays / 2
        slope[:units] += pull / PRIOR_SPREAD
        of_line, of_noise = (by_covariance * lines).sum(), np.trace(by_covariance) * noise
        slope[units:] = by_process, of_line, of_noise
        return float(value), slope

    best = minimize(
        loss,
        np.append(start.log_decays, start.log_variances),
        jac=True,
        method="L-BFGS-B",
        bounds=[_DECAYS] * units + [_VARIANCES] * 3,
        options={"maxiter": ITERATIONS},
    )
    return Kernel(best.x[:units], best.x[units:])


@dataclass(frozen=True)
class SetProcess:
    """The process given the odd part of a game at some sets.

    Args:
        spread: root mean square of the values.
        alpha: the weights of the evaluations, of the standardised values.
        residuals: of each evaluation its value less what the others predict of it.
        inverse: of the covariance of the standardised values.
    """

    kernel: Kernel
    masks: Masks
    spread: float
    alpha: Float[np.ndarray, " pairs"]
    inverse: Float[np.ndarray, "pairs pairs"]
    residuals: Float[np.ndarray, " pairs"]

    @classmethod
    def fit(
        cls, masks: Masks, values: Float[np.ndarray, " pairs"], start: Kernel | None = None
    ) -> SetProcess:
        """The process of these evaluations.

        Args:
            start: the kernel of fewer evaluations.
        """
        spread = float(np.sqrt((values**2).mean())) or 1.0
        standard = values / spread
        kernel = Kernel.first(masks.shape[1]) if start is None else start
        # Evenly over all, as later pairs are of other sizes.
        some = np.unique(np.linspace(0, len(masks) - 1, LEARN_FROM).astype(int))
        kernel = learnt(masks[some], standard[some], kernel)
        inverse = np.linalg.inv(kernel(masks, masks) + kernel.noise * np.eye(len(masks)))
        alpha = inverse @ standard
        # Leave-one-out in closed form (Rasmussen and Williams 2006, equation 5.12).
        residuals = spread * alpha / np.diag(inverse)
        return cls(kernel, masks, spread, alpha, inverse, residuals)

    def without_each(
        self,
    ) -> tuple[Float[np.ndarray, "without pairs"], Float[np.ndarray, "without pairs"]]:
        """The weights of the evaluations without each of them, and what the process without both
        it and another evaluation misses of that other one.
        """
        diagonal = np.diag(self.inverse)
        missed = self.alpha / diagonal
        # Row by row the inverse of the covariance without one evaluation (a Schur complement).
        alphas = self.alpha - self.inverse * missed[:, None]
        diagonals = diagonal - self.inverse**2 / diagonal[:, None]
        np.fill_diagonal(diagonals, 1.0)  # of the evaluation that is left out, whose alpha is 0
        return alphas, self.spread * alphas / diagonals

    def predict(self, masks: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, " rows"]:
        """The expected odd part at other sets."""
        return self.spread * (self.kernel(masks, self.masks) @ self.alpha)

    def shapley(self) -> Float[np.ndarray, " units"]:
        """Shapley values of the expected game."""
        return self.spread * (self.alpha @ self.kernel.shapley(self.masks))
