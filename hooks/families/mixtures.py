"""Mixtures of experts, and attention whose keys and values come from latents (MLA)."""

from __future__ import annotations

from dataclasses import replace

from ..order import ORDER
from .decoders import OLMO2
from .llama import LLAMA, MOE, PARALLEL, SCALED
from .row import NO_EXPERT_NEURONS, RESIDUAL, Family, same

LLAMA4 = LLAMA.without(
    NO_EXPERT_NEURONS, "mlp.experts", "mlp.hook_expert_indices", "mlp.hook_expert_weights"
).but({"mlp.hook_router_logits": "feed_forward.router:output[1]|rows"})

# Queries, keys and values from latents: a key has a part of each head's own, which is the site, and
# one that all heads share. The cache holds the latents, so a step gives keys and values of the
# whole text.
MLA = LLAMA.but(
    {
        "attn.hook_q": "self_attn.q_b_proj:output|heads or self_attn.q_proj:output|heads",
        "attn.hook_k": "self_attn.kv_b_proj:output|latent:0",
        "attn.hook_v": "self_attn.kv_b_proj:output|latent:1",
    }
)

MLA_SCALED = MLA.without(SCALED.missing["hook_attn_out"], "hook_attn_out", "hook_mlp_out")

# Two attentions and two MLPs in one block, and experts beside them.
LONGCAT = replace(
    LLAMA,
    inside={
        **RESIDUAL,
        **{k: v for k, v in MOE.items() if "shared" not in k and "logits" not in k},
    },
    attention=None,
    missing=dict.fromkeys(
        # All but the stream in front of the block and behind it.
        ORDER[1:-1],
        "a block has two attentions and two MLPs, and these names cannot distinguish them",
    ),
)

# Heads are experts of a mixture too: none has a projection of its own.
JETMOE = Family(
    "layers",
    {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "post_attention_layernorm:input",
        "hook_attn_out": "self_attention:output",
        "hook_mlp_out": "mlp:output",
    },
    "self_attention",
)

# The output of attention is multiplied by a gate before its projection.
AFMOE = LLAMA.but(
    {
        "hook_attn_out": "post_attention_layernorm:output",
        "hook_mlp_out": "post_mlp_layernorm:output",
        "attn.hook_gate": "self_attn.gate_proj:output|heads",
    }
)

LAGUNA = LLAMA.but({"attn.hook_gate": "self_attn.g_proj:output"})

# Four streams that each sublayer mixes.
DEEPSEEK_V4 = Family(
    "layers",
    {"hook_embed": "embed_tokens:output", "ln_final.hook_normalized": "norm:output"},
    {
        "attn.hook_q": "self_attn.q_b_proj:output|heads",
        **MOE,
        "mlp.hook_expert_indices": "mlp.experts:input[1]|rows",
    },
    "self_attn",
    missing={
        **dict.fromkeys(
            ("hook_resid_pre", "hook_resid_mid", "hook_resid_post"),
            "a block has four parallel streams, and each sublayer mixes them",
        ),
        **dict.fromkeys(
            ("hook_attn_out", "hook_mlp_out"),
            "it is added to four streams with different weights",
        ),
        **dict.fromkeys(
            ("attn.hook_k", "attn.hook_v"),
            "keys and values are one compressed tensor that all heads share",
        ),
        "attn.hook_z": "the output projection is rotated and grouped, so its input is not the "
        "weighted values of one head",
    },
)


#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same(
        "mixtral qwen2_moe qwen3_moe phimoe dots1 ernie4_5_moe exaone_moe glm4_moe "
        "gpt_oss hunyuan_v1_moe olmoe solar_open mellum minimax_m2 mimo_v2_flash",
        LLAMA,
    ),
    **same("granitemoe granitemoeshared", SCALED),
    "flex_olmo": (OLMO2,),
    "cohere2_moe": (PARALLEL,),
    "llama4_text": (LLAMA4,),
    **same("deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa mistral4 youtu", MLA),
    "minicpm3": (MLA_SCALED,),
    "deepseek_v4": (DEEPSEEK_V4,),
    "longcat_flash": (LONGCAT,),
    "jetmoe": (JETMOE,),
    "afmoe": (AFMOE,),
    "laguna": (LAGUNA,),
}
