"""Where each model family keeps its parts: one row a family, read by `hooks.anatomy`.

A row maps a site to a place in the grammar of raw modules, ``path:input`` or ``path:output``, with an optional view
after ``|``. Paths of the sites inside a block are relative to the block; the others to the body (the model without its
head). An empty path is the block itself. Rows for families that TransformerLens describes well are here only when its
import (seconds) would be felt; every other family is read off its adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .views import View

#: ``"path:end|view"``, or the three apart where the view cannot be written as text.
PlaceSpec: TypeAlias = str | tuple[str, Literal["input", "output"], View]


@dataclass(frozen=True)
class Family:
    """One row: where the blocks are, what stands outside them, and what is inside each.

    Args:
        blocks: path of the list of blocks (or of the one shared block, see `shared`).
        outside: site -> place, paths from the body.
        inside: site without its ``blocks.{i}.`` -> place, paths from the block.
        attention: path of the attention module inside the block, where patterns are seen; None when there is none.
        called: site within a block -> how often a forward calls its module, where not once; the first call is the site's.
        shared: True where one block is called again for every layer (ALBERT); the n-th call is layer n.
        when: tells from the configuration whether this row is the right one of its model type.
    """

    blocks: str
    outside: Mapping[str, PlaceSpec]
    inside: Mapping[str, PlaceSpec]
    attention: str | None
    called: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    when: Callable[[Any], bool] = lambda config: True


RESIDUAL = {"hook_resid_pre": ":input", "hook_resid_post": ":output"}


def _qkvo(q: str, k: str, v: str, o: str) -> dict[str, str]:
    return {
        "attn.hook_q": f"{q}:output|heads",
        "attn.hook_k": f"{k}:output|heads",
        "attn.hook_v": f"{v}:output|heads",
        "attn.hook_z": f"{o}:input|heads",
    }


def _mlp(pre: str, out: str) -> dict[str, str]:
    return {"mlp.hook_pre": f"{pre}:output", "mlp.hook_post": f"{out}:input"}


_LLAMA_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": "post_attention_layernorm:input",
    "hook_attn_out": "self_attn:output",
    "hook_mlp_out": "mlp:output",
    **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    **_mlp("mlp.gate_proj", "mlp.down_proj"),
}
_LLAMA_OUTSIDE = {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"}

LLAMA = Family("layers", _LLAMA_OUTSIDE, _LLAMA_INSIDE, "self_attn")

# A norm over all heads, or all neurons, stands before each output projection: what that takes is no head's, no neuron's own.
BITNET = replace(
    LLAMA, inside={part: place for part, place in _LLAMA_INSIDE.items() if part not in ("attn.hook_z", "mlp.hook_post")}
)

# Sandwich norms: what reaches the residual stream is the post-norm's output.
GEMMA2 = Family(
    "layers",
    _LLAMA_OUTSIDE,
    {
        **_LLAMA_INSIDE,
        "hook_resid_mid": "pre_feedforward_layernorm:input",
        "hook_attn_out": "post_attention_layernorm:output",
        "hook_mlp_out": "post_feedforward_layernorm:output",
    },
    "self_attn",
)

# Post-norm only: the MLP reads the residual stream directly.
OLMO2 = Family(
    "layers",
    _LLAMA_OUTSIDE,
    {
        **_LLAMA_INSIDE,
        "hook_resid_mid": "mlp:input",
        "hook_attn_out": "post_attention_layernorm:output",
        "hook_mlp_out": "post_feedforward_layernorm:output",
    },
    "self_attn",
)

GPT2 = Family(
    "h",
    {"hook_embed": "wte:output", "hook_pos_embed": "wpe:output", "ln_final.hook_normalized": "ln_f:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "ln_2:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attn.c_attn:output|thirds:0",
        "attn.hook_k": "attn.c_attn:output|thirds:1",
        "attn.hook_v": "attn.c_attn:output|thirds:2",
        "attn.hook_z": "attn.c_proj:input|heads",
        **_mlp("mlp.c_fc", "mlp.c_proj"),
    },
    "attn",
)

# The first GPT: a norm behind each sum, and none before the head.
OPENAI_GPT = Family(
    "h",
    {"hook_embed": "tokens_embed:output", "hook_pos_embed": "positions_embed:output"},
    {**GPT2.inside, "hook_resid_mid": "ln_1:input"},
    "attn",
)

# Parallel blocks: attention and MLP read the same residual, so there is no resid_mid.
NEOX = Family(
    "layers",
    {"hook_embed": "embed_in:output", "ln_final.hook_normalized": "final_layer_norm:output"},
    {
        **RESIDUAL,
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attention.query_key_value:output|interleaved:0",
        "attn.hook_k": "attention.query_key_value:output|interleaved:1",
        "attn.hook_v": "attention.query_key_value:output|interleaved:2",
        "attn.hook_z": "attention.dense:input|heads",
        **_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    },
    "attention",
    when=lambda config: config.use_parallel_residual,
)

NEOX_SEQUENTIAL = replace(
    NEOX,
    inside={**NEOX.inside, "hook_resid_mid": "post_attention_layernorm:input"},
    when=lambda config: not config.use_parallel_residual,
)

OPT = Family(
    "decoder.layers",
    {
        "hook_embed": "decoder.embed_tokens:output",
        "hook_pos_embed": "decoder.embed_positions:output",
        "ln_final.hook_normalized": "decoder.final_layer_norm:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "final_layer_norm:input|unflatten",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "fc2:output|unflatten",
        **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        # The MLP runs on (batch pos) d_model.
        "mlp.hook_pre": "fc1:output|unflatten",
        "mlp.hook_post": "fc2:input|unflatten",
    },
    "self_attn",
    when=lambda config: config.do_layer_norm_before,
)

OPT_POST_NORM = replace(
    OPT,
    outside={k: v for k, v in OPT.outside.items() if not k.startswith("ln_final")},
    inside={**OPT.inside, "hook_resid_mid": "self_attn_layer_norm:input"},
    when=lambda config: not config.do_layer_norm_before,
)

# The encoder of a post-norm pair: norms behind the sums.
BART = Family(
    "encoder.layers",
    {"hook_embed": "encoder.embed_tokens:output", "hook_pos_embed": "encoder.embed_positions:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "self_attn_layer_norm:input",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "fc2:output",
        **_qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        **_mlp("fc1", "fc2"),
    },
    "self_attn",
)

# Encoders of speech; the larger ones have their norms in front.
WAV2VEC2 = Family(
    "encoder.layers",
    {},
    {
        **RESIDUAL,
        "hook_resid_mid": "layer_norm:input",
        "hook_attn_out": "dropout:output",
        "hook_mlp_out": "feed_forward:output",
        **_qkvo("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
        **_mlp("feed_forward.intermediate_dense", "feed_forward.output_dense"),
    },
    "attention",
    when=lambda config: not config.do_stable_layer_norm,
)

WAV2VEC2_PRE_NORM = replace(
    WAV2VEC2,
    outside={"ln_final.hook_normalized": "encoder.layer_norm:output"},
    inside={**WAV2VEC2.inside, "hook_resid_mid": "final_layer_norm:input"},
    when=lambda config: config.do_stable_layer_norm,
)

# Post-norm encoders: what is added is the output modules' dense layer's (dropped-out) output; resid_mid is the sum
# resid_pre + attn_out, before its norm, as everywhere else.
_BERT_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": "attention.output.LayerNorm:input",
    "hook_attn_out": "attention.output.dropout:output",
    "hook_mlp_out": "output.dropout:output",
    **_qkvo("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    **_mlp("intermediate.dense", "output.dense"),
}
_BERT_OUTSIDE = {"hook_embed": "embeddings.word_embeddings:output"}

BERT = Family("encoder.layer", _BERT_OUTSIDE, _BERT_INSIDE, "attention.self")

DEBERTA = Family(
    "encoder.layer",
    _BERT_OUTSIDE,
    {
        **_BERT_INSIDE,
        **_qkvo(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.output.dense",
        ),
    },
    "attention.self",
)

# Queries and keys of the relative positions come from the same projections, behind those of the tokens.
DEBERTA_SHARED = replace(
    DEBERTA,
    called={"attn.hook_q": 2, "attn.hook_k": 2},
    when=lambda config: getattr(config, "relative_attention", False) and getattr(config, "share_att_key", False),
)

DISTILBERT = Family(
    "transformer.layer",
    _BERT_OUTSIDE,
    {
        **RESIDUAL,
        "hook_resid_mid": "sa_layer_norm:input",
        "hook_attn_out": "attention:output",
        "hook_mlp_out": "ffn:output",
        **_qkvo("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        **_mlp("ffn.lin1", "ffn.lin2"),
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
        **_qkvo("attention.query", "attention.key", "attention.value", "attention.dense"),
        **_mlp("ffn", "ffn_output"),
    },
    "attention",
    shared=True,
)

MODERNBERT = Family(
    "layers",
    {"hook_embed": "embeddings.tok_embeddings:output", "ln_final.hook_normalized": "final_norm:output"},
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

T5_ENCODER = Family(
    "encoder.block",
    {"hook_embed": "encoder.embed_tokens:output", "ln_final.hook_normalized": "encoder.final_layer_norm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layer.1:input",
        "hook_attn_out": "layer.0.dropout:output",
        "hook_mlp_out": "layer.1.dropout:output",
        **_qkvo(*(f"layer.0.SelfAttention.{part}" for part in "qkvo")),
        "mlp.hook_pre": "layer.1.DenseReluDense.wi:output",
        "mlp.hook_post": "layer.1.DenseReluDense.wo:input",
    },
    "layer.0.SelfAttention",
)

T5_ENCODER_GATED = replace(
    T5_ENCODER,
    inside={**T5_ENCODER.inside, "mlp.hook_pre": "layer.1.DenseReluDense.wi_0:output"},
    when=lambda config: config.is_gated_act,
)

#: Hugging Face ``config.model_type`` -> rows; the first whose ``when`` holds is the model's family. A site whose module
#: a block lacks (the MLP sites of a mixture of experts) is not listed for that block.
FAMILIES: dict[str, tuple[Family, ...]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "helium", "mixtral", "qwen3_moe", "phimoe"), (LLAMA,)
    ),
    "bitnet": (BITNET,),
    "gemma2": (GEMMA2,),
    "gemma3_text": (GEMMA2,),
    "olmo2": (OLMO2,),
    "gpt2": (GPT2,),
    "openai-gpt": (OPENAI_GPT,),
    "gpt_neox": (NEOX, NEOX_SEQUENTIAL),
    "opt": (OPT, OPT_POST_NORM),
    **dict.fromkeys(("bert", "roberta", "electra", "xlm-roberta", "camembert", "ernie"), (BERT,)),
    **dict.fromkeys(("deberta", "deberta-v2"), (DEBERTA_SHARED, DEBERTA)),
    **dict.fromkeys(("bart", "marian"), (BART,)),
    **dict.fromkeys(("wav2vec2", "hubert"), (WAV2VEC2, WAV2VEC2_PRE_NORM)),
    "distilbert": (DISTILBERT,),
    "albert": (ALBERT,),
    "modernbert": (MODERNBERT,),
    **dict.fromkeys(("t5", "mt5", "umt5"), (T5_ENCODER_GATED, T5_ENCODER)),
}
