"""Forwards: what a call of a model says of its rows: their tokens, the attention mask, and how much
a cache already holds.

The call is read where the sites are: at every module between the model and its list of blocks,
whichever of them is called, by keyword or by position, and at a block that is called alone. What an
inner module is given counts more than what its wrapper was given.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from . import masks
from .block import is_backward
from .caches import CACHES, cached_columns, is_empty, layer_of, reference

_TOKENS = ("input_ids", "inputs_embeds", "hidden_states")
"""The names under which modules take their rows, those of a whole model first."""
MEDIA = ("pixel_values", "input_features", "input_values")
"""Inputs that are no text: a module that takes only these has rows of its own."""
BEFORE = (
    "the model was given a state that does not tell how many tokens it has read: "
    "enter the block before the first of them"
)
ODD_MASK = (
    "the model was given an attention mask that is not 'batch pos', "
    "so padding cannot be told from it: give one that is"
)


@dataclass(frozen=True)
class Forward:
    """One call of a model.

    Args:
        start: columns that a cache holds before this call's first one.
        mask: ``batch column``, True or 1 where a token stands; it covers the cache's columns too.
        virtual: columns at the start of each row that an adapter put there (prompt and prefix
            tuning).
        prefix: how many of these only a cache holds, and no forward runs (prefix tuning).
        unknown: why positions are not known; empty where they are.
        tokens: ids or embeddings of this call, ``batch pos`` first.
        step: which of so many steps a recurrence is at: a value is then one column of this call;
            None for all columns.
        position_ids: those of this call, where no mask of its columns keeps each row one text.
    """

    start: int = 0
    mask: Tensor | None = None
    virtual: int = 0
    prefix: int = 0
    unknown: str = ""
    tokens: Tensor | None = None
    step: tuple[int, int] | None = None
    position_ids: Tensor | None = None

    @functools.cached_property
    def columns(self) -> dict[str, Any]:
        """Its fields by name: what each of its sites is told."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @functools.cached_property
    def mask_on_host(self) -> Tensor | None:
        """The mask as truth values in main memory; copied once a forward,
        since every copy waits for the GPU.
        """
        return None if self.mask is None else self.mask.bool().cpu()

    @functools.cached_property
    def tokens_on_host(self) -> Tensor | None:
        """The tokens in main memory; copied once a forward too."""
        return None if self.tokens is None else self.tokens.cpu()


class _Announced(threading.local):
    """The forward that blocks belong to which somebody calls by themselves."""

    forward: Forward | None = None


_announced = _Announced()


@contextmanager
def belonging_to(forward: Forward) -> Iterator[None]:
    """Within it, blocks that are called by themselves belong to this forward."""
    before, _announced.forward = _announced.forward, forward
    try:
        yield
    finally:
        _announced.forward = before


@runtime_checkable
class Reader(Protocol):
    """Who reads the calls; see `hooks.taps.Taps`."""

    def is_shown(self) -> bool:
        """Whether a call is to be read."""
        ...

    def begin(self, is_whole: bool) -> None:
        """Called when a forward begins, of more than one block or not."""
        ...


_ONLY_CACHED = ("PREFIX_TUNING", "CARTRIDGE")
"""Kinds of prompt learning whose columns are keys and values that no forward runs."""


