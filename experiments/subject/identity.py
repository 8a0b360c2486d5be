"""Hashes of everything of a model that can decide a number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...hooks.placement import accelerate_hooks

if TYPE_CHECKING:
    from .subject import Subject

_WHERE_FROM = ("_name_or_path", "transformers_version", "_commit_hash")
"""Settings that say where a configuration is from, and change no number."""


def identity_of(subject: Subject, weights: str) -> dict[str, str]:
    """Everything of a model and its tokenizer that can decide a number, by name.

    Args:
        weights: their hash.
    """
    generation = getattr(subject.model, "generation_config", None)
    return {
        "weights": weights,
        "configuration": settings_sha256(subject.config.to_dict()),
        "tokenizer": subject.tokenizer_sha256,
        "chat template": settings_sha256(getattr(subject.tokenizer, "chat_template", None)),
        "generation settings": settings_sha256(
            generation.to_dict() if generation is not None else None
        ),
        "adapter": settings_sha256(adapters_of(subject.model)),
        "quantisation": settings_sha256(quantisation_of(subject.config)),
        "revision": str(getattr(subject.config, "_commit_hash", None)),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "attention": str(getattr(subject.config, "_attn_implementation", None)),
        "bos": str(subject.bos),
        "longest input": str(subject.max_length),
    }


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of one file's bytes, or of the files' hex digests in order when there are several."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def hash_tensors(model: nn.Module) -> str:
    """SHA-256 over every entry of the state dict: name, dtype, shape and bytes, by name."""
    digest = hashlib.sha256()
    for key, value in sorted(_with_offloaded(model).items()):
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        gather: Any = getattr(value, "full_tensor", None)  # of a tensor on several devices
        whole = value if gather is None else gather()
        flat = whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _with_offloaded(model: nn.Module) -> dict[str, Any]:
    """The state dict, with what accelerate keeps elsewhere in the place of its empty tensors."""
    state = model.state_dict()
    for path, hook in accelerate_hooks(model):
        kept = getattr(hook, "weights_map", None)
        if kept is None:
            continue
        for name, _ in model.get_submodule(path).named_parameters(recurse=False):
            state[f"{path}.{name}" if path else name] = kept[name]
    return state


def settings_sha256(settings: Any) -> str:
    """Hash of settings that JSON can hold; those that only say where they are from are left out,
    at every level.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items() if key not in _WHERE_FROM}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        return value

    text = json.dumps(plain(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def quantisation_of(config: Any) -> Any:
    """How a model's weights are quantised; None for plain ones."""
    settings: Any = getattr(config, "quantization_config", None)
    return settings.to_dict() if hasattr(settings, "to_dict") else settings


def adapters_of(model: nn.Module) -> dict[str, Any] | None:
    """The adapters in force and their settings; None without any.

    Their weights are in the state dict.
    """
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    active = getattr(model, "active_adapters", None)
    names = active() if callable(active) else active
    return {
        "active": names,
        "settings": {name: config.to_dict() for name, config in configs.items()},
    }


def processor_settings(processor: Any) -> Any:
    """How pictures are prepared, and where a text holds them; None without a processor.

    Its tokenizer is the model's.
    """
    if processor is None:
        return None
    settings = {name: value for name, value in processor.to_dict().items() if name != "tokenizer"}
    return [settings, processor.image_processor.to_dict()]
