"""Anatomy: which module, and which of its tensors, a site's name stands for in one model.

The map comes from, in this order: the hook points of a TransformerBridge; a row of `hooks.families`; the adapters of
TransformerLens (imported only then). Raw ``module:path:output`` sites need none of them and work on any `nn.Module`.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from layerscope.errors import InputError, LayerscopeError

from . import views
from .families import FAMILIES, Family, PlaceSpec
from .sites import Index, Site, SiteLike, Span, UnknownSite, braces, expand
from .views import View

_MODULE = re.compile(r"^module:(?P<path>.*?):(?P<end>input|output)(?:\[(?P<item>[\w]+)\])?$")

#: Sites that only exist while attention is being computed; see `hooks.attention`.
ATTENTION_SITES = ("attn.hook_attn_scores", "attn.hook_pattern")


class WrappedModel(LayerscopeError, ValueError):
    """A wrapper around a model in which hooks would not run where the model runs; the message says what to give instead."""


class UnknownArchitecture(LayerscopeError, LookupError):
    """No anatomy is known for a model: only raw module paths can be used."""


@dataclass(frozen=True)
class Place:
    """Where a site's tensor is found.

    Args:
        path: the module, as `nn.Module.get_submodule` takes it.
        end: its ``input``, its ``output``, or the ``scores``/``pattern`` computed inside an attention module.
        view: raw tensor -> site tensor.
        item: which element of a tuple, or which key of a mapping; None takes the first tensor.
        call: which of the module's calls within one forward, for a block that is shared by all layers.
        calls: how many calls one forward makes.
    """

    path: str
    end: Literal["input", "output", "scores", "pattern"]
    view: View = views.identity
    item: int | str | None = None
    call: int = 0
    calls: int = 1
    own: Index | None = None  # a selection of heads, as it counts in scores or patterns that hold some heads alone
    like: str | None = None  # the raw tensor is ``(batch pos) d``: this module's input tells batch and pos

    def within(self, site: Site) -> Site:
        """A site with its selection as it counts in the raw tensor."""
        return site if self.own is None else Site(site.name, self.own)


def heads_of(site: Site, count: int) -> list[int]:
    """The heads that a selection means, of so many."""
    chosen = site.select
    if isinstance(chosen, Span):
        return list(range(count))[slice(*chosen)]
    if chosen is None:
        return list(range(count))
    return [range(count)[head] for head in (chosen if isinstance(chosen, tuple) else (chosen,))]


@dataclass(frozen=True)
class Anatomy:
    """The places of one model, in the order in which a forward meets them, and the figures that describe it.

    Attributes:
        places: where each site is, by its name.
        n_layers, n_heads, n_kv_heads: blocks, and heads of a block: of queries, of keys and values.
        source: what the map was read off: a family, an adapter, a bridge.
    """

    places: Mapping[str, Place]
    n_layers: int
    n_heads: int
    n_kv_heads: int
    source: str

    def query_heads(self, spec: SiteLike) -> list[int]:
        """The query heads that a site's heads reach: under grouped heads one key or value head serves several.

        >>> Anatomy({}, 1, n_heads=4, n_kv_heads=2, source="").query_heads("blocks.0.attn.hook_k[1]")
        [2, 3]
        """
        site = Site.parse(spec)
        group = self.n_heads // self.n_kv_heads if site.part in ("attn.hook_k", "attn.hook_v") else 1
        picked = heads_of(site, self.n_heads // group)
        return [head * group + i for head in picked for i in range(group)]


_CACHE: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


_SHAPES: weakref.WeakKeyDictionary[nn.Module, _Shape] = weakref.WeakKeyDictionary()


#: What configurations call their heads.
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "num_kv_heads", "multi_query")


class _Shape(NamedTuple):
    """What an anatomy was made of and what a user may change later: it is looked at again each time, which costs little."""

    stack: str
    blocks: tuple[int, ...]
    config: Any
    heads: tuple[Any, ...]


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model; raises `UnknownArchitecture` or `WrappedModel` with what can be done instead."""
    _refuse_wrapper(model)
    known, inner = _CACHE.get(model), _adapted(model)
    shape = _SHAPES.get(inner)
    if known is None or (shape is not None and shape != _shape(inner, shape.stack, shape.config)):
        _SHAPES.pop(inner, None)
        _CACHE.pop(inner, None)
        _refuse_compiled(model)
        known = _CACHE[model] = _find(model)
    return known


