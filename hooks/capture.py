"""capture: read activations, attention and gradients of chosen sites while a model runs.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)).eval()
>>> with capture(model, "blocks.*.hook_resid_post") as acts:
...     out = model(torch.tensor([[1, 2, 3]]))
>>> acts["blocks.1.hook_resid_post"].shape
torch.Size([1, 3, 8])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hooks.activations import Activations, SiteNeverFired, select
from hooks.anatomy import Place, locate
from hooks.attention import AttentionWatch, forbid
from hooks.sites import Site, SiteLike


class _Stop(Exception):
    """Ends a forward early; raised by the last site's hook and swallowed by the capture that asked for it."""

    def __init__(self, owner: object) -> None:
        super().__init__("the forward was stopped by capture(stop=True)")
        self.owner = owner


class capture:  # noqa: N801  (a context manager, used as a verb)
    """Capture sites of a model while it runs: ``with capture(model, *sites) as acts: model(**batch)``.

    Plain PyTorch hooks attach on entry and are gone on every exit. The model's outputs are the same, bit for bit, with
    and without them (only ``grad=True`` on an attention site under sdpa recomputes that layer, equal to rounding).

    Args:
        model: any `nn.Module`.
        sites: names, globs, selections, pairs or ``module:`` paths; see `hooks.sites`.
        grad: also record d loss / d site at each backward inside the block, in ``acts.grad``. Works for frozen models.
        stop: end the forward as soon as every site has fired; the body of the with block ends there too.
        dtype: what to store values in; None keeps the model's.
        device: where to store values; None leaves them where they are.
        clone: copy values, for models that change tensors in place (which is noticed when a value is read).

    Raises:
        UnknownSite: before any hook attaches, with the nearest names that exist.
        SiteNeverFired: on exit, if a forward ran and a site did not fire.
        RuntimeError: ``grad=True`` where autograd is off.
    """

    def __init__(
        self,
        model: nn.Module,
        *sites: SiteLike,
        grad: bool = False,
        stop: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        clone: bool = False,
    ) -> None:
        if not sites:
            raise ValueError("capture needs at least one site, such as 'blocks.*.hook_resid_post'")
        self.model = model
        self._places = locate(model, *sites)
        self._grad = grad
        self._stop = stop
        self._to: dict[str, Any] = {"dtype": dtype, "device": device}
        self._clone = clone
        self._counts: dict[str, int] = defaultdict(int)
        self._shapes: dict[str, torch.Size] = {}
        self._ran = False
        self._waiting: set[Site] = set(self._places)
        self._stack = ExitStack()
        self.acts = Activations(list(self._places))

    def __enter__(self) -> Activations:
        hooked: dict[tuple[str, str], list[tuple[Site, Place]]] = defaultdict(list)
        for site, place in self._places.items():
            end = "attention" if place.end in ("scores", "pattern") else place.end
            hooked[place.path, end].append((site, place))
        with ExitStack() as stack:  # a failure half-way removes what is already attached
            for path in {place.like for place in self._places.values() if place.like}:
                module = self.model.get_submodule(path)
                self._keep(stack, module.register_forward_pre_hook(self._note_shape(path), with_kwargs=True))
            for (path, end), wanted in hooked.items():
                module = self.model.get_submodule(path)
                if end == "input":
                    self._keep(stack, module.register_forward_pre_hook(self._reader(path, wanted), with_kwargs=True))
                elif end == "output":
                    self._keep(stack, module.register_forward_hook(self._writer(path, wanted)))
                else:
                    self._watch(stack, module, path, wanted)
            self._keep(stack, self.model.register_forward_pre_hook(self._note_forward))
            self._stack = stack.pop_all()
        return self.acts

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._stack.close()
        self.acts._raw.clear()
        if isinstance(error, _Stop) and error.owner is self:
            return True
        if kind is None and self._ran:
            silent = [str(site) for site in self._places if site not in self.acts._values]
            if silent:
                raise SiteNeverFired(
                    f"{len(silent)} of {len(self._places)} sites did not fire in this forward: {', '.join(silent[:3])}; "
                    "the modules did not run, or the layer's attention is neither sdpa nor a softmax"
                )
        return False

    @staticmethod
    def _keep(stack: ExitStack, handle: RemovableHandle) -> None:
        stack.callback(handle.remove)

    def _note_forward(self, *_: Any) -> None:
        self._ran = True

    def _note_shape(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            self._shapes[path] = given.shape[:2]

        return hook

    def _reader(self, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = self._next_call(path, ":input", wanted)
            given: Any = args if args else kwargs
            changed = given
            for site, place in wanted:
                if place.call == call:
                    changed = self._take(site, place, changed)
            self._finish()
            if changed is given:
                return None
            return (changed, kwargs) if args else (args, changed)

        return hook

    def _writer(self, path: str, wanted: list[tuple[Site, Place]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            call = self._next_call(path, ":output", wanted)
            changed = output
            for site, place in wanted:
                if place.call == call:
                    changed = self._take(site, place, changed)
            self._finish()
            return None if changed is output else changed

        return hook

    def _watch(self, stack: ExitStack, module: nn.Module, path: str, wanted: list[tuple[Site, Place]]) -> None:
        """Watch one attention module: the mode is on from its pre-hook to its post-hook, whatever happens between."""
        active: list[AttentionWatch] = []

        def before(*_: Any) -> None:
            call = self._next_call(path, ":attention", wanted)
            here = [(site, place) for site, place in wanted if place.call == call]
            if not here:
                return

            def seen(scores: Tensor, pattern: Tensor) -> None:
                for site, place in here:
                    self._record(site, place, forbid(scores) if place.end == "scores" else pattern, live=scores)

            watch = AttentionWatch(seen, in_graph=self._grad)
            watch.__enter__()
            active.append(watch)

        def after(*_: Any) -> None:
            if active:
                active.pop().__exit__(None, None, None)
            self._finish()

        self._keep(stack, module.register_forward_pre_hook(before))
        self._keep(stack, module.register_forward_hook(after, always_call=True))

    def _next_call(self, path: str, end: str, wanted: list[tuple[Site, Place]]) -> int:
        self._ran = True
        key = path + end
        call = self._counts[key] % wanted[0][1].calls
        self._counts[key] += 1
        return call

    def _take(self, site: Site, place: Place, container: Any) -> Any:
        """Record one tensor of a module's input or output; returns the container, rebuilt if the graph starts here."""
        raw, put = _pick(container, place, site)
        if self._grad and torch.is_grad_enabled() and not raw.requires_grad and raw.is_floating_point():
            raw = raw.detach().requires_grad_()
            container = put(raw)
        self._record(site, place, raw)
        return container

    def _record(self, site: Site, place: Place, raw: Tensor, live: Tensor | None = None) -> None:
        shape = self._shapes.get(place.like) if place.like else None

        def view(tensor: Tensor) -> Tensor:
            whole = tensor if shape is None or tensor.ndim > 2 else tensor.unflatten(0, shape)
            return select(place.view(whole), site)

        if self._grad:
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                raise RuntimeError(f"{site}: grad=True needs autograd; leave torch.no_grad() / inference_mode()")
            target = live if place.end == "scores" and live is not None else raw
            self._keep(self._stack, target.register_hook(lambda g: self.acts.grad._add(site, self._store(view(g)))))
            self.acts._raw[site] = (target, view)
        value = view(raw).detach()
        stored = self._store(value, owned=site.select is not None)
        self.acts._add(site, stored, watched=stored.data_ptr() == value.data_ptr())
        self._waiting.discard(site)

    def _store(self, value: Tensor, owned: bool = False) -> Tensor:
        stored = value.detach().to(**{k: v for k, v in self._to.items() if v is not None})
        # A slice would keep its whole tensor alive, so selections are always copied.
        return stored.clone() if (self._clone or owned) and stored.data_ptr() == value.data_ptr() else stored

    def _finish(self) -> None:
        if self._stop and not self._waiting:
            self._waiting = set(self._places)
            raise _Stop(self)


def _pick(container: Any, place: Place, site: Site) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor a place means in a module's input or output, and how to put another in its place."""
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
            inner, put_inner = _pick(container[at], Place(place.path, place.end), site)
            return inner, lambda new: _swap(container, at, put_inner(new))
        return container[at], lambda new: _swap(container, at, new)
    raise SiteNeverFired(f"{site}: expected a tensor, a tuple or a mapping, got {type(container).__name__}")


def _swap(container: Any, at: int, new: Any) -> Any:
    items = [*container[:at], new, *container[at + 1 :]]
    return type(container)(*items) if hasattr(container, "_fields") else type(container)(items)
