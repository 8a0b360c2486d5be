"""The parts of a model that a sweep goes through: heads, neurons, MLPs, attentions, blocks,
and places in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from layerscope.errors import InputError

from ...hooks import Site, capture, sites
from ...hooks.edits import Edit
from ...hooks.placement import device_of
from ..subject.batches import Batch

KINDS = {
    "heads": "attn.hook_z",
    "neurons": "mlp.hook_post",
    "mlps": "hook_mlp_out",
    "attentions": "hook_attn_out",
    "layers": "hook_resid_post",
}
"""Kind of component -> the site that it is; heads and neurons are indices of theirs."""
INDEXED = ("heads", "neurons")
CROSS = {"heads": "cross_attn.hook_z", "attentions": "hook_cross_attn_out"}
"""The same of a decoder's attention to the source."""


@dataclass(frozen=True)
class Component:
    """One part of the model: a head, a neuron, a whole MLP, attention or block; or a place,
    a block's input at a token.
    """

    kind: str
    layer: int
    index: int | None
    site: Site


def components(
    model: nn.Module, kind: str, batch: Batch, part: str | None = None
) -> list[Component]:
    """All parts of a kind, in the model's order; of an encoder-decoder also the decoder's.

    Args:
        part: the site within a block, if not the kind's own: ``attn.hook_q`` for the queries of
            heads.
        batch: any text: how many heads or neurons a site has is read off a forward. The decoder's
            parts are there only if it has targets.

    Raises:
        ValueError: an unknown kind.
        UnknownSite: a model without them.
    """
    if kind not in KINDS:
        raise InputError(f"unknown component {kind!r}: expected {', '.join(KINDS)}")
    patterns = [f"blocks.*.{part or KINDS[kind]}"]
    if batch.target is not None:
        patterns.append(f"decoder_{patterns[0]}")
        if kind in CROSS and part is None:
            patterns.append(f"decoder_blocks.*.{CROSS[kind]}")
    whole_sites = [Site(name) for name in sites(model, *patterns)]
    if kind not in INDEXED:
        return [Component(kind, site.layer or 0, None, site) for site in whole_sites]
    # Two tokens of one text tell how many heads or neurons each layer has.
    inputs = replace(batch, pictures=()).inputs(device_of(model))
    two_tokens = {}
    for name, value in inputs.items():
        two_tokens[name] = value[:1, :2] if value.ndim == 2 else value[:1]  # a sound stays whole
    with torch.no_grad(), capture(model, *whole_sites) as acts:
        model(**two_tokens)
    parts = []
    for site in whole_sites:
        for index in range(acts[site].shape[site.axis]):
            parts.append(Component(kind, site.layer or 0, index, Site(site.name, index)))
    return parts


def places(model: nn.Module, part: str, length: int) -> list[Component]:
    """A site of every block at every position of texts of one length.

    Args:
        part: the site within a block, such as ``hook_resid_pre``.

    Raises:
        UnknownSite: a model without it.
    """
    whole_sites = [Site(name) for name in sites(model, f"blocks.*.{part}")]
    return [
        Component("positions", site.layer or 0, at, site)
        for site in whole_sites
        for at in range(length)
    ]


def edit_at(part: Component, edit: Edit) -> Edit:
    """The edit of a whole site, for one component: at its position, where it is one."""
    return edit.at(part.index) if part.kind == "positions" and part.index is not None else edit


def at_positions(edit: Edit, first: int) -> Edit:
    """The edit from a position on."""
    return edit.at(slice(first, None)) if first else edit
