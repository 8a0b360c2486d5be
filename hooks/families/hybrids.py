"""State spaces, linear attention and recurrences, alone or between layers with attention."""

from __future__ import annotations

from dataclasses import replace

from .llama import LLAMA, LLAMA_INSIDE, LLAMA_OUTSIDE, SCALED
from .mixtures import MLA
from .row import NO_ATTENTION, RESIDUAL, Family, any_of, qkvo, same, under

# State-space, convolutional and linear-attention layers: what the mixer reads, gates with, and
# adds to the stream.
_MIXERS = "linear_attn mamba conv temporal_block mixer"

MIXER = {
    "mixer.hook_in": any_of(
        *(
            f"{m}:input if {m}.{part}"
            for m in _MIXERS.split()
            for part in ("in_proj", "conv1d", "conv", "conv_1d", "rg_lru")
        )
    ),
    "mixer.hook_gate": any_of(
        "linear_attn.in_proj_z:output",
        "linear_attn.g_proj:output",
        "temporal_block.linear_y:output",
        "mixer.in_proj:output|halves:1 if mixer.x_proj",
        "mamba.in_proj:output|halves:1 if mamba.x_proj",
        "mixer.in_proj:output|first:intermediate_size if mixer.norm",
        "mamba.in_proj:output|first:intermediate_size if mamba.norm",
    ),
    "mixer.hook_z": any_of(
        *(
            f"{m}.{out}:input"
            for m in ("linear_attn", "mamba", "conv")
            for out in ("out_proj", "o_proj")
        ),
        "temporal_block.linear_out:input",
        "mixer.out_proj:input if mixer.in_proj",
    ),
    "mixer.hook_out": any_of(
        *(f"{m}:output" for m in ("linear_attn", "mamba", "conv")),
        "temporal_block:output if temporal_block.linear_x",
        "mixer:output if mixer.in_proj",
    ),
}

STATE = "the recurrence runs inside one kernel, so no module returns the state"

HYBRID = replace(LLAMA, inside={**LLAMA_INSIDE, **MIXER}, missing={"mixer.hook_state": STATE})

LFM2 = HYBRID.but({"attn.hook_z": "self_attn.out_proj:input|heads"})

SCALED_HYBRID = HYBRID.without(
    SCALED.missing["hook_attn_out"], "hook_attn_out", "hook_mlp_out", "mixer.hook_out"
)

FALCON_H1 = SCALED_HYBRID.without("it is the tensor that attention reads", "mixer.hook_in")

QWEN_NEXT = HYBRID.but(
    {
        "attn.hook_q": "self_attn.q_proj:output|gated:0",
        "attn.hook_gate": "self_attn.q_proj:output|gated:1",
    }
)

OLMO_HYBRID = HYBRID.but(
    {
        "hook_resid_mid": "post_attention_layernorm:input if linear_attn or mlp:input",
        "hook_attn_out": "post_attention_layernorm:output if self_attn",
        "hook_mlp_out": "post_feedforward_layernorm:output or mlp:output",
    }
)

RECURRENT_GEMMA = replace(
    HYBRID.but(
        {
            **qkvo(*(f"temporal_block.{part}_proj" for part in "qkvo")),
            "hook_attn_out": "temporal_block:output if temporal_block.q_proj",
        }
    ),
    attention="temporal_block if temporal_block.q_proj",
)

# One sublayer a block: its mixer is a state space, an attention, an MLP or experts.
NEMOTRON_H = replace(
    HYBRID.without("a block has one sublayer", "hook_resid_mid").but(
        {
            **qkvo(*(f"mixer.{part}_proj" for part in "qkvo")),
            "hook_attn_out": "mixer:output if mixer.q_proj",
            "hook_mlp_out": "mixer:output if mixer.down_proj or mixer:output if mixer.experts",
        }
    ),
    attention="mixer if mixer.q_proj",
)

ONE_SUBLAYER = ("hook_resid_mid", "hook_mlp_out", "mlp.hook_pre", "mlp.hook_post")

MINIMAX = replace(
    SCALED.without("the norms of the block change the stream itself", "hook_resid_mid").but(
        {
            "mixer.hook_in": "self_attn:input if self_attn.qkv_proj",
            "mixer.hook_gate": "self_attn.output_gate:output if self_attn.qkv_proj",
            "mixer.hook_z": "self_attn.out_proj:input if self_attn.qkv_proj",
        }
    ),
    attention="self_attn if self_attn.q_proj",
)

MAMBA = Family(
    "layers",
    LLAMA_OUTSIDE,
    {**RESIDUAL, **MIXER},
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "it has no attention"),
        **dict.fromkeys(ONE_SUBLAYER, "a block has only one sublayer, the state space"),
        "mixer.hook_state": STATE,
    },
)

