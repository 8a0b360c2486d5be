"""Checks of the residual stream: what is added adds up, blocks follow each other, the end gives the logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..resume import Resume
from .exam import Exam, relative
from .findings import Finding


def sums(exam: Exam) -> Iterator[Finding]:
    """resid_pre + attn_out = resid_mid; + mlp_out = resid_post, or that norm's input whose output resid_post is."""
    for layer in range(exam.n_layers):
        pre, attn, mid, mlp, post = (
            f"blocks.{layer}.hook_{part}" for part in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        )
        acts = exam.acts
        if exam.has(pre, attn, mid):
            why = "resid_pre + attn_out is not resid_mid"
            yield exam.within(mid, relative(acts[pre] + acts[attn], acts[mid]), exam.local, why)
        elif exam.has(mid):
            yield exam.cannot(mid, "hook_attn_out is not listed")
        if not exam.has(post, mlp) or not (exam.has(mid) or exam.has(pre, attn)):
            if exam.has(post):
                yield exam.cannot(post, "what is added is not listed")
            continue
        before = acts[mid] if exam.has(mid) else acts[pre] + acts[attn]
        why = "the parts do not add up to resid_post"
        yield exam.within(post, _sum_error(exam, layer, before, acts[mlp], acts[post]), exam.local, why)


def _sum_error(exam: Exam, layer: int, before: Tensor, mlp: Tensor, post: Tensor) -> float:
    """How far before + mlp is from resid_post, or, where a norm follows the sum, from what that norm is given."""
    direct = relative(before + mlp, post)
    if direct <= exam.local:
        return direct
    bases = [before, *(out for given, out in exam.norms(layer) if relative(before, given) <= exam.local)]
    behind = [given for given, out in exam.norms(layer) if relative(out, post) <= exam.local]
    return min([direct, *(relative(base + mlp, given) for base in bases for given in behind)])


def chain(exam: Exam) -> Iterator[Finding]:
    """resid_post of a block is resid_pre of the next."""
    for layer in range(1, exam.n_layers):
        post, pre = f"blocks.{layer - 1}.hook_resid_post", f"blocks.{layer}.hook_resid_pre"
        if exam.has(post, pre) and exam.acts[post].shape != exam.acts[pre].shape:
            yield exam.cannot(pre, "patches are merged between the stages of the model")
        elif exam.has(post, pre):
            why = "a block is not given what the block before it returned"
            yield exam.within(pre, relative(exam.acts[post], exam.acts[pre]), exam.local, why)


def end(exam: Exam) -> Iterator[Finding]:
    """The final norm and the head, applied to the last block's output, give the model's logits (the logit lens's identity)."""
    name, last = "ln_final.hook_normalized", exam.last_stream
    if exam.anatomy is None or last is None:
        yield exam.cannot("", "the blocks are not known by name")
        return
    if exam.has(name):
        place = exam.anatomy.places[name]
        with torch.no_grad():
            normed = exam.model.get_submodule(place.path)(exam.acts[last])
        why = "the final norm of the last resid_post is not what this site holds"
        yield exam.within(name, relative(normed, exam.acts[name]), exam.local, why)
    head = getattr(exam.model, "get_output_embeddings", lambda: None)()
    if head is None:
        yield exam.cannot("", "it has no head")
        return
    if getattr(exam.config, "is_encoder_decoder", False):
        yield exam.cannot("", "its head reads the decoder, its sites are the encoder's")
        return
    resume = Resume(exam.model, exam.inputs)
    if resume.error is None or resume.error > exam.local:
        gap = "" if resume.error is None else f" (they are off by {resume.error:.1g})"
        yield exam.cannot("", f"the final norm and the head alone do not give its logits{gap}: forwards are run whole")
    else:
        yield exam.within("", resume.error, exam.local)
