"""Checks of edits and gradients: what is changed at a site goes on from there, to the heads it
belongs to, as autograd says.

All sites of all blocks are examined in one forward: its rows are copies of one text, each changed
at one kind of site, and every block is entered with the clean stream again. The change at a block's
output is then that block's own answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..capture import capture
from ..edits import function
from ..intervene import intervene
from ..placement import cut_gradients
from ..site_map import has_experts
from ..sites import HEAD_AXIS, Site, SiteLike
from ..views import identity, turned
from .comparing import noise, relative
from .exam import Exam, quiet
from .findings import Finding
from .isolated import isolated
from .weights import quantised

BIG = 0.5
"""Size of a change, as a share of the site's root mean square."""
STEP = {torch.float32: 2e-3, torch.float64: 3e-4}
"""The same for finite differences,
which lower precision does not allow (norms run in float32 whatever the weights are).
"""
FLAT = {torch.float64: 1e-12, torch.float32: 1e-6}
"""The least change that counts as one; 1e-3 in half precision."""
SLOPE = 2e-2
"""The largest error of a slope, as a share of the gradient's size."""
COPIED = 300_000_000
"""Parameters of a model that is examined in a copy of double precision,
where small changes are not lost in rounding.
"""
TOKENS = 5
"""Of the one text."""
MOVED_ALONE = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "mlp.hook_pre")
Change = Callable[[Tensor], Tensor]


@dataclass
class Response:
    """The one forward: which row is changed how, and what every block made of it."""

    directions: dict[str, Tensor] = field(default_factory=dict)  # of each site, one text
    # (part, "big" | "+" | "-" | "alone") -> row
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    acts: dict[str, Tensor] = field(default_factory=dict)
    unchanged: dict[str, str] = field(default_factory=dict)  # site -> why it could not be changed


def response(exam: Exam) -> tuple[Exam, Response]:
    """The one forward, and the examination in whose precision it ran; run once."""
    if exam.response is None:
        fine = _in_double(exam.of_one(TOKENS))
        exam.response = fine, _respond(fine)
    return exam.response


def _in_double(exam: Exam) -> Exam:
    if exam.dtype == torch.float64 or sum(p.numel() for p in exam.model.parameters()) > COPIED:
        return exam
    made = exam.in_precision(torch.float64)
    try:
        return made if len(made.acts) == len(exam.acts) else exam
    except (RuntimeError, TypeError, ValueError):
        return exam  # a kernel that has no double precision


def _respond(exam: Exam) -> Response:
    made = Response()
    inside = [s for s in exam.acts if in_blocks(s)]
    changes: dict[str, dict[int, Change]] = {}
    step = STEP.get(exam.dtype)
    assert exam.anatomy is not None or not inside
    for site in inside:
        part = Site(site).part
        place = exam.anatomy.places[site] if exam.anatomy is not None else None
        if place is not None and place.read_only:
            made.unchanged[site] = f"read-only: {place.read_only}"
            continue
        if _of_many_streams(exam, site):
            made.unchanged[site] = "a block is not a module with a single stream as input"
            continue
        if part == "hook_resid_mid" and not exam.has(site.replace("resid_mid", "attn_out")):
            made.unchanged[site] = (
                "read-only: it is edited through hook_attn_out, which is not listed"
            )
            continue
        direction = made.directions[site] = _direction(exam, site)
        kinds = [("big", BIG)] + ([("+", step), ("-", -step)] if step is not None else [])
        for kind, size in kinds:
            row = made.rows.setdefault((part, kind), len(made.rows) + 1)
            changes.setdefault(site, {})[row] = functools.partial(_shifted, by=direction * size)
        if part in MOVED_ALONE:
            row = made.rows.setdefault((part, "alone"), len(made.rows) + 1)
            changes[site][row] = functools.partial(_one_part, by=direction * BIG, part=part)
    inside = [s for s in inside if s not in made.unchanged]
    read = [
        s
        for s in inside
        if Site(s).part in ("hook_resid_post", "mlp.hook_post", "attn.hook_z", *HEAD_AXIS)
    ]
    if made.rows:
        made.acts = isolated(exam, changes, len(made.rows) + 1, read)
    return made


def in_blocks(site: str) -> bool:
    """Whether a site is one of the main stack's blocks, and no single expert's."""
    return site.startswith("blocks.") and ".experts." not in site


