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

from probes.design import Design
from probes.objective import (
    Curvature,
    dot,
    evaluate,
    fast_dtype,
    per_target,
)

MEMORY = 6
NOISE = 1e-7  # relative rounding of a float32 objective
FAR = 0.02  # relative decrement above which the curvature is blended with the labels
SMALL_SAMPLE = 8192  # with fewer rows than this the curvature uses all of them


@dataclass
class State:
    """Where the targets that are still running stand."""

    W: Float[Tensor, "r k c"]
    loss: Float[Tensor, " k"]
    gradient: Float[Tensor, "r k c"]
    predicted: Float[Tensor, "k c"]

    def select(self, keep: Tensor) -> State:
        return State(self.W[:, keep], self.loss[keep], self.gradient[:, keep], self.predicted[keep])


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


def _row_weights(
    Z: Float[Tensor, "n r"], Y: Int[Tensor, "n k"], W: Float[Tensor, "r k c"], block: int
) -> Float[Tensor, " n"]:
    """Sampling probabilities: where the curvature is, and a share for every class and every row.

    p_ic (1 - p_ic), summed over classes, is a row's part of the curvature; divided by the class
    totals it gives rare classes, whose few rows a uniform sample would miss, their share.
    """
    n, k, c = len(Z), W.shape[1], W.shape[2]
    spread = torch.empty(n, k, c, dtype=torch.float32, device=Z.device)
    rough = fast_dtype(Z)  # any positive weights make an unbiased sample
    for start in range(0, n, block):
        logits = (Z[start : start + block].to(rough) @ W.reshape(-1, k * c).to(rough)).float().view(-1, k, c)
        p = torch.softmax(logits, dim=-1)
        spread[start : start + block] = (p - p * p).clamp_(min=0)
    share = (spread / (spread.sum(0) + 1e-6)).sum((1, 2))
    total = spread.sum((1, 2))
    rare = torch.zeros(n, device=Z.device)
    for j in range(k):
        counts = torch.bincount(Y[:, j], minlength=c).clamp(min=1)
        rare += 1.0 / counts[Y[:, j]]
    weights = torch.stack([part.double() / part.double().sum() for part in (share, total, rare)]).sum(0)
    return (0.25 * weights + 0.25 / n).float()


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

    def direction(self, gradient: Float[Tensor, "r k c"], solve: Callable[[Tensor], Tensor]) -> Float[Tensor, "r k c"]:
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
    Z: Tensor,
    Y: Tensor,
    l2: Tensor,
    state: State,
    step: Float[Tensor, "r k c"],
    slope: Float[Tensor, " k"],
    block: int,
) -> tuple[State, Float[Tensor, " k"]]:
    """Armijo backtracking per target; only targets whose step failed are evaluated again.

    A trial is also accepted if the slope at its end is still downhill, which for a convex function
    proves the decrease where rounding hides it. The next trial is the secant's zero of the slope.
    """
    new = State(state.W.clone(), state.loss.clone(), state.gradient.clone(), state.predicted.clone())
    taken = torch.zeros_like(slope)
    length = torch.ones_like(slope)
    index = torch.arange(len(slope), device=slope.device)
    for _ in range(30):
        trial = state.W[:, index] + per_target(length[index], step) * step[:, index]
        loss, gradient, predicted = evaluate(Z, Y[:, index], trial, l2[index], block)
        bend = dot(gradient, step[:, index]) / slope[index]  # 1 at the start, 0 at the line's end
        enough = loss <= state.loss[index] + 1e-4 * length[index] * slope[index]
        level = loss <= state.loss[index] + NOISE * state.loss[index].abs()
        good = torch.isfinite(loss) & (enough | (level & (bend >= 0) & (bend <= 1)))
        done = index[good]
        new.W[:, done], new.loss[done] = trial[:, good], loss[good]
        new.gradient[:, done], new.predicted[done] = gradient[:, good], predicted[good]
        taken[done] = length[done]
        if bool(good.all()):
            break
        shrink = torch.nan_to_num(1 / (1 - bend[~good]), nan=0.1).clamp(0.05, 0.6)
        index = index[~good]
        length[index] *= shrink
    return new, taken


def _sample(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    rows: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "m r"], Int[Tensor, "m k"], Float[Tensor, " m"]]:
    """Rows, their labels and weights for the curvature; all of them with weight 1 if rows = n."""
    Z = design.rotated
    if rows >= design.n:
        return Z, Y, torch.ones(design.n, dtype=Z.dtype, device=Z.device)
    chosen, weight = _systematic_sample(_row_weights(Z, Y, W, design.block), rows, generator)
    return Z[chosen], Y[chosen], weight.to(Z.dtype)


