"""Encoder-decoders, and decoders built of their modules: BART, T5 and their relatives."""

from __future__ import annotations

from dataclasses import replace

from .llama import LLAMA_INSIDE
from .row import (
    FOLDED,
    NO_EXPERT_NEURONS,
    RESIDUAL,
    Family,
    PlaceSpec,
    any_of,
    mlp,
    qkvo,
    same,
    under,
    within,
)

_FC = {
    **RESIDUAL,
    "hook_attn_out": "self_attn:output",
    "hook_mlp_out": "fc2:output",
    **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    **mlp("fc1", "fc2"),
}

#: Of a decoder block: attention to the encoder's text, and the sums before and behind it.
_CROSS = {
    **{f"cross_attn.hook_{part}": f"encoder_attn.{part}_proj:output|heads" for part in "qkv"},
    "cross_attn.hook_z": "encoder_attn.out_proj:input|heads",
    "hook_cross_attn_out": "encoder_attn:output",
}

_EMBEDS = {"hook_embed": "embed_tokens:output", "hook_pos_embed": "embed_positions:output"}


def _pair(mid: str, decoder_mid: str, cross_mid: str, end: str | None) -> Family:
    """An encoder and a decoder of BART's modules,
    their norms in front of the sublayers or behind the sums.
    """
    final: dict[str, PlaceSpec] = {"ln_final.hook_normalized": f"{end}:output"} if end else {}
    decoder = Family(
        "decoder.layers",
        within("decoder", {**_EMBEDS, **final}),
        {
            **_FC,
            **_CROSS,
            "hook_resid_mid": f"{decoder_mid}:input",
            "hook_resid_mid_cross": f"{cross_mid}:input",
        },
        "self_attn",
        cross="encoder_attn",
    )
    inside = {**_FC, "hook_resid_mid": f"{mid}:input"}
    return Family(
        "encoder.layers",
        within("encoder", {**_EMBEDS, **final}),
        inside,
        "self_attn",
        decoder=decoder,
    )


BART = _pair("self_attn_layer_norm", "self_attn_layer_norm", "encoder_attn_layer_norm", None)

PEGASUS = _pair("final_layer_norm", "encoder_attn_layer_norm", "final_layer_norm", "layer_norm")


def _unseen(family: Family | None) -> Family:
    assert family is not None
    parts = (
        "attn.hook_attn_scores",
        "attn.hook_pattern",
        "cross_attn.hook_attn_scores",
        "cross_attn.hook_pattern",
    )
    return replace(family.without(FOLDED, *parts), attention=None, cross=None)


# Its encoder's attention runs on windows of the text.
LED = replace(
    replace(BART, outside={})
    .without(
        "its softmax runs on windows of the text, not on the whole text",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
    )
    .but(
        {
            **{
                f"attn.hook_{part}": f"self_attn.longformer_self_attn.{name}:output|heads"
                for part, name in (("q", "query"), ("k", "key"), ("v", "value"))
            },
            "attn.hook_z": "self_attn.output:input|heads",
        }
    ),
    attention=None,
    decoder=_unseen(BART.decoder),
)


def _by_position(family: Family) -> Family:
    """A row whose blocks run on ``pos batch width``."""
    inside: dict[str, PlaceSpec] = {}
    for site, place in family.inside.items():
        assert isinstance(place, str)
        where, _, view = place.partition("|")
        inside[site] = f"{where}|turned_heads" if view else f"{where}|turned"
    return replace(family, inside=inside)


FSMT = replace(_by_position(_unseen(BART)), decoder=_by_position(_unseen(BART.decoder)))

TROCR = replace(BART, decoder=_unseen(BART.decoder))

# BART's decoder without a text to attend to.
BIOGPT = Family(
    "layers",
    {**_EMBEDS, "ln_final.hook_normalized": "layer_norm:output"},
    {**_FC, "hook_resid_mid": "final_layer_norm:input"},
    "self_attn",
)
_T5_FF = "layer.{i}.DenseReluDense layer.{i}.mlp"


def _t5_block(mlp: int) -> dict[str, str]:
    dense = _T5_FF.format(i=mlp)
    attention = (
        "layer.0.SelfAttention layer.0.LocalSelfAttention layer.0.TransientGlobalSelfAttention"
    )
    return {
        **RESIDUAL,
        "hook_attn_out": "layer.0.dropout:output",
        "hook_resid_mid": "layer.1:input",
        "hook_mlp_out": f"layer.{mlp}.dropout:output",
        **{f"attn.hook_{part}": under(attention, f"{part}:output|heads") for part in "qkv"},
        "attn.hook_z": under(attention, "o:input|heads"),
        "mlp.hook_pre": any_of(under(dense, "wi_0:output"), under(dense, "wi:output")),
        "mlp.hook_post": under(dense, "wo:input"),
        "mlp.hook_router_logits": f"layer.{mlp}.mlp.router.classifier:output",
    }


_T5_OUTSIDE = {
    "hook_embed": "embed_tokens:output",
    "ln_final.hook_normalized": "final_layer_norm:output",
}

T5_DECODER = Family(
    "decoder.block",
    within("decoder", _T5_OUTSIDE),
    {
        **_t5_block(2),
        **{
            f"cross_attn.hook_{part}": f"layer.1.EncDecAttention.{part}:output|heads"
            for part in "qkv"
        },
        "cross_attn.hook_z": "layer.1.EncDecAttention.o:input|heads",
        "hook_cross_attn_out": "layer.1.dropout:output",
        "hook_resid_mid_cross": "layer.2:input",
    },
    "layer.0.SelfAttention",
    cross="layer.1.EncDecAttention",
)

T5 = Family(
    "encoder.block",
    within("encoder", _T5_OUTSIDE),
    _t5_block(1),
    "layer.0.SelfAttention",
    decoder=T5_DECODER,
)

SWITCH = replace(
    T5,
    missing={"mlp.experts": NO_EXPERT_NEURONS},
)

# Its encoder's attention runs on blocks of the text.
LONGT5 = replace(
    T5.without(
        "its softmax runs on blocks of the text, not on the whole text",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
    ),
    attention=None,
)

_T5GEMMA = {
    **LLAMA_INSIDE,
    "hook_resid_mid": "pre_feedforward_layernorm:input",
    "hook_attn_out": "post_self_attn_layernorm:output",
    "hook_mlp_out": "post_feedforward_layernorm:output",
}

T5GEMMA = Family(
    "encoder.layers",
    within(
        "encoder", {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"}
    ),
    _T5GEMMA,
    "self_attn",
    decoder=Family(
        "decoder.layers",
        within(
            "decoder",
            {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
        ),
        {
            **_T5GEMMA,
            "hook_resid_mid": "pre_cross_attn_layernorm:input",
            **{f"cross_attn.hook_{part}": f"cross_attn.{part}_proj:output|heads" for part in "qkv"},
            "cross_attn.hook_z": "cross_attn.o_proj:input|heads",
            "hook_cross_attn_out": "post_cross_attn_layernorm:output",
            "hook_resid_mid_cross": "pre_feedforward_layernorm:input",
        },
        "self_attn",
        cross="cross_attn",
    ),
)


#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same("bart marian blenderbot-small plbart", BART),
    **same("mbart pegasus blenderbot m2m_100", PEGASUS),
    "led": (LED,),
    "fsmt": (FSMT,),
    "trocr": (TROCR,),
    **same("t5 mt5 umt5", T5),
    "longt5": (LONGT5,),
    "switch_transformers": (SWITCH,),
    # One of the pair by itself has a configuration of its own type.
    **same("t5gemma t5_gemma_module", T5GEMMA),
}
