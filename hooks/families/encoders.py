"""Encoders of text, read in both directions: BERT and its relatives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .llama import LLAMA
from .row import (
    NO_ATTENTION,
    RESIDUAL,
    Family,
    any_of,
    has_cross_attention,
    mlp,
    qkvo,
    same,
)

# Post-norm encoders: what is added is the output modules' dense layer's (dropped-out) output;
# resid_mid is the sum
# resid_pre + attn_out, before its norm, as everywhere else.
_BERT_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": "attention.output.LayerNorm:input",
    "hook_attn_out": "attention.output.dropout:output",
    "hook_mlp_out": "output.dropout:output",
    **qkvo(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    **mlp("intermediate.dense", "output.dense"),
}

_BERT_OUTSIDE = {"hook_embed": "embeddings.word_embeddings:output"}

BERT = Family("encoder.layer", _BERT_OUTSIDE, _BERT_INSIDE, "attention.self")

# As a decoder, joined to an encoder whose text it attends to.
BERT_CROSS = replace(
    BERT.but(
        {
            "cross_attn.hook_q": "crossattention.self.query:output|heads",
            "cross_attn.hook_k": "crossattention.self.key:output|heads",
            "cross_attn.hook_v": "crossattention.self.value:output|heads",
            "cross_attn.hook_z": "crossattention.output.dense:input|heads",
            "hook_cross_attn_out": "crossattention.output.dropout:output",
            "hook_resid_mid_cross": "crossattention.output.LayerNorm:input",
        }
    ),
    cross="crossattention.self",
    when=has_cross_attention,
)

# Norms in front: what a sublayer returns holds the stream already, its dropout's output is what
# is added.
BERT_PRE_NORM = replace(
    BERT.but(
        {
            "hook_resid_mid": "intermediate.LayerNorm:input or LayerNorm:input or ln:input",
            "hook_mlp_out": "output.dropout:output or output.dense:output",
        }
    ),
    outside={
        **_BERT_OUTSIDE,
        "ln_final.hook_normalized": any_of(
            *(
                f"{norm}:output"
                for norm in (
                    "LayerNorm",
                    "encoder.LayerNorm",
                    "encoder.emb_layer_norm_after",
                    "encoder.ln",
                )
            )
        ),
    },
)

MPNET = replace(
    BERT.but(
        {
            **{f"attn.hook_{part}": f"attention.attn.{part}:output|heads" for part in "qkv"},
            "attn.hook_z": "attention.attn.o:input|heads",
            "hook_resid_mid": "attention.LayerNorm:input",
            "hook_attn_out": "attention.dropout:output",
        }
    ),
    attention="attention.attn",
)

# A convolution's output stands beside the heads of attention.
CONVBERT = replace(
    BERT.without(
        "the attention heads are concatenated with those of a convolution",
        "attn.hook_z",
        "attn.hook_v",
    ),
    attention="attention.self",
)

FNET = Family(
    "encoder.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "fourier.output.LayerNorm:input",
        "mixer.hook_in": "fourier:input",
        "mixer.hook_out": "fourier.self:output",
        "hook_mlp_out": "output.dropout:output",
        **mlp("intermediate.dense", "output.dense"),
    },
    None,
    missing=dict.fromkeys(
        NO_ATTENTION, "it mixes tokens by a Fourier transform, without attention"
    ),
)

MOBILEBERT = Family(
    "encoder.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        **qkvo(
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ),
    },
    "attention.self",
    missing=dict.fromkeys(
        ("hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
        "a block works in a bottleneck with four consecutive MLPs",
    ),
)

# BERT's order of sums and norms in Llama's modules.
POST_NORM = Family(
    "layers",
    {"hook_embed": "embeddings.word_embeddings:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "post_attention_layernorm:input",
        "hook_attn_out": "post_attention_dropout:output",
        "hook_mlp_out": "post_mlp_dropout:output",
        **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        "mlp.hook_pre": "mlp.gate_proj:output or mlp.fc1:output",
        "mlp.hook_post": "mlp.down_proj:input or mlp.fc2:input",
    },
    "self_attn",
)

# The stream is position by batch, and its projections are weights of the block, not modules.
XLNET = Family(
    "layer",
    {"hook_embed": "word_embedding:output|turned"},
    {
        "hook_resid_pre": ":input|turned",
        "hook_resid_post": ":output[0]|turned",
        "mlp.hook_pre": "ff.layer_1:output|turned",
        "mlp.hook_post": "ff.layer_2:input|turned",
        "hook_mlp_out": "ff.layer_2:output|turned",
        "hook_resid_mid": "rel_attn.layer_norm:input|turned",
    },
    None,
    missing=dict.fromkeys(
        NO_ATTENTION,
        "its projections are bare weights without a module, and its softmax runs over another axis",
    ),
)


def _disentangled(config: Any) -> dict[str, tuple[int, int]]:
    """With shared keys the projections of the words run once more, on the relative positions."""
    if not (config.relative_attention and getattr(config, "share_att_key", False)):
        return {}
    kinds = config.pos_att_type or []
    return {"attn.hook_k": (0, 1 + ("c2p" in kinds)), "attn.hook_q": (0, 1 + ("p2c" in kinds))}


_DEBERTA_QKVO = qkvo(
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    "attention.output.dense",
)

DEBERTA_V2 = replace(BERT.but(_DEBERTA_QKVO), calls=_disentangled)

DEBERTA = BERT.but(
    {
        f"attn.hook_{part}": f"attention.self.in_proj:output|interleaved:{i}"
        for i, part in enumerate("qkv")
    }
)

DISTILBERT = Family(
    "transformer.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "sa_layer_norm:input",
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "ffn:output",
        **qkvo("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        **mlp("ffn.lin1", "ffn.lin2"),
    },
    "attention",
)

ALBERT = Family(
    "encoder.albert_layer_groups.0.albert_layers.0",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "attention.LayerNorm:input",
        "hook_attn_out": "attention.output_dropout:output",
        "hook_mlp_out": "ffn_output:output",
        **qkvo("attention.query", "attention.key", "attention.value", "attention.dense"),
        **mlp("ffn", "ffn_output"),
    },
    "attention",
    shared=True,
)

MODERNBERT = Family(
    "layers",
    {
        "hook_embed": "embeddings.tok_embeddings:output",
        "ln_final.hook_normalized": "final_norm:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "mlp_norm:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attn.Wqkv:output|thirds:0",
        "attn.hook_k": "attn.Wqkv:output|thirds:1",
        "attn.hook_v": "attn.Wqkv:output|thirds:2",
        "attn.hook_z": "attn.Wo:input|heads",
        "mlp.hook_pre": "mlp.Wi:output|halves:0",
        "mlp.hook_post": "mlp.Wo:input",
    },
    "attn",
)

XMOD = BERT.without("language adapters follow it", "hook_mlp_out")


# Its body keeps the parts of all blocks in four lists, and masks padding in place behind each
# block.
XLM = Family(
    "attentions",
    {"hook_embed": "embeddings:output", "hook_pos_embed": "position_embeddings:output"},
    {
        "hook_attn_out": ":output",
        "hook_mlp_out": "^ffns.{i}:output",
        **qkvo("q_lin", "k_lin", "v_lin", "out_lin"),
        **mlp("^ffns.{i}.lin1", "^ffns.{i}.lin2"),
        "hook_resid_pre": "^layer_norm2.{before}:output|copied or ^layer_norm_emb:output|copied",
        "hook_resid_mid": "^layer_norm1.{i}:input",
        "hook_resid_post": "^layer_norm2.{i}:output|copied",
    },
    ".",
    when=lambda config: not getattr(config, "pre_norm", False),
)
# Its stream is kept channel by channel, and its blocks are not called as modules.
SQUEEZEBERT = Family(
    "encoder.layers",
    _BERT_OUTSIDE,
    {
        "hook_resid_pre": "^layers.{before}.output:output|channels or ^^embeddings:output",
        "attn.hook_q": "attention.query:output|channel_heads",
        "attn.hook_k": "attention.key:output|channel_heads",
        "attn.hook_v": "attention.value:output|channel_heads",
        "attn.hook_z": "post_attention.conv1d:input|channel_heads",
        "hook_attn_out": "post_attention.dropout:output|channels",
        "hook_resid_mid": "post_attention.layernorm:input|channels",
        "mlp.hook_pre": "intermediate.conv1d:output|channels",
        "mlp.hook_post": "output.conv1d:input|channels",
        "hook_mlp_out": "output.dropout:output|channels",
        "hook_resid_post": "output:output|channels",
    },
    "attention",
)

#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same(
        "bert roberta electra xlm-roberta camembert ernie layoutlm rembert "
        "data2vec-text roformer big_bird",
        BERT_CROSS,
        BERT,
    ),
    **same("esm megatron-bert roberta-prelayernorm xlm-roberta-xl", BERT_PRE_NORM),
    "mpnet": (MPNET,),
    **same("flaubert xlm", XLM),
    "squeezebert": (SQUEEZEBERT,),
    "convbert": (CONVBERT,),
    "fnet": (FNET,),
    "mobilebert": (MOBILEBERT,),
    "xmod": (XMOD,),
    "eurobert": (LLAMA,),
    **same("nomic_bert jina_embeddings_v3 gte", POST_NORM),
    "xlnet": (XLNET,),
    "deberta": (DEBERTA,),
    "deberta-v2": (DEBERTA_V2,),
    "distilbert": (DISTILBERT,),
    "albert": (ALBERT,),
    "modernbert": (MODERNBERT,),
}
