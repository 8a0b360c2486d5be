"""Joint truncated Newton for many multinomial regressions that share their rows.

One iteration: curvature on a sample of rows that grows as the fit gets close, a direction by
preconditioned conjugate gradients wrapped in a short L-BFGS memory (which carries what the exact
gradients say about the rows that were not sampled), and one pass over all rows for objective and
gradient. Every target has its own step length, coefficients and end; a target that is done leaves
the products. Source: Nocedal & Wright 2006, algorithm 7.1 (truncated Newton).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .certificate import gap_bound
from .curvature import SOLVE_REST, ClassBlocks, Curvature
from .curvature_sample import (
    FAR,
    SMALL_SAMPLE,
    Sampling,
    draw,
    rough_dtype,
    rough_rows,
    sample_size,
)
from .design import Design
from .lbfgs import Memory
from .line_search import line_search
from .objective import Point, dot, per_target
from .rows import OnDisk

BLEND = 0.2
"""Share of the labels' curvature far from the optimum,
where a sample of predictions says little.
"""
ROUGH = 1e-5
"""Relative decrement to which gradients from rough products lead; they are wrong by about 5e-7."""
ROUGH_REMAINDER = 1e-6
"""What rough products can tell of a relative decrement."""
MARGIN, MARGIN_EXACT = 4, 20
"""By what factor less than asked must remain where the curvature says that a target is done:
a sample's, and that of all of few rows, where another step costs next to nothing.
"""
STUCK = 3
"""Iterations without a step after which a target is left where it is."""

# The inner solve by conjugate gradients.
SOLVE = (0.1, 0.25)
"""Least and largest relative residual."""
SOLVE_EXACT = 1e-3
"""The least one where the curvature is of all rows."""
SOLVE_STEPS, SOLVE_STEPS_SAMPLED, SOLVE_STEPS_EXACT = 60, 25, 250
"""Steps at most: curvature of all rows, of a sample, of few rows."""
BLOCKS_BELOW, BLOCKS_AGAIN = 0.2, 0.03
"""The preconditioner's blocks are made where a relative decrement is below the first,
and again where the median falls to the second of what it was.
"""

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Solution:
    """Result of ``minimise``: coefficients in the design's basis, iterations, and success."""

    W: Float[Tensor, "r k c"]
    n_iter: Int[Tensor, " k"]
    converged: Tensor


class _Blocks:
    """The preconditioner's blocks, made again as the fits come near."""

    def __init__(self) -> None:
        self.kept: ClassBlocks | None = None
        self.made_at = inf

    def near(self, curvature: Curvature, relative: Float[Tensor, " k"]) -> ClassBlocks | None:
        if float(relative.min()) < BLOCKS_BELOW:
            at = float(relative.median())
            if self.kept is None or at < BLOCKS_AGAIN * self.made_at:
                self.kept, self.made_at = ClassBlocks(curvature), at
        return self.kept

    def select(self, keep: Tensor) -> None:
        self.kept = None if self.kept is None else self.kept.select(keep)


def is_rough(design: Design, tol: float) -> bool:
    """Whether `minimise` to tol ends on rough products:
    what it gives must be judged by exact ones.
    """
    return tol >= ROUGH and rough_dtype(design) != design.dtype


