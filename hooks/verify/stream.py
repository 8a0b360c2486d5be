"""Checks of the residual stream: what is added adds up, blocks follow each other,
the end gives the logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from layerscope.errors import InputError

from .comparing import relative
from .exam import Exam
from .findings import Finding


def sums(exam: Exam) -> Iterator[Finding]:
    """resid_pre + attn_out = resid_mid; + mlp_out = resid_post,
    or that norm's input whose output resid_post is.
    """
    for block in exam.blocks:
        yield from _sums_of(exam, block)


def _sums_of(exam: Exam, block: str) -> Iterator[Finding]:
    acts, pre, post = exam.acts, f"{block}.hook_resid_pre", f"{block}.hook_resid_post"
    mixed = f"{block}.mixer.hook_out"
    # RWKV's first block norms what it is given
    bases = _with_normed(exam, block, acts[pre]) if exam.has(pre) else []
    added = False
    for part, sum_ in (
        ("hook_attn_out", "hook_resid_mid"),
        ("hook_cross_attn_out", "hook_resid_mid_cross"),
    ):
        out, mid = f"{block}.{part}", f"{block}.{sum_}"
        if part == "hook_attn_out" and not exam.has(out):
            out = mixed
        if exam.has(mid, out) and bases:
            why = f"its input and {out.rpartition('.')[2]} do not add up to {sum_}"
            yield exam.within(
                mid, min(relative(base + acts[out], acts[mid]) for base in bases), exam.local, why
            )
        elif exam.has(mid):
            yield exam.cannot(mid, f"{part} is not listed")
        if exam.has(mid):
            bases, added = _with_normed(exam, block, acts[mid]), True
        elif exam.has(out):
            bases, added = [base + acts[out] for base in bases], True
    mlp = f"{block}.hook_mlp_out"
    alone = not added and any(
        exam.has(f"{other}.{part}") for other in exam.blocks for part in _BEFORE
    )
    if exam.has(mlp) and (added or alone):
        bases = [base + acts[mlp] for base in bases]
    elif not (added and exam.has(mixed) and not exam.has(f"{block}.hook_resid_mid")):
        bases = []
    if not exam.has(post):
        return
    if not bases:
        yield exam.cannot(post, "what is added is not listed")
        return
    behind = [given for given, out in exam.norms(block) if relative(out, acts[post]) <= exam.local]
    error = min(relative(base, end) for base in bases for end in (acts[post], *behind))
    yield exam.within(post, error, exam.local, "the parts do not add up to resid_post")


_BEFORE = ("hook_attn_out", "mixer.hook_out")
"""What other blocks add where this one has an MLP alone (Nemotron-H)."""


def _with_normed(exam: Exam, block: str, value: Tensor) -> list[Tensor]:
    """A sum, and what a norm of the block makes of it."""
    return [
        value,
        *(out for given, out in exam.norms(block) if relative(value, given) <= exam.local),
    ]


def chain(exam: Exam) -> Iterator[Finding]:
    """resid_post of a block is resid_pre of the next."""
    for before, block in itertools.pairwise(exam.blocks):
        post, pre = f"{before}.hook_resid_post", f"{block}.hook_resid_pre"
        if before.partition(".")[0] != block.partition(".")[0] or not exam.has(post, pre):
            continue
        if exam.acts[post].shape != exam.acts[pre].shape:
            yield exam.cannot(pre, "patches are merged between the stages of the model")
        elif relative(exam.acts[post] / 2, exam.acts[pre]) <= exam.local:
            yield exam.cannot(pre, "the model halves the stream between these blocks")
        else:
            why = "the input of a block differs from the output of the block before it"
            yield exam.within(pre, relative(exam.acts[post], exam.acts[pre]), exam.local, why)


def end(exam: Exam) -> Iterator[Finding]:
    """The final norm and the head, applied to the last block's output,
    give the model's logits (the logit lens's identity).
    """
    name, last = "ln_final.hook_normalized", exam.last_stream
    if exam.anatomy is None or last is None:
        yield exam.cannot("", "the blocks are not known by name")
        return
    if exam.has(name):
        place = exam.anatomy.places[name]
        norm = exam.model.get_submodule(place.path)
        with torch.no_grad():
            error, of_half = (
                relative(norm(exam.acts[last] / by), exam.acts[name]) for by in (1, 2)
            )
        if of_half <= exam.local < error:
            yield exam.cannot(name, "the model halves the stream before its final norm")
        else:
            why = "the final norm of the last resid_post differs from this site"
            yield exam.within(name, error, exam.local, why)
    head = getattr(exam.model, "get_output_embeddings", lambda: None)()
    if head is None:
        yield exam.cannot("", "it has no head")
        return
    if getattr(exam.config, "is_encoder_decoder", False):
        yield exam.cannot("", "its head reads the decoder, its sites are the encoder's")
        return
    try:
        resume = exam.resume
    except InputError as error:
        yield exam.cannot("", str(error))
        return
    if resume.error is None or resume.error > exam.local:
        gap = "" if resume.error is None else f" (they are off by {resume.error:.1g})"
        yield exam.cannot(
            "",
            f"the final norm and the head alone do not give its logits{gap}: "
            "forwards are run whole",
        )
    else:
        yield exam.within("", resume.error, exam.local)
