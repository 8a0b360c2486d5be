"""Effects of many edits estimated from one gradient, and the certificate that says how far to trust them.

    estimate = sum over positions and width of (edited value - value) * d metric / d value,    at the unedited run

One forward and one backward give it for every head and neuron at once: attribution patching, and for zero ablation the
head gates of Michel et al. 2019. It is exact where the metric is linear in the value, and misleads where it is not: a
saturated softmax, an early MLP, a norm that rescales. So no estimate goes without its certificate, the exact effects of
the largest ones and of a random sample.

Two corrections (Kramár et al. 2024, AtP*): an edit of queries or keys goes through the softmax exactly, and GradDrop
ranks by gradients that pass by one layer at a time, so that two paths that cancel do not hide a part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor, nn

from ...hooks import NothingChanged, Readout, Site, capture, edits, intervene, sites
from ...hooks.edits import Edit, Where
from ..metrics.metrics import Metric
from ..metrics.reads import MetricError
from ..subject import Subject
from .components import Component
from .sweep import Chunk

METHODS = ("gradient", "graddrop")
NOISE = 1e-5
"""Exact effects below this share of the largest are rounding: their sign says nothing."""
TRUSTED = 0.7
"""Spearman correlation with the exact effects below which an estimate is said to mislead."""


class Estimates(NamedTuple):
    """What the gradient says of every component on each prompt.

    Attributes:
        effects: first-order effect of the edit: the sum over positions, which is the derivative of the example's gate.
        per_position: absolute values summed over positions, as the code released with Michel et al. 2019 does.
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
        dropped: a layer that gradients pass by, through the residual stream alone (a pass of GradDrop).

    Raises:
        MetricError: a metric without a gradient; keys by position.
    """
    if any(part.kind == "positions" and Site.parse(part.site.name).part == "attn.hook_k" for part in parts):
        raise MetricError("keys by position have no estimate: a key's effect shows at the queries that read it")
    edit = {part.site.name: edit_of(part) for part in parts}
    names = list(edit)
    softmax = {name: Site.parse(name) for name in names if Site.parse(name).part in ("attn.hook_q", "attn.hook_k")}
    watched = [f"blocks.{site.layer}.attn.hook_pattern" for site in softmax.values()]
    read = [name for name in names if name not in softmax]
    needed = [need for name in read for need in edit[name].needs]
    model, reads = subject.model, chunk.reads
    inputs = chunk.batch.inputs(subject.device)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NothingChanged)
        if dropped is not None:
            through = [s for s in sites(model, f"blocks.{dropped}.*") if s.endswith(("hook_attn_out", "hook_mlp_out"))]
            stack.enter_context(intervene(model, {site: edits.function(Tensor.detach) for site in through}))
        acts = stack.enter_context(capture(model, *names, *watched, *needed, grad=True))
        logits = _logits(model, inputs, metric.readout)
        at = logits[tuple(reads.positions.T.to(logits.device))]
        value = metric.value(at[None], at.detach(), reads)
        if not value.requires_grad:
            raise MetricError(f"metric {metric.name} has no gradient to estimate effects from")
        gradients = acts.gradients(value.sum(), retain_graph=False)
    moved = {}
    for name in read:
        where = Where(Site(name), mask=chunk.batch.attention_mask, live={need: acts[need] for need in edit[name].needs})
        with torch.no_grad():
            moved[name] = (edit[name](acts[name], where) - acts[name]).float() * gradients[name].float()
    for name, site in softmax.items():
        pattern = f"blocks.{site.layer}.attn.hook_pattern"
        with torch.no_grad(), intervene(model, {name: edit[name]}), warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingChanged)
            with capture(model, pattern, stop=True) as after:
                model(**inputs)
        change = (after[pattern] - acts[pattern]) * gradients[pattern]  # batch head query key
        heads = acts[name].shape[2]  # queries of one key head are one group
        moved[name] = change.sum(-1).view(len(change), heads, -1, change.shape[2]).sum(2).transpose(1, 2).unsqueeze(-1)
    return Estimates(_by_prompt(moved, parts, chunk, False), _by_prompt(moved, parts, chunk, True))


def _logits(
    model: nn.Module, inputs: Mapping[str, Tensor], readout: Readout | None
) -> Float[Tensor, "batch pos classes"]:
    """The model's logits, or those of what reads it, in the graph."""
    if readout is None:
        return model(**inputs).logits
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with intervene(model, {f"blocks.{readout.layer}.hook_resid_post": edits.function(keep)}):
        model(**inputs)
    return readout.of(seen[-1])


