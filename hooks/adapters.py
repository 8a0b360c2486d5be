"""The families that `hooks.families` does not list, read off TransformerLens's architecture
adapters.

An adapter describes an architecture by nested components; a hook alias such as
``ln1_post.hook_out`` names a component and one of its ends. Both are turned into a row of the same
table that the other families use. The model is neither wrapped nor changed. Importing
TransformerLens takes seconds, so this module is imported only when it is needed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from . import views
from .configuration import setting
from .families import Family, PlaceSpec
from .families.row import RESIDUAL

_BLOCK_ALIASES = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out")
_OUTSIDE = {
    "hook_embed": "embed",
    "hook_pos_embed": "pos_embed",
    "ln_final.hook_normalized": "ln_final",
}
"""Sites outside the blocks -> the adapter's name of the component whose output they are."""
_STACKS = ("blocks", "encoder_blocks", "decoder_blocks")
PROVED = (
    "codegen",
    "falcon",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
)
"""Model types whose adapters the tests put to oracles: an adapter describes where parts are,
not that they add up.
"""


def family_from_transformer_lens(model: nn.Module) -> Family:
    """One row for a model whose architecture TransformerLens knows;
    `UnknownArchitecture` if it does not.
    """
    from .site_map import UnknownArchitecture

    kind = model.config.model_type  # type: ignore[union-attr]
    if kind not in PROVED:
        raise UnknownArchitecture(
            f"{type(model).__name__}: layerscope's table has no row for model type "
            f"{kind!r}, and no test proves a map of it: use raw paths such as "
            "'module:encoder.rnn:output[0]' (see model.named_modules())"
        )
    tried: list[str] = []
    for name in _candidates(model):
        tried.append(name)
        components = _components(model, name) or {}
        stack = next((components[s] for s in _STACKS if s in components), None)
        if stack is not None:
            return _row(model, components, stack)
    raise UnknownArchitecture(
        f"{type(model).__name__}: neither layerscope's table nor TransformerLens's adapters "
        f"describe it (tried {', '.join(dict.fromkeys(tried))}); "
        "use raw paths such as 'module:encoder.rnn:output[0]' (see model.named_modules())"
    )


def _candidates(model: nn.Module) -> Iterator[str]:
    """The class itself, then the classes with a language-model head on the same body."""
    from transformers.models.auto import modeling_auto as auto

    yield type(model).__name__
    kind = model.config.model_type  # type: ignore[union-attr]
    for task in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM"):
        names = getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).get(kind)
        if names:
            yield from (names,) if isinstance(names, str) else names


