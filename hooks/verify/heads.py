"""Checks of attention: patterns are distributions over what may be seen,
and what heads write is what attention returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..views import channel_heads, channels
from .comparing import main_tensor, relative
from .exam import Exam
from .findings import Finding
from .inputs import READ_BOTH_WAYS

PROJECTED = (
    ("attn.hook_z", "hook_attn_out"),
    ("cross_attn.hook_z", "hook_cross_attn_out"),
    ("mixer.hook_z", "mixer.hook_out"),
    ("mlp.hook_post", "hook_mlp_out"),
)
"""What an output projection reads, and what the block adds to its stream for it."""


def rows(exam: Exam) -> Iterator[Finding]:
    """Each query's weights sum to 1 (with those of a sink, where there is one)
    and are the softmax of its scores.
    """
    for site in (*_of(exam, "attn.hook_pattern"), *_of(exam, "cross_attn.hook_pattern")):
        pattern, scores = exam.acts[site], site.replace("pattern", "attn_scores")
        sinks = _sinks(exam, site)
        error = 0.0 if sinks is not None else float((pattern.double().sum(-1) - 1).abs().max())
        if exam.has(scores):
            logits = exam.acts[scores].double()
            if sinks is not None:
                logits = torch.cat(
                    [logits, sinks.double().view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)], -1
                )
            softmax = logits.softmax(-1).nan_to_num(0.0)[..., : pattern.shape[-1]]
            error = max(error, float((softmax - pattern.double()).abs().max()))
        yield exam.within(
            site,
            error,
            exam.local,
            "its rows are not the softmax of its scores, or do not sum to 1",
        )


def _sinks(exam: Exam, site: str) -> torch.Tensor | None:
    """The logit of each head's sink, a column of the softmax that is no token; None without one."""
    assert exam.anatomy is not None
    sinks = getattr(exam.model.get_submodule(exam.anatomy.places[site].path), "sinks", None)
    return sinks.detach() if isinstance(sinks, torch.Tensor) else None


def mask(exam: Exam) -> Iterator[Finding]:
    """A model that reads from left to right gives later tokens no weight,
    and its earlier positions are blind to them.
    """
    seen = exam.causal
    must = _must_be_causal(exam)
    if seen is None:
        yield exam.cannot("", "the input is not token ids, or the stream is not known")
        return
    if must and not seen:
        yield Finding(
            "",
            "",
            "WRONG",
            reason="it generates text, but a later token changes earlier positions: "
            "a causal mask is missing",
        )
    elif must:
        yield Finding("", "", "OK")
    for site in _of(exam, "attn.hook_pattern"):
        pattern = exam.acts[site]
        queries = pattern.shape[-2]
        ahead = float(
            pattern[..., exam.prefix : exam.prefix + queries].double().triu(1).abs().max()
        )
        if (must or seen) if site.startswith("blocks.") else site.startswith("decoder_blocks."):
            yield exam.within(site, ahead, 0.0, "weight on later tokens")
        else:
            yield Finding("", site, "OK", ahead)


def _must_be_causal(exam: Exam) -> bool:
    """Whether the model writes text token by token with the blocks that are listed."""
    able = getattr(exam.model, "can_generate", lambda: False)()
    kind = getattr(exam.config, "model_type", "")
    config: Any = exam.config
    is_causal = getattr(config, "causal", True) is not False  # as XLM's and Flaubert's tell
    both_ways = getattr(config, "attn_type", "") == "bi" or kind in READ_BOTH_WAYS or not is_causal
    return bool(able) and not both_ways and not getattr(exam.config, "is_encoder_decoder", False)


def products(exam: Exam) -> Iterator[Finding]:
    """sum over keys of pattern x v = z, head by head (a key-value head serves its group),
    times a gate where there is one.
    """
    for block, kind in itertools.product(exam.blocks, ("attn", "cross_attn")):
        pattern, value, z, gate = (
            f"{block}.{kind}.hook_{part}" for part in ("pattern", "v", "z", "gate")
        )
        if not exam.has(z):
            continue
        if not exam.has(pattern, value):
            yield exam.cannot(z, "its values or its pattern are not listed")
            continue
        if exam.prefix:
            yield exam.cannot(z, "learned keys and values precede those of the text")
            continue
        weights, outputs = exam.acts[pattern].double(), exam.acts[z].double()
        candidates = [
            _weighted(weights, v.double(), outputs.shape[2])
            for v in _values(exam, block, exam.acts[value])
        ]
        if exam.has(gate):
            candidates = [
                c * g for c in candidates for g in _gates(exam.acts[gate].double(), outputs)
            ]
        error = min(_up_to_scale_and_bias(c, outputs) for c in candidates)
        yield exam.within(
            z, error, exam.local, "pattern x v differs from z: heads or values are mixed up"
        )


