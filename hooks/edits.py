"""Edits: what `intervene` puts in a site's place. Pure functions over tensors, made for heads, neurons and positions.

An edit is made once and used in any forward:

>>> import torch
>>> half = scale(0.5)
>>> half(torch.ones(1, 2, 3))[0, 0].tolist()
[0.5, 0.5, 0.5]
>>> zero().at(1)(torch.ones(1, 2, 3))[0, :, 0].tolist()
[1.0, 0.0]

Two ways to cut an edge of attention, which differ: `knockout` (before the softmax, on ``attn.hook_attn_scores``: the
other weights grow to sum to 1) and `zero_weights` (after it, on ``attn.hook_pattern``: they stay as they were).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerscope.errors import LayerscopeError

from .reference import Reference, select_part
from .sites import HEAD_AXIS, Site, SiteLike

Positions: TypeAlias = "int | Sequence[int] | slice | Bool[Tensor, 'batch pos']"


class EditError(LayerscopeError, ValueError):
    """An edit that does not fit the site or the text it is used on."""


@dataclass(frozen=True)
class Where:
    """Where an edit is at work.

    Args:
        site: the site, with its selection.
        start: position of the first token of this forward in the whole text; not 0 after a KV cache.
        mask: the forward's attention mask, where one was given.
        live: values of this forward that the edit asked for (`Edit.needs`).
    """

    site: Site = field(default_factory=lambda: Site(""))
    start: int = 0
    mask: Tensor | None = None
    live: Mapping[str, Tensor] = field(default_factory=dict)

    def query_axis(self, value: Tensor) -> int:
        """The axis of ``pos``, or of ``query`` inside attention."""
        return value.ndim - 2 if HEAD_AXIS.get(self.site.part) == 1 else min(1, value.ndim - 1)


@dataclass(frozen=True)
class Edit:
    """A value for a site: ``apply(value, where) -> value`` of the same shape.

    Args:
        name: what results and messages call it.
        apply: the function; it must not change what it is given.
        needs: sites of the same forward whose values it reads (they must come earlier).
    """

    name: str
    apply: Callable[[Tensor, Where], Tensor]
    needs: tuple[str, ...] = ()

    def __call__(self, value: Tensor, where: Where | None = None) -> Tensor:
        return self.apply(value, where or Where())

    def at(self, positions: Positions) -> Edit:
        """The edit at some positions only: an index, several, a slice, or a mask ``batch pos`` (a token predicate).

        Indices count from the start of the text, also in `generate`; negative ones from the end of the forward. Inside
        attention they are the queries.
        """

        def apply(value: Tensor, where: Where) -> Tensor:
            axis = where.query_axis(value)
            chosen = _chosen(positions, value.shape[axis], where)
            if chosen.ndim == 2 and chosen.shape[0] not in (1, value.shape[0]):
                raise EditError(f"{where.site}: expected a mask of {value.shape[0]} texts, got {chosen.shape[0]}")
            shape = [1] * value.ndim
            shape[axis] = value.shape[axis]
            if chosen.ndim == 2:
                shape[0] = chosen.shape[0]
            return torch.where(chosen.view(shape).to(value.device), self.apply(value, where), value)

        return replace(self, name=f"{self.name} at {_shown(positions)}", apply=apply)


def zero() -> Edit:
    """0 everywhere."""
    return Edit("zero", lambda value, where: torch.zeros_like(value))


def mean(reference: Reference, per: str = "all") -> Edit:
    """The site's mean over a reference set; padding was not counted there.

    Args:
        reference: see `hooks.reference.Reference`.
        per: ``all`` (one mean), ``position`` (one for each position), or ``template:NAME`` (the mean per position of
            the reference texts that carry this label).
    """
    return Edit(
        f"mean per {per}" if per != "all" else "mean", lambda value, where: reference.mean_for(value, where, per)
    )


def resample(reference: Reference, seed: int = 0, rows: Sequence[int] | None = None) -> Edit:
    """Each text's value becomes that of a text drawn from the reference set, position by position.

    The draw is a function of the seed alone, so that two sites of one forward draw the same texts. It knows nothing of the
    texts themselves: where the forward's own texts are in the reference set, `hooks.reference.partners` draws others.

    Args:
        rows: which reference text takes the place of each text; they are drawn if it is not given.
    """
    if rows is not None:
        return Edit("resample", lambda value, where: reference.rows_for(value, where, rows))
    return Edit("resample", lambda value, where: reference.draw_for(value, where, seed))


def patch(source: Mapping[str, Tensor] | Tensor) -> Edit:
    """The value that another run had: its `Activations` (the same site), or a tensor, position by position of the whole text.

    Raises:
        EditError: in the forward, if the two runs differ in shape.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        other = source if isinstance(source, Tensor) else source[str(where.site)]
        axis, size = where.query_axis(value), where.start + value.shape[where.query_axis(value)]
        if where.start and other.ndim == value.ndim and other.shape[axis] >= size:
            other = other.narrow(axis, where.start, value.shape[axis])
        if other.shape != value.shape:
            raise EditError(
                f"{where.site}: expected a patch of shape {list(value.shape)}, got {list(other.shape)}; "
                "both runs need texts of the same number and length"
            )
        return other.to(value)

    return Edit("patch", apply)