def _of_many_streams(exam: Exam, site: str) -> bool:
    place = (
        exam.anatomy.places.get(f"blocks.{Site(site).layer}.hook_resid_pre")
        if exam.anatomy is not None
        else None
    )
    return place is None or place.end != "input" or place.view not in (identity, turned)


def _direction(exam: Exam, site: str) -> Tensor:
    """Random, as large as the site's values, 0 where attention is masked."""
    value = exam.acts[site][0]
    seed = sum(map(ord, site))
    if Site(site).part == "attn.hook_attn_scores":
        # masked entries may be -inf, or any large negative number
        seen = value.double().softmax(-1) > 0
        return torch.where(seen, noise(torch.where(seen, value, 0.0), seed, 1.0), 0.0)
    return (
        noise(value, seed, 1.0) * (value > 0)
        if Site(site).part == "attn.hook_pattern"
        else noise(value, seed, 1.0)
    )


def _shifted(value: Tensor, by: Tensor) -> Tensor:
    return value + by


def _one_part(value: Tensor, by: Tensor, part: str) -> Tensor:
    """The first head (or neuron), at one position in the middle."""
    moved, at = value.clone(), value.shape[0] // 2
    moved[at, 0] = value[at, 0] + by[at, 0]
    return moved


def edits_reach(exam: Exam) -> Iterator[Finding]:
    """An edit at the site changes its block's output,
    and an edit of that output changes the model's answer.
    """
    exam, answer = response(exam)
    least = FLAT.get(exam.dtype, 1e-3)
    why = "an edit here changes nothing"
    reaches = _outputs_reach(exam, answer)
    for site in exam.acts:
        layer = Site(site).layer
        post = f"blocks.{layer}.hook_resid_post"
        if site in answer.unchanged:
            yield exam.cannot(site, answer.unchanged[site])
        elif not in_blocks(site) and layer is not None:
            yield from _edit_elsewhere(exam, site, least, why)
        elif layer is not None and exam.has(post):
            row = answer.rows[Site(site).part, "big"]
            here = relative(answer.acts[post][row], answer.acts[post][0])
            yield exam.above(site, min(here, reaches.get(post, here)), least, why)
        else:
            yield exam.above(site, _whole(exam, site, BIG), least, why)


def _edit_elsewhere(exam: Exam, site: str, least: float, why: str) -> Iterator[Finding]:
    """An edit in another stack, of the first and the last of its blocks,
    through the whole model.
    """
    assert exam.anatomy is not None
    stack = site.partition(".")[0]
    if ".experts." in site or exam.anatomy.places[site].read_only:
        return
    if Site(site).layer not in (0, exam.anatomy.stacks.get(stack, 0) - 1):
        return
    if not exam.acts[site].any():
        yield exam.cannot(site, "it holds zeros here")
        return
    part = Site(site).part
    if part in ("hook_resid_mid", "hook_resid_mid_cross"):
        yield exam.cannot(site, "read-only: it is edited through the output that is added to it")
        return
    yield exam.above(site, _whole(exam, site, BIG), least, why)


def _outputs_reach(exam: Exam, answer: Response) -> dict[str, float]:
    """The change of the answer when a block's output is changed: the last one's measured, the
    others' through the next block.
    """
    posts = [
        s for layer in range(exam.n_layers) if exam.has(s := f"blocks.{layer}.hook_resid_post")
    ]
    if not posts:
        return {}
    last = posts[-1]
    edit = function(functools.partial(_in_row, row=1, by=_direction(exam, last) * BIG))
    with torch.no_grad(), quiet(), intervene(exam.model, {last: edit}):
        out = exam.run(exam.item(0, 2))
    reaches = {last: relative(out[1], out[0])}
    row = answer.rows["hook_resid_pre", "big"]
    for post, after in zip(reversed(posts[:-1]), reversed(posts[1:]), strict=True):
        through = relative(answer.acts[after][row], answer.acts[after][0])
        reaches[post] = min(reaches[after], through)
    return reaches


def _in_row(value: Tensor, row: int, by: Tensor) -> Tensor:
    out = value.clone()
    out[row] = value[row] + by
    return out


def _whole(exam: Exam, site: str, size: float) -> float:
    """The change of the answer when a site is changed in the whole model."""
    by = noise(exam.acts[site], 1, size)
    with torch.no_grad(), quiet(), intervene(exam.model, {site: function(lambda x: x + by)}):
        out = exam.run()
    return relative(out, exam.plain)


