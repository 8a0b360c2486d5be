"""Masks: which columns of a row are tokens, from the masks that models hand to their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from .configuration import setting

_HIDDEN_FROM = -1.0
"""An additive mask adds 0 where a key is seen, and a very negative number where it is hidden."""


_OF_STATES = ("linear_attention", "conv")
"""Kinds of layers without keys: their mask is left out behind the first tokens, padding or none."""


def shown_columns(
    mask: Any, start: int, size: int | None, before: Tensor | None, has_window: bool
) -> Bool[Tensor, "batch column"] | None:
    """The tokens' columns, from a mask ``batch 1 query key`` (or several, by kind of layer); None
    where it does not tell.

    A token sees itself. What its row shows beyond itself is no causal mask, or stands for "nothing
    to see".

    Args:
        start, size: columns that a cache holds, and those of this forward.
        before: the tokens' columns that the cache holds, where they are known.
        has_window: whether a token may not see all earlier ones.
    """
    if isinstance(mask, Mapping):
        mask = {kind: one for kind, one in mask.items() if kind not in _OF_STATES}
        # A mask that was left out means that there is no padding.
        is_left_out = any(of_kind is None for of_kind in mask.values())
        if size is not None and is_left_out:
            return torch.ones(1, start + size, dtype=torch.bool)
        # Of several kinds, the mask of full attention is the one that hides nothing but padding.
        has_window = has_window and "full_attention" not in mask
        first_kind = next(iter(mask.values()), None)
        mask = mask.get("full_attention", first_kind)
    if not isinstance(mask, Tensor) or mask.ndim != 4 or size is None or mask.shape[-2] != size:
        return None

    is_visible = mask if mask.dtype == torch.bool else mask > _HIDDEN_FROM
    visible = is_visible[:, 0].cpu()
    if start == 0 and _sees_all_tokens(visible):
        return visible[:, 0]

    now = _own_columns(visible, start)
    if start == 0:
        return now
    if before is None:
        before = _earlier_columns(visible, start, has_window)
    if before is None:
        return None
    # Either side may be one row for the whole batch.
    earlier = before.bool().cpu().expand(len(now), -1)
    return torch.cat([earlier, now.expand(len(before), -1)], dim=1)


def _sees_all_tokens(visible: Bool[Tensor, "batch query key"]) -> bool:
    """Whether there is no causal mask: every query has the same row,
    which shows the tokens and hides padding.
    """
    _, n_queries, n_keys = visible.shape
    first_row = visible[:, :1]
    return n_keys == n_queries and bool((visible == first_row).all())


def _earlier_columns(
    visible: Bool[Tensor, "batch query key"], start: int, has_window: bool
) -> Bool[Tensor, "batch column"] | None:
    """Which columns of a cache are tokens, by what the last query sees of them."""
    before = visible[:, -1, :start]
    if before.shape[1] != start:
        return None
    # The last query sees every earlier token, unless a window hides some: then only "all seen" is
    # certain.
    if has_window and not bool(before.all()):
        return None
    return before


def _own_columns(
    visible: Bool[Tensor, "batch query key"], start: int
) -> Bool[Tensor, "batch query"]:
    """Which queries are tokens: those that see themselves and nothing ahead."""
    _, size, n_keys = visible.shape
    end = start + size
    # A sliding cache drops its oldest columns, so this forward's keys may stand further left than
    # start.
    n_dropped = max(0, end - n_keys)
    own_key = torch.arange(start - n_dropped, end - n_dropped)
    is_ahead = torch.arange(n_keys)[None] > own_key[:, None]
    sees_itself = visible[:, torch.arange(size), own_key]
    sees_ahead = (visible & is_ahead).any(-1)
    return sees_itself & ~sees_ahead


def has_window(module: nn.Module) -> bool:
    """Whether a model's configuration says that a token may not see all earlier ones."""
    config: Any = getattr(module, "config", None)
    return setting(config, "sliding_window", "attention_chunk_size") is not None


def joined(before: Tensor | None, mask: Tensor | None, end: int, size: int | None) -> Tensor | None:
    """The mask of all columns, from that of the ``end`` earlier ones and that of this call;
    an unknown one is all tokens.
    """
    like = mask if mask is not None else before
    if like is None or size is None:
        return None
    parts = []
    for part, n_columns in ((before, end), (mask, size)):
        is_known = part is not None
        parts.append(part.to(like) if is_known else like.new_ones(len(like), n_columns))
    return torch.cat(parts, dim=1)
