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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hooks.anatomy import Place, locate
from hooks.attention import AttentionWatch, forbid
from hooks.sites import Site, SiteLike, Span, UnknownSite, expand


class SiteNeverFired(RuntimeError):
    """A site was asked for, a forward ran, and the site's module did not."""


class _Stop(Exception):
    """Ends a forward early; raised by the last site's hook and swallowed by the capture that asked for it."""

    def __init__(self, owner: object) -> None:
        super().__init__("the forward was stopped by capture(stop=True)")
        self.owner = owner


class Gradients(Mapping[str, Tensor]):
    """Gradients by site, summed over the backward passes since the last `clear`, as ``.grad`` of a parameter is."""

    def __init__(self, known: list[Site]) -> None:
        self._known = known
        self._values: dict[Site, Tensor] = {}
        self._paused = False

    def __getitem__(self, spec: SiteLike) -> Tensor:
        site = _one(spec, self._known)
        if site not in self._values:
            raise KeyError(f"no gradient at {site}: run loss.backward() inside the with block, with grad=True")
        return self._values[site]

    def __iter__(self) -> Iterator[str]:
        return (str(site) for site in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Forget what was summed: call it between two losses."""
        self._values.clear()

    def _add(self, site: Site, value: Tensor) -> None:
        if self._paused:
            return
        held = self._values.get(site)
        self._values[site] = value if held is None else held + value


class Activations(Mapping[str, Tensor]):
    """What a capture holds: a mapping from site to tensor, with gradients beside it.

    ``acts[site]`` takes every spelling of a site (name, selection, pair). A site that fired in several forwards (as in
    `generate`) has one tensor a forward: ``acts.all(site)``.
    """

    def __init__(self, sites: list[Site], grad: bool) -> None:
        self._sites = sites
        self._values: dict[Site, list[Tensor]] = defaultdict(list)
        self._marks: dict[Site, list[int | Tensor | None]] = defaultdict(list)
        self._raw: dict[Site, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self._wants_grad = grad
        self.grad = Gradients(sites)

    def __getitem__(self, spec: SiteLike) -> Tensor:
        values = self.all(spec)
        if len(values) != 1:
            raise LookupError(
                f"{spec} fired in {len(values)} forwards: take acts.all({str(spec)!r}), one tensor for each"
            )
        return values[0]

    def __iter__(self) -> Iterator[str]:
        return (str(site) for site in self._sites if site in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, spec: object) -> bool:
        try:
            return _one(spec, self._sites) in self._values  # type: ignore[arg-type]
        except LookupError:
            return False

    def all(self, spec: SiteLike) -> list[Tensor]:
        """One tensor for each forward that ran, in order; raises `SiteNeverFired` if there is none."""
        asked = Site.parse(spec)
        site = _one(spec, self._sites)
        if site not in self._values:
            raise SiteNeverFired(f"{site} has no value: no forward has run inside this capture yet")
        for value, mark in zip(self._values[site], self._marks[site], strict=True):
            if mark is not None and not _same_mark(mark, _mark(value)):
                raise RuntimeError(f"{site} was modified in place after it was captured: use capture(..., clone=True)")
        values = self._values[site]
        return values if site.select == asked.select else [_select(v, asked) for v in values]

    def gradients(self, loss: Tensor, retain_graph: bool = True) -> dict[str, Tensor]:
        """d loss / d site for one of several losses, leaving parameters' ``.grad`` alone.

        Args:
            loss: a scalar. Call once for each loss, inside the with block.
        """
        if not self._raw:
            raise RuntimeError("no graph is held: use capture(..., grad=True), and call inside the with block")
        names = list(self._raw)
        raws = [self._raw[site][0] for site in names]
        self.grad._paused = True  # autograd.grad runs the tensors' hooks too
        try:
            found = torch.autograd.grad(loss, raws, retain_graph=retain_graph, allow_unused=True)
        finally:
            self.grad._paused = False
        return {
            str(site): self._raw[site][1](raw if raw is not None else torch.zeros_like(self._raw[site][0]))
            for site, raw in zip(names, found, strict=True)
        }


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
        self.acts = Activations(list(self._places), grad)

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
            return _select(place.view(whole), site)

        if self._grad:
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                raise RuntimeError(f"{site}: grad=True needs autograd; leave torch.no_grad() / inference_mode()")
            target = live if place.end == "scores" and live is not None else raw
            self._keep(self._stack, target.register_hook(lambda g: self.acts.grad._add(site, self._store(view(g)))))
            self.acts._raw[site] = (target, view)
        value = view(raw).detach()
        self.acts._values[site].append(stored := self._store(value, owned=site.select is not None))
        shared = stored.data_ptr() == value.data_ptr()
        self.acts._marks[site].append(_mark(stored) if shared else None)
        self._waiting.discard(site)

    def _store(self, value: Tensor, owned: bool = False) -> Tensor:
        stored = value.detach().to(**{k: v for k, v in self._to.items() if v is not None})
        # A slice would keep its whole tensor alive, so selections are always copied.
        return stored.clone() if (self._clone or owned) and stored.data_ptr() == value.data_ptr() else stored

    def _finish(self) -> None:
        if self._stop and not self._waiting:
            self._waiting = set(self._places)
            raise _Stop(self)


def _one(spec: SiteLike, known: list[Site]) -> Site:
    """The captured site that a spelling means; a selection may be taken from a site captured whole."""
    wanted = Site.parse(spec)
    names = list(dict.fromkeys(site.name for site in known))
    name = wanted.name if wanted.name.startswith("module:") else expand([Site(wanted.name)], names)[0].name
    exact = Site(name, wanted.select)
    if exact in known:
        return exact
    if Site(name) in known:
        return Site(name)
    raise UnknownSite(f"{exact} was not captured; captured: {', '.join(str(s) for s in known[:5])}")


def _mark(value: Tensor) -> int | Tensor:
    """What tells later whether a tensor was changed in place: its version, or, in inference mode, some of its values."""
    return value._version if not value.is_inference() else (value[-1, -1] if value.ndim > 1 else value).clone()


def _same_mark(before: int | Tensor, after: int | Tensor) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return torch.equal(before.nan_to_num(), after.nan_to_num())
    return before is after or (isinstance(before, int) and isinstance(after, int) and before == after)


def _select(value: Tensor, site: Site) -> Tensor:
    if site.select is None:
        return value
    axis = site.axis % value.ndim
    chosen = site.select
    index = slice(*chosen) if isinstance(chosen, Span) else list(chosen) if isinstance(chosen, tuple) else chosen
    try:
        return value[(slice(None),) * axis + (index,)]
    except IndexError:
        raise UnknownSite(f"{site}: expected an index below {value.shape[axis]}, got {site.select}") from None


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
