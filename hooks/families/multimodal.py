"""Towers and text models of checkpoints that read pictures and text."""

from __future__ import annotations

from dataclasses import replace

from .encoders import BERT
from .llama import GLM4, LLAMA
from .row import RESIDUAL, Family, mlp, qkvo, same
from .vision import IMAGE_QKVO

# CLIP's vision tower norms the class token alone at its end.
CLIP_VISION = Family(
    "encoder.layers",
    {"hook_embed": "embeddings:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layer_norm2:input",
        "hook_attn_out": "self_attn:output",
        "hook_mlp_out": "mlp:output",
        **qkvo("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        **mlp("mlp.fc1", "mlp.fc2"),
    },
    "self_attn",
)

CLIP_TEXT = replace(
    CLIP_VISION,
    outside={
        "hook_embed": "embeddings.token_embedding:output",
        "hook_pos_embed": "embeddings.position_embedding:output",
        "ln_final.hook_normalized": "final_layer_norm:output",
    },
)

SIGLIP_VISION = replace(
    CLIP_VISION,
    outside={
        "hook_embed": "embeddings:output",
        "ln_final.hook_normalized": "post_layernorm:output",
    },
)

BLIP_VISION = replace(
    CLIP_VISION.but(
        {
            **{
                f"attn.hook_{part}": f"self_attn.qkv:output|thirds:{i}"
                for i, part in enumerate("qkv")
            },
            "attn.hook_z": "self_attn.projection:input|heads",
        }
    )
)

PIXTRAL = replace(
    LLAMA.but(
        {
            **IMAGE_QKVO,
            "hook_attn_out": "attention:output",
        }
    ),
    blocks="transformer.layers",
    outside={},
    attention="attention",
)


# Some layers read a picture in the place of the text, through gates of their own.
_GATED = "self_attn.q_proj"
MLLAMA_TEXT = replace(
    LLAMA.but(
        {
            "hook_mlp_out": f"mlp:output if {_GATED}",
            "cross_attn.hook_q": "cross_attn.q_proj:output|heads",
            "cross_attn.hook_z": "cross_attn.o_proj:input|heads",
        }
    ),
    cross="cross_attn",
    missing={
        "hook_cross_attn_out": "a learned gate scales it before it is added",
        **dict.fromkeys(
            ("cross_attn.hook_k", "cross_attn.hook_v"),
            "their rows are picture tiles, not texts",
        ),
    },
)
MLLAMA_VISION = replace(
    CLIP_VISION.but(
        {
            "hook_resid_mid": "post_attention_layernorm:input",
            "attn.hook_z": "self_attn.o_proj:input|heads",
        }
    ),
    blocks="transformer.layers",
    outside={"ln_final.hook_normalized": "layernorm_post:output"},
)
# One stream of words and patches.
VILT = Family(
    "encoder.layer",
    {"ln_final.hook_normalized": "layernorm:output"},
    {
        **RESIDUAL,
        "hook_resid_mid": "layernorm_after:input",
        "hook_attn_out": "attention.output:output",
        "hook_mlp_out": "output.dropout:output",
        **qkvo(
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ),
        **mlp("intermediate.dense", "output.dense"),
    },
    "attention.attention",
)

#: ``model_type`` -> its rows.
ROWS: dict[str, tuple[Family, ...]] = {
    **same("qwen2_vl_text qwen2_5_vl_text qwen3_vl_text qwen3_vl_moe_text", LLAMA),
    "glm4v_text": (GLM4,),
    "clip_vision_model": (CLIP_VISION,),
    **same("clip_text_model siglip_text_model siglip2_text_model", CLIP_TEXT),
    **same(
        "siglip_vision_model siglip2_vision_model smolvlm_vision idefics3_vision", SIGLIP_VISION
    ),
    **same("blip_vision_model blip_2_vision_model", BLIP_VISION),
    "blip_text_model": (BERT,),
    "pixtral": (PIXTRAL,),
    "mllama_text_model": (MLLAMA_TEXT,),
    "mllama_vision_model": (MLLAMA_VISION,),
    "vilt": (VILT,),
}
