"""Many models trained at once by Adam on the same batches, each with its own step size and its own
end.

    m <- .9 m + .1 g      v <- .999 v + .001 g^2
        w <- w - rate (m / (1 - .9^t)) / (sqrt(v / (1 - .999^t)) + 1e-8)

After every epoch each model's held-out loss is taken, and the weights of the lowest loss are kept.
A `Schedule` says when the rate is cut and when a model is done. One that *returns* ends only after
training was taken up again from the kept weights at several rates in turn and lowered the held-out
loss at none of them: these weights are called *stationary*. It says that they cannot be improved by
training on, and not that other weights, from another start, are no better: these losses are not
convex. A schedule that only cuts its rate stops falling because its steps vanish, which proves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma & Ba 2015)."""


@dataclass(frozen=True)
class Schedule:
    """When the rate is cut, and when a model is done.

    Args:
        rate: of the first steps.
        epochs: passes at most.
        batch: rows a step.
        gain: the least fall of the held-out loss that counts as one, in the loss's unit.
        patience: epochs in a row without a fall after which the rate is cut.
        cut: what the rate is multiplied by.
        stalls: cuts in a row, without a fall between them, after which a model is done.
        returns: after a cut, training goes on from the weights of the lowest loss, with Adam's
            moments at 0; after ``stalls`` cuts the first rate comes again.
        weight_decay: taken off weights of matrices at each step, times the step's size (AdamW).
    """

    rate: float
    epochs: int
    batch: int
    gain: float = 0.0
    patience: int = 1
    cut: float = 0.25
    stalls: int = 3
    returns: bool = True
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What training left.

    Attributes:
        weights: of each model at its lowest held-out loss, models along the first axis.
        lowest: that loss.
        epochs: passes that each model made.
        stationary: whether its loss was ever finite and a schedule that returns came to its end:
            from these weights no rate in a row of ``stalls`` lowered the held-out loss by ``gain``
            within ``patience`` epochs.
    """

    weights: list[Tensor]
    lowest: Float[Tensor, " m"]
    epochs: Int[Tensor, " m"]
    stationary: Bool[Tensor, " m"]


Slopes: TypeAlias = Callable[[Sequence[Tensor], Int[Tensor, " b"]], Sequence[Tensor]]
"""Every model's gradient by its weights, on a batch that is given as numbers of rows."""


class _Adam:
    """Adam with a rate and a count of steps for each model.

    All weights of a model lie side by side in one row, so that a step is a few operations however
    many tensors there are: of small networks the number of operations is what takes the time.

    Attributes:
        flat: the weights, changed in place.
        weights: parts of it, in their shapes.
    """

    def __init__(
        self, weights: Sequence[Tensor], schedule: Schedule, free: Sequence[Tensor | None] | None
    ) -> None:
        self.flat = _side_by_side(weights)
        parts = self.flat.split([w[0].numel() for w in weights], dim=1)
        self.weights = [part.view(w.shape) for part, w in zip(parts, weights, strict=True)]
        self._first, self._second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self._free = None
        if free is not None and any(mask is not None for mask in free):
            masks = []
            for w, mask in zip(weights, free, strict=True):
                masks.append(torch.ones_like(w) if mask is None else mask.to(w).expand_as(w))
            self._free = _side_by_side(masks)
        self._decay = None
        if schedule.weight_decay:
            # Only weights of matrices decay.
            shares = [torch.full_like(w, schedule.weight_decay * (w.ndim > 2)) for w in weights]
            self._decay = _side_by_side(shares)
        count = len(self.flat)
        self._steps = torch.zeros(count)
        self.pace(torch.full((count,), schedule.rate))

    def pace(self, rates: Float[Tensor, " m"]) -> None:
        """The rates from now on; a model of rate 0 stays."""
        self._rates = rates[:, None].to(self.flat)

    def step(self, slopes: Sequence[Tensor]) -> None:
        """One step of every model."""
        self._steps += 1
        slope = _side_by_side(slopes)
        self._first.mul_(FIRST_DECAY).add_(slope, alpha=1 - FIRST_DECAY)
        self._second.mul_(SECOND_DECAY).addcmul_(slope, slope, value=1 - SECOND_DECAY)
        # Both averages began at 0; divided by the sum of their weights they are unbiased from the
        # first step on.
        mean = self._first / (1 - FIRST_DECAY**self._steps)[:, None].to(slope)
        square = self._second / (1 - SECOND_DECAY**self._steps)[:, None].to(slope)
        move = mean.div_(square.sqrt_().add_(EPSILON))
        if self._decay is not None:
            move += self._decay * self.flat
        move *= self._rates
        if self._free is not None:
            move *= self._free
        self.flat -= move

    def forget(self, models: Bool[Tensor, " m"]) -> None:
        """Moments and steps of some models at 0."""
        self._first[models] = self._second[models] = 0
        self._steps[models] = 0


