"""Captured activations and gradients by site, under any spelling of the site.

Reading a value (`acts["blocks.3.hook_resid_post"]`) checks that it has not changed since capture.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError, UnknownName, UseError

from .sites import Index, Site, SiteLike, Span, UnknownSite, expand


class SiteNeverFired(LayerscopeError, RuntimeError):
    """A forward ran, but the module of a requested site did not."""


class Gradients(Mapping[str, Tensor]):
    """Gradients by site, summed over the backward passes since the last `clear`, like ``.grad`` of
    a parameter.

    Forward passes over texts of equal length are summed too; ``all(site)`` gives one gradient per
    forward pass.
    """

    def __init__(self, known: list[Site], values: Mapping[Site, list[Tensor]]) -> None:
        self._known, self._forwards = known, values
        self._values: dict[Site, dict[int, Tensor]] = {}
        self._paused = False

    def __getitem__(self, spec: SiteLike) -> Tensor:
        site = _one(spec, self._known)
        if site not in self._values:
            raise UnknownName(
                f"no gradient at {site}: run loss.backward() inside the with block, with grad=True"
            )
        total = _summed(
            site, list(self._values[site].values()), f"take acts.grad.all({str(spec)!r})"
        )
        return _part(total, site, spec)

    def __iter__(self) -> Iterator[str]:
        return (str(site) for site in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all(self, spec: SiteLike) -> list[Tensor]:
        """One gradient per forward pass, in the order of ``acts.all``;
        0 if no loss depends on that forward pass.
        """
        site = _one(spec, self._known)
        gradients = self._values.get(site, {})
        forwards = self._forwards.get(site, [])
        return [
            _part(gradients.get(i, torch.zeros_like(v)), site, spec) for i, v in enumerate(forwards)
        ]

    def clear(self) -> None:
        """Reset the gradients; call it between two losses."""
        self._values.clear()

    def _add(self, site: Site, forward: int, value: Tensor) -> None:
        if self._paused:
            return
        gradients = self._values.setdefault(site, {})
        gradients[forward] = gradients[forward] + value if forward in gradients else value


class Activations(Mapping[str, Tensor]):
    """Captured activations: a mapping from site to tensor, with gradients in ``grad``.

    ``acts[site]`` takes any spelling of a site (name, selection, pair). For a site that fired in
    several forward passes (as in `generate`), ``acts.all(site)`` gives one tensor per pass.
    """

    def __init__(self, sites: list[Site]) -> None:
        self._sites = sites
        self._values: dict[Site, list[Tensor]] = defaultdict(list)
        self._marks: dict[Site, list[int | Tensor | None]] = defaultdict(list)
        self._raw: dict[Site, list[tuple[Tensor, Callable[[Tensor], Tensor]]]] = defaultdict(list)
        self.grad = Gradients(sites, self._values)

    def __getitem__(self, spec: SiteLike) -> Tensor:
        values = self.all(spec)
        if len(values) != 1:
            raise UnknownName(
                f"{spec} fired in {len(values)} forwards: take acts.all({str(spec)!r}), "
                "one tensor for each"
            )
        return values[0]

    def __iter__(self) -> Iterator[str]:
        return (str(site) for site in self._sites if site in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        """A table of names, shapes and data types."""
        rows = [
            (str(site), *_shape_of(self._values[site]))
            for site in self._sites
            if site in self._values
        ]
        if not rows:
            return f"<Activations of {len(self._sites)} sites: no forward has run yet>"
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([f"<Activations of {len(rows)} sites>", *lines])

    def _repr_html_(self) -> str:
        """The same table for a notebook's cell."""
        rows = [
            f"<tr><td><code>{site}</code></td>{_cells(self._values[site])}</tr>"
            for site in self._sites
            if site in self._values
        ]
        head = "<thead><tr><th>site</th><th>shape</th><th>dtype</th></tr></thead>"
        caption = f"<caption>Activations of {len(rows)} sites</caption>"
        return f"<table>{caption}{head}<tbody>{''.join(rows)}</tbody></table>"

    def _ipython_key_completions_(self) -> list[str]:
        """The sites that tab completes in ``acts["``."""
        return list(self)

    def __contains__(self, spec: object) -> bool:
        try:
            return _one(spec, self._sites) in self._values  # type: ignore[arg-type]
        except LookupError:
            return False

    def all(self, spec: SiteLike) -> list[Tensor]:
        """One tensor per forward pass, in order; raises `SiteNeverFired` if there is none."""
        site = _one(spec, self._sites)
        if site not in self._values:
            raise SiteNeverFired(f"{site} has no value: no forward has run inside this capture yet")
        for value, mark in zip(self._values[site], self._marks[site], strict=True):
            if mark is not None and not _same_mark(mark, _mark(value)):
                raise UseError(
                    f"{site} was modified in place after it was captured: use "
                    "capture(..., clone=True)"
                )
        return [_part(value, site, spec) for value in self._values[site]]

    def _add(self, site: Site, value: Tensor, watched: bool) -> None:
        """One more forward's value;
        a watched one shares the model's memory and must not change before it is read.
        """
        self._values[site].append(value)
        self._marks[site].append(_mark(value) if watched else None)

    def _clear(self) -> None:
        """Forget the values: they are somewhere else."""
        self._values.clear()
        self._marks.clear()

    def gradients(self, loss: Tensor, retain_graph: bool = True) -> dict[str, Tensor]:
        """d loss / d site for one of several losses; ``.grad`` of parameters is not changed.

        The loss may come from any forward pass in the block. Gradients of several forward passes
        are summed if their texts have equal length. All graphs are kept until the block ends.

        Args:
            loss: a scalar. Call once for each loss, inside the with block.

        Raises:
            UseError: no graph is kept, the loss has no graph, or it depends on forward passes over
                texts of different lengths.
        """
        if not self._raw:
            raise UseError(
                "no graph is held: use capture(..., grad=True), and call inside the with block"
            )
        if not loss.requires_grad:
            raise UseError(
                "the loss has no graph: make it inside the with block, from the model's output"
            )
        asked = [(site, i) for site, forwards in self._raw.items() for i in range(len(forwards))]
        raws = [self._raw[site][i][0] for site, i in asked]
        self.grad._paused = True  # autograd.grad runs the tensors' hooks too
        try:
            gradients = torch.autograd.grad(
                loss, raws, retain_graph=retain_graph, allow_unused=True
            )
        finally:
            self.grad._paused = False
        reached = {
            at: gradient
            for at, gradient in zip(asked, gradients, strict=True)
            if gradient is not None
        }
        latest = max((i for _, i in reached), default=-1)
        return {str(site): self._gradient(site, reached, latest) for site in self._raw}

    def _gradient(
        self, site: Site, reached: Mapping[tuple[Site, int], Tensor], latest: int
    ) -> Tensor:
        forwards = self._raw[site]
        parts = [
            view(reached[site, i]) for i, (_, view) in enumerate(forwards) if (site, i) in reached
        ]
        if parts:
            return _summed(site, parts, "give the loss of one forward")
        # a site that this loss does not depend on
        raw, view = forwards[min(latest, len(forwards) - 1)]
        return view(torch.zeros_like(raw))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: values that were not changed, and no graph."""
        for site in self._values:
            self.all(site)
        return {**self.__dict__, "_raw": defaultdict(list)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for site, marks in self._marks.items():  # a copied tensor counts its changes anew
            values = self._values[site]
            self._marks[site] = [
                None if m is None else _mark(v) for m, v in zip(marks, values, strict=True)
            ]


def _cells(values: list[Tensor]) -> str:
    """Shape and type as cells of an HTML table."""
    return "".join(f"<td>{cell}</td>" for cell in _shape_of(values))


def _shape_of(values: list[Tensor]) -> tuple[str, str]:
    """Shape and type of a site's values, and how many forwards where there are several."""
    first = values[0]
    shape = f"[{', '.join(map(str, first.shape))}]"
    several = f" x {len(values)} forwards" if len(values) > 1 else ""
    return shape + several, str(first.dtype).removeprefix("torch.")


