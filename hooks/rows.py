"""From a row of `hooks.families` to the places of one model: which alternative each block has, and how many heads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from torch import nn

from layerscope.errors import InputError

from . import views
from .configuration import head_counts, text_config
from .experts import expert_count
from .families import FAMILIES, Family, PlaceSpec
from .sites import Index, Site
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
    r"^(?P<path>.*):(?P<end>input|output|neurons|query|key|value|mixed)(?:\[(?P<item>\d+)\])?$"
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
        end: its ``input``, its ``output``, the ``scores``/``pattern`` computed inside an attention module, or the
            ``neurons`` of one of a module's experts (``item`` is then ``"3.pre"`` or ``"3.post"``), the ``steps`` of a
            recurrence (``item`` is ``"0.cell"``), or ``query``, ``key``, ``value`` and the ``mixed`` values of
            attention that is one function of PyTorch.
        view: raw tensor -> site tensor.
        item: which element of a tuple, or which key of a mapping; None takes the first tensor.
        call: which of the module's calls within one forward, for a block that is shared by all layers.
        calls: how many calls one forward makes.
        own: a selection of heads, as it counts in scores or patterns that hold some heads alone.
        like: the raw tensor is ``(batch pos) d``; this module's input tells batch and pos.
        read_only: why an edit of the site would change nothing, where that is so.
    """

    path: str
    end: End
    view: View = views.identity
    item: int | str | None = None
    call: int = 0
    calls: int = 1
    own: Index | None = None
    like: str | None = None
    read_only: str = ""

    def within(self, site: Site) -> Site:
        """A site with its selection as it counts in the raw tensor."""
        return site if self.own is None else Site(site.name, self.own)


@dataclass(frozen=True)
class Stack:
    """One list of blocks in a model: its name in sites, its row, and where the row's paths start.

    Args:
        name: ``blocks``, ``decoder_blocks``, ``vision_blocks``, ``audio_blocks``.
        prefix: path of the body, with its dot; empty for the model itself.
        config: the body's own configuration.
    """

    name: str
    prefix: str
    family: Family
    config: Any

    @property
    def path(self) -> str:
        """Where its blocks are."""
        return self.prefix + self.family.blocks


def stacks_of(model: nn.Module) -> list[Stack]:
    """The stacks that the table knows in a model, the text's (or the only one) first, as ``blocks``."""
    matches = list(_matches(model))
    if not matches:
        return []
    config: Any = getattr(model, "config", None)
    text = text_config(config)
    main = next(
        (
            m
            for m in matches
            if getattr(m.config, "model_type", None) == getattr(text, "model_type", "")
        ),
        None,
    )
    if main is None and len(matches) == 1 and matches[0].prefix.count(".") <= 1:
        main = matches[0]
    found: dict[str, Stack] = {}
    if main is not None:
        found["blocks"] = main
        decoder = main.family.decoder
        if decoder is not None and submodule(model, main.prefix + decoder.blocks) is not None:
            found["decoder_blocks"] = replace(main, name="decoder_blocks", family=decoder)
    for match in matches:
        name = _sense(match.config)
        if match is not main and name is not None:
            found.setdefault(name, replace(match, name=name))
    return list(found.values())


def _matches(model: nn.Module) -> Iterator[Stack]:
    inside: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(prefix) for prefix in inside):
            continue
        config = getattr(module, "config", None)
        prefix = f"{path}." if path else ""
        for family in FAMILIES.get(getattr(config, "model_type", None) or "", ()):
            if not family.when(config):
                continue
            chosen = _resolved(module, family)
            if chosen is not None:
                inside.append(prefix)
                yield Stack("blocks", prefix, chosen, config)
                if not prefix:
                    return
                break


def _resolved(module: nn.Module, family: Family) -> Family | None:
    """The row as this module has it: whole, its encoder alone, or its decoder alone."""
    if submodule(module, family.blocks) is not None:
        return family
    decoder = family.decoder
    if decoder is not None and submodule(module, decoder.blocks) is not None:
        inside = {part: place for part, place in decoder.inside.items() if "cross" not in part}
        return replace(decoder, inside=inside, cross=None)
    for part, row in (("encoder.", family), ("decoder.", decoder)):
        if (
            row is None
            or not row.blocks.startswith(part)
            or type(module).__name__.lower().find(part[:-1]) < 0
        ):
            continue
        if submodule(module, row.blocks.removeprefix(part)) is not None:
            outside = {
                k: v.removeprefix(part) if isinstance(v, str) else v for k, v in row.outside.items()
            }
            inside = {name: place for name, place in row.inside.items() if "cross" not in name}
            blocks = row.blocks.removeprefix(part)
            return replace(
                row, blocks=blocks, outside=outside, inside=inside, cross=None, decoder=None
            )
    return None


