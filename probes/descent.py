"""Many models trained at once by Adam on the same batches, each with its own step size and its own end.

    m <- .9 m + .1 g      v <- .999 v + .001 g^2      w <- w - rate (m / (1 - .9^t)) / (sqrt(v / (1 - .999^t)) + 1e-8)

After every epoch each model's held-out loss is taken: where it has not fallen the rate is cut, and a model whose loss has not
fallen for five epochs stops; the weights of the lowest loss are kept (the schedule of Hewitt & Liang 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PATIENCE = 5
"""Epochs without a fall of the held-out loss after which a model stops."""


@dataclass(frozen=True)
class Descent:
    """What training left.

    Attributes:
        weights: of each model at its lowest held-out loss, models along the first axis.
        lowest: that loss.
        epochs: passes that each model made.
        converged: whether its loss was ever finite, and had stopped falling before the epochs ran out.
    """

    weights: list[Tensor]
    lowest: Float[Tensor, " m"]
    epochs: Int[Tensor, " m"]
    converged: Bool[Tensor, " m"]


def descend(
    weights: Sequence[Tensor],
    loss: Callable[[Sequence[Tensor], Int[Tensor, " b"]], Float[Tensor, " m"]],
    held: Callable[[Sequence[Tensor]], Float[Tensor, " m"]],
    n: int,
    *,
    epochs: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
    cut: float = 0.5,
    gain: float = 0.0,
    weight_decay: float = 0.0,
    free: Sequence[Tensor | None] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Descent:
    """Train every model.

    Args:
        weights: the first weights, models along the first axis of each.
        loss: every model's loss on a batch, given as numbers of rows.
        held: every model's held-out loss; it is not differentiated.
        n: how many rows there are.
        generator: shuffles the rows.
        cut: the rate is multiplied by this after an epoch without a fall.
        gain: the least fall that counts as one.
        weight_decay: taken off weights of matrices at each step, times the step's size (AdamW).
        free: for each of the weights 1 where it is trained and 0 where it stays; None trains all of it.
        progress: called with (epochs done, epochs at most).
    """
    now = [w.detach().clone() for w in weights]
    masks = list(free) if free is not None else [None] * len(now)
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in now]
    count = len(now[0])
    best, lowest = [w.clone() for w in now], torch.full((count,), torch.inf)
    reference, waited = lowest.clone(), torch.zeros(count)
    rates, done = torch.full((count,), rate), torch.zeros(count, dtype=torch.bool)
    ends, step = torch.full((count,), epochs), 0
    for epoch in range(epochs):
        for rows in torch.randperm(n, generator=generator).split(batch):
            step += 1
            at = [w.requires_grad_() for w in now]
            slopes = torch.autograd.grad(loss(at, rows).sum(), at)
            with torch.no_grad():
                for i, (w, slope) in enumerate(zip(at, slopes, strict=True)):
                    first, second = moments[i]
                    first.mul_(0.9).add_(slope, alpha=0.1)
                    second.mul_(0.999).addcmul_(slope, slope, value=0.001)
                    move = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
                    if w.ndim > 2:
                        move += weight_decay * w
                    move *= (rates * ~done).view(-1, *[1] * (w.ndim - 1)).to(w)
                    mask = masks[i]
                    now[i] = w.detach() - (move if mask is None else move * mask)
        with torch.no_grad():
            found = held(now).cpu()
        better = found < lowest
        for kept, w in zip(best, now, strict=True):
            kept[better] = w[better]
        lowest = torch.where(better, found, lowest)
        fell = found < reference - gain
        reference = torch.where(fell, found, reference)
        waited = torch.where(fell, 0, waited + 1)
        rates = torch.where(fell, rates, rates * cut)
        over = (waited >= PATIENCE) & ~done
        ends[over] = epoch + 1
        done |= over
        if progress is not None:
            progress(epoch + 1, epochs)
        if bool(done.all()):
            break
    return Descent(best, lowest, ends, done & lowest.isfinite())