def _components(model: nn.Module, architecture: str) -> dict[str, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.factories.architecture_adapter_factory import (
            ArchitectureAdapterFactory,
        )
        from transformer_lens.model_bridge.sources._bridge_builder import (
            build_bridge_config_from_hf,
        )

        try:
            config = build_bridge_config_from_hf(
                model.config, architecture, architecture, torch.float32
            )
            adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
        # No adapter for this class: another of the candidates may have one.
        # adapters raise of many kinds on what they do not describe, a missing package among them
        except Exception:
            return None
    return dict(adapter.component_mapping or {})


def _row(model: nn.Module, components: dict[str, Any], stack: Any) -> Family:
    from .site_map import has_experts

    # Adapters name paths from the whole model, rows of the table from its body.
    body = f"{getattr(model, 'base_model_prefix', '')}."
    parts = dict(stack.submodules)
    attention, mlp = parts.get("attn"), parts.get("mlp")

    inside: dict[str, PlaceSpec] = dict(RESIDUAL)
    inside |= _stream_places(stack, parts)
    if attention is not None:
        inside |= _attention_places(model, body, stack.name, attention)
    if mlp is not None and not has_experts(model):  # experts have no hidden layer in common
        inside |= _mlp_places(mlp)

    return Family(
        stack.name.removeprefix(body),
        _outside(components, body),
        inside,
        attention.name if attention is not None else None,
    )


def _outside(components: dict[str, Any], body: str) -> dict[str, PlaceSpec]:
    """The sites before and behind the blocks."""
    places: dict[str, PlaceSpec] = {}
    for site, component in _OUTSIDE.items():
        if component in components and components[component].name:
            places[site] = f"{components[component].name.removeprefix(body)}:output"
    return places


def _stream_places(stack: Any, parts: dict[str, Any]) -> dict[str, PlaceSpec]:
    """What the sublayers add to the residual stream, and the stream between them."""
    # Where a sublayer's output is scaled inside the block's forward, no module returns what is
    # added: not listed.
    is_scaled = "ScaledResidual" in type(stack).__name__
    places: dict[str, PlaceSpec] = {}
    for alias in _BLOCK_ALIASES:
        target = stack.hook_aliases.get(alias)
        spec = _place(parts, target) if target else None
        is_addend = alias != "hook_resid_mid"
        if spec and not (is_scaled and is_addend):
            places[alias] = spec
    return places


def _attention_places(
    model: nn.Module, body: str, blocks: str, attention: Any
) -> dict[str, PlaceSpec]:
    """Queries, keys, values and heads' outputs,
    at modules of their own or in the columns of one projection.
    """
    places: dict[str, PlaceSpec] = {}
    for head in ("hook_q", "hook_k", "hook_v", "hook_z"):
        target = attention.hook_aliases.get(head)
        spec = _place({"attn": attention}, f"attn.{target}") if target else None
        if spec is None:
            continue
        path = spec.partition(":")[0]
        if _module(model, body, f"{blocks}.0.{path}") is not None:
            places[f"attn.{head}"] = f"{spec}|heads"
    # No projection of their own: queries, keys and values are columns of one.
    if "attn.hook_q" not in places and hasattr(attention, "split_qkv_matrix"):
        places |= _fused(model, body, blocks, attention)
    return places


def _mlp_places(mlp: Any) -> dict[str, PlaceSpec]:
    """The MLP's hidden layer, before and behind its activation."""
    places: dict[str, PlaceSpec] = {}
    for end in ("hook_pre", "hook_post"):
        target = mlp.hook_aliases.get(end)
        spec = _place({"mlp": mlp}, f"mlp.{target}") if target else None
        if spec:
            places[f"mlp.{end}"] = spec
    return places


def _place(parts: dict[str, Any], alias: str) -> str | None:
    """``ln1_post.hook_out`` -> ``post_attention_layernorm:output``;
    None where the component is not a module.
    """
    *names, end = alias.split(".")
    if end not in ("hook_in", "hook_out"):
        return None
    is_input = end == "hook_in"
    path: list[str] = []
    component: Any = None
    for name in names:
        component = parts.get(name)
        if component is None:
            return None
        if component.name:
            path.append(component.name)
        parts = dict(component.submodules or {})
    # a container without a module: its first or last linear layer
    if component is not None and not component.name:
        child = parts.get("in" if is_input else "out")
        if child is None or not child.name:
            return None
        path.append(child.name)
    return f"{'.'.join(path)}:{'input' if is_input else 'output'}"


def _fused(model: nn.Module, body: str, blocks: str, attention: Any) -> dict[str, PlaceSpec]:
    """Which columns of a fused projection are queries, keys and values:
    the adapter's own split of a labelled weight.
    """
    qkv = (attention.submodules or {}).get("qkv")
    module = _module(model, body, f"{blocks}.0.{attention.name}")
    if qkv is None or qkv.name is None or module is None:
        return {}
    linear = getattr(module, qkv.name, None)
    if not isinstance(linear, nn.Module):
        return {}
    # The adapter splits a copy whose weight holds the number of each output column: its parts then
    # say whose they are.
    columns_last = type(linear).__name__ == "Conv1D"
    weight, bias = linear.get_parameter("weight"), getattr(linear, "bias", None)
    width = weight.shape[1] if columns_last else weight.shape[0]
    numbers = torch.arange(width, dtype=torch.float32)
    grid = (numbers if columns_last else numbers[:, None]).expand(weight.shape)
    # Shallow copies: the model keeps its own parameters.
    labelled = copy.copy(linear)
    labelled._parameters = {"weight": _frozen(grid.contiguous())}
    labelled._parameters["bias"] = _frozen(numbers.clone()) if bias is not None else None
    double = copy.copy(module)
    double._modules = {**module._modules, qkv.name: labelled}
    try:
        split = attention.split_qkv_matrix(double)
        columns = [part.weight[:, 0].round().long() for part in split]
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return {}  # a layout that the adapter itself cannot split: not listed
    is_partition = sorted(torch.cat(columns).tolist()) == list(range(width))
    if not is_partition:
        return {}

    path = f"{attention.name}.{qkv.name}"
    d_head = len(columns[0]) // int(setting(model.config, "num_attention_heads"))
    places: dict[str, PlaceSpec] = {}
    for name, index in zip("qkv", columns, strict=True):
        view = views.columns(index, len(index) // d_head)
        places[f"attn.hook_{name}"] = (path, "output", view)
    return places


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _module(model: nn.Module, body: str, path: str) -> nn.Module | None:
    for candidate in (path, path.removeprefix(body)):
        try:
            return model.get_submodule(candidate)
        except AttributeError:
            continue
    return None
