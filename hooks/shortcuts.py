"""What many edited copies of one batch need not compute: rows before the edit, and positions that nobody reads.

Copies that edit the same site of a block are equal before it, so the modules before it run on one copy and their result is
repeated (`run_once`). Behind the attention of the last block every position is on its own, so its output projection and
its MLP run on the positions that are read (`only_positions`). Both are plain hooks, gone when the context ends; whether
a model's parts are put together as they assume is for the caller to measure on values that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .anatomy import Place
from .forwards import working_hooks

Hook = Callable[..., Any]


@dataclass(frozen=True)
class Parts:
    """The modules of one block that shortcuts use; None where the anatomy does not tell.

    Args:
        attention: what holds the projections to queries, keys and values.
        out: attention's output projection, whose input is ``attn.hook_z``.
        up: the MLP as a module, or else its first projection.
        down: its last projection, whose input is ``mlp.hook_post``.
        whole: whether ``up`` is all of the MLP.
        parallel: attention and MLP read the same residual stream.
    """

    attention: nn.Module | None
    out: nn.Module | None
    up: nn.Module | None
    down: nn.Module | None
    whole: bool
    parallel: bool


def parts_of(model: nn.Module, places: Mapping[str, Place], layer: int) -> Parts:
    """The parts of a block, from the places of its sites."""
    block = places[f"blocks.{layer}.hook_resid_pre"].path

    def path(part: str, end: str) -> str:
        place = places.get(f"blocks.{layer}.{part}")
        alone = place is not None and place.end == end and place.like is None and place.calls == 1
        return place.path if place is not None and alone else ""

    def parent(of: str) -> str:
        above = of.rpartition(".")[0]
        return above if above.startswith(block + ".") else ""

    def module(at: str) -> nn.Module | None:
        return model.get_submodule(at) if at else None

    value, out, up, down = (path(*p) for p in (("attn.hook_v", "output"), ("attn.hook_z", "input"),
                                               ("mlp.hook_pre", "output"), ("mlp.hook_post", "input")))  # fmt: skip
    mlp = parent(up)
    whole = bool(mlp) and down.startswith(mlp + ".")
    parallel = f"blocks.{layer}.hook_resid_mid" not in places
    return Parts(
        module(parent(value)),
        module(out),
        module(mlp if whole else up),
        module(down),
        whole,
        parallel,
    )


def _before(parts: Parts, edited: str) -> list[tuple[nn.Module | None, nn.Module | None]]:
    """The modules of a block that stand before a site, each with the module up to which it does (None: it all does)."""
    attention = (parts.attention, None)
    match edited:
        case "attn.hook_z" if parts.out is not None:
            mlp = [(parts.up, None)] if parts.parallel and parts.whole else []
            return [(parts.attention, parts.out), *mlp]
        case "hook_attn_out" | "mlp.hook_pre":
            return [attention]
        case "mlp.hook_post":
            return [attention, (parts.up, parts.down)] if parts.down is not None else [attention]
        case "hook_mlp_out":
            return [attention, (parts.up, None)] if parts.whole else [attention]
    return []


@contextmanager
def run_once(
    parts: Parts, edited: str, at: nn.Module, batch: int, copies: int, originals: Mapping[int, Any]
) -> Iterator[None]:
    """While this lasts, what a block computes before the site ``edited`` is computed for the first copy alone.

    Args:
        edited: a part of a block's site names: ``attn.hook_z``, ``hook_attn_out``, ``mlp.hook_pre``, ...
        at: the module at which that site is found.
        batch, copies: the block runs on ``copies x batch`` rows.
        originals: by ``id``, what the block is given for all copies -> the same for one.
    """
    handles: list[Any] = []

    def fewer(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim == 3 and len(value) == batch * copies:
            return value[:batch]
        return originals.get(id(value), value)

    def more(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(more(v) for v in value)
        own = isinstance(value, Tensor) and value.ndim > 1 and len(value) == batch
        return value.repeat(copies, *[1] * (value.ndim - 1)) if own else value

    def narrow(module: nn.Module | None, until: nn.Module | None = None) -> None:
        """Run a module on one copy; repeat its output, or the input of the module ``until`` within or behind it."""
        if module is None or (until is None and at is not module and at in module.modules()):
            return  # the site is within what would be repeated at its end
        handles.append(
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (
                    tuple(map(fewer, args)),
                    {k: fewer(v) for k, v in kwargs.items()},
                ),
                with_kwargs=True,
            )
        )
        if until is None:
            handles.append(
                module.register_forward_hook(lambda _, args, output: more(output), prepend=True)
            )
        else:
            handles.append(
                until.register_forward_pre_hook(lambda _, args: more(args), prepend=True)
            )

    try:
        for module, until in _before(parts, edited):
            narrow(module, until)
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_free(block: nn.Module, parts: Parts) -> bool:
    """Whether nobody looks into a block behind its attention: there are no hooks but on the way to the output projection."""
    for module in block.modules():
        before, behind = working_hooks(module)
        if behind or (before and module is not parts.out):
            return False
    return True


@contextmanager
def only_positions(parts: Parts, positions: Int[Tensor, "rows p"]) -> Iterator[None]:
    """While this lasts, a block's output projection and MLP run on these positions of each row; elsewhere they give 0."""
    handles: list[Any] = []

    def limit(module: nn.Module | None) -> None:
        if module is None:
            return
        length: list[int] = []

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            length.append(args[0].shape[1])
            return args[0].gather(1, _wide(positions, args[0])), *args[1:]

        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            out = output.new_zeros(len(output), length.pop(), output.shape[2])
            return out.scatter(1, _wide(positions, output), output)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, prepend=True))

    try:
        for module in (parts.out, parts.up, None if parts.whole else parts.down):
            limit(module)
        yield
    finally:
        for handle in handles:
            handle.remove()


def padded(positions: Sequence[Sequence[int]]) -> Int[Tensor, "rows p"]:
    """Positions of each row as one table; a row with fewer repeats its last, one with none has the first position."""
    most = max(map(len, positions))
    return torch.tensor([[*row, *[row[-1] if row else 0] * (most - len(row))] for row in positions])


def _wide(positions: Tensor, like: Tensor) -> Tensor:
    return positions[: len(like), :, None].to(like.device).expand(-1, -1, like.shape[2])