def _sense(config: Any) -> str | None:
    kind = str(getattr(config, "model_type", ""))
    if "vision" in kind or hasattr(config, "image_size") or hasattr(config, "patch_size"):
        return "vision_blocks"
    if "audio" in kind or "speech" in kind or hasattr(config, "num_mel_bins"):
        return "audio_blocks"
    return None


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
    """The sites of one stack, each at the first place that its block has; None where there is no such stack."""
    family, prefix = stack.family, stack.prefix
    blocks = submodule(model, stack.path)
    if blocks is None:
        return None
    layers = (
        {str(i): "" for i in range(_layer_count(stack.config))}
        if family.shared
        else _paths_of(blocks)
    )
    counts = head_counts(stack.config)
    made = Reading({}, len(layers), {})
    calls = family.calls(stack.config)

    def add(
        name: str, spec: PlaceSpec, base: str, attention: nn.Module | None, call: int
    ) -> Place | None:
        part = Site(name).part
        place = resolve(model, spec, base, attention, stack.config, counts, part)
        if place is not None:
            first, each = calls.get(part, (0, 1))
            many = (len(layers) if family.shared else 1) * each
            made.places[name] = replace(place, call=call * each + first, calls=many)
        return place

    for name, spec in family.outside.items():
        if stack.name == "blocks":
            add(name, spec, prefix, None, 0)
        elif stack.name == "decoder_blocks":
            add(f"decoder_{name}", spec, prefix, None, 0)
    for layer, key in enumerate(layers):
        base = stack.path + ("." if family.shared else f".{key}.")
        call = layer if family.shared else 0
        seen: list[tuple[str | None, tuple[str, ...]]] = [
            (family.attention, ATTENTION_SITES),
            (family.cross, CROSS_SITES),
        ]
        attention = _module_of(model, base, family.attention)
        for part, spec in family.inside.items():
            if part.endswith(".experts"):
                _add_experts(model, made, f"{stack.name}.{layer}.{part}", spec, base)
                continue
            other = (
                _module_of(model, base, family.cross)
                if part.startswith("cross_attn")
                else attention
            )
            add(f"{stack.name}.{layer}.{part}", spec, base, other[1] if other else None, call)
        for where, names in seen:
            module = _module_of(model, base, where)
            for name, end in zip(names, ("scores", "pattern"), strict=True):
                if module is not None and name not in family.missing:
                    many = len(layers) if family.shared else 1
                    made.places[f"{stack.name}.{layer}.{name}"] = Place(
                        module[0], end, call=call, calls=many
                    )  # type: ignore[arg-type]
        if attention is not None:
            made.heads[layer] = _layer_heads(model, made.places, f"{stack.name}.{layer}", counts)
    _count_shared(model, made.places)
    return made


def _add_experts(model: nn.Module, made: Reading, name: str, spec: PlaceSpec, base: str) -> None:
    for path, _, _, _ in _alternatives(model, str(spec), base):
        for expert in range(expert_count(model.get_submodule(path))):
            for end in ("pre", "post"):
                place = Place(path, "neurons", item=f"{expert}.{end}", like=base.removesuffix("."))
                made.places[f"{name}.{expert}.hook_{end}"] = place
        return


def _layer_count(config: Any) -> int:
    return int(text_config(config).num_hidden_layers)


def _paths_of(blocks: nn.Module) -> dict[str, str]:
    """The blocks' keys; a list of lists (the stages of a hierarchical encoder) is one list."""
    found = {}
    for name, child in blocks.named_children():
        inner = getattr(child, "blocks", None)
        if isinstance(inner, nn.ModuleList):
            found |= {f"{name}.blocks.{i}": "" for i in range(len(inner))}
        else:
            found[name] = ""
    return found


def _module_of(model: nn.Module, base: str, paths: str | None) -> tuple[str, nn.Module] | None:
    """The first of several modules that a block has, and its path."""
    for text in paths.split(" or ") if paths else ():
        path, _, condition = text.partition(" if ")
        module = submodule(model, base + path)
        if module is not None and (not condition or submodule(model, base + condition) is not None):
            return base + path, module
    return None


