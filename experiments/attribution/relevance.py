"""Layer-wise relevance propagation: the value handed back layer by layer, none of it lost but to biases.

Every rule is a change of the backward pass under which relevance is R = x * grad; the forward stays what it is:

    linear      0: R_i = sum_j x_i w_ij / z_j R_j     epsilon: z_j + e sign(z_j)     gamma: w + g max(w, 0) for w
                zplus: R_i = sum_j (x_i w_ij)+ / sum_i (x_i w_ij)+ R_j, deep Taylor's rule between ReLUs (alpha 1, beta 0)
    input       of a linear layer that reads the input itself (Montavon et al. 2017, table 1)
                w2:  w_ij^2 / sum_i w_ij^2, an input of any size
                box: (x_i w_ij - l w+_ij - h w-_ij) / sum_i (the same), an input between l and h (z-B)
    norm        the standard deviation is a constant                        (Ali et al. 2022)
    nonlinear   identity: R_in = R_out, grad = f(x) / x                     (Achtibat et al. 2024, section 3.2.2)
    softmax     R_i = x_i (R_i - s_i sum_j R_j), which the gradient is      (the same, proposition 3.1)
    product     both factors take half: attention x values, queries x keys, gate x up  (the same, proposition 3.3)
    cp-lrp      the attention weights are constants: all goes through the values       (Ali et al. 2022)

``chefer``: rollout = product over layers of I + E_h (grad A * R_A)^+, the row that is read (Chefer et al. 2021, equation 13).
The sum at each block's input is in ``conservation``. AttnLRP's softmax rule is a Taylor expansion: its constant term takes a
part of the relevance, as biases do; with constant attention weights (``cp-lrp``) nothing but biases does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...hooks import NothingChanged, Site, UnknownArchitecture, capture, edits, intervene, sites
from ..report.schema import Note
from .gradients import Slope, each_part, with_figures
from .options import Options
from .result import Found
from .scorer import Scorer
from .units import AttributionError

RULES = ("0", "epsilon", "gamma", "zplus")
INPUTS = ("w2", "box")
EPSILON = 1e-6
GAMMA = 0.25
FUSED = ("gate_up_proj", ".Wi")
"""Linear layers that make both factors of a gate (Phi-3, GLM; ModernBERT)."""
LOST = 0.05
"""Share of the value from which relevance that nothing can have taken is reported as lost."""
START = "blocks.0.hook_resid_pre"
_ATTENTION = ("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_v")


@contextmanager
def propagating(
    model: nn.Module,
    rule: str = "epsilon",
    attention: str = "attnlrp",
    first: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    end: Site | None = None,
) -> Iterator[None]:
    """Inside the block a gradient times its input is relevance; values are the model's.

    Args:
        rule: at linear layers: 0, epsilon, gamma or zplus.
        attention: ``attnlrp``, ``cp-lrp``, or ``none`` for a model without any.
        first: another rule for the linear layers that read the input itself (a leaf): ``w2`` or ``box``. An input that is
            exactly 0 has a relevance of 0 by either, since it is read as gradient times input.
        bounds: of the input, for ``box``.
        end: the site at which forwards end, if before the model's own end.
    """
    if rule not in RULES:
        raise AttributionError(f"rule {rule!r}: expected {', '.join(RULES)}")
    if first not in (None, *INPUTS):
        raise AttributionError(f"first {first!r}: expected {', '.join(INPUTS)}")
    if first == "box" and not bounds[0] < bounds[1]:
        raise AttributionError(f"bounds {bounds}: expected the lower one first")
    reading = None if first is None else _squares if first == "w2" else partial(_box, bounds)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore", NothingChanged)  # values stay as they are, gradients do not
        for name, module in model.named_modules():
            if (hook := _rule_of(model, name, module, rule, reading)) is not None:
                stack.callback(module.register_forward_hook(hook).remove)
        if attention != "none":
            stack.enter_context(intervene(model, _attention_edits(model, attention, end)))
        yield


def _attention_edits(model: nn.Module, attention: str, end: Site | None) -> dict[Any, Any]:
    try:
        known = set(sites(model))
    except UnknownArchitecture as error:
        raise AttributionError(
            f"relevance needs a model whose attention is known: {error}"
        ) from None
    halves = edits.function(half, "half")
    if attention == "cp-lrp":
        wanted = {"attn.hook_pattern": edits.function(Tensor.detach, "constant")}
    else:
        wanted = dict.fromkeys(_ATTENTION, halves)
    found = {name: edit for name in known for part, edit in wanted.items() if name.endswith(part)}
    if not found:
        raise AttributionError(
            f"relevance needs a model whose attention is known, {type(model).__name__} has no pattern"
        )
    if not (before := {name: edit for name, edit in found.items() if _runs(name, end)}):
        raise AttributionError(
            f"relevance is handed back through attention, and {end} stands before any"
        )
    return before


def _runs(name: str, end: Site | None) -> bool:
    """Whether a block's site fires in a forward that ends at ``end``."""
    if end is None or end.layer is None:
        return True
    return _layer(name) < end.layer or (_layer(name) == end.layer and end.part != "hook_resid_pre")


