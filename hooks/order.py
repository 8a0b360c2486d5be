"""The order in which a forward meets the sites of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from .sites import Site

T = TypeVar("T")
ORDER = (
    "hook_resid_pre",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""The sites of a block, in that order."""


_BEHIND = {
    "attn.hook_gate": "attn.hook_v",
    "mixer.": "hook_resid_pre",
    "cross_attn.": "hook_resid_mid",
    "hook_cross_attn_out": "hook_resid_mid",
    "hook_resid_mid_cross": "hook_resid_mid",
    "mlp.": "hook_resid_mid",
}
"""Parts that only some families have,
each behind the part of `ORDER` that a forward meets before it.
"""
_STACKS = ("vision_", "audio_", "", "decoder_")
"""Stacks of blocks in the order in which a forward meets them; others come last."""


def in_order(places: Mapping[str, T]) -> dict[str, T]:
    """Sites by name, in the order in which a forward meets them."""
    return {name: places[name] for name in sorted(places, key=_rank)}


def _rank(name: str) -> tuple[int, int, int]:
    """Stack, block, place in the block."""
    site = Site(name)
    if site.layer is None:
        # Outside the blocks: the embedding in front of them, the final norm behind.
        stack = 3 if name.startswith("decoder_") else 2
        is_final = "ln_final" in name
        return stack, 10**9 if is_final else -1, 0
    prefix = name.partition("blocks.")[0]
    stack = _STACKS.index(prefix) if prefix in _STACKS else len(_STACKS)
    return stack, site.layer, _rank_in_block(site.part)


def _rank_in_block(part: str) -> int:
    """Ten times a part's place, so that parts of some families fit between."""
    if part in ORDER:
        return 10 * ORDER.index(part)
    before = ORDER[-1]
    for start, last in _BEHIND.items():
        if part.startswith(start):
            before = last
            break
    return 10 * ORDER.index(before) + 1
