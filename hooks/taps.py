"""Taps: plain PyTorch hooks at chosen places, the one mechanism under `capture` and `intervene`.

A tap is shown a site's raw tensor while the model runs and returns it, or another one to put in its place. Several taps
on one place see it in the order in which they were attached, each what the one before it left.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from .activations import SiteNeverFired
from .anatomy import Place
from .attention import watch_attention
from .experts import given_to, touched
from .sites import Site


@runtime_checkable
class Tap(Protocol):
    """What is done at a place."""

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Called with the raw tensor of every site that is reached; returns it, or what replaces it.

        Args:
            raw: the module's own tensor (``place.view`` reads the site off it); scores or pattern, ``batch head query
                key``, where ``place.end`` says so.
            shape: ``(batch, pos)`` where the module runs on ``(batch pos)`` rows, else None.
        """
        ...

    def after(self) -> None:
        """Called when a module's sites have all been touched."""
        ...


class Taps:
    """The hooks of one tap on one model, and the count of the calls of modules that several layers share."""

    def __init__(self, model: nn.Module, places: Mapping[Site, Place], in_graph: bool = False) -> None:
        self.model, self.places, self.in_graph = model, places, in_graph
        self.ran = False
        self._thread, self._elsewhere = threading.get_ident(), False
        self.start = 0  # position of this forward's first token: what a KV cache holds already
        self.mask: Tensor | None = None  # this forward's attention mask
        self._over = False  # whether the forward that these two are of has ended
        self._counts: dict[str, int] = defaultdict(int)
        self._shapes: dict[str, torch.Size] = {}

    def attach(self, tap: Tap) -> ExitStack:
        """Attach every hook, or none if one fails; closing what is returned removes them.

        The tap is known to the hooks alone: when they are gone nothing keeps it, and what it holds, alive. It is shown
        forwards of the thread that attaches it: others may run the same model at the same time.
        """
        self._thread = threading.get_ident()
        hooked: dict[tuple[str, str], list[tuple[Site, Place]]] = defaultdict(list)
        for site, place in self.places.items():
            end = "attention" if place.end in ("scores", "pattern") else place.end
            hooked[place.path, end].append((site, place))
        with ExitStack() as stack:  # a failure half-way removes what is already attached
            for path in {place.like for place in self.places.values() if place.like}:
                hook = self._note_shape(path)
                self._keep(stack, self._module(path).register_forward_pre_hook(hook, with_kwargs=True))
            for (path, end), wanted in hooked.items():
                module = self._module(path)
                if end == "input":
                    self._keep(
                        stack, module.register_forward_pre_hook(self._reader(tap, path, wanted), with_kwargs=True)
                    )
                elif end == "neurons":
                    self._keep(stack, module.register_forward_hook(self._experts(tap, wanted), with_kwargs=True))
                elif end == "output":
                    self._keep(stack, module.register_forward_hook(self._writer(tap, path, wanted)))
                else:
                    self._watch(tap, stack, module, path, wanted)
            self._keep(stack, self.model.register_forward_pre_hook(self._note_forward, with_kwargs=True))
            self._keep(stack, self.model.register_forward_hook(self._note_end, always_call=True))
            return stack.pop_all()

    def _module(self, path: str) -> nn.Module:
        return self.model.get_submodule(path)

    @staticmethod
    def _keep(stack: ExitStack, handle: Any) -> None:
        stack.callback(handle.remove)

    def require(self, silent: Sequence[Site]) -> None:
        """Raise `SiteNeverFired` where forwards ran in other threads and none in this one, or left these sites out."""
        if self._elsewhere and not self.ran:
            raise SiteNeverFired(
                "the model ran in another thread than the one that entered the block, whose forwards are its own: enter the "
                "block in the thread that runs the model"
            )
        if self.ran and silent:
            raise SiteNeverFired(
                f"{len(silent)} of {len(self.places)} sites did not fire in this forward: {', '.join(map(str, silent[:3]))}; "
                "the modules did not run, or the layer's attention is neither sdpa nor a softmax"
            )

    def _mine(self) -> bool:
        """Whether this call belongs to the thread that attached; one that autograd repeats belongs to whoever began it."""
        if threading.get_ident() == self._thread or _is_repeated():
            return True
        self._elsewhere = True
        return False

    def _note_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._mine():
            return
        self.ran, self._over = True, False
        past, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        held = getattr(past, "get_seq_length", None)
        self.start = int(held()) if held is not None else 0
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def _note_end(self, *_: Any) -> None:
        self._over = self._over or self._mine()

    def _note_shape(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._mine():
                return
            given = args[0] if args else kwargs["hidden_states"]
            self._shapes[path] = given.shape[:2]

        return hook

    def _reader(self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._mine():
                return None
            given: Any = args if args else kwargs
            changed = self._touch(tap, path + ":input", wanted, given)
            if changed is given:
                return None
            return (changed, kwargs) if args else (args, changed)

        return hook

    def _writer(self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self._mine():
                return None
            changed = self._touch(tap, path + ":output", wanted, output)
            return None if changed is output else changed

        return hook

    def _experts(self, tap: Tap, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self._mine():
                return None
            self._next_call(wanted[0][1].path + ":neurons", wanted)
            changed = output
            for site, place in wanted:
                shape = self._shapes.get(place.like) if place.like else None
                touch = functools.partial(tap.touch, site, place, shape=shape)
                changed = touched(module, given_to(args, kwargs), str(place.item), changed, touch, self.in_graph)
            tap.after()
            return None if changed is output else changed

        return hook

    def _touch(self, tap: Tap, key: str, wanted: list[tuple[Site, Place]], container: Any) -> Any:
        call = self._next_call(key, wanted)
        for site, place in wanted:
            if place.call == call:
                raw, put = pick(container, place, site)
                new = tap.touch(site, place, raw, self._shapes.get(place.like) if place.like else None)
                if new is not raw:
                    container = put(new)
        tap.after()
        return container

    def _watch(
        self, tap: Tap, stack: ExitStack, module: nn.Module, path: str, wanted: list[tuple[Site, Place]]
    ) -> None:
        def here() -> _Attention | None:
            call = self._next_call(path + ":attention", wanted)
            chosen = [(site, place) for site, place in wanted if place.call == call]
            return _Attention(tap, chosen, self.in_graph) if chosen else None

        watch_attention(stack, module, self._mine, here, tap.after)

    def _next_call(self, key: str, wanted: list[tuple[Site, Place]]) -> int:
        self.ran = True
        if self._over and not _is_repeated():  # a part of the model is called by itself
            self.start, self.mask = 0, None
        call = self._counts[key] % wanted[0][1].calls
        self._counts[key] += 1
        return call


def _is_repeated() -> bool:
    """Whether this is a call that autograd repeats, under gradient checkpointing, to go back through it."""
    return torch._C._current_graph_task_id() != -1


@dataclass
class _Attention:
    """A tap's sites inside one call of one attention module."""

    tap: Tap
    wanted: list[tuple[Site, Place]]
    in_graph: bool

    def scores(self, scores: Tensor) -> Tensor:
        return self._touch("scores", scores)

    def pattern(self, pattern: Tensor) -> Tensor:
        return self._touch("pattern", pattern)

    def _touch(self, end: str, raw: Tensor) -> Tensor:
        for site, place in self.wanted:
            if place.end == end:
                raw = self.tap.touch(site, place, raw, None)
        return raw


def as_site(place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
    """A site's tensor, read off the raw one."""
    return place.view(raw if shape is None or raw.ndim > 2 else raw.unflatten(0, shape))


def pick(container: Any, place: Place, site: Site) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor a place means in a module's input or output, and how to put another in its place.

    Raises:
        SiteNeverFired: there is no tensor where the place says.
    """
    if isinstance(container, Tensor):
        return container, lambda new: new
    if isinstance(container, Mapping):
        tensors = [k for k, v in container.items() if isinstance(v, Tensor)]
        keys = [place.item] if place.item is not None else sorted(tensors, key=lambda k: k != "hidden_states")
        if not keys or not isinstance(container.get(keys[0]), Tensor):
            raise SiteNeverFired(f"{site}: expected a tensor at {place.item!r}, got {sorted(map(str, container))}")
        key = keys[0]

        def put_key(new: Tensor) -> Any:
            return cast(Any, type(container))({**container, key: new})

        return container[key], put_key
    if isinstance(container, tuple | list):
        at = int(place.item) if place.item is not None else 0
        if at >= len(container):
            raise SiteNeverFired(f"{site}: expected an element {at}, got {len(container)} of them")
        if place.item is None and not isinstance(container[0], Tensor):
            raise SiteNeverFired(f"{site}: expected a tensor first, got {type(container[0]).__name__}; add [index]")
        if not isinstance(container[at], Tensor):
            inner, put_inner = pick(container[at], Place(place.path, place.end), site)
            return inner, lambda new: _swap(container, at, put_inner(new))
        return container[at], lambda new: _swap(container, at, new)
    raise SiteNeverFired(f"{site}: expected a tensor, a tuple or a mapping, got {type(container).__name__}")


def _swap(container: Any, at: int, new: Any) -> Any:
    items = [*container[:at], new, *container[at + 1 :]]
    return type(container)(*items) if hasattr(container, "_fields") else type(container)(items)
