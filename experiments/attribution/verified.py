"""Leave-one-out of long texts: estimated from one gradient for every unit, measured for the
largest.

    estimate(i) = sum over the unit's tokens of (x - absent) . dv/dx,    at the unchanged text

which is drop of the value without the unit, to first order. One forward and one backward give it
for all units. The units with the largest estimates and a random sample of the others are then left
out exactly, and the certificate says how far the estimates of the rest can be trusted: between a
word and its absence a model is seldom linear.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from jaxtyping import Float

from ...hooks import Site
from ..sweep.estimate import certificate, to_verify
from ..sweep.measure import certificate_notes
from .game import Game
from .gradients import Slope
from .medium_gradients import absent_embeddings, medium_first_order
from .options import Options
from .result import Found
from .scorer import EMBED

DRAWN = 8
"""Units that are left out exactly to judge the estimates by, besides the largest."""


def largest_left_out(game: Game, options: Options, largest: int) -> Found:
    """What is lost without each unit: exact for the largest, estimated for the rest."""
    estimates = first_order(game)
    top, sample = to_verify(np.abs(estimates), largest, DRAWN, options.seed)
    chosen = sorted([*top, *sample])
    without = ~np.eye(game.n, dtype=bool)[chosen]
    scores = estimates.copy()
    scores[chosen] = game.value - game(without)
    agreement = certificate("gradient", estimates, scores, top, sample)
    figures = {
        "removal": game.removal,
        "exact": chosen,
        "estimates": estimates.tolist(),
        "certificate": asdict(agreement),
    }
    notes = tuple(certificate_notes("leave-one-out", agreement))
    return Found(scores, game.value, notes=notes, more=figures)


def first_order(game: Game) -> Float[np.ndarray, " units"]:
    """The estimates."""
    if game.question.medium is not None:
        return medium_first_order(game)
    lost = np.zeros(game.n)
    for part in game.question.parts:
        slope = Slope(game.scorer, part, Site(EMBED))
        x = slope.clean()
        gradient = slope.at(x[None])[1][0]
        by_position = ((x - absent_embeddings(game, part, x)) * gradient).sum(-1).double().cpu()
        for unit, places in enumerate(part.tokens):
            lost[unit] += float(by_position[list(places)].sum())
    return lost
