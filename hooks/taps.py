"""Taps: plain PyTorch hooks at chosen places, the one mechanism under `capture` and `intervene`.

A tap is shown a site's raw tensor while the model runs and returns it, or another one to put in its
place. Several taps on one place see it in the order in which they were attached, each what the one
before it left.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from layerscope.errors import UseError

from . import block
from .activations import SiteNeverFired
from .anatomy import Place
from .attention import watch_attention
from .attention_tap import AttentionTap
from .block import BlockHook, ReadingHook, Repeat, Touching
from .containers import CallArguments, pick
from .experts import given_to, touched
from .forwards import Forward, Forwards
from .recorders import put_last, recorders_of
from .recurrent import Recurrence, joined, mark, steps_of
from .refusals import child_of, modules_at
from .rows import ATTENTION_ENDS
from .sites import Site
from .tap import Tap
from .torch_modules import keep_padded


@dataclass(frozen=True)
class _Facts:
    """What a part of a forward that runs again needs to know of that forward."""

    tap: Tap
    forward: Forward
    live: Mapping[str, Tensor]
    counts: Mapping[str, int]
    shapes: Mapping[str, torch.Size]


_ORDER = itertools.count()


class Taps:
    """The hooks of one tap on one model, and the count of the calls of modules that several layers
    share.

    Args:
        of_blocks: whether the tap asks for positions also where a block is called by itself.

    Attributes:
        forwards: the model's calls, and the one that is running.
        live: values of this forward that edits read, by name.
        repeating: whether what runs is a part of a forward that checkpointing repeats.
        reentrant: whether it is a part that reentrant checkpointing will repeat.
        touching: is entered where a tap shows a value to a function, which may run the model.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Mapping[Site, Place],
        in_graph: bool = False,
        of_blocks: bool = True,
    ) -> None:
        self.model, self.places, self.in_graph = model, places, in_graph
        self.ran = False
        self.live: Mapping[str, Tensor] = {}
        self.repeating = self.reentrant = False
        self.order = 0
        self._tap: Tap | None = None  # None where no hook is on
        self._thread, self._elsewhere = threading.get_ident(), False
        self._depth = 0
        self.touching = Touching(model)
        self._modules: Mapping[str, nn.Module] = {}
        self._with_grad = True  # whether autograd may have been on when this forward began
        paths = (place.path for place in places.values())
        self.forwards = Forwards(model, paths, of_blocks)
        self._counts: dict[str, int] = defaultdict(int)
        self._shapes: dict[str, torch.Size] = {}

    def attach(self, tap: Tap) -> ExitStack:
        """Attach every hook, or none if one fails; closing what is returned removes them.

        The tap is known to the hooks alone: when they are gone nothing keeps it, and what it holds,
        alive, but a graph that repeats parts of its forward. It is shown forwards of the thread
        that attaches it: others may run the same model at the same time.
        """
        # What a forward must match to be shown: the thread, and no function that waits for it.
        self._thread, self._depth, self.order = threading.get_ident(), block.depth(), next(_ORDER)
        return self._hook(tap)

    def _hook(self, tap: Tap) -> ExitStack:
        hooked, likes = self._hooked()
        modules = modules_at(self.model, (*(path for path, _ in hooked), *likes))
        self._modules = modules
        handles: list[RemovableHandle] = []
        with ExitStack() as stack:  # a failure half-way removes what is already attached
            stack.callback(self._release, handles)
            self._tap = tap
            recorders = []
            for path in {path for path, _ in hooked}:
                module = modules[path]
                keys, behind = recorders_of(module)
                if keys:
                    recorders.append((module, keys))
                    stack.callback(put_last, module, behind)
            # The order is part of the contract: a call is read before its sites are touched, and
            # ends behind them.
            for path, hook in self.forwards.openers(self):
                handles.append(_before(modules[path], ReadingHook(hook)))
            for path in self._nesting(modules):
                keep_padded(stack, modules[path], self._takes_call)
            for path in likes:
                handles.append(_before(modules[path], BlockHook(self._shape_noted(path))))
            for (path, end), wanted in hooked.items():
                if end == "attention":
                    self._watch(tap, stack, modules[path], path, wanted)
                else:
                    handles.append(self._hook_end(tap, modules[path], path, end, wanted))
            for path, hook in self.forwards.closers(self):
                closer = ReadingHook(hook)
                handles.append(modules[path].register_forward_hook(closer, always_call=True))
            for module, keys in recorders:
                put_last(module, keys)
            return stack.pop_all()

    def _hook_end(
        self, tap: Tap, module: nn.Module, path: str, end: str, wanted: list[tuple[Site, Place]]
    ) -> RemovableHandle:
        """The hook of a tap at one end of a module."""
        match end:
            case "input":
                return _before(module, BlockHook(self._reader(tap, path, wanted)))
            case "neurons":
                hook = BlockHook(self._experts(tap, path, wanted), values=4)
                return module.register_forward_hook(hook, with_kwargs=True)
            case "steps":
                hook = BlockHook(self._recurrence(tap, path, wanted), values=4)
                return module.register_forward_hook(hook, with_kwargs=True)
            case _:
                hook = BlockHook(self._writer(tap, path, wanted))
                return module.register_forward_hook(hook)

    def _hooked(self) -> tuple[dict[tuple[str, str], list[tuple[Site, Place]]], set[str]]:
        """The sites of each module's end, and the modules whose input tells batch and pos."""
        hooked: dict[tuple[str, str], list[tuple[Site, Place]]] = {}
        likes = set[str]()
        for site, place in self.places.items():
            end = "attention" if place.end in ATTENTION_ENDS else place.end
            hooked.setdefault((place.path, end), []).append((site, place))
            if place.like is not None:
                likes.add(place.like)
        return hooked, likes

    def _nesting(self, modules: Mapping[str, nn.Module]) -> Iterator[str]:
        """Modules that would give those that are hooked within them a nested tensor."""
        for path, module in modules.items():
            if not isinstance(module, nn.TransformerEncoder):
                continue
            inside = f"{path}.layers." if path else "layers."
            if any(place.path.startswith(inside) for place in self.places.values()):
                yield path

    def _release(self, handles: list[RemovableHandle]) -> None:
        self._tap = None
        for handle in handles:
            handle.remove()

    def facts(self) -> _Facts:
        """What is to be known of this forward when a part of it runs again."""
        assert self._tap is not None
        counts, shapes = dict(self._counts), dict(self._shapes)
        return _Facts(self._tap, self.forwards.now, self.live, counts, shapes)

    def _recall(self, facts: _Facts) -> None:
        self.live = facts.live
        self._counts = defaultdict(int, facts.counts)
        self._shapes = dict(facts.shapes)

    @contextmanager
    def repeated(self, facts: _Facts) -> Iterator[None]:
        """While this lasts a part of the forward that these facts are of runs again,
        after the block's end too.
        """
        with ExitStack() as stack:
            if self._tap is None:
                stack.enter_context(self._hook(facts.tap))
            before, was_repeating = self.facts(), self.repeating
            self._recall(facts)
            self.repeating = True
            try:
                with self.forwards.recalled(facts.forward):
                    yield
            finally:
                self._recall(before)
                self.repeating = was_repeating

    def require(self, silent: Sequence[Site]) -> None:
        """Raise `SiteNeverFired` where forwards ran in other threads and none in this one,
        left these sites out, or may have run on other modules than those that were hooked.
        """
        if self._elsewhere and not self.ran:
            raise SiteNeverFired(
                "the model ran in another thread than the one that entered the block, "
                "whose forwards are its own: enter the block in the thread "
                "that runs the model"
            )
        if self.ran and silent:
            raise SiteNeverFired(
                f"{len(silent)} of {len(self.places)} sites did not fire in this forward: "
                f"{', '.join(map(str, silent[:3]))}; the modules did not run, "
                "or the layer's attention is neither sdpa nor a softmax"
            )
        replaced = self._replaced() if self.ran else []
        if replaced:
            raise SiteNeverFired(
                f"modules of the model were replaced in this block: {', '.join(replaced[:3])}; "
                "later forward passes have no hooks there: enter another block for them"
            )

    def _replaced(self) -> list[str]:
        """Where other modules stand now than those that were hooked."""
        replaced = []
        for path, module in self._modules.items():
            above, _, name = path.rpartition(".")
            if path and child_of(self._modules[above], name) is not module:
                replaced.append(path)
        return replaced

    def _takes_call(self) -> bool:
        """Whether this call of a module is shown to the tap;
        a checkpointed part is told to show its repeats too.
        """
        if not self.is_shown():
            return False
        # What is called outside a forward that was read may stand in any.
        began_with_grad = self._with_grad or not self.forwards.is_running
        self.reentrant = block.may_be_checkpointed(began_with_grad) and Repeat.note(self)
        return True

    def is_shown(self) -> bool:
        """Whether what runs is of the thread that attached the tap, and no forward within a touch.

        A call that autograd repeats belongs to whoever was hooked when it first ran.
        """
        if self._tap is None:
            return False
        if block.is_backward():
            # Checkpointing runs a forward again within backward, in a thread of autograd's own.
            if not self.repeating and block.is_torch_repeat():
                return False
        elif threading.get_ident() != self._thread:
            self._elsewhere = True
            return False
        return block.depth() <= self._depth or not block.waits(self.model, self._depth)

    def begin(self, is_whole: bool) -> None:
        """A forward begins: of the model or its body, or of one block that is called by itself."""
        if torch.compiler.is_exporting():
            raise UseError(
                "hooks look at values, which torch.export does not have: "
                "export the model outside the block"
            )
        self._with_grad = torch.is_grad_enabled() or block.is_checkpointed()
        if not is_whole:
            return
        self.ran = True
        # A new forward counts the calls of shared blocks from the first layer on.
        self._counts.clear()
        self.live = {}
        if self._tap is not None:
            self._tap.begin()

    def _shape_noted(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._takes_call():
                return
            given = args[0] if args else kwargs["hidden_states"]
            self._shapes[path] = given.shape[:2]

        return hook

    def _reader(self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        key = path + ":input"

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._takes_call():
                return None
            given = CallArguments(module, args, kwargs)
            changed = self._touch(tap, key, wanted, given)
            return None if changed is given else (changed.args, changed.kwargs)

        return hook

    def _writer(self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        key = path + ":output"

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self._takes_call():
                return None
            changed = self._touch(tap, key, wanted, output)
            return None if changed is output else changed

        return hook

    def _experts(self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            if not self._takes_call():
                return None
            call = self._next_call(path + ":neurons", wanted)
            stream = given_to(args, kwargs)
            changed = output
            for site, place in wanted:
                if place.call != call:
                    continue
                touch = functools.partial(tap.touch, site, place, shape=self._shape_of(place))
                changed = touched(module, stream, str(place.item), changed, touch, self.in_graph)
            tap.after()
            return None if changed is output else changed

        return hook

    def _recurrence(
        self, tap: Tap, path: str, wanted: list[tuple[Site, Place]]
    ) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self._takes_call():
                return None
            # Calls of the steps are counted apart from those of the module itself.
            self._next_call(path + ":steps", wanted)
            run, before = Recurrence(module, args, kwargs), steps_of(output)
            if tap.by_step:
                steps = [*before, functools.partial(self._step, tap, wanted, run.lengths)]
                changed = mark(run.output(steps), steps)
            else:
                values, touched_values = run.values(before), {}
                for site, place in wanted:
                    part = str(place.item)
                    raw = touched_values.get(part, values[part])
                    touched_values[part] = tap.touch(site, place, raw, None)
                steps = [*before, joined(touched_values)]
                changed = mark(run.output(steps), steps) if self.in_graph else output
            tap.after()
            return None if changed is output else changed

        return hook

    def _step(
        self,
        tap: Tap,
        wanted: list[tuple[Site, Place]],
        lengths: Tensor | None,
        part: str,
        at: int,
        of: int,
        value: Tensor,
    ) -> Tensor:
        """One step of a recurrence shown to a tap; what comes back goes on to the next step."""
        sites = [(site, place) for site, place in wanted if place.item == part]
        if not sites:
            return value
        forward = self.forwards.now
        mask = forward.mask
        if lengths is not None:
            # Texts of a packed sequence end at different steps.
            mask = torch.arange(of)[None] < lengths[:, None]
        row = value[:, None]
        with self.forwards.recalled(replace(forward, step=(at, of), mask=mask)):
            for site, place in sites:
                row = tap.touch(site, place, row, None)
        return row[:, 0]

    def _shape_of(self, place: Place) -> torch.Size | None:
        """``(batch, pos)`` of a module that runs on ``(batch pos)`` rows."""
        return self._shapes.get(place.like) if place.like else None

    def _touch(self, tap: Tap, key: str, wanted: list[tuple[Site, Place]], container: Any) -> Any:
        call = self._next_call(key, wanted)
        for site, place in wanted:
            if place.call != call:
                continue
            raw, put = pick(container, place, site)
            new = tap.touch(site, place, raw, self._shape_of(place))
            if new is not raw:
                container = put(new)
        tap.after()
        return container

    def _watch(
        self,
        tap: Tap,
        stack: ExitStack,
        module: nn.Module,
        path: str,
        wanted: list[tuple[Site, Place]],
    ) -> None:
        def at_this_call() -> AttentionTap | None:
            call = self._next_call(path + ":attention", wanted)
            chosen = [(site, place) for site, place in wanted if place.call == call]
            return AttentionTap(tap, chosen, self.in_graph) if chosen else None

        watch_attention(stack, module, self._takes_call, at_this_call, tap.after)

    def _next_call(self, key: str, wanted: list[tuple[Site, Place]]) -> int:
        self.ran = True
        calls = wanted[0][1].calls
        if calls == 1:
            return 0
        layer = block.called_layer()
        # A block that all layers share is called once a layer; a resumed forward says which.
        call = self._counts[key] % calls if layer is None else layer
        self._counts[key] += 1
        return call


def _before(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    return module.register_forward_pre_hook(hook, with_kwargs=True)
