"""Decoders that predict the next token: GPT, Llama and their relatives, one MLP a block."""

from __future__ import annotations

from dataclasses import replace

from .encoder_decoders import BIOGPT
from .encoders import MODERNBERT
from .llama import GEMMA2, GLM4, LLAMA, PARALLEL, SANDWICH, SCALED
from .row import FOLDED, RESIDUAL, Family, has_cross_attention, mlp, qkvo, same

# A norm over all heads, or all neurons, stands before each output projection.
BITNET = LLAMA.without(
    "a norm over all heads or neurons precedes the output projection, so its input cannot be split "
    "by head or neuron",
    "attn.hook_z",
    "mlp.hook_post",
)

# The last norm is also the one behind the embeddings.
NANOCHAT = replace(LLAMA, calls=lambda config: {"ln_final.hook_normalized": (1, 2)})

# Each head's output is a difference of two, and its values are read twice.
DIFFLLAMA = replace(
    LLAMA.without(
        "each output head is the difference of two attentions over the values of both halves",
        "attn.hook_v",
        "attn.hook_z",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
    ),
    attention=None,
)

DOGE = SCALED.without(
    "a learned mask over the values of all heads is applied after it", "attn.hook_v"
)

# Behind the MLP each layer adds its own embedding of the tokens and scales the stream.
GEMMA4 = GEMMA2.without(
    "the block adds a per-layer embedding after it and scales the sum", "hook_mlp_out"
).but(
    {
        "mlp.experts": "experts:neurons",
        "mlp.hook_router_logits": "router.proj:output|rows",
        "mlp.hook_expert_indices": "experts:input[1]|rows",
        "mlp.hook_expert_weights": "experts:input[2]|rows",
    }
)

# Four predictions of the stream go through a block together.
GEMMA3N = (
    replace(GEMMA2, outside={"hook_embed": "embed_tokens:output"})
    .without(
        "a block predicts and corrects four streams, so it does not add to the stream it reads",
        "hook_resid_mid",
        "hook_attn_out",
        "hook_mlp_out",
    )
    .but(
        {
            "hook_resid_pre": ":input|stream:altup_active_idx",
            "hook_resid_post": ":output|stream:altup_active_idx",
        }
    )
)

# Post-norm only: the MLP reads the residual stream directly.
OLMO2 = LLAMA.but({**SANDWICH, "hook_resid_mid": "mlp:input"})

PHI = PARALLEL.but(
    {
        "attn.hook_z": "self_attn.dense:input|heads",
        "mlp.hook_pre": "mlp.fc1:output",
        "mlp.hook_post": "mlp.fc2:input",
    }
)

_FUSED = {
    f"attn.hook_{part}": f"self_attn.qkv_proj:output|fused:{i}" for i, part in enumerate("qkv")
}

PHI3 = LLAMA.but(_FUSED)

PERSIMMON = LLAMA.but(
    {
        **{
            f"attn.hook_{part}": f"self_attn.query_key_value:output|interleaved:{i}"
            for i, part in enumerate("qkv")
        },
        "attn.hook_z": "self_attn.dense:input|heads",
        "mlp.hook_pre": "mlp.dense_h_to_4h:output",
        "mlp.hook_post": "mlp.dense_4h_to_h:input",
    }
)

GPT2 = Family(
    "h",
    {
        "hook_embed": "wte:output",
        "hook_pos_embed": "wpe:output",
        "ln_final.hook_normalized": "ln_f:output",
    },
    {
        **RESIDUAL,
        "hook_resid_mid": "ln_2:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "mlp:output",
        "attn.hook_q": "attn.c_attn:output|thirds:0",
        "attn.hook_k": "attn.c_attn:output|thirds:1",
        "attn.hook_v": "attn.c_attn:output|thirds:2",
        "attn.hook_z": "attn.c_proj:input|heads",
        **mlp("mlp.c_fc", "mlp.c_proj"),
    },
    "attn",
)

# Joined to an encoder whose text it attends to.
GPT2_CROSS = replace(
    GPT2.but(
        {
            "hook_resid_mid": "ln_cross_attn:input",
            "hook_resid_mid_cross": "ln_2:input",
            "cross_attn.hook_q": "crossattention.q_attn:output|heads",
            "cross_attn.hook_k": "crossattention.c_attn:output|pair:0",
            "cross_attn.hook_v": "crossattention.c_attn:output|pair:1",
            "cross_attn.hook_z": "crossattention.c_proj:input|heads",
            "hook_cross_attn_out": "crossattention:output",
        }
    ),
    cross="crossattention",
    when=has_cross_attention,
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
        **mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    },
    "attention",
    when=lambda config: config.use_parallel_residual,
)