def _alternatives(
    model: nn.Module, spec: str, base: str
) -> Iterator[tuple[str, End, int | None, str]]:
    """Path, end, item and view of each alternative whose modules the block has."""
    for text in spec.split(" or "):
        where, _, condition = text.partition(" if ")
        where, _, how = where.partition("|")
        match = _PLACE.match(where.strip())
        if match is None:
            raise InputError(
                f"place {spec!r}: expected 'path:input' or 'path:output', got {where!r}"
            )
        path = base + match["path"] if match["path"] else base.removesuffix(".")
        known = submodule(model, path) is not None
        if known and (not condition or submodule(model, base + condition.strip()) is not None):
            yield path, match["end"], int(match["item"]) if match["item"] else None, how.strip()  # type: ignore[misc]


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
    for path, end, item, how in _alternatives(model, spec, base):
        module = model.get_submodule(path)
        kind, _, argument = how.partition(":")
        like = base.removesuffix(".") if kind in ("rows", "unflatten") else None
        view = _view(kind, argument, part, module, end, attention, config, counts)
        if view is None:
            continue
        return Place(path, end, view, item=item, like=like, read_only=_read_only(part, module))
    return None


def _read_only(part: str, module: nn.Module) -> str:
    if part == "hook_resid_mid_cross":
        return "the block reads the sum twice: edit hook_cross_attn_out, which is added to it"
    if part == "mlp.hook_expert_indices":
        return "its weights in the sum are edited by hook_expert_weights"
    if part == "mlp.hook_router_logits" and not type(module).__name__.startswith("Linear"):
        return "the router chooses experts before it returns its logits: edit hook_expert_weights, or the router's input"
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
    own = n_kv if part.endswith(("hook_k", "hook_v")) else n_heads
    size = _head_size(attention, "vz" if part.endswith(("hook_v", "hook_z")) else "qk")
    width = _width(module, end)

    def count(parts: int = 1) -> int:
        if size is None or width is None or width % (size * parts):
            return own
        return width // (size * parts)

    match kind:
        case "" | "unflatten" | "rows":
            return views.identity
        case "heads":
            return views.heads(count())
        case "gated":
            return views.gated(int(argument), count(2))
        case "thirds":
            return views.thirds(int(argument), count(3))
        case "interleaved":
            return views.interleaved(int(argument), count(3))
        case "fused":
            return None if width is None else views.fused(int(argument), n_heads, n_kv, width)
        case "halves":
            return views.halves(int(argument))
        case "first":
            owner = getattr(attention, argument, None) or getattr(config, argument, None)
            return None if owner is None else views.first(int(owner))
        case "stream":
            return views.stream(int(getattr(config, argument)))
        case "turned":
            return views.turned
    raise InputError(f"place of {part!r}: no view {kind!r}")


def _head_size(attention: nn.Module | None, which: str) -> int | None:
    for name in _HEAD_SIZES[which]:
        value = getattr(attention, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _width(module: nn.Module, end: str) -> int | None:
    """Columns of what a projection takes or gives."""
    if hasattr(module, "nf"):  # transformers' Conv1D
        weight = module.weight
        return int(module.nf if end == "output" else weight.shape[0])  # type: ignore[arg-type,union-attr,index]
    found = getattr(module, "out_features" if end == "output" else "in_features", None)
    return found if isinstance(found, int) else None


def _layer_heads(
    model: nn.Module, places: Mapping[str, Place], block: str, counts: tuple[int, int]
) -> tuple[int, int]:
    def of(*parts: str) -> int | None:
        for part in parts:
            place = places.get(f"{block}.attn.{part}")
            heads = getattr(place.view, "n_heads", None) if place is not None else None
            if heads:
                return int(heads)
        return None

    n_heads = of("hook_z", "hook_q") or counts[0]
    return n_heads, of("hook_v", "hook_k") or (counts[1] if n_heads % counts[1] == 0 else n_heads)


def _count_shared(model: nn.Module, places: dict[str, Place]) -> None:
    """One module under several layers (Zamba's transformer): each of its calls belongs to one of them."""
    paths: dict[int, dict[str, None]] = defaultdict(dict)
    for place in places.values():
        if place.calls == 1:
            paths[id(model.get_submodule(place.path))][place.path] = None
    for name, place in places.items():
        known = list(paths.get(id(model.get_submodule(place.path)), ()))
        if place.calls == 1 and len(known) > 1:
            places[name] = replace(place, call=known.index(place.path), calls=len(known))


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """A module by its path, None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
