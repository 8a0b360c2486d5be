"""Choose the sets of units that are most informative about the Shapley values.

The sets are chosen greedily, before any is evaluated, under a Gaussian process over sets
(`set_process`):

    next = argmax over S of sum_i cov(phi_i, h(S) | known)^2 / var(h(S) | known)

An evaluation lowers the summed variance of the Shapley values by this amount, whatever its value.
The choice therefore does not depend on the game (Bayesian quadrature; sequential selection as in
Huszar and Duvenaud 2012). Each choice is one step of a pivoted Cholesky factorisation and costs
O(candidates x known). It runs in float32, because its rounding affects only which sets are
evaluated, not their values.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from .set_process import Kernel, Masks

LEAST_VARIANCE = 1e-6
"""A set with a smaller posterior variance is known up to rounding."""


def most_telling(
    kernel: Kernel, known: Masks, candidates: Bool[np.ndarray, "candidates units"], number: int
) -> Int[np.ndarray, " chosen"]:
    """Return the row indices of up to ``number`` candidates, the most informative first.

    Args:
        known: sets that have already been evaluated, at least one.
    """
    n_known, number = len(known), min(number, len(candidates))
    factor = np.linalg.cholesky(kernel(known, known))
    # The candidates' rows of the Cholesky factor; each choice adds a column.
    rows = np.zeros((len(candidates), n_known + number), dtype=np.float32)
    rows[:, :n_known] = np.linalg.solve(factor, kernel(known, candidates)).T
    of_known = np.linalg.solve(factor, kernel.with_shapley(known))
    with_shapley = kernel.with_shapley(candidates) - rows[:, :n_known] @ of_known
    with_shapley = with_shapley.astype(np.float32)
    prior = float(kernel(candidates[:1], candidates[:1])[0, 0])
    variance = prior - (rows**2).sum(1)
    chosen = np.zeros(number, dtype=int)
    is_open = np.ones(len(candidates), dtype=bool)
    for step in range(number):
        gains = (with_shapley**2).sum(1) / np.maximum(variance, LEAST_VARIANCE)
        best = int(np.where(is_open, gains, -1.0).argmax())
        chosen[step], is_open[best] = best, False
        of_best = kernel(candidates, candidates[best : best + 1])[:, 0]
        known_already = rows[:, : n_known + step]
        column = (of_best - known_already @ known_already[best]).astype(np.float32)
        column /= np.sqrt(max(float(variance[best]), LEAST_VARIANCE))
        rows[:, n_known + step] = column
        shapley_parts = with_shapley[best] / np.sqrt(max(float(variance[best]), LEAST_VARIANCE))
        with_shapley -= np.outer(column, shapley_parts)
        variance = variance - column**2
    return chosen
