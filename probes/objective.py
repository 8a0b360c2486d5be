"""The joint objective of many multinomial logistic regressions, and its curvature.

For target t with class indices y_it, f_t(W) = sum_i -log softmax(z_i W_t)[y_it] + l2_t/2 ||W_t||^2
where the last row of W_t is the unpenalised bias. Targets lie side by side, W is [r, k, c], so that
one product with the rows serves them all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rows import OnDisk

LOWEST_LOG_PROBABILITY = -40.0
# exp(-40) = 4e-18 changes no sum that matters, while denormal numbers slow products tenfold.


ABSENT = -1e4
# Bias of a column that only pads a target to the width of its group: probability 0.


def dot(a: Float[Tensor, "r k c"], b: Float[Tensor, "r k c"]) -> Float[Tensor, " k"]:
    """Inner product of each target, summed in float64."""
    return (a * b).sum((0, 2), dtype=torch.float64)


def per_target(values: Float[Tensor, " k"], like: Tensor) -> Float[Tensor, "1 k 1"]:
    """One number per target, shaped to scale [r k c]."""
    return values.to(like.dtype).view(1, -1, 1)


def back(values: Float[Tensor, "m q"], Z: Float[Tensor, "m r"]) -> Float[Tensor, "r q"]:
    """Z' values in the type of Z; written so that Z, the larger of the two, need not be turned."""
    return (values.to(Z.dtype).T @ Z).T


