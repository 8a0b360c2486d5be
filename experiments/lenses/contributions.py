r"""Direct logit attribution: what each part adds to a logit through the final norm, held as it was
on this text.

    logit(t) - logit(w) = sum_c  c . M' (U_t - U_w)  +  (M beta + head bias terms)

c runs over what is added to the residual stream at the read position: the embedding, each head, the
attention's bias, each MLP (or each of its neurons). M is the final norm with its scale frozen:
diag(g) / rms for an RMS norm, with the mean taken out first for a layer norm. The sum is exact; a
soft cap of the logits comes after it and is left out.

Direct is not total: a part also acts through later parts, so the exact ablation stands beside the
largest contributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...hooks import Resume, anatomy, capture, edits, intervene, sites
from ...hooks.configuration import setting
from ...hooks.placement import dtype_of, weight_of
from ..attention.norms import output_weights
from ..subject import Subject
from ..subject.word_spans import Encoded
from .frozen_norm import linear_norm
from .streams import LensError

TOLERANCE = 1e-4
"""Largest difference between the sum of the contributions and the logit,
relative to the largest logit.
"""


@dataclass(frozen=True)
class Part:
    """One part of a prediction.

    Args:
        component: embedding, head, attention bias, attention, mlp, neuron, position, norm and head
            bias.
        layer: None outside the blocks.
        index: the head, neuron or position.
        site: where it can be edited; empty where it cannot.
        logit: what it adds.
    """

    component: str
    layer: int | None
    index: int | None
    site: str
    logit: float


@dataclass(frozen=True)
class Contributions:
    """Every part of one prediction, and the logit that they sum to.

    Args:
        error: difference between the sum and the model's own logit.
        biases: the share that no part has: biases of the final norm and the head.
    """

    parts: list[Part]
    logit: float
    error: float
    biases: float


@dataclass(frozen=True)
class FrozenEnd:
    """The final norm at one position as a linear map, and the read direction through it.

    Args:
        direction: M' (U_t - U_w).
        bias: what the norm's bias and the head's add.
        logit: the model's own logit, or difference of two.
    """

    direction: Float[Tensor, " d_model"]
    bias: float
    logit: float


def contributions(
    subject: Subject, text: Encoded, target: int, wrong: int | None = None, by: str = "head"
) -> Contributions:
    """The parts of the logit of ``target`` (less that of ``wrong``) behind a text.

    Args:
        by: ``head`` (heads and MLPs), ``layer`` (attentions and MLPs), ``mlp``, ``neuron`` or
            ``position`` (of the token that a head attends to).

    Raises:
        LensError: a family whose parts do not sum to its logits, or that has no such sites.
    """
    model, n_layers = subject.model, subject.n_layers
    names, extra = _read_sites(subject, by)
    split_heads = by in ("head", "position")
    (batch,) = subject.batches([text])
    output: Any = None
    with torch.no_grad(), capture(model, *names, *extra, clone=True) as acts:
        output = model(**batch.inputs(subject.device))
    here = {name: acts[name][0] for name in (*names, *extra)}
    end = frozen_end(
        subject, here[names[-1]][-1].float(), output.logits[0, -1].float(), target, wrong
    )

    def adds(vector: Tensor) -> float:
        return float(vector.float() @ end.direction)

    parts = [Part("embedding", None, None, names[0], adds(here[names[0]][-1]))]
    for layer in range(n_layers):
        attention = here[f"blocks.{layer}.hook_attn_out"][-1]
        if split_heads:
            parts += _heads(subject, layer, here, attention, adds, by)
        else:
            parts.append(
                Part("attention", layer, None, f"blocks.{layer}.hook_attn_out", adds(attention))
            )
        mlp = here[f"blocks.{layer}.hook_mlp_out"][-1]
        if by == "neuron":
            parts += _neurons(subject, layer, here, mlp, end.direction)
        else:
            parts.append(Part("mlp", layer, None, f"blocks.{layer}.hook_mlp_out", adds(mlp)))
    if by == "mlp":
        parts = [part for part in parts if part.component != "attention"]
    parts.append(Part("norm and head bias", None, None, "", end.bias))
    total = sum(part.logit for part in parts)
    error = abs(total - end.logit) if by != "mlp" else 0.0
    if error > TOLERANCE * max(1.0, float(output.logits[0, -1].abs().max())):
        raise LensError(
            f"{subject.name}: the parts sum to {total:.5g} and the logit is "
            f"{end.logit:.5g}: some outputs of its blocks cannot be read, "
            "and contributions would be wrong"
        )
    return Contributions(parts, end.logit, error, end.bias)


def _read_sites(subject: Subject, by: str) -> tuple[list[str], list[str]]:
    """The sites of the residual stream that are read, and those that split its parts.

    Raises:
        LensError: the model has no such sites.
    """
    n_layers = subject.n_layers
    known = set(sites(subject.model))
    names = [
        f"blocks.{n}.{site}" for n in range(n_layers) for site in ("hook_attn_out", "hook_mlp_out")
    ]
    names = ["blocks.0.hook_resid_pre", *names, f"blocks.{n_layers - 1}.hook_resid_post"]
    split_heads = by in ("head", "position") and all(
        f"blocks.{n}.attn.hook_z" in known for n in range(n_layers)
    )
    if by in ("head", "position") and not split_heads:
        raise LensError(f"{subject.name}: single heads cannot be read: use --by layer")
    extra = [f"blocks.{n}.attn.hook_z" for n in range(n_layers)] if split_heads else []
    if by == "position":
        extra += [
            f"blocks.{n}.attn.{site}"
            for n in range(n_layers)
            for site in ("hook_pattern", "hook_v")
        ]
    if by == "neuron":
        extra += [f"blocks.{n}.mlp.hook_post" for n in range(n_layers)]
    if missing := [name for name in (*names, *extra) if name not in known]:
        raise LensError(
            f"{subject.name}: contributions by {by} need {missing[0]}, "
            "which cannot be read on this model"
        )
    return names, extra


def _heads(
    subject: Subject, layer: int, here: dict[str, Tensor], attention: Tensor, adds: Any, by: str
) -> list[Part]:
    """Each head, or each attended position, and what the projection adds by itself."""
    weights = output_weights(subject.model, layer)
    if weights is None:
        raise LensError(
            f"{subject.name}: the output projection of block {layer} is no plain matrix: "
            "use --by layer"
        )
    z = here[f"blocks.{layer}.attn.hook_z"][-1].float()
    outputs = torch.einsum("hd,hdm->hm", z, weights.float())
    rest = attention.float() - outputs.sum(0)
    parts = [Part("attention bias", layer, None, "", adds(rest))]
    if by == "position":
        pattern = here[f"blocks.{layer}.attn.hook_pattern"][:, -1].float()
        values = here[f"blocks.{layer}.attn.hook_v"].float()
        wide = values.repeat_interleave(len(pattern) // values.shape[1], dim=1)
        moved = torch.einsum("hk,khd,hdm->km", pattern, wide, weights.float())
        return parts + [
            Part("position", layer, at, "", adds(vector)) for at, vector in enumerate(moved)
        ]
    site = f"blocks.{layer}.attn.hook_z"
    return parts + [
        Part("head", layer, head, f"{site}[{head}]", adds(vector))
        for head, vector in enumerate(outputs)
    ]


def _neurons(
    subject: Subject, layer: int, here: dict[str, Tensor], mlp: Tensor, direction: Tensor
) -> list[Part]:
    """Each neuron of a block's MLP, and what the projection adds by itself."""
    weight = down_projection(subject.model, layer)
    if weight is None:
        raise LensError(
            f"{subject.name}: the MLP of block {layer} has no plain down projection: use --by mlp"
        )
    site = f"blocks.{layer}.mlp.hook_post"
    values = here[site][-1].float() * (weight.float() @ direction)
    rest = float(mlp.float() @ direction - values.sum())
    parts = [
        Part("neuron", layer, n, f"{site}[{n}]", value) for n, value in enumerate(values.tolist())
    ]
    return [Part("mlp bias", layer, None, "", rest), *parts]


