"""Forwards: what a call of a model says of its rows: their tokens, the attention mask, and how much a cache already holds.

The call is read where the sites are: at every module between the model and its list of blocks, whichever of them is called,
by keyword or by position, and at a block that is called alone. What an inner module is given counts more than what its
wrapper was given.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from .block import is_backward
from .configuration import setting

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params", "state")
"""The names under which models take what they keep of earlier tokens."""
MEDIA = ("pixel_values", "input_features", "input_values")
"""Inputs that are no text: a module that takes only these has rows of its own."""
BEFORE = "the model was given a state that does not tell how many tokens it has read: enter the block before the first of them"
ODD_MASK = "the model was given an attention mask that is not 'batch pos', so padding cannot be told from it: give one that is"


@dataclass(frozen=True)
class Forward:
    """One call of a model.

    Args:
        start: columns that a cache holds before this call's first one.
        mask: ``batch column``, True or 1 where a token stands; it covers the cache's columns too.
        virtual: columns at the start of each row that an adapter put there (prompt and prefix tuning).
        prefix: how many of these only a cache holds, and no forward runs (prefix tuning).
        unknown: why positions are not known; empty where they are.
        tokens: ids or embeddings of this call, ``batch pos`` first.
        step: which of so many steps a recurrence is at: a value is then one column of this call; None for all columns.
    """

    start: int = 0
    mask: Tensor | None = None
    virtual: int = 0
    prefix: int = 0
    unknown: str = ""
    tokens: Tensor | None = None
    step: tuple[int, int] | None = None


class _Told(threading.local):
    """What somebody who calls blocks by themselves says of the forward that they belong to."""

    forward: Forward | None = None


_told = _Told()


@contextmanager
def belonging_to(forward: Forward) -> Iterator[None]:
    """Within it, blocks that are called by themselves belong to this forward."""
    before, _told.forward = _told.forward, forward
    try:
        yield
    finally:
        _told.forward = before


@runtime_checkable
class Reader(Protocol):
    """Who reads the calls; see `hooks.taps.Taps`."""

    def is_shown(self) -> bool:
        """Whether a call is to be read."""
        ...

    def begin(self, is_whole: bool) -> None:
        """Called when a forward begins, of more than one block or not."""
        ...


class Forwards:
    """The forwards that one tap sees: `now` is the one that is running."""

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        self._model = model
        self._stacks, blocks = _owners(model, paths)
        self._blocks = dict.fromkeys(blocks)
        self._running: list[tuple[str, Forward]] = []
        self._last = Forward()
        self._recalled: Forward | None = None
        self._counted: list[tuple[Callable[[], Any], int, Tensor | None]] = []

    @property
    def now(self) -> Forward:
        """The forward that is running; of a part that is called by itself nothing is known, and its text is whole."""
        if self._recalled is not None:
            return self._recalled
        if self._running:
            return self._running[-1][1]
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
        """For each module whose calls are read, by path: what is to be called before its other hooks."""
        for path in (*self._stacks, *self._blocks):
            yield path, self._opener(path, reader)

    def closers(self, reader: Reader) -> Iterator[tuple[str, Callable[..., None]]]:
        """The same, behind its other hooks; a block that is called by itself is over when the next module is."""
        for path in self._stacks:
            yield path, self._closer(path, reader)

    def _opener(self, path: str, reader: Reader) -> Callable[..., None]:
        is_block = path in self._blocks

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if (is_block and self._in_stack()) or not reader.is_shown() or is_backward():
                return
            self._running = [(at, forward) for at, forward in self._running if _is_within(path, at)]
            if not self._running:
                reader.begin(is_whole=not is_block)
            if is_block and _told.forward is not None:
                forward = _told.forward
            else:
                forward = self._read(path, module, args, kwargs)
            self._running.append((path, forward))
            self._last = forward

        return hook

    def _in_stack(self) -> bool:
        """Whether what runs is more than one block that is called by itself."""
        return bool(self._running) and self._running[0][0] not in self._blocks

    def _closer(self, path: str, reader: Reader) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if (
                not any(at == path for at, _ in self._running)
                or not reader.is_shown()
                or is_backward()
            ):
                return
            while self._running:
                at, forward = self._running.pop()
                if at == path:
                    self._count(forward, output)
                    return

        return hook

    def _read(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Forward:
        given = bound(module, args, kwargs)
        outer = self._running[-1][1] if self._running else None
        is_pair = "decoder_input_ids" in given
        virtual, prefix = (
            (outer.virtual, outer.prefix)
            if outer is not None and outer.virtual
            else self._virtual(path)
        )
        tokens = next(
            (
                given[k]
                for k in ("input_ids", "inputs_embeds", "hidden_states")
                if _is_rows(given.get(k))
            ),
            None,
        )
        if tokens is None and any(given.get(name) is not None for name in MEDIA):
            outer = None
        elif tokens is None and outer is not None:
            tokens = outer.tokens
        size = None if tokens is None else tokens.shape[1]

        mask, unknown = _mask_of(given), ""
        shape = None if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2) else mask
        if shape is not None:
            mask = None
        if outer is not None and (
            shape is not None or (mask is None and given.get("encoder_hidden_states") is None)
        ):
            mask, unknown, shape = outer.mask, outer.unknown, None  # the inner one's is made of it

        named = [name for name in CACHES if name in given]
        has_cache = bool(named) and not is_pair
        past = next((given[name] for name in named if has_cache and given[name] is not None), None)
        if not has_cache:
            start = outer.start if outer is not None and not is_pair else 0
        else:
            start = 0 if past is None else held(past, _layer(module) if path in self._blocks else 0)
        if shape is not None and start is not None:
            before = next(
                (mask for known, end, mask in self._counted if known() is past and end == start),
                None,
            )
            mask = shown_columns(shape, start, size, before, _has_window(module))
            unknown = ODD_MASK if mask is None else ""
        if start is None:
            start, mask, unknown = self._continued(past, mask, size, unknown)
        if (
            past is not None
            and mask is not None
            and size is not None
            and mask.shape[1] > start + size
        ):
            mask = mask[:, : start + size]  # one for all that a static cache has room for
        return Forward(start, mask, virtual, prefix, unknown, tokens)

    def _continued(
        self, past: Any, mask: Tensor | None, size: int | None, unknown: str
    ) -> tuple[int, Tensor | None, str]:
        """Start and mask of a call behind a state that does not tell its length: by the mask, or by what was seen of it."""
        if mask is not None and size is not None and mask.shape[1] > size:
            return mask.shape[1] - size, mask, unknown
        for known, end, before in self._counted:
            if known() is past:
                return end, _joined(before, mask, end, size), unknown
        return 0, mask, unknown if _is_empty(past) else BEFORE

    def _count(self, forward: Forward, output: Any) -> None:
        """Remember what a cache does not tell: how many tokens a state has read, and which columns are padding."""
        if forward.tokens is None or not isinstance(output, Mapping):
            return
        for name in CACHES:
            past = output.get(name)
            if past is not None and (forward.mask is not None or held(past) is None):
                self._counted = [
                    e for e in self._counted if e[0]() is not None and e[0]() is not past
                ]
                self._counted.append(
                    (_reference(past), forward.start + forward.tokens.shape[1], forward.mask)
                )

    def _virtual(self, path: str) -> tuple[int, int]:
        """Columns that PEFT puts before every text, inside its own forward or while its `generate` runs: all, and in a cache."""
        for above in (p for p in self._stacks if p == path or _is_within(path, p)):
            module: Any = self._model.get_submodule(above)
            prepares = getattr(
                vars(module).get("prepare_inputs_for_generation"), "__self__", module
            )
            tuned = prepares if prepares is not module else module if above == path else None
            config = (
                getattr(tuned, "active_peft_config", None)
                if hasattr(tuned, "peft_config")
                else None
            )
            if getattr(config, "is_prompt_learning", False) and not getattr(
                tuned, "_adapters_disabled", False
            ):
                count = int(getattr(config, "num_virtual_tokens", 0))
                return count, count if getattr(config, "peft_type", "") in (
                    "PREFIX_TUNING",
                    "CARTRIDGE",
                ) else 0
        return 0, 0


def working_hooks(module: nn.Module) -> tuple[set[int], set[int]]:
    """The hooks on a module's input and on its output, without those that only read how it is called."""
    before, behind = (
        {number for number, hook in hooks.items() if not hasattr(hook, "reads_calls")}
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    )
    return before, behind


