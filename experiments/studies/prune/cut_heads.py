"""A model with fewer attention heads: their rows and columns are cut out of the weights.

Attention adds sum_h softmax(q_h k_g(h)') v_g(h) O_h to the residual stream, so a model without head
h computes what the whole model computes with h's output at zero, to rounding. A transformers
configuration has one number of heads for all layers, so every layer keeps as many.

>>> from transformers import LlamaConfig, LlamaForCausalLM
>>> size = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=10)
>>> heads = dict(num_attention_heads=4, num_key_value_heads=2)
>>> model = LlamaForCausalLM(LlamaConfig(**size, **heads)).eval()
>>> smaller = with_heads(model, [[[0], [3]]])
>>> smaller.config.num_attention_heads, smaller.config.num_key_value_heads, smaller.config.head_dim
(2, 2, 2)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from layerscope.errors import LayerscopeError

from ....hooks.anatomy import anatomy
from ....hooks.configuration import setting, text_config
from ....hooks.placement import is_offloaded
from ...subject.identity import quantisation_of
from ...subject.twin import random_twin

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

Kept: TypeAlias = "Sequence[Sequence[Sequence[int]]]"
"""For each layer the query heads that stay, in a list for each key-value head that stays."""


def flat(groups: Sequence[Sequence[int]]) -> list[int]:
    """The query heads of all groups of a layer."""
    return [h for members in groups for h in members]


class HeadError(LayerscopeError, ValueError):
    """A model whose heads cannot be cut out."""


@dataclass(frozen=True)
class Heads:
    """How a model's heads are laid out:
    query head h reads key-value head h // (n_heads // n_kv_heads).
    """

    paths: list[str]
    n_heads: int
    n_kv_heads: int
    width: int

    @property
    def all(self) -> list[list[list[int]]]:
        """Every head of every layer."""
        group = self.n_heads // self.n_kv_heads
        return [
            [list(range(g * group, (g + 1) * group)) for g in range(self.n_kv_heads)]
            for _ in self.paths
        ]


def heads_of(model: nn.Module) -> Heads:
    """The heads of a model that can be cut.

    Raises:
        HeadError: projections that are not one linear map each, or a configuration that cannot say
            fewer heads.
    """
    if is_offloaded(model) or not _has_plain_weights(model):
        raise HeadError(
            f"{type(model).__name__}: heads are cut out of plain weights in memory, "
            "and these are offloaded or quantised"
        )
    known = anatomy(model)
    if missing := [
        n for n in range(known.n_layers) if f"blocks.{n}.attn.hook_z" not in known.places
    ]:
        raise HeadError(
            f"{type(model).__name__}: heads are cut in every layer, and {len(missing)} of "
            f"its {known.n_layers} layers have none that are known (first: "
            f"block {missing[0]})"
        )
    paths = [
        known.places[f"blocks.{layer}.attn.hook_z"].path.rpartition(".")[0]
        for layer in range(known.n_layers)
    ]
    what = f"{type(model).__name__}: heads are cut out of attention with"
    for path in paths:
        there = dict(model.get_submodule(path).named_children())
        linear = [name for name in PROJECTIONS if isinstance(there.get(name), nn.Linear)]
        if len(linear) < len(PROJECTIONS):
            got = ", ".join(
                name
                for name, module in there.items()
                if next(module.parameters(), None) is not None
            )
            raise HeadError(
                f"{what} a linear {', '.join(PROJECTIONS)} each, as in Llama, "
                f"Mistral or Qwen; got {got}. 'layerscope ablate --component heads' "
                "measures these heads and cuts none"
            )
    n_heads = setting(model.config, "num_attention_heads")
    n_kv = setting(model.config, "num_key_value_heads")
    if not isinstance(n_heads, int) or not isinstance(n_kv, int) or n_kv < 1:
        raise HeadError(
            f"{what} num_attention_heads and num_key_value_heads in the configuration, "
            f"got {n_heads}, {n_kv}"
        )
    sizes = {name: _out(model.get_submodule(f"{paths[0]}.{name}"), name) for name in PROJECTIONS}
    width = sizes["k_proj"] // n_kv
    if (
        sizes["q_proj"] != n_heads * width
        or sizes["o_proj"] != n_heads * width
        or sizes["v_proj"] != n_kv * width
    ):
        raise HeadError(
            f"{what} {n_heads} queries and {n_kv} keys and values of one width, got sizes {sizes}"
        )
    return Heads(paths, n_heads, n_kv, width)


def _has_plain_weights(model: nn.Module) -> bool:
    """Whether the weights in memory are numbers; those of a GGUF file are, after reading."""
    quantisation = quantisation_of(model.config)
    return not quantisation or quantisation["quant_method"] == "gguf"


def _out(module: Any, name: str) -> int:
    """The size of a projection on the side of the heads."""
    return int(module.in_features if name == "o_proj" else module.out_features)


def with_heads(model: nn.Module, kept: Kept) -> nn.Module:
    """A new model of the same class, with the heads that stay; the given one is not changed.

    Args:
        kept: in every layer as many key-value heads, each with as many query heads.

    Raises:
        HeadError: numbers that differ between layers or groups, heads of one group that read
            different key-value heads, or weights that do not follow the configuration's number of
            heads.
    """
    heads = heads_of(model)
    smaller = random_twin(model, 0, _smaller_config(model, heads, *_numbers(heads, kept)))
    state = dict(model.state_dict())
    for path, groups in zip(heads.paths, kept, strict=True):
        queries = _rows(flat(groups), heads.width)
        keys = _rows(
            [members[0] // (heads.n_heads // heads.n_kv_heads) for members in groups], heads.width
        )
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            for part in ("weight", "bias"):
                if f"{path}.{name}.{part}" in state:
                    state[f"{path}.{name}.{part}"] = state[f"{path}.{name}.{part}"][rows]
        state[f"{path}.o_proj.weight"] = state[f"{path}.o_proj.weight"][:, queries]
    wanted = smaller.state_dict()
    other = [
        name for name in wanted if name not in state or state[name].shape != wanted[name].shape
    ]
    if other or set(state) - set(wanted):
        name = [*other, *sorted(set(state) - set(wanted))][0]
        raise HeadError(
            f"{type(model).__name__}: {name} does not follow the configuration's "
            "num_attention_heads, num_key_value_heads and head_dim: "
            "its heads cannot be cut out"
        )
    smaller.load_state_dict({name: value.clone() for name, value in state.items()}, strict=True)
    if getattr(model, "generation_config", None) is not None:
        smaller.generation_config = copy.deepcopy(model.generation_config)
    return smaller.eval()


def _smaller_config(model: nn.Module, heads: Heads, n_kv: int, group: int) -> Any:
    """The configuration of a model with fewer heads; its weights are no longer a file's."""
    config: Any = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    of_text = text_config(config)
    of_text.num_attention_heads, of_text.num_key_value_heads = n_kv * group, n_kv
    of_text.head_dim = heads.width
    return config


