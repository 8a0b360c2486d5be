"""Edits: new values for `intervene`, as pure functions of tensors, with a choice of heads, neurons
and positions.

An edit is made once and can be used in any forward pass:

>>> import torch
>>> half = scale(0.5)
>>> half(torch.ones(1, 2, 3))[0, 0].tolist()
[0.5, 0.5, 0.5]
>>> zero().at(1)(torch.ones(1, 2, 3))[0, :, 0].tolist()
[1.0, 0.0]

There are two different ways to cut an attention edge: `knockout` (before the softmax, on
``attn.hook_attn_scores``: the other weights grow to sum to 1) and `zero_weights` (after it, on
``attn.hook_pattern``: the other weights do not change).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.arguments import checked

from .edit import Edit
from .knockouts import knockout, window, zero_weights
from .positions import EditError, Where
from .reference import Reference, select_part
from .sites import Site, SiteLike, UnknownSite

__all__ = [
    "Edit",
    "HookPoint",
    "add",
    "constant",
    "copy",
    "erase",
    "function",
    "knockout",
    "mean",
    "patch",
    "resample",
    "scale",
    "turned",
    "window",
    "zero",
    "zero_weights",
]


def zero() -> Edit:
    """0 everywhere."""
    return Edit(
        "zero",
        lambda value, where: torch.zeros_like(value),
        given="value",
        asks_where=False,
        is_fresh=True,
    )


@checked
def mean(reference: Reference, per: str = "all") -> Edit:
    """The mean of the site over a reference set, without padding.

    Args:
        reference: see `hooks.reference.Reference`.
        per: ``all`` (one mean), ``position`` (one for each position), or ``template:NAME`` (the
            mean per position of the reference texts that carry this label).
    """
    name = f"mean per {per}" if per != "all" else "mean"
    return Edit(name, lambda value, where: reference.mean_for(value, where, per), given="value")


@checked
def resample(reference: Reference, seed: int = 0, rows: Sequence[int] | None = None) -> Edit:
    """Replace the value of each text by that of a random reference text, position by position.

    The draw depends only on the seed and the texts, so all sites of a forward pass use the same
    reference text. A text is never replaced by itself, and by a longer reference text with the
    same beginning only if there is no other; `hooks.reference.partners` also avoids related texts.

    Args:
        rows: index of the reference text for each text; drawn at random if not given.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        if rows is not None:
            return reference.rows_for(value, where, rows)
        return reference.draw_for(value, where, seed)

    return Edit("resample", apply, given="value")


@checked
def patch(source: Mapping[str, Tensor] | Tensor) -> Edit:
    """The value of another run: its `Activations` (at the same site), or a tensor with all
    positions of the text.

    Raises:
        EditError: in the forward pass, if the shapes of the two runs differ.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        other = source if isinstance(source, Tensor) else _source_of(source, where)
        return _aligned(other, value, where).to(value)

    return Edit("patch", apply, given="value")


def _source_of(source: Mapping[str, Tensor], where: Where) -> Tensor:
    try:
        return source[str(where.site)]
    except (KeyError, UnknownSite):
        raise EditError(
            f"{where.site}: the source of the patch has no value of this site"
        ) from None


def _aligned(other: Tensor, value: Tensor, where: Where) -> Tensor:
    """Another run's values at this forward's columns; where the edit is not used,
    whatever stands there.
    """
    axis = where.query_axis(value)
    start, size = where.first, value.shape[axis]
    end = start + size
    if where.chosen is None:
        where.seen.note(where, len(value), end, end - where.virtual)
    other = where.by_row(other, len(value))
    has_same_axes = other.ndim == value.ndim
    width = other.shape[axis] if has_same_axes else 0
    # The other run has no columns for what only a cache holds.
    lead = where.prefix
    last = end - 1
    if where.chosen is not None:
        last = start + int(where.chosen.any(0).nonzero().max())
    elif width > end - lead:
        # In generation the rest may come with later tokens; it is an error only if it never does.
        message = f"{where.site}: expected a patch of {end - lead} positions, got {width}"
        where.seen.wait(width - 1, message)
    covers = lead <= start and last - lead < width
    fits = has_same_axes and covers
    is_other_width = width + lead not in (end, *where.seen.ends)
    if fits and where.chosen is not None and is_other_width:
        # A narrower run had no padding on the left, if these texts have none.
        at, used = where.used(value)
        columns = torch.arange(start, end) - where.virtual
        fits = bool((~used | (at == columns)).all())
    if fits and (width != size or start):
        columns = (torch.arange(start, end) - lead).clamp(max=width - 1)
        other = other.index_select(axis, columns.to(other.device))
    if not fits or other.shape != value.shape:
        raise EditError(
            f"{where.site}: expected a patch of shape {list(value.shape)}, "
            f"got {list(other.shape)}; both runs need texts of the same number and length"
        )
    return other


@checked
def constant(vector: Tensor) -> Edit:
    """The same value at every token of every text.

    Args:
        vector: of the whole site's width (``head d_head`` for ``attn.hook_z``); a selection takes
            its part of it.

    Raises:
        EditError: in the forward, for a vector of another width.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        part = select_part(vector, where.site)
        # The first two axes are batch and pos: a constant is the same at all of them.
        if part.shape != value.shape[2:]:
            raise EditError(
                f"{where.site}: expected a constant of shape {list(value.shape[2:])}, "
                f"got {list(part.shape)}"
            )
        return part.to(value).expand_as(value)

    return Edit("constant", apply, given="value", asks_where=False)


