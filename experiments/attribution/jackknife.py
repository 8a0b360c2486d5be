"""Standard errors of Shapley values from a surrogate and a regression of what it misses: the whole
estimate is made again without each pair.

    error(i)^2 = sum over sizes s of (1 - n_s / N_s) (n_s - 1) / n_s
                 sum over its pairs p of (phi_i without p - their mean)^2

What the surrogate misses of one pair depends on all others, so that residuals are no independent
draws: taken as such, their spread covered 86 to 92% where the surrogate explains nearly
all of a game. The surrogate's parameters stay as they are, and the process without a pair follows
from its inverse covariance in closed form (Rasmussen and Williams 2006, section 5.4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .set_process import SetProcess, signs

if TYPE_CHECKING:
    from .leverage import Sample


def jackknife(sample: Sample, process: SetProcess, total: float) -> Float[np.ndarray, " units"]:
    """The standard errors.

    Args:
        total: the value of the whole text less that of nothing, which the scores sum to.
    """
    scores = _without_each(sample, process, total)
    variance = np.zeros(sample.units)
    for number, stratum in enumerate(sample.strata):
        of_size = scores[sample.stratum_of == number]
        n = len(of_size)
        # A size of which every set is there adds no error.
        if 1 < n < stratum.n_pairs:
            centred = of_size - of_size.mean(0)
            variance += (1 - n / stratum.n_pairs) * (n - 1) / n * (centred**2).sum(0)
    return np.sqrt(variance)


def _without_each(
    sample: Sample, process: SetProcess, total: float
) -> Float[np.ndarray, "pairs units"]:
    """The scores that are estimated without each pair."""
    alphas, residuals = process.without_each()
    everything = np.ones((1, sample.units), dtype=bool)
    predicted = process.spread * (alphas @ process.kernel(sample.firsts, everything)[:, 0])
    totals = total - 2 * predicted  # of what is missed, a row without each pair
    z = signs(sample.firsts) / 2
    X = z[:, :-1] - z[:, -1:]  # as in `Sample.regression`, the last unit put in
    y = residuals - totals[:, None] * z[:, -1]
    weights = _weights_without_each(sample)
    sums = (weights * y) @ X
    products = X[:, :, None] * X[:, None]
    grams = np.tensordot(weights, products, axes=1)
    betas = np.linalg.solve(grams, sums[..., None])[..., 0]
    missed = np.column_stack([betas, totals - betas.sum(1)])
    return process.spread * (alphas @ process.kernel.shapley(sample.firsts)) + missed


def _weights_without_each(sample: Sample) -> Float[np.ndarray, "without pairs"]:
    """Each pair's weight in a sample without another one: those of its size stand for more."""
    same_size = sample.stratum_of[:, None] == sample.stratum_of
    n_same = same_size.sum(1, keepdims=True)
    weights = sample.weights * (1 + same_size / np.maximum(n_same - 1, 1))
    np.fill_diagonal(weights, 0.0)
    return weights
