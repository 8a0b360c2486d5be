"""The joint objective of many multinomial logistic regressions, and its curvature.

For target t with class indices y_it, f_t(W) = sum_i -log softmax(z_i W_t)[y_it] + l2_t/2 ||W_t||^2
where the last row of W_t is the unpenalised bias. Targets lie side by side, W is [r, k, c], so that
one product with the rows serves them all.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


def log_probabilities(Z: Float[Tensor, "m r"], W: Float[Tensor, "r k c"]) -> Float[Tensor, "m k c"]:
    """log softmax of the logits of every target."""
    r, k, c = W.shape
    return torch.log_softmax((Z @ W.reshape(r, k * c)).view(-1, k, c), dim=-1)


def evaluate(
    Z: Float[Tensor, "n r"],
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    block: int,
) -> tuple[Float[Tensor, " k"], Float[Tensor, "r k c"], Float[Tensor, "k c"]]:
    """Objective (float64), gradient, and how often each class is predicted (sum_i p_ic).

    Rows go by in blocks, so that logits, softmax and residual never leave the cache.
    """
    r, k, c = W.shape
    gradient = torch.zeros(r, k * c, dtype=W.dtype, device=W.device)
    loss = torch.zeros(k, dtype=torch.float64, device=W.device)
    for start in range(0, len(Z), block):
        rows, y = Z[start : start + block], Y[start : start + block].unsqueeze(-1)
        log_p = log_probabilities(rows, W)
        loss -= log_p.gather(2, y).squeeze(-1).sum(0, dtype=torch.float64)
        residual = log_p.clamp_(min=LOWEST_LOG_PROBABILITY).exp_()
        residual.scatter_add_(2, y, residual.new_full((), -1.0).expand(y.shape))
        gradient.addmm_(rows.T, residual.view(-1, k * c))
    gradient = gradient.view(r, k, c)
    counts = torch.stack([torch.bincount(Y[:, j], minlength=c) for j in range(k)])
    predicted = (gradient[-1].double() + counts).clamp_(min=0)
    gradient[:-1] += per_target(l2, W) * W[:-1]
    loss += l2 / 2 * dot(W[:-1], W[:-1])
    return loss, gradient, predicted


def fast_dtype(Z: Tensor) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively and Z is float32 (about 4 times as fast), else Z's own type."""
    if Z.dtype != torch.float32:
        return Z.dtype
    if Z.is_cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else Z.dtype
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else Z.dtype


