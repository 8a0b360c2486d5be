"""Gradients of an answer about a picture: of its processed pixels, for each cell of the grid, and
of the words' embeddings.

With x the processed pixels and x_k those of the picture whose cell k is grey:

    grad-input  cell: <dF/dx, x - x_k>      word: <dF/de, e>
    saliency    cell: sum |dF/dx| over the numbers that change with the cell      word: sum |dF/de|
    ig          the same products with the gradient's mean along the line from a grey picture and
                the mean embedding

A cell's way is measured by processing the picture without it, so that resizing, crops, tiles and
flattened patches need not be known. Where cells do not meet in the processed pixels, their ways sum
to the whole one, and integrated gradients to the change.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import NothingChanged, capture, edits, intervene
from ...hooks.sites import SiteLike
from ..report.schema import Note
from ..subject.pictures import Picture
from .game import embedding
from .gradients import FIRST_STEPS, GAP, MOST_STEPS
from .options import Options
from .question import Part, Question
from .result import Found
from .scorer import EMBED, Cost, Row, Scorer, part_values, row_batch
from .units import AttributionError

METHODS = ("saliency", "grad-input", "ig")


@dataclass(frozen=True)
class _Inputs:
    """What a part's value depends on: processed pixels, and an embedding of each token."""

    pixels: Tensor
    embeds: Float[Tensor, "pos d"]

    def toward(self, other: _Inputs, share: float) -> _Inputs:
        """A point on the line to another."""
        return _Inputs(
            self.pixels + share * (other.pixels - self.pixels),
            self.embeds + share * (other.embeds - self.embeds),
        )


def picture_gradients(name: str, scorer: Scorer, options: Options) -> Found:
    """The scores of one of ``METHODS``: cells first, then the text's units.

    Raises:
        AttributionError: a site, another method, or a model that lets no gradient through.
    """
    question = scorer.question
    picture = question.picture
    assert picture is not None
    if options.site is not None:
        raise AttributionError("--site: gradients of a picture are those of its pixels and words")
    scores, value, baseline = np.zeros(len(question.units)), 0.0, 0.0
    steps = 0
    for part in question.parts:
        value += float(scorer([Row(part.ids, part.reads)], part)[0])
        end = _clean(question, part)
        ways = [end.pixels - _pixels(question, frozenset([k])) for k in range(picture.n_cells)]
        if name != "ig":
            slopes = _slopes(scorer, part, end)
            scores += _shares(part, picture, slopes, ways, end.embeds, name == "saliency")
            continue
        start = _start(question, part, end)
        first = float(_value(question, part, start).detach())
        change = float(_value(question, part, end).detach()) - first
        first_steps = options.steps or FIRST_STEPS
        slopes, steps = _integrated(scorer, part, start, end, change, first_steps)
        scores += _shares(part, picture, slopes, ways, end.embeds - start.embeds, False)
        baseline += first
    if name == "saliency":
        return Found(scores, value, notes=(Note(kind="info", text="saliency scores have no sign"),))
    if name == "grad-input":
        return Found(scores, value)
    outside = value - baseline - float(scores.sum())
    return _found_of_path(scores, value, baseline, outside, steps)


def _found_of_path(
    scores: Float[np.ndarray, " units"], value: float, baseline: float, gap: float, steps: int
) -> Found:
    """Integrated gradients with what they miss of the change."""
    share = abs(gap) / max(abs(value - baseline), 1e-12)
    text = (
        f"integrated from a grey picture and the mean embedding in {steps} steps; "
        f"the completeness gap is {share:.2%} of the change"
    )
    notes = [Note(kind="info", text=text)]
    if share > GAP:
        why = "cells that meet in the processed pixels, or too few steps"
        notes.append(Note(kind="warning", text=f"NOT COMPLETE: the gap is above {GAP:.0%}: {why}"))
    figures = {"gap": gap, "gap_share": share, "steps": steps, "change": value - baseline}
    return Found(scores, value, baseline=baseline, notes=tuple(notes), more=figures)


def _pixels(question: Question, absent: frozenset[int]) -> Tensor:
    """The processed pixels with some cells grey, where the model is."""
    assert question.picture is not None
    return question.picture.pixels(absent).to(question.subject.device, question.subject.dtype)


