"""The integral of the gradient along a straight path, with steps where the gradient moves.

    F(x) - F(x') = int_0^1 dF/dx(x' + a (x - x')).(x - x') da

The path is cut into panels of a few Gauss-Legendre points. The equation holds on each panel by
itself, so that the values at its ends give the exact error of its sum. Panels with the largest
errors are halved until what all miss together is small: a smooth path takes a few gradients, and
one with a sharp bend takes more only at the bend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NODES = 5
"""Gauss-Legendre points of a panel: exact for polynomials of degree 9."""


@runtime_checkable
class Function(Protocol):
    """A scalar function of a site's value, with its gradients."""

    def at(
        self, points: Float[Tensor, "points *site"]
    ) -> tuple[Float[Tensor, " points"], Tensor]: ...

    def values(self, points: Float[Tensor, "points *site"]) -> Float[Tensor, " points"]: ...


@dataclass(frozen=True)
class Panel:
    """A stretch of the path.

    Args:
        low, high: where it begins and ends, from 0 to 1.
        before, after: the function's values there.
        shares: the integral of the gradient times the way, for each element.
    """

    low: float
    high: float
    before: float
    after: float
    shares: Float[Tensor, "*site"]

    @property
    def gap(self) -> float:
        """What the integral misses of the function's change."""
        return float(self.shares.double().sum()) - (self.after - self.before)


@dataclass(frozen=True)
class Integral:
    """The whole path.

    Args:
        shares: for each element what it adds to the change.
        gap: what their sum misses of it.
        missed: the sum of what the panels miss, whatever its sign.
        steps: gradients that it took.
    """

    shares: Float[Tensor, "*site"]
    gap: float
    missed: float
    steps: int


def integrate(
    function: Function,
    x: Float[Tensor, "*site"],
    start: Float[Tensor, "*site"],
    ends: tuple[float, float],
    first: int,
    allowed: float,
    most: int,
) -> Integral:
    """The integral from ``start`` to ``x``.

    Args:
        ends: the function's values at the two.
        first: gradients of the first round, at least.
        allowed: what all panels may miss together.
        most: gradients after which no panel is halved.
    """
    cuts = np.linspace(0, 1, max(1, round(first / NODES)) + 1)
    inner = _values(function, x, start, cuts[1:-1])
    panels = _panels(function, x, start, cuts, [ends[0], *inner, ends[1]])
    steps = NODES * len(panels)
    while True:
        panels.sort(key=lambda panel: abs(panel.gap))
        gaps = np.abs([panel.gap for panel in panels])
        missed = float(gaps.sum())
        if missed <= allowed or steps >= most:
            break
        # The panels that miss least may stay while they take half of what is allowed.
        n_kept = int((gaps.cumsum() <= allowed / 2).sum())
        kept, halved = panels[:n_kept], panels[n_kept:]
        middles = [(panel.low + panel.high) / 2 for panel in halved]
        values = _values(function, x, start, middles)
        for panel, middle, value in zip(halved, middles, values, strict=True):
            cuts = np.array([panel.low, middle, panel.high])
            kept += _panels(function, x, start, cuts, [panel.before, value, panel.after])
        steps += 2 * NODES * len(halved)
        panels = kept
    shares = torch.stack([panel.shares for panel in panels]).sum(0)
    change = ends[1] - ends[0]
    return Integral(shares, float(shares.double().sum()) - change, missed, steps)


def _values(
    function: Function, x: Tensor, start: Tensor, fractions: Sequence[float] | np.ndarray
) -> list[float]:
    if not len(fractions):
        return []
    return function.values(_points(x, start, np.asarray(fractions))).double().tolist()


def _panels(
    function: Function, x: Tensor, start: Tensor, cuts: np.ndarray, values: Sequence[float]
) -> list[Panel]:
    """The panels between neighbouring cuts, their gradients in one call."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    widths = np.diff(cuts)
    fractions = cuts[:-1, None] + widths[:, None] * (nodes + 1) / 2
    slopes = function.at(_points(x, start, fractions.ravel()))[1]
    by_panel = slopes.unflatten(0, (len(widths), NODES))
    of_nodes = torch.from_numpy(weights / 2).to(slopes).view(NODES, *[1] * x.ndim)
    panels = []
    for number, width in enumerate(widths):
        shares = float(width) * (of_nodes * by_panel[number]).sum(0) * (x - start)
        low, high = float(cuts[number]), float(cuts[number + 1])
        panels.append(Panel(low, high, values[number], values[number + 1], shares))
    return panels


def _points(x: Tensor, start: Tensor, fractions: np.ndarray) -> Tensor:
    at = torch.from_numpy(fractions).to(x).view(-1, *[1] * x.ndim)
    return start + at * (x - start)