def numbers_to_save(model: nn.Module) -> list[tuple[int, int]]:
    """The numbers of heads that transformers can save, from many to few: key-value heads, and query
    heads of each.

    Query heads are removed from every group until each has one, then groups. Some configurations
    allow divisors of the model's width only (Llama's).
    """
    heads = heads_of(model)
    group, n_kv = heads.n_heads // heads.n_kv_heads, heads.n_kv_heads
    numbers = [(n_kv, each) for each in range(group - 1, 0, -1)]
    numbers += [(n, 1) for n in range(n_kv - 1, 0, -1)]
    return [n for n in numbers if _can_be_saved(_smaller_config(model, heads, *n))]


def _can_be_saved(config: Any) -> bool:
    try:
        if hasattr(config, "validate"):
            config.validate()
    except StrictDataclassError:
        return False
    return True


def _numbers(heads: Heads, kept: Kept) -> tuple[int, int]:
    """Key-value heads that stay, and query heads of each."""
    if len(kept) != len(heads.paths):
        raise HeadError(f"expected the heads of {len(heads.paths)} layers, got {len(kept)}")
    shapes = {(len(groups), *sorted({len(members) for members in groups})) for groups in kept}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise HeadError(
            f"expected as many heads in every layer and group, at least one, got {sorted(shapes)}"
        )
    size = heads.n_heads // heads.n_kv_heads
    for layer, groups in enumerate(kept):
        numbers = flat(groups)
        if len(set(numbers)) < len(numbers) or not all(0 <= h < heads.n_heads for h in numbers):
            raise HeadError(
                f"layer {layer}: expected different heads below {heads.n_heads}, got {numbers}"
            )
        if any(len({h // size for h in members}) > 1 for members in groups):
            raise HeadError(
                f"layer {layer}: expected groups of heads that read one key-value head, "
                f"got {list(groups)}"
            )
    n_kv, group = next(iter(shapes))
    return n_kv, group


def _rows(heads: Sequence[int], width: int) -> Tensor:
    """The rows of some heads in a projection."""
    return torch.cat([torch.arange(h * width, (h + 1) * width) for h in heads])
