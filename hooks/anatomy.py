"""Anatomy: which module, and which of its tensors, a site's name stands for in one model.

The map comes from, in this order: the hook points of a TransformerBridge; a row of
`hooks.families`; the adapters of TransformerLens (imported only then). Raw ``module:path:output``
sites need none of them and work on any `nn.Module`.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from layerscope.arguments import checked
from layerscope.errors import LayerscopeError

from . import views
from .configuration import head_counts, text_config
from .families import Family
from .module_paths import raw_places
from .order import ORDER, in_order
from .placement import adapted, is_split
from .rows import ATTENTION_SITES, Place, Reading, read
from .sites import Site, SiteLike, Span, UnknownSite, expand
from .stacks import Stack, stacks_of, submodule, without_clipped
from .torch_modules import torch_stacks

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


class WrappedModel(LayerscopeError, ValueError):
    """A wrapped model in which hooks would not run; the message says what to pass instead."""


class UnknownArchitecture(LayerscopeError, LookupError):
    """A model whose site names are not known, so only raw module paths can be used."""


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
    """The sites of one model, in the order of the forward pass, and its sizes.

    Attributes:
        places: site name -> its module and tensor.
        n_layers, n_heads, n_kv_heads: number of blocks, of query heads per block, and of key-value
            heads per block.
        source: source of the site names: a family, an adapter or a bridge.
        missing: part of a block -> why it has no site, or in which blocks it has none.
        layer_heads: layer -> number of query heads and of key-value heads, for blocks with
            attention.
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
        """The query heads that use the heads of a site: with grouped heads, several query heads
        share one key or value head.

        >>> grouped = Anatomy({}, 1, n_heads=4, n_kv_heads=2, source="")
        >>> grouped.query_heads("blocks.0.attn.hook_k[1]")
        [2, 3]
        """
        site = Site.parse(spec)
        n_heads, n_kv = self.n_heads, self.n_kv_heads
        if site.name.startswith("blocks."):
            n_heads, n_kv = self.layer_heads.get(site.layer or 0, (n_heads, n_kv))
        group = n_heads // n_kv if site.part in ("attn.hook_k", "attn.hook_v") else 1
        picked = heads_of(site, n_heads // group)
        return [head * group + i for head in picked for i in range(group)]


_CACHE: weakref.WeakKeyDictionary[nn.Module, Anatomy] = weakref.WeakKeyDictionary()


_SHAPES: weakref.WeakKeyDictionary[nn.Module, tuple[_Shape, ...]] = weakref.WeakKeyDictionary()


#: What configurations call their heads.
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "encoder_attention_heads",
    "num_key_value_heads",
    "num_kv_heads",
    "multi_query",
)


class _Shape(NamedTuple):
    """What a stack was read off and a user may change later: it is looked at again each time,
    which costs little.
    """

    path: str
    blocks: tuple[int, ...]
    config: Any
    heads: tuple[Any, ...]


@checked
def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model.

    Raises:
        UnknownArchitecture, WrappedModel: the message says what can be done instead.
    """
    _refuse_wrapper(model)
    known, inner = _CACHE.get(model), adapted(model)
    if known is None or any(
        shape != _shape(inner, shape.path, shape.config) for shape in _SHAPES.get(inner, ())
    ):
        _SHAPES.pop(inner, None)
        _CACHE.pop(inner, None)
        _refuse_compiled(model)
        known = _CACHE[model] = _whole_parts(model, _find(model))
    return known


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


def _shape(model: nn.Module, path: str, config: Any) -> _Shape:
    blocks = submodule(model, path)
    named = object.__getattribute__(config, "__dict__")  # a configuration's own look-ups are slow
    children = () if blocks is None else tuple(map(id, blocks._modules.values()))
    return _Shape(path, children, config, tuple(named.get(name) for name in _HEADS))


def has_experts(model: nn.Module, path: str = "") -> bool:
    """Whether some block is a mixture of experts; with a path, whether that block is."""
    return any(
        "expert" in f"{name} {type(m).__name__}".lower()
        for name, m in model.get_submodule(path).named_modules()
    )


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


def _refuse_wrapper(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise WrappedModel(
            f"{type(model).__name__} runs copies of the model, "
            "which hooks do not reach: pass the wrapped model, model.module"
        )
    if "_orig_mod" in model._modules:
        raise WrappedModel(
            "the model is compiled (torch.compile): compiled code skips hooks added "
            "later; pass the original model, model._orig_mod, which shares its weights"
        )
    _refuse_scripted(model)


def _refuse_scripted(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise WrappedModel(
            "the model is TorchScript, whose code runs no hooks: pass the module that was "
            "scripted or traced"
        )


def _refuse_compiled(model: nn.Module) -> None:
    """No module may be compiled: for what asks of all sites."""
    for module in model.modules():
        _refuse_compiled_module(module)


def modules_at(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The modules at some paths and above them, by path;
    raises `AttributeError` where one is gone.
    """
    modules = {"": model}
    for path in paths:
        if path not in modules:
            _find_module(path, modules)
    return modules


