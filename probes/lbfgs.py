"""The memory of L-BFGS, for many targets side by side.

Source: Nocedal & Wright 2006, algorithm 7.4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .objective import dot, per_target

MEMORY = 6
"""Pairs of steps and gradient changes that the L-BFGS memory keeps."""
PARALLEL = 1e-10
"""A pair whose s'y is below this share of |s||y| holds rounding, and no curvature."""


class Memory:
    """L-BFGS pairs per target, around an inner solve that stands in for the initial inverse."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, s: Float[Tensor, "r k c"], y: Float[Tensor, "r k c"]) -> None:
        sy = dot(s, y)
        is_curved = sy > PARALLEL * (dot(s, s) * dot(y, y)).sqrt()
        # A pair without curvature gets weight 0, and changes nothing.
        divisor = torch.where(is_curved, sy, torch.ones_like(sy))
        rho = torch.where(is_curved, 1 / divisor, 0.0)
        self.pairs = [*self.pairs, (s, y, rho)][-MEMORY:]

    def select(self, keep: Tensor) -> None:
        self.pairs = [(s[:, keep], y[:, keep], rho[keep]) for s, y, rho in self.pairs]

    def direction(
        self, gradient: Float[Tensor, "r k c"], solve: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "r k c"]:
        # The two-loop recursion (Nocedal & Wright 2006, algorithm 7.4), ``solve`` in the place of
        # H_0.
        q, factors = gradient.clone(), []
        for s, y, rho in reversed(self.pairs):
            factor = rho * dot(s, q)
            q -= per_target(factor, q) * y
            factors.append(factor)
        x = solve(q)
        for (s, y, rho), factor in zip(self.pairs, reversed(factors), strict=True):
            x += per_target(factor - rho * dot(y, x), x) * s
        return -x