def constant(vector: Tensor) -> Edit:
    """The same value at every token of every text.

    Args:
        vector: of the whole site's width (``head d_head`` for ``attn.hook_z``); a selection takes its part of it.

    Raises:
        EditError: in the forward, for a vector of another width.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        part = select_part(vector, where.site)
        if part.shape != value.shape[2:]:
            raise EditError(
                f"{where.site}: expected a constant of shape {list(value.shape[2:])}, got {list(part.shape)}"
            )
        return part.to(value).expand_as(value)

    return Edit("constant", apply)


def turned(edit: Edit, seed: int = 0) -> Edit:
    """As far as ``edit`` moves each token, but in a random direction: value + Q (edited - value), Q a random rotation.

    One rotation for all tokens, so that what the displacements have in common, they keep: the null for "would any change
    of this size have done it?". Q is drawn from the Haar measure on the site's last axis.

    Raises:
        EditError: in the forward, for a single neuron, which has no direction.
    """

    def apply(value: Tensor, where: Where) -> Tensor:
        if value.ndim < 3:
            raise EditError(f"{where.site}: a single neuron has no direction to turn")
        return value + (edit(value, where) - value) @ _rotation(value.shape[-1], seed).to(value)

    return Edit(f"{edit.name}, turned", apply, edit.needs)


@functools.lru_cache(maxsize=32)
def _rotation(width: int, seed: int) -> Float[Tensor, "d d"]:
    """A rotation drawn from the Haar measure (Mezzadri 2007)."""
    normal = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q, R = torch.linalg.qr(normal)
    return Q * R.diagonal().sign()


def add(vector: Tensor, factor: float = 1.0) -> Edit:
    """Steering: x + factor * vector, broadcast over texts and positions.

    Args:
        vector: of the site's last axis, or of any shape that broadcasts to the site's.
        factor: in units of the vector's own length.
    """
    return Edit(f"add {factor:g} x vector", lambda value, where: value + factor * vector.to(value))


def scale(factor: float) -> Edit:
    """factor * x."""
    return Edit(f"scale by {factor:g}", lambda value, where: value * factor)


def erase(directions: Float[Tensor, "k d"], centre: Float[Tensor, " d"] | None = None) -> Edit:
    """Project out a subspace: x - Q Q' (x - centre), with Q an orthonormal basis of the directions' span.

    Args:
        directions: rows that span what is erased; they need be neither orthogonal nor independent.
        centre: what is left in the subspace; 0 by default.
    """
    rows = torch.atleast_2d(directions).double()
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    basis = basis[sizes > sizes.max().clamp(min=1e-300) * 1e-10]

    def apply(value: Tensor, where: Where) -> Tensor:
        if value.shape[-1] != basis.shape[1]:
            raise EditError(f"{where.site}: expected directions of width {value.shape[-1]}, got {basis.shape[1]}")
        Q = basis.to(value)
        moved = value if centre is None else value - centre.to(value)
        return value - (moved @ Q.T) @ Q

    return Edit(f"erase {len(basis)} directions", apply)


def copy(site: SiteLike) -> Edit:
    """Another site's value in the same forward: ``{"blocks.3.hook_resid_post": copy("blocks.3.hook_resid_pre")}`` skips layer 3.

    Raises:
        EditError: in the forward, if the other site comes later.
    """
    source = str(Site.parse(site))

    def apply(value: Tensor, where: Where) -> Tensor:
        if source not in where.live:
            raise EditError(f"{where.site}: {source} has no value yet: it must come earlier in the forward")
        return where.live[source].to(value)

    return Edit(f"copy of {source}", apply, needs=(source,))


def function(apply: Callable[[Tensor], Tensor], name: str = "function") -> Edit:
    """A function of the user's: site tensor in, tensor of the same shape out.

    Args:
        apply: must not change what it is given.
        name: what results and messages call it.
    """
    return Edit(name, lambda value, where: apply(value))


def knockout(queries: Positions | None = None, keys: Positions | None = None) -> Edit:
    """Cut attention edges before the softmax (Geva et al. 2023): the query's other weights renormalise.

    For ``attn.hook_attn_scores``. None means all. A query whose every key is cut attends nowhere.
    """
    return Edit(f"knockout of {_edges(queries, keys)}", _cut(queries, keys, -math.inf, "attn.hook_attn_scores"))


def zero_weights(queries: Positions | None = None, keys: Positions | None = None) -> Edit:
    """Set attention weights to 0 after the softmax: the query's other weights stay. For ``attn.hook_pattern``.

    Args:
        queries, keys: positions, as `Edit.at` takes them; None means all.
    """
    return Edit(f"zero weights of {_edges(queries, keys)}", _cut(queries, keys, 0.0, "attn.hook_pattern"))


def window(layer: int, width: int, n_layers: int) -> range:
    """The layers of a knockout window: max(0, l - w // 2) to min(L, l + ceil(w / 2)), the end not included (Geva et al. 2023).

    >>> list(window(0, 3, 12)), list(window(5, 3, 12))
    ([0, 1], [4, 5, 6])
    """
    return range(max(0, layer - width // 2), min(n_layers, layer + math.ceil(width / 2)))


def _cut(
    queries: Positions | None, keys: Positions | None, value: float, part: str
) -> Callable[[Tensor, Where], Tensor]:
    def apply(tensor: Tensor, where: Where) -> Tensor:
        if where.site.name and where.site.part != part:
            raise EditError(f"{where.site}: this edit is for {part}")
        n_query, n_key = tensor.shape[-2:]
        start = where.start if n_key > n_query else 0
        late = Where(where.site, start)
        rows = _chosen(slice(None) if queries is None else queries, n_query, late)
        columns = _chosen(slice(None) if keys is None else keys, n_key, Where(where.site))
        cut = rows[..., :, None] & columns[..., None, :]
        if cut.ndim == 3:  # a mask for each text: heads stand between it and the edges
            cut = cut.view(cut.shape[0], *[1] * (tensor.ndim - 3), n_query, n_key)
        return tensor.masked_fill(cut.to(tensor.device), value)

    return apply


def _chosen(positions: Positions, n: int, where: Where) -> Tensor:
    """A mask over ``pos`` or ``batch pos`` of this forward."""
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        part = positions[..., where.start : where.start + n]
        if part.shape[-1] == 0 and where.start:  # tokens that `generate` has added
            return torch.zeros(n, dtype=torch.bool)
        if part.shape[-1] != n:
            raise EditError(
                f"{where.site}: expected a mask over {where.start + n} positions, got {positions.shape[-1]}"
            )
        return part.cpu()
    at = torch.arange(where.start, where.start + n)
    if isinstance(positions, slice):
        return torch.isin(at, torch.arange(where.start + n)[positions])
    wanted = [positions] if isinstance(positions, int) else [int(p) for p in positions]
    for p in wanted:
        if not where.start and not -n <= p < n:
            raise EditError(f"{where.site}: expected positions below {n}, got {p}")
    return torch.isin(at, torch.tensor([p if p >= 0 else where.start + n + p for p in wanted]))


def _shown(positions: Positions | None) -> str:
    if positions is None or (isinstance(positions, slice) and positions == slice(None)):
        return "all"
    if isinstance(positions, Tensor):
        return f"{int(positions.sum())} tokens" if positions.dtype == torch.bool else str(positions.tolist())
    if isinstance(positions, slice):
        return f"{positions.start or ''}:{positions.stop or ''}"
    return str(positions)


def _edges(queries: Positions | None, keys: Positions | None) -> str:
    return f"queries {_shown(queries)}, keys {_shown(keys)}"
