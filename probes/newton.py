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
from functools import partial
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .curvature import ClassBlocks, Curvature
from .design import Design
from .objective import Point, dot, fast_dtype, per_target
from .rows import OnDisk

MEMORY = 6
"""Pairs of steps and gradient changes that the L-BFGS memory keeps."""
NOISE = 1e-7
"""Relative rounding of a float32 objective."""
FAR = 0.05
"""Relative decrement above which the curvature is blended with the labels."""
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

# The curvature's sample of rows.
SMALL_SAMPLE = 8192
"""With fewer rows than this the curvature uses all of them."""
FIRST_SHARE = 4
"""The first sample is at least one in so many rows ..."""
ROWS_A_FEATURE = 12
"""... and so many rows for each feature."""
SLOWER, STALLED = 0.4, 1.0
"""Decrements that fall by less than these factors ask for more rows: while the sample is small,
and later.
"""
LARGE_SAMPLE, WHOLE = 0.3, 0.7
"""Shares of the rows: where a sample grows only if stalled, and from where it is all of them."""
NEARER = 10
"""A sample that is not small grows only where decrements are below this part of ``FAR``."""
CERTAIN_ROUNDS = 4
"""How often what certain rows cannot use is given to the others."""

# The inner solve by conjugate gradients.
SOLVE = (0.1, 0.25)
"""Least and largest relative residual."""
SOLVE_EXACT = 1e-3
"""The least one where the curvature is of all rows."""
SOLVE_STEPS, SOLVE_STEPS_SAMPLED, SOLVE_STEPS_EXACT = 60, 25, 250
"""Steps at most: curvature of all rows, of a sample, of few rows."""
SOLVE_REST = 0.25
"""What a solve may leave, as a share of the error that is asked for."""
BLOCKS_BELOW, BLOCKS_AGAIN = 0.2, 0.03
"""The preconditioner's blocks are made where a relative decrement is below the first,
and again where the median falls to the second of what it was.
"""
DECREMENT_RESIDUAL, DECREMENT_STEPS = 0.1, 100
"""Residual and steps of the solve that gives the decrement."""

# The line search.
DECREASE = 1e-4
"""Armijo's share of the slope."""
TRIALS = 29
"""Lengths tried."""
SHRINK = (0.05, 0.6)
"""Least and largest factor of a shorter trial."""
FAR_TOO_LARGE = 10
"""A trial whose objective is so many times the one before
would leave its rounding in the logits.
"""
PARALLEL = 1e-10
"""A pair whose s'y is below this share of |s||y| holds rounding, and no curvature."""


@dataclass(frozen=True)
class Solution:
    """Result of ``minimise``: coefficients in the design's basis, iterations, and success."""

    W: Float[Tensor, "r k c"]
    n_iter: Int[Tensor, " k"]
    converged: Tensor


@dataclass
class _Sampling:
    """How many rows the curvature is sampled from, which grows as the fits get close,
    and the random numbers for it.
    """

    size: int
    largest: int
    generator: torch.Generator


def gap_bound(
    gradient: Float[Tensor, "r k c"],
    of_bias: Float[Tensor, "k c"],
    l2: Float[Tensor, " k"],
    coupling: float = 0.0,
) -> Float[Tensor, " k"]:
    r"""How far the objective can be above its minimum.

        f(W) - min f <= (||grad_W|| + sqrt(e_max d))^2 / (2 l2) + d,
                   d = sum_c grad_bc^2 / (2 h_c)

    The bias is not penalised: d is what its own optimum would take off, class by class. Where the
    bias is optimal, the rest is l2-strongly convex in W. Moving it there changes grad_W by
    Z' (diag p - p p') v with v = grad_b / h, which is no longer than sqrt(e_max d).

    Args:
        of_bias: h, the bias's curvature sum_i p_ic (1 - p_ic).
        coupling: e_max, the largest eigenvalue of Z'Z; 0 leaves out that W follows the bias.
    """
    size = dot(gradient[:-1], gradient[:-1]).sqrt()
    bias = (gradient[-1].double() ** 2 / (2 * of_bias.double())).nan_to_num(0.0).sum(-1)
    return (size + (coupling * bias).sqrt()) ** 2 / (2 * l2) + bias


