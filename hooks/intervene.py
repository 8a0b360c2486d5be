"""intervene: change activations while a model runs.

>>> import torch
>>> from transformers import GPT2Config, GPT2Model
>>> from layerscope import edits
>>> size = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8)
>>> model = GPT2Model(GPT2Config(**size)).eval()
>>> changes = {"blocks.0.attn.hook_z[1]": edits.zero(), ("mlp_out", 1): edits.scale(2.0)}
>>> with intervene(model, changes):
...     out = model(torch.tensor([[1, 2, 3]]))
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from layerscope.arguments import checked
from layerscope.errors import InputError

from . import views
from .activations import select, selected
from .anatomy import Place, anatomy, locate, locate_each
from .attention import forbid
from .edits import Edit, EditError, function
from .positions import Seen, Where
from .sites import Site, SiteLike, UnknownSite
from .tap import Tap, as_site, read
from .taps import Taps
from .transforms import copy_for, is_wrapped, share_memory

EditLike: TypeAlias = Edit | Callable[..., Tensor | None]
_Asked: TypeAlias = tuple[Site, Place, Edit]


_ENTERED: dict[str, intervene] = {}
"""The interventions that models run under now, by a name for each entry."""


class NothingChanged(UserWarning):
    """An edit ran but changed no value."""


class intervene(Tap):  # noqa: N801  (a context manager, used as a verb)
    """Edit sites of a model while it runs: ``with intervene(model, {site: edit}): model(**batch)``.

    Ordinary PyTorch hooks are attached on entry and removed on every exit. No part of the model is
    replaced, and forward passes of other threads are not edited. Gradients flow through edits, and
    `generate` with a KV cache applies them at every step. Interventions can be nested: edits of one
    site apply in the order in which the blocks were entered, and within a block in the order of
    ``edits``. A `capture` entered inside reads edited values, one outside reads the model's own.

    ``hook_resid_mid`` is edited through the output of attention, because the block reads the sum
    twice; an edit of ``hook_attn_out`` in the same block is applied first.

    Args:
        model: any `nn.Module`.
        edits: site, glob, selection, pair or ``module:`` path -> an `Edit` (see `hooks.edits`), or
            a function of the site's tensor (see `edits.function`). A glob applies the edit to each
            of its sites. A function may run the model; that forward pass is not edited.

    Raises:
        UnknownSite: before any hook is attached; in the forward pass, for a head or neuron that
            does not exist.
        EditError: for a read-only site; in the forward pass, for a value that does not fit.
        SiteNeverFired: on exit, if a forward pass ran and a site did not fire.

    Warns:
        NothingChanged: on exit, naming the sites whose values did not change at all, or if no
            forward pass ran.
    """

    by_step = True

    @checked
    def __init__(self, model: nn.Module, edits: Mapping[SiteLike, EditLike]) -> None:
        if not edits:
            raise InputError("intervene: expected at least one site with its edit, got none")
        asked: list[_Asked] = []
        for spec, located in zip(edits, locate_each(model, list(edits)), strict=True):
            given = edits[spec]
            edit = given if isinstance(given, Edit) else function(given)
            for site, place in located.items():
                if place.read_only:
                    raise EditError(f"{site} can only be read: {place.read_only}")
                asked.append((site, place, edit))
        # What attention adds is edited before the sum with it, which is edited in the same place.
        asked.sort(key=lambda one: one[0].part == "hook_resid_mid")
        self._prepare(model, asked)

    def _prepare(self, model: nn.Module, asked: list[_Asked]) -> None:
        self._edits: dict[Site, list[Edit]] = {}
        self._summed: dict[Site, str] = {}
        needed: dict[str, dict[Site, Place]] = {}
        places: dict[Site, Place] = {}
        latest: dict[str, Site] = {}
        later: list[_Asked] = []
        for site, place, edit in asked:
            original = site, place, edit
            if site.part == "hook_resid_mid":
                # The block reads the sum twice: what can be edited is what attention adds to it.
                block = site.name.removesuffix(".hook_resid_mid")
                site, place, edit = _through_attn_out(model, site, edit, block)
                self._summed[site] = f"{block}.hook_resid_pre"
            # Where another selection of a site stands between two edits of it, the second waits for
            # both.
            is_later = bool(later) and any(one[0].name == site.name for one in later)
            if is_later or (site in places and latest[site.name] != site):
                later.append(original)
                continue
            places[site], latest[site.name] = place, site
            self._edits.setdefault(site, []).append(edit)
            for name in edit.needs:
                if name not in needed:
                    needed[name] = locate(model, name)
        self._later: intervene | None = None
        if later:
            self._later = intervene.__new__(intervene)
            self._later._prepare(model, later)
        given = [edit for of_site in self._edits.values() for edit in of_site]
        asks_where = any(edit.asks_where or edit.needs for edit in given)
        self._taps = Taps(model, places, of_blocks=asks_where)
        self._live = _Live(model, needed, self._taps)
        self._changed: dict[Site, Tensor | bool] = {}
        self._seen = Seen()
        self._stack = ExitStack()

    def __enter__(self) -> intervene:
        entry = uuid.uuid4().hex
        with ExitStack() as stack:
            stack.callback(_ENTERED.pop, entry, None)
            _ENTERED[entry] = self
            self._live.attach(stack)
            stack.enter_context(self._taps.attach(self))
            self._live.attach(stack, behind=True)
            if self._later is not None:
                stack.enter_context(self._later)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # of edits that come later too
        self._taps.live = {}
        if kind is not None:
            return
        self._taps.require([site for site in self._edits if site not in self._changed])
        self._seen.require()
        if not self._taps.ran:
            warnings.warn(
                "the edits changed nothing: the model did not run in this block, or only in code "
                "that was compiled before it",
                NothingChanged,
                stacklevel=2,
            )
        same = [str(site) for site, changed in self._changed.items() if not bool(changed)]
        if same:
            warnings.warn(
                f"edits changed nothing at {', '.join(same[:5])}", NothingChanged, stacklevel=2
            )

    def begin(self) -> None:
        """Stop comparing where an earlier forward, which has ended by now, was changed."""
        for site, changed in self._changed.items():
            self._changed[site] = True if bool(changed) else changed

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        """Put the edited value in a site's place."""
        # The index of a part of the raw tensor itself serves twice: to read it and to write it.
        part = selected(raw, site) if _is_part(site, place, shape) else None
        old = read(site, place, raw, shape) if part is None else raw[part]
        # Edits see -inf where the model's mask hides, however the model writes it.
        old = forbid(old) if place.end == "scores" else old
        where = Where.of(self._taps.forwards.now, site, self._taps.live, self._seen)
        new = old
        for edit in self._edits[site]:
            if edit.needs and self._taps.reentrant:
                raise EditError(
                    f"{site}: {edit.name} reads another site, and reentrant checkpointing "
                    "loses the gradient between the two: checkpoint with "
                    "use_reentrant=False"
                )
            # Several edits in float32 are rounded once, behind the last of them.
            if edit.given != "float32" and new.dtype != old.dtype:
                new = new.to(old.dtype)
            with self._taps.touching:
                new = edit.unrounded(new, where)
            if new.shape != old.shape:
                shapes = f"expected a value of shape {list(old.shape)}, got {list(new.shape)}"
                raise EditError(f"{site}: {shapes} from {edit.name}")
        # A resid_mid is exact in the stream's own type, which under autocast is wider than what
        # attention gives.
        kind = old.dtype
        if self._summed and site in self._summed:
            kind = self._taps.live[self._summed[site]].dtype
        if new.dtype != kind or new.device != old.device:
            if new.is_complex():
                raise EditError(f"{site}: expected real values from an edit, got {new.dtype}")
            new = new.to(old.device, kind)
        if self._changed.get(site) is not True:
            self._compare(site, old, new)
        if new is old:
            return raw
        if part is None:
            is_fresh = all(edit.is_fresh for edit in self._edits[site])
            return _put(place, raw, shape, site, new, is_fresh)
        fresh = copy_for(raw, new)
        fresh[part] = new
        return fresh

    def _compare(self, site: Site, old: Tensor, new: Tensor) -> None:
        """Note whether an edit changed anything; called until that is known."""
        known = self._changed.get(site, False)
        if is_wrapped(old) or is_wrapped(new):  # within torch.func no value may be asked for
            self._changed[site] = True
        elif old.device.type == "cpu":
            self._changed[site] = not torch.equal(new, old)
        else:
            self._changed[site] = (new.detach() != old.detach()).any() | known