def own_heads(exam: Exam) -> Iterator[Finding]:
    """A query moves only its own row of its head's scores, a key its column in its group's heads,
    a value its group's z.
    """
    exam, answer = response(exam)
    for layer in range(exam.n_layers):
        for name, out in (("q", "attn_scores"), ("k", "attn_scores"), ("v", "z")):
            site, read = f"blocks.{layer}.attn.hook_{name}", f"blocks.{layer}.attn.hook_{out}"
            if (
                not exam.has(site)
                or site in answer.unchanged
                or (Site(site).part, "alone") not in answer.rows
            ):
                continue
            if not exam.has(read):
                yield exam.cannot(site, f"hook_{out}, which it should move, is not listed")
                continue
            assert exam.anatomy is not None
            row = answer.acts[read][answer.rows[Site(site).part, "alone"]].double()
            moved = torch.where(row.isfinite(), row - answer.acts[read][0].double(), 0.0).abs()
            at, heads = exam.acts[site].shape[1] // 2, exam.anatomy.query_heads(f"{site}[0]")
            inside = torch.zeros_like(moved, dtype=torch.bool)
            for head in heads:
                clean = answer.acts[read][0]
                # the model takes its row's largest score away
                from_top = bool((clean.amax(-1) == 0).all())
                sink = moved.shape[-1] != len(exam.acts[site][0])
                column = slice(None) if sink or from_top else at
                where = {
                    "q": (head, at),
                    "k": (head, slice(None), column),
                    "v": (slice(None), head),
                }[name]
                inside[where] = True
            hit, stray = float((moved * inside).max()), float((moved * ~inside).max())
            if stray > exam.local * hit and stray < hit and _normed_together(exam, layer, site):
                yield exam.cannot(
                    site, "a norm over all heads follows: editing one head rescales the others"
                )
                continue
            why = "changing one head here changes others: heads are mixed up"
            yield exam.within(site, stray / hit if hit else float("inf"), exam.local, why)


def _normed_together(exam: Exam, layer: int, site: str) -> bool:
    """Whether a norm in the block reads all heads of the site at once."""
    flat = exam.acts[site].flatten(2)
    return any(
        given.shape == flat.shape and relative(given, flat) <= exam.local
        for given, _ in exam.norms(f"blocks.{layer}")
    )


def own_neurons(exam: Exam) -> Iterator[Finding]:
    """mlp.hook_post is mlp.hook_pre neuron by neuron."""
    exam, answer = response(exam)
    for layer in range(exam.n_layers):
        pre, post = f"blocks.{layer}.mlp.hook_pre", f"blocks.{layer}.mlp.hook_post"
        if (
            not exam.has(pre, post)
            or pre in answer.unchanged
            or ("mlp.hook_pre", "alone") not in answer.rows
        ):
            continue
        row = answer.acts[post][answer.rows["mlp.hook_pre", "alone"]].double()
        moved, at = (row - answer.acts[post][0].double()).abs(), row.shape[0] // 2
        hit = float(moved[at, 0])
        moved[at, 0] = 0
        stray = float(moved.max())
        if hit == 0 and stray == 0:  # a neuron that is off on both sides of its activation
            yield exam.cannot(pre, "the changed neuron is inactive there")
            continue
        why = "changing one neuron before the activation changes others after it"
        yield exam.within(pre, stray / hit if hit else float("inf"), exam.local, why)