RWKV = Family(
    "blocks",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "ln_out:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "ln2:input",
        "hook_mlp_out": "feed_forward:output",
        "mixer.hook_in": "attention:input",
        "mixer.hook_z": "attention.output:input",
        "mixer.hook_out": "attention:output",
    },
    None,
    missing={
        **dict.fromkeys(NO_ATTENTION, "its attention is a recurrence without a pattern"),
        "mlp.hook_pre": "the activation is squared between two modules",
        "mixer.hook_state": STATE,
    },
)

XLSTM = Family(
    "blocks",
    {"hook_embed": "embeddings:output", "ln_final.hook_normalized": "out_norm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "norm_ffn:input",
        "hook_mlp_out": "ffn:output",
        "mixer.hook_in": "mlstm_layer:input",
        "mixer.hook_gate": "mlstm_layer.ogate_preact:output",
        "mixer.hook_z": "mlstm_layer.out_proj:input",
        "mixer.hook_out": "mlstm_layer:output",
        "mlp.hook_pre": "ffn.proj_up_gate:output",
        "mlp.hook_post": "ffn.proj_down:input",
    },
    None,
    missing={**dict.fromkeys(NO_ATTENTION, "it has no attention"), "mixer.hook_state": STATE},
)

# Linear attention in most layers, attention over latents in the others.
KIMI = replace(
    MLA.but(
        {
            "attn.hook_q": any_of(
                *(
                    f"self_attn.{part}:output|heads if self_attn.kv_b_proj"
                    for part in ("q_b_proj", "q_proj")
                )
            ),
            "attn.hook_z": "self_attn.o_proj:input|heads if self_attn.kv_b_proj",
            "attn.hook_gate": "self_attn.g_proj:output if self_attn.kv_b_proj",
            "hook_attn_out": "self_attn:output if self_attn.kv_b_proj",
            "mixer.hook_in": "self_attn:input if self_attn.conv1d",
            "mixer.hook_gate": "self_attn.g_b_proj:output or self_attn.g_proj:output if "
            "self_attn.conv1d",
            "mixer.hook_z": "self_attn.o_proj:input if self_attn.conv1d",
            "mixer.hook_out": "self_attn:output if self_attn.conv1d",
        }
    ),
    attention="self_attn if self_attn.kv_b_proj",
    missing={**MLA.missing, "mixer.hook_state": STATE},
)

# A transformer that several layers share adds to the input of a layer's state space.
_ZAMBA_SHARED = "shared_transf shared_transformer"

ZAMBA = Family(
    "layers",
    LLAMA_OUTSIDE,
    {
        **RESIDUAL,
        "attn.hook_q": under(_ZAMBA_SHARED, "self_attn.q_proj:output|heads"),
        "attn.hook_k": under(_ZAMBA_SHARED, "self_attn.k_proj:output|heads"),
        "attn.hook_v": under(_ZAMBA_SHARED, "self_attn.v_proj:output|heads"),
        "attn.hook_z": under(_ZAMBA_SHARED, "self_attn.o_proj:input|heads"),
        "mlp.hook_post": under(_ZAMBA_SHARED, "feed_forward.down_proj:input"),
        "mixer.hook_z": "mamba.out_proj:input or mamba_decoder.mamba.out_proj:input",
        "mixer.hook_out": "mamba:output or mamba_decoder.mamba:output",
    },
    "shared_transf.self_attn or shared_transformer.self_attn",
    missing={
        **dict.fromkeys(
            ("hook_attn_out", "hook_resid_mid", "hook_mlp_out"),
            "the output of the shared transformer goes into the state space, not into the stream",
        ),
        "mlp.hook_pre": "layer-specific adapters add to it after the module",
        "mixer.hook_state": STATE,
    },
)


#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same("qwen3_next qwen3_5_text qwen3_5_moe_text", QWEN_NEXT),
    **same("jamba bamba", HYBRID),
    **same("lfm2 lfm2_moe", LFM2),
    "granitemoehybrid": (SCALED_HYBRID,),
    "falcon_h1": (FALCON_H1,),
    "minimax": (MINIMAX,),
    "olmo_hybrid": (OLMO_HYBRID,),
    **same("kimi_linear bailing_hybrid", KIMI),
    "recurrent_gemma": (RECURRENT_GEMMA,),
    "nemotron_h": (NEMOTRON_H,),
    **same("mamba mamba2 falcon_mamba", MAMBA),
    "rwkv": (RWKV,),
    "xlstm": (XLSTM,),
    **same("zamba zamba2", ZAMBA),
}
