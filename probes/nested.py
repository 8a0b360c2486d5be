"""Balanced logistic regressions on the first k of some neurons, for several k at once:

    min_w,b  sum_i v_i log(1 + exp(-s_i (w.z_i + b))) + l2/2 ||w||^2,   v_i = n / (2 n_{y_i}),
             z standardised, s_i = 1 for the positive class and -1 for the other

All k share the standardised rows and one bound B = Z' diag(v) Z / 4 + l2 of the curvature (Böhning
& Lindsay 1988). B's Cholesky factor is nested as the neurons are: the factor of the first k columns
is its corner. One step then takes two products for all k together, in the type of the values:
float32 rounds a decrement by less than 1e-12 a row, under what ends a solve. Where predictions are
sure the bound is loose, and Newton's method with a line search takes over, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit, log_expit
from torch import Tensor

BOUNDED = 20
"""Steps by the curvature's bound before Newton's method."""
SETTLED = 1e-11
"""Decrement of the bound, a row, below which no step is left ..."""
UNSURE = 0.25
"""... where the curvature is at least this part of its bound on average:
the bound then tells what Newton's decrement would.
"""


def nested_regressions(
    columns: Float[Tensor, "width n"],
    positive: Bool[np.ndarray, " n"],
    l2: float,
    ks: Sequence[int],
) -> tuple[Float[np.ndarray, "c width"], Float[np.ndarray, " c"]]:
    """Weights, 0 beyond the first k neurons, and biases for each k, in the neurons' own units.

    Args:
        columns: the values of each neuron, the first ones first.
        ks: how many neurons; all, where there are fewer.
    """
    width, n = columns.shape
    signs = torch.from_numpy(np.where(positive, 1.0, -1.0)).to(columns.dtype)
    # Rows times their labels' signs: the loss is then a function of their product with w alone.
    rows = columns.new_empty(width + 1, n)
    rows[0] = signs
    features = rows[1:]
    # The mean and the scale as rounded: what was taken away is what the weights put back.
    mean = columns.mean(1)
    torch.sub(columns, mean[:, None], out=features)
    scale = (torch.linalg.vector_norm(features, dim=1) / n**0.5).clamp_min(1e-12)
    features /= scale[:, None]
    features *= signs
    # Both classes weigh the same, however many rows they have.
    n_positive = int(positive.sum())
    share = torch.where(signs > 0, n / (2 * n_positive), n / (2 * (n - n_positive)))
    ridge = torch.full((width + 1,), l2, dtype=torch.float64)
    ridge[0] = 0.0  # the bias

    widths = torch.tensor([min(k, width) for k in ks])
    within = (torch.arange(width + 1) <= widths[:, None]).double()
    weights = _by_the_bound(rows, share, ridge, within)
    coefs = weights[:, 1:] / scale.double()
    return coefs.numpy(), (weights[:, 0] - coefs @ mean.double()).numpy()


def _by_the_bound(
    rows: Float[Tensor, "k n"],
    share: Float[Tensor, " n"],
    ridge: Float[Tensor, " k"],
    within: Float[Tensor, "c k"],
) -> Float[Tensor, "c k"]:
    """The weights of least loss, of rows times their labels' signs.

    Args:
        within: 1 where a regression reads a column.
    """
    n = rows.shape[1]
    # In float64: float32 could leave the bound of many rows of collinear columns not definite.
    exact = rows.double()
    bound = (exact * (share / 4)) @ exact.T + torch.diag(ridge + 1e-10 * n)
    # L^-1 of the bound's factor: its corners are those of the regressions of fewer columns.
    eye = torch.eye(len(ridge), dtype=torch.float64)
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(bound), eye, upper=False)
    weights = torch.zeros_like(within)
    # The step's length, by the secant of the last step: the bound's own is 1, and too short.
    length = torch.ones(len(weights), dtype=torch.float64)
    step = decrement = torch.zeros(())
    miss = torch.full((1, 1), 0.5)  # at weights of 0
    for number in range(BOUNDED):
        miss = torch.sigmoid(-(weights.to(rows.dtype) @ rows))
        slope = within * (ridge * weights - ((miss * share) @ rows.T).double())
        if number:
            left = decrement - (step * slope).sum(1)
            length = (length * decrement / left).nan_to_num(1.0).clamp(1.0, 1 / UNSURE)
        # The corner's factor: what lies beyond the first k is 0 between the two products.
        step = (within * (slope @ root.T)) @ root
        decrement = (slope * step).sum(1)
        weights -= length[:, None] * step
        if bool((decrement < SETTLED * n).all()):
            break
    curvature = 4 * (miss - miss.square())
    is_sure = curvature.mean(1) <= UNSURE
    for place in ((decrement >= SETTLED * n) | is_sure).nonzero()[:, 0].tolist():
        read = within[place] > 0
        Z = rows[read].T.double().numpy()
        start = weights[place, read].numpy()
        found = _newton(Z, share.double().numpy(), ridge[read].numpy(), start)
        weights[place, read] = torch.from_numpy(found)
    return weights


def _newton(
    Z: Float[np.ndarray, "n k"],
    share: Float[np.ndarray, " n"],
    ridge: Float[np.ndarray, " k"],
    w: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """The weights of least loss by Newton's method with a line search."""

    def loss(w: np.ndarray) -> float:
        return float(-share @ log_expit(Z @ w) + ridge @ w**2 / 2)

    loss_now = loss(w)
    for _ in range(100):
        p = expit(-(Z @ w))
        slope = ridge * w - Z.T @ (share * p)
        curvature = (Z * (share * p * (1 - p))[:, None]).T @ Z + np.diag(ridge + 1e-10 * len(Z))
        step = np.linalg.solve(curvature, slope)
        decrement, length = float(slope @ step), 1.0
        if decrement < 1e-9 * max(loss_now, 1e-3):
            return w - step
        # Backtracking until the step wins a share of what its slope promises.
        while loss(w - length * step) > loss_now - 0.1 * length * decrement and length > 1e-8:
            length /= 2
        w = w - length * step
        loss_now = loss(w)
    return w
