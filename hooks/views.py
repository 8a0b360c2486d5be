"""Views: how a site's tensor is read off the raw tensor that a module takes or returns.

Every view is an indexing of the raw tensor (a reshape, a slice), so the same function turns the raw
gradient into the site's gradient.
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


class heads:  # noqa: N801  (a view, named as the others)
    """``batch pos (head d_head)`` -> ``batch pos head d_head``;
    a tensor that already has heads is left alone.
    """

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads

    def __call__(
        self, raw: Float[Tensor, "batch pos *width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw if raw.ndim == 4 else raw.unflatten(-1, (self.n_heads, -1))


class consecutive:  # noqa: N801
    """One part of a fused projection laid out as consecutive blocks: of queries, keys and values
    (GPT-2), or of keys and values (its cross-attention).
    """

    def __init__(self, part: int, n_parts: int, n_heads: int) -> None:
        self.part, self.n_parts, self.n_heads = part, n_parts, n_heads

    def __call__(
        self, raw: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw.unflatten(-1, (self.n_parts, self.n_heads, -1))[:, :, self.part]


class interleaved:  # noqa: N801
    """Query, key or value of a fused projection laid out head by head (GPT-NeoX)."""

    def __init__(self, part: int, n_heads: int) -> None:
        self.part, self.n_heads = part, n_heads

    def __call__(
        self, raw: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw.unflatten(-1, (self.n_heads, 3, -1))[:, :, :, self.part]


class gated:  # noqa: N801
    """Query (part 0) or gate (1) of a projection that gives each head both (Qwen3-Next)."""

    def __init__(self, part: int, n_heads: int) -> None:
        self.part, self.n_heads = part, n_heads

    def __call__(
        self, raw: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw.unflatten(-1, (self.n_heads, 2, -1))[:, :, :, self.part]


class fused:  # noqa: N801
    """Query, key or value of a fused projection: all query heads, then all key heads,
    then all value heads (Phi-3).
    """

    def __init__(self, part: int, n_heads: int, n_kv: int, width: int) -> None:
        size = width // (n_heads + 2 * n_kv)
        self.n_heads = (n_heads, n_kv, n_kv)[part]
        first = (0, n_heads, n_heads + n_kv)[part] * size
        self.columns = slice(first, first + self.n_heads * size)

    def __call__(
        self, raw: Float[Tensor, "batch pos width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw[..., self.columns].unflatten(-1, (self.n_heads, -1))


def first(count: int) -> View:
    """The first columns of a projection of several things."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos part"]:
        return raw[..., :count]

    return view


def stream(index: int) -> View:
    """One of several streams that go through a block together (Gemma 3n)."""

    def view(raw: Float[Tensor, "streams batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return raw[index]

    return view


def turned(raw: Float[Tensor, "pos batch width"]) -> Float[Tensor, "batch pos width"]:
    """A stream kept position by position (XLNet, FSMT)."""
    return raw.transpose(0, 1)


class latent:  # noqa: N801
    """Keys (part 0: what each head has of its own) or values (1)
    of a projection from latents (DeepSeek's MLA).
    """

    def __init__(self, part: int, n_heads: int, key_width: int) -> None:
        self.n_heads = n_heads
        self.columns = slice(key_width, None) if part else slice(key_width)

    def __call__(
        self, raw: Float[Tensor, "batch *one pos width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        rows = raw[:, 0] if raw.ndim == 4 else raw
        return rows.unflatten(-1, (self.n_heads, -1))[..., self.columns]


def pixels(raw: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch pos channel"]:
    """A picture's channels at each of its places, row by row (ConvNeXt)."""
    return raw.flatten(2).transpose(1, 2)


def grid(raw: Float[Tensor, "batch height width channel"]) -> Float[Tensor, "batch pos channel"]:
    """The same of a picture whose channels come last."""
    return raw.flatten(1, 2)


def channels(raw: Float[Tensor, "batch width pos"]) -> Float[Tensor, "batch pos width"]:
    """A stream kept channel by channel (SqueezeBERT)."""
    return raw.transpose(1, 2)


class turned_heads:  # noqa: N801
    """`turned`, split into heads."""

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads

    def __call__(
        self, raw: Float[Tensor, "pos batch width"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw.transpose(0, 1).unflatten(-1, (self.n_heads, -1))


class channel_heads:  # noqa: N801
    """`channels`, split into heads."""

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads

    def __call__(
        self, raw: Float[Tensor, "batch width pos"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The site's tensor."""
        return raw.transpose(1, 2).unflatten(-1, (self.n_heads, -1))


def copied(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
    """A tensor that the model goes on to change in place (Flaubert masks padding so)."""
    return raw.clone()


def halves(part: int) -> View:
    """First or second half of the last axis:
    the input or the gate of a fused gated MLP (ModernBERT, Phi-3).
    """

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos half"]:
        return raw.chunk(2, dim=-1)[part]

    return view


def columns(index: Tensor, n_heads: int) -> View:
    """Chosen columns of the last axis, split into heads: a fused projection of any layout."""

    def view(raw: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos head d_head"]:
        return raw[..., index.to(raw.device)].unflatten(-1, (n_heads, -1))

    return view
