"""From a row of `hooks.families` to the places of one model: which alternative each block has,
and how many heads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from torch import nn

from layerscope.errors import InputError

from . import views
from .configuration import head_counts, text_config
from .experts import expert_count
from .families import PlaceSpec
from .sites import Index, Site
from .stacks import Stack, submodule
from .views import View

#: Sites that only exist while attention is being computed; see `hooks.attention`.
ATTENTION_SITES = ("attn.hook_attn_scores", "attn.hook_pattern")
CROSS_SITES = ("cross_attn.hook_attn_scores", "cross_attn.hook_pattern")

End: TypeAlias = Literal[
    "input", "output", "neurons", "steps", "query", "key", "value", "scores", "pattern", "mixed"
]
#: What is seen while an attention module computes it.
ATTENTION_ENDS = ("query", "key", "value", "scores", "pattern", "mixed")
_PLACE = re.compile(
    r"^(?P<path>.*):(?P<end>input|output|neurons|query|key|value|mixed)(?:\[(?P<item>\d{1,9})\])?$"
)
_HEAD_SIZES = {
    "qk": ("qk_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim", "head_size"),
    "vz": ("v_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim", "head_size"),
}


@dataclass(frozen=True)
class Place:
    """Where a site's tensor is found.

    Args:
        path: the module, as `nn.Module.get_submodule` takes it.
        end: its ``input``, its ``output``, the ``scores``/``pattern`` computed inside an attention
            module, or the ``neurons`` of one of a module's experts (``item`` is then ``"3.pre"`` or
            ``"3.post"``), the ``steps`` of a recurrence (``item`` is ``"0.cell"``), or ``query``,
            ``key``, ``value`` and the ``mixed`` values of attention that is one function of
            PyTorch.
        view: raw tensor -> site tensor.
        item: which element of a tuple, or which key of a mapping; None takes the first tensor.
        call: which of the module's calls within one forward, for a block that is shared by all
            layers.
        calls: how many calls one forward makes.
        local_selection: a selection of heads, as it counts in scores or patterns that hold some
            heads alone.
        like: the raw tensor is ``(batch pos) d``; this module's input tells batch and pos.
        read_only: why an edit of the site would change nothing, where that is so.
    """

    path: str
    end: End
    view: View = views.identity
    item: int | str | None = None
    call: int = 0
    calls: int = 1
    local_selection: Index | None = None
    like: str | None = None
    read_only: str = ""

    def within(self, site: Site) -> Site:
        """A site with its selection as it counts in the raw tensor."""
        return site if self.local_selection is None else Site(site.name, self.local_selection)


@dataclass
class Reading:
    """The places of one stack, and the heads of its layers.

    Attributes:
        heads: layer -> heads of queries, and of keys and values.
    """

    places: dict[str, Place]
    n_layers: int
    heads: dict[int, tuple[int, int]]


def read(model: nn.Module, stack: Stack) -> Reading | None:
    """The sites of one stack, each at the first place that its block has;
    None where there is no such stack.
    """
    family = stack.family
    blocks = submodule(model, stack.path)
    if blocks is None:
        return None
    if family.shared:
        keys = [""] * int(text_config(stack.config).num_hidden_layers)
    else:
        keys = _keys_of(blocks)
    reader = _StackReader(model, stack, len(keys))
    reader.add_outside()
    for layer, key in enumerate(keys):
        reader.add_layer(layer, key)
    _count_shared(model, reader.reading.places)
    return reader.reading


class _StackReader:
    """Collects the places of one stack, layer by layer."""

    def __init__(self, model: nn.Module, stack: Stack, n_layers: int) -> None:
        self.model, self.stack = model, stack
        self.counts = head_counts(stack.config)
        self.calls = stack.family.calls(stack.config)
        # A block that all layers share is called once a layer.
        self.calls_of_block = n_layers if stack.family.shared else 1
        self.reading = Reading({}, n_layers, {})

    def add_outside(self) -> None:
        """The sites before and behind the blocks; a decoder's get its name in front."""
        start = {"blocks": "", "decoder_blocks": "decoder_"}.get(self.stack.name)
        if start is None:
            return
        for name, spec in self.stack.family.outside.items():
            self._add(start + name, spec, self.stack.prefix, None, 0)

    def add_layer(self, layer: int, key: str) -> None:
        """The sites of one block."""
        model, family = self.model, self.stack.family
        block = f"{self.stack.name}.{layer}"
        # ALBERT runs one block many times: its parts have one path, and a layer is a call.
        base = self.stack.path + ("." if family.shared else f".{key}.")
        call = layer if family.shared else 0
        attention = _module_of(model, base, family.attention)
        cross = _module_of(model, base, family.cross)
        for part, spec in family.inside.items():
            if part.endswith(".experts"):
                _add_experts(model, self.reading, f"{block}.{part}", spec, base)
                continue
            owner = cross if part.startswith("cross_attn") else attention
            self._add(f"{block}.{part}", spec, base, owner[1] if owner else None, call)
        self._add_attention(block, attention, ATTENTION_SITES, call)
        self._add_attention(block, cross, CROSS_SITES, call)
        if attention is not None:
            heads = _layer_heads(self.reading.places, block, self.counts)
            self.reading.heads[layer] = heads

    def _add(
        self, name: str, spec: PlaceSpec, base: str, attention: nn.Module | None, call: int
    ) -> None:
        part = Site(name).part
        config = self.stack.config
        place = resolve(self.model, spec, base, attention, config, self.counts, part)
        if place is None:
            return
        first, each = self.calls.get(part, (0, 1))
        self.reading.places[name] = replace(
            place, call=call * each + first, calls=self.calls_of_block * each
        )

    def _add_attention(
        self,
        block: str,
        attention: tuple[str, nn.Module] | None,
        names: tuple[str, str],
        call: int,
    ) -> None:
        """Scores and pattern, which exist only inside an attention module."""
        if attention is None:
            return
        ends: tuple[End, End] = ("scores", "pattern")
        for name, end in zip(names, ends, strict=True):
            if name not in self.stack.family.missing:
                self.reading.places[f"{block}.{name}"] = Place(
                    attention[0], end, call=call, calls=self.calls_of_block
                )


