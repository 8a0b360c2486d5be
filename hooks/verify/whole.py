"""Checks through the whole model: heads cut in two ways, eager attention, resuming, the KV cache,
lower precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import capture
from ..edits import Edit, function, scale, zero
from ..intervene import intervene
from ..placement import is_offloaded, present
from ..sites import HEAD_AXIS, Site, SiteLike
from .comparing import noise, relative
from .exam import Exam, quiet
from .findings import Finding

LARGEST = 2_000_000_000
"""Parameters of a model that is copied into another precision."""
DRIFT = 0.25
"""Relative difference beyond which a site is not to be read in that precision."""


def cut_heads(exam: Exam) -> Iterator[Finding]:
    """z[head] = 0 answers as an output projection whose columns of that head are 0; every layer,
    a head each.
    """
    chosen: dict[str, int] = {}
    expected: Any = None
    with ExitStack() as stack, torch.no_grad(), quiet():
        for layer in range(exam.n_layers):
            site = f"blocks.{layer}.attn.hook_z"
            if not exam.has(site):
                continue
            assert exam.anatomy is not None
            place, (heads, width) = exam.anatomy.places[site], exam.acts[site].shape[2:]
            module, head = exam.model.get_submodule(place.path), layer % heads
            weight = _matrix(module, heads * width)
            if weight is None:
                yield exam.cannot(
                    site,
                    f"the weight of its projection in a {type(module).__name__} is no plain "
                    "matrix of its own",
                )
            elif place.calls > 1:
                yield exam.cannot(site, "all layers share its projection")
            else:
                chosen[site] = head
                cut = weight.detach().clone()
                cut[:, head * width : (head + 1) * width] = 0
                stack.callback(module.register_forward_hook(_with_weight(cut)).remove)
        if chosen:
            expected = exam.run()
    if not chosen:
        return
    with (
        torch.no_grad(),
        quiet(),
        intervene(exam.model, {f"{s}[{h}]": zero() for s, h in chosen.items()}),
    ):
        out = exam.run()
    why = "zeroing a head differs from zeroing its columns of the output projection"
    error = relative(out, expected)
    yield from (exam.within(site, error, exam.far, why) for site in chosen)


def _matrix(module: nn.Module, width: int) -> Tensor | None:
    """A projection's weight as (out, in)."""
    with present(module):
        weight: Any = getattr(module, "weight", None)
    # A quantised weight is a tensor of a class of its own.
    if type(weight) not in (nn.Parameter, Tensor) or weight.ndim != 2:
        return None
    if not weight.is_floating_point():
        return None
    if any(True for _ in module.children()):  # an adapter keeps the layer that it changes inside
        return None
    kind = type(module).__name__
    weight = weight.T if kind == "Conv1D" else weight
    return (
        weight
        if kind in ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear")
        and weight.shape[1] == width
        else None
    )


