"""What sites must hold, found without layerscope: hidden states, eager attention,
cut columns of a copy's weights.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from layerscope.hooks import Site, anatomy, capture, edits, intervene, sites
from layerscope.hooks.intervene import NothingChanged
from torch import Tensor, nn

#: Names of output projections of attention, and of down projections.
OUTPUT = re.compile(
    r"(o_proj|out_proj|dense|c_proj|Wo|out_lin|projection|projection_layer|linear_out|output|o|W[qkv]"
    r"|conv1d)$"
)
DOWN = re.compile(
    r"(down_proj|fc2|w2|c_proj|fc_out|dense_4h_to_h|dense|wo|Wo|lin2|ffn_output|output_dense|value|2|layer_2|proj_down"
    r"|linear_fc2|output_linear|weights_out|conv1d)$"
)


def answer(output: Any) -> Tensor:
    """The tensors that a user reads, as one row."""
    names = ("logits", "logits_per_image", "last_hidden_state", "encoder_last_hidden_state")
    found = [value for name in names if isinstance(value := getattr(output, name, None), Tensor)]
    return torch.cat([value.double().flatten() for value in found])


def run(model: Any, inputs: dict[str, Any], **more: Any) -> Any:
    """A forward without gradients and without a cache."""
    config = model.config.get_text_config()
    if getattr(config, "use_cache", None) is not None and not getattr(
        model.config, "is_encoder_decoder", False
    ):
        more = {"use_cache": False, **more}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(**inputs, **more)


def far(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    seen = expected.isfinite()
    return float((found - expected)[seen].abs().max() / expected[seen].abs().max().clamp(min=1e-9))


def streams(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """Each block's input stands among the model's own hidden states,
    or is what a plain hook on the block is given.
    """
    names = sites(model, "*blocks.*.hook_resid_pre") if _has(model, "hook_resid_pre") else []
    names = [name for name in names if _reached(name, inputs)]
    if not names:
        return {}
    seen: dict[str, Tensor] = {}
    handles = []
    for name in names:
        place = anatomy(model).places[name]
        if place.end != "input":
            continue
        block = model.get_submodule(place.path)

        def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            seen.setdefault(name, args[0] if args else kwargs["hidden_states"])

        handles.append(block.register_forward_pre_hook(note, with_kwargs=True))
    with capture(model, *names, clone=True) as acts:
        out = run(model, inputs, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    kinds = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    states = [s for kind in kinds for s in getattr(out, kind, None) or () if isinstance(s, Tensor)]
    shared = anatomy(model).places[names[0]].calls > 1
    found = {}
    for name in names:
        given = [*states, *([seen[name].detach()] if name in seen and not shared else [])]
        given += [s[0] for s in given if s.ndim == 4] + [
            s.transpose(0, 1) for s in given if s.ndim == 3
        ]
        # pictures: the channels of each place
        given += [s.flatten(2).transpose(1, 2) for s in given if s.ndim == 4]
        found[name] = min(far(acts[name], s) for s in given)
    return found


def patterns(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """Attention weights are those that eager attention returns, layer by layer."""
    wanted = [n for n in _sites(model, inputs) if n.endswith("attn.hook_pattern")]
    if not wanted:
        return {}
    with capture(model, *wanted, clone=True) as acts:
        run(model, inputs)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    if model.config._attn_implementation != "eager":  # Falcon's is chosen when it is built
        return {}
    try:
        out = run(model, inputs, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    found: dict[str, float] = {}
    kinds = {
        "blocks": ("attentions", "encoder_attentions"),
        "decoder_blocks": ("decoder_attentions",),
    }
    for stack, names in kinds.items():
        returned = next((a for name in names if (a := getattr(out, name, None))), ())
        ours = [n for n in wanted if n.startswith(f"{stack}.") and ".attn." in n]
        theirs = [a for a in returned if isinstance(a, Tensor)]
        for name, weights in zip(ours, theirs, strict=False) if len(ours) == len(theirs) else ():
            value = acts[name]
            if bool((weights < 0).any()):  # SqueezeBERT returns what its softmax reads
                weights = weights.softmax(-1)
            if bool((weights == weights[:, :1]).all()):  # the mean of all heads, for each
                value = value.mean(1, keepdim=True).expand_as(value)
            found[name] = far(value[..., : weights.shape[-1]], weights[..., : value.shape[-1]])
    crossed = [a for a in getattr(out, "cross_attentions", None) or () if isinstance(a, Tensor)]
    for name, weights in zip([n for n in wanted if ".cross_attn." in n], crossed, strict=False):
        found[name] = far(acts[name], weights)
    return found


def heads(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """z of one head in every layer set to 0 is a copy whose output
    projections lack that head's columns.
    """
    chosen: dict[str, int] = {}

    def cut(twin: nn.Module) -> None:
        for name in (n for n in _sites(model, inputs) if n.endswith("attn.hook_z")):
            place = anatomy(model).places[name]
            module: Any = twin.get_submodule(place.path)
            if place.end == "mixed":  # attention that is one function of PyTorch
                module = module.out_proj
            else:
                assert OUTPUT.search(place.path), place.path
            count = getattr(place.view, "n_heads", 0)
            weight = module.weight.data
            wide = weight if type(module).__name__ == "Conv1D" else weight.transpose(0, 1)
            width = wide.shape[0] // count
            chosen[name] = 1 % count  # the same head everywhere: layers may share their weights
            wide[chosen[name] * width : (chosen[name] + 1) * width] = 0

    return _same(
        model,
        inputs,
        cut,
        lambda: {f"{name}[{head}]": edits.zero() for name, head in chosen.items()},
    )


def projections(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """A query, key or value head set to 0 in every layer is a copy
    whose projections lack that head's rows.
    """
    chosen: dict[str, int] = {}

    def cut(twin: nn.Module) -> None:
        for name in (
            n for n in _sites(model, inputs) if n.endswith(("hook_q", "hook_k", "hook_v"))
        ):
            place = anatomy(model).places[name]
            module: Any = twin.get_submodule(place.path)
            if place.end in ("query", "key", "value"):
                module = getattr(module, f"{name[-1]}_proj")
            if (
                type(place.view).__name__ != "heads"
                or type(module) is not nn.Linear
                or place.calls > 1
            ):
                continue
            width = module.out_features // place.view.n_heads  # type: ignore[attr-defined]
            chosen[name] = 1 % place.view.n_heads  # type: ignore[attr-defined]
            rows = slice(chosen[name] * width, (chosen[name] + 1) * width)
            module.weight.data[rows] = 0
            if module.bias is not None:
                module.bias.data[rows] = 0

    return _same(
        model,
        inputs,
        cut,
        lambda: {f"{name}[{head}]": edits.zero() for name, head in chosen.items()},
    )


def neurons(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """A neuron of every layer set to 0 is a copy whose down projections lack its column."""
    chosen: list[str] = []

    def cut(twin: nn.Module) -> None:
        for name in _sites(model, inputs):
            if not name.endswith((".mlp.hook_post", "shared_experts.hook_post")):
                continue
            place = anatomy(model).places[name]
            assert DOWN.search(place.path), place.path
            module: Any = twin.get_submodule(place.path)
            weight = module.weight.data
            if type(module) is nn.Conv1d:  # the channel is read by the first group's outputs
                weight[: len(weight) // module.groups, 3] = 0
            else:
                (weight if type(module).__name__ == "Conv1D" else weight.transpose(0, 1))[3] = 0
            chosen.append(name)

    return _same(model, inputs, cut, lambda: {f"{name}[3]": edits.zero() for name in chosen})


def experts(model: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """A neuron of every expert set to 0 is a copy whose experts'
    down projections lack its column.
    """
    chosen: list[str] = []

    def cut(twin: nn.Module) -> None:
        for name in _sites(model, inputs):
            if ".mlp.experts." in name and name.endswith("hook_post"):
                place = anatomy(model).places[name]
                module: Any = twin.get_submodule(place.path)
                weight = module.down_proj.data[int(str(place.item).partition(".")[0])]
                (
                    weight
                    if weight.shape[1] == module.down_proj.shape[-1] and module.is_transposed
                    else weight.T
                )[2] = 0
                chosen.append(name)

    return _same(model, inputs, cut, lambda: {f"{name}[2]": edits.zero() for name in chosen})


#: Column of the table -> its oracle.
ORACLES: dict[str, Callable[[Any, dict[str, Any]], dict[str, float]]] = {
    "streams": streams,
    "patterns": patterns,
    "heads": heads,
    "q, k, v": projections,
    "neurons": neurons,
    "experts": experts,
}


def _same(
    model: Any,
    inputs: dict[str, Any],
    cut: Callable[[nn.Module], None],
    edits_of: Callable[[], dict[str, Any]],
) -> dict[str, float]:
    twin: Any = copy.deepcopy(model)
    cut(twin)
    made = edits_of()
    if not made:
        return {}
    expected = answer(run(twin, inputs))
    assert far(answer(run(model, inputs)), expected) > 1e-7, "cutting the columns changed nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        with intervene(model, made):
            found = answer(run(model, inputs))
    return dict.fromkeys(made, far(found, expected))


def _sites(model: Any, inputs: dict[str, Any]) -> list[str]:
    return [name for name in sites(model) if _reached(name, inputs)]


def _has(model: Any, part: str) -> bool:
    return any(Site(name).part == part for name in sites(model))


def _reached(name: str, inputs: dict[str, Any]) -> bool:
    given = "".join(inputs)
    return not (name.startswith("vision_") and "pixel" not in given) and not (
        name.startswith("audio_") and "input_features" not in given
    )
