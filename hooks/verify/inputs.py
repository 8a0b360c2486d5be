"""Inputs for a model that is known by its configuration alone: random tokens, pictures, sounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import InputError

TEXTS, LENGTH = 3, 7


def default_inputs(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the kind that a transformers model takes, made from its configuration.

    Raises:
        ValueError: a model that does not say what it takes.
    """
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or main is None:
        raise InputError(f"{type(model).__name__} does not say what it takes: give verify(model, inputs={{...}})")
    generator = torch.Generator().manual_seed(seed)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if main == "input_ids":
        vocabulary = int(text.vocab_size)
        ids = torch.randint(min(3, vocabulary - 1), vocabulary, (TEXTS, LENGTH), generator=generator)
        inputs = {"input_ids": ids}
        if getattr(config, "is_encoder_decoder", False) and hasattr(model, "get_decoder"):
            inputs["decoder_input_ids"] = ids[:, : LENGTH - 2].flip(1)
        return inputs
    shape = _input_shape(config, main)
    if shape is None:
        raise InputError(f"{type(model).__name__} takes {main}: give verify(model, inputs={{{main!r}: ...}})")
    made: dict[str, Tensor] = {main: torch.randn(TEXTS, *shape, generator=generator)}
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is not None:
        made[main] = made[main].to(first.dtype)
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "vocab_size", None):
        made["decoder_input_ids"] = torch.randint(0, int(config.vocab_size), (TEXTS, LENGTH), generator=generator)
    return made


def _input_shape(config: Any, main: str) -> tuple[int, ...] | None:
    if main == "pixel_values":
        size = getattr(config, "image_size", None)
        sides = (size, size) if isinstance(size, int) else tuple(size) if size is not None else None
        return None if sides is None else (int(getattr(config, "num_channels", 3)), *sides)
    if main == "input_values":
        mels = getattr(config, "num_mel_bins", None)
        return (int(config.max_length), int(mels)) if mels and hasattr(config, "max_length") else (800,)
    if main == "input_features" and hasattr(config, "max_source_positions"):
        return int(config.num_mel_bins), 2 * int(config.max_source_positions)
    return None


def pad_id(config: Any) -> int:
    """The id that a model pads with."""
    found = getattr(config, "pad_token_id", None)
    return found if isinstance(found, int) and found >= 0 else 0