class Forwards:
    """The forwards that one tap sees: `now` is the one that is running."""

    def __init__(self, model: nn.Module, paths: Iterable[str], of_blocks: bool = True) -> None:
        self._model = model
        self._stacks, blocks = _owners(model, paths)
        # A call of one block by itself says something to those only who ask for positions.
        self._blocks = dict.fromkeys(blocks if of_blocks else ())
        self._running: list[tuple[str, Forward]] = []
        self._last = Forward()
        self._recalled: Forward | None = None
        # A cache, the columns that were seen to fill it, and their mask.
        self._counted: list[tuple[Callable[[], Any], int, Tensor | None]] = []

    @property
    def now(self) -> Forward:
        """The forward that is running; of a part that is called by itself nothing is known,
        and its text is whole.
        """
        if self._recalled is not None:
            return self._recalled
        if self._running:
            return self._running[-1][1]
        # A part that autograd runs again belongs to the forward that ran last.
        return self._last if is_backward() else Forward()

    @contextmanager
    def recalled(self, forward: Forward) -> Iterator[None]:
        """While this lasts a part of that forward runs again."""
        before, self._recalled = self._recalled, forward
        try:
            yield
        finally:
            self._recalled = before

    def openers(self, reader: Reader) -> Iterator[tuple[str, Callable[..., None]]]:
        """For each module whose calls are read, by path:
        what is to be called before its other hooks.
        """
        for path in (*self._stacks, *self._blocks):
            yield path, self._opener(path, reader)

    def closers(self, reader: Reader) -> Iterator[tuple[str, Callable[..., None]]]:
        """The same, behind its other hooks;
        a block that is called by itself is over when the next module is.
        """
        for path in self._stacks:
            yield path, self._closer(path, reader)

    def _opener(self, path: str, reader: Reader) -> Callable[..., None]:
        is_block = path in self._blocks

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if is_block and self._in_stack():
                return
            if not reader.is_shown() or is_backward():
                return
            # A module that runs now ends those before it that do not contain it.
            self._running = [(at, forward) for at, forward in self._running if _is_within(path, at)]
            if not self._running:
                # The first module that runs begins a forward; those within it belong to it.
                reader.begin(is_whole=not is_block)
            if is_block and _announced.forward is not None:
                forward = _announced.forward
            else:
                forward = self._read(path, module, args, kwargs)
            self._running.append((path, forward))
            self._last = forward

        return hook

    @property
    def is_running(self) -> bool:
        """Whether a call that was read has not ended."""
        return bool(self._running)

    def _in_stack(self) -> bool:
        """Whether what runs is more than one block that is called by itself."""
        return bool(self._running) and self._running[0][0] not in self._blocks

    def _closer(self, path: str, reader: Reader) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            is_running = any(at == path for at, _ in self._running)
            if not is_running or not reader.is_shown() or is_backward():
                return
            # Calls that ended with an error were never closed: they are taken off with the one that
            # encloses them.
            while self._running:
                at, forward = self._running.pop()
                if at == path:
                    self._count(forward, output)
                    return

        return hook

    def _read(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Forward:
        """What one call says; what it leaves open is taken from the call around it."""
        given = bound(module, args, kwargs)
        outer = self._running[-1][1] if self._running else None
        if outer is not None and outer.virtual:
            virtual, prefix = outer.virtual, outer.prefix
        else:
            virtual, prefix = self.virtual(path)

        tokens = _tokens(given)
        has_media = any(given.get(name) is not None for name in MEDIA)
        if tokens is None and has_media:
            outer = None  # pictures and sound have rows of their own
        elif tokens is None and outer is not None:
            tokens = outer.tokens
        size = None if tokens is None else tokens.shape[1]

        mask, square_mask, unknown = _masks(given, outer)
        # Without a mask of columns, models take position ids that begin again for several texts in
        # one row.
        position_ids = given.get("position_ids") if mask is None else None
        if position_ids is None and outer is not None:
            position_ids = outer.position_ids
        # The cache comes first: how a square mask is read depends on how many columns stand before
        # this call's.
        past, start = self._cache(path, module, given, outer)
        if square_mask is not None and start is not None:
            before = self._counted_mask(past, start)
            has_window = masks.has_window(module)
            mask = masks.shown_columns(square_mask, start, size, before, has_window)
            unknown = ODD_MASK if mask is None else ""
        if start is None:
            start, mask, unknown = self._continued(past, mask, size, unknown)
        if past is not None and mask is not None and size is not None:
            # A static cache's mask covers all columns that it has room for; a slice keeps a
            # narrower one whole.
            mask = mask[:, : start + size]
        return Forward(start, mask, virtual, prefix, unknown, tokens, position_ids=position_ids)

    def _cache(
        self, path: str, module: nn.Module, given: Mapping[str, Any], outer: Forward | None
    ) -> tuple[Any, int | None]:
        """The cache that a call is given, and how many columns it holds:
        None where it does not tell.
        """
        # The cache that an encoder-decoder is given is its decoder's: the wrapper has none of its
        # own.
        is_pair = "decoder_input_ids" in given
        names = [name for name in CACHES if name in given]
        if is_pair:
            return None, 0
        if not names:
            return None, 0 if outer is None else outer.start
        past = next((given[name] for name in names if given[name] is not None), None)
        if past is None:
            return None, 0
        return past, cached_columns(past, layer_of(module) if path in self._blocks else 0)

    def _counted_mask(self, past: Any, start: int) -> Tensor | None:
        """The mask of the columns that a cache holds, where an earlier call was seen to fill it."""
        for cache, end, mask in self._counted:
            if cache() is past and end == start:
                return mask
        return None

    def _continued(
        self, past: Any, mask: Tensor | None, size: int | None, unknown: str
    ) -> tuple[int, Tensor | None, str]:
        """Start and mask of a call behind a state that does not tell its length: by the mask,
        or by what was seen of it.
        """
        if mask is not None and size is not None and mask.shape[1] > size:
            return mask.shape[1] - size, mask, unknown
        for cache, end, before in self._counted:
            if past is not None and cache() is past:
                return end, masks.joined(before, mask, end, size), unknown
        return 0, mask, unknown if is_empty(past) else BEFORE

    def _count(self, forward: Forward, output: Any) -> None:
        """Remember what a cache does not tell: how many tokens a state has read,
        and which columns are padding.
        """
        if forward.tokens is None or not isinstance(output, Mapping):
            return
        end = forward.start + forward.tokens.shape[1]
        for name in CACHES:
            past = output.get(name)
            if past is None:
                continue
            if forward.mask is None and cached_columns(past) is not None:
                continue  # the cache tells its length, and nothing is padding
            others = [
                entry
                for entry in self._counted
                if entry[0]() is not None and entry[0]() is not past
            ]
            self._counted = [*others, (reference(past), end, forward.mask)]

    def virtual(self, path: str = "") -> tuple[int, int]:
        """Columns that PEFT puts before every text,
        inside its own forward or while its `generate` runs: all, and in a cache.
        """
        for above in self._stacks:
            if above != path and not _is_within(path, above):
                continue
            module: Any = self._model.get_submodule(above)
            # While PEFT's `generate` runs, the base model's method is the tuned model's.
            method = vars(module).get("prepare_inputs_for_generation")
            owner = getattr(method, "__self__", module)
            if owner is not module:
                tuned = owner
            else:
                tuned = module if above == path else None
            if not hasattr(tuned, "peft_config") or getattr(tuned, "_adapters_disabled", False):
                continue
            config = getattr(tuned, "active_peft_config", None)
            if not getattr(config, "is_prompt_learning", False):
                continue
            count = int(getattr(config, "num_virtual_tokens", 0))
            only_cached = getattr(config, "peft_type", "") in _ONLY_CACHED
            return count, count if only_cached else 0
        return 0, 0


def working_hooks(module: nn.Module) -> tuple[set[int], set[int]]:
    """The hooks on a module's input and on its output,
    without those that only read how it is called.
    """
    before, behind = (
        {number for number, hook in hooks.items() if not hasattr(hook, "reads_calls")}
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    )
    return before, behind


def bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by name, those left out as None."""
    is_patched = "forward" in vars(module)  # an instance's own forward has its own signature
    names = _signature(module.forward) if is_patched else _names(type(module).forward)
    return {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}


@functools.lru_cache(maxsize=512)
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Of a class's forward; by the function and not by the class,
    whose forward may be another for a while.
    """
    return _signature(forward)[1:]


def _signature(forward: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind not in collected)


def _owners(model: nn.Module, paths: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """The modules between the model and its lists of blocks, from outside in,
    and the blocks that hold these paths.
    """
    stacks, blocks = _above_all(tuple(dict.fromkeys(paths)))
    # Lists and dicts of modules are never called.
    containers = (nn.ModuleList, nn.ModuleDict)
    called = [p for p in stacks if not isinstance(model.get_submodule(p), containers)]
    return called, blocks


@functools.lru_cache(maxsize=1000)
def _above_all(paths: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths above the lists of blocks that some paths are in, and the blocks' own.

    Remembered, because the same sites are often entered again.
    """
    stacks, blocks = {""}, set[str]()
    for path in paths:
        above, block = _above(path)
        stacks.update(above)
        blocks.update(block)
    # From outside in, so that the outer call is read before the inner ones.
    in_order = sorted(stacks, key=lambda path: (path.count("."), path != "", path))
    return tuple(in_order), tuple(sorted(blocks))


def _above(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths above the list of blocks that a path is in, and its block's, if it is in one."""
    names = path.split(".")
    # A block is the first part of a path that is a number in a list.
    depth = next((i for i, name in enumerate(names) if name.isdigit()), len(names))
    stacks = tuple(".".join(names[:i]) for i in range(1, depth + 1))
    return stacks, (".".join(names[: depth + 1]),) if depth < len(names) else ()


def _is_within(path: str, above: str) -> bool:
    return path != above and (not above or path.startswith(above + "."))


def _tokens(given: Mapping[str, Any]) -> Tensor | None:
    """The rows of a call: ids, embeddings or hidden states, ``batch pos`` first."""
    for name in _TOKENS:
        value = given.get(name)
        if isinstance(value, Tensor) and value.ndim in (2, 3):
            return value
    return None


def _mask_of(given: Mapping[str, Any]) -> Any:
    """The attention mask of a call; `nn.TransformerEncoder` is given the padding instead."""
    padding = given.get("src_key_padding_mask")
    if isinstance(padding, Tensor) and padding.ndim == 2:
        return ~padding if padding.dtype == torch.bool else padding == 0
    return given.get("attention_mask")


def _masks(given: Mapping[str, Any], outer: Forward | None) -> tuple[Tensor | None, Any, str]:
    """The mask of a call if it is ``batch pos``, or else the mask of queries and keys that it has;
    and why it is unknown.
    """
    mask = _mask_of(given)
    is_of_columns = isinstance(mask, Tensor) and mask.ndim == 2
    if is_of_columns:
        return mask, None, ""
    # A model makes its parts' masks from its own, which says more. A decoder that is given no mask
    # does not get the outer one: that is the encoder's.
    attends_to_encoder = given.get("encoder_hidden_states") is not None
    if outer is not None and (mask is not None or not attends_to_encoder):
        return outer.mask, None, outer.unknown
    return None, mask, ""
