"""PyTorch's own transformer layers,
`nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`.
"""

from __future__ import annotations

from torch import nn

from .row import RESIDUAL, Family, PlaceSpec, multihead


def row_of(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> Family:
    """The row of a layer's options: its norms before the sublayers or behind the sums,
    positions first or texts.
    """
    inside: dict[str, PlaceSpec] = {**RESIDUAL, **multihead("attn", "self_attn")}
    is_decoder = isinstance(layer, nn.TransformerDecoderLayer)
    last = 3 if is_decoder else 2
    inside["hook_attn_out"] = "dropout1:output"
    inside["hook_resid_mid"] = "norm2:input" if layer.norm_first else "norm1:input"
    if is_decoder:
        inside |= multihead("cross_attn", "multihead_attn")
        inside["hook_cross_attn_out"] = "dropout2:output"
        inside["hook_resid_mid_cross"] = "norm3:input" if layer.norm_first else "norm2:input"
    inside["mlp.hook_pre"], inside["mlp.hook_post"] = "linear1:output", "linear2:input"
    inside["hook_mlp_out"] = f"dropout{last}:output"
    outside: dict[str, PlaceSpec] = {"ln_final.hook_normalized": "norm:output"}
    if not layer.self_attn.batch_first:
        inside = {part: _turned(place) for part, place in inside.items()}
        outside = {site: _turned(place) for site, place in outside.items()}
    cross = "multihead_attn" if is_decoder else None
    return Family("layers", outside, inside, "self_attn", cross=cross)


def _turned(place: PlaceSpec) -> PlaceSpec:
    """The place's tensor with texts first; what attention shows has them first already."""
    return place if "|" in str(place) else f"{place}|turned"
