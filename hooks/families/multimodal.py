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
}
