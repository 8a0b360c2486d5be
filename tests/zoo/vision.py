"""Encoders of pictures."""

from __future__ import annotations

from typing import Any

#: Windows of 2 x 2 patches in two stages.
WINDOWS: dict[str, Any] = {
    "depths": [2, 2],
    "num_heads": [2, 4],
    "embed_dim": 16,
    "window_size": 2,
    "image_size": 16,
    "patch_size": 2,
}

FLAGS: dict[str, dict[str, Any]] = {
    "ViTModel": {},
    "ViTForImageClassification": {},
    "DeiTModel": {},
    "Dinov2Model": {},
    "Dinov2WithRegistersModel": {},
    "DINOv3ViTModel": {},
    "CLIPVisionModel": {},
    "CLIPTextModel": {},
    "SiglipVisionModel": {},
    "SiglipTextModel": {},
    "Siglip2VisionModel": {},
    "BeitModel": {},
    "Data2VecVisionModel": {},
    "ViTMSNModel": {},
    "IJepaModel": {},
    "Idefics3VisionTransformer": {},
    "SmolVLMVisionTransformer": {},
    "SwinModel": WINDOWS,
    "Swinv2Model": WINDOWS,
    "ConvNextModel": {
        "image_size": 32,
        "depths": [1, 1],
        "hidden_sizes": [8, 16],
        "patch_size": 2,
        "num_stages": 2,
    },
    "ResNetModel": {"image_size": 32, "depths": [1, 1], "hidden_sizes": [8, 16]},
}