def _weighted(weights: Tensor, values: Tensor, heads: int) -> Tensor:
    group = heads // values.shape[2]
    values = values.repeat_interleave(group, dim=2) if group > 1 else values
    # a sink's column has no value
    return torch.einsum("bhqk,bkhd->bqhd", weights[..., : values.shape[1]], values)


def _values(exam: Exam, block: str, value: Tensor) -> list[Tensor]:
    """The values, and where a norm of the block reads them (Gemma 4), what it makes of them."""
    normed = [
        out.reshape(value.shape)
        for given, out in exam.norms(block)
        if _same_numbers(given, value, exam.local)
    ]
    return [value, *normed]


def _same_numbers(given: Tensor, value: Tensor, bound: float) -> bool:
    return given.numel() == value.numel() and relative(given.reshape(value.shape), value) <= bound


def _gates(gate: Tensor, like: Tensor) -> list[Tensor]:
    """What a gate's projection multiplies by: a number for each head's column, or for each head."""
    wide = (
        gate[..., None]
        if gate.ndim == 3 and gate.shape[-1] == like.shape[2]
        else gate.reshape(like.shape)
    )
    return [wide.sigmoid(), torch.nn.functional.softplus(wide)]


def _up_to_scale_and_bias(made: Tensor, read: Tensor) -> float:
    """The error left once values may be scaled by one number (MiMo)
    or moved by a bias of each head's (DeBERTa).
    """
    error = relative(made, read)
    scale = (made * read).sum() / made.square().sum()
    moved = made + (read - made).mean((0, 1), keepdim=True)
    return min(error, relative(made * scale, read), relative(moved, read))


def projections(exam: Exam) -> Iterator[Finding]:
    """z through the output projection is attn_out, and mlp.hook_post through the down projection is
    mlp_out (or its norm's input).
    """
    for block in exam.blocks:
        for site, out in PROJECTED:
            site, out = f"{block}.{site}", f"{block}.{out}"
            if not exam.has(site, out):
                continue
            if type(getattr(projection_of(exam, site), "weight", None)).__name__ == "DTensor":
                yield exam.cannot(
                    out, "the weight of its projection is complete only during a forward pass"
                )
                continue
            with torch.no_grad():
                made = main_tensor(project(exam, site, exam.acts[site]))
            part, sum_ = site.rpartition(".")[2], out.rpartition(".")[2]
            why = f"{part} through its projection differs from {sum_}"
            yield exam.within(
                out, _same_or_normed(exam, block, made, exam.acts[out]), exam.local, why
            )


def projection_of(exam: Exam, site: str) -> nn.Module:
    """The module that a site is the input of."""
    assert exam.anatomy is not None
    place = exam.anatomy.places[site]
    module: Any = exam.model.get_submodule(place.path)
    # attention that is one function of PyTorch projects inside it
    return module.out_proj if place.end == "mixed" else module


def project(exam: Exam, site: str, value: Tensor) -> Any:
    """A site's tensor through the module that it is the input of."""
    assert exam.anatomy is not None
    place = exam.anatomy.places[site]
    module = projection_of(exam, site)
    flat = value.flatten(2) if value.ndim == 4 else value
    if place.view is channels or isinstance(place.view, channel_heads):
        return channels(module(channels(flat)))
    if place.like is not None:
        return module(flat.flatten(0, 1)).unflatten(0, flat.shape[:2])
    return module(flat)


def _same_or_normed(exam: Exam, block: str, made: Tensor, out: Tensor) -> float:
    error = relative(made, out)
    if error <= exam.local:
        return error
    behind = [given for given, normed in exam.norms(block) if relative(normed, out) <= exam.local]
    return min([error, *(relative(made, given) for given in behind)])


def _of(exam: Exam, part: str) -> list[str]:
    return [site for block in exam.blocks if exam.has(site := f"{block}.{part}")]
