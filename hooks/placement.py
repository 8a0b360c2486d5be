"""Where a model's weights are, whatever holds them: one device, several, a disk,
an adapter around it, shards of a group.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .flex import uses_flex


def adapted(model: Any) -> Any:
    """The model that PEFT put its adapters into; any other is itself."""
    has = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    return model.get_base_model() if has else model


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs belong: its first weights' device,
    or where accelerate runs weights that are kept elsewhere.
    """
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    for _, hook in accelerate_hooks(model):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    return torch.device("cpu")


def accelerate_hooks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Paths of modules whose weights accelerate brings from elsewhere before they run,
    and what brings them.
    """
    for path, module in model.named_modules():
        hook: Any = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if hasattr(one, "execution_device") and hasattr(one, "offload"):
                yield path, one


@contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """While this lasts the weights of a module itself are where it runs,
    though accelerate keeps them elsewhere.
    """
    offload_hooks = [hook for path, hook in accelerate_hooks(module) if not path and hook.offload]
    if not offload_hooks:
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module, offload_hooks[0].execution_device):
        yield


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are kept elsewhere and brought when their module runs."""
    return any(hook.offload for _, hook in accelerate_hooks(model))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of a model's weights where they are not quantised,
    which is that of its activations.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


@torch.no_grad()
def weight_of(module: nn.Module) -> Float[Tensor, "in out"] | None:
    r"""The matrix :math:`W` of a linear layer, :math:`x \mapsto x W + b`, float32; None for any
    other layer.

    Where the layer's forward is more than its weight (an adapter beside it, a quantised weight, one
    that is offloaded or split), the matrix is read off it: :math:`W = f(I) - f(0)`.
    """
    weight: Any = getattr(module, "weight", None)
    if type(module) is nn.Linear and type(weight) in (nn.Parameter, Tensor) and not weight.is_meta:
        return weight.detach().float().T
    if type(module).__name__ == "Conv1D":
        return weight.detach().float()
    size = getattr(module, "in_features", None)
    if size is None or not hasattr(module, "out_features"):
        return None
    device, dtype = device_of(module), dtype_of(module)
    eye = torch.eye(int(size), device=device, dtype=dtype)
    return (module(eye) - module(torch.zeros_like(eye[:1]))).float()


_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Where PyTorch keeps layers whose products are no functions of autograd."""


def cut_gradients(model: nn.Module) -> str:
    """Why gradients do not pass all layers of a model, in a line; empty where they do.

    On a CPU with AVX512-BF16, bitsandbytes packs the weights of a 4-bit layer at its first forward
    without gradients, and the packed layer's product is no function of autograd: what stands in
    front of it gets the gradient of the residual stream alone. PyTorch's own quantised layers and
    its flex attention on a CPU have no gradients at all.
    """
    if device_of(model).type == "cpu" and any(map(uses_flex, model.modules())):
        return (
            "flex attention has no gradients on a CPU: use a GPU, another kernel (--attn sdpa), "
            "or what needs no gradient"
        )
    if any(type(module).__module__.startswith(_QUANTISED) for module in model.modules()):
        return (
            "gradients stop at quantised layers of torch.ao, which have none: "
            "use the model before it was quantised, or what needs no gradient"
        )
    return _packed(model) if "bitsandbytes" in sys.modules else ""


def _packed(model: nn.Module) -> str:
    """The same of 4-bit layers that were packed for inference."""
    packed = 0
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        packed += bool(getattr(state, "packing_format_for_cpu", False))
    if not packed:
        return ""
    return (
        f"gradients stop at {packed} 4-bit layers, which bitsandbytes packed for inference on this "
        "CPU: use a GPU, another precision (--load-in 8bit), or what needs no gradient"
    )


def has_shards(model: nn.Module) -> bool:
    """Whether weights are shards of a group of processes."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def is_split(model: nn.Module) -> bool:
    """Whether each process computes only a part of a layer (tensor parallel).

    FSDP's units gather their whole weights before they run.
    """
    gathers = any(
        base.__name__ == "FSDPModule" for module in model.modules() for base in type(module).__mro__
    )
    return has_shards(model) and not gathers


def byte_layers(model: nn.Module) -> Counter[str]:
    """The kinds of layers whose weights are stored in a byte or less, and how many there are."""
    return Counter(
        type(module).__name__
        for module in model.modules()
        if any(p.dtype.itemsize == 1 for p in module.parameters(recurse=False))
        or any(
            b.dtype.itemsize == 1 and b.numel() > 1024 and not str(b.dtype).endswith("bool")
            for b in module.buffers(False)
        )
    )
