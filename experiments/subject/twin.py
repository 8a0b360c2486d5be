"""The same architecture with fresh weights."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping
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
    another kind of device. What the class draws in its constructor alone (the convolutions of
    wav2vec 2.0, all of GPT-1's weights) transformers leaves undefined when it loads no checkpoint;
    it is taken from the constructor.

    Raises:
        SubjectError: a weight that not even the constructor draws.
    """
    model = require_configured(model)
    config = copy.deepcopy(model.config if config is None else config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the twin holds plain tensors
    where = getattr(model, "hf_device_map", None) or {"": str(device_of(model))}
    # What the model keeps on disk has no file to be drawn into.
    where = {module: "cpu" if device == "disk" else device for module, device in where.items()}
    devices = range(torch.cuda.device_count())
    with quiet(), torch.random.fork_rng(devices=devices), _undefined_is_nan():
        torch.manual_seed(seed)
        twin = type(model).from_pretrained(
            None,
            config=config,
            state_dict={},
            dtype=dtype_of(model),
            device_map=where,
            attn_implementation=getattr(model.config, "_attn_implementation", None),
        )
        undefined = _undefined(twin)
        if undefined:
            _define(undefined, type(model)(config))
    left = next((name for name, tensor in undefined.items() if bool(tensor.isnan().any())), None)
    if left is not None:
        raise SubjectError(
            f"{type(model).__name__}: its constructor leaves {left} undefined, so that no "
            "random-weight model can be drawn: build one yourself, or leave it out "
            "(--random-models 0)"
        )
    return twin.eval()


@contextlib.contextmanager
def _undefined_is_nan() -> Iterator[None]:
    """Fill memory that nothing has written to with NaN, as PyTorch does for reproducible runs."""
    settings: Any = torch.utils.deterministic
    was_strict = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_strict, warn_only=warned_only)
        settings.fill_uninitialized_memory = filled


def _undefined(model: Any) -> dict[str, torch.Tensor]:
    """The weights and buffers that hold NaN, by name."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return {
        name: tensor
        for name, tensor in tensors
        if tensor.is_floating_point() and not tensor.is_meta and bool(tensor.isnan().any())
    }


def _define(undefined: Mapping[str, torch.Tensor], constructed: Any) -> None:
    """Take what is undefined from a model that its constructor made."""
    known = dict(itertools.chain(constructed.named_parameters(), constructed.named_buffers()))
    with torch.no_grad():
        for name, tensor in undefined.items():
            tensor.copy_(known[name])