def _add_experts(model: nn.Module, reading: Reading, name: str, spec: PlaceSpec, base: str) -> None:
    """The hidden layer of each expert, at the first place that the block has."""
    path = next((path for path, _, _, _ in _alternatives(model, str(spec), base)), None)
    if path is None:
        return
    block = base.removesuffix(".")
    for expert in range(expert_count(model.get_submodule(path))):
        for end in ("pre", "post"):
            place = Place(path, "neurons", item=f"{expert}.{end}", like=block)
            reading.places[f"{name}.{expert}.hook_{end}"] = place


def _keys_of(blocks: nn.Module) -> list[str]:
    """The blocks' keys; a list of lists (the stages of a hierarchical encoder) is one list."""
    keys: list[str] = []
    for name, child in blocks.named_children():
        stage = next((part for part in ("blocks", "layers") if _is_list(child, part)), None)
        if stage is not None:
            of_stage = cast(nn.ModuleList, child.get_submodule(stage))
            keys += [f"{name}.{stage}.{i}" for i in range(len(of_stage))]
        else:
            keys.append(name)
    return keys


def _is_list(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.ModuleList | nn.Sequential)


def _module_of(model: nn.Module, base: str, paths: str | None) -> tuple[str, nn.Module] | None:
    """The first of several modules that a block has, and its path."""
    for text in paths.split(" or ") if paths else ():
        path, _, condition = text.partition(" if ")
        full = _path("" if path == "." else path, base)
        module = submodule(model, full)
        if module is not None and _holds(model, base, condition):
            return full, module
    return None


def _holds(model: nn.Module, base: str, condition: str) -> bool:
    """Whether a block has the module that an alternative asks for; none asked for holds."""
    return not condition or submodule(model, base + condition) is not None


def _alternatives(
    model: nn.Module, spec: str, base: str
) -> Iterator[tuple[str, End, int | None, str]]:
    """Path, end, item and view of each alternative whose modules the block has."""
    for text in spec.split(" or "):
        alternative, _, condition = text.partition(" if ")
        where, _, how = alternative.partition("|")
        match = _PLACE.match(where.strip())
        if match is None:
            raise InputError(
                f"place {spec!r}: expected 'path:input' or 'path:output', got {where!r}"
            )
        path = _path(match["path"], base)
        item = int(match["item"]) if match["item"] else None
        if submodule(model, path) is not None and _holds(model, base, condition.strip()):
            yield path, match["end"], item, how.strip()  # type: ignore[misc]


def _path(path: str, base: str) -> str:
    """A place's path in the model: from the block, or behind ``^`` from what holds the list of
    blocks.

    A second ``^`` goes one module further up. There ``{i}`` is the block's number and ``{before}``
    that of the block before it.
    """
    block = base.removesuffix(".")
    if not path.startswith("^"):
        return base + path if path else block
    above, _, number = block.rpartition(".")
    relative_path = path.lstrip("^")
    for _ in range(len(path) - len(relative_path)):
        above = above.rpartition(".")[0]
    relative_path = relative_path.format(i=number, before=int(number) - 1)
    return f"{above}.{relative_path}" if above else relative_path


def resolve(
    model: nn.Module,
    spec: PlaceSpec,
    base: str,
    attention: nn.Module | None,
    config: Any,
    counts: tuple[int, int],
    part: str,
) -> Place | None:
    """The first place of a specification that the block at ``base`` has."""
    if not isinstance(spec, str):
        path, end, view = spec
        full = base + path if path else base.removesuffix(".")
        return Place(full, end, view) if submodule(model, full) is not None else None
    block = base.removesuffix(".")
    for path, end, item, how in _alternatives(model, spec, base):
        module = model.get_submodule(path)
        kind, _, argument = how.partition(":")
        # Some MLPs see batch and positions as one axis: the block's own input tells how to take
        # them apart.
        like = block if kind in ("rows", "unflatten") else None
        view = _view(kind, argument, part, module, end, attention, config, counts)
        if view is not None:
            read_only = _read_only(part, module)
            return Place(path, end, view, item=item, like=like, read_only=read_only)
    return None


