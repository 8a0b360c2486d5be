"""What many edited copies of one batch need not compute: rows before the edit, and positions that
nobody reads.

Copies that edit the same site of a block are equal before it, so the modules before it run on one
copy and their result is repeated (`run_once`). Behind the attention of the last block every
position is on its own, so its output projection and its MLP run on the positions that are read
(`only_positions`). Both are plain hooks, gone when the context ends; whether a model's parts are
put together as they assume is for the caller to measure on values that it knows.
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
        """The module at whose end a site's tensor stands as it is;
        empty where it stands in no such way.
        """
        place = places.get(f"blocks.{layer}.{part}")
        if place is None or place.end != end:
            return ""
        is_plain = place.like is None and place.calls == 1
        return place.path if is_plain else ""

    def parent(of: str) -> str:
        above = of.rpartition(".")[0]
        return above if above.startswith(block + ".") else ""

    def module(at: str) -> nn.Module | None:
        return model.get_submodule(at) if at else None

    value = path("attn.hook_v", "output")
    out = path("attn.hook_z", "input")
    up = path("mlp.hook_pre", "output")
    down = path("mlp.hook_post", "input")
    mlp = parent(up)
    is_whole = bool(mlp) and down.startswith(mlp + ".")
    return Parts(
        attention=module(parent(value)),
        out=module(out),
        up=module(mlp if is_whole else up),
        down=module(down),
        whole=is_whole,
        # Attention and MLP that read the same stream have no stream between them.
        parallel=f"blocks.{layer}.hook_resid_mid" not in places,
    )


def _before(parts: Parts, edited: str) -> list[tuple[nn.Module | None, nn.Module | None]]:
    """The modules of a block that stand before a site,
    each with the module up to which it does (None: it all does).
    """
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
    """While this lasts, what a block computes before the site ``edited`` is computed for the first
    copy alone.

    Args:
        edited: a part of a block's site names: ``attn.hook_z``, ``hook_attn_out``,
            ``mlp.hook_pre``, ...
        at: the module at which that site is found.
        batch, copies: the block runs on ``copies x batch`` rows.
        originals: by ``id``, what the block is given for all copies -> the same for one.
    """
    handles: list[Any] = []

    def first_copy(value: Any) -> Any:
        is_of_all_copies = isinstance(value, Tensor) and value.ndim == 3
        if is_of_all_copies and len(value) == batch * copies:
            return value[:batch]
        return originals.get(id(value), value)

    def repeated(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(repeated(item) for item in value)
        is_of_rows = isinstance(value, Tensor) and value.ndim > 1 and len(value) == batch
        return value.repeat(copies, *[1] * (value.ndim - 1)) if is_of_rows else value

    def narrow_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        narrow_kwargs = {name: first_copy(value) for name, value in kwargs.items()}
        return tuple(map(first_copy, args)), narrow_kwargs

    def widen_output(_: nn.Module, args: Any, output: Any) -> Any:
        return repeated(output)

    def widen_input(_: nn.Module, args: Any) -> Any:
        return repeated(args)

    def narrow(module: nn.Module | None, until: nn.Module | None = None) -> None:
        """Run a module on one copy; repeat its output,
        or the input of the module ``until`` within or behind it.
        """
        if module is None:
            return
        # A site that stands within the module would be edited on one copy, and the edit repeated.
        is_edited_within = at is not module and at in module.modules()
        if until is None and is_edited_within:
            return
        handles.append(module.register_forward_pre_hook(narrow_call, with_kwargs=True))
        # Prepended: the other hooks on this place, the edits among them, must see all copies.
        if until is None:
            handles.append(module.register_forward_hook(widen_output, prepend=True))
        else:
            handles.append(until.register_forward_pre_hook(widen_input, prepend=True))

    try:
        for module, until in _before(parts, edited):
            narrow(module, until)
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_free(block: nn.Module, parts: Parts) -> bool:
    """Whether nobody looks into a block behind its attention:
    there are no hooks but on the way to the output projection.
    """
    for module in block.modules():
        before, behind = working_hooks(module)
        if behind or (before and module is not parts.out):
            return False
    return True


@contextmanager
def only_positions(parts: Parts, positions: Int[Tensor, "rows p"]) -> Iterator[None]:
    """While this lasts, a block's output projection and MLP run on these positions of each row;
    elsewhere they give 0.
    """
    handles: list[Any] = []

    def limit(module: nn.Module | None) -> None:
        if module is None:
            return
        length: list[int] = []  # from the input of a call to its output

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            stream = args[0]
            length.append(stream.shape[1])
            return stream.gather(1, _wide(positions, stream)), *args[1:]

        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            whole = output.new_zeros(len(output), length.pop(), output.shape[2])
            # Elsewhere 0: what nobody reads must still have its place.
            return whole.scatter(1, _wide(positions, output), output)

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
    """Positions of each row as one table; a row with fewer repeats its last,
    one with none has the first position.
    """
    most = max(map(len, positions))
    table = []
    for row in positions:
        # A position that is run twice costs little, and gives the same.
        filler = row[-1] if row else 0
        table.append([*row, *[filler] * (most - len(row))])
    return torch.tensor(table)


def _wide(positions: Tensor, like: Tensor) -> Tensor:
    """Positions as an index of every column of ``like``, ``rows p d``."""
    index = positions[: len(like), :, None].to(like.device)
    return index.expand(-1, -1, like.shape[2])
