"""Inputs for a model that is known by its configuration alone: random tokens, pictures, sounds."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import InputError

from ..configuration import text_config
from ..placement import dtype_of

TEXTS, LENGTH, SAMPLES = 3, 7, 1600
READ_BOTH_WAYS = ("paligemma",)
"""Model types that generate, and whose prompt (token type 0) is read both ways;
XLNet says so in ``attn_type``.
"""


def default_inputs(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the kind that a transformers model takes, made from its configuration.

    Raises:
        ValueError: a model that does not say what it takes.
    """
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    takes = inspect.signature(model.forward).parameters
    if main == "input_ids" and main not in takes and "pixel_values" in takes:
        main = "pixel_values"  # a vision tower alone (Idefics 3) keeps the name of its whole model
    text: Any = text_config(config)
    is_unknown = main == "input_ids" and not hasattr(text, "vocab_size")
    if config is None or main is None or is_unknown:
        raise InputError(
            f"{type(model).__name__} does not say what it takes: give verify(model, inputs={{...}})"
        )
    generator = torch.Generator().manual_seed(seed)
    if main == "input_ids":
        vocabulary = int(text.vocab_size)
        ids = torch.randint(
            min(3, vocabulary - 1), vocabulary, (TEXTS, LENGTH), generator=generator
        )
        inputs = {"input_ids": ids}
        if getattr(config, "is_encoder_decoder", False) and hasattr(model, "get_decoder"):
            inputs["decoder_input_ids"] = ids[:, : LENGTH - 2].flip(1)
        if config.model_type in READ_BOTH_WAYS:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if "aspect_ratio_ids" in takes:
            inputs |= _tiles(model, config.vision_config, generator)
        elif _compares(model) and "spatial_shapes" in takes:
            inputs |= _patches(model, config.vision_config, generator)
        elif "image_embeds" in takes and "pixel_mask" in takes:
            # of patches that are given as pictures the model draws the order (ViLT)
            shape = (TEXTS, 4, int(config.hidden_size))
            kind = dtype_of(model)
            inputs["image_embeds"] = torch.randn(shape, generator=generator).to(kind)
            inputs["pixel_mask"] = torch.ones(TEXTS, 2, 2, dtype=torch.long)
        elif _compares(model):
            inputs["pixel_values"] = _random(model, config.vision_config, "pixel_values", generator)
        return inputs
    if "spatial_shapes" in takes:
        return _patches(model, config, generator)
    made = {main: _random(model, config, main, generator)}
    if getattr(config, "is_encoder_decoder", False) and getattr(text, "vocab_size", None):
        made["decoder_input_ids"] = torch.randint(
            0, int(text.vocab_size), (TEXTS, LENGTH), generator=generator
        )
    return made


def _compares(model: nn.Module) -> bool:
    """Whether a model takes texts and pictures side by side (CLIP)."""
    config: Any = model.config
    takes = inspect.signature(model.forward).parameters
    able = getattr(model, "can_generate", lambda: False)()
    return "pixel_values" in takes and hasattr(config, "vision_config") and not able


def _tiles(model: nn.Module, config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """One picture a text, cut into tiles that every token may read (Llama 3.2)."""
    tiles = int(config.max_num_tiles)
    shape = (TEXTS, 1, tiles, int(config.num_channels), config.image_size, config.image_size)
    kind = dtype_of(model)
    return {
        "pixel_values": torch.randn(shape, generator=generator).to(kind),
        "aspect_ratio_ids": torch.ones(TEXTS, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(TEXTS, 1, tiles, dtype=torch.long),
        "cross_attention_mask": torch.ones(TEXTS, LENGTH, 1, tiles, dtype=torch.long),
    }


def _patches(model: nn.Module, config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Pictures as a row of patches with the shape that they had (SigLIP 2)."""
    width = int(config.num_channels) * int(config.patch_size) ** 2
    return {
        "pixel_values": torch.randn(TEXTS, 4, width, generator=generator).to(dtype_of(model)),
        "pixel_attention_mask": torch.ones(TEXTS, 4, dtype=torch.long),
        "spatial_shapes": torch.full((TEXTS, 2), 2),
    }


def _random(model: nn.Module, config: Any, main: str, generator: torch.Generator) -> Tensor:
    shape = _input_shape(config, main)
    if shape is None:
        raise InputError(
            f"{type(model).__name__} takes {main}: give verify(model, inputs={{{main!r}: ...}})"
        )
    random = torch.randn(TEXTS, *shape, generator=generator)
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return random if first is None else random.to(first.dtype)


def _input_shape(config: Any, main: str) -> tuple[int, ...] | None:
    if main == "pixel_values":
        size = getattr(config, "image_size", None)
        sides = (size, size) if isinstance(size, int) else tuple(size) if size is not None else None
        return None if sides is None else (int(getattr(config, "num_channels", 3)), *sides)
    if main == "input_values":
        mels = getattr(config, "num_mel_bins", None)
        return (
            (int(config.max_length), int(mels))
            if mels and hasattr(config, "max_length")
            else (SAMPLES,)
        )
    if main == "input_features":
        width = next(
            (
                getattr(config, n)
                for n in ("feature_projection_input_dim", "input_feat_per_channel")
                if hasattr(config, n)
            ),
            None,
        )
        if width is not None:
            return 4 * LENGTH, int(width)
        if hasattr(config, "max_source_positions"):
            return int(config.num_mel_bins), 2 * int(config.max_source_positions)
    return None


def pad_id(config: Any) -> int:
    """The id that a model pads with."""
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else 0
