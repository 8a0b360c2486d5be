"""The rows that the curvature is estimated from: a sample that grows as the fits get close.

Source: Byrd, Chin, Neveitt & Nocedal 2011 (sampled Hessians).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .design import Design
from .objective import Point, fast_dtype
from .rows import OnDisk

FAR = 0.05
"""Relative decrement above which a fit is far from its optimum."""
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


@dataclass
class Sampling:
    """How many rows the curvature is sampled from, which grows as the fits get close,
    and the random numbers for it.
    """

    size: int
    largest: int
    generator: torch.Generator

    def grow_if_noisy(
        self, before: Float[Tensor, " k"], relative: Float[Tensor, " k"], n: int
    ) -> None:
        """Double the sample of the ``n`` rows where some target's decrement falls slowly, which is
        how the noise of the sample shows.

        Beyond a quarter of the rows an iteration costs more than it saves, so there only if the
        decrease all but ends.

        Args:
            before, relative: the relative decrements of the last two steps.
        """
        doubled = 2 * self.size
        is_few = doubled <= LARGE_SAMPLE * n
        is_slow = relative > (SLOWER if is_few else STALLED) * before
        is_near = before < (FAR if is_few else FAR / NEARER)
        if self.size < self.largest and bool((is_slow & is_near).any()):
            self.size = min(doubled if doubled < WHOLE * n else n, self.largest)


def sample_size(design: Design) -> int:
    """Rows of the first curvature sample: a quarter, but enough for the number of features."""
    n = design.n
    if n <= SMALL_SAMPLE:
        return n
    return min(n, max(n // FIRST_SHARE, ROWS_A_FEATURE * design.d, SMALL_SAMPLE // 2))


def draw(
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


def rough_rows(design: Design) -> Float[Tensor, "n r"] | OnDisk:
    """The rows in the type of the fastest products; as they are where they all fit in a sample,
    and on disk.
    """
    rows = design.rotated
    return rows if isinstance(rows, OnDisk) else rows.to(rough_dtype(design))


def rough_dtype(design: Design) -> torch.dtype:
    """The type of `rough_rows`."""
    rows = design.rotated
    if isinstance(rows, OnDisk) or design.n <= SMALL_SAMPLE:
        return design.dtype
    return fast_dtype(rows)
