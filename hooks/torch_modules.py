"""Sites of PyTorch's own modules in any model: transformer layers, and the steps of recurrent
layers.

`nn.TransformerEncoder` turns a padded batch into a nested tensor, which no hook inside it can read.
While one of its layers is hooked it runs on the padded batch instead, and its output at padding is
what it would have been.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .block import BlockHook
from .families.torch_layers import row_of
from .forwards import bound
from .recurrent import part_names
from .rows import Place, Reading, read
from .stacks import Stack

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def torch_stacks(
    model: nn.Module, taken: Iterable[str] = (), outside: tuple[str, ...] = ()
) -> Iterator[tuple[str, Reading, Stack | None]]:
    """Name, places and row of each list of transformer layers and each recurrent module, in the
    model's order.

    The first is named ``blocks``, a decoder beside it ``decoder_blocks``, any other by its module:
    ``NAME_blocks``.

    Args:
        taken: names that others have.
        outside: beginnings of paths that are left out.
    """
    names = set(taken)
    for path, module in model.named_modules():
        if outside and path.startswith(outside):
            continue
        # Exactly these: a subclass may compute its steps in another way.
        if isinstance(module, nn.RNNBase) and type(module) in (nn.LSTM, nn.GRU, nn.RNN):
            name = _free_name(path, False, names)
            if name is not None:
                yield name, _steps(name, path, module), None
        elif isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack(module):
            is_decoder = isinstance(module[0], nn.TransformerDecoderLayer)
            name = _free_name(path, is_decoder, names)
            stack = None if name is None else _stack(name, path, module)
            reading = None if stack is None else read(model, stack)
            if stack is not None and reading is not None:
                yield stack.name, reading, stack


def _is_stack(module: nn.ModuleList | nn.Sequential) -> bool:
    return any(len(module) > 0 and all(isinstance(m, kind) for m in module) for kind in _LAYERS)


def _free_name(path: str, is_decoder: bool, taken: set[str]) -> str | None:
    """The stack's name; None where all its names are another's: it has raw paths."""
    parts = [re.sub(r"[^a-z]", "", part) for part in path.lower().split(".")]
    named = [f"{part}_blocks" for part in reversed(parts) if part and part != "layers"]
    wanted = ["blocks", *(["decoder_blocks"] if is_decoder else []), *named]
    name = next((name for name in wanted if name not in taken), None)
    if name is not None:
        taken.add(name)
    return name


def _stack(name: str, path: str, layers: nn.ModuleList | nn.Sequential) -> Stack:
    layer: Any = layers[0]
    above, _, list_name = path.rpartition(".")
    config = SimpleNamespace(
        num_hidden_layers=len(layers), num_attention_heads=layer.self_attn.num_heads
    )
    row = row_of(layer)
    family = row if list_name == "layers" else _renamed(row, list_name)
    return Stack(name, f"{above}." if above else "", family, config)


def _renamed(row: Any, blocks: str) -> Any:
    """The row of layers in a list of another name,
    which has no final norm beside it that is known.
    """
    return replace(row, blocks=blocks, outside={})


def _steps(name: str, path: str, module: nn.RNNBase) -> Reading:
    places = {}
    for layer, direction, part in part_names(module):
        direction_name = "rnn_reverse" if direction else "rnn"
        site = f"{name}.{layer}.{direction_name}.hook_{part}"
        places[site] = Place(path, "steps", item=f"{layer}.{direction}{part}")
    return Reading(places, module.num_layers, {})


class _Plain(TorchFunctionMode):
    """Changes nothing; beside any such mode PyTorch runs its transformer layers part by part."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def keep_padded(stack: ExitStack, module: nn.Module, is_watched: Callable[[], bool]) -> None:
    """Let a `nn.TransformerEncoder` run on the padded batch that it is given,
    until the stack is closed.
    """
    # A stack, since an encoder may stand in another; what an error leaves on it is taken off at the
    # end.
    modes: list[tuple[_Plain, Tensor | None]] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_watched():
            modes.append((_Plain(), _nested_padding(module, bound(module, args, kwargs))))
            modes[-1][0].__enter__()

    def leave() -> Tensor | None:
        mode, padding = modes.pop()
        mode.__exit__(None, None, None)
        return padding

    def behind(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        padding = leave() if modes and is_watched() else None
        if padding is None or not isinstance(output, Tensor):
            return None
        # What the model itself would give at the padding: its nested output is filled up with
        # zeros, which then go through the norm.
        end = output.new_zeros(output.shape[-1])
        end = end if module.norm is None else module.norm(end)
        return torch.where(padding[..., None], end, output)

    def leave_all() -> None:
        while modes:
            leave()

    stack.callback(leave_all)
    pre = module.register_forward_pre_hook(BlockHook(before), with_kwargs=True)
    stack.callback(pre.remove)
    stack.callback(module.register_forward_hook(BlockHook(behind), always_call=True).remove)


def _nested_padding(module: Any, given: dict[str, Any]) -> Tensor | None:
    """The padding of a batch that the module would make a nested tensor of:
    its output there is that of zeros.
    """
    src, padding = given["src"], given.get("src_key_padding_mask")
    if padding is None or given.get("mask") is not None or src.ndim != 3:
        return None
    # The conditions are PyTorch's own, from `nn.TransformerEncoder.forward`, in its order.
    first = module.layers[0]
    is_fast = torch.backends.mha.get_fastpath_enabled() and not torch.is_autocast_enabled()
    nests = getattr(module, "use_nested_tensor", False) and not first.training
    has_gradient = src.requires_grad or any(p.requires_grad for p in first.parameters())
    needs_graph = torch.is_grad_enabled() and has_gradient
    if not (is_fast and nests) or needs_graph:
        return None
    padding = padding if padding.dtype == torch.bool else padding != 0
    is_token = ~padding
    is_checked = getattr(module, "mask_check", True)
    if is_checked and not torch._nested_tensor_from_mask_left_aligned(src, is_token):  # pyright: ignore[reportPrivateImportUsage]
        return None
    return padding
