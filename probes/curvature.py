"""The curvature of many multinomial logistic regressions, and solves with it.

Targets lie side by side as in ``objective``: W is [r, k, c], its last row is the unpenalised bias.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .objective import LOWEST_LOG_PROBABILITY, back, dot, per_target, spread_over

LEADING = 64
"""Directions of most variance in which the preconditioner knows how features vary together."""
BLOCK_ROWS = 512
"""Rows drawn for each class's block of the preconditioner."""
LEADING_HARD, BLOCK_ROWS_HARD = 512, 8192
"""The same two numbers for fits whose inner solves would otherwise take hundreds of steps."""
HARD_VALUES = 2**25
"""Values of all blocks of hard fits together: with many classes, blocks have fewer directions."""
BLOCKS_AT_ONCE = 8
"""Blocks made together, so that their rows stay in the processor's cache."""
SOLVE_REST = 0.25
"""What a solve may leave, as a share of the error that is asked for."""
PLATEAU = 3
"""Steps in a row that must gain little before a solve ends for it."""
LEAST_SCALED = 1e-4
"""Curvature of a block in any direction, as a share of that of its features by themselves."""
LEAST_CURVATURE = 1e-7
"""Of a bias, as a share of the largest, for the preconditioner."""


class Curvature:
    """Hessian of every target on a weighted sample of rows, and a preconditioner for it.

        H_t V = sum_s w_s z_s (diag p_s - p_s p_s') (z_s' V) + l2_t V

    ``blend`` replaces p by (1 - b) p + b y, divided by 1 - b^2. If y is drawn from p the
    expectation is the same, but a row that is confidently wrong, whose own curvature is 0 although
    it is about to move, counts fully: Newton steps stay short while the fit is far away. b = 0 is
    Newton.

    The preconditioner takes each class by itself. Its curvature is that of the rows which it is not
    sure of, H_c = sum_s w_s p_sc (1 - p_sc) z_s z_s' + l2: in the directions of most variance as
    ``ClassBlocks``, where they are given, and elsewhere with the variance of all rows,
    e sum_s w_s p_sc (1 - p_sc) / n + l2. What is the same for all classes changes no probability,
    and is 0 at the optimum: no solution has any of it. Of a gradient it is rounding alone, which
    the penalty, its only curvature, would make the most of a step where it is weak.

    Rows in bfloat16 round z_s and the logits' change by 2^-9 or less, which leaves H symmetric and
    positive to that accuracy: enough for a direction, whose length and end are judged by objectives
    and gradients.

    Attributes:
        P, weighted: p_sc and w_s p_sc, [m k c].
        blocks: set where they are worth their time.
    """

    def __init__(
        self,
        Z: Float[Tensor, "m r"],
        Y: Int[Tensor, "m k"],
        weight: Float[Tensor, " m"],
        logits: Float[Tensor, "m k c"],
        present: Tensor,
        l2: Float[Tensor, " k"],
        eigenvalues: Float[Tensor, " r"],
        blend: Float[Tensor, " k"],
        block: int,
    ) -> None:
        self.Z, self.block, self.l2 = Z, block, l2
        self.present = present.to(logits.dtype)
        self.P, self.weighted = torch.empty_like(logits), torch.empty_like(logits)
        of_bias = torch.zeros_like(logits[0])
        mix = blend.to(logits.dtype).view(1, -1, 1)
        for start in range(0, len(Z), block):
            rows = slice(start, start + block)
            p = torch.log_softmax(logits[rows], dim=-1).clamp_(min=LOWEST_LOG_PROBABILITY).exp_()
            p *= 1 - mix
            p.scatter_add_(2, Y[rows].unsqueeze(-1), mix.expand(len(p), -1, 1))
            self.P[rows] = p
            weighted = p * weight[rows].view(-1, 1, 1) / (1 - mix**2)
            self.weighted[rows] = weighted
            of_bias += (weighted * (1 - p)).sum(0)
        variances = (eigenvalues / eigenvalues[-1]).to(logits.dtype)
        diagonal = variances.view(-1, 1, 1) * of_bias
        diagonal[:-1] += per_target(l2, diagonal)
        # No penalty keeps the bias's curvature from 0.
        least = LEAST_CURVATURE * float(of_bias.max()) + torch.finfo(logits.dtype).tiny
        diagonal[-1].clamp_(min=least)
        self.inverse, self.blocks = 1 / diagonal, None

    blocks: ClassBlocks | None

    def select(self, keep: Tensor) -> Curvature:
        """The curvature of some of the targets."""
        out = object.__new__(Curvature)
        out.Z, out.block, out.l2 = self.Z, self.block, self.l2[keep]
        out.P, out.weighted = self.P[:, keep], self.weighted[:, keep]
        out.present, out.inverse = self.present[keep], self.inverse[:, keep]
        out.blocks = None if self.blocks is None else self.blocks.select(keep)
        return out

    def precondition(self, R: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        """About H^-1 R, without what all classes share."""
        apart = R * self.present - spread_over(self.present, R)
        solved = apart * self.inverse
        if self.blocks is not None:
            leading = slice(-self.blocks.width, None)
            solved[leading] = self.blocks.solve(apart[leading])
        return solved - spread_over(self.present, solved)

    def times(self, V: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        """H V."""
        r, k, c = V.shape
        flat = V.reshape(r, k * c).to(self.Z.dtype)
        out = torch.zeros(r, k * c, dtype=V.dtype, device=V.device)
        for start in range(0, len(self.Z), self.block):
            rows = slice(start, start + self.block)
            u = (self.Z[rows] @ flat).to(V.dtype).view(-1, k, c)
            # (diag p - p p') u = p * (u - p'u), without the c x c matrix
            u -= (self.P[rows] * u).sum(-1, keepdim=True)
            u *= self.weighted[rows]
            out += back(u.view(-1, k * c), self.Z[rows])
        out = out.view(r, k, c)
        out[:-1] += per_target(self.l2, V) * V[:-1]
        return out

    def solve(
        self,
        B: Float[Tensor, "r k c"],
        accuracy: Float[Tensor, " k"],
        max_iter: int,
        enough: Float[Tensor, " k"],
    ) -> tuple[Float[Tensor, "r k c"], Float[Tensor, " k"]]:
        """Preconditioned conjugate gradients for H X = B, each target with its own coefficients.

        A target leaves the products once its residual, in the preconditioner's norm, has shrunk by
        ``accuracy``, or once i steps, each like the best of the last ``PLATEAU``, would take less
        than ``enough`` off X' H X / 2 - B' X, after i steps. Source: Nocedal & Wright 2006,
        Numerical Optimization, algorithm 5.3.

        Returns:
            X, and R' M^-1 R of what it leaves, R = B - H X, with the preconditioner M.
        """
        H, solution = self, torch.zeros_like(B)
        index = torch.arange(B.shape[1], device=B.device)
        x, r = torch.zeros_like(B), B.clone()
        z = H.precondition(r)
        p, rz = z.clone(), dot(r, z)
        goal = accuracy**2 * rz
        gains = torch.full((PLATEAU, len(rz)), torch.inf, dtype=rz.dtype, device=rz.device)
        left = rz.clone()
        live = rz > 0
        for taken in range(1, max_iter + 1):
            if not bool(live.all()):
                solution[:, index[~live]], left[index[~live]] = x[:, ~live], rz[~live]
                if not bool(live.any()):
                    return solution, left
                H, index, rz = H.select(live), index[live], rz[live]
                goal, enough, gains = goal[live], enough[live], gains[:, live]
                x, r, p = x[:, live], r[:, live], p[:, live]
            Hp = H.times(p)
            bend = dot(p, Hp)
            # Rounding can make the curvature along p negative: such a target stops where it is.
            step = torch.where(bend > 0, rz / bend, torch.zeros_like(rz))
            x += per_target(step, x) * p
            r -= per_target(step, r) * Hp
            z = H.precondition(r)
            rz_after = dot(r, z)
            gains[taken % PLATEAU] = step * rz / 2
            is_little = taken * gains.amax(0) < enough
            live = (rz_after > goal) & ~is_little & (step > 0)
            p = z + per_target(rz_after / rz, z) * p
            rz = rz_after
        solution[:, index], left[index] = x, rz
        return solution, left


class ClassBlocks:
    """Inverse of every class's own curvature over the directions of most variance and the bias.

        H_c = sum_s h_sc z_s z_s' + l2,    h_sc = w_s p_sc (1 - p_sc)

    The sum is estimated from the rows that count: ``BLOCK_ROWS`` of them, drawn with probabilities
    in proportion to h_sc. It changes slowly, so that one estimate serves several Newton steps.

    Args:
        is_hard: whether better blocks are worth their time: over more directions, from more rows.
    """

    def __init__(self, curvature: Curvature, is_hard: bool = False) -> None:
        Z = curvature.Z
        m, k, c = curvature.P.shape
        leading, rows = LEADING, BLOCK_ROWS
        if is_hard:
            most = math.isqrt(HARD_VALUES // (k * c))
            leading, rows = max(LEADING, min(LEADING_HARD, most)), BLOCK_ROWS_HARD
        rows, self.width = min(m, rows), min(Z.shape[1], leading + 1)
        dtype = curvature.P.dtype
        # The eigenvalues ascend, and the bias comes last.
        features = Z[:, -self.width :].to(dtype).contiguous()
        P, weighted = curvature.P.view(m, k * c), curvature.weighted.view(m, k * c)
        # Systematic sampling: marks at equal distances along the summed chances.
        marks = (torch.arange(rows, device=Z.device, dtype=torch.float64) + 0.5) / rows
        H = torch.empty(k * c, self.width, self.width, dtype=torch.float64, device=Z.device)
        for start in range(0, k * c, BLOCKS_AT_ONCE):
            some = slice(start, start + BLOCKS_AT_ONCE)
            chances = (weighted[:, some] * (1 - P[:, some])).T.double()
            summed = chances.cumsum(1)
            total = summed[:, -1:]
            drawn = torch.searchsorted(summed, total * marks).clamp_(max=m - 1)
            z = features[drawn]
            H[some] = torch.bmm(z.mT, z).double() * (total / rows).unsqueeze(-1)
        diagonal = H.diagonal(dim1=1, dim2=2)
        diagonal[:, :-1] += curvature.l2.repeat_interleave(c)[:, None]
        # No penalty keeps the bias's curvature from 0.
        bias = diagonal[:, -1]
        bias += LEAST_CURVATURE * float(bias.max()) + torch.finfo(dtype).tiny
        # Scaled to a diagonal of 1, and kept from 0 in every direction: rounded to the type of the
        # coefficients, the inverse is still positive.
        scale = diagonal.rsqrt()
        H *= scale[:, :, None] * scale[:, None]
        H.diagonal(dim1=1, dim2=2).add_(LEAST_SCALED)
        inverse = torch.linalg.inv(H).to(dtype)
        self.inverse = inverse.view(k, c, self.width, self.width)
        self.scale = scale.to(dtype).view(k, c, self.width)

    inverse: Float[Tensor, "k c q q"]
    scale: Float[Tensor, "k c q"]

    def select(self, keep: Tensor) -> ClassBlocks:
        out = object.__new__(ClassBlocks)
        out.width, out.inverse, out.scale = self.width, self.inverse[keep], self.scale[keep]
        return out

    def solve(self, R: Float[Tensor, "q k c"]) -> Float[Tensor, "q k c"]:
        k, c, q, _ = self.inverse.shape
        by_class = (R.permute(1, 2, 0) * self.scale).reshape(k * c, q, 1)
        solved = torch.bmm(self.inverse.view(k * c, q, q), by_class)
        return (solved.view(k, c, q) * self.scale).permute(2, 0, 1)