def sample_size(design: Design) -> int:
    """Rows of the first curvature sample: an eighth, but enough for the number of features."""
    n = design.n
    return n if n <= SMALL_SAMPLE else min(n, max(n // 8, 12 * design.d, SMALL_SAMPLE // 2))


def _product_dtype(design: Design) -> torch.dtype:
    """Curvature is exact where all rows fit in a sample; where it is sampled anyway, rough products do."""
    return design.dtype if design.n <= SMALL_SAMPLE else fast_dtype(design.rotated)


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
    sample = _sample(design, Y, W, 2 * sample_size(design), generator)
    blend = torch.zeros_like(l2)
    curvature = Curvature(*sample, W, l2, design.eigenvalues, blend, design.block, _product_dtype(design))
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
    that the last Newton decrements predict is (with a margin of 20: the sampled curvature may err).
    """
    Z, block, n = design.rotated, design.block, design.n
    k = Y.shape[1]
    eigenvalues = design.eigenvalues
    rows, exact = sample_size(design), n <= SMALL_SAMPLE
    generator = torch.Generator().manual_seed(seed)
    state = State(start.clone(), *evaluate(Z, Y, start, l2, block))
    final = start.clone()
    n_iter = torch.zeros(k, dtype=torch.int64, device=Z.device)
    converged = torch.zeros(k, dtype=torch.bool, device=Z.device)
    index = torch.arange(k, device=Z.device)
    memory = _Memory()
    relative = torch.full((k,), float("inf"), dtype=torch.float64, device=Z.device)
    remaining = relative
    stuck = torch.zeros(k, dtype=torch.int64, device=Z.device)
    for iteration in range(max_iter + 1):
        floor = torch.finfo(torch.float64).tiny
        bound = gap_bound(state.gradient, state.predicted, l2)
        done = bound <= tol * state.loss + floor
        if iteration:
            done |= remaining <= tol / 20
        gone = done | (stuck >= 3)
        if bool(gone.any()):
            final[:, index[gone]], converged[index[gone]] = state.W[:, gone], done[gone]
            keep = ~gone
            if not bool(keep.any()):
                break
            index, state, Y, l2 = index[keep], state.select(keep), Y[:, keep], l2[keep]
            relative, remaining, stuck = relative[keep], remaining[keep], stuck[keep]
            memory.select(keep)
        if iteration == max_iter:
            final[:, index] = state.W
            break
        blend = torch.where(relative > FAR, 0.5, 0.0)
        sample = _sample(design, Y, state.W, rows, generator)
        curvature = Curvature(*sample, state.W, l2, eigenvalues, blend, block, _product_dtype(design))
        accuracy = relative.clamp(max=1.0).sqrt().clamp(1e-3 if exact else 0.1, 0.25)
        limit = 250 if exact else 25 if rows < n else 60

        def solve(B: Tensor, H: Curvature = curvature, to: Tensor = accuracy, most: int = limit) -> Tensor:
            return H.solve(B, to, most)

        step = memory.direction(state.gradient, solve)
        slope = dot(state.gradient, step)
        if bool((slope >= 0).any()):  # rounding: fall back on the preconditioned gradient
            plain = -curvature.precondition(state.gradient)
            step = torch.where(per_target((slope >= 0).double(), step) > 0, plain, step)
            slope = dot(state.gradient, step)
        before = relative
        relative = -slope / (2 * state.loss.clamp(min=floor))
        new, taken = _line_search(Z, Y, l2, state, step, slope, block)
        # What the step is expected to have left: its decrement, shrunk as the one before it was.
        shrunk = torch.where(torch.isfinite(before), relative / before, 1.0).clamp(max=1.0)
        remaining = torch.where(taken == 1, relative * shrunk, relative)
        stuck = torch.where(taken > 0, 0, stuck + 1)
        if bool((relative < FAR).all()) and not exact:
            memory.add(new.W - state.W, new.gradient - state.gradient)
        else:
            memory.pairs = []
        state = new
        n_iter[index] += 1
        if trace is not None:
            trace({"rows": rows, "loss": state.loss, "relative": relative, "taken": taken})
        # Sampling noise shows as short steps and slow decrease: see more rows.
        slow = (relative > 0.4 * before) & (relative < FAR)
        if rows < n and bool(slow.any()):
            rows = 2 * rows if 2 * rows < 0.7 * n else n
    return Solution(final, n_iter, converged)
