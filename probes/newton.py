"""Joint truncated Newton for many multinomial regressions that share their rows.

One iteration: curvature on a sample of rows that grows as the fit gets close, a direction by
preconditioned conjugate gradients wrapped in a short L-BFGS memory (which carries what the exact
gradients say about the rows that were not sampled), and one pass over all rows for objective and
gradient. Every target has its own step length, coefficients and end; a target that is done leaves
the products. Sources: Byrd, Chin, Neveitt & Nocedal 2011 (sampled Hessians); Nocedal & Wright 2006,
algorithms 7.1 (truncated Newton) and 7.4 (L-BFGS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .design import Design
from .objective import Curvature, Point, dot, fast_dtype, per_target
from .rows import OnDisk

MEMORY = 6
NOISE = 1e-7  # relative rounding of a float32 objective
FAR = 0.05  # relative decrement above which the curvature is blended with the labels
SMALL_SAMPLE = 8192  # with fewer rows than this the curvature uses all of them
# relative decrement to which gradients from rough products lead; they are wrong by about 5e-7
ROUGH = 1e-5
MARGIN = 20  # the sampled curvature may err by this factor where it says that a target is done
STUCK = 3  # iterations without a step after which a target is left where it is
BLEND = 0.5  # share of the labels' curvature far from the optimum
SOLVE = (0.1, 0.25)  # least and largest relative residual of the inner solve
SOLVE_EXACT = 1e-3  # the least one where the curvature is of all rows
SOLVE_STEPS, SOLVE_STEPS_SAMPLED, SOLVE_STEPS_EXACT = (
    60,
    25,
    250,
)  # of conjugate gradients: all rows, a sample, few rows
SLOWER, STALLED = 0.4, 1.0  # decrements that fall by less than these factors ask for more rows
LARGE_SAMPLE, WHOLE = (
    0.3,
    0.7,
)  # shares of the rows: where a sample grows only if stalled, and from where it is all of them
DECREASE = 1e-4  # Armijo's share of the slope
TRIALS = 29  # of the line search
SHRINK = (0.05, 0.6)  # least and largest factor of a shorter trial


@dataclass(frozen=True)
class Solution:
    """Result of ``minimise``: coefficients in the design's basis, iterations, and success."""

    W: Float[Tensor, "r k c"]
    n_iter: Int[Tensor, " k"]
    converged: Tensor


