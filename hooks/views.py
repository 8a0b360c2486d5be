"""Views: how a site's tensor is read off the raw tensor that a module takes or returns.

Every view is an indexing of the raw tensor (a reshape, a slice), so the same function turns the raw gradient into the
site's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

View: TypeAlias = Callable[[Tensor], Tensor]


def identity(raw: Tensor) -> Tensor:
    """The raw tensor itself."""
    return raw


def heads(n_heads: int) -> View:
    """``batch pos (head d_head)`` -> ``batch pos head d_head``; a tensor that already has heads is left alone."""

    def view(raw: Float[Tensor, "batch pos *width"]) -> Float[Tensor, "batch pos head d_head"]:
        return raw if raw.ndim == 4 else raw.unflatten(-1, (n_heads, -1))

    return view


def thirds(part: int, n_heads: int) -> View:
    """Query, key or value (part 0, 1, 2) of a fused projection laid out as three consecutive blocks (GPT-2)."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos head d_head"]:
        return raw.unflatten(-1, (3, n_heads, -1))[:, :, part]

    return view


def interleaved(part: int, n_heads: int) -> View:
    """Query, key or value of a fused projection laid out head by head (GPT-NeoX)."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos head d_head"]:
        return raw.unflatten(-1, (n_heads, 3, -1))[:, :, :, part]

    return view


def halves(part: int) -> View:
    """First or second half of the last axis: the input or the gate of a fused gated MLP (ModernBERT, Phi-3)."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos half"]:
        return raw.chunk(2, dim=-1)[part]

    return view


def columns(index: Tensor, n_heads: int) -> View:
    """Chosen columns of the last axis, split into heads: a fused projection of any layout."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos head d_head"]:
        return raw[..., index.to(raw.device)].unflatten(-1, (n_heads, -1))

    return view