def gradients(exam: Exam) -> Iterator[Finding]:
    """The gradient at every site, along a random direction, is the finite difference."""
    if why := cut_gradients(exam.model):
        yield exam.cannot("", why)
        return
    exam, answer = response(exam)
    step = STEP.get(exam.dtype)
    if step is None:
        yield exam.cannot(
            "",
            "finite differences need float32, the weights are "
            f"{str(exam.dtype).removeprefix('torch.')}",
        )
        return
    if any(quantised(exam.model)):
        yield exam.cannot(
            "",
            "quantised layers round values, which dominates finite differences",
        )
        return
    inside = list(answer.directions)
    why = "the gradient differs from the finite difference"
    if inside:
        posts = [s for s in answer.acts if s.endswith("hook_resid_post")]
        weights = {s: noise(exam.acts[s][0], 7 + sum(map(ord, s)), 1.0) for s in posts}
        slopes = _block_gradients(exam, inside, weights)
        for site in inside:
            post, part = f"blocks.{Site(site).layer}.hook_resid_post", Site(site).part
            if post not in weights:
                continue
            up, down = (answer.acts[post][answer.rows[part, sign]].double() for sign in "+-")
            weight, middle = weights[post].double(), answer.acts[post][0].double()
            sides = [
                float((weight * (up - middle)).sum()) / step,
                float((weight * (middle - down)).sum()) / step,
            ]
            error, size = _slope_error(slopes[site], answer.directions[site], sides)
            rounding = (
                1e-7 * float((weights[post].double() * answer.acts[post][0].double()).norm()) / step
            )
            if error > SLOPE and rounding > 0.2 * SLOPE * size:
                yield exam.cannot(
                    site,
                    "a change here has too little effect on the block for finite differences",
                )
            elif error > SLOPE and has_experts(exam.model, exam.block_path(Site(site).layer or 0)):
                yield exam.cannot(
                    site, "a router may choose other experts within a finite difference"
                )
            else:
                yield exam.within(site, error, SLOPE, why)
    outside = [
        s
        for s in exam.acts
        if Site(s).layer is None and s not in answer.unchanged and "decoder_" not in s
    ]
    if has_experts(exam.model):
        yield from (
            exam.cannot(s, "a router may choose other experts within a finite difference")
            for s in outside
        )
    elif outside:
        yield from _whole_gradients(exam, outside, step, why)


def _slope_error(gradient: Tensor, direction: Tensor, sides: list[float]) -> tuple[float, float]:
    """How far g . d is outside the differences to both sides (a ReLU's kink may stand between
    them), and what it is relative to.

    That is |g| times the direction's size, which is what a random direction gives.
    """
    g, d = gradient.double(), direction.double()
    g = torch.where(d != 0, g, 0.0)
    size = float(g.norm() * d.square().mean().sqrt())
    slope = float((g * d).sum())
    error = max(0.0, min(sides) - slope, slope - max(sides))
    return (error / size if size else float(error > 0)), size


def _block_gradients(
    exam: Exam, inside: list[str], weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    """d sum <w, resid_post of the site's block> / d site, for the first text."""
    ends: dict[str, Tensor] = {}

    def keep(value: Tensor, site: str) -> Tensor:
        ends[site] = value
        return value

    def reset(value: Tensor, layer: int) -> Tensor:
        return exam.acts[f"blocks.{layer}.hook_resid_pre"][:1].to(value).clone()

    ins: dict[SiteLike, Any] = {
        f"blocks.{layer}.hook_resid_pre": functools.partial(reset, layer=layer)
        for layer in range(exam.n_layers)
    }
    gradients: dict[str, Tensor] = {}
    outs: dict[SiteLike, Any] = {site: functools.partial(keep, site=site) for site in weights}
    with (
        torch.enable_grad(),
        quiet(),
        intervene(exam.model, ins),
        capture(exam.model, *inside, grad=True) as acts,
        intervene(exam.model, outs),
    ):
        exam.run(exam.item(0))
        loss = torch.stack([(ends[site] * weight).sum() for site, weight in weights.items()]).sum()
        gradients = {site: gradient[0] for site, gradient in acts.gradients(loss).items()}
    return gradients


def _whole_gradients(exam: Exam, sites: list[str], step: float, why: str) -> Iterator[Finding]:
    """The same through the whole model, for sites outside the blocks and raw module paths."""
    weight, gradients = noise(exam.plain, 3, 1.0), {}
    with torch.enable_grad(), capture(exam.model, *sites, grad=True) as acts:
        gradients = acts.gradients((exam.run() * weight).sum())
    for site in sites:
        ends, direction = [], noise(exam.acts[site], 5, 1.0)
        for sign in (1, -1):
            by = sign * step * direction
            with (
                torch.no_grad(),
                quiet(),
                intervene(exam.model, {site: function(lambda x, by=by: x + by)}),
            ):
                ends.append(exam.run().double())
        middle = exam.plain.double()
        sides = [
            float((weight.double() * d).sum()) / step for d in (ends[0] - middle, middle - ends[1])
        ]
        yield exam.within(site, _slope_error(gradients[site], direction, sides)[0], SLOPE, why)