def _clean(question: Question, part: Part) -> _Inputs:
    """What the unchanged row gives."""
    with capture(question.subject.model, EMBED, clone=True, stop=True) as acts:
        question.forward(row_batch(question, part, 1), logits=True)
    return _Inputs(_pixels(question, frozenset()), acts[EMBED][0].clone())


def _start(question: Question, part: Part, end: _Inputs) -> _Inputs:
    """A grey picture, and the mean embedding at the text's units."""
    assert question.picture is not None
    cells = range(question.picture.n_cells)
    embeds = end.embeds.clone()
    mean = embedding(question.subject).float().mean(0).to(embeds)
    for places in _of_text(part, question.picture):
        embeds[places] = mean
    return _Inputs(_pixels(question, frozenset(cells)), embeds)


def _of_text(part: Part, picture: Picture) -> list[list[int]]:
    """The places of each unit of the text among the tokens, behind the cells."""
    n = picture.n_cells
    return [[at - n for at in places] for places in part.tokens[n:]]


def _value(question: Question, part: Part, at: _Inputs) -> Float[Tensor, ""]:
    """The part's value where pixels and embeddings have these values, in their graph."""
    assert question.picture is not None
    edit: dict[SiteLike, Any] = {EMBED: edits.function(lambda old: at.embeds[None], "path")}
    with (
        warnings.catch_warnings(),
        intervene(question.subject.model, edit),
        question.picture.forced(at.pixels),
    ):
        warnings.simplefilter("ignore", NothingChanged)
        return part_values(question, part, row_batch(question, part, 1), grad=True)[0]


def _slopes(scorer: Scorer, part: Part, at: _Inputs) -> _Inputs:
    """Gradients of the part's value there."""
    leaf = _Inputs(
        at.pixels.detach().clone().requires_grad_(), at.embeds.detach().clone().requires_grad_()
    )
    with torch.enable_grad():
        value = _value(scorer.question, part, leaf)
        try:
            pixels, embeds = torch.autograd.grad(value, (leaf.pixels, leaf.embeds))
        except RuntimeError as error:
            raise AttributionError(
                f"no gradient from the answer of {scorer.question.subject.name} to its "
                "picture: use leave-one-out or kernel-shap "
                f"({str(error).splitlines()[0][:100]})"
            ) from None
    scorer.cost += Cost(1, 1, 1, len(part.ids))
    return _Inputs(pixels, embeds)


def _integrated(
    scorer: Scorer, part: Part, start: _Inputs, end: _Inputs, change: float, steps: int
) -> tuple[_Inputs, int]:
    """The mean gradient along the line, by Gauss-Legendre, the steps doubled until complete;
    and the steps.
    """
    while True:
        points, weights = np.polynomial.legendre.leggauss(steps)
        pixels, embeds = torch.zeros_like(end.pixels), torch.zeros_like(end.embeds)
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            slopes = _slopes(scorer, part, start.toward(end, float(point)))
            pixels += float(weight) * slopes.pixels
            embeds += float(weight) * slopes.embeds
        total = (pixels * (end.pixels - start.pixels)).double().sum()
        total = total + (embeds * (end.embeds - start.embeds)).double().sum()
        gap = float(total) - change
        if abs(gap) <= GAP * abs(change) or 2 * steps > MOST_STEPS:
            return _Inputs(pixels, embeds), steps
        steps *= 2


def _shares(
    part: Part,
    picture: Picture,
    slopes: _Inputs,
    ways: Sequence[Tensor],
    embeds: Float[Tensor, "pos d"],
    unsigned: bool,
) -> Float[np.ndarray, " units"]:
    """A number for each cell and each unit of the text."""
    shares = []
    for way in ways:
        of_cell = slopes.pixels.abs() * (way != 0) if unsigned else slopes.pixels * way
        shares.append(float(of_cell.double().sum()))
    of_tokens = slopes.embeds.abs() if unsigned else slopes.embeds * embeds
    for places in _of_text(part, picture):
        shares.append(float(of_tokens[places].double().sum()))
    return np.array(shares)
