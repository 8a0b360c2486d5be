"""Checks of models as people run them: token by token behind a cache, by position, in adapters,
under autocast, in `generate`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .. import edits
from ..anatomy import copied
from ..capture import capture
from ..intervene import intervene
from ..placement import has_shards, is_offloaded
from ..sites import SiteLike
from . import ways
from .comparing import noise, relative
from .exam import LOCAL, Exam, quiet
from .findings import Finding
from .running import editable, running
from .ways import Way

COPIED = 50_000_000
"""Parameters of a model that is copied to wrap the copy."""


def cached_steps(exam: Exam) -> Iterator[Finding]:
    """Read in steps behind a left-padded prompt, edits at positions, token masks,
    knockouts and patterns are each text's own.
    """
    yield from _in_steps(exam, "token by token", ways.steps())


def static_cache(exam: Exam) -> Iterator[Finding]:
    """The same with a static cache, which has empty columns at its end."""
    yield from _in_steps(exam, "with a static cache", ways.steps(cache="static"))


def positional(exam: Exam) -> Iterator[Finding]:
    """The same of a model whose texts are given by position, not by keywords."""
    yield from _in_steps(exam, "called by position", ways.steps(ways.by_position), patterns=False)


def _in_steps(exam: Exam, name: str, way: Way, patterns: bool = True) -> Iterator[Finding]:
    compared = running(exam)
    if compared.cannot:
        yield exam.cannot("", compared.cannot)
        return
    if exam.learned_prompt:
        yield exam.cannot(
            "", "its adapter adds a learned prompt: only `generate` continues a cache"
        )
        return
    yield from compared.compared(name, way, patterns=patterns)


def wrapped(exam: Exam) -> Iterator[Finding]:
    """A PEFT adapter that changes nothing, around a copy of the model:
    edits are what they are on the model itself.
    """
    compared = running(exam)
    why = compared.cannot or _unwrappable(exam)
    if why:
        yield exam.cannot("", why)
        return
    try:
        model = _adapted(exam.model)
    except Exception as error:  # whatever peft says of a layer that it does not know
        line = next(iter(str(error).splitlines()), "")
        yield exam.cannot("", f"peft does not wrap it: {line[:120]}")
        return
    yield from compared.compared("in an adapter", ways.steps(ways.by_position), model)


def _unwrappable(exam: Exam) -> str:
    """Why no adapter is put around a copy; empty where one is."""
    if hasattr(exam.model, "peft_config"):
        return "it already has an adapter, and is checked with it"
    if is_offloaded(exam.model):
        # Its place for an adapter's weights is memory that nobody has written.
        return "its weights are offloaded, so no copy is made for an adapter"
    if has_shards(exam.model):
        # PEFT broadcasts a shard's first weights, on some ranks alone: the others would wait.
        return "its weights are shards of a group of processes, so no copy is made for an adapter"
    if importlib.util.find_spec("peft") is None:
        return "peft is not installed"
    if sum(p.numel() for p in exam.model.parameters()) > COPIED:
        return f"more than {COPIED / 1e6:.0f}e6 parameters: no copy is made for an adapter"
    return ""


def _adapted(model: nn.Module) -> nn.Module:
    import peft  # only where it is installed

    able = getattr(model, "can_generate", lambda: False)()
    config = peft.LoraConfig(
        r=1, target_modules="all-linear", task_type="CAUSAL_LM" if able else None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copied(model), config).eval()  # type: ignore[arg-type]


def autocast(exam: Exam) -> Iterator[Finding]:
    """Under autocast looking changes nothing,
    and a direction that is erased from the stream is gone to rounding of its type.
    """
    site, kind = exam.last_stream, exam.device.type
    if site is None or exam.dtype != torch.float32:
        yield exam.cannot("", "the blocks are not known, or the weights are not float32")
        return
    direction = noise(exam.acts[site][0, 0], 3, 1.0)
    erased = {site: edits.erase((direction / direction.norm())[None])}
    changes: dict[SiteLike, Any] = {**erased}
    one = exam.item(0)  # nothing here is a matter of the batch
    with torch.no_grad(), quiet(), torch.autocast(kind, torch.bfloat16):
        try:
            plain = exam.run(one)
        except Exception as error:  # a model that autocast does not fit
            line = next(iter(str(error).splitlines()), "")
            yield exam.cannot(
                "", f"under autocast the model raised {type(error).__name__}: {line[:120]}"
            )
            return
        watched, _ = exam.watch(one)
        with intervene(exam.model, changes), capture(exam.model, site, clone=True) as acts:
            exam.run(one)
    value = acts[site].double()
    along = (value @ (direction / direction.norm()).double()).abs()
    left = float((along / value.norm(dim=-1).clamp(min=1e-12)).max())
    off = 0.0 if torch.equal(watched, plain) else max(relative(watched, plain), 1e-300)
    # The fused kernel of a CPU stays in single precision, its parts do not.
    bound = LOCAL[torch.bfloat16] if exam.fused else 0.0
    yield exam.within("", off, bound, "under autocast the output changes when the model is hooked")
    eps = 4 * torch.finfo(acts[site].dtype).eps
    yield exam.within(site, left, eps, "under autocast, an erased direction is still present")


def score_masks(exam: Exam) -> Iterator[Finding]:
    """Scores that are set to 0 leave hidden what the mask hides,
    and give every other key the same weight.
    """
    pairs = {
        site: site.replace("attn_scores", "pattern")
        for layer in range(exam.n_layers)
        if _listed(exam, site := f"blocks.{layer}.attn.hook_attn_scores")
    }
    if not pairs:
        yield exam.cannot("", "no scores are listed")
        return
    changes: dict[SiteLike, Any] = dict.fromkeys(pairs, edits.zero())
    with torch.no_grad(), quiet(), intervene(exam.model, changes):
        _, acts = exam.watch(sites=list(pairs.values()))
    for site, pattern in pairs.items():
        if pattern not in acts:
            continue
        # a weight may be 0 because its score is small: only the score says what is masked
        scores = exam.acts[site]
        hidden = scores <= torch.finfo(scores.dtype).min / 2
        weights = acts[pattern].double()
        seen = float(weights.masked_fill(~hidden, 0.0).abs().max())
        most = weights.masked_fill(hidden, 0.0).amax(-1)
        least = weights.masked_fill(hidden, 1.0).amin(-1)
        spread = float((most - least).clamp(min=0).max())
        why = (
            "with scores of 0, masked keys get weight"
            if seen
            else "equal scores give unequal weights"
        )
        yield exam.within(site, max(seen, spread), exam.local, why)


def _listed(exam: Exam, site: str) -> bool:
    return editable(exam, site) and exam.has(site.replace("attn_scores", "pattern"))


MODES: dict[str, Way] = {
    "model.forward": ways.steps(ways.by_position, lambda model: model.forward),
    "generate": ways.generated(),
    "generate without a cache": ways.generated(use_cache=False),
    "generate with a static cache": ways.generated(cache_implementation="static"),
    "generate with its prompt in pieces": ways.generated(prefill_chunk_size=3),
    "generate of several samples": ways.generated(do_sample=True, num_return_sequences=2),
    "generate with beams": ways.beams(),
}


def generated(exam: Exam) -> Iterator[Finding]:
    """In every mode of `generate`, an adapter's too, each step's logits under edits are those of
    the text so far in one forward.
    """
    compared = running(exam)
    able = getattr(exam.model, "can_generate", lambda: False)()
    if compared.cannot or not able:
        yield exam.cannot("", compared.cannot or "it does not generate")
        return
    if has_shards(exam.model):
        # A rank that ends its search a step before the others would wait for them for ever.
        yield exam.cannot("", "its weights are shards of a group of processes: none generates here")
        return
    for name, way in MODES.items():
        if not (exam.learned_prompt and name == "model.forward"):
            yield from compared.compared(name, way)
    # An adapter's `generate` calls the model inside it, past the wrapper.
    if not _unwrappable(exam):
        yield from compared.compared(
            "generate of an adapter", ways.generated(), _adapted(exam.model)
        )