def half(value: Tensor) -> Tensor:
    """The value, with half its gradient: the product rule."""
    return value / 2 + (value / 2).detach()


Hook = Callable[..., Any]


def _rule_of(
    model: nn.Module, name: str, module: nn.Module, rule: str, reading: Hook | None
) -> Hook | None:
    """What a module's output becomes, or None where its own gradient is right."""
    kind = type(module).__name__
    if kind.endswith(("RMSNorm", "T5LayerNorm")):
        return _proportional
    if isinstance(module, nn.LayerNorm) or kind.endswith("LayerNorm"):
        return _layer_norm
    if _is_activation(module):
        gated = _beside(model, name, "up_proj")
        return partial(_gated, _proportional) if gated else _proportional
    if isinstance(module, nn.Linear) or kind == "Conv1D":
        own: Hook = {"0": _plain, "epsilon": _epsilon, "gamma": _gamma, "zplus": _zplus}[rule]
        if name.endswith(FUSED) or (name.endswith("up_proj") and _beside(model, name, "gate_proj")):
            return partial(_gated, own)
        if reading is not None:
            return partial(_at_input, reading, own)
        return None if rule == "0" else own
    return None


def _is_activation(module: nn.Module) -> bool:
    from transformers.activations import ACT2CLS

    known = {c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()} | {
        nn.ReLU,
        nn.GELU,
        nn.SiLU,
        nn.Tanh,
    }
    return type(module) in {k for k in known if isinstance(k, type)}


def _beside(model: nn.Module, name: str, sibling: str) -> bool:
    return hasattr(model.get_submodule(name.rpartition(".")[0]), sibling)


