"""Layer-wise relevance propagation: the value handed back layer by layer, none of it lost but to
biases.

Every rule is a change of the backward pass under which relevance is R = x * grad; the forward stays
what it is:

    linear      0: R_i = sum_j x_i w_ij / z_j R_j     epsilon: z_j + e sign(z_j)
                gamma: w + g max(w, 0) for w
                zplus: R_i = sum_j (x_i w_ij)+ / sum_i (x_i w_ij)+ R_j, deep Taylor's rule between
                    ReLUs (alpha 1, beta 0)
    input       of a linear layer that reads the input itself (Montavon et al. 2017, table 1)
                w2:  w_ij^2 / sum_i w_ij^2, an input of any size
                box: (x_i w_ij - l w+_ij - h w-_ij) / sum_i (the same), an input between l and h
                    (z-B)
    norm        the standard deviation is a constant                        (Ali et al. 2022)
    nonlinear   identity: R_in = R_out, grad = f(x) / x
                (Achtibat et al. 2024, section 3.2.2)
    softmax     R_i = x_i (R_i - s_i sum_j R_j), which the gradient is
                (the same, proposition 3.1)
    product     both factors take half: attention x values, queries x keys, gate x up
                (the same, proposition 3.3)
    cp-lrp      the attention weights are constants: all goes through the values
                (Ali et al. 2022)

``chefer``: rollout = product over layers of I + E_h (grad A * R_A)^+, the row that is read (Chefer
et al. 2021, equation 13). The sum at each block's input is in ``conservation``. AttnLRP's softmax
rule is a Taylor expansion: its constant term takes a part of the relevance, as biases do; with
constant attention weights (``cp-lrp``) nothing but biases does.
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
from ..subject import Subject
from .gradients import each_part, with_figures
from .lookups import tables
from .options import Options
from .result import MethodScores
from .scorer import Scorer
from .slope import Slope
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
        first: another rule for the linear layers that read the input itself (a leaf): ``w2`` or
            ``box``. An input that is exactly 0 has a relevance of 0 by either, since it is read as
            gradient times input.
        bounds: of the input, for ``box``.
        end: the site at which forwards end, if before the model's own end.
    """
    if rule not in RULES:
        raise AttributionError(f"rule {rule!r}: expected {', '.join(RULES)}")
    if first not in (None, *INPUTS):
        raise AttributionError(f"first {first!r}: expected {', '.join(INPUTS)}")
    if first == "box" and not bounds[0] < bounds[1]:
        raise AttributionError(f"bounds {bounds}: expected the lower one first")
    at_input = {None: None, "w2": _squares, "box": partial(_box, bounds)}[first]
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore", NothingChanged)  # values stay as they are, gradients do not
        for name, module in model.named_modules():
            hook = _rule_of(model, name, module, rule, at_input)
            if hook is not None:
                stack.callback(module.register_forward_hook(hook).remove)
        if attention != "none":
            stack.enter_context(intervene(model, _attention_edits(model, attention, end)))
        yield


def _attention_edits(model: nn.Module, attention: str, end: Site | None) -> dict[Any, Any]:
    try:
        known = set(sites(model))
    except UnknownArchitecture as error:
        raise AttributionError(
            f"relevance needs a model with known attention sites: {error}"
        ) from None
    if attention == "cp-lrp":
        # CP-LRP: the pattern is a constant, and all relevance goes through the values.
        wanted = {"attn.hook_pattern": edits.function(Tensor.detach, "constant")}
    else:
        # AttnLRP: a product of two inputs would hand its relevance to both in full, and so count it
        # twice; each gets half.
        wanted = dict.fromkeys(_ATTENTION, edits.function(half, "half"))
    of_sites = {}
    for name in known:
        for part, edit in wanted.items():
            if name.endswith(part):
                of_sites[name] = edit
    if not of_sites:
        raise AttributionError(
            "relevance needs a model with known attention sites, "
            f"{type(model).__name__} has no pattern"
        )
    before_end = {name: edit for name, edit in of_sites.items() if _runs(name, end)}
    if not before_end:
        raise AttributionError(
            f"relevance is propagated back through attention, and {end} comes before any attention"
        )
    return before_end


def _runs(name: str, end: Site | None) -> bool:
    """Whether a block's site fires in a forward that ends at ``end``."""
    if end is None or end.layer is None:
        return True
    return _layer(name) < end.layer or (_layer(name) == end.layer and end.part != "hook_resid_pre")


def half(value: Tensor) -> Tensor:
    """The value, with half its gradient: the product rule."""
    # The value is whole, its gradient is that of one half.
    return value / 2 + (value / 2).detach()


Hook = Callable[..., Any]