NEOX_SEQUENTIAL = replace(
    NEOX,
    inside={**NEOX.inside, "hook_resid_mid": "post_attention_layernorm:input"},
    when=lambda config: not config.use_parallel_residual,
)

# A bias of its own is added to attention's output inside the block.
NEOX_JAPANESE = replace(
    NEOX_SEQUENTIAL.without("the forward method of the block adds a bias to it", "hook_attn_out"),
    when=lambda config: True,
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
        **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
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


CTRL = Family(
    "h",
    {"ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm2:input",
        "hook_attn_out": "multi_head_attention:output",
        "hook_mlp_out": "ffn:output",
        **qkvo(
            "multi_head_attention.Wq",
            "multi_head_attention.Wk",
            "multi_head_attention.Wv",
            "multi_head_attention.dense",
        ),
        **mlp("ffn.0", "ffn.2"),
    },
    "multi_head_attention",
)

# Attention and MLP are given the stream and add it themselves: what they add is their last
# projection's.
BLOOM = Family(
    "h",
    {"hook_embed": "word_embeddings:output", "ln_final.hook_normalized": "ln_f:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "post_attention_layernorm:input",
        "hook_attn_out": "self_attention.dense:output",
        "hook_mlp_out": "mlp.dense_4h_to_h:output",
        "attn.hook_q": "self_attention.query_key_value:output|interleaved:0",
        "attn.hook_k": "self_attention.query_key_value:output|interleaved:1",
        "attn.hook_v": "self_attention.query_key_value:output|interleaved:2",
        "attn.hook_z": "self_attention.dense:input|heads",
        **mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    },
    "self_attention",
    # Else the sum is with the normed stream.
    when=lambda config: not config.apply_residual_connection_post_layernorm,
)

# The MLP adds the stream itself.
MPT = Family(
    "blocks",
    {"hook_embed": "wte:output", "ln_final.hook_normalized": "norm_f:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "norm_2:input",
        "hook_attn_out": "attn:output",
        "hook_mlp_out": "ffn.down_proj:output",
        "attn.hook_q": "attn.Wqkv:output|thirds:0",
        "attn.hook_k": "attn.Wqkv:output|thirds:1",
        "attn.hook_v": "attn.Wqkv:output|thirds:2",
        "attn.hook_z": "attn.out_proj:input|heads",
        **mlp("ffn.up_proj", "ffn.down_proj"),
    },
    "attn",
)

MODERNBERT_DECODER = MODERNBERT.but(
    qkvo("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.Wo"),
)

XGLM = Family(
    "layers",
    {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "layer_norm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "final_layer_norm:input",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "fc2:output",
        **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        **mlp("fc1", "fc2"),
    },
    None,
    missing=dict.fromkeys(("attn.hook_attn_scores", "attn.hook_pattern"), FOLDED),
)

#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same(
        "llama internlm3 iquestcoder mistral ministral ministral3 qwen2 qwen3 gemma "
        "smollm3 helium arcee cwm ernie4_5 glm hunyuan_v1_dense jais2 nemotron olmo "
        "seed_oss starcoder2 vaultgemma apertus stablelm",
        LLAMA,
    ),
    "bitnet": (BITNET,),
    "nanochat": (NANOCHAT,),
    "diffllama": (DIFFLLAMA,),
    **same("granite hyperclovax", SCALED),
    "doge": (DOGE,),
    **same("gemma2 gemma3_text", GEMMA2),
    "gemma3n_text": (GEMMA3N,),
    "gemma4_text": (GEMMA4,),
    "glm4": (GLM4,),
    **same("olmo2 olmo3 exaone4", OLMO2),
    **same("cohere cohere2", PARALLEL),
    "phi": (PHI,),
    "phi3": (PHI3,),
    "persimmon": (PERSIMMON,),
    "gpt2": (GPT2_CROSS, GPT2),
    "openai-gpt": (OPENAI_GPT,),
    "gpt_neox": (NEOX, NEOX_SEQUENTIAL),
    "gpt_neox_japanese": (NEOX_JAPANESE,),
    "opt": (OPT, OPT_POST_NORM),
    "biogpt": (BIOGPT,),
    "ctrl": (CTRL,),
    "bloom": (BLOOM,),
    "mpt": (MPT,),
    "modernbert-decoder": (MODERNBERT_DECODER,),
    "xglm": (XGLM,),
}
