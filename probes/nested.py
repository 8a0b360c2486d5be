"""Balanced logistic regressions on the first k of some neurons, for several k at once:

    min_w,b  sum_i v_i log(1 + exp(-s_i (w.z_i + b))) + l2/2 ||w||^2,   v_i = n / (2 n_{y_i}),
             z standardised, s_i = 1 for the positive class and -1 for the other

All k share the standardised rows and one bound B = Z' diag(v) Z / 4 + l2 of the curvature (Böhning
& Lindsay 1988). B's Cholesky factor is nested as the neurons are: the factor of the first k columns
is its corner. One step then takes two products for all k that are not settled, in the type of the
values: float32 rounds a decrement by less than 1e-12 a row, under what ends a solve. Where
predictions are sure the bound is loose, and Newton's method with a line search takes over, in
float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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
    order: Int[Tensor, " k"] | None = None,
) -> tuple[Float[np.ndarray, "c k"], Float[np.ndarray, " c"]]:
    """Weights, 0 beyond the first k neurons, and biases for each k, in the neurons' own units.

    Args:
        columns: the values of each neuron, the first ones first.
        ks: how many neurons; all, where there are fewer.
        order: which columns instead of all, the first ones first.
    """
    n = columns.shape[1]
    width = len(columns) if order is None else len(order)
    is_positive = torch.from_numpy(positive)
    signs = is_positive.to(columns.dtype).mul_(2).sub_(1)
    # Rows times their labels' signs: the loss is then a function of their product with w alone.
    rows = columns.new_empty(width + 1, n)
    rows[0] = signs
    features = rows[1:]
    if order is not None:
        columns = torch.index_select(columns, 0, order, out=features)
    # The mean and the scale as rounded: what was taken away is what the weights put back.
    mean = columns.mean(1)
    torch.sub(columns, mean[:, None], out=features)
    scale = (torch.linalg.vector_norm(features, dim=1) / n**0.5).clamp_min(1e-12)
    features /= scale[:, None]
    features *= signs
    # Both classes weigh the same, however many rows they have.
    n_positive = np.count_nonzero(positive)
    share = torch.where(is_positive, n / (2 * n_positive), n / (2 * (n - n_positive)))
    share = share.to(columns.dtype)
    ridge = np.full(width + 1, l2)
    ridge[0] = 0.0  # the bias

    widths = np.minimum(ks, width)
    within = (np.arange(width + 1) <= widths[:, None]).astype(np.float64)
    weights = _by_the_bound(rows, share, ridge, within)
    coefs = weights[:, 1:] / scale.double().numpy()
    return coefs, weights[:, 0] - coefs @ mean.double().numpy()


def _by_the_bound(
    rows: Float[Tensor, "k n"],
    share: Float[Tensor, " n"],
    ridge: Float[np.ndarray, " k"],
    within: Float[np.ndarray, "c k"],
) -> Float[np.ndarray, "c k"]:
    """The weights of least loss, of rows times their labels' signs.

    Args:
        within: 1 where a regression reads a column.
    """
    n = rows.shape[1]
    # In the type of the rows, with that type's rounding of a sum on the diagonal: collinear columns
    # leave it definite, and a bound that is larger costs steps only.
    rounding = n * (1e-10 + torch.finfo(rows.dtype).eps * len(rows) ** 0.5 / 4)
    bound = ((rows * (share / 4)) @ rows.T).double() + torch.from_numpy(np.diag(ridge + rounding))
    # L^-1 of the bound's factor: its corners are those of the regressions of fewer columns.
    eye = torch.eye(len(ridge), dtype=torch.float64)
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(bound), eye, upper=False).numpy()
    solutions = np.zeros_like(within)
    # What is not settled yet: a product's time grows with its rows, so regressions that are leave.
    left = np.arange(len(within))
    weights, is_read = solutions, within
    # The step's length, by the secant of the last step: the bound's own is 1, and too short.
    length = np.ones(len(within))
    step = decrement = length
    miss, unsettled = rows.new_full((1, 1), 0.5), []  # at weights of 0
    for number in range(BOUNDED):
        if number:
            miss = torch.sigmoid(torch.from_numpy(-weights).to(rows.dtype) @ rows)
        slope = is_read * (ridge * weights - ((miss * share) @ rows.T).numpy())
        if number:
            rest = decrement - (step * slope).sum(1)
            length = np.clip(length * decrement / rest, 1.0, 1 / UNSURE)
        # The corner's factor: what lies beyond the first k is 0 between the two products.
        step = (is_read * (slope @ root.T)) @ root
        decrement = (slope * step).sum(1)
        weights = weights - length[:, None] * step
        is_settled = decrement < SETTLED * n
        if not is_settled.any():
            continue
        solutions[left] = weights
        squares = torch.linalg.vector_norm(miss, dim=1).square() / miss.shape[1]
        is_sure = (4 * (miss.mean(1) - squares) <= UNSURE).numpy()
        unsettled += left[is_settled & is_sure].tolist()
        kept = ~is_settled
        left, weights, is_read, length, step, decrement = (
            values[kept] for values in (left, weights, is_read, length, step, decrement)
        )
        if not len(left):
            break
    solutions[left] = weights
    for place in sorted([*unsettled, *left.tolist()]):
        read = within[place] > 0
        Z = rows[torch.from_numpy(read)].T.double().numpy()
        solutions[place, read] = _newton(
            Z, share.double().numpy(), ridge[read], solutions[place, read]
        )
    return solutions


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