def _side_by_side(tensors: Sequence[Tensor]) -> Float[Tensor, "m p"]:
    """All of a model's weights in one row."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


def by_autograd(
    loss: Callable[[Sequence[Tensor], Int[Tensor, " b"]], Float[Tensor, " m"]],
) -> Slopes:
    """The gradient of every model's loss on a batch."""

    def slopes(weights: Sequence[Tensor], rows: Int[Tensor, " b"]) -> Sequence[Tensor]:
        # Models do not share weights, so the gradient of the summed losses is each model's own.
        # Fresh leaves each step, so that no graph of an earlier one is kept.
        leaves = [w.detach().requires_grad_() for w in weights]
        with torch.enable_grad():
            return torch.autograd.grad(loss(leaves, rows).sum(), leaves)

    return slopes


@torch.no_grad()
def train(
    weights: Sequence[Tensor],
    slopes: Slopes,
    held_out_losses: Callable[[Sequence[Tensor]], Float[Tensor, " m"]],
    n: int,
    schedule: Schedule,
    generator: torch.Generator,
    free: Sequence[Tensor | None] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Trained:
    """Train every model.

    Args:
        weights: the first weights, models along the first axis of each.
        slopes: every model's gradient on a batch; see `by_autograd`.
        held_out_losses: every model's held-out loss.
        n: how many rows there are.
        generator: shuffles the rows.
        free: for each of the weights 1 where it is trained and 0 where it stays; None trains all of
            it.
        progress: called with (epochs done, epochs at most).
    """
    adam = _Adam(weights, schedule, free)
    best = adam.flat.clone()
    count = len(best)
    ends = torch.full((count,), schedule.epochs)
    watch = _Watch(count, schedule)
    for epoch in range(schedule.epochs):
        for rows in torch.randperm(n, generator=generator).split(schedule.batch):
            adam.step(slopes(adam.weights, rows))
        is_lowest, is_cut, is_over = watch.see(held_out_losses(adam.weights).cpu())
        ends[is_over] = epoch + 1
        adam.pace(watch.rates() * ~watch.done)
        best[is_lowest] = adam.flat[is_lowest]
        if schedule.returns:
            adam.flat[is_cut] = best[is_cut]
            adam.forget(is_cut)
        if progress is not None:
            progress(epoch + 1, schedule.epochs)
        if bool(watch.done.all()):
            break
    # Vanishing steps prove nothing: only a schedule that returns tells.
    stationary = torch.zeros_like(watch.done)
    if schedule.returns:
        stationary = watch.done & watch.lowest.isfinite()
    parts = best.split([w[0].numel() for w in weights], dim=1)
    kept = [part.reshape(w.shape) for part, w in zip(parts, weights, strict=True)]
    return Trained(kept, watch.lowest, ends, stationary)


class _Watch:
    """When each model's rate is cut and when it is done, by its held-out losses.

    Attributes:
        lowest: held-out loss so far.
        reference: the loss that the next one must undercut by the schedule's gain.
        waited: epochs without a fall since the last cut.
        stalled: cuts without a fall between them.
    """

    def __init__(self, count: int, schedule: Schedule) -> None:
        self.schedule = schedule
        self.lowest = torch.full((count,), torch.inf)
        self.reference = self.lowest.clone()
        self.waited, self.stalled, self.cuts = (torch.zeros(count) for _ in range(3))
        self.done = torch.zeros(count, dtype=torch.bool)

    def see(
        self, loss: Float[Tensor, " m"]
    ) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " m"], Bool[Tensor, " m"]]:
        """An epoch's losses: which models are at their lowest, which have their rate cut,
        and which are done now.
        """
        schedule = self.schedule
        # NaN is below nothing: a model that diverged keeps its best weights.
        is_lowest = loss < self.lowest
        self.lowest = torch.where(is_lowest, loss, self.lowest)

        fell = loss < self.reference - schedule.gain
        self.reference = torch.where(fell, loss, self.reference)
        self.waited = torch.where(fell, 0, self.waited + 1)
        self.stalled = torch.where(fell, 0, self.stalled)

        is_cut = (self.waited >= schedule.patience) & ~self.done
        self.stalled += is_cut
        self.cuts = self.cuts + is_cut
        self.waited[is_cut] = 0
        is_over = (self.stalled >= schedule.stalls) & ~self.done
        self.done |= is_over
        if schedule.returns:
            # Training goes on from the lowest loss, so the next fall is counted from there.
            self.reference = torch.where(is_cut, self.lowest, self.reference)
        return is_lowest, is_cut, is_over

    def rates(self) -> Float[Tensor, " m"]:
        """Each model's rate; a schedule that returns goes through all rates in turn,
        then takes the first again.
        """
        cuts = self.cuts % self.schedule.stalls if self.schedule.returns else self.cuts
        return self.schedule.rate * self.schedule.cut**cuts
