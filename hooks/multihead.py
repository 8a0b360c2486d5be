r"""`F.multi_head_attention_forward`, the one function behind `nn.MultiheadAttention` and WavLM,
part by part.

.. math:: q, k, v = x W_q, y W_k, y W_v, \quad P = \text{softmax}(q k^\top / \sqrt{d_{head}} + M),
    \quad
    \text{out} = (P v) W_o

The function projects, attends and projects again without a module in between, so its parts are
computed beside it from what it was given. Equal to it to rounding; unless a part is edited its own
output goes on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
#: Arguments under which keys or values come from elsewhere than a projection.
_ODD = ("bias_k", "bias_v", "static_k", "static_v")


def arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The function's arguments by name;
    None where keys or values have parts that no projection gives.
    """
    given = _SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    odd = given.arguments["add_zero_attn"] or any(
        given.arguments[name] is not None for name in _ODD
    )
    return None if odd else dict(given.arguments)


class Multihead:
    """One call of the function; tensors with positions first become ``batch pos head d_head``."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given, self._heads = given, int(given["num_heads"])
        self._is_single = given["query"].ndim == 2

    def projections(self) -> dict[str, Float[Tensor, "batch pos head d_head"]]:
        """Queries, keys and values."""
        given = self._given
        if given["use_separate_proj_weight"]:
            weights = [given[f"{part}_proj_weight"] for part in "qkv"]
        else:
            weights = given["in_proj_weight"].chunk(3)
        bias = given["in_proj_bias"]
        biases = (None, None, None) if bias is None else bias.chunk(3)
        projected = {}
        for name, weight, part in zip(("query", "key", "value"), weights, biases, strict=True):
            x = given[name].unsqueeze(1) if self._is_single else given[name]
            projected[name] = (
                F.linear(x, weight, part).transpose(0, 1).unflatten(-1, (self._heads, -1))
            )
        return projected

    def scores(
        self,
        query: Float[Tensor, "batch query head d_head"],
        key: Float[Tensor, "batch key head d_head"],
    ) -> Float[Tensor, "batch head query key"]:
        """What the softmax reads."""
        scale = 1 / math.sqrt(query.shape[-1])
        scores = (query * scale).transpose(1, 2) @ key.permute(0, 2, 3, 1)
        mask, padding = self._given["attn_mask"], self._given["key_padding_mask"]
        if mask is not None:
            scores = _masked(
                scores, mask.unflatten(0, (-1, self._heads)) if mask.ndim == 3 else mask
            )
        if padding is not None:
            scores = _masked(scores, torch.atleast_2d(padding)[:, None, None])
        return scores

    def mixed(
        self,
        pattern: Float[Tensor, "batch head query key"],
        value: Float[Tensor, "batch key head d_head"],
    ) -> Float[Tensor, "batch query head d_head"]:
        """Each head's weighted values."""
        dropped = F.dropout(pattern, self._given["dropout_p"], self._given["training"])
        return (dropped @ value.transpose(1, 2)).transpose(1, 2)

    def returned(
        self,
        mixed: Float[Tensor, "batch query head d_head"],
        pattern: Float[Tensor, "batch head query key"],
    ) -> tuple[Tensor, Tensor | None]:
        """Output and weights, as the function returns them."""
        given = self._given
        out = F.linear(mixed.flatten(2), given["out_proj_weight"], given["out_proj_bias"])
        out = out.transpose(0, 1)
        weights = None
        if given["need_weights"]:
            weights = pattern.mean(1) if given["average_attn_weights"] else pattern
        if self._is_single:
            return out.squeeze(1), None if weights is None else weights.squeeze(0)
        return out, weights


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """A mask added, or -inf where a boolean one is True."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(mask, -math.inf)
    return scores + mask