class Point:
    """Coefficients, and what they give on all rows: logits, objective, gradient. It moves in place.

    The logits are kept and moved by the step's own product with the rows, so that a rough product
    (see ``fast_dtype``) errs in proportion to the step: near the end, where steps are short, hardly
    at all. Rows go by in blocks, so that softmax and residual never leave the cache. Of rows on
    disk no logits are kept: they are made again from the coefficients, by as many products.

    Attributes:
        W: [r k c].
        logits: [n k c], or None.
        loss: [k], float64.
        gradient: [r k c].
        predicted: how often each class is predicted, sum_i p_ic, [k c].
    """

    def __init__(
        self,
        Z: Float[Tensor, "n r"] | OnDisk,
        Y: Int[Tensor, "n k"],
        W: Float[Tensor, "r k c"],
        l2: Float[Tensor, " k"],
        block: int,
    ) -> None:
        _, k, c = W.shape
        self.Y, self.W, self.l2, self.block = Y, W.clone(), l2, block
        self.logits = None if isinstance(Z, OnDisk) else W.new_empty(len(Z), k, c)
        self.loss, self.gradient = torch.zeros_like(l2), torch.empty_like(W)
        # How often each class occurs: its gradient of the bias is what is predicted less this.
        self.counts = torch.stack([torch.bincount(Y[:, j], minlength=c) for j in range(k)])
        self.predicted = torch.empty_like(self.counts, dtype=torch.float64)
        self.spread = W.new_zeros(len(Z), 2)
        self.recompute(Z)

    @property
    def present(self) -> Tensor:
        """The columns that are classes, [k c]; the others only pad."""
        return self.W[-1] > ABSENT / 2

    def select(self, keep: Tensor) -> None:
        """Go on with some of the targets."""
        self.Y, self.W, self.l2 = self.Y[:, keep], self.W[:, keep], self.l2[keep]
        self.logits = None if self.logits is None else self.logits[:, keep]
        self.loss, self.gradient = self.loss[keep], self.gradient[:, keep]
        self.counts, self.predicted = self.counts[keep], self.predicted[keep]

    def move(
        self, Z: Float[Tensor, "n r"] | OnDisk, step: Float[Tensor, "r k c"], which: Tensor | slice
    ) -> None:
        """Take some of the targets to W + step, with step rounded to the type of Z."""
        low, logits_kept = step.to(Z.dtype), self.logits
        self.W[:, which] += low.to(self.W.dtype)
        if logits_kept is None:
            return self.recompute(Z, which)
        flat = low.view(len(low), -1)

        def logits(rows: slice, part: Tensor) -> Tensor:
            chosen = logits_kept[rows, which]
            chosen += (part @ flat).view_as(chosen)
            if not isinstance(which, slice):  # then it is a copy, not a view
                logits_kept[rows, which] = chosen
            return chosen

        self._evaluate(Z, logits, which)

    def recompute(
        self, Z: Float[Tensor, "n r"] | OnDisk, which: Tensor | slice = slice(None)
    ) -> None:
        """Logits, and all that follows, from W alone (rounded to the type of Z),
        for some of the targets.
        """
        # The logits are exactly those of the weights that are kept: what is lost by rounding is
        # lost before, not after.
        low = self.W[:, which].to(Z.dtype)
        self.W[:, which] = low.to(self.W.dtype)
        flat = low.reshape(len(low), -1)

        def logits(rows: slice, part: Tensor) -> Tensor:
            fresh = (part @ flat).to(self.W.dtype).view(-1, *low.shape[1:])
            if self.logits is not None:
                self.logits[rows, which] = fresh
            return fresh

        self._evaluate(Z, logits, which)

    def _evaluate(
        self, Z: Tensor | OnDisk, logits: Callable[[slice, Tensor], Tensor], which: Tensor | slice
    ) -> None:
        Y, W, l2, counts = self.Y[:, which], self.W[:, which], self.l2[which], self.counts[which]
        r, k, c = W.shape
        gradient, loss = W.new_zeros(r, k * c), torch.zeros_like(l2)
        # For `sampling_weights`: a class's part of the curvature over its count, and as it is.
        shares = torch.stack([1 / counts.clamp(min=1), torch.ones_like(counts)])
        shares = shares.to(W.dtype).view(2, k * c)
        for start in range(0, len(Z), self.block):
            rows = slice(start, start + self.block)
            part, y = Z[rows], Y[rows].unsqueeze(-1)
            log_p = torch.log_softmax(logits(rows, part), dim=-1)
            loss -= log_p.gather(2, y).squeeze(-1).sum(0, dtype=torch.float64)
            p = log_p.clamp_(min=LOWEST_LOG_PROBABILITY).exp_().view(-1, k * c)
            if k == self.W.shape[1]:
                torch.mm(p - p * p, shares.T, out=self.spread[rows])
            # The residual p - [y = c], in the place of p.
            p.view(-1, k, c).scatter_add_(2, y, p.new_full((), -1.0).expand(y.shape))
            gradient += back(p, part)
        gradient = gradient.view(r, k, c)
        # The bias's gradient is what is predicted of each class less what there is.
        self.predicted[which] = (gradient[-1].double() + counts).clamp_(min=0)
        gradient[:-1] += per_target(l2, W) * W[:-1]
        self.gradient[:, which] = gradient
        self.loss[which] = loss + l2 / 2 * dot(W[:-1], W[:-1])

    def logits_of(self, rows: Int[Tensor, " m"], Z: Float[Tensor, "m r"]) -> Float[Tensor, "m k c"]:
        """The logits of some rows, which are Z."""
        if self.logits is not None:
            return self.logits[rows]
        return (Z @ self.W.reshape(len(self.W), -1)).view(-1, *self.W.shape[1:])

    def sampling_weights(self) -> Float[Tensor, " n"]:
        """Where the curvature is, with a share for every class and every row; they sum to 1.

        p_ic (1 - p_ic), summed over classes, is a row's part of the curvature; divided by the class
        counts it gives rare classes, whose few rows a uniform sample would miss, their share. Any
        positive weights make an unbiased sample: these may be those of targets that have left.
        """
        by_class, total = self.spread.double().clamp(min=0).unbind(1)
        targets = torch.arange(len(self.counts), device=self.Y.device)
        rare = (1 / self.counts.double())[targets, self.Y].sum(1)
        parts = torch.stack([part / part.sum() for part in (by_class, total, rare)])
        # A quarter each, the last to all rows alike.
        return (0.25 * parts.sum(0) + 0.25 / len(self.Y)).float()