def down_projection(model: nn.Module, layer: int) -> Float[Tensor, "neuron d_model"] | None:
    """Each neuron's output direction; None where the MLP ends in no plain matrix."""
    place = anatomy(model).places.get(f"blocks.{layer}.mlp.hook_post")
    if place is None or place.end != "input":
        return None
    module = model.get_submodule(place.path)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    return (weight.T if isinstance(module, nn.Linear) else weight).detach()


def frozen_end(
    subject: Subject,
    stream: Float[Tensor, " d_model"],
    logits: Float[Tensor, " vocab"],
    target: int,
    wrong: int | None,
) -> FrozenEnd:
    """The read direction through the final norm as it was at one position.

    Raises:
        LensError: a final norm that is neither a layer norm nor an RMS norm, or a head that is no
            plain matrix.
    """
    model: Any = subject.model
    place = anatomy(model).places.get("ln_final.hook_normalized")
    head = model.get_output_embeddings()
    if place is None or head is None:
        raise LensError(
            f"{subject.name}: expected a final norm and a linear head, one of them is not known"
        )
    norm = model.get_submodule(place.path)
    with torch.no_grad():
        normed = norm(stream.to(dtype_of(model))[None, None])[0, 0].float()
    linear = linear_norm(norm, stream, normed, f"{subject.name}: its final norm")
    weight = weight_of(head)
    if weight is None:
        raise LensError(f"{subject.name}: expected a linear head, got {type(head).__name__}")
    weight = weight.T
    read = weight[target] - (weight[wrong] if wrong is not None else 0)
    scale, cap = _scale_of(model.config), setting(model.config, "final_logit_softcapping")
    bias = float(read @ linear.beta) * scale
    if getattr(head, "bias", None) is not None:
        of_head = head.bias.detach()
        bias += float(of_head[target] - (of_head[wrong] if wrong is not None else 0)) * scale
    values = logits if not cap else cap * torch.atanh((logits / cap).clamp(-0.9999999, 0.9999999))
    logit = float(values[target] - (values[wrong] if wrong is not None else 0))
    return FrozenEnd(linear.through(read) * scale, bias, logit)


