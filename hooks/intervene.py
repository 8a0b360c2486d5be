"""intervene: change what sites hold while a model runs.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> from layerscope import edits
>>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)).eval()
>>> with intervene(model, {"blocks.0.attn.hook_z[1]": edits.zero(), ("mlp_out", 1): edits.scale(2.0)}):
...     out = model(torch.tensor([[1, 2, 3]]))
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from layerscope.errors import InputError

from .activations import select, selected
from .anatomy import Place, anatomy, locate
from .edits import Edit, EditError, Where, function
from .sites import Site, SiteLike, UnknownSite
from .taps import Taps, as_site

EditLike: TypeAlias = "Edit | Callable[[Tensor], Tensor]"


class NothingChanged(UserWarning):
    """An edit ran and every value it gave was the value that was there."""


class intervene:  # noqa: N801  (a context manager, used as a verb)
    """Edit sites of a model while it runs: ``with intervene(model, {site: edit}): model(**batch)``.

    Plain PyTorch hooks attach on entry and are gone on every exit; nothing of the model is replaced, and forwards of other
    threads are not edited. Gradients flow through edits; `generate` with a KV cache sees them at every step. Interventions
    nest: on one site they apply in the order in which they were entered. A `capture` entered inside sees edited values, one
    outside what the model gave.

    A ``hook_resid_mid`` is edited by what attention adds to it, because the block reads the sum twice.

    Args:
        model: any `nn.Module`.
        edits: site, glob, selection, pair or ``module:`` path -> an `Edit` (see `hooks.edits`), or a function of the
            site's tensor. A glob gives each of its sites the edit.

    Raises:
        UnknownSite: before any hook attaches; or in the forward, for a head or neuron that is not there.
        EditError: for a site that can only be read; in the forward, for a value that does not fit.
        SiteNeverFired: on exit, if a forward ran and a site did not fire.

    Warns:
        NothingChanged: on exit, naming the sites whose values all stayed as they were.
    """

    def __init__(self, model: nn.Module, edits: Mapping[SiteLike, EditLike]) -> None:
        if not edits:
            raise InputError("intervene needs at least one site and its edit")
        self._edits: dict[Site, list[Edit]] = {}
        needed: dict[str, dict[Site, Place]] = {}
        places: dict[Site, Place] = {}
        for spec, given in edits.items():
            edit = given if isinstance(given, Edit) else function(given)
            for site, place in locate(model, spec).items():
                if place.read_only:
                    raise EditError(f"{site} can only be read: {place.read_only}")
                if site.part == "hook_resid_mid":
                    site, place, edit = _through_attn_out(model, site, edit)
                places[site] = place
                self._edits.setdefault(site, []).append(edit)
                needed |= {name: locate(model, name) for name in edit.needs}
        self._live = _Live(model, needed)
        self._taps = Taps(model, places)
        self._fired: dict[Site, Tensor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> intervene:
        with ExitStack() as stack:
            self._live.attach(stack)
            stack.enter_context(self._taps.attach(self))
            self._live.attach(stack, behind=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        self._live.values.clear()
        if kind is not None:
            return
        self._taps.require([site for site in self._edits if site not in self._fired])
        same = [str(site) for site, changed in self._fired.items() if not bool(changed)]
        if same:
            warnings.warn(f"edits changed nothing at {', '.join(same[:5])}", NothingChanged, stacklevel=2)

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Put the edited value in a site's place."""
        whole = as_site(place, raw, shape)
        old = select(whole, site)
        where = Where(site, self._taps.start, self._taps.mask, self._live.values)
        new = old
        for edit in self._edits[site]:
            new = edit(new, where)
            if new.shape != old.shape:
                shapes = f"expected a value of shape {list(old.shape)}, got {list(new.shape)}"
                raise EditError(f"{site}: {shapes} from {edit.name}")
        changed = (new.detach() != old.detach()).any()
        self._fired[site] = self._fired[site] | changed if site in self._fired else changed
        return _put(place, raw, shape, site, new.to(raw.dtype))

    def after(self) -> None:
        """Nothing to do."""


class _Live:
    """Values of this forward that edits read, kept until the next one, under the names that the edits use."""

    def __init__(self, model: nn.Module, needed: Mapping[str, Mapping[Site, Place]]) -> None:
        places = {site: place for found in needed.values() for site, place in found.items()}
        self._before, self._behind = Taps(model, places), Taps(model, places)
        self._names = {name: set(found) for name, found in needed.items()}
        self.values: dict[str, Tensor] = {}

    def attach(self, stack: ExitStack, behind: bool = False) -> None:
        """Before the edits and once more behind them: a site that is edited itself is read as it goes on."""
        taps = self._behind if behind else self._before
        if taps.places:
            stack.enter_context(taps.attach(self))

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        value = select(as_site(place, raw, shape), site)
        self.values |= {name: value for name, sites in self._names.items() if site in sites}
        return raw

    def after(self) -> None:
        pass


def _through_attn_out(model: nn.Module, site: Site, edit: Edit) -> tuple[Site, Place, Edit]:
    """resid_mid = resid_pre + attn_out, edited in attn_out: blocks read that sum for the MLP and again to add to it."""
    block = site.name.removesuffix(".hook_resid_mid")
    places, pre = anatomy(model).places, f"{block}.hook_resid_pre"
    added = (f"{block}.hook_attn_out", f"{block}.mixer.hook_out")
    out = next((name for name in added if name in places), None)
    if out is None:
        raise UnknownSite(f"{site} cannot be edited: this model's {added[0]} is not known, which it is edited by")
    place = places[out]

    def apply(value: Tensor, where: Where) -> Tensor:
        middle = where.live[pre] + value
        moved = middle.clone()
        moved[selected(middle, site)] = edit(select(middle, site), replace(where, site=site))
        return value + (moved - middle)

    return Site(out), place, Edit(edit.name, apply, (*edit.needs, pre))


def _put(place: Place, raw: Tensor, shape: torch.Size | None, site: Site, new: Tensor) -> Tensor:
    """``raw`` with a site's tensor exchanged for ``new``; ``raw`` itself stays as it is."""
    fresh = raw.clone()
    whole = as_site(place, fresh, shape)
    if whole.untyped_storage().data_ptr() == fresh.untyped_storage().data_ptr():
        whole[selected(whole, site)] = new
        return fresh
    # The view copies columns: find out which, and put them back.
    whole[selected(whole, site)] = new
    columns = place.view(torch.arange(raw.shape[-1], device=raw.device).double().expand(1, 1, -1)).flatten()
    return raw.index_copy(-1, columns.long(), whole.reshape(*raw.shape[:-1], -1))
