"""The integral of the gradient along a straight path, with steps where the gradient moves.

    F(x) - F(x') = int_0^1 dF/dx(x' + a (x - x')).(x - x') da

The path is cut into panels of a few Gauss-Lobatto points. The equation holds on each panel by
itself, so that the values at its ends give the exact error of its sum. Panels with the largest
errors are halved until what all miss together is small: a smooth path takes a few gradients, and
one with a sharp bend takes more only at the bend. Lobatto's points contain both ends and the
middle: what halving a panel needs of these is there already, and no value is computed apart from a
gradient. All new points of a round are one call.

Where the function jumps, as where a router chooses other experts, no gradient sees it: a narrow
panel that explains next to nothing of its change is not halved again, and what jumps is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NODES = (-1.0, -((3 / 7) ** 0.5), 0.0, (3 / 7) ** 0.5, 1.0)
"""Gauss-Lobatto points of a panel: exact for polynomials of degree 7."""
_INNER = len(NODES) - 2
WEIGHTS = (1 / 10, 49 / 90, 32 / 45, 49 / 90, 1 / 10)
MAY_STAY = 0.8
"""The panels that miss least are not halved while they miss less than this share of what is
allowed: the rest of it is left for the halves of the others.
"""

JUMP_WIDTH, JUMP_EXPLAINED = 1e-4, 0.1
"""A panel at most so wide, whose integral is less than this share of what it misses, has a jump."""


@runtime_checkable
class Function(Protocol):
    """A scalar function of a site's value, with its gradients."""

    def at(
        self, points: Float[Tensor, "points *site"]
    ) -> tuple[Float[Tensor, " points"], Tensor]: ...


@dataclass(frozen=True)
class Node:
    """A point of the path.

    Args:
        at: where it lies, from 0 to 1.
        value: the function there.
        slope: its gradient times the way from start to end, for each element.
    """

    at: float
    value: float
    slope: Float[Tensor, "*site"]


@dataclass(frozen=True)
class Panel:
    """A stretch of the path.

    Args:
        low, middle, high: the points that its halves need, too.
        shares: the integral of the gradient times the way, for each element.
        gap: what the integral misses of the function's change.
    """

    low: Node
    middle: Node
    high: Node
    shares: Float[Tensor, "*site"]
    gap: float

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Panel:
        """The panel of its points in their order."""
        low, middle, high = nodes[0], nodes[len(nodes) // 2], nodes[-1]
        half_width = (high.at - low.at) / 2
        shares = torch.zeros_like(low.slope)
        for node, weight in zip(nodes, WEIGHTS, strict=True):
            shares += half_width * weight * node.slope
        gap = float(shares.double().sum()) - (high.value - low.value)
        return cls(low, middle, high, shares, gap)

    @property
    def has_jump(self) -> bool:
        """Whether the function's change is one that no gradient in it explains."""
        integral = self.high.value - self.low.value + self.gap
        is_narrow = self.high.at - self.low.at <= JUMP_WIDTH
        return is_narrow and abs(integral) < JUMP_EXPLAINED * abs(self.gap)


@dataclass(frozen=True)
class Integral:
    """The whole path.

    Args:
        shares: for each element what it adds to the change.
        gap: what their sum misses of it.
        missed: the sum of what the panels miss, whatever its sign, but for jumps.
        steps: gradients that it took.
        jumps: the size of each jump of the function.
    """

    shares: Float[Tensor, "*site"]
    gap: float
    missed: float
    steps: int
    jumps: tuple[float, ...]


def integrate(
    function: Function,
    x: Float[Tensor, "*site"],
    start: Float[Tensor, "*site"],
    first: int,
    allowed: float,
    most: int,
) -> Integral:
    """The integral from ``start`` to ``x``.

    Args:
        first: gradients of the first round, about.
        allowed: what all panels may miss together.
        most: gradients after which no panel is halved.
    """
    n_panels = max(1, round((first - 1) / (len(NODES) - 1)))
    begun = _uniform(function, x, start, n_panels)
    panels = []
    for number in range(n_panels):
        at = number * (len(NODES) - 1)
        panels.append(Panel.of(begun[at : at + len(NODES)]))
    change = begun[-1].value - begun[0].value
    steps = len(begun)
    with_jump: list[Panel] = []
    while True:
        with_jump += [panel for panel in panels if panel.has_jump]
        panels = [panel for panel in panels if not panel.has_jump]
        panels.sort(key=lambda panel: abs(panel.gap))
        gaps = np.abs([panel.gap for panel in panels])
        missed = float(gaps.sum())
        if missed <= allowed or steps >= most:
            break
        n_kept = int((gaps.cumsum() <= MAY_STAY * allowed).sum())
        halves: list[tuple[Node, Node]] = []
        for panel in panels[n_kept:]:
            halves += [(panel.low, panel.middle), (panel.middle, panel.high)]
        panels = panels[:n_kept] + _panels(function, x, start, halves)
        steps += _INNER * len(halves)
    shares = torch.stack([panel.shares for panel in (*panels, *with_jump)]).sum(0)
    jumps = tuple(abs(panel.gap) for panel in with_jump)
    return Integral(shares, float(shares.double().sum()) - change, missed, steps, jumps)


def _nodes(function: Function, x: Tensor, start: Tensor, fractions: Sequence[float]) -> list[Node]:
    """The function and its slope at some points, in one call."""
    way = x - start
    at = torch.tensor(fractions, dtype=torch.float64).to(x).view(-1, *[1] * x.ndim)
    values, gradients = function.at(start + at * way)
    nodes = []
    for fraction, value, gradient in zip(fractions, values.tolist(), gradients, strict=True):
        nodes.append(Node(fraction, value, gradient * way))
    return nodes


def _uniform(function: Function, x: Tensor, start: Tensor, n_panels: int) -> list[Node]:
    """The points of panels of one width; neighbours share the one between them."""
    fractions = [0.0]
    for number in range(n_panels):
        fractions += _between(number / n_panels, (number + 1) / n_panels)
        fractions.append((number + 1) / n_panels)
    return _nodes(function, x, start, fractions)


def _panels(
    function: Function, x: Tensor, start: Tensor, ends: Sequence[tuple[Node, Node]]
) -> list[Panel]:
    """The panels between these points; what lies inside them is computed in one call."""
    fractions = []
    for low, high in ends:
        fractions += _between(low.at, high.at)
    nodes = _nodes(function, x, start, fractions)
    panels = []
    for number, (low, high) in enumerate(ends):
        inner = nodes[_INNER * number : _INNER * (number + 1)]
        panels.append(Panel.of([low, *inner, high]))
    return panels


def _between(low: float, high: float) -> list[float]:
    """A panel's points between its ends."""
    return [(low + high) / 2 + (high - low) / 2 * node for node in NODES[1:-1]]
