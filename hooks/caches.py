"""Caches: under which names models take what they keep of earlier tokens,
and how many tokens that is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params", "state")
"""The names under which models take what they keep of earlier tokens."""


def cached_columns(past: Any, layer: int = 0) -> int | None:
    """Columns that a cache holds; None where it does not tell."""
    length = getattr(past, "get_seq_length", None)
    try:
        if length is not None:
            # Layers of a cache may hold different numbers of columns: a sliding window drops the
            # oldest.
            return int(length(layer) if layer else length())
        # The older form: a tuple of layers, each (key, value) of shape batch head pos d_head.
        first = past[0][0] if isinstance(past, tuple) else None
        return int(first.shape[-2]) if isinstance(first, Tensor) and first.ndim == 4 else None
    except (ValueError, IndexError, TypeError):
        return None


def layer_of(block: nn.Module) -> int:
    """The layer that a part of a block says it belongs to; 0 where none does."""
    for module in block.modules():
        layer: Any = getattr(module, "layer_idx", None)
        if isinstance(layer, int):
            return int(layer)
    return 0


def is_empty(past: Any) -> bool:
    """Whether a state has read nothing yet."""
    has_read = getattr(past, "has_previous_state", None)
    if has_read is None:
        return False
    try:
        return not (has_read() if callable(has_read) else has_read)
    except (ValueError, IndexError):
        return True  # no layer has been made yet


def reference(past: Any) -> Callable[[], Any]:
    """What gives a cache back while it lives; a list cannot be referred to weakly, and is kept."""
    try:
        return weakref.ref(past)
    except TypeError:
        return lambda: past
