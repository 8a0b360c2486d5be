"""Anatomy: which module, and which of its tensors, a site's name stands for in one model.

The map comes from, in this order: the hook points of a TransformerBridge; a row of `hooks.families`; the adapters of
TransformerLens (imported only then). Raw ``module:path:output`` sites need none of them and work on any `nn.Module`.
"""

from __future__ import annotations

import copy
import difflib
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from layerscope.errors import InputError, LayerscopeError

from . import views
from .families import Family
from .rows import ATTENTION_SITES, Place, Reading, Stack, head_counts, read, stacks_of, submodule
from .sites import Site, SiteLike, Span, UnknownSite, expand

_MODULE = re.compile(r"^module:(?P<path>.*?):(?P<end>input|output)(?:\[(?P<item>[\w]+)\])?$")

__all__ = ["ATTENTION_SITES", "Anatomy", "Place", "UnknownArchitecture", "WrappedModel", "anatomy", "locate", "sites"]


class WrappedModel(LayerscopeError, ValueError):
    """A wrapper around a model in which hooks would not run where the model runs; the message says what to give instead."""


class UnknownArchitecture(LayerscopeError, LookupError):
    """No anatomy is known for a model: only raw module paths can be used."""


@dataclass(frozen=True)
class Anatomy:
    """The places of one model, in the order in which a forward meets them, and the figures that describe it.

    Attributes:
        places: where each site is, by its name.
        n_layers, n_heads, n_kv_heads: blocks, and heads of a block: of queries, of keys and values.
        source: what the map was read off: a family, an adapter, a bridge.
        missing: part of a block -> why no block, or which blocks, have no such site.
        layer_heads: layer -> its heads of queries, and of keys and values, where a block has attention.
        stacks: the stacks of blocks and their lengths; ``blocks`` first.
    """

    places: Mapping[str, Place]
    n_layers: int
    n_heads: int
    n_kv_heads: int
    source: str
    missing: Mapping[str, str] = field(default_factory=dict)
    layer_heads: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    stacks: Mapping[str, int] = field(default_factory=dict)

    def query_heads(self, spec: SiteLike) -> list[int]:
        """The query heads that a site's heads reach: under grouped heads one key or value head serves several.

        >>> Anatomy({}, 1, n_heads=4, n_kv_heads=2, source="").query_heads("blocks.0.attn.hook_k[1]")
        [2, 3]
        """
        site = Site.parse(spec)
        n_heads, n_kv = self.n_heads, self.n_kv_heads
        if site.name.startswith("blocks."):
            n_heads, n_kv = self.layer_heads.get(site.layer or 0, (n_heads, n_kv))
        group = n_heads // n_kv if site.part in ("attn.hook_k", "attn.hook_v") else 1
        heads = range(n_heads // group)
        chosen = site.select
        if isinstance(chosen, Span):
            picked = list(heads[slice(*chosen)])
        elif chosen is None:
            picked = list(heads)
        else:
            picked = [heads[i] for i in (chosen if isinstance(chosen, tuple) else (chosen,))]
        return [head * group + i for head in picked for i in range(group)]


_CACHE: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model; raises `UnknownArchitecture` or `WrappedModel` with what can be done instead."""
    _refuse_wrappers(model)
    known = _CACHE.get(model)
    if known is None:
        known = _CACHE[model] = _find(model)
    return known


def has_experts(model: nn.Module, path: str = "") -> bool:
    """Whether some block is a mixture of experts; with a path, whether that block is."""
    return any(
        "expert" in f"{name} {type(m).__name__}".lower() for name, m in model.get_submodule(path).named_modules()
    )


def _adapted(model: nn.Module) -> nn.Module:
    """The model that PEFT put its adapters into; any other is itself."""
    has = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    return model.get_base_model() if has else model  # type: ignore[operator]


def body_of(model: nn.Module) -> nn.Module:
    """What makes a transformers model's hidden states: without its head, the encoder alone of a pair, inside adapters."""
    inner: Any = _adapted(model)
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False) and hasattr(inner, "get_encoder"):
        return inner.get_encoder() or inner
    return getattr(inner, "base_model", inner)


def _refuse_wrappers(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise WrappedModel(
            f"{type(model).__name__} runs copies or a module of its own, which hooks do not follow: give what it wraps, "
            "model.module"
        )
    if hasattr(model, "_orig_mod"):
        raise WrappedModel(
            "the model is compiled (torch.compile): compiled code skips hooks that come later; give the model itself, "
            "model._orig_mod, which shares its weights"
        )
    if any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()):
        raise WrappedModel(
            "modules of the model are compiled in place (model.compile()): compiled code skips hooks that come later; load "
            "the model again, or copy its weights into one that is not compiled"
        )