def _find_module(path: str, modules: dict[str, nn.Module]) -> nn.Module:
    above, _, name = path.rpartition(".")
    parent = modules.get(above)
    if parent is None:
        parent = _find_module(above, modules)
    if isinstance(parent, torch.jit.ScriptModule):
        _refuse_scripted(parent)
    module = parent._modules.get(name)
    module = modules[path] = getattr(parent, name) if module is None else module
    return module


def _refuse_compiled_around(model: nn.Module, places: Iterable[Place]) -> None:
    """No module may be compiled that a place is in, nor a block beside it;
    the others are not looked at.
    """
    for module in modules_at(model, [place.path for place in places]).values():
        _refuse_compiled_module(module)
        if isinstance(module, nn.ModuleList):
            for block in module:
                _refuse_compiled_module(block)


def _refuse_compiled_module(module: nn.Module) -> None:
    if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
        raise WrappedModel(
            "modules of the model are compiled in place (model.compile()): compiled code "
            "skips hooks added later; load the model again, "
            "or copy its weights into one that is not compiled"
        )


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
                _shape(new, s.path, memo.get(id(s.config), s.config)) for s in _SHAPES[known]
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
    _refuse_compiled(model)
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
    return {site: place for of_spec in locate_each(model, specs) for site, place in of_spec.items()}


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
    _refuse_wrapper(model)
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
    _refuse_compiled_around(model, (place for of_spec in each for place in of_spec.values()))
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


def _find(model: nn.Module) -> Anatomy:
    if (inner := adapted(model)) is not model:
        path = next(name for name, module in model.named_modules() if module is inner)
        inner_anatomy = anatomy(inner)
        places = {
            site: replace(
                p, path=f"{path}.{p.path}", like=None if p.like is None else f"{path}.{p.like}"
            )
            for site, p in inner_anatomy.places.items()
        }
        return replace(inner_anatomy, places=places)
    if hasattr(model, "hook_dict") and hasattr(model, "original_model"):
        return _from_bridge(model)
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    stacks = stacks_of(model)
    if kind is None and not stacks:
        return _of_torch(model)
    source = "layerscope's table"
    if not any(stack.name == "blocks" for stack in stacks):
        stacks, source = (
            [*_adapted_stack(model, required=not stacks), *stacks],
            "TransformerLens's adapter",
        )
    return _from_stacks(
        model, stacks, source if stacks[0].name == "blocks" else "layerscope's table"
    )


def _of_torch(model: nn.Module) -> Anatomy:
    """What PyTorch's own layers in a model of any other kind have."""
    stacks_of_torch = list(torch_stacks(model))
    # A model of another make may say where its embedding is.
    embedding = (
        getattr(model, "embedding", None) if hasattr(model, "get_input_embeddings") else None
    )
    outside = {"hook_embed": Place(embedding, "output")} if isinstance(embedding, str) else {}
    if not stacks_of_torch and outside:
        return Anatomy(outside, 0, 0, 0, "the model's own word")
    if not stacks_of_torch:
        raise UnknownArchitecture(
            f"{type(model).__name__} has no Hugging Face config and none of PyTorch's "
            "transformer or recurrent layers, so its sites are not known by name: "
            + (
                _parts_with_names(model)
                or "use raw paths such as 'module:encoder.rnn:output[0]' (see "
                "model.named_modules())"
            )
        )
    _, main, stack = stacks_of_torch[0]
    places = dict(outside)
    for _, reading, _ in stacks_of_torch:
        places.update(reading.places)
    _SHAPES[model] = tuple(
        _shape(model, s.path, s.config) for _, _, s in stacks_of_torch if s is not None
    )
    n_heads = 0 if stack is None else head_counts(stack.config)[0]
    return Anatomy(
        in_order(places),
        main.n_layers,
        n_heads,
        n_heads,
        "PyTorch's own modules",
        {} if stack is None else _missing(model, stack.family, main, f"{stack.name}."),
        main.heads,
        {name: reading.n_layers for name, reading, _ in stacks_of_torch},
    )