def _part(value: Tensor, site: Site, spec: SiteLike) -> Tensor:
    """What is asked for of a captured site's value: all of it,
    or a selection of a site that was captured whole.
    """
    asked = Site.parse(spec)
    return value if site.select == asked.select else select(value, asked)


def _summed(site: Site, parts: list[Tensor], instead: str) -> Tensor:
    if len({part.shape for part in parts}) > 1:
        raise UseError(
            f"{site} has gradients of {len(parts)} forwards of different shapes: {instead}"
        )
    return functools.reduce(torch.add, parts)


def _one(spec: SiteLike, known: list[Site]) -> Site:
    """The captured site that a spelling means;
    a selection may be taken from a site captured whole.
    """
    wanted = Site.parse(spec)
    names = list(dict.fromkeys(site.name for site in known))
    name = (
        wanted.name
        if wanted.name.startswith("module:")
        else expand([Site(wanted.name)], names, captured=True)[0].name
    )
    exact = Site(name, wanted.select)
    if exact in known:
        return exact
    if Site(name) in known:
        return Site(name)
    raise UnknownSite(f"{exact} was not captured; captured: {', '.join(str(s) for s in known[:5])}")


def _mark(value: Tensor) -> int | Tensor:
    """What tells later whether a tensor was changed in place: its version, or, in inference mode,
    some of its values.
    """
    return (
        value._version
        if not value.is_inference()
        else (value[-1, -1] if value.ndim > 1 else value).clone()
    )


