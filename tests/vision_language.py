"""Tiny vision-language models with their own processors, made from configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

from tools.command_grid import tokenizer as plain_tokenizer

SIDE, PATCH = 32, 8
VOCABULARY = 128
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_SIZE = {"height": SIDE, "width": SIDE}


def noise_picture(seed: int = 0) -> Image.Image:
    """A picture of random pixels, as large as the models read."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _tokenizer(**named: str) -> Any:
    """The words of the command grid,
    and tokens for pictures by the names that processors look for.
    """
    tokenizer = plain_tokenizer()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
    )
    return made


def llava() -> tuple[Any, Any]:
    tokenizer = _tokenizer(image_token="<image>")
    pictures = hf.CLIPImageProcessor(do_resize=False, do_center_crop=False)
    processor = hf.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_VISION, projection_dim=32),
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_index=tokenizer.image_token_id,
    )
    return hf.LlavaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    tokenizer = _tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size=_SIZE), tokenizer, image_seq_length=4
    )
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**_TEXT),
        vision_config=hf.SiglipVisionConfig(**_VISION),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return hf.Gemma3ForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    tokenizer = _tokenizer(image_token="<image>")
    pictures = hf.SiglipImageProcessor(size=_SIZE)
    pictures.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(pictures, tokenizer)
    config = hf.PaliGemmaConfig(
        text_config=hf.GemmaConfig(**{**_TEXT, "vocab_size": 1400}),
        vision_config=hf.SiglipVisionConfig(**_VISION, projection_dim=32),
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    tokenizer = _tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    pictures = hf.Idefics3ImageProcessor(
        do_image_splitting=False,
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
    )
    processor = hf.Idefics3Processor(pictures, tokenizer, image_seq_len=4)
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**_TEXT),
        vision_config={**_VISION, "max_num_patches": 16},
        scale_factor=2,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=0,
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


BUILD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "idefics3": idefics3,
}
"""Family -> its model and its processor."""


def build(name: str, std: float = 0.2) -> tuple[Any, Any]:
    """A family's model with random weights that are large enough to matter, and its processor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = BUILD[name]()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, std)
    return model.eval(), processor


class OnePatch(torch.nn.Module):
    """A projector that lets one patch of the picture through:
    a model whose answer depends on nothing else of it.
    """

    def __init__(self, projector: torch.nn.Module, patch: int) -> None:
        super().__init__()
        self.projector, self.patch = projector, patch

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Every other patch gives 0."""
        out = self.projector(features)
        kept = torch.zeros_like(out)
        kept[..., self.patch, :] = out[..., self.patch, :]
        return kept


def one_patch_llava(patch: int) -> tuple[Any, Any]:
    """A LLaVA that sees one patch, whose vision tower does not mix patches."""
    model, processor = build("llava")
    tower = model.get_submodule("model.vision_tower")
    with torch.no_grad():
        for path, module in tower.named_modules():
            if path.endswith("self_attn.out_proj"):
                module.weight.zero_()
                module.bias.zero_()
    model.model.multi_modal_projector = OnePatch(model.model.multi_modal_projector, patch)
    return model.eval(), processor
