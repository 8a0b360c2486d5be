"""The sites of a model, and how they are read off it: off the hook points of a TransformerBridge,
a row of `hooks.families`, or the adapters of TransformerLens (imported only then).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from layerscope.errors import LayerscopeError

from . import views
from .configuration import head_counts, text_config
from .families import Family
from .order import ORDER, in_order
from .rows import ATTENTION_SITES, Place, Reading, read
from .sites import Site, SiteLike, Span, UnknownSite
from .stacks import Stack, stacks_of, submodule, without_clipped
from .torch_modules import torch_stacks


class UnknownArchitecture(LayerscopeError, LookupError):
    """A model whose site names are not known, so only raw module paths can be used."""


def heads_of(site: Site, count: int) -> list[int]:
    """The heads that a selection means, of so many."""
    chosen = site.select
    if isinstance(chosen, Span):
        return list(range(count))[chosen.as_slice]
    if chosen is None:
        return list(range(count))
    heads = chosen if isinstance(chosen, tuple) else (chosen,)
    for head in heads:
        if not -count <= head < count:
            raise UnknownSite(f"{site}: expected an index below {count}, got {head}")
    return [range(count)[head] for head in heads]


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


class StackShape(NamedTuple):
    """What a stack was read off and a user may change later: it is looked at again each time,
    which costs little.
    """

    path: str
    blocks: tuple[int, ...]
    config: Any
    heads: tuple[Any, ...]


def stack_shape(model: nn.Module, path: str, config: Any) -> StackShape:
    blocks = submodule(model, path)
    named = object.__getattribute__(config, "__dict__")  # a configuration's own look-ups are slow
    children = () if blocks is None else tuple(map(id, blocks._modules.values()))
    return StackShape(path, children, config, tuple(named.get(name) for name in _HEADS))


def has_experts(model: nn.Module, path: str = "") -> bool:
    """Whether some block is a mixture of experts; with a path, whether that block is."""
    return any(
        "expert" in f"{name} {type(m).__name__}".lower()
        for name, m in model.get_submodule(path).named_modules()
    )


def read_site_map(model: nn.Module) -> tuple[Anatomy, tuple[StackShape, ...]]:
    """The anatomy of a model that is not inside an adapter, and the stacks that it was read off.

    Raises:
        UnknownArchitecture: its sites are not known by name.
    """
    if hasattr(model, "hook_dict") and hasattr(model, "original_model"):
        return _from_bridge(model), ()
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
    known, shapes = _from_stacks(
        model, stacks, source if stacks[0].name == "blocks" else "layerscope's table"
    )
    return (known, shapes) if kind is not None else _with_torch(model, stacks, known, shapes)


def _with_torch(
    model: nn.Module, stacks: Sequence[Stack], known: Anatomy, shapes: tuple[StackShape, ...]
) -> tuple[Anatomy, tuple[StackShape, ...]]:
    """A user's own module that holds a transformers model: also PyTorch's own layers beside it."""
    places, lengths = dict(known.places), dict(known.stacks)
    bodies = tuple(stack.prefix for stack in stacks)
    for name, reading, stack in torch_stacks(model, taken=lengths, outside=bodies):
        places.update(reading.places)
        lengths[name] = reading.n_layers
        if stack is not None:
            shapes = (*shapes, stack_shape(model, stack.path, stack.config))
    return replace(known, places=in_order(places), stacks=lengths), shapes


def _of_torch(model: nn.Module) -> tuple[Anatomy, tuple[StackShape, ...]]:
    """What PyTorch's own layers in a model of any other kind have."""
    stacks_of_torch = list(torch_stacks(model))
    # A model of another make may say where its embedding is.
    embedding = (
        getattr(model, "embedding", None) if hasattr(model, "get_input_embeddings") else None
    )
    outside = {"hook_embed": Place(embedding, "output")} if isinstance(embedding, str) else {}
    if not stacks_of_torch and outside:
        return Anatomy(outside, 0, 0, 0, "the model's own word"), ()
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
    shapes = tuple(
        stack_shape(model, s.path, s.config) for _, _, s in stacks_of_torch if s is not None
    )
    n_heads = 0 if stack is None else head_counts(stack.config)[0]
    site_map = Anatomy(
        in_order(places),
        main.n_layers,
        n_heads,
        n_heads,
        "PyTorch's own modules",
        {} if stack is None else _missing(model, stack.family, main, f"{stack.name}."),
        main.heads,
        {name: reading.n_layers for name, reading, _ in stacks_of_torch},
    )
    return site_map, shapes


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


def _from_stacks(
    model: nn.Module, stacks: Sequence[Stack], source: str
) -> tuple[Anatomy, tuple[StackShape, ...]]:
    readings = {
        stack.name: reading for stack in stacks if (reading := read(model, stack)) is not None
    }
    places = {
        name: place for reading in readings.values() for name, place in reading.places.items()
    }
    shapes = tuple(stack_shape(model, stack.path, text_config(stack.config)) for stack in stacks)
    main = stacks[0]
    n_heads, n_kv = head_counts(main.config)
    by_layer = readings[main.name].heads
    counts = set(by_layer.values())
    if len(counts) == 1:
        n_heads, n_kv = counts.pop()
    site_map = Anatomy(
        in_order(places),
        readings[main.name].n_layers,
        n_heads,
        n_kv,
        source,
        _missing(model, main.family, readings[main.name], f"{main.name}."),
        by_layer,
        {name: reading.n_layers for name, reading in readings.items()},
    )
    return site_map, shapes


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
