"""Tensors of two runs compared, and the noise that edits add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..sites import HEAD_AXIS, Site


def relative(measured: Tensor, expected: Tensor) -> float:
    """Largest ||a - b|| / ||b|| over vectors of the last axis;
    where b is a tenth of the median size, of that.
    """
    if measured.shape != expected.shape:
        return float("inf")
    a, b = measured.detach().double(), expected.detach().double().to(measured.device)
    b = torch.where(b.isfinite(), b, 0.0)
    a = torch.where(expected.isfinite().to(a.device), a, 0.0)  # -inf of masked scores
    if a.ndim == 0:
        a, b = a[None], b[None]
    size = b.norm(dim=-1)
    exact = (
        1e-12 if expected.dtype == torch.float64 else 1e-6
    )  # below it a value is rounding of the stream it comes from
    floor = (0.1 * (size.median() or size.mean())).clamp(min=exact)
    return float(((a - b).norm(dim=-1) / size.clamp(min=float(floor))).max())


def main_tensor(output: Any) -> Tensor:
    """The tensor of a model's output that its users read."""
    if isinstance(output, Tensor):
        return output
    compared = getattr(output, "logits_per_image", None)
    if isinstance(compared, Tensor):  # each picture with its own text
        return compared.diagonal()[:, None]
    for name in ("logits", "last_hidden_state"):
        tensor = getattr(output, name, None)
        if isinstance(tensor, Tensor):
            return tensor
    values = (
        output.values()
        if isinstance(output, Mapping)
        else output
        if isinstance(output, tuple | list)
        else ()
    )
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise TypeError(
        f"expected a model that returns a tensor, a tuple or a mapping, got {type(output).__name__}"
    )


def noise(like: Tensor, seed: int, size: float) -> Tensor:
    """Random numbers of ``size`` times the tensor's root mean square, the same each time."""
    random = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    scale = torch.where(like.isfinite(), like, 0.0).float().square().mean().sqrt()
    return random * (size * scale if float(scale) > 0 else size)


def token_rows(value: Tensor, site: str, row: int, keep: Tensor, prefix: int = 0) -> Tensor:
    """One text's values at its real tokens, in whatever shape the site has; scores, which count up
    to a constant, from their top.
    """
    if HEAD_AXIS.get(Site(site).part) == 1:
        # Keys are the learned prefix, the tokens, and perhaps a sink, which is a column that is no
        # token.
        n_sinks = value.shape[-1] - len(keep) - prefix
        columns = torch.cat([keep.new_ones(prefix), keep, keep.new_ones(n_sinks)])
        part = value[row][:, keep][:, :, columns]
        if site.endswith("scores"):
            part = part - part.amax(-1, keepdim=True)
        return part
    return value[row, keep]
