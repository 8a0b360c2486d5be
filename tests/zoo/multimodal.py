"""Models of pictures or sounds with text."""

from __future__ import annotations

from typing import Any

from .decoders import GEMMA4_TEXT
from .hybrids import LINEAR_ATTENTION

#: Rotary positions of time, height and width.
MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}

FLAGS: dict[str, dict[str, Any]] = {
    "CLIPModel": {},
    "SiglipModel": {},
    "Siglip2Model": {},
    "LlavaForConditionalGeneration": {},
    "LlavaNextForConditionalGeneration": {},
    "LlavaOnevisionForConditionalGeneration": {},
    "Qwen2VLForConditionalGeneration": {"text_config": {"rope_parameters": MROPE}},
    "Qwen2_5_VLForConditionalGeneration": {"text_config": {"rope_parameters": MROPE}},
    "Qwen3VLForConditionalGeneration": {},
    "Qwen3VLMoeForConditionalGeneration": {},
    "Qwen3_5ForConditionalGeneration": {"text_config": LINEAR_ATTENTION},
    "Gemma3ForConditionalGeneration": {},
    "Gemma4ForConditionalGeneration": {"text_config": GEMMA4_TEXT},
    "PaliGemmaForConditionalGeneration": {},
    "SmolVLMForConditionalGeneration": {},
    "Idefics3ForConditionalGeneration": {},
    "Mistral3ForConditionalGeneration": {},
    "InternVLForConditionalGeneration": {},
    "Llama4ForConditionalGeneration": {
        "text_config": {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}
    },
    "BlipModel": {},
    "Qwen2AudioForConditionalGeneration": {},
    "AyaVisionForConditionalGeneration": {},
    "Glm4vForConditionalGeneration": {
        "text_config": {"rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}}
    },
    "MllamaForConditionalGeneration": {
        "text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        "vision_config": {
            "attention_heads": 4,
            "num_global_layers": 1,
            "image_size": 16,
            "patch_size": 8,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
        },
    },
    "VoxtralForConditionalGeneration": {},
    "ViltModel": {},
}