def _by_prompt(
    moved: dict[str, Tensor], parts: Sequence[Component], chunk: Chunk, per_position: bool
) -> Float[np.ndarray, "components prompts"]:
    """Sums over what belongs to each component, then over each prompt's texts."""
    mask = chunk.batch.attention_mask
    owner = torch.zeros(len(mask), dtype=torch.long)
    owner[chunk.reads.places[:, 0]] = chunk.reads.places[:, 3]
    totals: dict[str, Tensor] = {}
    for name, whole in moved.items():
        there = mask.to(whole).view(*mask.shape, *[1] * (whole.ndim - 2))
        totals[name] = whole * there
    out = np.zeros((len(parts), len(chunk.prompts)))
    by_site: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        by_site.setdefault(part.site.name, []).append(i)
    for name, mine in by_site.items():
        whole = totals[name]
        if parts[mine[0]].kind == "positions":
            values = whole.flatten(2).sum(2)[:, [parts[i].index or 0 for i in mine]]  # batch component
        elif parts[mine[0]].index is None:
            at_each = whole.flatten(2).sum(2)
            values = (at_each.abs() if per_position else at_each).sum(1, keepdim=True)
        else:
            at_each = whole if whole.ndim == 3 else whole.flatten(3).sum(3)  # batch pos index
            values = (at_each.abs() if per_position else at_each).sum(1)[:, [parts[i].index or 0 for i in mine]]
        by_prompt = values.new_zeros(len(chunk.prompts), len(mine)).index_add_(0, owner.to(values.device), values)
        out[mine] = by_prompt.T.double().cpu().numpy()
    return out


def grad_drop(
    subject: Subject,
    metric: Metric,
    chunk: Chunk,
    parts: Sequence[Component],
    edit_of: Callable[[Component], Edit],
    n_layers: int,
) -> Float[np.ndarray, "components prompts"]:
    """c = 1/(L - 1) sum_l |estimate with layer l passed by|: sizes, without a sign."""
    each = (estimates(subject, metric, chunk, parts, edit_of, dropped=layer) for layer in range(n_layers))
    return np.sum([np.abs(found.effects) for found in each], axis=0) / max(1, n_layers - 1)


def to_verify(sizes: Float[np.ndarray, " components"], top: int, sample: int, seed: int) -> tuple[list[int], list[int]]:
    """The components that are measured exactly: the largest, and a random sample of all the others."""
    order = np.argsort(-sizes, kind="stable")
    rest = np.random.default_rng(seed).permutation(order[top:])[:sample]
    return sorted(order[:top].tolist()), sorted(rest.tolist())


def certificate(
    estimate: Float[np.ndarray, " components"],
    exact: Float[np.ndarray, " components"],
    top: Sequence[int],
    sample: Sequence[int],
) -> dict[str, Any]:
    """How the estimated mean effects agree with the exact ones, where those were measured.

    Returns:
        ``n_top, n_sample``; Spearman's correlation over both and over the sample; ``overlap``, the share of the larger
        half of the top by exact size that is in the larger half by estimate; ``same_sign`` over the top's parts that are
        more than rounding (None: there are none); ``slope`` of exact on estimate through 0; ``missed``, sampled parts whose
        exact effect exceeds the median of the top's, and ``misleads`` with the reasons.
    """
    both = [*top, *sample]
    half = max(1, len(top) // 2)
    top_array = np.array(top, dtype=int)
    by_exact = set(top_array[np.argsort(-np.abs(exact[top_array]), kind="stable")[:half]].tolist())
    by_estimate = set(top_array[np.argsort(-np.abs(estimate[top_array]), kind="stable")[:half]].tolist())
    real = top_array[np.abs(exact[top_array]) > NOISE * np.abs(exact[top_array]).max(initial=0.0)]
    middle = float(np.median(np.abs(exact[top_array])))
    square = float((estimate[both] ** 2).sum())
    found = {
        "n_top": len(top),
        "n_sample": len(sample),
        "spearman": _spearman(estimate[both], exact[both]),
        "spearman_sample": _spearman(estimate[list(sample)], exact[list(sample)]),
        "overlap": len(by_exact & by_estimate) / half,
        "same_sign": float((np.sign(estimate[real]) == np.sign(exact[real])).mean()) if len(real) else None,
        "slope": float((estimate[both] * exact[both]).sum() / square) if square else None,
        "missed": int((np.abs(exact[list(sample)]) > middle).sum()),
    }
    reasons = []
    if found["spearman"] is not None and found["spearman"] < TRUSTED:
        reasons.append(f"Spearman's correlation with the exact effects is {found['spearman']:.2f}")
    if found["same_sign"] is not None and found["same_sign"] < 0.9:
        reasons.append(f"{1 - found['same_sign']:.0%} of the largest have the other sign")
    if found["missed"]:
        reasons.append(f"{found['missed']} of {len(sample)} sampled parts are larger than half of the top")
    return {**found, "misleads": reasons}


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """None where there is nothing to rank."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    found: Any = spearmanr(a, b)
    return float(found.statistic)