def edits_on(model: nn.Module) -> dict[str, list[str]]:
    """The edits that a model runs under now: sites and edits of each intervention,
    by a name of its entry.
    """
    edits_by_entry = {}
    parts = set(model.modules())
    for entry, entered in _ENTERED.items():
        other = entered._taps.model
        if other in parts or model in set(other.modules()):
            edits_by_entry[entry] = [
                f"{site} {edit.name}"
                for site, of_site in entered._edits.items()
                for edit in of_site
            ]
    return edits_by_entry


class _Live(Tap):
    """Values of this forward that edits read, under the names that the edits use."""

    def __init__(
        self, model: nn.Module, needed: Mapping[str, Mapping[Site, Place]], edited: Taps
    ) -> None:
        places = {site: place for of_name in needed.values() for site, place in of_name.items()}
        self._taps = [Taps(model, places), Taps(model, places)] if places else []
        self._names = {name: set(of_name) for name, of_name in needed.items()}
        self._edited = edited

    def attach(self, stack: ExitStack, behind: bool = False) -> None:
        """Before the edits and once more behind them:
        a site that is edited itself is read as it goes on.
        """
        if self._taps:
            stack.enter_context(self._taps[behind].attach(self))

    def touch(self, site: Site, place: Place, raw: Tensor, shape: torch.Size | None) -> Tensor:
        # the model may go on to change its own in place
        value = read(site, place, raw, shape).clone()
        named = {name: value for name, sites in self._names.items() if site in sites}
        self._edited.live = {**self._edited.live, **named}
        return raw


