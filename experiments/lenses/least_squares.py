"""The affine map of least squares, from sums over all texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..subject import Subject
from ..subject.word_spans import Encoded
from .lens import Advance, Lens
from .streams import LensError, all_streams

RIDGE = 1e-6
"""Share of the mean variance that is added to each variance:
fewer tokens than dimensions then have a solution.
"""


@dataclass
class _Sums:
    """Sums of a layer's streams and the last layer's, in float64, about the first batch's mean."""

    n: int = 0
    x: Tensor | None = None
    y: Tensor | None = None
    xx: Tensor | None = None
    xy: Tensor | None = None

    def add(self, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]) -> None:
        """More rows; products are taken in float32."""
        sums = x.double().sum(0), y.double().sum(0), (x.T @ x).double(), (x.T @ y).double()
        if self.x is None:
            self.x, self.y, self.xx, self.xy = sums
        else:
            for total, added in zip((self.x, self.y, self.xx, self.xy), sums, strict=True):
                total += added  # pyright: ignore[reportOperatorIssue]
        self.n += len(x)

    def solution(self) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
        """A and b of the least squares."""
        assert self.x is not None
        assert self.y is not None
        assert self.xx is not None
        assert self.xy is not None
        mean_x, mean_y = self.x / self.n, self.y / self.n
        variance = self.xx / self.n - torch.outer(mean_x, mean_x)
        covariance = self.xy / self.n - torch.outer(mean_x, mean_y)
        ridge = (
            RIDGE
            * variance.diagonal().mean()
            * torch.eye(len(mean_x), dtype=variance.dtype, device=variance.device)
        )
        # Half the work of a general solver; where rounding leaves a variance that is not positive,
        # that one.
        factor, failed = torch.linalg.cholesky_ex(variance + ridge)
        if int(failed):
            weight = torch.linalg.solve(variance + ridge, covariance).T
        else:
            weight = torch.cholesky_solve(covariance, factor).T
        return weight, mean_y - weight @ mean_x


def least_squares(
    subject: Subject, texts: Sequence[Encoded], batch_tokens: int, advance: Advance = lambda n: None
) -> Lens:
    """The closed form, from sums over all texts."""
    first = 1 if subject.has_sink_position else 0
    sums: list[_Sums] = []
    shift: list[Tensor] = []
    for streams in all_streams(subject, texts, batch_tokens):
        used = streams.mask.clone()
        used[:, :first] = False
        rows = [streams.stream(layer)[used].float() for layer in range(streams.n_layers + 1)]
        if not sums:
            sums = [_Sums() for _ in rows[:-1]]
            # subtracted from every row: sums of squares stay small
            shift = [row.mean(0) for row in rows]
        centred = [row - mean for row, mean in zip(rows, shift, strict=True)]
        for total, row in zip(sums, centred[:-1], strict=True):
            total.add(row, centred[-1])
        advance(len(streams.batch.rows))
    if not sums:
        raise LensError("expected texts of two tokens or more to fit a lens on, got none")
    weights, biases = [], []
    for total, mean in zip(sums, shift, strict=False):
        weight, bias = total.solution()
        weights.append(weight.float())
        biases.append((bias + shift[-1].double() - weight @ mean.double()).float())
    return Lens("least-squares", torch.stack(weights), torch.stack(biases), {"tokens": sums[0].n})