def _same_mark(before: int | Tensor, after: int | Tensor) -> bool:
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return torch.equal(before.nan_to_num(), after.nan_to_num())
    return before is after or (
        isinstance(before, int) and isinstance(after, int) and before == after
    )


def selected(value: Tensor, site: Site) -> tuple[Any, ...]:
    """The index of a site's selection in the site's whole tensor;
    raises `UnknownSite` if it is out of range.
    """
    if site.select is None:
        return (...,)
    axis, index, lowest, highest = _index(site.select, site.axis, value.ndim)
    size = value.shape[axis]
    if lowest < -size or highest >= size:
        wrong = lowest if lowest < -size else highest
        raise UnknownSite(f"{site}: expected an index below {size}, got {wrong}")
    return index


@functools.lru_cache(maxsize=10_000)
def _index(chosen: Index, axis: int, ndim: int) -> tuple[int, tuple[Any, ...], int, int]:
    """Axis and index of a selection in a tensor of so many axes, and its lowest and highest number.

    It is asked for at each edited site of each forward.
    """
    # Sites with heads have four axes; one that torch.vmap maps over stands before them.
    axis = (axis if axis < 0 else axis - 4) % ndim
    if isinstance(chosen, Span):
        return axis, _along(axis, ndim, chosen.as_slice), -1, -1
    if isinstance(chosen, tuple):
        return axis, _along(axis, ndim, list(chosen)), min(chosen), max(chosen)
    return axis, _along(axis, ndim, chosen), chosen, chosen


def _along(axis: int, ndim: int, chosen: Any) -> tuple[Any, ...]:
    """The index of a selection along one axis, from the side where fewer axes stand:
    PyTorch looks at every entry of an index at every call.
    """
    before, behind = axis, ndim - 1 - axis
    if behind + 1 < before:
        return (..., chosen, *(slice(None),) * behind)
    return (*(slice(None),) * before, chosen)


def select(value: Tensor, site: Site) -> Tensor:
    """The part of a site's tensor that its selection names;
    raises `UnknownSite` for an index that is out of range.
    """
    return value if site.select is None else value[selected(value, site)]
