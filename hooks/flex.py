"""Flex attention seen where transformers calls it.

``flex_attention`` is compiled as a whole: no torch function within it can be watched. While a
watched module runs, the function of transformers that calls it is stood in for, in this thread
only, and put back when the last such module is left. Scores and pattern are computed beside the
compiled kernel from the very tensors and the mask that it was given.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Seen = Callable[..., Any]
"""Called with the function stood in for, and what that is called with."""
_HOME, _NAME = "transformers.integrations.flex_attention", "compile_friendly_flex_attention"


class _Here(threading.local):
    """Who looks at this thread's calls."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []


_here, _lock = _Here(), threading.Lock()
_original: Callable[..., Any] | None = None
_inside = 0


def uses_flex(module: nn.Module) -> bool:
    """Whether an attention module runs flex attention; with sinks its kernel's softmax is not the
    last word, and it is left alone."""
    config = getattr(module, "config", None)
    return (
        getattr(config, "_attn_implementation", None) == "flex_attention"
        and getattr(module, "sinks", None) is None
    )


@contextmanager
def flex_calls(seen: Seen) -> Iterator[None]:
    """Within it this thread's calls of flex attention go to ``seen``."""
    global _original, _inside
    # Flex attention is a function and no module: only its name can be hooked, for all threads at
    # once, so blocks are counted.
    home = sys.modules[_HOME]
    with _lock:
        if not _inside:
            _original = getattr(home, _NAME)
            setattr(home, _NAME, _call)
        _inside += 1
    _here.seen.append(seen)
    try:
        yield
    finally:
        _here.seen.remove(seen)
        with _lock:
            _inside -= 1
            if not _inside:
                setattr(home, _NAME, _original)


def _call(*args: Any, **kwargs: Any) -> Any:
    assert _original is not None
    return _here.seen[-1](_original, *args, **kwargs) if _here.seen else _original(*args, **kwargs)


def flex_scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch head key d_head"],
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    heads: Sequence[int] | None = None,
) -> Float[Tensor, "batch head query key"]:
    r"""The scores that `torch.nn.attention.flex_attention.flex_attention` puts through its softmax.

    .. math:: S_{bhqk} = f(s \, Q_{bhq} \cdot K_{bhk}, b, h, q, k), \qquad s = 1/\sqrt{d_{head}}
        \text{ by default}

    with :math:`f` the ``score_mod``; what the mask forbids holds -inf.

    Args:
        heads: the numbers of the heads that are given; None where all are.
    """
    # costs a second that only its users pay
    from torch.nn.attention.flex_attention import create_mask

    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)  # scaled first: float16 would overflow before
    places = [torch.arange(n, device=scores.device) for n in scores.shape]
    if heads is not None:
        places[1] = torch.tensor(heads, device=scores.device)
    if score_mod is not None:
        # a function of one score becomes one of a row, of a head's, of a text's, of all
        for dim in (4, 3, 2, 1):
            score_mod = torch.vmap(
                score_mod, in_dims=(0, *(0 if dim == i else None for i in (1, 2, 3, 4)))
            )
        scores = score_mod(scores, *places)
    if block_mask is not None:
        batch, masks = block_mask.shape[:2]
        mask_mod, numbers = block_mask.mask_mod, places[1]
        if heads is not None and masks > 1:  # a mask of each head's own
            masks, mask_mod = (
                len(heads),
                lambda b, h, q, k: block_mask.mask_mod(b, numbers[h], q, k),
            )
        allowed = create_mask(mask_mod, batch, masks, *scores.shape[2:], device=scores.device)
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores


def is_block_mask(value: Any) -> bool:
    """Whether it is a mask of flex attention, whose module takes a second to import."""
    return type(value).__name__ == "BlockMask"


def of_copies(mask: Any, batch: int, copies: int) -> Any:
    """A mask of so many texts for copies of them: rows k * batch to (k + 1) * batch are the k-th.

    Its function looks up each text's own padding by the row's number.
    """

    def of_copy(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.mask_mod(row % batch, head, query, key)

    def blocks(value: Tensor | None) -> Tensor | None:
        if value is None or len(value) != batch:  # one for all texts
            return value
        return value.repeat(copies, *[1] * (value.ndim - 1))

    return mask.from_kv_blocks(
        blocks(mask.kv_num_blocks),
        blocks(mask.kv_indices),
        blocks(mask.full_kv_num_blocks),
        blocks(mask.full_kv_indices),
        BLOCK_SIZE=mask.BLOCK_SIZE,
        mask_mod=of_copy,
        seq_lengths=mask.seq_lengths,
    )


def with_heads(whole: Any, head_parts: Any, heads: Sequence[int]) -> Any:
    """What a call gives, with some heads' part of it exchanged."""
    if isinstance(whole, Tensor):
        at = torch.tensor(heads, device=whole.device)
        return whole.index_copy(1, at, head_parts.to(whole.dtype))
    if isinstance(whole, tuple):
        parts = [with_heads(w, o, heads) for w, o in zip(whole, head_parts, strict=True)]
        return type(whole)(*parts) if hasattr(whole, "_fields") else tuple(parts)
    return whole


def with_asked(
    made: Tensor, scores: Float[Tensor, "batch head query key"], kwargs: dict[str, Any]
) -> Any:
    """An output, and the logarithmic sums of the scores where the call asks for them."""
    from torch.nn.attention import flex_attention

    if kwargs.get("return_lse"):
        return made, scores.logsumexp(-1)
    if kwargs.get("return_aux") is not None:
        return made, flex_attention.AuxOutput(lse=scores.logsumexp(-1))
    return made
