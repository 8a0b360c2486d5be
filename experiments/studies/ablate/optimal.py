"""Optimal ablation (Li & Janson 2024): the constant in a part's place that disturbs the model
least.

    a* = argmin_c  mean over prompts of  KL(p_clean || p with the part at c),
                   in bits, where the metric reads

What is then lost is what no constant can give: the part's information, without the harm that a
value from outside its range does. By definition the loss at a* is at most that of the mean and of
zero: both are tried, the better one is where the descent starts, and the best constant met is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ....hooks import NothingChanged, Reference, Resume, Site, intervene
from ....hooks.activations import selected
from ....hooks.edits import Edit, Where
from ....hooks.sites import SiteLike
from ...metrics.metrics import BITS
from ...runs import console
from ...runs.folder import RunFolder
from ...subject import Subject
from ...sweep.components import Component
from ...sweep.sweep import Chunk

RATE = 0.1
"""The first step of the descent, in standard deviations of the part's values; it falls to 0."""


def optimal_constants(
    folder: RunFolder,
    subject: Subject,
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    reference: Reference,
    steps: int,
    first: int = 0,
) -> dict[str, Tensor]:
    """The best constant of each component, laid into one tensor a site, ``*width``; sites that are
    saved are not run.

    Args:
        reference: gives the mean and the scale of each part.
        first: the first position that is edited.
    """
    subject.require_gradients()
    names = list(dict.fromkeys(part.site.name for part in parts))
    clean = [
        Resume(subject.model, chunk.batch.inputs(subject.device), chunk.reads.places[:, :2])
        for chunk in groups
    ]
    out: dict[str, Tensor] = {}
    with console.progress() as bars:
        bar = bars.add_task("optimal constants", total=len(names))
        for name in names:
            saved = folder.cell(f"optimal-{name}")
            if saved is None:
                of_site = [part for part in parts if part.site.name == name]
                saved = _descend(subject, clean, groups, of_site, reference, steps, first).tolist()
                folder.save_cell(f"optimal-{name}", saved)
            out[name] = torch.tensor(saved)
            bars.advance(bar)
    return out


def _descend(
    subject: Subject,
    clean: Sequence[Resume],
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    reference: Reference,
    steps: int,
    first: int,
) -> Float[Tensor, "*width"]:
    """All components of one site at once, a copy of the texts for each:
    their losses do not meet.
    """
    site = Site(parts[0].site.name)
    mean, scale = (value.to(subject.device, torch.float32) for value in reference.moments(site))
    # component *width; each component's own part of it is what counts
    whole = torch.stack([mean] * len(parts))
    zero = torch.zeros_like(whole)
    best, least = whole.clone(), _loss(subject, clean, groups, parts, whole, first)[0]
    at_zero = _loss(subject, clean, groups, parts, zero, first)[0]
    better = at_zero < least
    best[better], least = zero[better], torch.minimum(least, at_zero)
    now = best.clone()
    momentum, squares = torch.zeros_like(now), torch.zeros_like(now)
    for step in range(1, steps + 1):  # Adam (Kingma & Ba 2015), its step in standard deviations
        loss, gradient = _loss(subject, clean, groups, parts, now, first, backward=True)
        better = loss < least
        best[better], least = now[better], torch.minimum(least, loss)
        momentum = 0.9 * momentum + 0.1 * gradient
        squares = 0.99 * squares + 0.01 * gradient**2
        size = RATE * (1 - (step - 1) / steps) * scale
        now = now - size * (momentum / (1 - 0.9**step)) / (
            (squares / (1 - 0.99**step)).sqrt() + 1e-12
        )
    better = _loss(subject, clean, groups, parts, now, first)[0] < least
    best[better] = now[better]
    out = mean.clone()
    for number, part in enumerate(parts):
        at = selected(out[None, None], part.site)
        out[None, None][at] = best[number][None, None][at]
    return out.cpu()


def _loss(
    subject: Subject,
    clean: Sequence[Resume],
    groups: Sequence[Chunk],
    parts: Sequence[Component],
    constants: Float[Tensor, "component *width"],
    first: int,
    backward: bool = False,
) -> tuple[Float[Tensor, " component"], Float[Tensor, "component *width"]]:
    """KL in bits of each component at its constant, mean over prompts,
    and with ``backward`` its gradient.
    """
    total, slope = torch.zeros(len(parts), device=subject.device), torch.zeros_like(constants)
    count, layer = sum(len(chunk.prompts) for chunk in groups), parts[0].layer
    for resume, chunk in zip(clean, groups, strict=True):
        at = constants.detach().requires_grad_(backward)
        edit: dict[SiteLike, Edit] = {Site(parts[0].site.name): _laid(parts, at, first)}
        with (
            warnings.catch_warnings(),
            torch.set_grad_enabled(backward),
            intervene(subject.model, edit),
        ):
            # the mean of a part that is the same everywhere
            warnings.simplefilter("ignore", NothingChanged)
            logits = resume.run(layer, resume.residual(layer).repeat(len(parts), 1, 1))
            after = torch.log_softmax(logits.view(len(parts), *resume.logits.shape).float(), dim=-1)
            before = torch.log_softmax(resume.logits.float(), dim=-1)
            prompt = chunk.reads.places[:, 3].to(after.device)
            share = (1 / torch.bincount(prompt))[prompt] / count
            loss = (BITS * (before.exp() * (before - after)).sum(-1) * share).sum(-1)
            if backward:
                slope += torch.autograd.grad(loss.sum(), at)[0]
        total += loss.detach()
    return total, slope


def _laid(
    parts: Sequence[Component], constants: Float[Tensor, "component *width"], first: int
) -> Edit:
    """Each copy of the texts with its own component at its own constant."""

    def apply(value: Tensor, where: Where) -> Tensor:
        size, copies = len(value) // len(parts), []
        for number, part in enumerate(parts):
            copy = value[number * size : (number + 1) * size]
            at = selected(copy, part.site)
            mask = torch.zeros_like(copy, dtype=torch.bool)
            mask[at] = True
            mask[:, :first] = False
            copies.append(torch.where(mask, constants[number].to(copy), copy))
        return torch.cat(copies)

    return Edit(f"{len(parts)} constants", apply, given="value")
