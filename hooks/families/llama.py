"""Llama's modules, which most decoders share:
each place lists the names that families give one part.
"""

from __future__ import annotations

from .row import RESIDUAL, Family, any_of, qkvo, under

_MLPS = "mlp feed_forward mlp_block mixer"

_MLP_PRE = any_of(
    *(under(_MLPS, f"{part}:output") for part in ("gate_proj", "w1", "fc1", "c_fc")),
    under(_MLPS, "up_proj:output"),
    under(_MLPS, "gate_up_proj:output|halves:0"),
)

_MLP_POST = any_of(
    *(under(_MLPS, f"{part}:input") for part in ("down_proj", "w2", "fc2", "c_proj"))
)

_EXPERTS = "mlp feed_forward block_sparse_moe mixer"

_SHARED = ("shared_experts", "shared_expert", "shared_mlp")

MOE = {
    "mlp.hook_router_logits": any_of(
        under(_EXPERTS, "gate:output[0]|rows"),
        under(_EXPERTS, "router.gate:output|rows"),
        under(_EXPERTS, "router:output[0]|rows"),
    ),
    "mlp.hook_expert_indices": under(_EXPERTS, "experts:input[1]|rows"),
    "mlp.hook_expert_weights": under(_EXPERTS, "experts:input[2]|rows"),
    "mlp.experts": under(_EXPERTS, "experts:neurons"),
    "mlp.shared_experts.hook_pre": any_of(
        *(under(_EXPERTS, f"{part}.gate_proj:output|rows") for part in _SHARED),
        *(under(_EXPERTS, f"{part}.up_proj:output|rows") for part in _SHARED),
        "shared_mlp.input_linear:output|halves:0",
    ),
    "mlp.shared_experts.hook_post": any_of(
        *(under(_EXPERTS, f"{part}.down_proj:input|rows") for part in _SHARED),
        "shared_mlp.output_linear:input",
    ),
}

LLAMA_INSIDE = {
    **RESIDUAL,
    "hook_resid_mid": any_of(
        *(
            f"{norm}:input"
            for norm in (
                "pre_feedforward_layernorm",
                "pre_mlp_layernorm",
                "post_attention_layernorm",
                "pre_ff_layernorm",
                "ffn_norm",
                "feedforward_layernorm",
                "channel_pre_norm",
            )
        )
    ),
    "hook_attn_out": "self_attn:output",
    "hook_mlp_out": any_of(
        *(f"{mlp}:output|rows" for mlp in ("mlp", "feed_forward", "mlp_block", "block_sparse_moe"))
    ),
    **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    "mlp.hook_pre": _MLP_PRE,
    "mlp.hook_post": _MLP_POST,
    **MOE,
}

LLAMA_OUTSIDE = {
    "hook_embed": "embed_tokens:output or embeddings:output",
    "ln_final.hook_normalized": any_of(
        *(
            f"{norm}:output"
            for norm in (
                "norm",
                "final_layernorm",
                "embedding_norm",
                "norm_f",
                "final_norm",
                "out_norm",
            )
        )
    ),
}

LLAMA = Family("layers", LLAMA_OUTSIDE, LLAMA_INSIDE, "self_attn")

# The block multiplies what a sublayer returns before it adds it.
SCALED = LLAMA.without(
    "the block scales it before adding it, so no module returns the added value",
    "hook_attn_out",
    "hook_mlp_out",
)

# Sandwich norms: what reaches the residual stream is the post-norm's output.
SANDWICH = {
    "hook_resid_mid": "pre_feedforward_layernorm:input",
    "hook_attn_out": "post_attention_layernorm:output",
    "hook_mlp_out": "post_feedforward_layernorm:output",
}

GEMMA2 = LLAMA.but(SANDWICH)

GLM4 = LLAMA.but(
    {
        "hook_attn_out": "post_self_attn_layernorm:output",
        "hook_mlp_out": "post_mlp_layernorm:output",
    }
)

# Attention and MLP read one norm of the same stream.
PARALLEL = LLAMA.without("attention and MLP read the same input in parallel", "hook_resid_mid")
