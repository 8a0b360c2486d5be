"""verify: check on one model that every site gives the right values.

>>> import torch
>>> from transformers import GPT2Config, GPT2LMHeadModel
>>> size = dict(n_layer=2, n_embd=8, n_head=2, vocab_size=50, n_positions=16)
>>> model = GPT2LMHeadModel(GPT2Config(**size)).eval()
>>> verdict = verify(model, quick=True)
>>> verdict.status, len(verdict.wrong)
('OK', 0)
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from layerscope.arguments import checked
from layerscope.errors import InputError

from ..padding import Padding
from . import experts, heads, response, running_checks, stream, values, weights, whole
from .exam import Exam
from .findings import Finding, Status, UnsoundModel, Verdict, kind_of, worst

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Status",
    "UnsoundModel",
    "Verdict",
    "kind_of",
    "verify",
    "worst",
]


@dataclass(frozen=True)
class Check:
    """One row of the doctor's table: a name, what is compared,
    and whether every study runs it first.
    """

    name: str
    run: Callable[[Exam], Iterator[Finding]]
    quick: bool = False

    @property
    def about(self) -> str:
        """What is compared, in one sentence."""
        return described(self.run.func if isinstance(self.run, functools.partial) else self.run)


def described(function: Callable[..., object]) -> str:
    """A check's docstring on one line."""
    return " ".join((function.__doc__ or "").split())


CHECKS: tuple[Check, ...] = (
    Check("evaluation mode", values.evaluation_mode, quick=True),
    Check("same outputs", values.same_outputs, quick=True),
    Check("fires", values.fires, quick=True),
    Check("residual sums", stream.sums, quick=True),
    Check("chain of blocks", stream.chain, quick=True),
    Check("attention rows", heads.rows, quick=True),
    Check("attention mask", heads.mask, quick=True),
    Check("pattern x v", heads.products, quick=True),
    Check("projections", heads.projections, quick=True),
    Check("experts", experts.sums, quick=True),
    Check("norm and head", stream.end, quick=True),
    Check("batched", values.batched, quick=True),
    Check("score masks", running_checks.score_masks, quick=True),
    Check("cached steps", running_checks.cached_steps, quick=True),
    Check("static cache", running_checks.static_cache, quick=True),
    Check("positional", running_checks.positional, quick=True),
    Check("PEFT", running_checks.wrapped, quick=True),
    Check("autocast", running_checks.autocast, quick=True),
    Check("resumed", whole.resumed, quick=True),
    Check("hooks gone", values.hooks_gone, quick=True),
    Check("padding", values.padding),
    Check("edits", response.edits_reach),
    Check("own heads", response.own_heads),
    Check("own neurons", response.own_neurons),
    Check("gradients", response.gradients),
    Check("head = columns", whole.cut_heads),
    Check("eager attention", whole.eager),
    Check("KV cache", whole.cached),
    Check("generate", running_checks.generated),
    Check("bfloat16", functools.partial(whole.drift, dtype=torch.bfloat16)),
    Check("float16", functools.partial(whole.drift, dtype=torch.float16)),
    Check("weights", weights.noticed, quick=True),
)


@checked
def verify(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    sites: Sequence[str] | None = None,
    quick: bool = False,
    only: Sequence[str] | None = None,
    padding: Padding | None = None,
) -> Verdict:
    """Check that every site of this model gives the right values: identities, edits, gradients,
    batches, precision.

    The model is not modified. One check (``eager attention``) switches the attention implementation
    and restores it.

    Args:
        model: any `nn.Module`, in evaluation mode, as it will be used.
        inputs: keyword arguments of one forward pass over two items or more; by default random
            inputs that fit the configuration.
        sites: sites to check; by default all. Use ``module:`` paths for a model without known
            sites.
        quick: run only the checks that take a few forward passes over a few tokens.
        only: run only these checks, by name (see `CHECKS`).
        padding: how the model is padded, if known; otherwise determined by trying.

    Returns:
        A `Verdict` with all findings, each with its measured value and bound.
            ``verdict.require()`` raises if one is WRONG.

    Raises:
        ValueError: no ``inputs`` for a model whose inputs are unknown, or that cannot be run on
            those made for it; an unknown check.
        UnknownSite: the model has no such site.
    """
    start = time.perf_counter()
    names = [check.name for check in CHECKS]
    if only is not None and (unknown := [name for name in only if name not in names]):
        raise InputError(f"no check {unknown[0]!r}: expected one of {', '.join(names)}")
    chosen = [c for c in CHECKS if (only is None or c.name in only) and (c.quick or not quick)]
    # reading an architecture's description may draw random numbers
    with torch.random.fork_rng(devices=[]):
        exam = Exam(model, inputs, sites, padding)
        if inputs is None:
            _require_fitting(exam)
        findings = [finding for check in chosen for finding in _run(check, exam)]
    return Verdict(tuple(findings), time.perf_counter() - start)


def _require_fitting(exam: Exam) -> None:
    """Refuse inputs made from a configuration that the model, without any hook, does not take:
    that is no fault of its sites.
    """
    try:
        _ = exam.plain
    except Exception as error:  # whatever a model may raise
        line = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"{type(exam.model).__name__} cannot be run on random {', '.join(exam.inputs)} made "
            f"from its configuration ({type(error).__name__}: {line[:200]}): "
            "give verify(model, inputs={...})"
        ) from error


def _run(check: Check, exam: Exam) -> Iterator[Finding]:
    """The findings of one check; where it cannot even be run, that is one."""
    try:
        yield from (replace(finding, check=check.name) for finding in check.run(exam))
    except Exception as error:  # whatever a model may raise
        line = next(iter(str(error).splitlines()), "")
        # A forward that breaks under the hooks of every study is wrong; what raises elsewhere is
        # loud enough.
        status: Status = "WRONG" if check.quick else "UNSUPPORTED"
        yield Finding(
            check.name, "", status, reason=f"the check raised {type(error).__name__}: {line[:200]}"
        )
