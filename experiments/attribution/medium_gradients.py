"""Gradients of an answer about a picture or a sound: of its processed values (pixels, features),
for each of its cells (patches, spans of time), and of the words' embeddings.

With x the processed values and x_k those where cell k is absent (a grey patch, a silent span):

    grad-input  cell: <dF/dx, x - x_k>      word: <dF/de, e>
    saliency    cell: sum |dF/dx| over the numbers that change with the cell      word: sum |dF/de|
    ig          the same products with the gradient's mean along the line from
                x - sum over k of (x - x_k) and the mean embedding

A cell's way is measured by processing the file without it, so that resizing, crops, tiles, frames
and scales need not be known. The line begins where every cell's way is taken away, so that
integrated gradients sum to the change. Where cells do not meet in the processed values, that is the
file without any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...hooks import capture
from ..report.schema import Note
from ..subject.medium import Medium
from ..subject.targets import in_target, plain
from .game import Game
from .gradients import FIRST_STEPS, GAP, MOST_STEPS
from .lookups import Lookup, distinct, embedding, moments, read_off, standing, tables
from .options import Options
from .quadrature import gauss_legendre
from .question import Part, Question
from .result import MethodScores
from .scorer import Cost, Row, Scorer, part_values, row_batch
from .units import AttributionError

METHODS = ("saliency", "grad-input", "ig")


@dataclass(frozen=True)
class _Inputs:
    """What a part's value depends on: processed values, and an embedding of each token."""

    values: Tensor
    embeds: Float[Tensor, "pos d"]

    def toward(self, other: _Inputs, share: float) -> _Inputs:
        """A point on the line to another."""
        return _Inputs(
            self.values + share * (other.values - self.values),
            self.embeds + share * (other.embeds - self.embeds),
        )


def medium_gradients(name: str, scorer: Scorer, options: Options) -> MethodScores:
    """The scores of one of ``METHODS``: cells first, then the text's units.

    Raises:
        AttributionError: a site, another method, or a model that lets no gradient through.
    """
    question = scorer.question
    medium = question.medium
    assert medium is not None
    if options.site is not None:
        raise AttributionError(
            f"--site: gradients of a {medium.kind} are those of its own values and of the words"
        )
    scores, value, baseline = np.zeros(len(question.units)), 0.0, 0.0
    steps = 0
    for part in question.parts:
        value += float(scorer([Row(part.ids, part.reads)], part)[0])
        end = _clean(question, part)
        ways = [end.values - _processed(question, frozenset([k])) for k in range(medium.n_cells)]
        if name != "ig":
            slopes = _slopes(scorer, part, end)
            scores += _shares(part, medium, slopes, ways, end.embeds, name == "saliency")
            continue
        start = _start(question, part, end, ways)
        first = float(_value(question, part, start).detach())
        change = float(_value(question, part, end).detach()) - first
        first_steps = options.steps or FIRST_STEPS
        slopes, steps = _integrated(scorer, part, start, end, change, first_steps)
        scores += _shares(part, medium, slopes, ways, end.embeds - start.embeds, False)
        baseline += first
    if name == "saliency":
        return MethodScores(
            scores, value, notes=(Note(kind="info", text="saliency scores have no sign"),)
        )
    if name == "grad-input":
        return MethodScores(scores, value)
    outside = value - baseline - float(scores.sum())
    return _found_of_path(scores, value, baseline, outside, steps, medium)


def medium_first_order(game: Game) -> Float[np.ndarray, " units"]:
    """What the value loses without each cell and each word, to first order."""
    scorer, question = game.scorer, game.question
    medium = question.medium
    assert medium is not None
    lost = np.zeros(game.n)
    for part in question.parts:
        end = _clean(question, part)
        ways = [end.values - _processed(question, frozenset([k])) for k in range(medium.n_cells)]
        absent = absent_embeddings(game, part, end.embeds, medium.n_cells)
        slopes = _slopes(scorer, part, end)
        lost += _shares(part, medium, slopes, ways, end.embeds - absent, False)
    return lost


def absent_embeddings(
    game: Game, part: Part, x: Float[Tensor, "pos d"], n_cells: int = 0
) -> Float[Tensor, "pos d"]:
    """The embeddings of the text with every unit absent, what belongs to none as it is;
    the mean one where the removal leaves a position without.

    Args:
        x: the embeddings of the row's tokens.
        n_cells: cells in front of the tokens in the row.
    """
    subject, vectors = game.question.subject, x.clone()
    sides = {in_target(token) for token in part.ids[n_cells:]}
    means = {side: moments(subject, side).mean.to(x) for side in sides}
    for places in part.tokens:
        for place in places:
            if place >= n_cells:
                vectors[place - n_cells] = means[in_target(part.ids[place])]
    for start, tokens in game.fills(part):
        for place, token in enumerate(tokens, start - n_cells):
            if place >= 0:
                plain_id = plain(token)
                if plain_id < 0:
                    vectors[place] = game.scorer.own_vector(plain_id).to(x)
                else:
                    of_token = torch.tensor(plain_id)
                    vectors[place] = embedding(subject, of_token, in_target(token)).to(x)
    return vectors


