"""Anatomy: which module, and which of its tensors, a site's name stands for in one model.

The map comes from, in this order: the hook points of a TransformerBridge; a row of
`hooks.families`; the adapters of TransformerLens (imported only then). Raw ``module:path:output``
sites need none of them and work on any `nn.Module`.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layerscope.arguments import checked

from .module_paths import raw_places
from .placement import adapted, is_split
from .refusals import WrappedModel, refuse_compiled, refuse_compiled_around, refuse_wrapper
from .rows import ATTENTION_SITES, Place
from .site_map import Anatomy, StackShape, UnknownArchitecture, read_site_map, stack_shape
from .sites import Site, SiteLike, UnknownSite, expand

__all__ = [
    "ATTENTION_SITES",
    "Anatomy",
    "Place",
    "UnknownArchitecture",
    "WrappedModel",
    "anatomy",
    "locate",
    "locate_each",
    "sites",
]


_CACHE: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


_SHAPES: weakref.WeakKeyDictionary[nn.Module, tuple[StackShape, ...]] = weakref.WeakKeyDictionary()


@checked
def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model.

    Raises:
        UnknownArchitecture, WrappedModel: the message says what can be done instead.
    """
    refuse_wrapper(model)
    known, inner = _CACHE.get(model), adapted(model)
    if known is None or any(
        shape != stack_shape(inner, shape.path, shape.config) for shape in _SHAPES.get(inner, ())
    ):
        _SHAPES.pop(inner, None)
        _CACHE.pop(inner, None)
        refuse_compiled(model)
        known = _CACHE[model] = _whole_parts(model, _find(model))
    return known


def _find(model: nn.Module) -> Anatomy:
    inner = adapted(model)
    if inner is model:
        known, shapes = read_site_map(model)
        if shapes:
            _SHAPES[model] = shapes
        return known
    path = next(name for name, module in model.named_modules() if module is inner)
    inner_anatomy = anatomy(inner)
    places = {
        site: replace(
            p, path=f"{path}.{p.path}", like=None if p.like is None else f"{path}.{p.like}"
        )
        for site, p in inner_anatomy.places.items()
    }
    return replace(inner_anatomy, places=places)


def _whole_parts(model: nn.Module, known: Anatomy) -> Anatomy:
    """The anatomy without the parts of blocks of which each process has only some.

    Under tensor parallelism a process computes some of the heads and neurons; what a block adds to
    the stream is summed over all, and is whole.
    """
    if not is_split(model):
        return known
    places, missing = {}, dict(known.missing)
    for name, place in known.places.items():
        site = Site(name)
        if site.layer is None or site.part.startswith("hook_"):
            places[name] = place
        else:
            missing[site.part] = (
                "its weights are split over processes (tensor parallel), each of which has only "
                "some of the heads and neurons"
            )
    return replace(known, places=places, missing=missing)


def body_of(model: nn.Module) -> nn.Module:
    """What makes a transformers model's hidden states: without its head,
    the encoder alone of a pair, inside adapters.
    """
    inner: Any = adapted(model)
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False) and hasattr(
        inner, "get_encoder"
    ):
        return inner.get_encoder() or inner
    body = getattr(inner, "base_model", inner)
    has_head = getattr(inner, "get_output_embeddings", lambda: None)() is not None
    if body is inner and has_head:
        # Llama 4 calls its parts otherwise than its prefix says: a language model, head and all,
        # beside the tower, and the body inside it.
        for name in ("language_model", "model"):
            if isinstance(inside := getattr(inner, name, None), nn.Module):
                return body_of(inside)
    return body


def copied(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model, with the anatomy that is known of it;
    its weights straight in another precision, if one is given.
    """
    memo: dict[int, Any] = {}
    if dtype is not None:
        for tensor in (p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()):
            new = tensor.detach().to(dtype, copy=True)
            memo[id(tensor)] = (
                nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
            )
    twin = copy.deepcopy(model, memo)
    for known, new in {model: twin, adapted(model): adapted(twin)}.items():
        if known in _CACHE:
            _CACHE[new] = anatomy(known)
        if known in _SHAPES:
            _SHAPES[new] = tuple(
                stack_shape(new, s.path, memo.get(id(s.config), s.config)) for s in _SHAPES[known]
            )
    return twin


@checked
def sites(model: nn.Module, *patterns: SiteLike) -> list[str]:
    """The names of all sites of a model, or of those that match a pattern.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    >>> sites(model, "blocks.*.attn.hook_z")
    ['blocks.0.attn.hook_z', 'blocks.1.attn.hook_z']
    """
    names = list(anatomy(model).places)
    refuse_compiled(model)
    if not patterns:
        return names
    try:
        return [str(site) for site in expand(patterns, names)]
    except UnknownSite:
        for pattern in patterns:  # the one that is unknown, with the reason why it is
            _expanded(model, Site.parse(pattern), anatomy(model).places)
        raise


def locate(model: nn.Module, *specs: SiteLike) -> dict[Site, Place]:
    """Sites and their places for names, globs, pairs and raw module paths.

    Raises:
        UnknownSite: a name that this model does not have, with the nearest ones that it has.
        UnknownArchitecture: a TransformerLens name asked of a model whose anatomy is not known.
        WrappedModel: a compiled or replicated model, in which hooks would not run.
    """
    places: dict[Site, Place] = {}
    for of_spec in locate_each(model, specs):
        places.update(of_spec)
    return places


def locate_each(model: nn.Module, specs: Sequence[SiteLike]) -> list[dict[Site, Place]]:
    """`locate`, for each of several patterns."""
    try:
        return _located(model, specs)
    except AttributeError:  # modules have gone since the anatomy was made
        for known in (_CACHE, _SHAPES):
            known.pop(model, None)
            known.pop(adapted(model), None)
        return _located(model, specs)


def _located(model: nn.Module, specs: Sequence[SiteLike]) -> list[dict[Site, Place]]:
    refuse_wrapper(model)
    parsed = [Site.parse(spec) for spec in specs]
    named = [site for site in parsed if not site.name.startswith("module:")]
    places = anatomy(model).places if named else {}
    each: list[dict[Site, Place]] = []
    for site in parsed:
        if site.name.startswith("module:"):
            each.append(raw_places(model, site))
        elif site.name in places:
            each.append({site: places[site.name]})
        else:
            whole = _expanded(model, site, places)
            each.append({one: places[one.name] for one in whole})
    refuse_compiled_around(model, (place for of_spec in each for place in of_spec.values()))
    return each


def _expanded(model: nn.Module, site: Site, places: Mapping[str, Place]) -> list[Site]:
    """A pattern's sites; where it has none because this model has no such part,
    the error says why.
    """
    try:
        return expand([site], places)
    except UnknownSite:
        # of a pattern, ``blocks.*.attn.hook_z``, what stands behind the layers
        stack, _, rest = site.name.partition(".")
        part = rest.partition(".")[2] if stack == "blocks" else site.part
        why = anatomy(model).missing.get(part)
        if why is None or any(Site(name).part == part for name in places):
            raise
        raise UnknownSite(f"no site {str(site)!r} in {type(model).__name__}: {why}") from None