def _plain(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return out


def _gated(own: Hook, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """One factor of a gate, or where one layer makes both, both: each hands all of the product's relevance to it."""
    return half(own(module, args, out))


def _proportional(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """y = x (y / x), the quotient a constant: the identity rule, and an RMS norm of constant size."""
    (x,) = args
    return x * (out / torch.where(x == 0, 1, x)).detach()


def _layer_norm(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """y - b = (x - mean) w / s, the quotient w / s a constant."""
    centred = args[0] - args[0].mean(-1, keepdim=True)
    bias: Any = getattr(module, "bias", None)
    return (
        _proportional(module, (centred,), out)
        if bias is None
        else _proportional(module, (centred,), out - bias) + bias
    )


def _epsilon(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    share = (out / _away_from_0(out)).detach()
    return share * out + ((1 - share) * out).detach()


def _gamma(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    weight = _weight(module)
    lifted = F.linear(args[0], weight + GAMMA * weight.clamp(min=0), getattr(module, "bias", None))
    return _through(lifted, out)


def _zplus(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    (x,), weight = args, _weight(module)
    return _through(
        F.linear(x.clamp(min=0), weight.clamp(min=0))
        + F.linear(x.clamp(max=0), weight.clamp(max=0)),
        out,
    )


def _at_input(
    reading: Hook, own: Hook, module: nn.Module, args: tuple[Any, ...], out: Tensor
) -> Tensor:
    """The input's own rule where a layer reads it, else the layers' rule."""
    return (reading if args[0].is_leaf and args[0].requires_grad else own)(module, args, out)


def _squares(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    squares = _weight(module).square()
    return _through(F.linear(_ones(args[0]), squares), out)


def _box(
    bounds: tuple[float, float], module: nn.Module, args: tuple[Any, ...], out: Tensor
) -> Tensor:
    (x,), weight, (low, high) = args, _weight(module), bounds
    ends = F.linear(low * _ones(x), weight.clamp(min=0)) + F.linear(
        high * _ones(x), weight.clamp(max=0)
    )
    return _through(F.linear(x, weight) - ends, out)


def _ones(x: Tensor) -> Tensor:
    """1, with the gradient 1/x: its gradient times the input is what it is multiplied with."""
    return x / torch.where(x == 0, 1, x).detach()


def _through(terms: Tensor, out: Tensor) -> Tensor:
    """The value ``out``, whose relevance is handed on in the proportions of the terms that ``terms`` sums."""
    made = terms * (out / _away_from_0(terms)).detach()
    return made + (out - made).detach()


def _away_from_0(x: Tensor) -> Tensor:
    return torch.where(x < 0, x - EPSILON, x + EPSILON)


def _weight(module: nn.Module) -> Tensor:
    """(out, in)."""
    weight: Any = module.weight
    return weight if isinstance(module, nn.Linear) else weight.T


def lrp(
    scorer: Scorer, options: Options, attention: str = "attnlrp", rule: str | None = None
) -> Found:
    """Relevance of each unit, at the input of the first block (or at a site); it sums to the logit but for biases."""
    question, rule = scorer.question, rule or options.rule
    if question.measure != "logit":
        raise AttributionError(
            "relevance is of logits: choose --measure logit, or give a wrong answer to compare with"
        )
    model = question.subject.model
    end = question.endpoint.site
    inside = [
        name
        for name in sites(model)
        if name.endswith("hook_resid_pre") and name != START and _runs(name, end)
    ]
    sums: dict[str, float] = {}

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        later = [
            name for name in inside if slope.site.layer is None or _layer(name) > slope.site.layer
        ]
        shares: Any = None
        with propagating(model, rule, attention, end=end):
            if not later:
                return slope.at(x[None])[1][0] * x, {}
            with capture(model, *later, grad=True) as acts:
                shares = slope.at(x[None])[1][0] * x
            for name in later:
                sums[name] = sums.get(name, 0.0) + float(
                    (acts[name] * acts.grad[name]).double().sum()
                )
        return shares, {}

    found, figures = each_part(scorer, replace(options, site=options.site or START), method)
    total = float(found.scores.sum()) + figures["outside"]
    sums = {str(options.site or START): total, **sums}
    share = abs(found.value - total) / max(abs(found.value), 1e-12)
    takers = (
        ["biases"]
        if any(name.endswith("bias") and bool(p.any()) for name, p in model.named_parameters())
        else []
    )
    takers += ["the softmax's constant terms"] if attention == "attnlrp" else []
    text = f"relevance sums to {total:+.4g} of {found.value:+.4g} at the input: {share:.1%} "
    is_lost = share > LOST and not takers
    if is_lost:
        text = f"NOT CONSERVED: {text}is lost and there are no biases to take it: the model has a layer without a rule here"
    else:
        text += f"went to {' and '.join(takers) or 'rounding and soft caps'}"
    by_block = ", ".join(f"{value:+.4g}" for value in list(sums.values())[1:])
    notes = (Note(kind="warning" if is_lost else "info", text=f"{text}; by block {by_block}"),)
    found = Found(
        found.scores, found.value, inner=found.inner if options.site is not None else None
    )
    return with_figures(
        found,
        {**figures, "conservation": sums, "rule": rule},
        replace(options, site=options.site or START),
        notes,
    )


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def chefer(scorer: Scorer, options: Options) -> Found:
    """Attention rolled out, each layer's weighted by its gradient and its relevance; without a sign."""
    question = scorer.question
    model, scores, value = question.subject.model, np.zeros(len(question.units)), 0.0
    end = question.endpoint.site
    patterns = [
        name for name in sites(model) if name.endswith("attn.hook_pattern") and _runs(name, end)
    ]
    for part in question.parts:
        slope = Slope(scorer, part, Site(START))
        x = slope.clean()
        with capture(model, *patterns, grad=True) as plain:
            value += float(slope.at(x[None])[0])
        with (
            capture(model, *patterns, grad=True) as acts,
            propagating(model, options.rule, end=end),
        ):
            # seen before the rule of products: the pattern has its half of what comes through it
            slope.at(x[None])
        rollout = torch.eye(len(part.ids), dtype=torch.float64, device=x.device)
        for name in patterns:
            relevance = (acts[name] * acts.grad[name])[0]
            weights = (plain.grad[name][0] * relevance).clamp(min=0).mean(0).double()
            rollout = rollout + weights @ rollout
        row = rollout[
            list(part.reads) or [len(part.ids) - 1 if question.subject.causal else 0]
        ].sum(0)
        scores += [float(row[list(own)].sum()) for own in part.tokens]
    text = "chefer has no sign: how much is read from each unit, not for or against"
    return Found(scores, value, notes=(Note(kind="info", text=text),))
