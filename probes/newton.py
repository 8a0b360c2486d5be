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
from math import inf
from typing import Any, NamedTuple

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
SHORT = 0.5
"""A step of less than this share of the full one is too short for a sample's curvature: near the
optimum the full step is the right one.
"""
STUCK = 3
"""Iterations in a row without a step, or with one that is too short, after which a target leaves
the phase.
"""

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

    def put(self, which: Tensor, more: Solution) -> None:
        """Take over what further iterations made of some of the targets."""
        self.W[:, which] = more.W
        self.n_iter[which] += more.n_iter
        self.converged[which] = more.converged


class _Targets(NamedTuple):
    """Labels, coefficients at the start, and penalties."""

    Y: Int[Tensor, "n k"]
    start: Float[Tensor, "r k c"]
    l2: Float[Tensor, " k"]


class _Blocks:
    """The preconditioner's blocks, made again as the fits come near."""

    def __init__(self, is_hard: bool) -> None:
        self.is_hard = is_hard
        self.kept: ClassBlocks | None = None
        self.made_at = inf

    def near(self, curvature: Curvature, relative: Float[Tensor, " k"]) -> ClassBlocks | None:
        if float(relative.min()) < BLOCKS_BELOW:
            at = float(relative.median())
            if self.kept is None or at < BLOCKS_AGAIN * self.made_at:
                self.kept, self.made_at = ClassBlocks(curvature, self.is_hard), at
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

    A target stops when ``gap_bound`` is below tol times its objective, or when the error that the
    last Newton decrements predict is (with ``MARGIN``). There are up to three phases:

    1. Rough products, where the machine has faster ones, with the curvature of a sample of rows. A
       target that is within ``ROUGH`` of its optimum waits outside the products.
    2. Exact products, with the curvature of a sample, if tol asks for more than the first phase.
    3. Exact products, with the curvature of all rows and accurate inner solves: for targets whose
       steps were too short ``STUCK`` times in a row, as happens under weak penalties, and for all
       targets if rows are few. Rows on disk have this phase only if all of them fit in memory.

    Args:
        exact: skip the first phase.
    """
    n, rows, rough = design.n, design.rotated, rough_rows(design)
    largest = design.sample_limit(start[0].numel())
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(min(sample_size(design), largest), largest, generator)
    solution = Solution(start.clone(), torch.zeros_like(l2, dtype=torch.int64), l2 < 0)

    def go_on(which: Tensor, rows: Tensor | OnDisk, tol: float, enough: float, **how: Any) -> None:
        """Continue with some of the targets."""
        n_left = max_iter - int(solution.n_iter[which].max()) if bool(which.any()) else 0
        if n_left > 0:
            rest = _Targets(Y[:, which], solution.W[:, which], l2[which])
            further = _iterate(
                design, rest, rows, tol=tol, enough=enough, max_iter=n_left, trace=trace, **how
            )
            solution.put(which, further)

    if sampling.size < n or n > SMALL_SAMPLE:
        # Rows on disk that do not fit in memory have only the sampled phases.
        sampled = {"rough": rough, "sampling": sampling, "short": SHORT if largest == n else 0.0}
        enough, near, ready = tol / MARGIN, inf, ~solution.converged
        is_rough = rough is not rows and not exact
        if is_rough:
            remainder = max(enough, ROUGH_REMAINDER) if tol >= ROUGH else ROUGH
            go_on(ready, rough, max(tol, ROUGH), remainder, **sampled)
            near, ready = ROUGH, solution.converged.clone()
        if not is_rough or tol < ROUGH:
            go_on(ready, rows, tol, enough, near=near, **sampled)
    if largest == n:
        whole = {"rough": rows, "sampling": Sampling(n, n, generator), "is_whole": True}
        go_on(~solution.converged, rows, tol, tol / MARGIN_EXACT, **whole)
    return solution


def _iterate(
    design: Design,
    targets: _Targets,
    rows: Float[Tensor, "n r"] | OnDisk,
    *,
    rough: Float[Tensor, "n r"] | OnDisk,
    sampling: Sampling,
    tol: float,
    enough: float,
    max_iter: int,
    near: float = inf,
    short: float = 0.0,
    is_whole: bool = False,
    trace: Callable[[dict[str, object]], None] | None = None,
) -> Solution:
    """Newton steps with gradients from ``rows`` until every target is done or stuck.

    Args:
        rough: the rows of the curvature's sample.
        enough: what may remain of the relative decrement.
        near: the relative decrement at the start, where it is known.
        short: share of the full step below which a step near the optimum is too short.
        is_whole: whether the curvature is of all rows, and inner solves are accurate.
    """
    Z, block, n = design.rotated, design.block, design.n
    point = Point(rows, *targets, block, is_sampled=not is_whole)
    state = _State(targets.start, near, short)
    memory, blocks = Memory(), _Blocks(is_hard=is_whole and n > SMALL_SAMPLE)

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
        solve = _inner_solve(curvature, state.relative, rest, is_whole, size < n)
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
        if bool((relative < FAR).all()) and not is_whole:
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
        short: share of the full step below which a step near the optimum is too short.
        stuck: iterations in a row without a step, or with one that is too short.
        is_full: whether the last step was taken whole.
    """

    def __init__(self, start: Float[Tensor, "r k c"], near: float, short: float) -> None:
        k, device = start.shape[1], start.device
        self.short = short
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
        is_short = (taken == 0) | ((taken < self.short) & (relative < FAR))
        self.stuck = torch.where(is_short, self.stuck + 1, 0)
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
    is_whole: bool,
    is_sampled: bool,
) -> Callable[[Tensor], Tensor]:
    """The inner solve, the more accurate the closer a target is to its end
    (which makes the iteration superlinear).
    """
    least, largest = SOLVE
    accuracy = relative.clamp(max=1.0).sqrt().clamp(SOLVE_EXACT if is_whole else least, largest)
    if is_whole:
        steps = SOLVE_STEPS_EXACT
    else:
        steps = SOLVE_STEPS_SAMPLED if is_sampled else SOLVE_STEPS
    return lambda B: curvature.solve(B, accuracy, steps, enough)[0]