def minimise(
    design: Design,
    Y: Int[Tensor, "n k"],
    start: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    *,
    tol: float,
    max_iter: int,
    seed: int = 0,
    exact: bool = False,
    trace: Callable[[dict[str, object]], None] | None = None,
) -> Solution:
    """Minimise every target's objective to a relative error of tol.

    Stops a target when ``gap_bound`` is below tol times its objective, or when the error
    that the last Newton decrements predict is (with ``MARGIN``).
    Gradients come from rough products, where the machine has faster ones, until every target is
    within ``ROUGH`` of its end: one that is there waits outside the products. If tol asks for more,
    exact products take all of them on from there.

    Args:
        exact: exact products from the start.
    """
    largest = design.sample_limit(start[0].numel())
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(min(sample_size(design), largest), largest, generator)
    rough = rough_rows(design)
    steps = partial(_iterate, design, Y, l2=l2, rough=rough, sampling=sampling, trace=trace)
    enough = tol / (MARGIN_EXACT if design.n <= SMALL_SAMPLE else MARGIN)
    if exact or rough is design.rotated:
        return steps(start=start, rows=design.rotated, tol=tol, enough=enough, max_iter=max_iter)
    is_rough_enough = tol >= ROUGH
    enough_of_rough = max(enough, ROUGH_REMAINDER) if is_rough_enough else ROUGH
    by_rough = steps(
        start=start, rows=rough, tol=max(tol, ROUGH), enough=enough_of_rough, max_iter=max_iter
    )
    left = max_iter - int(by_rough.n_iter.max())
    if is_rough_enough or left < 1:
        return by_rough
    by_exact = steps(
        start=by_rough.W, rows=design.rotated, tol=tol, enough=enough, max_iter=left, near=ROUGH
    )
    return Solution(by_exact.W, by_rough.n_iter + by_exact.n_iter, by_exact.converged)


def _iterate(
    design: Design,
    Y: Int[Tensor, "n k"],
    *,
    l2: Float[Tensor, " k"],
    rough: Float[Tensor, "n r"] | OnDisk,
    sampling: Sampling,
    trace: Callable[[dict[str, object]], None] | None,
    start: Float[Tensor, "r k c"],
    rows: Float[Tensor, "n r"] | OnDisk,
    tol: float,
    enough: float,
    max_iter: int,
    near: float = inf,
) -> Solution:
    """Newton steps with gradients from ``rows`` until every target is done or stuck.

    Args:
        rough: the rows of the curvature's sample.
        enough: what may remain of the relative decrement.
        near: the relative decrement at the start, where it is known.
    """
    Z, block, n = design.rotated, design.block, design.n
    is_exact = sampling.size == n <= SMALL_SAMPLE
    point = Point(rows, Y, start, l2, block, is_sampled=not is_exact)
    state = _State(start, Y.shape[1], near)
    memory, blocks = Memory(), _Blocks()

    for iteration in range(max_iter + 1):
        done = _is_proved(point, tol) | (state.remaining <= enough)
        keep = state.leave(point, done)
        if keep is not None:
            if not bool(keep.any()):
                break
            point.select(keep)
            memory.select(keep)
            blocks.select(keep)
        if iteration == max_iter:
            state.final[:, state.index] = point.W
            break

        # The direction: a sampled Newton step within the L-BFGS memory.
        size = sampling.size
        blend = torch.where(state.relative > FAR, BLEND, 0.0)
        # A fresh sample each iteration, so that no error of one is repeated.
        sample = draw(rough, point, size, sampling.generator)
        curvature = Curvature(*sample, point.present, point.l2, design.eigenvalues, blend, block)
        curvature.blocks = blocks.near(curvature, state.relative)
        rest = SOLVE_REST * enough * point.loss
        solve = _inner_solve(curvature, state.relative, rest, is_exact, size < n)
        gradient, loss, W = point.gradient.clone(), point.loss.clone(), point.W.clone()
        step = memory.direction(gradient, solve)
        slope = dot(gradient, step)
        is_uphill = slope >= 0
        if bool(is_uphill.any()):  # rounding: fall back on the preconditioned gradient
            plain = -curvature.precondition(gradient)
            step = torch.where(per_target(is_uphill.double(), step) > 0, plain, step)
            slope = dot(gradient, step)

        before = state.relative
        relative = -slope / (2 * loss.clamp(min=_TINY))
        taken = line_search(Z, rows, point, step, slope)
        state.advance(relative, taken)
        if bool((relative < FAR).all()) and not is_exact:
            memory.add(point.W - W, point.gradient - gradient)
        else:
            memory.pairs = []
        if trace is not None:
            trace({"rows": size, "loss": point.loss, "relative": relative, "taken": taken})
        sampling.grow_if_noisy(before, relative, n)
    return Solution(state.final, state.n_iter, state.converged)


