"""A forward pass recorded block by block: what every block was given, so that it can be called
again alone, and for many copies of the texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerscope.errors import InputError

from .anatomy import anatomy
from .flex import is_block_mask, of_copies
from .forwards import working_hooks
from .prefix import Prefix, is_cache


class Recording:
    """One forward pass through the blocks of a model.

    Args:
        blocks: the block of each layer; see `blocks_of`.
        stop: how many of them matter.

    Attributes:
        end: what the last block that matters gave.
        is_chained: whether each of them was given just what the one before it gave.
        cache: the name under which the blocks take a cache of keys and values; None if they take
            none.
    """

    end: Tensor
    is_chained: bool

    def __init__(self, blocks: Sequence[nn.Module], stop: int) -> None:
        self._blocks, self._stop = blocks, stop
        parameters = inspect.signature(blocks[0].forward).parameters.values()
        self._names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        caches = [name for name in ("past_key_values", "layer_past") if name in self._names]
        self.cache = caches[0] if caches else None
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._keys_and_values: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run the model and record; what it gave.

        Raises:
            InputError: a forward pass that does not call one block a layer.
        """
        ends: list[Any] = []
        handles = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = dict(zip(self._names[1:], args[1:], strict=False))
            given = {
                name: None if is_cache(value) else value
                for name, value in {**named, **kwargs}.items()
            }
            self._calls.append((args[:1] + args[1 + len(named) :], given))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ends.append(stream_of(output))

        for block in dict.fromkeys(self._blocks):
            handles += [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
            ]
        try:
            output = model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        if len(self._calls) != len(self._blocks):
            raise InputError(
                f"expected {len(self._blocks)} calls of blocks in one forward, "
                f"got {len(self._calls)}"
            )
        self.end = ends[self._stop - 1]
        later_inputs = map(self.residual, range(1, self._stop))
        self.is_chained = all(map(torch.equal, ends[: self._stop - 1], later_inputs))
        return output

    def residual(self, layer: int) -> Float[Tensor, "*batch pos d_model"]:
        """What a block was given; at ``stop``, what the last block gave."""
        if layer == self._stop:
            return self.end
        args, kwargs = self._calls[layer]
        return args[0] if args else kwargs["hidden_states"]

    def arguments(self, layer: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What else a block was given, by position and by name."""
        args, kwargs = self._calls[layer]
        return args[1:], {name: v for name, v in kwargs.items() if name != "hidden_states"}

    def keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values of a block, ``batch head pos d_head`` each: it is run once more."""
        if layer not in self._keys_and_values:
            args, kwargs = self._calls[layer]
            recorder = Prefix()
            self._blocks[layer](*args, **{**kwargs, self.cache or "": recorder})
            self._keys_and_values[layer] = recorder.keys_and_values
        return self._keys_and_values[layer]


def stream_of(output: Any) -> Tensor:
    """The residual stream in what a block gave."""
    return output if isinstance(output, Tensor) else output[0]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks, each a module that is given the stream; `InputError` says why there are none."""
    known = anatomy(model)
    places = [known.places.get(f"blocks.{n}.hook_resid_pre") for n in range(known.n_layers)]
    blocks = [
        model.get_submodule(place.path)
        for place in places
        if place is not None and place.end == "input"
    ]
    if len(blocks) < len(places) or not blocks:
        why = known.missing.get(
            "hook_resid_pre", "its blocks are no modules that are given the stream"
        )
        raise InputError(f"{type(model).__name__} cannot be continued from a block: {why}")
    return blocks


def hooks_within(blocks: Sequence[nn.Module]) -> set[int]:
    """The hooks on the blocks and within them;
    transformers leaves some there that only look.
    """
    modules = [module for block in blocks for module in block.modules()]
    return {hook for module in modules for hooks in working_hooks(module) for hook in hooks}


def repeat_texts(value: Any, batch: int, copies: int) -> Any:
    """What belongs to each of ``batch`` texts, once for every copy; what is shared by all stays.

    Rows k * batch to (k + 1) * batch are the k-th copy.
    """
    if copies == 1:
        return value
    if is_block_mask(value):
        return of_copies(value, batch, copies)
    if isinstance(value, tuple | list):
        return type(value)(repeat_texts(item, batch, copies) for item in value)
    if not isinstance(value, Tensor):
        return value
    is_by_text = value.ndim > 1 and len(value) == batch
    is_by_text_and_head = value.ndim > 2 and len(value) % batch == 0  # ALiBi: texts x heads
    if is_by_text or is_by_text_and_head:
        return value.repeat(copies, *[1] * (value.ndim - 1))
    return value
