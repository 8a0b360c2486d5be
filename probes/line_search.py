"""How far a step is taken, for each of many targets by itself.

Source: Nocedal & Wright 2006, algorithm 3.1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .objective import Point, dot, per_target
from .rows import OnDisk

DECREASE = 1e-4
"""Armijo's share of the slope."""
TRIALS = 29
"""Lengths tried."""
SHRINK = (0.3, 0.6)
"""Least and largest factor of a shorter trial. Far beyond the minimum the loss grows linearly, and
the secant's zero is much too short.
"""
FAR_TOO_LARGE = 10
"""A trial whose objective is so many times the one before
would leave its rounding in the logits.
"""
NOISE = 1e-7
"""Relative rounding of a float32 objective."""


def line_search(
    Z: Float[Tensor, "n r"] | OnDisk,
    rows: Float[Tensor, "n r"] | OnDisk,
    point: Point,
    step: Float[Tensor, "r k c"],
    slope: Float[Tensor, " k"],
) -> Float[Tensor, " k"]:
    """Armijo backtracking per target; only targets whose step failed are evaluated again.

    A trial is also accepted if the slope at its end is still downhill, which for a convex function
    proves the decrease where rounding hides it. The next trial is the secant's zero of the slope.

    Args:
        Z: the rows; ``rows`` the same, perhaps rounded.

    Returns:
        The lengths taken, 0 for a target that stays where it was. The point has moved.
    """
    start, loss_before = point.W.clone(), point.loss.clone()
    length = torch.ones_like(slope)
    # The full step first: near the optimum it is the right one.
    point.move(rows, step, slice(None))
    index = torch.arange(len(slope), device=slope.device)
    for _ in range(TRIALS):
        loss, before = point.loss[index], loss_before[index]
        # The slope at the trial over that at the start: 1 there, 0 at the line's minimum.
        bend = dot(point.gradient[:, index], step[:, index]) / slope[index]
        is_enough = loss <= before + DECREASE * length[index] * slope[index]
        is_level = loss <= before + NOISE * before.abs()
        is_downhill = (bend >= 0) & (bend <= 1)
        failed = ~(torch.isfinite(loss) & (is_enough | (is_level & is_downhill)))
        index = index[failed]
        if not len(index):
            return length
        secant = 1 / (1 - bend[failed])  # where a line through both slopes crosses 0
        shrink = torch.nan_to_num(secant, nan=0.1).clamp(*SHRINK)
        change = length[index] * (shrink - 1)
        length[index] += change
        is_near = loss[failed] < FAR_TOO_LARGE * before[failed]
        if bool(is_near.all()):
            point.move(rows, per_target(change, step) * step[:, index], index)
        else:  # what was far too large, or not a number, would leave its rounding in the logits
            taken = per_target(length[index], step) * step[:, index]
            point.W[:, index] = start[:, index] + taken
            point.recompute(Z, index)
    length[index] = 0
    point.W[:, index] = start[:, index]
    point.recompute(Z, index)
    return length