def copied(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model, with the anatomy that is known of it; its weights straight in another precision, if one is given."""
    memo: dict[int, Any] = {}
    if dtype is not None:
        for own in (p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()):
            new = own.detach().to(dtype, copy=True)
            memo[id(own)] = nn.Parameter(new, own.requires_grad) if isinstance(own, nn.Parameter) else new
    made = copy.deepcopy(model, memo)
    if model in _CACHE:
        _CACHE[made] = _CACHE[model]
    return made


def sites(model: nn.Module, *patterns: SiteLike) -> list[str]:
    """The names of a model's sites, all or those that match.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    >>> sites(model, "blocks.*.attn.hook_z")
    ['blocks.0.attn.hook_z', 'blocks.1.attn.hook_z']
    """
    names = list(anatomy(model).places)
    return [str(site) for site in expand(patterns, names)] if patterns else names


def locate(model: nn.Module, *specs: SiteLike) -> dict[Site, Place]:
    """Sites and their places for names, globs, pairs and raw module paths.

    Raises:
        UnknownSite: a name that this model does not have, with the nearest ones that it has.
        UnknownArchitecture: a TransformerLens name asked of a model whose anatomy is not known.
        WrappedModel: a compiled or replicated model, in which hooks would not run.
    """
    _refuse_wrappers(model)
    raw = [s for s in specs if isinstance(s, str) and s.startswith("module:")]
    named = [s for s in specs if s not in raw]
    found = {Site(spec): _raw_place(model, spec) for spec in raw}
    if named:
        places = anatomy(model).places
        _say_why(model, named)
        found |= {site: places[site.name] for site in expand(named, list(places))}
    return found


def _say_why(model: nn.Module, specs: Sequence[SiteLike]) -> None:
    """Why a part that is asked for is no site of this model."""
    known = anatomy(model)
    listed = {Site(name).part for name in known.places}
    for spec in specs:
        part = Site.parse(spec).part
        if part in known.missing and part not in listed:
            raise UnknownSite(f"no site {str(Site.parse(spec))!r} in {type(model).__name__}: {known.missing[part]}")


def _find(model: nn.Module) -> Anatomy:
    if (inner := _adapted(model)) is not model:
        path = next(name for name, module in model.named_modules() if module is inner)
        found = anatomy(inner)
        places = {
            site: replace(p, path=f"{path}.{p.path}", like=None if p.like is None else f"{path}.{p.like}")
            for site, p in found.places.items()
        }
        return replace(found, places=places)
    if hasattr(model, "hook_dict") and hasattr(model, "original_model"):
        return _from_bridge(model)
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind is None:
        raise UnknownArchitecture(
            f"{type(model).__name__} has no Hugging Face config, so its sites are not known by name: "
            "use raw paths such as 'module:encoder.rnn:output[0]' (see model.named_modules())"
        )
    stacks = stacks_of(model)
    source = "layerscope's table"
    if not any(stack.name == "blocks" for stack in stacks):
        stacks, source = [*_adapted_stack(model, required=not stacks), *stacks], "TransformerLens's adapter"
    return _from_stacks(model, stacks, source if stacks[0].name == "blocks" else "layerscope's table")


def _adapted_stack(model: nn.Module, required: bool) -> list[Stack]:
    """The main stack, read off TransformerLens's adapters."""
    from .adapters import family_from_transformer_lens

    try:
        family = family_from_transformer_lens(model)
    except UnknownArchitecture:
        if required:
            raise
        return []
    stack = Stack("blocks", _body_prefix(model, family), family, model.config)
    if submodule(model, stack.prefix + family.blocks) is None:
        raise UnknownArchitecture(
            f"{type(model).__name__}: expected its blocks at {stack.prefix + family.blocks!r} (TransformerLens's adapter), found "
            "no such module; use raw paths such as 'module:encoder.rnn:output[0]'"
        )
    return [stack]


def _from_stacks(model: nn.Module, stacks: Sequence[Stack], source: str) -> Anatomy:
    readings = {stack.name: found for stack in stacks if (found := read(model, stack)) is not None}
    places = {name: place for found in readings.values() for name, place in found.places.items()}
    main = stacks[0]
    n_heads, n_kv = head_counts(main.config)
    by_layer = readings[main.name].heads
    counts = set(by_layer.values())
    if len(counts) == 1:
        n_heads, n_kv = counts.pop()
    return Anatomy(
        _in_order(places),
        readings[main.name].n_layers,
        n_heads,
        n_kv,
        source,
        _missing(model, main.family, readings[main.name], f"{main.name}."),
        by_layer,
        {name: found.n_layers for name, found in readings.items()},
    )


def _missing(model: nn.Module, family: Family, reading: Reading, stack: str) -> dict[str, str]:
    """Part -> why no block has it, or which blocks have none."""
    layers: dict[str, set[int]] = {}
    for name in reading.places:
        site = Site(name)
        if site.layer is not None and name.startswith(stack):
            layers.setdefault(site.part, set()).add(site.layer)
    found: dict[str, str] = {}
    for part in (*ORDER, *family.missing):
        have = layers.get(part, set())
        if not have:
            found[part] = family.missing.get(part) or _why_none(model, part, layers)
        elif len(have) < reading.n_layers:
            without = [layer for layer in range(reading.n_layers) if layer not in have]
            found[part] = f"not in blocks {', '.join(map(str, without))}: they have no such part"
    return found


def _why_none(model: nn.Module, part: str, layers: Mapping[str, set[int]]) -> str:
    if part.startswith("mlp.") and has_experts(model):
        return "a mixture of experts has no single hidden layer"
    if part == "hook_resid_mid":
        return "attention and MLP read one stream in parallel, or no module reads the sum between them"
    if part in ATTENTION_SITES and "attn.hook_z" not in layers:
        return "no attention module is known in its blocks"
    return "no module of this architecture takes or returns it by itself"


#: The order in which a forward meets the sites of a block.
ORDER = (
    "hook_resid_pre",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)


#: Parts that only some families have, each behind the part of `ORDER` that a forward meets before it.
_BEHIND = {
    "attn.hook_gate": "attn.hook_v",
    "mixer.": "hook_resid_pre",
    "cross_attn.": "hook_resid_mid",
    "hook_cross_attn_out": "hook_resid_mid",
    "hook_resid_mid_cross": "hook_resid_mid",
    "mlp.": "hook_resid_mid",
}


def _in_order(places: dict[str, Place]) -> dict[str, Place]:
    def rank(name: str) -> tuple[int, int, int]:
        site = Site(name)
        stack = name.partition("blocks.")[0] if site.layer is not None else ""
        which = (
            ("vision_", "audio_", "", "decoder_").index(stack) if stack in ("vision_", "audio_", "", "decoder_") else 4
        )
        if site.layer is None:
            final = "ln_final" in name
            return (3 if name.startswith("decoder_") else 2, 10**9 if final else -1, 0)
        return (which, site.layer, _rank_in_block(site.part))

    return {name: places[name] for name in sorted(places, key=rank)}


def _rank_in_block(part: str) -> int:
    if part in ORDER:
        return 10 * ORDER.index(part)
    before = next((last for start, last in _BEHIND.items() if part.startswith(start)), ORDER[-1])
    return 10 * ORDER.index(before) + 1


def _body_prefix(model: nn.Module, family: Family) -> str:
    """``"transformer."`` for a GPT2LMHeadModel, ``""`` for a GPT2Model: rows are written from the body."""
    name = getattr(model, "base_model_prefix", "")
    inner = getattr(model, name, None) if name else None
    if isinstance(inner, nn.Module) and submodule(model, f"{name}.{family.blocks}") is not None:
        return f"{name}."
    return ""


def _raw_place(model: nn.Module, spec: str) -> Place:
    match = _MODULE.match(spec)
    if match is None:
        raise InputError(f"site {spec!r}: expected 'module:PATH:input' or 'module:PATH:output', with [0] for a tuple")
    path = match["path"]
    if submodule(model, path) is None:
        paths = [name for name, _ in model.named_modules()]
        near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownSite(f"no module {path!r} in {type(model).__name__}{hint}")
    item = match["item"]
    return Place(path, match["end"], item=int(item) if item and item.isdigit() else item)  # type: ignore[arg-type]


def _from_bridge(model: Any) -> Anatomy:
    """A TransformerBridge's own hook points, by identity; head views where its tensors are flat."""
    paths = {id(module): path for path, module in model.named_modules()}
    config = model.cfg
    n_kv = getattr(config, "n_key_value_heads", None) or config.n_heads
    places: dict[str, Place] = {}
    for name, point in model.hook_dict.items():
        part = Site(name).part
        if id(point) in paths:
            per_head = part in ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
            view = views.heads(n_kv if part[-1] in "kv" else config.n_heads) if per_head else views.identity
            places[name] = Place(paths[id(point)], "output", view)
    return Anatomy(_in_order(places), config.n_layers, config.n_heads, n_kv, "TransformerBridge's hook points")
