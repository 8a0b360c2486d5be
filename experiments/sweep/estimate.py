"""Effects of many edits estimated from one gradient, and the certificate that says how far to trust
them.

    estimate = sum over positions and width of (edited value - value) * d metric / d value,
        at the unedited run

One forward and one backward give it for every head and neuron at once: attribution patching, and
for zero ablation the head gates of Michel et al. 2019. It is exact where the metric is linear in
the value, and misleads where it is not: a saturated softmax, an early MLP, a norm that rescales. So
no estimate goes without its certificate, the exact effects of the largest ones and of a random
sample.

Two corrections (Kramár et al. 2024, AtP*): an edit of queries or keys goes through the softmax
exactly, and GradDrop ranks by gradients that pass by one layer at a time, so that two paths that
cancel do not hide a part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...hooks import NothingChanged, Readout, Site, capture, edits, intervene, sites
from ...hooks.edits import Edit, Where
from ...hooks.output_heads import asked_positions
from ...hooks.sites import SiteLike
from ...probes import evaluation
from ..metrics.metrics import Metric
from ..metrics.reads import MetricError
from ..subject import Subject
from ..subject.batches import Batch
from .components import Component
from .records import Certificate
from .sweep import Chunk

METHODS = ("gradient", "graddrop")
NOISE = 1e-5
"""Exact effects below this share of the largest are rounding: their sign says nothing."""
TRUSTED = 0.7
"""Spearman correlation with the exact effects below which an estimate misleads."""
SAME_SIGN = 0.9
"""Share of right signs among the largest below which it does, too."""
BEFORE_SOFTMAX = ("attn.hook_q", "attn.hook_k")
"""Sites whose edit goes through the softmax of attention exactly."""


class Estimates(NamedTuple):
    """What the gradient says of every component on each prompt.

    Attributes:
        effects: first-order effect of the edit: the sum over positions, which is the derivative of
            the example's gate.
        per_position: absolute values summed over positions, as the code released with Michel et al.
            2019 does.
    """

    effects: Float[np.ndarray, "components prompts"]
    per_position: Float[np.ndarray, "components prompts"]


def estimates(
    subject: Subject,
    metric: Metric,
    chunk: Chunk,
    parts: Sequence[Component],
    edit_of: Callable[[Component], Edit],
    *,
    dropped: int | None = None,
) -> Estimates:
    """First-order effect of the edit at each component on each prompt's metric.

    Args:
        edit_of: what the value of a component's whole site becomes.
        dropped: a layer that gradients pass by, through the residual stream alone (a pass of
            GradDrop).

    Raises:
        MetricError: a metric without a gradient; keys by position.
    """
    parts_of = {part.site.name: Site.parse(part.site.name).part for part in parts}
    for part in parts:
        if part.kind == "positions" and parts_of[part.site.name] == "attn.hook_k":
            raise MetricError(
                "keys by position have no estimate: a key's effect shows at the queries "
                "that read it"
            )
    edit = {part.site.name: edit_of(part) for part in parts}
    run = _unedited(subject, metric, chunk, edit, dropped)
    changes: dict[str, Tensor] = {}
    for name, part in parts_of.items():
        # A softmax is flat where it is sure, and a gradient at one point is blind to what a large
        # change would do: the new pattern is computed, and only what follows it is linear.
        if part in BEFORE_SOFTMAX:
            changes[name] = _through_softmax(subject.model, run, name, edit[name])
        else:
            changes[name] = _first_order(run, name, edit[name])
    return Estimates(
        _by_prompt(changes, parts, chunk, per_position=False),
        _by_prompt(changes, parts, chunk, per_position=True),
    )


class _Unedited(NamedTuple):
    """One forward and backward without edits.

    Attributes:
        inputs: of the forward; ``batch`` tells which of a site's positions are tokens.
        values: activations of the edited sites, of what their edits need, and of the patterns
            behind queries and keys.
        gradients: d metric / d value of each, summed over prompts, which do not meet.
    """

    inputs: Mapping[str, Tensor]
    batch: Batch
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def _unedited(
    subject: Subject, metric: Metric, chunk: Chunk, edit: Mapping[str, Edit], dropped: int | None
) -> _Unedited:
    """The values and gradients that all estimates of a batch are made from."""
    model, inputs = subject.model, chunk.batch.inputs(subject.device)
    names = list(edit)
    patterns = [_pattern_of(name) for name in names if Site.parse(name).part in BEFORE_SOFTMAX]
    needed = [need for name in names for need in edit[name].needs]
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NothingChanged)  # detaching changes gradients, not values
        if dropped is not None:
            stack.enter_context(intervene(model, _detached(model, dropped)))
        values = stack.enter_context(capture(model, *names, *patterns, *needed, grad=True))
        kept = None
        if metric.readout is None:
            kept = asked_positions(model, inputs, chunk.reads.positions[:, 1])
        asked = inputs if kept is None else {**inputs, "logits_to_keep": kept.to(subject.device)}
        logits = _logits(model, asked, metric.readout)
        at_reads = chunk.reads.of_logits(logits, kept)
        value = metric.value(at_reads[None], at_reads.detach(), chunk.reads)
        if not value.requires_grad:
            raise MetricError(f"metric {metric.name} has no gradient to estimate effects from")
        # Prompts do not meet, so the gradient of the sum is each prompt's own.
        gradients = values.gradients(value.sum(), retain_graph=False)
    return _Unedited(inputs, chunk.batch, values, gradients)


def _detached(model: nn.Module, layer: int) -> dict[SiteLike, Edit]:
    """Edits that cut the gradient through a layer's attention and MLP;
    its residual stream keeps it.
    """
    cut = edits.function(Tensor.detach)
    outputs = ("hook_attn_out", "hook_cross_attn_out", "hook_mlp_out")
    names = sites(model, f"*blocks.{layer}.*")
    return {name: cut for name in names if name.endswith(outputs)}


def _first_order(run: _Unedited, name: str, edit: Edit) -> Float[Tensor, "batch pos *width"]:
    """(edited value - value) * gradient at each number of a site."""
    live = {need: run.values[need] for need in edit.needs}
    where = Where(Site(name), mask=run.batch.mask_of(name), live=live)
    with torch.no_grad():
        change = edit(run.values[name], where) - run.values[name]
        return change.float() * run.gradients[name].float()


def _through_softmax(
    model: nn.Module, run: _Unedited, name: str, edit: Edit
) -> Float[Tensor, "batch pos head 1"]:
    """Queries and keys: the edited attention pattern is computed, and the gradient taken from there
    on (AtP*).

    A softmax that is saturated has next to no gradient, although the edit moves the pattern.
    """
    pattern = _pattern_of(name)
    with torch.no_grad(), intervene(model, {name: edit}), warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        with capture(model, pattern, stop=True) as edited:
            model(**run.inputs)
    change = (edited[pattern] - run.values[pattern]) * run.gradients[pattern]
    by_query = change.sum(-1)  # batch head query
    n_groups = run.values[name].shape[2]
    batch, _, queries = by_query.shape
    # The queries of one key head are one group.
    grouped = by_query.view(batch, n_groups, -1, queries).sum(2)
    return grouped.transpose(1, 2).unsqueeze(-1)


def _pattern_of(name: str) -> str:
    """The attention pattern that a layer's queries and keys make."""
    return name.rpartition(".")[0] + ".hook_pattern"