def _read_only(part: str, module: nn.Module) -> str:
    if part == "hook_resid_mid_cross":
        return "the block reads the sum twice: edit hook_cross_attn_out, which is added to it"
    if part == "mlp.hook_expert_indices":
        return "its weights in the sum are edited by hook_expert_weights"
    if part == "mlp.hook_router_logits" and not type(module).__name__.startswith("Linear"):
        return (
            "the router chooses experts before it returns its logits: edit hook_expert_weights, "
            "or the router's input"
        )
    return ""


def _view(
    kind: str,
    argument: str,
    part: str,
    module: nn.Module,
    end: str,
    attention: nn.Module | None,
    config: Any,
    counts: tuple[int, int],
) -> View | None:
    n_heads, n_kv = counts
    configured = n_kv if part.endswith(("hook_k", "hook_v")) else n_heads
    # Queries and keys may have another size of head than values.
    d_head = _head_size(attention, "vz" if part.endswith(("hook_v", "hook_z")) else "qk")
    width = _width(module, end)

    def count(parts: int = 1) -> int:
        """Heads by the width of the projection,
        which holds where layers differ from the configuration.
        """
        if d_head is None or width is None or width % (d_head * parts):
            return configured
        return width // (d_head * parts)

    match kind:
        case "" | "unflatten" | "rows":
            return views.identity
        case "heads":
            return views.heads(count())
        case "gated":
            return views.gated(int(argument), count(2))
        case "thirds":
            return views.consecutive(int(argument), 3, count(3))
        case "pair":
            return views.consecutive(int(argument), 2, count(2))
        case "interleaved":
            return views.interleaved(int(argument), count(3))
        case "fused":
            return None if width is None else views.fused(int(argument), n_heads, n_kv, width)
        case "halves":
            return views.halves(int(argument))
        case "first":
            first = getattr(attention, argument, None) or getattr(config, argument, None)
            return None if first is None else views.first(int(first))
        case "stream":
            return views.stream(int(getattr(config, argument)))
        case "latent":
            key_width = getattr(attention, "qk_nope_head_dim", None)
            size = None if key_width is None else key_width + getattr(attention, "v_head_dim", 0)
            if key_width is None or size is None or width is None or width % size:
                return None
            return views.latent(int(argument), width // size, key_width)
        case "turned_heads":
            return views.turned_heads(count())
        case "channel_heads":
            return views.channel_heads(n_heads)
        case "turned" | "channels" | "pixels" | "grid" | "copied":
            return getattr(views, kind)
    raise InputError(f"place of {part!r}: no view {kind!r}")


def _head_size(attention: nn.Module | None, which: str) -> int | None:
    for name in _HEAD_SIZES[which]:
        value = getattr(attention, name, None)
        # Configurations and modules call the size of a head by many names; the first that is a
        # number counts.
        if isinstance(value, int) and value > 0:
            return value
    return None


def _width(module: nn.Module, end: str) -> int | None:
    """Columns of what a projection takes or gives."""
    is_output = end == "output"
    if hasattr(module, "nf"):  # transformers' Conv1D
        weight = module.weight
        return int(module.nf if is_output else weight.shape[0])  # type: ignore[arg-type,union-attr,index]
    width = getattr(module, "out_features" if is_output else "in_features", None)
    return width if isinstance(width, int) else None


def _layer_heads(
    places: Mapping[str, Place], block: str, counts: tuple[int, int]
) -> tuple[int, int]:
    """Heads of queries, and of keys and values, by the views of a block's places."""

    def first_count(*parts: str) -> int | None:
        for part in parts:
            place = places.get(f"{block}.attn.{part}")
            heads = getattr(place.view, "n_heads", None) if place is not None else None
            if heads:
                return int(heads)
        return None

    configured, configured_kv = counts
    n_heads = first_count("hook_z", "hook_q") or configured
    # A layer whose heads cannot share the configured keys has a key for each head.
    n_kv = configured_kv if n_heads % configured_kv == 0 else n_heads
    return n_heads, first_count("hook_v", "hook_k") or n_kv


def _count_shared(model: nn.Module, places: dict[str, Place]) -> None:
    """One module under several layers (Zamba's transformer):
    each of its calls belongs to one of them.
    """
    paths: dict[int, dict[str, None]] = defaultdict(dict)  # module -> its paths, in order
    for place in places.values():
        if place.calls == 1:
            paths[id(model.get_submodule(place.path))][place.path] = None
    # Calls are counted in the order in which the layers' paths were met.
    for name, place in places.items():
        known = list(paths.get(id(model.get_submodule(place.path)), ()))
        if place.calls == 1 and len(known) > 1:
            places[name] = replace(place, call=known.index(place.path), calls=len(known))
