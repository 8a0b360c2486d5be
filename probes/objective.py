"""The joint objective of many multinomial logistic regressions, and its gradient.

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


SURE = 0.5
"""Probability of all classes but the label's below which its logarithm is that of 1 less this."""

ABSENT = -1e4
# Bias of a column that only pads a target to the width of its group: probability 0.


def dot(a: Float[Tensor, "r k c"], b: Float[Tensor, "r k c"]) -> Float[Tensor, " k"]:
    """Inner product of each target, summed in float64."""
    return (a * b).sum((0, 2), dtype=torch.float64)


def per_target(values: Float[Tensor, " k"], like: Tensor) -> Float[Tensor, "1 k 1"]:
    """One number per target, shaped to scale [r k c]."""
    return values.to(like.dtype).view(1, -1, 1)


def spread_over(columns: Float[Tensor, "k c"], R: Float[Tensor, "r k c"]) -> Float[Tensor, "r k c"]:
    """What all classes of a target have in common: their mean, at each of them."""
    mean = (R * columns).sum(-1, keepdim=True) / columns.sum(-1, keepdim=True)
    return mean * columns


def residuals(
    logits: Float[Tensor, "m k c"], y: Int[Tensor, "m k"]
) -> tuple[Float[Tensor, "m k c"], Float[Tensor, "m k"]]:
    """p - [y = c], and -log p_y in nats.

    Of the label both are computed from the sum s of the other probabilities, as -s and -log(1 - s):
    where a probe is sure, 1 - p_y and log p_y themselves would be differences of rounding.
    """
    label = y.unsqueeze(-1)
    log_p = torch.log_softmax(logits, dim=-1)
    of_label = log_p.gather(2, label).squeeze(-1)
    p = log_p.clamp_(min=LOWEST_LOG_PROBABILITY).exp_().scatter_(2, label, 0.0)
    others = p.sum(-1)
    nats = torch.where(others < SURE, -torch.log1p(-others.clamp(max=SURE)), -of_label)
    return p.scatter_(2, label, -others.unsqueeze(-1)), nats


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
        spread: what `sampling_weights` weighs rows by; None where no sample is drawn.
    """

    def __init__(
        self,
        Z: Float[Tensor, "n r"] | OnDisk,
        Y: Int[Tensor, "n k"],
        W: Float[Tensor, "r k c"],
        l2: Float[Tensor, " k"],
        block: int,
        is_sampled: bool = True,
    ) -> None:
        _, k, c = W.shape
        self.Y, self.W, self.l2, self.block = Y, W.clone(), l2, block
        self.logits = None if isinstance(Z, OnDisk) else W.new_empty(len(Z), k, c)
        self.loss, self.gradient = torch.zeros_like(l2), torch.empty_like(W)
        # How often each class occurs: its gradient of the bias is what is predicted less this.
        self.counts = torch.stack([torch.bincount(Y[:, j], minlength=c) for j in range(k)])
        self.predicted = torch.empty_like(self.counts, dtype=torch.float64)
        self.spread = W.new_zeros(len(Z), 2) if is_sampled else None
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
            part = Z[rows]
            residual, nats = residuals(logits(rows, part), Y[rows])
            loss += nats.sum(0, dtype=torch.float64)
            residual = residual.view(-1, k * c)
            if self.spread is not None and k == self.W.shape[1]:
                # p (1 - p), which is the same of the label's p and of 1 - p.
                torch.mm(residual.abs() - residual * residual, shares.T, out=self.spread[rows])
            gradient += back(residual, part)
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
        assert self.spread is not None
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
