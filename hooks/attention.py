"""Attention seen where PyTorch computes it, without leaving the model's own implementation.

Between the pre-hook and the post-hook of an attention module, a `TorchFunctionMode` watches for the one call that turns
scores into weights: `scaled_dot_product_attention` (sdpa) or a `softmax` over ``batch head query key`` (eager). Under
sdpa the scores and the pattern are computed beside the fused kernel from the very tensors that it was given, and the
kernel's own output goes on unchanged. Modules that are not watched pay nothing, and no configuration is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


class AttentionWatch(TorchFunctionMode):
    """Watches one attention module's forward and shows its scores and pattern.

    Args:
        seen: called with (scores, pattern), both ``batch head query key``.
        in_graph: compute the output from the pattern even under sdpa, so that gradients reach it. The output then
            equals the fused kernel's to rounding, not bit for bit.

    ``scores`` are what the softmax reads: scaled, biased, soft-capped; positions that the mask forbids hold -inf.
    """

    def __init__(self, seen: Callable[[Tensor, Tensor], None], in_graph: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.in_graph = in_graph
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._sdpa(func, args, kwargs)
        if func in _SOFTMAX and _is_attention(args, kwargs):
            return self._softmax(func, args, kwargs)
        return func(*args, **kwargs)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        scores = self._root(args[0] if args else kwargs["input"])
        pattern = func(scores, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        self.count += 1
        self.seen(scores, pattern)
        return pattern

    def _sdpa(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        scores = self._root(sdpa_scores(*args, **kwargs))
        pattern = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # a query with nothing to see attends nowhere
        self.count += 1
        self.seen(scores, pattern)
        if not self.in_graph:
            return func(*args, **kwargs)
        value = args[2] if len(args) > 2 else kwargs["value"]
        return pattern @ _repeat_heads(value, scores.shape[1])

    def _root(self, scores: Tensor) -> Tensor:
        """With gradients wanted from a model whose parameters are frozen, the graph starts here."""
        starts_here = self.in_graph and torch.is_grad_enabled() and not scores.requires_grad
        return scores.detach().requires_grad_() if starts_here else scores


def sdpa_scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "batch head query key"]:
    r"""The scores that `scaled_dot_product_attention` puts through its softmax.

    .. math:: S = s \, Q K^\top + M, \qquad s = 1/\sqrt{d_{head}} \text{ by default}

    Forbidden positions (a False in a boolean mask, above the diagonal when causal) hold -inf.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query @ _repeat_heads(key, query.shape[1]).transpose(-2, -1)) * scale
    if is_causal:
        n_query, n_key = scores.shape[-2:]
        allowed = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            return scores.masked_fill(~attn_mask, -math.inf)
        scores = scores + attn_mask
    return scores


def forbid(scores: Tensor) -> Tensor:
    """Masked entries as -inf, however the model wrote its mask (eager attention adds the dtype's minimum)."""
    return scores.masked_fill(scores <= torch.finfo(scores.dtype).min / 2, -math.inf)


def _repeat_heads(states: Tensor, n_heads: int) -> Tensor:
    return states if states.shape[1] == n_heads else states.repeat_interleave(n_heads // states.shape[1], dim=1)


def _is_attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    scores = args[0] if args else kwargs.get("input")
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return isinstance(scores, Tensor) and scores.ndim == 4 and dim in (-1, 3)