def _scale_of(config: Any) -> float:
    """What the configuration multiplies or divides logits by."""
    if up := setting(config, "logit_scale"):
        return float(up)
    down = setting(config, "logits_scaling")
    return 1 / float(down) if down else 1.0


def exact_effects(
    subject: Subject, text: Encoded, parts: Sequence[Part], target: int, wrong: int | None = None
) -> list[float | None]:
    """The whole effect of each part: the logit with it minus the logit with zero in its place, at
    every position.

    A forward is continued from the block of the part, and only the last position is projected to
    the vocabulary.
    """
    (batch,) = subject.batches([text])
    inputs = batch.inputs(subject.device)
    effects: list[float | None] = []
    with torch.no_grad():
        clean = Resume(subject.model, inputs, positions=torch.tensor([len(text) - 1]))

        def logit(layer: int) -> float:
            if clean.exact:
                values = clean.run(layer, clean.residual(layer))[0].float()
            else:
                values = subject.model(**inputs).logits[0, -1].float()
            return float(values[target] - (values[wrong] if wrong is not None else 0))

        whole = logit(subject.n_layers - 1)
        for part in parts:
            if not part.site:
                effects.append(None)
                continue
            with intervene(subject.model, {part.site: edits.zero()}):
                effects.append(whole - logit(part.layer or 0))
    return effects