def bound(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by name, those left out as None."""
    own = "forward" in vars(module)
    names = _signature(module.forward) if own else _names(type(module))
    return {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}


@functools.lru_cache(maxsize=512)
def _names(kind: type[nn.Module]) -> tuple[str, ...]:
    return _signature(kind.forward)[1:]


def _signature(forward: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def held(past: Any, layer: int = 0) -> int | None:
    """Columns that a cache holds; None where it does not tell."""
    length = getattr(past, "get_seq_length", None)
    try:
        if length is not None:
            return int(length(layer) if layer else length())
        first = past[0][0] if isinstance(past, tuple) else None
        return int(first.shape[-2]) if isinstance(first, Tensor) and first.ndim == 4 else None
    except (ValueError, IndexError, TypeError):
        return None


def _owners(model: nn.Module, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The modules between the model and its lists of blocks, from outside in, and the blocks that hold these paths."""
    stacks, blocks = {""}, set()
    for path in set(paths):
        above, block = _above(path)
        stacks.update(above)
        blocks.update(block)
    called = [
        p for p in stacks if not isinstance(model.get_submodule(p), nn.ModuleList | nn.ModuleDict)
    ]
    return sorted(called, key=lambda p: (p.count("."), p != "", p)), sorted(blocks)


@functools.lru_cache(maxsize=10_000)
def _above(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths above the list of blocks that a path is in, and its block's, if it is in one."""
    names = path.split(".")
    depth = next((i for i, name in enumerate(names) if name.isdigit()), len(names))
    stacks = tuple(".".join(names[:i]) for i in range(1, depth + 1))
    return stacks, (".".join(names[: depth + 1]),) if depth < len(names) else ()


def _mask_of(given: Mapping[str, Any]) -> Any:
    """The attention mask of a call; `nn.TransformerEncoder` is given the padding instead."""
    padding = given.get("src_key_padding_mask")
    if isinstance(padding, Tensor) and padding.ndim == 2:
        return ~padding if padding.dtype == torch.bool else padding == 0
    return given.get("attention_mask")


def _is_within(path: str, above: str) -> bool:
    return path != above and (not above or path.startswith(above + "."))


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim in (2, 3)


def shown_columns(
    mask: Any, start: int, size: int | None, before: Tensor | None, has_window: bool
) -> Bool[Tensor, "batch column"] | None:
    """The tokens' columns, from a mask ``batch 1 query key`` (or several, by kind of layer); None where it does not tell.

    A token sees itself. What its row shows beyond itself is no causal mask, or stands for "nothing to see".

    Args:
        start, size: columns that a cache holds, and those of this forward.
        before: the tokens' columns that the cache holds, where they are known.
        has_window: whether a token may not see all earlier ones.
    """
    if isinstance(mask, Mapping):
        has_window = has_window and "full_attention" not in mask
        if size is not None and any(
            one is None for one in mask.values()
        ):  # left out: there is no padding
            return torch.ones(1, start + size, dtype=torch.bool)
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if not isinstance(mask, Tensor) or mask.ndim != 4 or size is None or mask.shape[-2] != size:
        return None
    shown = (mask if mask.dtype == torch.bool else mask > -1)[:, 0].cpu()
    end = start + size
    dropped = max(0, end - shown.shape[-1])
    if start == 0 and shown.shape[-1] == size and bool((shown == shown[:, :1]).all()):
        return shown[:, 0]  # every token sees all tokens
    own = torch.arange(start - dropped, end - dropped)
    ahead = torch.arange(shown.shape[-1])[None] > own[:, None]
    now = shown[:, torch.arange(size), own] & ~(shown & ahead).any(-1)
    if not start:
        return now
    if before is None:
        before = shown[:, -1, :start]
        if before.shape[1] != start or (has_window and not bool(before.all())):
            return None
    return torch.cat([before.bool().cpu().expand(len(now), -1), now.expand(len(before), -1)], dim=1)


def _has_window(module: nn.Module) -> bool:
    config: Any = getattr(module, "config", None)
    return setting(config, "sliding_window", "attention_chunk_size") is not None


def _layer(block: nn.Module) -> int:
    """The layer that a part of a block says it belongs to; 0 where none does."""
    for module in block.modules():
        layer: Any = getattr(module, "layer_idx", None)
        if isinstance(layer, int):
            return int(layer)
    return 0


def _is_empty(past: Any) -> bool:
    """Whether a state has read nothing yet."""
    has = getattr(past, "has_previous_state", None)
    try:
        return not (has() if callable(has) else has) if has is not None else False
    except (ValueError, IndexError):
        return True  # no layer has been made yet


def _joined(
    before: Tensor | None, mask: Tensor | None, end: int, size: int | None
) -> Tensor | None:
    """The mask of all columns, from that of the earlier ones and that of this call."""
    if (before is None and mask is None) or size is None:
        return None
    like = mask if mask is not None else before
    assert like is not None
    rows = len(like)
    parts = (before, end), (mask, size)
    return torch.cat(
        [like.new_ones(rows, n) if part is None else part.to(like) for part, n in parts], dim=1
    )


def _reference(past: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(past)
    except TypeError:  # a list
        return lambda: past
