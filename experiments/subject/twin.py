"""The same architecture with fresh weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ...hooks.placement import adapted, device_of, dtype_of
from .errors import SubjectError, quiet


def require_configured(model: Any) -> Any:
    """The model without its adapters, whose class builds others from a configuration.

    Raises:
        SubjectError: a model of another class.
    """
    model = adapted(model)
    if not hasattr(type(model), "from_pretrained"):
        raise SubjectError(
            f"{type(model).__name__} cannot be built from a configuration: expected a "
            "transformers model; build the random one yourself and pass it to Subject"
        )
    return model


def random_twin(model: Any, seed: int, config: Any = None) -> Any:
    """The same class and configuration (or another) with fresh weights, by the model's own
    initialisation.

    The weights are drawn where they stay and in the model's type, as transformers draws those that
    a checkpoint lacks: on the model's device, or by its device map. A seed gives other numbers on
    another kind of device.
    """
    model = require_configured(model)
    config = copy.deepcopy(model.config if config is None else config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the twin holds plain tensors
    where = getattr(model, "hf_device_map", None) or {"": str(device_of(model))}
    # What the model keeps on disk has no file to be drawn into.
    where = {module: "cpu" if device == "disk" else device for module, device in where.items()}
    devices = range(torch.cuda.device_count())
    with quiet(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        twin = type(model).from_pretrained(
            None,
            config=config,
            state_dict={},
            dtype=dtype_of(model),
            device_map=where,
            attn_implementation=getattr(model.config, "_attn_implementation", None),
        )
    return twin.eval()