@checked
def turned(edit: Edit, seed: int = 0) -> Edit:
    """A random change of the same size as ``edit`` at each token: value + Q (edited - value), with
    a random rotation Q.

    This is the null for "would any change of this size have the same effect?". All tokens share
    one rotation, so the relations between their displacements are kept. Q is drawn from the Haar
    measure on the last axis of the site.

    Raises:
        EditError: in the forward pass, for a single neuron, which has no direction.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        if value.ndim < 3:
            raise EditError(f"{where.site}: a single neuron has no direction to turn")
        displacement = edit(value, where) - value
        return value + displacement @ _rotation(value.shape[-1], seed).to(value)

    return Edit(f"{edit.name}, turned", apply, edit.needs, given="float32", is_fresh=True)


@functools.lru_cache(maxsize=32)
def _rotation(width: int, seed: int) -> Float[Tensor, "d d"]:
    """A rotation drawn from the Haar measure (Mezzadri 2007)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(width, width, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(normal)
    # The QR factors are unique only up to signs; a positive diagonal of R makes Q uniform.
    return Q * R.diagonal().sign()


@checked
def add(vector: Tensor, factor: float = 1.0) -> Edit:
    """Steering: x + factor * vector, broadcast over texts and positions.

    Args:
        vector: as wide as the last axis of the site, or of any shape that broadcasts to the site.
        factor: in units of the vector's length.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        try:
            return value + factor * vector.to(value)
        except RuntimeError:
            raise EditError(
                f"{where.site}: expected a vector that broadcasts to {list(value.shape)}, "
                f"got {list(vector.shape)}"
            ) from None

    name = f"add {factor:g} x vector"
    return Edit(name, apply, given="float32", asks_where=False, is_fresh=True)


@checked
def scale(factor: float) -> Edit:
    """factor * x."""
    return Edit(
        f"scale by {factor:g}",
        lambda value, where: value * factor,
        given="float32",
        asks_where=False,
        is_fresh=True,
    )


_TINY = 1e-300
_DEPENDENT = 1e-10
"""A direction whose singular value is this share of the largest depends on the others."""


@checked
def erase(directions: Float[Tensor, "k d"], centre: Float[Tensor, " d"] | None = None) -> Edit:
    """Project out a subspace: x - Q Q' (x - centre), with Q an orthonormal basis of the span of the
    directions.

    Args:
        directions: rows that span the erased subspace; they need not be orthogonal or independent.
        centre: the value that remains in the subspace; 0 by default.
    """
    rows = torch.atleast_2d(directions).double()
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    largest = sizes.max().clamp(min=_TINY)  # so that directions of 0 span nothing
    # Directions that depend on others span nothing of their own.
    basis = basis[sizes > largest * _DEPENDENT]

    def apply(value: Tensor, where: Where) -> Tensor:
        if value.shape[-1] != basis.shape[1]:
            raise EditError(
                f"{where.site}: expected directions of width {value.shape[-1]}, "
                f"got {basis.shape[1]}"
            )
        Q = basis.to(value)
        centred = value if centre is None else value - centre.to(value)
        return value - (centred @ Q.T) @ Q

    name = f"erase {len(basis)} directions"
    return Edit(name, apply, given="float32", asks_where=False, is_fresh=True)


def copy(site: SiteLike) -> Edit:
    """The value of another site in the same forward pass: ``{"blocks.3.hook_resid_post":
    copy("blocks.3.hook_resid_pre")}`` skips layer 3.

    Raises:
        EditError: in the forward pass, if the other site comes later.
    """
    source = str(Site.parse(site))

    def apply(value: Tensor, where: Where) -> Tensor:
        if source not in where.live:
            raise EditError(
                f"{where.site}: {source} has no value yet: it must come earlier in the forward"
            )
        return where.live[source].to(value)

    return Edit(f"copy of {source}", apply, needs=(source,), given="value")


@dataclass(frozen=True)
class HookPoint:
    """The second argument of hook functions written for TransformerLens.

    Attributes:
        name: name of the site.
        ctx: a dictionary for the function, empty at every call.
    """

    name: str
    ctx: dict[str, Any] = field(default_factory=dict)

    def layer(self) -> int:
        """The number of the block that the site is in.

        Raises:
            EditError: the site is in none.
        """
        layer = Site.parse(self.name).layer
        if layer is None:
            raise EditError(f"{self.name} is in no block")
        return layer


@checked
def function(apply: Callable[..., Tensor | None], name: str = "function") -> Edit:
    """A user-defined function: site tensor in, tensor of the same shape out.

    Args:
        apply: ``f(value)``, or ``f(value, hook)`` as in TransformerLens, with a `HookPoint`.
            It receives a copy, may change it in place, and returns a tensor or None.
        name: its name in results and messages.
    """
    parameters = _required(apply)

    def changed(value: Tensor, where: Where) -> Any:
        if "hook" in parameters:
            return apply(value, hook=HookPoint(where.site.name))
        if len(parameters) > 1:
            return apply(value, HookPoint(where.site.name))
        return apply(value)

    return Edit(name, changed, asks_where=False)


def _required(apply: Callable[..., Any]) -> list[str]:
    """The parameters that a function must be given by position or by name,
    and ``hook`` where it has a default.
    """
    try:
        parameters = inspect.signature(apply).parameters.values()
    except (TypeError, ValueError):  # a function of C does not tell
        return []
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = []
    for parameter in parameters:
        is_required = parameter.kind not in collected and parameter.default is parameter.empty
        if is_required or parameter.name == "hook":
            names.append(parameter.name)
    return names
