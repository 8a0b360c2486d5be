"""Gradients of the value: with respect to the embedding, or any site.

    saliency    sum_d |dF/dx_d|                       (Simonyan et al. 2014; without a sign)
    grad-input  sum_d x_d dF/dx_d
    ig          sum_d (x_d - x'_d) int_0^1 dF/dx_d(x' + a (x - x')) da
                (Sundararajan et al. 2017, equation 1)
    smoothgrad  sum_d x_d E dF/dx_d(x + noise)
                (Smilkov et al. 2017, times the input, so that it has a sign)
    conductance sum_k dF/dy (y(x_k+1) - y(x_k)) for a site y along the same path, the slope the mean
    of both ends'
                (Dhamdhere et al. 2019)

Integrated gradients sum to F(x) - F(x'). The gap is measured, and steps are added where it is
largest until it is below 1% (`paths`). At the embedding, only the units' own tokens leave for the
baseline: specials and a continuation stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import Site, capture
from ...hooks.anatomy import locate
from ...hooks.sites import SiteLike
from ..report.schema import Note
from ..report.words import plural
from .lookups import (
    EMBED,
    embedding,
    moments,
    ordinary_tokens,
    tables,
)
from .options import Options
from .paths import integrate
from .question import Question
from .result import MethodScores
from .scorer import Cost, Row, Scorer
from .slope import Slope
from .units import AttributionError

GAP = 0.01
"""Largest share of F(x) - F(x') by which integrated gradients may miss it."""
FIRST_STEPS, MOST_STEPS = 10, 1000
"""Gradients of a path, in the first round and in all."""
SAMPLES = 50
"""Noisy copies of SmoothGrad, and draws of a sampled baseline."""


# From a part's slope and the site's clean value to a share for each element of it, and figures.
_Method = Callable[[Slope, Tensor], tuple[Tensor, dict[str, float]]]


def each_part(
    scorer: Scorer, options: Options, method: _Method
) -> tuple[MethodScores, dict[str, float]]:
    """A method's shares, of all parts and the units' tokens."""
    question = scorer.question
    site = _site(question, options)
    if site is None:
        scorer.once("ids are read elsewhere", partial(_note_other_reads, scorer))
    scores = np.zeros(len(question.units))
    inner: np.ndarray | None = None
    figures: dict[str, float] = {}
    outside = value = 0.0
    for part in question.parts:
        slope = Slope(scorer, part, site)
        value += float(scorer([Row(part.ids, part.reads)], part)[0])
        shares, of_part = method(slope, slope.clean())
        shares = shares.double().cpu()
        if shares.ndim == 3:  # one number for each head
            shares = shares.sum(-1)
        in_units = 0.0
        for unit, places in enumerate(part.tokens):
            of_unit = shares[slope.places(places)].sum()
            scores[unit] += float(of_unit)
            in_units = in_units + of_unit
        outside += float(shares.sum() - in_units)
        if options.site is not None and shares.ndim == 2:
            of_units = [shares[slope.places(places)].sum(0).numpy() for places in part.tokens]
            by_unit = np.stack(of_units)
            # Parts are terms of one sum, and so are their shares.
            inner = by_unit if inner is None else inner + by_unit
        figures = {name: figures.get(name, 0.0) + number for name, number in of_part.items()}
    if options.site is not None:
        figures["outside"] = outside
    return MethodScores(scores, value, inner=inner), figures


def _note_other_reads(scorer: Scorer) -> None:
    """Say of a model that reads ids where no gradient comes from."""
    if not tables(scorer.subject).are_all:
        text = (
            "this model also reads the ids of its tokens elsewhere than in embeddings: what "
            "depends on them there is in no gradient (use leave-one-out or kernel-shap)"
        )
        scorer.notes.append(Note(kind="warning", text=text))


def _site(question: Question, options: Options) -> Site | None:
    if options.site is None:
        return None
    (site, *others) = sites_of(question, options.site)
    if others:
        raise AttributionError(
            f"site {options.site}: expected one place, it means {1 + len(others)}"
        )
    # The words of both texts, as without a site.
    return None if site == Site(EMBED) and question.subject.has_decoder else site


def sites_of(question: Question, site: SiteLike) -> list[Site]:
    """The places that a site means.

    Raises:
        AttributionError: one that has a value of each pair of positions, not of each position.
    """
    places = list(locate(question.subject.model, site))
    for place in places:
        if place.part.endswith(("hook_attn_scores", "hook_pattern")):
            raise AttributionError(
                f"site {place}: expected a value of each position, it has one of each pair of them"
            )
    return places


def with_figures(
    scored: MethodScores, figures: Mapping[str, Any], options: Options, notes: tuple[Note, ...] = ()
) -> MethodScores:
    """What a gradient method gives, with its figures and what must be known of them."""
    all_figures: dict[str, Any] = {**figures}
    if options.site is not None:
        all_figures["site"] = str(options.site)
        text = (
            f"{figures['outside']:+.3g} of the value is attributed to positions outside all "
            "units (special tokens, BOS)"
        )
        notes = (*notes, Note(kind="info", text=text))
    return MethodScores(
        scored.scores,
        scored.value,
        scored.errors,
        scored.baseline,
        scored.inner,
        notes,
        all_figures,
    )


def saliency(scorer: Scorer, options: Options) -> MethodScores:
    """How much the value moves when a unit's vectors do, whichever way."""

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        _, slopes = slope.at(x[None])
        return slopes[0].abs(), {}

    scored, figures = each_part(scorer, options, method)
    note = Note(kind="info", text="saliency scores have no sign")
    return with_figures(scored, figures, options, (note,))


def grad_input(scorer: Scorer, options: Options) -> MethodScores:
    """The value's first-order change when a unit's vectors go to zero."""

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        _, slopes = slope.at(x[None])
        return slopes[0] * x, {}

    scored, figures = each_part(scorer, options, method)
    return with_figures(scored, figures, options)


def smoothgrad(scorer: Scorer, options: Options) -> MethodScores:
    """The mean of gradients around the text, times it;
    the noise is a share of the vectors' range.
    """
    samples = options.samples or SAMPLES
    if samples < 2:
        raise AttributionError(f"smoothgrad: expected at least 2 samples, got {samples}")
    by_sample: list[np.ndarray] = []

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(options.seed)
        # Drawn on the CPU, so that a seed means the same on every device.
        noise = torch.randn(samples, *x.shape, generator=generator).to(x)
        for columns in slope.widths:
            of_kind = x[..., columns]
            noise[..., columns] *= options.noise * float(of_kind.max() - of_kind.min())
        moves = _own_positions(slope, x)
        _, slopes = slope.at(x + noise * moves)
        shares = slopes * x
        at_position = shares.double().flatten(2).sum(2).cpu()  # sample pos
        of_units = []
        for places in slope.part.tokens:
            of_units.append(at_position[:, list(places)].sum(1).numpy())
        by_sample.append(np.stack(of_units, 1))
        return shares.mean(0), {}

    scored, figures = each_part(scorer, options, method)
    errors = np.sum(by_sample, axis=0).std(0, ddof=1) / np.sqrt(samples)
    scored = MethodScores(scored.scores, scored.value, errors, inner=scored.inner)
    return with_figures(scored, {**figures, "samples": samples}, options)


def _own_positions(slope: Slope, x: Tensor) -> Tensor:
    """1 at the positions that a path moves: the units' at the embedding, all at another site."""
    moves = torch.zeros(len(x), *[1] * (x.ndim - 1)).to(x)
    if not slope.is_embedding:
        return moves + 1
    for places in slope.part.tokens:
        moves[list(places)] = 1
    return moves


def baselines(slope: Slope, x: Tensor, options: Options) -> Float[Tensor, "draws pos *site"]:
    """Where paths begin."""
    kind = options.start
    # No token has a vector in the middle of the model that could stand for "nothing".
    if not slope.is_embedding and kind != "zero":
        raise AttributionError(
            f"baseline {kind!r} is one of embeddings: at {slope.site} expected zero"
        )
    if kind == "zero":
        start = torch.zeros_like(x)[None]
    else:
        cut = [length for _, length in slope.sides]
        sides = zip(x.split(cut), slope.sides, strict=True)
        starts = [_starts(slope, half, options, side) for half, (side, _) in sides]
        start = torch.cat(starts, dim=1)
    # At the embedding special tokens and an answer's own stay as they are: the path goes through
    # the units alone.
    return torch.where(_own_positions(slope, x).bool(), start, x)


def _starts(
    slope: Slope, x: Float[Tensor, "pos d"], options: Options, in_target: bool = False
) -> Float[Tensor, "draws pos d"]:
    """Embeddings that paths begin at, of so many positions of the source or of the target."""
    subject, kind = slope.question.subject, options.start
    if kind == "mean":
        return slope.at_site(moments(subject, in_target).mean).to(x).expand_as(x)[None]
    if kind in ("pad", "mask"):
        token = subject.pad_id
        if kind == "mask":
            token = getattr(subject.tokenizer, "mask_token_id", None)
        if token is None:
            raise AttributionError(
                f"baseline 'mask': {subject.name} has no mask token: choose zero, pad or mean"
            )
        one = embedding(subject, torch.tensor([int(token)]), in_target)
        return slope.at_site(one).to(x).expand_as(x)[None]
    if kind == "sampled":
        ordinary = torch.tensor(ordinary_tokens(subject))
        generator = torch.Generator().manual_seed(options.seed)
        shape = (options.samples or SAMPLES, len(x))
        ids = ordinary[torch.randint(len(ordinary), shape, generator=generator)]
        return slope.at_site(embedding(subject, ids, in_target)).to(x)
    raise AttributionError(f"baseline {kind!r}: expected zero, pad, mask, mean or sampled")


def integrated(scorer: Scorer, options: Options) -> MethodScores:
    """Integrated gradients by Gauss-Lobatto, with steps where the gradient moves,
    until the completeness gap is below 1%.
    """
    used: list[int] = []
    jumps: list[float] = []

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        starts = baselines(slope, x, options)
        *of_starts, full = slope.values(torch.cat([starts, x[None]])).double().tolist()
        baseline = float(np.mean(of_starts))
        change = full - baseline
        # Several baselines share the steps that one would have.
        most = max(1, MOST_STEPS // len(starts))
        total, steps = torch.zeros_like(x), 0
        for start in starts:
            integral = integrate(
                slope,
                x,
                start,
                first=max(1, (options.steps or FIRST_STEPS) // len(starts)),
                allowed=GAP * abs(change),
                most=most,
            )
            total += integral.shares / len(starts)
            steps += integral.steps
            jumps.extend(jump / len(starts) for jump in integral.jumps)
        used.append(steps)
        gap = float(total.double().sum()) - change
        return total, {"gap": gap, "change": change, "baseline": baseline}

    scored, figures = each_part(scorer, options, method)
    way = f"integrated from {options.start} in {max(used)} steps"
    advice = "the scores are unreliable"
    jumped = sum(jumps)
    if jumped > GAP * abs(figures["change"]):
        advice = (
            f"the value jumps at {plural(len(jumps), 'point')} of the path, by {jumped:.3g} "
            f"{scorer.question.unit} in all (as where a router chooses other experts, or in half "
            "precision). No gradient contains a jump, and more steps do not help: use "
            "leave-one-out or a Shapley method"
        )
    return complete(scored, {**figures, "steps": max(used), "jumped": jumped}, options, way, advice)


def complete(
    scored: MethodScores, figures: Mapping[str, Any], options: Options, way: str, advice: str
) -> MethodScores:
    """What a path's scores miss of the change from its baseline: a note, and a warning where it is
    much.

    Args:
        figures: ``gap``, ``change`` and ``baseline`` among others.
        way: how the path was walked.
        advice: what a gap that is too large means.
    """
    # Relative to what is to be explained: a gap of nothing to explain is no error.
    change = max(abs(figures["change"]), 1e-12)
    share = abs(figures["gap"]) / change
    notes = [Note(kind="info", text=f"{way}; the completeness gap is {share:.2%} of the change")]
    if share > GAP:
        notes.append(
            Note(kind="warning", text=f"NOT COMPLETE: the gap is above {GAP:.0%}: {advice}")
        )
    elif figures.get("jumped", 0.0) > GAP * change:
        # Jumps up and down cancel in the gap, not in the scores.
        notes.append(Note(kind="warning", text=f"NOT COMPLETE: {advice}"))
    all_figures = {**figures, "gap_share": share, "start": options.start}
    baseline = all_figures.pop("baseline")
    scored = MethodScores(scored.scores, scored.value, baseline=baseline, inner=scored.inner)
    return with_figures(scored, all_figures, options, tuple(notes))


def conductance(scorer: Scorer, options: Options) -> MethodScores:
    """What of integrated gradients flows through each part of a site: its heads or its neurons."""
    if options.site is None:
        raise AttributionError(
            "conductance is of a site: give one, such as blocks.3.mlp.hook_post (--site)"
        )
    if options.baseline == "sampled":
        raise AttributionError(
            "conductance goes along one path: choose the baseline zero, pad, mask or mean"
        )
    steps = options.path_steps
    scorer.once("ids are read elsewhere", partial(_note_other_reads, scorer))

    def method(slope: Slope, y: Tensor) -> tuple[Tensor, dict[str, float]]:
        path = Slope(scorer, slope.part)
        x = path.clean()
        (start,) = baselines(path, x, Options(baseline=options.baseline))
        fractions = torch.linspace(0, 1, steps + 1).to(x).view(-1, *[1] * x.ndim)
        along = start + fractions * (x - start)
        assert slope.site is not None
        values, slopes = _at_site(path, along, slope.site)
        mean_slopes = (slopes[1:] + slopes[:-1]) / 2  # the trapezoidal rule
        return (mean_slopes * values.diff(dim=0)).sum(0), {}

    scored, figures = each_part(scorer, options, method)
    return with_figures(scored, {**figures, "steps": steps}, options)


def _at_site(path: Slope, along: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """A site's values and the gradients at it while the embedding has these values."""
    values, slopes = [], []
    for batch in along.split(path.batch_size):
        leaf = batch.detach().clone().requires_grad_()
        with (
            torch.enable_grad(),
            path.put(leaf),
            capture(path.question.subject.model, site, grad=True) as acts,
        ):
            # unlike backward, leaves the weights' .grad alone
            torch.autograd.grad(path.value(len(leaf)).sum(), leaf)
        values.append(acts[site])
        slopes.append(acts.grad[site])
    n = len(along)
    path.scorer.cost += Cost(n, n, n, n * len(path.part.ids))
    return torch.cat(values), torch.cat(slopes)
