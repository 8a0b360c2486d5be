"""Attention edges that are cut, before or after the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from layerscope.arguments import checked

from .edit import Edit, shown_positions
from .positions import EditError, Positions, Where, checked_positions


@checked
def knockout(queries: Positions | None = None, keys: Positions | None = None) -> Edit:
    """Cut attention edges before the softmax (Geva et al. 2023): the other weights of the query
    grow to sum to 1.

    For ``attn.hook_attn_scores``. None means all. A query with all keys cut attends to nothing.
    """
    return Edit(
        f"knockout of {_edges(queries, keys)}",
        _cut(queries, keys, -math.inf, "attn.hook_attn_scores"),
        given="value",
        is_fresh=True,
    )


@checked
def zero_weights(queries: Positions | None = None, keys: Positions | None = None) -> Edit:
    """Set attention weights to 0 after the softmax; the other weights of the query do not change.
    For ``attn.hook_pattern``.

    Args:
        queries, keys: positions, as `Edit.at` takes them; None means all.
    """
    return Edit(
        f"zero weights of {_edges(queries, keys)}",
        _cut(queries, keys, 0.0, "attn.hook_pattern"),
        given="value",
        is_fresh=True,
    )


@checked
def window(layer: int, width: int, n_layers: int) -> range:
    """The layers of a knockout window: max(0, l - w // 2) to min(L, l + ceil(w / 2)), excluding
    the end (Geva et al. 2023).

    >>> list(window(0, 3, 12)), list(window(5, 3, 12))
    ([0, 1], [4, 5, 6])
    """
    return range(max(0, layer - width // 2), min(n_layers, layer + math.ceil(width / 2)))


def _cut(
    queries: Positions | None, keys: Positions | None, value: float, part: str
) -> Callable[[Tensor, Where], Tensor]:
    everywhere = slice(None)
    query_positions = everywhere if queries is None else checked_positions(queries)
    key_positions = everywhere if keys is None else checked_positions(keys)

    def apply(tensor: Tensor, where: Where) -> Tensor:
        if where.site.name and where.site.part != part:
            raise EditError(f"{where.site}: this edit is for {part}")
        rows = where.choose(query_positions, tensor)
        columns = where.choose(key_positions, tensor, keys=True)
        is_cut = rows[..., :, None] & columns[..., None, :]
        if not bool(is_cut.any()):
            return tensor
        # A row for each text: heads stand between it and the edges.
        between = [1] * (tensor.ndim - 3)
        is_cut = is_cut.view(is_cut.shape[0], *between, *is_cut.shape[1:])
        return tensor.masked_fill(is_cut.to(tensor.device), value)

    return apply


def _edges(queries: Positions | None, keys: Positions | None) -> str:
    return f"queries {shown_positions(queries)}, keys {shown_positions(keys)}"