def _parts_with_names(model: nn.Module) -> str:
    """What to pass instead of a wrapper: its parts whose sites have names; empty if it has none."""
    parts: dict[str, str] = {}
    for path, module in model.named_modules():
        is_within = any(path.startswith(f"{above}.") for above in parts)
        config = getattr(module, "config", None)
        if not is_within and getattr(config, "model_type", None) is not None:
            parts[path] = type(module).__name__
    if not parts:
        return ""
    named = " or ".join(f"model.get_submodule({path!r}) ({kind})" for path, kind in parts.items())
    return f"pass its part {named}; hooks on a part also apply when the whole model runs"


def _adapted_stack(model: nn.Module, required: bool) -> list[Stack]:
    """The main stack, read off TransformerLens's adapters."""
    from .adapters import family_from_transformer_lens

    try:
        family = without_clipped(family_from_transformer_lens(model), model.config)
    except UnknownArchitecture:
        if required:
            raise
        return []
    stack = Stack("blocks", _body_prefix(model, family), family, model.config)
    if submodule(model, stack.path) is None:
        raise UnknownArchitecture(
            f"{type(model).__name__}: expected its blocks at {stack.path!r} "
            "(TransformerLens's adapter), found no such module; "
            "use raw paths such as 'module:encoder.rnn:output[0]'"
        )
    return [stack]


def _from_stacks(model: nn.Module, stacks: Sequence[Stack], source: str) -> Anatomy:
    readings = {
        stack.name: reading for stack in stacks if (reading := read(model, stack)) is not None
    }
    places = {
        name: place for reading in readings.values() for name, place in reading.places.items()
    }
    _SHAPES[model] = tuple(_shape(model, stack.path, text_config(stack.config)) for stack in stacks)
    main = stacks[0]
    n_heads, n_kv = head_counts(main.config)
    by_layer = readings[main.name].heads
    counts = set(by_layer.values())
    if len(counts) == 1:
        n_heads, n_kv = counts.pop()
    return Anatomy(
        in_order(places),
        readings[main.name].n_layers,
        n_heads,
        n_kv,
        source,
        _missing(model, main.family, readings[main.name], f"{main.name}."),
        by_layer,
        {name: reading.n_layers for name, reading in readings.items()},
    )


def _missing(model: nn.Module, family: Family, reading: Reading, stack: str) -> dict[str, str]:
    """Part -> why no block has it, or which blocks have none."""
    layers: dict[str, set[int]] = {}
    for name in reading.places:
        site = Site(name)
        if site.layer is not None and name.startswith(stack):
            layers.setdefault(site.part, set()).add(site.layer)
    reasons: dict[str, str] = {}
    for part in (*ORDER, *family.missing):
        have = layers.get(part, set())
        if not have:
            reasons[part] = family.missing.get(part) or _why_none(model, part, layers)
        elif len(have) < reading.n_layers:
            without = [layer for layer in range(reading.n_layers) if layer not in have]
            reasons[part] = f"not in blocks {', '.join(map(str, without))}: they have no such part"
    return reasons


def _why_none(model: nn.Module, part: str, layers: Mapping[str, set[int]]) -> str:
    if part.startswith("mlp.") and has_experts(model):
        return "a mixture of experts has no single hidden layer"
    if part == "hook_resid_mid":
        return (
            "attention and MLP read the same input in parallel, or no module reads the sum "
            "between them"
        )
    if part in ATTENTION_SITES and "attn.hook_z" not in layers:
        return "no attention module is known in its blocks"
    return "no module of this architecture has it alone as input or output"


def _body_prefix(model: nn.Module, family: Family) -> str:
    """``"transformer."`` for a GPT2LMHeadModel, ``""`` for a GPT2Model: rows are written from the
    body.
    """
    name = getattr(model, "base_model_prefix", "")
    inner = getattr(model, name, None) if name else None
    if isinstance(inner, nn.Module) and submodule(model, f"{name}.{family.blocks}") is not None:
        return f"{name}."
    return ""


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
            view = (
                views.heads(n_kv if part[-1] in "kv" else config.n_heads)
                if per_head
                else views.identity
            )
            places[name] = Place(paths[id(point)], "output", view)
    return Anatomy(
        in_order(places), config.n_layers, config.n_heads, n_kv, "TransformerBridge's hook points"
    )