def _through_attn_out(
    model: nn.Module, site: Site, edit: Edit, block: str
) -> tuple[Site, Place, Edit]:
    """resid_mid = resid_pre + attn_out, edited in attn_out:
    blocks read that sum for the MLP and again to add to it.
    """
    places, pre = anatomy(model).places, f"{block}.hook_resid_pre"
    added = (f"{block}.hook_attn_out", f"{block}.mixer.hook_out")
    out = next((name for name in added if name in places), None)
    if out is None:
        raise UnknownSite(
            f"{site} cannot be edited: this model's {added[0]} is not known, which it is edited by"
        )
    place = locate(model, out)[Site(out)]

    def apply(value: Tensor, where: Where) -> Tensor:
        before = where.live[pre]
        middle = select(before + value, site)
        as_edited = middle if edit.given == "float32" else middle.to(before.dtype)
        moved = edit.unrounded(as_edited, replace(where, site=site))
        new = copy_for(value, moved)
        at = selected(value, site)
        # What is not moved keeps its bits; what is, is its distance from the stream that it will be
        # added to.
        new[at] = torch.where(moved == as_edited, value[at], moved.to(value.dtype) - before[at])
        return new

    needs = (*edit.needs, pre)
    return Site(out), place, Edit(edit.name, apply, needs, given="float32", is_fresh=True)


def _is_part(site: Site, place: Place, shape: torch.Size | None) -> bool:
    """Whether a site is a selection of the raw tensor, as it is."""
    return (
        site.select is not None
        and shape is None
        and place.local_selection is None
        and place.view is views.identity
    )


def _put(
    place: Place,
    raw: Tensor,
    shape: torch.Size | None,
    site: Site,
    new: Tensor,
    is_fresh: bool,
) -> Tensor:
    """``raw`` with a site's tensor exchanged for ``new``; both stay as they are."""
    if site.select is None and shape is None and place.view is views.identity:
        # what an edit gave may be held elsewhere, and the model may change its own in place
        return new if is_fresh else new.clone()
    fresh = copy_for(raw, new)
    whole = as_site(place, fresh, shape)
    whole[selected(whole, place.within(site))] = new
    if whole is fresh or share_memory(whole, fresh):
        return fresh
    # The view copies columns: find out which, and put them back.
    columns = place.view(
        torch.arange(raw.shape[-1], device=raw.device).double().expand(1, 1, -1)
    ).flatten()
    return raw.index_copy(-1, columns.long(), whole.reshape(*raw.shape[:-1], -1))
