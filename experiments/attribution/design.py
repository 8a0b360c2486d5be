"""Which sets of units tell most about the Shapley values: chosen one by one before any is
evaluated, under a Gaussian process over sets (`set_process`).

    next = argmax over S of sum_i cov(phi_i, h(S) | known)^2 / var(h(S) | known)

An evaluation lowers the variances of the Shapley values by this sum, whatever value it has, so that
the choice does not depend on the game (Bayesian quadrature; one by one as in Huszar and Duvenaud
2012). Each choice is one step of a pivoted Cholesky factorisation, O(candidates x known), in
float32: it decides what is evaluated, not what comes of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from .set_process import Kernel, Masks

LEAST_VARIANCE = 1e-6
"""Below it a set is known, but for rounding."""


def most_telling(
    kernel: Kernel, known: Masks, candidates: Bool[np.ndarray, "candidates units"], number: int
) -> Int[np.ndarray, " chosen"]:
    """So many of the candidates, by their rows, the most telling first.

    Args:
        known: sets that are evaluated already, at least one.
    """
    n_known, number = len(known), min(number, len(candidates))
    factor = np.linalg.cholesky(kernel(known, known))
    # Rows of the Cholesky factor of all covariances: of the candidates, growing by a column with
    # each choice.
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
