"""The families that `hooks.families` does not list, read off TransformerLens's architecture adapters.

An adapter describes an architecture by nested components; a hook alias such as ``ln1_post.hook_out`` names a component
and one of its ends. Both are turned into a row of the same table that the other families use. The model is neither
wrapped nor changed. Importing TransformerLens takes seconds, so this module is imported only when it is needed.
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
from .families.row import FOLDED, RESIDUAL
from .rows import ATTENTION_SITES

_BLOCK_ALIASES = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out")
_STACKS = ("blocks", "encoder_blocks", "decoder_blocks")
_FOLDED = ("xglm",)
"""Model types whose softmax runs on ``(batch head) query key``, where attention is not seen."""
PROVED = (
    "bloom",
    "codegen",
    "falcon",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "jetmoe",
    "modernbert-decoder",
    "mpt",
    "xglm",
)
"""Model types whose adapters the tests put to oracles: an adapter describes where parts are, not that they add up."""


def family_from_transformer_lens(model: nn.Module) -> Family:
    """One row for a model whose architecture TransformerLens knows; `UnknownArchitecture` if it does not."""
    from .anatomy import UnknownArchitecture

    kind = model.config.model_type  # type: ignore[union-attr]
    if kind not in PROVED:
        raise UnknownArchitecture(
            f"{type(model).__name__}: layerscope's table has no row for model type {kind!r}, and no test proves a map of it: use "
            "raw paths such as 'module:encoder.rnn:output[0]' (see model.named_modules())"
        )
    tried: list[str] = []
    for name in _candidates(model):
        tried.append(name)
        components = _components(model, name)
        stack = (
            next((components[s] for s in _STACKS if s in components), None) if components else None
        )
        if components and stack is not None:
            return _row(model, components, stack)
    raise UnknownArchitecture(
        f"{type(model).__name__}: neither layerscope's table nor TransformerLens's adapters describe it (tried "
        f"{', '.join(dict.fromkeys(tried))}); use raw paths such as 'module:encoder.rnn:output[0]' (see model.named_modules())"
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
        except Exception:  # adapters raise of many kinds on what they do not describe, a missing package among them
            return None
    return dict(adapter.component_mapping or {})


def _row(model: nn.Module, components: dict[str, Any], stack: Any) -> Family:
    from .anatomy import has_experts

    body = f"{getattr(model, 'base_model_prefix', '')}."

    def from_body(path: str) -> str:
        return path.removeprefix(body)

    outside: dict[str, PlaceSpec] = {}
    for name, component in (("hook_embed", "embed"), ("hook_pos_embed", "pos_embed")):
        if component in components and components[component].name:
            outside[name] = f"{from_body(components[component].name)}:output"
    if "ln_final" in components and components["ln_final"].name:
        outside["ln_final.hook_normalized"] = f"{from_body(components['ln_final'].name)}:output"

    parts = dict(stack.submodules)
    inside: dict[str, PlaceSpec] = dict(RESIDUAL)
    # Where a sublayer's output is scaled inside the block's forward, no module returns what is added: not listed.
    scaled = "ScaledResidual" in type(stack).__name__
    for alias in _BLOCK_ALIASES:
        target = stack.hook_aliases.get(alias)
        spec = _place(parts, target) if target else None
        if spec and not (scaled and alias != "hook_resid_mid"):
            inside[alias] = spec
    attention = parts.get("attn")
    if attention is not None:
        base = {"attn": attention}
        for head in ("hook_q", "hook_k", "hook_v", "hook_z"):
            target = attention.hook_aliases.get(head)
            spec = _place(base, f"attn.{target}") if target else None
            part = f"{spec}".partition(":")[0]
            if spec and _exists(model, body, stack.name, part):
                inside[f"attn.{head}"] = f"{spec}|heads"
        if "attn.hook_q" not in inside and hasattr(attention, "split_qkv_matrix"):
            inside |= _fused(model, body, stack.name, attention)
    mlp = parts.get("mlp")
    if mlp is not None and not has_experts(model):  # experts have no hidden layer in common
        for end in ("hook_pre", "hook_post"):
            target = mlp.hook_aliases.get(end)
            spec = _place({"mlp": mlp}, f"mlp.{target}") if target else None
            if spec:
                inside[f"mlp.{end}"] = spec
    folded = model.config.model_type in _FOLDED  # type: ignore[union-attr]
    return Family(
        from_body(stack.name),
        outside,
        inside,
        attention.name if attention is not None and not folded else None,
        missing=dict.fromkeys(ATTENTION_SITES, FOLDED) if folded else {},
    )


def _place(parts: dict[str, Any], alias: str) -> str | None:
    """``ln1_post.hook_out`` -> ``post_attention_layernorm:output``; None where the component is not a module."""
    *names, end = alias.split(".")
    if end not in ("hook_in", "hook_out"):
        return None
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
        child = parts.get("in" if end == "hook_in" else "out")
        if child is None or not child.name:
            return None
        path.append(child.name)
    return f"{'.'.join(path)}:{'input' if end == 'hook_in' else 'output'}"


def _fused(model: nn.Module, body: str, blocks: str, attention: Any) -> dict[str, PlaceSpec]:
    """Which columns of a fused projection are queries, keys and values: the adapter's own split of a labelled weight."""
    qkv = (attention.submodules or {}).get("qkv")
    module = _module(model, body, f"{blocks}.0.{attention.name}")
    if (
        qkv is None
        or module is None
        or not isinstance(linear := getattr(module, qkv.name, None), nn.Module)
    ):
        return {}
    weight, bias = linear.get_parameter("weight"), getattr(linear, "bias", None)
    labelled = copy.copy(linear)
    width = weight.shape[1] if type(linear).__name__ == "Conv1D" else weight.shape[0]
    rows = torch.arange(width, dtype=torch.float32)
    grid = (
        rows.expand(weight.shape)
        if type(linear).__name__ == "Conv1D"
        else rows[:, None].expand(weight.shape)
    )
    labelled._parameters = {"weight": nn.Parameter(grid.contiguous(), requires_grad=False)}
    labelled._parameters["bias"] = (
        nn.Parameter(rows.clone(), requires_grad=False) if bias is not None else None
    )
    double = copy.copy(module)
    double._modules = {**module._modules, qkv.name: labelled}
    try:
        found = [part.weight[:, 0].round().long() for part in attention.split_qkv_matrix(double)]
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return {}  # a layout that the adapter itself cannot split: not listed
    if sorted(torch.cat(found).tolist()) != list(range(width)):
        return {}
    path = f"{attention.name}.{qkv.name}"
    return {
        f"attn.hook_{name}": (
            path,
            "output",
            views.columns(index, len(index) // _d_head(model, found)),
        )
        for name, index in zip("qkv", found, strict=True)
    }


def _d_head(model: nn.Module, found: list[torch.Tensor]) -> int:
    return len(found[0]) // int(setting(model.config, "num_attention_heads"))


def _exists(model: nn.Module, body: str, blocks: str, path: str) -> bool:
    return _module(model, body, f"{blocks}.0.{path}") is not None


def _module(model: nn.Module, body: str, path: str) -> nn.Module | None:
    for candidate in (path, path.removeprefix(body)):
        try:
            return model.get_submodule(candidate)
        except AttributeError:
            continue
    return None
