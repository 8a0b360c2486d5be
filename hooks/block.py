"""What keeps a block's hooks to their block: to its model and not a copy, to its forwards and their
repeats.

Three things reach a hooked module besides the forward that a block is about. A deep copy carries
the hooks along: there they do nothing (`BlockHook`). A function that is shown a value may run the
model: that forward is plain (`Touching`). Gradient checkpointing runs parts of a forward again when
autograd comes back, perhaps after the block has ended: such a repeat gets the hooks that its
forward had, and no others (`Repeat`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils import checkpoint

from layerscope.errors import UseError


def _nothing(*_: Any, **__: Any) -> None:
    """A hook that neither looks nor changes."""


_nothing.reads_calls = True  # type: ignore[attr-defined]  # as a `ReadingHook` does


def _inert_hook() -> Callable[..., None]:
    return _nothing


class BlockHook:
    """A module hook of one block, called with so many values.

    A copied or pickled module gets one that does nothing.
    """

    __slots__ = ("_run", "_values")

    def __init__(self, run: Callable[..., Any], values: int = 3) -> None:
        self._run, self._values = run, values

    def __call__(self, *given: Any) -> Any:
        # PyTorch forgets the keyword arguments where another thread has removed the hook that this
        # one is calling.
        return self._run(*given) if len(given) == self._values else None

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _inert_hook, ()


class ReadingHook(BlockHook):
    """One that only reads how a module is called."""

    __slots__ = ()
    reads_calls = True


class _Touched(threading.local):
    """What this thread's hooks are to know of who called them.

    Attributes:
        models: those whose forwards wait for a function that was shown a value of theirs.
        layer: which layer a block that layers share is called for, where its own forward does not
            count the calls.
    """

    def __init__(self) -> None:
        self.models: list[nn.Module] = []
        self.layer: int | None = None


_touched = _Touched()


def depth() -> int:
    """How many forwards of this thread wait for a function that was shown a value."""
    return len(_touched.models)


class Touching:
    """While this lasts a function looks at a value of the model:
    hooks attached before it are shown no other forward.
    """

    __slots__ = ("_model",)

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        _touched.models.append(self._model)

    def __exit__(self, *_: object) -> None:
        _touched.models.pop()


def called_layer() -> int | None:
    """The layer that `as_layer` named last."""
    return _touched.layer


@contextmanager
def as_layer(layer: int) -> Iterator[None]:
    """While this lasts a block that layers share is called for this one."""
    before, _touched.layer = _touched.layer, layer
    try:
        yield
    finally:
        _touched.layer = before


def waits(model: nn.Module, since: int) -> bool:
    """Whether a forward of a model that shares modules with this one waits
    for a function since ``depth()`` was that.
    """
    return any(m is model or _share_modules(m, model) for m in _touched.models[since:])


def _share_modules(a: nn.Module, b: nn.Module) -> bool:
    return not {id(m) for m in a.modules()}.isdisjoint(id(m) for m in b.modules())


@runtime_checkable
class Repeated(Protocol):
    """Who wants its hooks on a repeat too; see `hooks.taps.Taps`."""

    order: int
    """Hooks on one module run in the order in which their blocks were entered."""

    def facts(self) -> Any:
        """What is to be known of the forward when a part of it runs again."""
        ...

    def repeated(self, facts: Any) -> AbstractContextManager[None]:
        """While this lasts the hooks are on, and know these facts."""
        ...


_REENTRANT = "run_function"
"""Where the reentrant kind of checkpointing keeps what it repeats."""


class Repeat:
    """What gradient checkpointing calls to run a part of a forward again,
    with the hooks that were on it.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._facts: dict[Repeated, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for hooked in sorted(self._facts, key=lambda hooked: hooked.order):
                stack.enter_context(hooked.repeated(self._facts[hooked]))
            return self._run(*args, **kwargs)

    @classmethod
    def note(cls, hooked: Repeated) -> bool:
        """Remember, in every checkpointed part that is running in this thread, that it is hooked.

        Returns whether one of them is reentrant: its repeat has a graph of its own, and only the
        part's arguments join it to the forward's.

        Raises:
            UseError: this PyTorch keeps what it will repeat in a place that is not known.
        """
        parts = _checkpointed_parts()
        for owner, name in parts:
            repeat = getattr(owner, name)
            if not isinstance(repeat, cls):
                repeat = cls(repeat)
                setattr(owner, name, repeat)
            if hooked not in repeat._facts:
                repeat._facts[hooked] = hooked.facts()
        return any(name == _REENTRANT for _, name in parts)


def may_be_checkpointed(began_with_grad: bool) -> bool:
    """Whether a module that is called now may be within a checkpointed part:
    a cheap test before `Repeat.note`.
    """
    if torch.is_grad_enabled():
        return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # pyright: ignore[reportAttributeAccessIssue]
    return began_with_grad  # the reentrant kind turns autograd off within the forward


def is_checkpointed() -> bool:
    """Whether what runs is within a checkpointed part."""
    return bool(_checkpointed_parts())


def is_backward() -> bool:
    """Whether autograd is running in this thread:
    a module that is called now is called for a gradient.
    """
    return torch._C._current_graph_task_id() != -1


def is_torch_repeat() -> bool:
    """Whether PyTorch's own checkpointing called what is running, to repeat it."""
    return any(name in ("unpack_hook", "backward") for name, _ in _checkpoint_frames())


def _checkpoint_frames() -> Iterator[tuple[str, Any]]:
    """The functions of `torch.utils.checkpoint` that are running, the innermost first."""
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            yield frame.f_code.co_name, frame


def _checkpointed_parts() -> list[tuple[Any, str]]:
    """For each checkpointed part that runs: what holds the function that will repeat it,
    and under which name.
    """
    parts: list[tuple[Any, str]] = []
    try:
        for name, frame in _checkpoint_frames():
            if name in ("unpack_hook", "backward"):
                break  # beyond it is who asked for the gradient
            if name == "forward":
                parts.append((frame.f_locals["ctx"], _REENTRANT))
            elif name == "checkpoint" and (part := frame.f_locals.get("gen")) is not None:
                parts.append((part.gi_frame.f_locals["new_frame"], "recompute_fn"))
    except (AttributeError, KeyError):
        raise UseError(
            f"PyTorch {torch.__version__} keeps checkpointed parts in a way that hooks "
            "cannot follow: turn gradient checkpointing off inside the block"
        ) from None
    return parts
