r"""A norm as the linear map that it is while its scale stands still.

    N(x) = s g * (x - mean(x)) + beta     layer norm        N(x) = s g * x     RMS norm

g is the gain, s the scale that x itself decides. Which of the two a module is, and whether its gain
is its weight or 1 + weight (Gemma), is found by trying them on one pair of input and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks.placement import present
from .streams import LensError

TOLERANCE = 1e-3
"""Largest difference between a norm's output and its linear form,
relative to the largest output.
"""


@dataclass(frozen=True)
class LinearNorm:
    """A norm with its scale frozen.

    Args:
        centres: whether the mean is taken out first.
        eps: what the module adds to the mean square.
    """

    gain: Float[Tensor, " d_model"]
    beta: Float[Tensor, " d_model"]
    scale: float
    centres: bool
    eps: float = 0.0

    def unit(self, streams: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Streams with their own scale and without the gain:
        what the module gives is gain * unit + beta.
        """
        values = streams - streams.mean(-1, keepdim=True) if self.centres else streams
        return values / (values.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def through(self, read: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """A direction that is read behind the norm, as a direction in front of it."""
        return self.scale * self.in_front(read[:, None])[:, 0]

    def in_front(self, weight: Float[Tensor, "*heads d_model out"]) -> Tensor:
        """Weights that read behind the norm, as weights that read in front of it;
        the scale is left out.
        """
        back = self.gain[:, None] * weight
        return back - back.mean(-2, keepdim=True) if self.centres else back

    def behind(self, weight: Float[Tensor, "*heads d_head d_model"]) -> Tensor:
        """Weights that write in front of the norm, as weights that write behind it;
        the scale is left out.
        """
        centred = weight - weight.mean(-1, keepdim=True) if self.centres else weight
        return centred * self.gain


def linear_norm(
    norm: nn.Module,
    stream: Float[Tensor, " d_model"],
    normed: Float[Tensor, " d_model"],
    name: str,
) -> LinearNorm:
    """The linear form of a norm, from one input and its output.

    Raises:
        LensError: neither a layer norm nor an RMS norm; the message begins with ``name``.
    """
    with present(norm):
        weight, offset = getattr(norm, "weight", None), getattr(norm, "bias", None)
    gain = torch.ones_like(stream) if weight is None else weight.detach().float()
    beta = torch.zeros_like(stream) if offset is None else offset.detach().float()
    largest = float(normed.abs().max())
    eps = float(getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None) or 0.0)
    for values, centres in ((stream, False), (stream - stream.mean(), True)):
        for g in (gain, 1 + gain):  # Gemma's norms multiply by 1 + weight
            if g.shape != values.shape:
                continue
            shape = g * values
            scale = float(((normed - beta) @ shape) / (shape @ shape).clamp(min=1e-30))
            error = float((scale * shape + beta - normed).abs().max())
            if error < TOLERANCE * largest:
                return LinearNorm(g, beta, scale, centres, eps)
    raise LensError(f"{name} {type(norm).__name__} is neither a layer norm nor an RMS norm")