class Curvature:
    """Hessian of every target on a weighted sample of rows, with a Kronecker preconditioner.

        H_t V = sum_s w_s z_s (diag p_s - p_s p_s') (z_s' V) + l2_t V

    ``blend`` replaces p by (1 - b) p + b y, divided by 1 - b^2. If y is drawn from p the expectation
    is the same, but a row that is confidently wrong, whose own curvature is 0 although it is about
    to move, counts fully: Newton steps stay short while the fit is far away. b = 0 is Newton.

    The preconditioner is  (A_t x G + l2_t)^-1  with A_t the mean class covariance and G the Gram
    matrix, which is diagonal in the design's basis.

    ``products`` is the type of the two products with the rows in ``times``. bfloat16 rounds z_s and the
    logits' change by 2^-9 or less, which leaves H symmetric and positive to that accuracy: enough for a
    direction, whose length and end are judged by exact objectives and gradients.
    """

    def __init__(
        self,
        Z: Float[Tensor, "m r"],
        Y: Int[Tensor, "m k"],
        weight: Float[Tensor, " m"],
        W: Float[Tensor, "r k c"],
        l2: Float[Tensor, " k"],
        eigenvalues: Float[Tensor, " r"],
        blend: Float[Tensor, " k"],
        block: int,
        products: torch.dtype,
    ) -> None:
        self.Z, self.block, self.l2 = Z.to(products), block, l2
        _, k, c = W.shape
        P = torch.empty(len(Z), k, c, dtype=W.dtype, device=W.device)
        weighted = torch.empty_like(P)
        covariance = torch.zeros(k, c, c, dtype=torch.float64, device=W.device)
        mix = blend.to(W.dtype).view(1, k, 1)
        for start in range(0, len(Z), block):
            rows = slice(start, start + block)
            p = log_probabilities(Z[rows], W).clamp_(min=LOWEST_LOG_PROBABILITY).exp_()
            p *= 1 - mix
            p.scatter_add_(2, Y[rows].unsqueeze(-1), mix.expand(len(p), k, 1))
            P[rows] = p
            weighted[rows] = p * weight[rows].view(-1, 1, 1) / (1 - mix**2)
            left, right = p.transpose(0, 1), weighted[rows].transpose(0, 1)
            covariance -= torch.bmm(left.transpose(1, 2), right)
            covariance += torch.diag_embed(right.sum(1))
        self.P, self.weighted = P, weighted
        n = float(eigenvalues[-1])
        values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
        scaled = eigenvalues.view(-1, 1, 1) * (values.clamp(min=0) / n)
        scaled[:-1] += l2.view(1, -1, 1)
        scaled[-1].clamp_(min=1e-7 * float(scaled[-1].max()) + torch.finfo(W.dtype).tiny)
        inverse = 1 / scaled
        present = (W[-1] > ABSENT / 2).to(W.dtype)
        self.present = present / present.sum(-1, keepdim=True)
        self.inverse, self.vectors = inverse.to(W.dtype), vectors.to(W.dtype)

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
        turned = torch.einsum("rkc,kca->rka", self._without_gauge(R.clone()), self.vectors)
        turned *= self.inverse
        return self._without_gauge(torch.einsum("rka,kca->rkc", turned, self.vectors))

    def times(self, V: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
        r, k, c = V.shape
        low = self.Z.dtype
        flat = V.reshape(r, k * c).to(low)
        out = torch.zeros(r, k * c, dtype=V.dtype, device=V.device)
        for start in range(0, len(self.Z), self.block):
            rows = slice(start, start + self.block)
            u = (self.Z[rows] @ flat).to(V.dtype).view(-1, k, c)
            u -= (self.P[rows] * u).sum(-1, keepdim=True)
            u *= self.weighted[rows]
            out += self.Z[rows].T @ u.view(-1, k * c).to(low)
        out = out.view(r, k, c)
        out[:-1] += per_target(self.l2, V) * V[:-1]
        return out

    def solve(self, B: Float[Tensor, "r k c"], accuracy: Float[Tensor, " k"], max_iter: int) -> Float[Tensor, "r k c"]:
        """Preconditioned conjugate gradients for H X = B, each target with its own coefficients.

        A target leaves the products once its residual, in the preconditioner's norm, has shrunk by
        ``accuracy``. Source: Nocedal & Wright 2006, Numerical Optimization, algorithm 5.3.
        """
        H, out = self, torch.zeros_like(B)
        index = torch.arange(B.shape[1], device=B.device)
        x, r = torch.zeros_like(B), B.clone()
        z = H.precondition(r)
        p, rz = z.clone(), dot(r, z)
        goal = accuracy**2 * rz
        live = rz > 0
        for _ in range(max_iter):
            if not bool(live.all()):
                out[:, index[~live]] = x[:, ~live]
                if not bool(live.any()):
                    return out
                H, index, goal, rz = H.select(live), index[live], goal[live], rz[live]
                x, r, p = x[:, live], r[:, live], p[:, live]
            Hp = H.times(p)
            bend = dot(p, Hp)
            step = torch.where(bend > 0, rz / bend, torch.zeros_like(rz))
            x += per_target(step, x) * p
            r -= per_target(step, r) * Hp
            z = H.precondition(r)
            new = dot(r, z)
            live = (new > goal) & (step > 0)
            p = z + per_target(new / rz, z) * p
            rz = new
        out[:, index] = x
        return out
