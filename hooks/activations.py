"""What a capture holds: activations and gradients by site, in every spelling of a site.

Read in place (`acts["blocks.3.hook_resid_post"]`), a value is checked for having been changed since it was captured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError, UnknownName, UseError

from .sites import Site, SiteLike, Span, UnknownSite, expand


class SiteNeverFired(LayerscopeError, RuntimeError):
    """A site was asked for, a forward ran, and the site's module did not."""


class Gradients(Mapping[str, Tensor]):
    """Gradients by site, summed over the backward passes since the last `clear`, as ``.grad`` of a parameter is."""

    def __init__(self, known: list[Site]) -> None:
        self._known = known
        self._values: dict[Site, Tensor] = {}
        self._paused = False

    def __getitem__(self, spec: SiteLike) -> Tensor:
        site = _one(spec, self._known)
        if site not in self._values:
            raise UnknownName(f"no gradient at {site}: run loss.backward() inside the with block, with grad=True")
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

    def __init__(self, sites: list[Site]) -> None:
        self._sites = sites
        self._values: dict[Site, list[Tensor]] = defaultdict(list)
        self._marks: dict[Site, list[int | Tensor | None]] = defaultdict(list)
        self._raw: dict[Site, tuple[Tensor, Callable[[Tensor], Tensor]]] = {}
        self.grad = Gradients(sites)

    def __getitem__(self, spec: SiteLike) -> Tensor:
        values = self.all(spec)
        if len(values) != 1:
            raise UnknownName(
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
                raise UseError(f"{site} was modified in place after it was captured: use capture(..., clone=True)")
        values = self._values[site]
        return values if site.select == asked.select else [select(v, asked) for v in values]

    def _add(self, site: Site, value: Tensor, watched: bool) -> None:
        """One more forward's value; a watched one shares the model's memory and must not change before it is read."""
        self._values[site].append(value)
        self._marks[site].append(_mark(value) if watched else None)

    def _clear(self) -> None:
        """Forget the values: they are somewhere else."""
        self._values.clear()
        self._marks.clear()

    def gradients(self, loss: Tensor, retain_graph: bool = True) -> dict[str, Tensor]:
        """d loss / d site for one of several losses, leaving parameters' ``.grad`` alone.

        Args:
            loss: a scalar. Call once for each loss, inside the with block.
        """
        if not self._raw:
            raise UseError("no graph is held: use capture(..., grad=True), and call inside the with block")
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


def selected(value: Tensor, site: Site) -> tuple[Any, ...]:
    """The index of a site's selection in the site's whole tensor; raises `UnknownSite` if it is out of range."""
    if site.select is None:
        return (...,)
    axis = site.axis % value.ndim
    chosen, size = site.select, value.shape[axis]
    for i in chosen if isinstance(chosen, tuple) and not isinstance(chosen, Span) else [chosen]:
        if isinstance(i, int) and not -size <= i < size:
            raise UnknownSite(f"{site}: expected an index below {size}, got {i}")
    index = slice(*chosen) if isinstance(chosen, Span) else list(chosen) if isinstance(chosen, tuple) else chosen
    return (slice(None),) * axis + (index,)


def select(value: Tensor, site: Site) -> Tensor:
    """The part of a site's tensor that its selection names; raises `UnknownSite` for an index that is out of range."""
    return value if site.select is None else value[selected(value, site)]