def _rule_of(
    model: nn.Module, name: str, module: nn.Module, rule: str, at_input: Hook | None
) -> Hook | None:
    """What a module's output becomes, or None where its own gradient is right."""
    kind = type(module).__name__
    # First of all what divides by a statistic of its input: its own gradient is orthogonal to the
    # input, and would pass nothing on.
    if kind.endswith(("RMSNorm", "T5LayerNorm")):
        return _proportional
    if isinstance(module, nn.LayerNorm) or kind.endswith("LayerNorm"):
        return _layer_norm
    if _is_activation(module):
        # In a gated MLP the activation is one factor of a product, the projection beside it the
        # other.
        is_gate = _beside(model, name, "up_proj")
        return partial(_gated, _proportional) if is_gate else _proportional
    if not isinstance(module, nn.Linear) and kind != "Conv1D":
        return None
    of_layer: Hook = _LINEAR_RULES[rule]
    is_gated = name.endswith("up_proj") and _beside(model, name, "gate_proj")
    if is_gated or name.endswith(FUSED):
        return partial(_gated, of_layer)
    if at_input is not None:
        return partial(_at_input, at_input, of_layer)
    return None if rule == "0" else of_layer


def _is_activation(module: nn.Module) -> bool:
    from transformers.activations import ACT2CLS

    known = {nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh}
    for entry in ACT2CLS.values():
        kind = entry[0] if isinstance(entry, tuple) else entry  # with its arguments
        if isinstance(kind, type):
            known.add(kind)
    return type(module) in known


def _beside(model: nn.Module, name: str, sibling: str) -> bool:
    return hasattr(model.get_submodule(name.rpartition(".")[0]), sibling)