def _found_of_path(
    scores: Float[np.ndarray, " units"],
    value: float,
    baseline: float,
    gap: float,
    steps: int,
    medium: Medium,
) -> MethodScores:
    """Integrated gradients with what they miss of the change."""
    share = abs(gap) / max(abs(value - baseline), 1e-12)
    text = (
        f"integrated from a {medium.kind} with every {medium.cell} {medium.absent_cell} and "
        f"the mean embedding in {steps} steps; "
        f"the completeness gap is {share:.2%} of the change"
    )
    notes = [Note(kind="info", text=text)]
    if share > GAP:
        why = "too few steps, or a value that changes abruptly on the way"
        notes.append(Note(kind="warning", text=f"NOT COMPLETE: the gap is above {GAP:.0%}: {why}"))
    figures = {"gap": gap, "gap_share": share, "steps": steps, "change": value - baseline}
    return MethodScores(scores, value, baseline=baseline, notes=tuple(notes), figures=figures)


def _processed(question: Question, absent: frozenset[int]) -> Tensor:
    """The processed values with some cells absent, where the model is."""
    assert question.medium is not None
    return question.medium.processed(absent).to(question.subject.device, question.subject.dtype)


def _clean(question: Question, part: Part) -> _Inputs:
    """What the unchanged row gives."""
    lookups = distinct(_lookups(question))
    sites = [lookup.site for lookup in lookups]
    batch = row_batch(question, part, 1)
    with capture(question.subject.model, *sites, clone=True, stop=True) as acts:
        question.forward(batch, logits=True)
    values = [acts[site][0].clone() for site in sites]
    return _Inputs(_processed(question, frozenset()), read_off(lookups, values, len(values[0])))


def _lookups(question: Question) -> tuple[Lookup, ...]:
    """Where the words are looked up: in the decoder of a pair, whose encoder reads the medium."""
    return tables(question.subject).of(question.subject.has_decoder)


def _start(question: Question, part: Part, end: _Inputs, ways: Sequence[Tensor]) -> _Inputs:
    """Every cell absent, and the mean embedding at the text's units.

    What the cells change is taken away one by one. A file without all of them may be another: an
    extractor scales a sound by its loudest frame, and silence has none.
    """
    assert question.medium is not None
    embeds = end.embeds.clone()
    in_target = question.subject.has_decoder
    mean = moments(question.subject, in_target).mean.to(embeds)
    for places in _of_text(part, question.medium):
        embeds[places] = mean
    return _Inputs(end.values - torch.stack(list(ways)).sum(0), embeds)


def _of_text(part: Part, medium: Medium) -> list[list[int]]:
    """The places of each unit of the text among the tokens, behind the cells."""
    n = medium.n_cells
    return [[at - n for at in places] for places in part.tokens[n:]]


def _value(question: Question, part: Part, at: _Inputs) -> Float[Tensor, ""]:
    """The part's value at these processed values and embeddings, in their graph."""
    assert question.medium is not None
    numbers = torch.arange(len(at.embeds))[None]
    with (
        standing(question.subject.model, _lookups(question), numbers, at.embeds),
        question.medium.forced(at.values),
    ):
        return part_values(question, part, row_batch(question, part, 1), grad=True)[0]


def _slopes(scorer: Scorer, part: Part, at: _Inputs) -> _Inputs:
    """Gradients of the part's value there."""
    assert scorer.question.medium is not None
    kind = scorer.question.medium.kind
    leaf = _Inputs(
        at.values.detach().clone().requires_grad_(), at.embeds.detach().clone().requires_grad_()
    )
    with torch.enable_grad():
        value = _value(scorer.question, part, leaf)
        try:
            values, embeds = torch.autograd.grad(value, (leaf.values, leaf.embeds))
        except RuntimeError as error:
            raise AttributionError(
                f"no gradient from the answer of {scorer.question.subject.name} to its "
                f"{kind}: use leave-one-out or kernel-shap "
                f"({str(error).splitlines()[0][:100]})"
            ) from None
    scorer.cost += Cost(1, 1, 1, len(part.ids))
    return _Inputs(values, embeds)


def _integrated(
    scorer: Scorer, part: Part, start: _Inputs, end: _Inputs, change: float, steps: int
) -> tuple[_Inputs, int]:
    """The mean gradient along the line, by Gauss-Legendre, the steps doubled until complete;
    and the steps.
    """
    while True:
        points, weights = gauss_legendre(steps)
        values, embeds = torch.zeros_like(end.values), torch.zeros_like(end.embeds)
        for point, weight in zip(points, weights, strict=True):
            slopes = _slopes(scorer, part, start.toward(end, float(point)))
            values += float(weight) * slopes.values
            embeds += float(weight) * slopes.embeds
        total = (values * (end.values - start.values)).double().sum()
        total = total + (embeds * (end.embeds - start.embeds)).double().sum()
        gap = float(total) - change
        if abs(gap) <= GAP * abs(change) or 2 * steps > MOST_STEPS:
            return _Inputs(values, embeds), steps
        steps *= 2


def _shares(
    part: Part,
    medium: Medium,
    slopes: _Inputs,
    ways: Sequence[Tensor],
    embeds: Float[Tensor, "pos d"],
    unsigned: bool,
) -> Float[np.ndarray, " units"]:
    """A number for each cell and each unit of the text."""
    shares = []
    for way in ways:
        of_cell = slopes.values.abs() * (way != 0) if unsigned else slopes.values * way
        shares.append(float(of_cell.double().sum()))
    of_tokens = slopes.embeds.abs() if unsigned else slopes.embeds * embeds
    for places in _of_text(part, medium):
        shares.append(float(of_tokens[places].double().sum()))
    return np.array(shares)