def _logits(
    model: nn.Module, inputs: Mapping[str, Tensor], readout: Readout | None
) -> Float[Tensor, "batch pos classes"] | Float[Tensor, "batch classes"]:
    """The model's logits, or those of what reads it, in the graph."""
    if readout is None:
        return model(**inputs).logits
    residuals: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        residuals.append(value)
        return value

    with intervene(model, {f"blocks.{readout.layer}.hook_resid_post": edits.function(keep)}):
        model(**inputs)
    return readout.of(residuals[-1])


def _by_prompt(
    changes: Mapping[str, Tensor], parts: Sequence[Component], chunk: Chunk, per_position: bool
) -> Float[np.ndarray, "components prompts"]:
    """Sums over what belongs to each component, then over each prompt's texts."""
    prompt_of_text = torch.zeros(len(chunk.batch.attention_mask), dtype=torch.long)
    # Which prompt each text is of; a pair has two texts.
    prompt_of_text[chunk.reads.places[:, 0]] = chunk.reads.places[:, 3]
    by_site: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        by_site.setdefault(part.site.name, []).append(i)
    out = np.zeros((len(parts), len(chunk.prompts)))
    for name, numbers in by_site.items():
        of_site = [parts[i] for i in numbers]
        by_text = _by_text(changes[name], of_site, chunk.batch.mask_of(name), per_position)
        by_prompt = by_text.new_zeros(len(chunk.prompts), len(numbers))
        by_prompt.index_add_(0, prompt_of_text.to(by_text.device), by_text)
        out[numbers] = by_prompt.T.double().cpu().numpy()
    return out


def _by_text(
    change: Float[Tensor, "batch pos *width"],
    parts: Sequence[Component],
    mask: Tensor,
    per_position: bool,
) -> Float[Tensor, "batch components"]:
    """What each component of one site adds in each text; padding adds nothing."""
    padding_as_0 = mask.to(change).view(*mask.shape, *[1] * (change.ndim - 2))
    real = change * padding_as_0
    indices = [part.index or 0 for part in parts]
    if parts[0].kind == "positions":
        return real.flatten(2).sum(2)[:, indices]
    if parts[0].index is None:
        at_position = real.flatten(2).sum(2).unsqueeze(2)  # batch pos 1
    else:
        at_position = real if real.ndim == 3 else real.flatten(3).sum(3)  # batch pos index
    sizes = at_position.abs() if per_position else at_position
    return sizes.sum(1)[:, indices]