def _plain(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return out


def _gated(of_layer: Hook, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """One factor of a gate, or where one layer makes both, both:
    each hands all of the product's relevance to it.
    """
    return half(of_layer(module, args, out))


def _proportional(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """y = x (y / x), the quotient a constant: the identity rule,
    and an RMS norm of constant size.
    """
    (x,) = args
    return x * (out / torch.where(x == 0, 1, x)).detach()


def _layer_norm(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """y - b = (x - mean) w / s, the quotient w / s a constant."""
    centred = args[0] - args[0].mean(-1, keepdim=True)
    bias: Any = getattr(module, "bias", None)
    if bias is None:
        return _proportional(module, (centred,), out)
    return _proportional(module, (centred,), out - bias) + bias


def _epsilon(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    share = (out / _away_from_0(out)).detach()
    return share * out + ((1 - share) * out).detach()


def _gamma(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    weight = _weight(module)
    lifted = F.linear(args[0], weight + GAMMA * weight.clamp(min=0), getattr(module, "bias", None))
    return _through(lifted, out)


def _zplus(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    (x,), weight = args, _weight(module)
    both_positive = F.linear(x.clamp(min=0), weight.clamp(min=0))
    both_negative = F.linear(x.clamp(max=0), weight.clamp(max=0))
    return _through(both_positive + both_negative, out)


def _at_input(
    at_input: Hook, of_layer: Hook, module: nn.Module, args: tuple[Any, ...], out: Tensor
) -> Tensor:
    """The input's own rule where a layer reads it, else the layers' rule."""
    is_input = args[0].is_leaf and args[0].requires_grad
    return (at_input if is_input else of_layer)(module, args, out)


def _squares(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    squares = _weight(module).square()
    return _through(F.linear(_ones(args[0]), squares), out)


def _box(
    bounds: tuple[float, float], module: nn.Module, args: tuple[Any, ...], out: Tensor
) -> Tensor:
    (x,), weight, (low, high) = args, _weight(module), bounds
    from_low = F.linear(low * _ones(x), weight.clamp(min=0))
    from_high = F.linear(high * _ones(x), weight.clamp(max=0))
    return _through(F.linear(x, weight) - (from_low + from_high), out)


def _ones(x: Tensor) -> Tensor:
    """1, with the gradient 1/x: its gradient times the input is what it is multiplied with."""
    return x / torch.where(x == 0, 1, x).detach()


def _through(terms: Tensor, out: Tensor) -> Tensor:
    """The value ``out``, whose relevance is handed on in the proportions
    of the terms that ``terms`` sums.
    """
    shared = terms * (out / _away_from_0(terms)).detach()
    return shared + (out - shared).detach()


def _away_from_0(x: Tensor) -> Tensor:
    return torch.where(x < 0, x - EPSILON, x + EPSILON)


def _weight(module: nn.Module) -> Tensor:
    """(out, in)."""
    weight: Any = module.weight
    return weight if isinstance(module, nn.Linear) else weight.T


_LINEAR_RULES = {"0": _plain, "epsilon": _epsilon, "gamma": _gamma, "zplus": _zplus}


def lrp(
    scorer: Scorer, options: Options, attention: str = "attnlrp", rule: str | None = None
) -> MethodScores:
    """Relevance of each unit, at the input of the first block (or at a site);
    it sums to the logit but for biases.
    """
    question, rule = scorer.question, rule or options.rule
    if question.measure != "logit":
        raise AttributionError(
            "relevance is of logits: choose --measure logit, or give a wrong answer to compare with"
        )
    model, end = question.subject.model, question.endpoint.site
    start = replace(options, site=options.site or START)
    # The relevance that passes each block's input shows where a rule loses or makes some.
    inputs_of_blocks = []
    for name in sites(model):
        if name.endswith("hook_resid_pre") and name != START and _runs(name, end):
            inputs_of_blocks.append(name)
    sums: dict[str, float] = {}

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        later = inputs_of_blocks
        first = slope.site.layer if slope.site is not None else None
        if first is not None:
            later = [name for name in later if _layer(name) > first]
        with propagating(model, rule, attention, end=end):
            if not later:
                return slope.at(x[None])[1][0] * x, {}
            with capture(model, *later, grad=True) as acts:
                gradient = slope.at(x[None])[1][0]
        for name in later:
            # Value times gradient, summed over a block's input, is the relevance that passes it.
            relevance = float((acts[name] * acts.grad[name]).double().sum())
            sums[name] = sums.get(name, 0.0) + relevance
        return gradient * x, {}  # pyright: ignore[reportPossiblyUnboundVariable]

    scored, figures = each_part(scorer, start, method)
    total = float(scored.scores.sum()) + figures["outside"]
    sums = {str(start.site): total, **sums}
    inner = scored.inner if options.site is not None else None
    note = _conservation_note(scored.value, sums, _takers(model, attention))
    return with_figures(
        MethodScores(scored.scores, scored.value, inner=inner),
        {**figures, "conservation": sums, "rule": rule},
        start,
        (note, *_notes_of_tables(question.subject)),
    )


def _notes_of_tables(subject: Subject) -> tuple[Note, ...]:
    """Which of the model's tables of tokens the scores leave out."""
    _, *others = tables(subject).text
    if not others:
        return ()
    named = ", ".join(str(lookup.site) for lookup in others)
    text = f"the scores follow the residual stream: they leave out what blocks read from {named}"
    return (Note(kind="warning", text=text),)


def _takers(model: nn.Module, attention: str) -> list[str]:
    """What relevance may go to that no unit has."""
    takers = []
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and bool(parameter.any()):
            takers.append("biases")
            break
    if attention == "attnlrp":
        takers.append("the softmax's constant terms")
    return takers


def _conservation_note(value: float, sums: dict[str, float], takers: list[str]) -> Note:
    """How much of the value arrives at the input, and at each block's."""
    total, *of_blocks = sums.values()
    # Biases take relevance that no input gave; without them all of it must arrive.
    share = abs(value - total) / max(abs(value), 1e-12)
    text = f"relevance at the input sums to {total:+.4g} of {value:+.4g}; {share:.1%} "
    is_lost = share > LOST and not takers
    if is_lost:
        text = (
            f"NOT CONSERVED: {text}is lost without biases to absorb it, "
            "so the model has a layer that no rule covers"
        )
    else:
        text += f"is absorbed by {' and '.join(takers) or 'rounding and soft caps'}"
    by_block = ", ".join(f"{block:+.4g}" for block in of_blocks)
    return Note(
        kind="warning" if is_lost else "info", text=f"{text}. The sums by block are {by_block}"
    )


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def chefer(scorer: Scorer, options: Options) -> MethodScores:
    """Attention rolled out, each layer's weighted by its gradient and its relevance;
    without a sign.
    """
    question = scorer.question
    model, scores, value = question.subject.model, np.zeros(len(question.units)), 0.0
    end = question.endpoint.site
    all_patterns = [name for name in sites(model) if name.endswith("attn.hook_pattern")]
    patterns = [name for name in all_patterns if _runs(name, end)]
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
            # Heads whose gradient and relevance agree count; the others are cut at 0.
            weights = (plain.grad[name][0] * relevance).clamp(min=0).mean(0).double()
            # The residual connection is the identity in I + A.
            rollout = rollout + weights @ rollout
        # Without reads the model answers at its last token, or at its first.
        answer_at = len(part.ids) - 1 if question.subject.causal else 0
        row = rollout[list(part.reads) or [answer_at]].sum(0)
        scores += [float(row[list(places)].sum()) for places in part.tokens]
    text = (
        "chefer scores have no sign: they measure how much is read from each unit, "
        "not its direction"
    )
    notes = (Note(kind="info", text=text), *_notes_of_tables(question.subject))
    return MethodScores(scores, value, notes=notes)