def _with_weight(weight: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return torch.nn.functional.linear(args[0], weight, getattr(module, "bias", None))

    return hook


def eager(exam: Exam) -> Iterator[Finding]:
    """Scores, patterns and the answer under PyTorch's fused
    attention are those of eager attention.
    """
    model: Any = exam.model
    before = getattr(exam.config, "_attn_implementation", None)
    if before != "sdpa" or not hasattr(model, "set_attn_implementation"):
        yield exam.cannot(
            "", f"its attention is {before or 'its own'}, there is no other to compare with"
        )
        return
    inside, fused = [s for s in exam.acts if HEAD_AXIS.get(Site(s).part) == 1], exam.plain
    try:
        model.set_attn_implementation("eager")
        with torch.no_grad(), quiet():
            eager_output = exam.run()
        out, acts = exam.watch(sites=inside)
    finally:
        model.set_attn_implementation(before)
    # PaliGemma's mask of a text alone is another one in either: nothing of ours had a part in that.
    apart = relative(eager_output, fused)
    if not apart <= exam.far:
        yield exam.cannot(
            "", f"without any hook, the model's answer with eager attention differs by {apart:.2g}"
        )
        return
    why = "differs from eager attention"
    for site in acts:
        yield exam.within(site, relative(acts[site], exam.acts[site]), exam.far, why)
    yield exam.within("", relative(out, fused), exam.far, why)


def resumed(exam: Exam) -> Iterator[Finding]:
    """Continued from any block, with a changed input or under an edit,
    the answer is that of the whole model patched so.
    """
    if exam.last_stream is None or getattr(exam.config, "is_encoder_decoder", False):
        yield exam.cannot("", "the blocks are not known, or the end of the model is not")
        return
    if getattr(exam.model, "get_output_embeddings", lambda: None)() is None:
        yield exam.cannot("", "it has no head")
        return
    try:
        resume = exam.resume
    except ValueError as error:
        yield exam.cannot("", str(error))
        return
    if not resume.exact:
        yield exam.cannot(
            "",
            "its end is not the final norm and the head, or a block gives another output "
            "when it is run again: whole forward passes are run, which is slower",
        )
        return
    why = "resumed from here, the output differs from that of the whole model"
    middle = exam.n_layers // 2
    layers = sorted({0, middle, exam.n_layers - 1})
    # Each text is entered at another layer: one forward of the whole model is their oracle.
    for first in range(0, len(layers), resume.batch):
        together = layers[first : first + resume.batch]
        moved = {at: _moved(resume.residual(at), at) for at in together}
        with torch.no_grad(), quiet():
            with intervene(exam.model, _each_in_its_row(moved, middle)):
                whole = exam.run()
            for row, layer in enumerate(together):
                # The first also under an edit behind it.
                edit: dict[SiteLike, Edit] = {}
                if layer == 0:
                    edit[f"blocks.{middle}.hook_resid_post"] = scale(-2.0).at([0, 1])
                with intervene(exam.model, edit) if edit else nullcontext():
                    again = resume.run(layer, moved[layer])
                error = relative(again[row], whole[row])
                yield exam.within(f"blocks.{layer}.hook_resid_pre", error, exam.far, why)


def _moved(clean: Tensor, seed: int) -> Tensor:
    return clean + noise(clean, seed, 0.1)


def _each_in_its_row(moved: Mapping[int, Tensor], middle: int) -> dict[SiteLike, Edit]:
    """The n-th layer's input is replaced in the n-th text; where that layer is the first, two
    positions of its text are scaled behind the middle block.
    """
    edits: dict[SiteLike, Edit] = {}
    for row, (layer, value) in enumerate(moved.items()):
        edits[f"blocks.{layer}.hook_resid_pre"] = function(_replaced_row(row, value))
        if layer == 0:
            edits[f"blocks.{middle}.hook_resid_post"] = function(_scaled_row(row))
    return edits


def _replaced_row(row: int, by: Tensor) -> Callable[[Tensor], Tensor]:
    def apply(value: Tensor) -> Tensor:
        out = value.clone()
        out[row] = by[row]
        return out

    return apply


def _scaled_row(row: int) -> Callable[[Tensor], Tensor]:
    def apply(value: Tensor) -> Tensor:
        out = value.clone()
        out[row, :2] *= -2.0
        return out

    return apply


def cached(exam: Exam) -> Iterator[Finding]:
    """The last tokens read with a KV cache of the others give the
    answer and the stream of one forward.
    """
    ids = exam.inputs.get("input_ids")
    able = exam.caches and not getattr(exam.config, "is_encoder_decoder", False)
    if ids is None or not able:
        yield exam.cannot("", "it has no KV cache")
        return
    if exam.learned_prompt:
        yield exam.cannot(
            "",
            "its adapter adds a learned prompt to every call: only `generate` continues a cache",
        )
        return
    if exam.causal is False:
        yield exam.cannot("", "it reads all tokens at once: there is nothing to cache")
        return
    stream, early = exam.last_stream, ids.shape[1] - 2
    # A state space reads many tokens only at a text's start, as `generate` does.
    steps = [1, 1] if any(".mixer." in site for site in exam.sites) else [2]
    in_steps = _in_steps(exam, early, steps, [stream] if stream is not None else [])
    if in_steps is None:
        yield exam.cannot("", "it has no KV cache")
        return
    out, late = in_steps
    if stream is not None:
        why = "with a KV cache it differs from the whole forward pass"
        yield exam.within(stream, relative(late, exam.acts[stream][:, early:]), exam.far, why)
    yield exam.within(
        "",
        relative(out, exam.plain[:, early:]),
        exam.far,
        "the output with a KV cache differs from that of the whole forward pass",
    )


def _in_steps(
    exam: Exam, early: int, steps: list[int], sites: list[str]
) -> tuple[Tensor, Tensor] | None:
    """The answer and the stream of the last tokens,
    read so many at a time behind a cache of the first ones.
    """
    ids = exam.inputs["input_ids"]
    rest = {k: v for k, v in exam.inputs.items() if k not in ("input_ids", "attention_mask")}
    outs, streams, at = [], [], early
    with torch.no_grad():
        first = exam.raw({**rest, "input_ids": ids[:, :early]}, use_cache=True)
        cache = getattr(first, "past_key_values", None)
        if cache is None:
            return None
        for step in steps:
            late = {**rest, "input_ids": ids[:, at : at + step], "past_key_values": cache}
            # as `generate` does
            if step == 1 and "position_ids" in inspect.signature(exam.model.forward).parameters:
                late["position_ids"] = torch.full((len(ids), 1), at)
            if not sites:
                outs.append(exam.run(late, use_cache=True))
            else:
                with capture(exam.model, *sites, clone=True) as acts:
                    outs.append(exam.run(late, use_cache=True))
                streams.append(acts[sites[0]])
            at += step
    return torch.cat(outs, dim=1), torch.cat(streams, dim=1) if streams else outs[0]


def drift(exam: Exam, dtype: torch.dtype) -> Iterator[Finding]:
    """How far each site is, in another precision of the weights, from what it is in this one."""
    name = str(dtype).removeprefix("torch.")
    if dtype == exam.dtype:
        yield exam.cannot("", f"the weights are already {name}")
        return
    if is_offloaded(exam.model):
        yield exam.cannot("", "its weights are offloaded and used in their stored precision")
        return
    if sum(p.numel() for p in exam.model.parameters()) > LARGEST:
        yield exam.cannot(
            "", f"more than {LARGEST / 1e9:.0f}e9 parameters: a copy in {name} is not made"
        )
        return
    other = exam.in_precision(dtype)
    for site in other.acts:
        theirs, ours = other.acts[site], exam.acts[site]
        error = relative(theirs.float(), ours.float()) if theirs.isfinite().any() else float("inf")
        if error <= DRIFT:
            yield exam.within(site, error, DRIFT)
        else:
            yield Finding(
                "",
                site,
                "UNSUPPORTED",
                error,
                DRIFT,
                f"unreliable in {name}: too far from {exam.dtype}",
            )
    error = relative(other.watched.float(), exam.plain.float())
    if error <= DRIFT:
        yield exam.within("", error, DRIFT)
    else:
        yield Finding(
            "",
            "",
            "UNSUPPORTED",
            error,
            DRIFT,
            f"its output in {name} is too far from that in {exam.dtype}",
        )