def grad_drop(
    subject: Subject,
    metric: Metric,
    chunk: Chunk,
    parts: Sequence[Component],
    edit_of: Callable[[Component], Edit],
    n_layers: int,
) -> Float[np.ndarray, "components prompts"]:
    """c = 1/(L - 1) sum_l |estimate with layer l passed by|: sizes, without a sign."""
    sizes = []
    for layer in range(n_layers):
        of_pass = estimates(subject, metric, chunk, parts, edit_of, dropped=layer)
        sizes.append(np.abs(of_pass.effects))
    return np.sum(sizes, axis=0) / max(1, n_layers - 1)


def to_verify(
    sizes: Float[np.ndarray, " components"], top: int, sample: int, seed: int
) -> tuple[list[int], list[int]]:
    """The components that are measured exactly: the largest,
    and a random sample of all the others.
    """
    # Stable: ties in the model's order, so that a run that is continued chooses the same.
    order = np.argsort(-sizes, kind="stable")
    rest = np.random.default_rng(seed).permutation(order[top:])[:sample]
    return sorted(order[:top].tolist()), sorted(rest.tolist())


def certificate(
    method: str,
    estimate: Float[np.ndarray, " components"],
    exact: Float[np.ndarray, " components"],
    top: Sequence[int],
    sample: Sequence[int],
) -> Certificate:
    """How the estimated mean effects agree with the exact ones, where those were measured.

    The largest are all verified, of the others only a sample. So that the rank correlation is that
    of the whole grid and not of a choice of large effects, each sampled part counts as often as
    there are parts that it stands for. Without a sample there is none.
    """
    top_parts, sampled = np.array(top, dtype=int), np.array(sample, dtype=int)
    verified = np.concatenate([top_parts, sampled])
    top_exact, top_estimate = exact[top_parts], estimate[top_parts]
    # Which half of the largest is the larger one, by the exact effects and by the estimates.
    half = max(1, len(top_parts) // 2)
    larger_by_exact = set(np.argsort(-np.abs(top_exact), kind="stable")[:half].tolist())
    larger_by_estimate = set(np.argsort(-np.abs(top_estimate), kind="stable")[:half].tolist())
    # The sign of an effect that is rounding says nothing.
    is_real = np.abs(top_exact) > NOISE * np.abs(top_exact).max(initial=0.0)
    signs_agree = np.sign(top_estimate[is_real]) == np.sign(top_exact[is_real])
    # The slope of a line through 0: exact = slope x estimate.
    square = float((estimate[verified] ** 2).sum())
    product = float((estimate[verified] * exact[verified]).sum())
    is_missed = np.abs(exact[sampled]) > np.median(np.abs(top_exact))
    agreement = Certificate(
        method=method,
        n_top=len(top_parts),
        n_sample=len(sampled),
        spearman=_spearman_of_grid(estimate, exact, top_parts, sampled),
        spearman_sample=weighted_spearman(estimate[sampled], exact[sampled], np.ones(len(sampled))),
        overlap=len(larger_by_exact & larger_by_estimate) / half,
        same_sign=float(signs_agree.mean()) if is_real.any() else None,
        slope=product / square if square else None,
        missed=int(is_missed.sum()),
        misleads=[],
    )
    return replace(agreement, misleads=_reasons(agreement))


def _spearman_of_grid(
    estimate: Float[np.ndarray, " components"],
    exact: Float[np.ndarray, " components"],
    top: Int[np.ndarray, " t"],
    sampled: Int[np.ndarray, " s"],
) -> float | None:
    """Of the whole grid, each sampled part standing for its share of the others;
    None without a sample of them.
    """
    n_others = len(estimate) - len(top)
    if n_others and not len(sampled):
        return None
    verified = np.concatenate([top, sampled])
    weights = evaluation.stratum_weights(len(top), len(sampled), len(estimate))
    return weighted_spearman(estimate[verified], exact[verified], weights)


def _reasons(agreement: Certificate) -> list[str]:
    """Why the estimate cannot be trusted here."""
    reasons = []
    if agreement.spearman is not None and agreement.spearman < TRUSTED:
        reasons.append(f"Spearman's correlation with the exact effects is {agreement.spearman:.2f}")
    if agreement.same_sign is not None and agreement.same_sign < SAME_SIGN:
        reasons.append(f"{1 - agreement.same_sign:.0%} of the largest have the other sign")
    if agreement.missed:
        reasons.append(
            f"{agreement.missed} of {agreement.n_sample} sampled parts are "
            "larger than half of the top"
        )
    return reasons


def weighted_spearman(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float | None:
    """`probes.evaluation.weighted_spearman`; None of fewer than three pairs, or where one side does
    not vary.

    Parts are drawn with unequal chances: a weight is the number of parts that a drawn one stands
    for.
    """
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return evaluation.weighted_spearman(a, b, weights)