def _systematic_sample(
    q: Float[Tensor, " n"], m: int, generator: torch.Generator
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """About m rows with probability proportional to q, and their inverse inclusion probabilities.

    Source: Madow 1949, systematic sampling with probability proportional to size.
    """
    chance = (q.double() * m / q.double().sum()).clamp(max=1.0)
    for _ in range(CERTAIN_ROUNDS):  # what certain rows cannot use goes to the others
        free = chance < 1
        scale = (m - int((~free).sum())) / chance[free].sum().clamp(min=1e-12)
        chance[free] = (chance[free] * scale).clamp(max=1.0)
    # One number decides the whole sample: marks stand at equal distances along the summed chances.
    start = torch.rand((), generator=generator, dtype=torch.float64).to(q.device)
    marks = torch.floor(torch.cumsum(chance, 0) + start)
    # A row is drawn where a mark falls into its share.
    index = (torch.diff(marks, prepend=torch.floor(start).view(1)) > 0).nonzero().squeeze(1)
    return index, (1 / chance[index]).to(q.dtype)


class _Memory:
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


def _sample(
    rows: Float[Tensor, "n r"] | OnDisk, point: Point, size: int, generator: torch.Generator
) -> tuple[Float[Tensor, "m r"], Int[Tensor, "m k"], Float[Tensor, " m"], Float[Tensor, "m k c"]]:
    """Rows, their labels, weights and logits for the curvature;
    all of them with weight 1 if size = n.
    """
    n = len(rows)
    if size >= n and isinstance(rows, Tensor) and point.logits is not None:
        weight = torch.ones(n, dtype=point.W.dtype, device=rows.device)
        return rows, point.Y, weight, point.logits
    if size >= n:
        chosen = torch.arange(n, device=rows.device)
        weight = torch.ones(n, device=rows.device)
    else:
        # Rows that the probe is sure of have next to no curvature: they are drawn rarely, and weigh
        # more when they are.
        chosen, weight = _systematic_sample(point.sampling_weights(), size, generator)
    sampled = rows[chosen]
    logits = point.logits_of(chosen, sampled)
    return sampled, point.Y[chosen], weight.to(point.W.dtype), logits


def sample_size(design: Design) -> int:
    """Rows of the first curvature sample: a quarter, but enough for the number of features."""
    n = design.n
    if n <= SMALL_SAMPLE:
        return n
    return min(n, max(n // FIRST_SHARE, ROWS_A_FEATURE * design.d, SMALL_SAMPLE // 2))


def _quick(design: Design) -> Float[Tensor, "n r"] | OnDisk:
    """The rows in the type of the fastest products; as they are where they all fit in a sample,
    and on disk.
    """
    rows = design.rotated
    return rows if isinstance(rows, OnDisk) else rows.to(_quick_dtype(design))


def _quick_dtype(design: Design) -> torch.dtype:
    rows = design.rotated
    if isinstance(rows, OnDisk) or design.n <= SMALL_SAMPLE:
        return design.dtype
    return fast_dtype(rows)


def is_rough(design: Design, tol: float) -> bool:
    """Whether `minimise` to tol ends on rough products:
    what it gives must be judged by exact ones.
    """
    return tol >= ROUGH and _quick_dtype(design) != design.dtype


def decrement(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    gradient: Float[Tensor, "r k c"],
    enough: Float[Tensor, " k"],
    seed: int = 1,
) -> Float[Tensor, " k"]:
    """Newton decrement g' H^-1 g / 2, about objective - minimum, with a fresh curvature sample,
    to about ``enough``: what conjugate gradients find of it, and what they leave.

    The sample is larger than that of the first iterations and none of theirs, so that it does not
    repeat an error that stopped the iteration too early.
    """
    generator = torch.Generator().manual_seed(seed)
    point = Point(design.rotated, Y, W, l2, design.block)
    size = min(2 * sample_size(design), design.sample_limit(W[0].numel()))
    sample = _sample(_quick(design), point, size, generator)
    blend = torch.zeros_like(l2)
    curvature = Curvature(*sample, point.present, l2, design.eigenvalues, blend, design.block)
    curvature.blocks = ClassBlocks(curvature)
    g = gradient.to(W.dtype)
    residual = torch.full_like(l2, DECREMENT_RESIDUAL)
    x, left = curvature.solve(g, residual, DECREMENT_STEPS, SOLVE_REST * enough)
    # ||g|| <= ||H x|| + ||g - H x|| in the norm of H^-1: a solve that came to nothing proves
    # nothing.
    return (dot(g, x).clamp(min=0).sqrt() + left.clamp(min=0).sqrt()) ** 2 / 2


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
    sampling = _Sampling(min(sample_size(design), largest), largest, generator)
    quick = _quick(design)
    steps = partial(_iterate, design, Y, l2=l2, quick=quick, sampling=sampling, trace=trace)
    enough = tol / (MARGIN_EXACT if design.n <= SMALL_SAMPLE else MARGIN)
    if exact or quick is design.rotated:
        return steps(start=start, rows=design.rotated, tol=tol, enough=enough, max_iter=max_iter)
    is_rough_enough = tol >= ROUGH
    enough_of_rough = max(enough, ROUGH_REMAINDER) if is_rough_enough else ROUGH
    rough = steps(
        start=start, rows=quick, tol=max(tol, ROUGH), enough=enough_of_rough, max_iter=max_iter
    )
    left = max_iter - int(rough.n_iter.max())
    if is_rough_enough or left < 1:
        return rough
    fine = steps(
        start=rough.W, rows=design.rotated, tol=tol, enough=enough, max_iter=left, near=ROUGH
    )
    return Solution(fine.W, rough.n_iter + fine.n_iter, fine.converged)


def _iterate(
    design: Design,
    Y: Int[Tensor, "n k"],
    *,
    l2: Float[Tensor, " k"],
    quick: Float[Tensor, "n r"] | OnDisk,
    sampling: _Sampling,
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
        quick: the rows of the curvature's sample.
        enough: what may remain of the relative decrement.
        near: the relative decrement at the start, where it is known.
    """
    Z, block, n = design.rotated, design.block, design.n
    is_exact = sampling.size == n <= SMALL_SAMPLE
    point = Point(rows, Y, start, l2, block, is_sampled=not is_exact)
    state = _State(start, Y.shape[1], near)
    memory, blocks = _Memory(), _Blocks()

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
        sample = _sample(quick, point, size, sampling.generator)
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
        taken = _line_search(Z, rows, point, step, slope)
        state.advance(relative, taken)
        if bool((relative < FAR).all()) and not is_exact:
            memory.add(point.W - W, point.gradient - gradient)
        else:
            memory.pairs = []
        if trace is not None:
            trace({"rows": size, "loss": point.loss, "relative": relative, "taken": taken})
        if size < sampling.largest and _asks_for_rows(before, relative, size, n):
            doubled = 2 * size
            sampling.size = min(doubled if doubled < WHOLE * n else n, sampling.largest)
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


_TINY = torch.finfo(torch.float64).tiny


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


def _asks_for_rows(
    before: Float[Tensor, " k"], relative: Float[Tensor, " k"], size: int, n: int
) -> bool:
    """Whether some target's decrement falls slowly, which is how the noise of the sample shows.

    Beyond a quarter of the rows an iteration costs more than it saves, so there only if the
    decrease all but ends.
    """
    is_few = 2 * size <= LARGE_SAMPLE * n
    is_slow = relative > (SLOWER if is_few else STALLED) * before
    is_near = before < (FAR if is_few else FAR / NEARER)
    return bool((is_slow & is_near).any())