def fast_dtype(Z: Tensor) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively and Z is float32 (about 4 times as fast),
    else Z's own type.
    """
    if Z.dtype != torch.float32:
        return Z.dtype
    if Z.is_cuda:
        is_able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        is_able = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if is_able else Z.dtype


LEAST_CURVATURE = 1e-7
"""Of a bias, as a share of the largest, for the preconditioner."""


class Curvature:
    """Hessian of every target on a weighted sample of rows, with a Kronecker preconditioner.

        H_t V = sum_s w_s z_s (diag p_s - p_s p_s') (z_s' V) + l2_t V

    ``blend`` replaces p by (1 - b) p + b y, divided by 1 - b^2. If y is drawn from p the
    expectation is the same, but a row that is confidently wrong, whose own curvature is 0 although
    it is about to move, counts fully: Newton steps stay short while the fit is far away. b = 0 is
    Newton.

    The preconditioner is  (A_t x G + l2_t)^-1  with A_t the mean class covariance and G the Gram
    matrix, which is diagonal in the design's basis.

    Rows in bfloat16 round z_s and the logits' change by 2^-9 or less, which leaves H symmetric and
    positive to that accuracy: enough for a direction, whose length and end are judged by objectives
    and gradients.
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
        _, k, c = logits.shape
        P = torch.empty_like(logits)
        weighted = torch.empty_like(P)
        covariance = torch.zeros(k, c, c, dtype=torch.float64, device=Z.device)
        mix = blend.to(P.dtype).view(1, k, 1)
        for start in range(0, len(Z), block):
            rows = slice(start, start + block)
            p = torch.log_softmax(logits[rows], dim=-1).clamp_(min=LOWEST_LOG_PROBABILITY).exp_()
            p *= 1 - mix
            p.scatter_add_(2, Y[rows].unsqueeze(-1), mix.expand(len(p), k, 1))
            P[rows] = p
            weighted[rows] = p * weight[rows].view(-1, 1, 1) / (1 - mix**2)
            # diag p - p p', of each target, summed over the rows with their weights
            left, right = p.transpose(0, 1), weighted[rows].transpose(0, 1)
            covariance -= torch.bmm(left.transpose(1, 2), right)
            covariance += torch.diag_embed(right.sum(1))
        self.P, self.weighted = P, weighted

        # In the eigenvectors of A_t the preconditioner is diagonal, for G is already.
        n = float(eigenvalues[-1])
        values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
        scaled = eigenvalues.view(-1, 1, 1) * (values.clamp(min=0) / n)
        scaled[:-1] += l2.view(1, -1, 1)
        # No penalty keeps the bias's curvature from 0.
        least = LEAST_CURVATURE * float(scaled[-1].max()) + torch.finfo(P.dtype).tiny
        scaled[-1].clamp_(min=least)
        self.present = present.to(P.dtype) / present.sum(-1, keepdim=True)
        self.inverse, self.vectors = (1 / scaled).to(P.dtype), vectors.to(P.dtype)

    def select(self, keep: Tensor) -> Curvature:
        """The curvature of some of the targets."""
        out = object.__new__(Curvature)
        out.Z, out.block, out.l2 = self.Z, self.block, self.l2[keep]
        out.P, out.weighted = self.P[:, keep], self.weighted[:, keep]
        out.present = self.present[keep]
        out.inverse, out.vectors = self.inverse[:, keep], self.vectors[keep]
        return out

    def _without_gauge(self, R: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        """R with a bias row that sums to 0 over a target's classes.

        The same bias for all classes changes nothing: it has no curvature, and a gradient of mere
        rounding, which the solve must not divide by that curvature.
        """
        bias = torch.where(self.present > 0, R[-1], 0.0)
        R[-1] = bias - (bias.sum(-1, keepdim=True) * self.present)
        return R

    def precondition(self, R: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        """Solve with the Kronecker-factored curvature."""
        in_eigenvectors = torch.einsum("rkc,kca->rka", self._without_gauge(R.clone()), self.vectors)
        in_eigenvectors *= self.inverse
        solved = torch.einsum("rka,kca->rkc", in_eigenvectors, self.vectors)
        return self._without_gauge(solved)

    def times(self, V: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        r, k, c = V.shape
        low = self.Z.dtype
        flat = V.reshape(r, k * c).to(low)
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
        self, B: Float[Tensor, "r k c"], accuracy: Float[Tensor, " k"], max_iter: int
    ) -> Float[Tensor, "r k c"]:
        """Preconditioned conjugate gradients for H X = B, each target with its own coefficients.

        A target leaves the products once its residual, in the preconditioner's norm, has shrunk by
        ``accuracy``. Source: Nocedal & Wright 2006, Numerical Optimization, algorithm 5.3.
        """
        H, solution = self, torch.zeros_like(B)
        index = torch.arange(B.shape[1], device=B.device)
        x, r = torch.zeros_like(B), B.clone()
        z = H.precondition(r)
        p, rz = z.clone(), dot(r, z)
        goal = accuracy**2 * rz
        live = rz > 0
        for _ in range(max_iter):
            if not bool(live.all()):
                solution[:, index[~live]] = x[:, ~live]
                if not bool(live.any()):
                    return solution
                H, index, goal, rz = H.select(live), index[live], goal[live], rz[live]
                x, r, p = x[:, live], r[:, live], p[:, live]
            Hp = H.times(p)
            bend = dot(p, Hp)
            # Rounding can make the curvature along p negative: such a target stops where it is.
            step = torch.where(bend > 0, rz / bend, torch.zeros_like(rz))
            x += per_target(step, x) * p
            r -= per_target(step, r) * Hp
            z = H.precondition(r)
            rz_after = dot(r, z)
            live = (rz_after > goal) & (step > 0)
            p = z + per_target(rz_after / rz, z) * p
            rz = rz_after
        solution[:, index] = x
        return solution