def gap_bound(
    gradient: Float[Tensor, "r k c"], predicted: Float[Tensor, "k c"], l2: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """How far the objective can be above its minimum.

        f(W) - min f <= ||grad_W||^2 / (2 l2) + sum_c grad_bc^2 / (2 max(predicted_c, 1))

    The first term is the bound of an l2-strongly convex function. The bias is not penalised; its
    term is a Newton decrement with the curvature of a class's expected count, and is negligible
    at the tolerances used here.
    """
    coef = dot(gradient[:-1], gradient[:-1]) / (2 * l2)
    bias = (gradient[-1].double() ** 2 / (2 * predicted.double().clamp(min=1))).sum(-1)
    return coef + bias


def _systematic_sample(
    q: Float[Tensor, " n"], m: int, generator: torch.Generator
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """About m rows with probability proportional to q, and their inverse inclusion probabilities.

    Source: Madow 1949, systematic sampling with probability proportional to size.
    """
    chance = (q.double() * m / q.double().sum()).clamp(max=1.0)
    for _ in range(4):  # what certain rows cannot use goes to the others
        free = chance < 1
        scale = (m - int((~free).sum())) / chance[free].sum().clamp(min=1e-12)
        chance[free] = (chance[free] * scale).clamp(max=1.0)
    start = torch.rand((), generator=generator, dtype=torch.float64).to(q.device)
    marks = torch.floor(torch.cumsum(chance, 0) + start)
    index = (torch.diff(marks, prepend=torch.floor(start).view(1)) > 0).nonzero().squeeze(1)
    return index, (1 / chance[index]).to(q.dtype)


class _Memory:
    """L-BFGS pairs per target, around an inner solve that stands in for the initial inverse."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, s: Float[Tensor, "r k c"], y: Float[Tensor, "r k c"]) -> None:
        sy = dot(s, y)
        good = sy > 1e-10 * (dot(s, s) * dot(y, y)).sqrt()
        rho = torch.where(good, 1 / torch.where(good, sy, torch.ones_like(sy)), 0.0)
        self.pairs = [*self.pairs, (s, y, rho)][-MEMORY:]

    def select(self, keep: Tensor) -> None:
        self.pairs = [(s[:, keep], y[:, keep], rho[keep]) for s, y, rho in self.pairs]

    def direction(
        self, gradient: Float[Tensor, "r k c"], solve: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "r k c"]:
        q, factors = gradient.clone(), []
        for s, y, rho in reversed(self.pairs):
            a = rho * dot(s, q)
            q -= per_target(a, q) * y
            factors.append(a)
        x = solve(q)
        for (s, y, rho), a in zip(self.pairs, reversed(factors), strict=True):
            x += per_target(a - rho * dot(y, x), x) * s
        return -x


def _line_search(
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
    start, before = point.W.clone(), point.loss.clone()
    length = torch.ones_like(slope)
    point.move(rows, step, slice(None))
    index = torch.arange(len(slope), device=slope.device)
    for _ in range(TRIALS):
        loss, old = point.loss[index], before[index]
        # 1 at the start, 0 at the line's end
        bend = dot(point.gradient[:, index], step[:, index]) / slope[index]
        enough = loss <= old + DECREASE * length[index] * slope[index]
        level = loss <= old + NOISE * old.abs()
        bad = ~(torch.isfinite(loss) & (enough | (level & (bend >= 0) & (bend <= 1))))
        index = index[bad]
        if not len(index):
            return length
        shrink = torch.nan_to_num(1 / (1 - bend[bad]), nan=0.1).clamp(*SHRINK)
        change = length[index] * (shrink - 1)
        length[index] += change
        if bool((loss[bad] < 10 * old[bad]).all()):
            point.move(rows, per_target(change, step) * step[:, index], index)
        else:  # what was far too large, or not a number, would leave its rounding in the logits
            point.W[:, index] = start[:, index] + per_target(length[index], step) * step[:, index]
            point.recompute(Z, index)
    length[index] = 0
    point.W[:, index] = start[:, index]
    point.recompute(Z, index)
    return length


def _sample(
    rows: Float[Tensor, "n r"] | OnDisk, point: Point, size: int, generator: torch.Generator
) -> tuple[Float[Tensor, "m r"], Int[Tensor, "m k"], Float[Tensor, " m"], Float[Tensor, "m k c"]]:
    """Rows, their labels, weights and logits for the curvature; all of them with weight 1 if size = n."""
    if size >= len(rows) and isinstance(rows, Tensor) and point.logits is not None:
        return (
            rows,
            point.Y,
            torch.ones(len(rows), dtype=point.W.dtype, device=rows.device),
            point.logits,
        )
    if size >= len(rows):
        chosen = torch.arange(len(rows), device=rows.device)
        weight = torch.ones(len(rows), device=rows.device)
    else:
        chosen, weight = _systematic_sample(point.sampling_weights(), size, generator)
    here = rows[chosen]
    return here, point.Y[chosen], weight.to(point.W.dtype), point.logits_of(chosen, here)


def sample_size(design: Design) -> int:
    """Rows of the first curvature sample: an eighth, but enough for the number of features."""
    n = design.n
    return n if n <= SMALL_SAMPLE else min(n, max(n // 8, 12 * design.d, SMALL_SAMPLE // 2))


def _quick(design: Design) -> Float[Tensor, "n r"] | OnDisk:
    """The rows in the type of the fastest products; as they are where they all fit in a sample, and on disk."""
    rows = design.rotated
    return (
        rows if isinstance(rows, OnDisk) or design.n <= SMALL_SAMPLE else rows.to(fast_dtype(rows))
    )


def decrement(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    gradient: Float[Tensor, "r k c"],
    seed: int = 1,
) -> Float[Tensor, " k"]:
    """Newton decrement g' H^-1 g / 2, about objective - minimum, with a fresh curvature sample.

    The sample is larger than that of the first iterations and none of theirs, so that it does not
    repeat an error that stopped the iteration too early.
    """
    generator = torch.Generator().manual_seed(seed)
    point = Point(design.rotated, Y, W, l2, design.block)
    size = min(2 * sample_size(design), design.sample_limit(W[0].numel()))
    sample = _sample(_quick(design), point, size, generator)
    blend = torch.zeros_like(l2)
    curvature = Curvature(*sample, point.present, l2, design.eigenvalues, blend, design.block)
    g = gradient.to(W.dtype)
    return dot(g, curvature.solve(g, torch.full_like(l2, 0.1), 100)) / 2


def minimise(
    design: Design,
    Y: Int[Tensor, "n k"],
    start: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    *,
    tol: float,
    max_iter: int,
    seed: int = 0,
    trace: Callable[[dict[str, object]], None] | None = None,
) -> Solution:
    """Minimise every target's objective to a relative error of tol.

    Stops a target when ``gap_bound`` is below tol times its objective, or when the error
    that the last Newton decrements predict is (with ``MARGIN``).
    Gradients come from rough products, where the machine has faster ones, until the first target is
    within ``ROUGH`` of its end; from there on from exact ones.
    """
    Z, block, n = design.rotated, design.block, design.n
    k = Y.shape[1]
    eigenvalues = design.eigenvalues
    most = design.sample_limit(start[0].numel())
    size = min(sample_size(design), most)
    exact = size == n <= SMALL_SAMPLE
    generator = torch.Generator().manual_seed(seed)
    rows = quick = _quick(design)
    point = Point(rows, Y, start, l2, block)
    final = start.clone()
    n_iter = torch.zeros(k, dtype=torch.int64, device=Z.device)
    converged = torch.zeros(k, dtype=torch.bool, device=Z.device)
    index = torch.arange(k, device=Z.device)
    memory = _Memory()
    relative = torch.full((k,), float("inf"), dtype=torch.float64, device=Z.device)
    remaining = relative
    stuck = torch.zeros(k, dtype=torch.int64, device=Z.device)
    floor = torch.finfo(torch.float64).tiny

    def proved() -> Tensor:
        return gap_bound(point.gradient, point.predicted, point.l2) <= tol * point.loss + floor

    for iteration in range(max_iter + 1):
        done = proved()
        if rows is not Z and bool(
            (done | (stuck > 0) | (remaining <= max(ROUGH, tol / MARGIN))).any()
        ):
            rows = Z
            point.recompute(Z)
            done = proved()
        else:
            done |= remaining <= tol / MARGIN
        gone = done | (stuck >= STUCK)
        if bool(gone.any()):
            final[:, index[gone]], converged[index[gone]] = point.W[:, gone], done[gone]
            keep = ~gone
            if not bool(keep.any()):
                break
            point.select(keep)
            index, relative, remaining, stuck = (
                index[keep],
                relative[keep],
                remaining[keep],
                stuck[keep],
            )
            memory.select(keep)
        if iteration == max_iter:
            final[:, index] = point.W
            break
        blend = torch.where(relative > FAR, BLEND, 0.0)
        sample = _sample(quick, point, size, generator)
        curvature = Curvature(*sample, point.present, point.l2, eigenvalues, blend, block)
        accuracy = (
            relative.clamp(max=1.0).sqrt().clamp(SOLVE_EXACT if exact else SOLVE[0], SOLVE[1])
        )
        limit = SOLVE_STEPS_EXACT if exact else SOLVE_STEPS_SAMPLED if size < n else SOLVE_STEPS

        def solve(
            B: Tensor, H: Curvature = curvature, to: Tensor = accuracy, most: int = limit
        ) -> Tensor:
            return H.solve(B, to, most)

        gradient, loss, W = point.gradient.clone(), point.loss.clone(), point.W.clone()
        step = memory.direction(gradient, solve)
        slope = dot(gradient, step)
        if bool((slope >= 0).any()):  # rounding: fall back on the preconditioned gradient
            plain = -curvature.precondition(gradient)
            step = torch.where(per_target((slope >= 0).double(), step) > 0, plain, step)
            slope = dot(gradient, step)
        before = relative
        relative = -slope / (2 * loss.clamp(min=floor))
        taken = _line_search(Z, rows, point, step, slope)
        # What the step is expected to have left: its decrement, shrunk as the one before it was.
        shrunk = torch.where(torch.isfinite(before), relative / before, 1.0).clamp(max=1.0)
        remaining = torch.where(taken == 1, relative * shrunk, relative)
        stuck = torch.where(taken > 0, 0, stuck + 1)
        if bool((relative < FAR).all()) and not exact:
            memory.add(point.W - W, point.gradient - gradient)
        else:
            memory.pairs = []
        n_iter[index] += 1
        if trace is not None:
            trace({"rows": size, "loss": point.loss, "relative": relative, "taken": taken})
        # Sampling noise shows as slow decrease: see more rows. Beyond a quarter of them an iteration costs more
        # than it saves, so there only if the decrease all but ends.
        few = 2 * size <= LARGE_SAMPLE * n
        slow = (relative > (SLOWER if few else STALLED) * before) & (
            before < (FAR if few else FAR / 10)
        )
        if size < most and bool(slow.any()):
            size = min(2 * size if 2 * size < WHOLE * n else n, most)
    return Solution(final, n_iter, converged)