class _State:
    """Where each target is on its way; those that are done have left ``index``, ``relative``,
    ``remaining``, ``stuck`` and ``is_full``.

    Attributes:
        final, n_iter, converged: of all targets, what `Solution` gives.
        index: the targets that are still on their way.
        relative: decrement over objective at the last step.
        remaining: what of it the last step is expected to have left.
        stuck: iterations in a row without a step.
        is_full: whether the last step was taken whole.
    """

    def __init__(self, start: Float[Tensor, "r k c"], k: int, near: float) -> None:
        device = start.device
        self.final = start.clone()
        self.n_iter = torch.zeros(k, dtype=torch.int64, device=device)
        self.converged = torch.zeros(k, dtype=torch.bool, device=device)
        self.index = torch.arange(k, device=device)
        self.relative = torch.full((k,), near, dtype=torch.float64, device=device)
        self.remaining = torch.full_like(self.relative, inf)
        self.stuck = torch.zeros(k, dtype=torch.int64, device=device)
        self.is_full = torch.ones(k, dtype=torch.bool, device=device)

    def leave(self, point: Point, done: Tensor) -> Tensor | None:
        """Take the targets out that are done or stuck; returns which stay, None where all do."""
        gone = done | (self.stuck >= STUCK)
        if not bool(gone.any()):
            return None
        # Those that are done leave, so that the slowest target is not paid for by all.
        self.final[:, self.index[gone]] = point.W[:, gone]
        self.converged[self.index[gone]] = done[gone]
        keep = ~gone
        self.index, self.relative = self.index[keep], self.relative[keep]
        self.remaining, self.stuck = self.remaining[keep], self.stuck[keep]
        self.is_full = self.is_full[keep]
        return keep

    def advance(self, relative: Float[Tensor, " k"], taken: Float[Tensor, " k"]) -> None:
        """One iteration: its decrements, and the step lengths that the line search took."""
        # What the step is expected to have left: its decrement, shrunk as the one before it was. A
        # decrement that fell behind a part of a step says nothing: the solve may have ended early.
        is_full, is_second = taken == 1, torch.isfinite(self.relative)
        shrunk = torch.where(is_second, relative / self.relative, 1.0).clamp(max=1.0)
        self.remaining = torch.where(is_full & self.is_full, relative * shrunk, relative)
        self.is_full = is_full
        self.stuck = torch.where(taken > 0, 0, self.stuck + 1)
        self.relative = relative
        self.n_iter[self.index] += 1


def _is_proved(point: Point, tol: float) -> Tensor:
    """Which targets' gradients prove that they are done;
    an objective of 0 is done at gradient 0.
    """
    # A class's expected count stands in for the bias's curvature: the certificate takes that.
    gap = gap_bound(point.gradient, point.predicted.clamp(min=1), point.l2)
    return gap <= tol * point.loss + _TINY


def _inner_solve(
    curvature: Curvature,
    relative: Float[Tensor, " k"],
    enough: Float[Tensor, " k"],
    is_exact: bool,
    is_sampled: bool,
) -> Callable[[Tensor], Tensor]:
    """The inner solve, the more accurate the closer a target is to its end
    (which makes the iteration superlinear).
    """
    least, largest = SOLVE
    accuracy = relative.clamp(max=1.0).sqrt().clamp(SOLVE_EXACT if is_exact else least, largest)
    if is_exact:
        steps = SOLVE_STEPS_EXACT
    else:
        steps = SOLVE_STEPS_SAMPLED if is_sampled else SOLVE_STEPS
    return lambda B: curvature.solve(B, accuracy, steps, enough)[0]