def _shape(model: nn.Module, stack: str, text: Any = None) -> _Shape:
    if text is None:
        text = _text_config(model)
    blocks = _submodule(model, stack)
    named = object.__getattribute__(text, "__dict__")  # a configuration's own look-ups are slow
    children = () if blocks is None else tuple(map(id, blocks._modules.values()))
    return _Shape(stack, children, text, tuple(named.get(name) for name in _HEADS))


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _heads(model: nn.Module) -> tuple[int, int]:
    """Heads of queries, and of keys and values, as the configuration names them."""
    text = _text_config(model)
    n_heads = int(_first(text, "num_attention_heads", "n_head", "num_heads", default=1))
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        return n_heads, 1  # Falcon's and GPTBigCode's configurations count the heads otherwise
    return n_heads, int(_first(text, "num_key_value_heads", "num_kv_heads", default=n_heads))


def has_experts(model: nn.Module) -> bool:
    """Whether some block is a mixture of experts."""
    return any("expert" in f"{name} {type(module).__name__}".lower() for name, module in model.named_modules())


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


def _refuse_wrapper(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise WrappedModel(
            f"{type(model).__name__} runs copies or a module of its own, which hooks do not follow: give what it wraps, "
            "model.module"
        )
    if "_orig_mod" in model._modules:
        raise WrappedModel(
            "the model is compiled (torch.compile): compiled code skips hooks that come later; give the model itself, "
            "model._orig_mod, which shares its weights"
        )


def _refuse_compiled(model: nn.Module) -> None:
    """No module may be compiled: for what asks of all sites."""
    for module in model.modules():
        _refuse_compiled_module(module)


def modules_at(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The modules at some paths and above them, by path; raises `AttributeError` where one is gone."""
    found = {"": model}
    for path in paths:
        _find_module(path, found)
    return found


def _find_module(path: str, found: dict[str, nn.Module]) -> nn.Module:
    module = found.get(path)
    if module is None:
        above, _, name = path.rpartition(".")
        parent = _find_module(above, found)
        module = parent._modules.get(name)
        module = found[path] = getattr(parent, name) if module is None else module
    return module


def _refuse_compiled_around(model: nn.Module, places: Iterable[Place]) -> None:
    """No module may be compiled that a place is in, nor a block beside it; the others are not looked at."""
    for module in modules_at(model, (place.path for place in places)).values():
        _refuse_compiled_module(module)
        if isinstance(module, nn.ModuleList):
            for block in module:
                _refuse_compiled_module(block)


def _refuse_compiled_module(module: nn.Module) -> None:
    if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
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
    for known in (_CACHE, _SHAPES):
        if model in known:
            known[made] = known[model]  # type: ignore[index]
    return made


def sites(model: nn.Module, *patterns: SiteLike) -> list[str]:
    """The names of a model's sites, all or those that match.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    >>> sites(model, "blocks.*.attn.hook_z")
    ['blocks.0.attn.hook_z', 'blocks.1.attn.hook_z']
    """
    names = list(anatomy(model).places)
    _refuse_compiled(model)
    return [str(site) for site in expand(patterns, names)] if patterns else names


def locate(model: nn.Module, *specs: SiteLike) -> dict[Site, Place]:
    """Sites and their places for names, globs, pairs and raw module paths.

    Raises:
        UnknownSite: a name that this model does not have, with the nearest ones that it has.
        UnknownArchitecture: a TransformerLens name asked of a model whose anatomy is not known.
        WrappedModel: a compiled or replicated model, in which hooks would not run.
    """
    return {site: place for found in locate_each(model, specs) for site, place in found.items()}


def locate_each(model: nn.Module, specs: Sequence[SiteLike]) -> list[dict[Site, Place]]:
    """`locate`, for each of several patterns."""
    try:
        return _located(model, specs)
    except AttributeError:  # modules have gone since the anatomy was made
        for known in (_CACHE, _SHAPES):
            known.pop(model, None)
            known.pop(_adapted(model), None)
        return _located(model, specs)


def _located(model: nn.Module, specs: Sequence[SiteLike]) -> list[dict[Site, Place]]:
    _refuse_wrapper(model)
    parsed = [Site.parse(spec) for spec in specs]
    named = [site for site in parsed if not site.name.startswith("module:")]
    places = anatomy(model).places if named else {}
    _refuse_decoders(model, named)
    each: list[dict[Site, Place]] = []
    for site in parsed:
        if site.name.startswith("module:"):
            each.append(_raw_places(model, site))
        else:
            each.append({own: places[own.name] for own in expand([site], places)})
    _refuse_compiled_around(model, {place.path: place for found in each for place in found.values()}.values())
    return each


def _refuse_decoders(model: nn.Module, specs: Sequence[Site]) -> None:
    """The names of an encoder-decoder are its encoder's; why a decoder has none, and what to ask for instead."""
    asked = next((n for spec in specs if (n := spec.name).startswith("decoder_")), None)
    if asked is None or not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return
    stack = re.compile(r"(?:^|\.)decoder\.(?:layers|block)\.0$")
    block = next((name for name, _ in model.named_modules() if stack.search(name)), "decoder.block.0")
    raise UnknownSite(
        f"no site {asked!r}: the names of an encoder-decoder are its encoder's (blocks.N...); a decoder block holds two attentions "
        f"and three sums over another text, and no check of ours proves a map of it: use raw paths such as 'module:{block}:output'"
    )


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
    for family in FAMILIES.get(kind, ()):
        if family.when(config):
            return _from_family(model, family, "layerscope's table")
    from .adapters import family_from_transformer_lens

    return _from_family(model, family_from_transformer_lens(model), "TransformerLens's adapter")


def _from_family(model: nn.Module, family: Family, source: str) -> Anatomy:
    prefix = _body_prefix(model, family)
    text = _text_config(model)
    n_heads, n_kv = _heads(model)
    stack = _submodule(model, prefix + family.blocks)
    if stack is None:
        raise UnknownArchitecture(
            f"{type(model).__name__}: expected its blocks at {prefix + family.blocks!r} ({source}), found no such module; "
            "use raw paths such as 'module:encoder.rnn:output[0]'"
        )
    n_layers = int(text.num_hidden_layers) if family.shared else len(list(stack.children()))
    places: dict[str, Place] = {}

    calls = n_layers if family.shared else 1

    def add(name: str, spec: PlaceSpec, base: str, call: int = 0) -> None:
        part = Site(name).part
        per_head = n_kv if part in ("attn.hook_k", "attn.hook_v") else n_heads
        path, end, view = _parse_place(spec, per_head) if isinstance(spec, str) else spec
        like = base.removesuffix(".") if isinstance(spec, str) and spec.endswith("|unflatten") else None
        full = base + path if path else base.removesuffix(".")
        if _submodule(model, full) is not None:
            places[name] = Place(full, end, view, call=call, calls=calls * family.called.get(part, 1), like=like)

    for name, spec in family.outside.items():
        if not name.startswith("ln_final"):
            add(name, spec, prefix)
    for layer in range(n_layers):
        base = prefix + family.blocks + ("." if family.shared else f".{layer}.")
        call = layer if family.shared else 0
        for part, spec in family.inside.items():
            add(f"blocks.{layer}.{part}", spec, base, call)
        if family.attention is not None and _submodule(model, base + family.attention) is not None:
            for part, end in zip(ATTENTION_SITES, ("scores", "pattern"), strict=True):
                places[f"blocks.{layer}.{part}"] = Place(base + family.attention, end, call=call, calls=calls)  # type: ignore[arg-type]
    for name, spec in family.outside.items():
        if name.startswith("ln_final"):
            add(name, spec, prefix)
    _SHAPES[model] = _shape(model, prefix + family.blocks)
    return Anatomy(_in_order(places), n_layers, n_heads, n_kv, source)


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


def _in_order(places: dict[str, Place]) -> dict[str, Place]:
    def rank(name: str) -> tuple[int, int]:
        site = Site(name)
        if site.layer is None:
            return (10**9, 0) if name.startswith("ln_final") else (-1, 0)
        return (site.layer, ORDER.index(site.part) if site.part in ORDER else len(ORDER))

    return {name: places[name] for name in sorted(places, key=rank)}


def _body_prefix(model: nn.Module, family: Family) -> str:
    """``"transformer."`` for a GPT2LMHeadModel, ``""`` for a GPT2Model: rows are written from the body."""
    name = getattr(model, "base_model_prefix", "")
    inner = getattr(model, name, None) if name else None
    if isinstance(inner, nn.Module) and _submodule(model, f"{name}.{family.blocks}") is not None:
        return f"{name}."
    return ""


def _parse_place(spec: str, n_heads: int) -> tuple[str, Literal["input", "output"], View]:
    where, _, how = spec.partition("|")
    path, _, end = where.rpartition(":")
    kind, _, part = how.partition(":")
    match kind:
        case "" | "unflatten":
            view = views.identity
        case "heads":
            view = views.heads(n_heads)
        case "thirds":
            view = views.thirds(int(part), n_heads)
        case "interleaved":
            view = views.interleaved(int(part), n_heads)
        case "halves":
            view = views.halves(int(part))
        case _:
            raise InputError(f"place {spec!r}: no view {kind!r}")
    if end not in ("input", "output"):
        raise InputError(f"place {spec!r}: expected ':input' or ':output', got {end!r}")
    return path, end, view


def _raw_places(model: nn.Module, site: Site) -> dict[Site, Place]:
    """The modules that a path stands for, in the model's order."""
    match = _MODULE.match(site.name)
    if match is None:
        raise InputError(
            f"site {str(site)!r}: expected 'module:PATH:input' or 'module:PATH:output', with [0] for a tuple and a second "
            "[...] for a selection"
        )
    end, item = match["end"], match["item"]
    number = int(item) if item is not None and item.isdigit() else item
    found: dict[Site, Place] = {}
    for pattern in braces(match["path"]):
        paths = _matching(model, pattern)
        if not paths:
            raise UnknownSite(_no_such_module(model, pattern))
        for path in paths:
            name = f"module:{path}:{end}" + (f"[{item}]" if item is not None else "")
            found[Site(name, site.select)] = Place(path, end, item=number)  # type: ignore[arg-type]
    return found


def _matching(model: nn.Module, pattern: str) -> list[str]:
    """The paths of a model's modules that a pattern stands for, name by name; ``-1`` is the last."""
    if _submodule(model, pattern) is not None:
        return [pattern]
    found: list[tuple[str, nn.Module]] = [("", model)]
    for part in pattern.split("."):
        below = []
        for path, module in found:
            names = [name for name, child in module._modules.items() if child is not None]
            if part.startswith("-") and part[1:].isdigit():
                chosen = names[int(part) :][:1] if int(part) >= -len(names) else []
            else:
                chosen = fnmatch.filter(names, part)
            below += [(f"{path}.{name}".lstrip("."), module._modules[name]) for name in chosen]
        found = below
    return [path for path, _ in found]


def _no_such_module(model: nn.Module, path: str) -> str:
    paths = [name for name, _ in model.named_modules()]
    near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"no module {path!r} in {type(model).__name__}{hint}"


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


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _first(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    return default
