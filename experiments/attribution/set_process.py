"""A Gaussian process over sets of units: what a game's value is expected to be where it was not
evaluated, and its Shapley values given the evaluations.

Shapley values are those of a game's odd part alone, h(S) = (v(S) - v(all without S)) / 2, so that
is what is modelled. With z_i = 1 for a unit that is there and -1 for one that is absent:

    h ~ GP(0, k - k(not .)),  k(S, T) = s^2 / 2 exp(-sum over units i in exactly one of S and T of
        theta_i) + l^2 z_S.z_T / 2M + r^2 [S = T]

A smooth part, a line, and a rough part, of which no set tells another one anything. An evaluation
is exact: the process passes through it. Shapley values phi are linear in h, so that given values h
at some sets they are normal too, and exact once h is known at all sets:

    mean = C^T K^-1 h,  variance = var(phi) - C^T K^-1 C,  K = cov(h),  C = cov(h, phi)

The exponential is a product over units, so that its Shapley values are a one-dimensional integral:

    phi_i(k(., T)) = (g_i(1) - g_i(0)) int_0^1 prod over j /= i of [t g_j(1) + (1 - t) g_j(0)] dt

with g_j(1) the factor of unit j where it is there, and g_j(0) where it is absent; var(phi) is the
same integral once more. The integrand is a polynomial of degree M - 1 in t: Gauss-Legendre gives
it exactly. A large theta lets a unit matter, alone and together with other such units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import comb

from .quadrature import gauss_legendre

FIRST_DECAY = 0.5
"""Where every theta starts, times the square root of the units."""
PRIOR_SPREAD = 1.0
"""Standard deviation of log theta around that start:
few evaluations then cannot make one unit everything.
"""
FIRST_SCALE, FIRST_LINE, FIRST_ROUGH = 1.0, 1.0, 0.1
"""Where the variances of the smooth part, of the line and of the rough part start,
in variances of the values.
"""
LEARN_FROM = 256
"""Pairs that the kernel's parameters are learnt from, at most: the time grows with their cube."""
ITERATIONS = 25
FOLDS = 5
"""Into which the sets are divided to test the variances of their part of the Shapley values."""
LEAST_FREE = 0.25
"""Least share of the evaluations that the kernel's parameters are taken to leave."""
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
        log_variances: of the smooth part (s^2), the line (l^2) and the rough part (r^2), in
            variances of the values.
    """

    log_decays: Float[np.ndarray, " units"]
    log_variances: Float[np.ndarray, " 3"]

    @classmethod
    def first(cls, units: int, decay: float = FIRST_DECAY) -> Kernel:
        """Where learning starts, or another kernel of equal units.

        Args:
            decay: theta times the square root of the units.
        """
        decays = np.full(units, math.log(decay / math.sqrt(units)))
        return cls(decays, np.log([FIRST_SCALE, FIRST_LINE, FIRST_ROUGH]))

    @property
    def _smallest(self) -> Float[np.ndarray, " units"]:
        """Of each unit the factor of two sets of which one has it."""
        return np.exp(-np.exp(self.log_decays))

    def __call__(
        self, a: Bool[np.ndarray, "a units"], b: Bool[np.ndarray, "b units"]
    ) -> Float[np.ndarray, "a b"]:
        """Covariance of the odd parts at two lists of sets."""
        units = a.shape[1]
        decays = np.exp(self.log_decays)
        z, w = signs(a), signs(b)
        smooth, line, rough = np.exp(self.log_variances)
        # The distance to a set is (sum of theta - z.theta.w) / 2, that to its complement the rest
        # of the sum.
        agreement = (z * decays) @ w.T / 2
        half = decays.sum() / 2
        product = z @ w.T
        is_same = (product == units).astype(float) - (product == -units)
        near_less_far = np.exp(agreement - half) - np.exp(-agreement - half)
        return smooth / 2 * near_less_far + line / units * product + rough * is_same

    def with_shapley(self, masks: Masks) -> Float[np.ndarray, "pairs units"]:
        """Covariance of the odd parts at these sets with the Shapley values: those of the odd game
        k(., T) of each set T.
        """
        units = masks.shape[1]
        smooth, line, rough = np.exp(self.log_variances)
        points, weights = gauss_legendre(units // 2 + 1)
        there = np.where(masks, 1.0, self._smallest)
        absent = np.where(masks, self._smallest, 1.0)
        integral = np.zeros(masks.shape)
        for point, weight in zip(points, weights, strict=True):
            factors = point * there + (1 - point) * absent
            integral += weight * factors.prod(1, keepdims=True) / factors
        # A game and its odd part have the same Shapley values: half of k(., T) less half of k(.,
        # not T) gives them all.
        of_smooth = smooth * (there - absent) * integral
        return of_smooth + 2 * line / units * signs(masks) + rough * shapley_of_one(masks)

    @property
    def shapley_variance(self) -> Float[np.ndarray, " units"]:
        """Variance of the Shapley values where nothing is known."""
        units = len(self.log_decays)
        smooth, line, rough = np.exp(self.log_variances)
        t, weights = gauss_legendre(units // 2 + 1)
        # Two random sets that hold each unit with probabilities t and u agree on it so often:
        agree = np.outer(t, t) + np.outer(1 - t, 1 - t)
        small = self._smallest[:, None, None]
        factors = agree + (1 - agree) * small
        others = factors.prod(0) / factors
        of_smooth = (weights[:, None] * weights * 2 * (1 - small) * others).sum((1, 2))
        of_rough = 4 / units**2 * (1 / comb(units - 1, np.arange(units))).sum()
        return smooth * of_smooth + 4 * line / units + rough * of_rough


def shapley_of_one(masks: Masks) -> Float[np.ndarray, "pairs units"]:
    """Shapley values of the odd game that is 1 at one set, -1 at its complement and 0 elsewhere, of
    each set.
    """
    units, sizes = masks.shape[1], masks.sum(1, keepdims=True)
    added = 2 / units / comb(units - 1, np.maximum(sizes - 1, 0))
    taken = 2 / units / comb(units - 1, np.minimum(sizes, units - 1))
    return np.where(masks, added, -taken)


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
        smooth, line, rough = np.exp(logs[units:])
        agreement, half = (products @ decays).reshape(pairs, pairs) / 2, decays.sum() / 2
        near, far = np.exp(agreement - half), np.exp(-agreement - half)
        process = smooth / 2 * (near - far)
        lines = line / units * (z @ z.T)
        try:
            factor = cho_factor(process + lines + rough * np.eye(pairs), lower=True)
        except LinAlgError:
            return _FAILED, np.zeros_like(logs)
        alpha = cho_solve(factor, values)
        inverse = cho_solve(factor, np.eye(pairs))
        pull = (logs[:units] - centre) / PRIOR_SPREAD
        value = values @ alpha / 2 + np.log(np.diag(factor[0])).sum() + pull @ pull / 2
        # d loss / d K, then the chain rule to each logarithm.
        by_covariance = (inverse - np.outer(alpha, alpha)) / 2
        by_near_and_far = by_covariance * smooth / 2 * (near + far)
        by_process = (by_covariance * process).sum()
        slope = np.empty_like(logs)
        slope[:units] = (by_near_and_far.ravel() @ products - by_process) * decays / 2
        slope[:units] += pull / PRIOR_SPREAD
        of_line, of_rough = (by_covariance * lines).sum(), np.trace(by_covariance) * rough
        slope[units:] = by_process, of_line, of_rough
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
    """The process given the odd part of a game at some sets and at the whole text.

    Args:
        masks: the sets; the whole text is the last.
        values: the odd part at each.
        inverse: of their covariance, where their mean square is 1.
        to_shapley: what each value adds to each expected Shapley value.
        errors: their standard errors.
        residuals: of each set but the whole text, its value less what the others predict of it.
    """

    kernel: Kernel
    masks: Masks
    values: Float[np.ndarray, " pairs"]
    inverse: Float[np.ndarray, "pairs pairs"]
    to_shapley: Float[np.ndarray, "pairs units"]
    errors: Float[np.ndarray, " units"]
    residuals: Float[np.ndarray, " others"]

    @classmethod
    def fit(
        cls,
        masks: Bool[np.ndarray, "others units"],
        values: Float[np.ndarray, " others"],
        whole: float,
        start: Kernel | None = None,
    ) -> SetProcess:
        """The process of these evaluations.

        Args:
            whole: the odd part at the whole text.
            start: the kernel of fewer evaluations.
        """
        pairs, units = masks.shape
        spread = float(np.sqrt((values**2).mean())) or 1.0
        kernel = Kernel.first(units) if start is None else start
        # Evenly over all, as later pairs are of other sizes.
        some = np.unique(np.linspace(0, pairs - 1, LEARN_FROM).astype(int))
        kernel = learnt(masks[some], values[some] / spread, kernel)
        masks = np.vstack([masks, np.ones((1, units), dtype=bool)])
        inverse = np.linalg.inv(kernel(masks, masks))
        values = np.append(values, whole)
        with_shapley = kernel.with_shapley(masks)
        to_shapley = inverse @ with_shapley
        variance = kernel.shapley_variance - (with_shapley * to_shapley).sum(0)
        # Leave-one-out in closed form (Rasmussen and Williams 2006, equations 5.10 to 5.12).
        precision = np.diag(inverse)
        residuals = (inverse @ values / precision)[:-1]
        surprise = _surprise(masks[:-1], inverse[:-1, :-1], (inverse @ values)[:-1] / spread)
        # The kernel was fitted to the values: its parameters cost some of them.
        free = max(1 - (units + 3) / pairs, LEAST_FREE)
        errors = spread * np.sqrt(np.maximum(variance, 0) * surprise / free)
        return cls(kernel, masks, values, inverse, to_shapley, errors, residuals)

    def predictor(self, masks: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, "rows pairs"]:
        """What each value adds to the expected odd part at other sets."""
        return self.kernel(masks, self.masks) @ self.inverse

    def predict(self, masks: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, " rows"]:
        """The expected odd part at other sets."""
        return self.predictor(masks) @ self.values


def _surprise(
    masks: Bool[np.ndarray, "pairs units"],
    inverse: Float[np.ndarray, "pairs pairs"],
    solved: Float[np.ndarray, " pairs"],
) -> float:
    """By how much the variance of the Shapley values is too small, at least 1.

    If a set is left out, the square of its prediction error should on average be its variance. The
    mean of two such ratios is taken. One is over single sets; each size counts by its part in the
    unknown of the Shapley values, because a game may be rough at some sizes only. The other is over
    folds of sets and their part of the Shapley values, because errors of one sign add up there.

    Args:
        inverse: of the covariance of the values.
        solved: this inverse times the values, standardised.
    """
    of_one = shapley_of_one(masks)
    units = masks.shape[1]
    sizes = np.minimum(masks.sum(1), units - masks.sum(1))  # of the smaller set of each pair
    by_set = solved**2 / np.diag(inverse)
    weights = np.zeros(len(masks))
    for size in np.unique(sizes):
        of_size = sizes == size
        n_sets = comb(units, size) / (2 if 2 * size == units else 1)
        weights[of_size] = (n_sets / of_size.sum() - 1) * (of_one[of_size] ** 2).sum(1)
    ratios = []
    if weights.sum() > 0:
        ratios.append(weights @ by_set / weights.sum())
    by_fold = []
    for fold in range(min(FOLDS, len(masks))):
        of_fold = slice(fold, None, FOLDS)
        covariance = np.linalg.inv(inverse[of_fold, of_fold])
        missed = of_one[of_fold].T @ (covariance @ solved[of_fold])
        expected = np.einsum("fu,fg,gu->u", of_one[of_fold], covariance, of_one[of_fold])
        by_fold.append(missed**2 / expected)
    ratios.append(np.mean(by_fold))
    return max(1.0, float(np.mean(ratios)))
