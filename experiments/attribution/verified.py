"""Leave-one-out of long texts: estimated from one gradient for every unit, measured for the
largest.

    estimate(i) = sum over the unit's tokens of (x - absent) . dv/dx,    at the unchanged text

which is drop of the value without the unit, to first order. One forward and one backward give it
for all units. Between a word and its absence a model is seldom linear, and the sign and size of an
estimate say little: the units that are left out exactly are those where a change of this size could
do most,

    bound(i) = sum over the unit's tokens of |x - absent| |dv/dx|

On texts of 64 words (SmolLM2) the ten of largest bound held 6 of the ten largest, those of largest
estimate 3. A random sample of the others is left out exactly, too: the certificate says how far the
estimates can be trusted, and how many units that were not measured may be larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float

from ...probes.distributions import hypergeometric_cdf
from ..report.schema import Note
from ..sweep.estimate import certificate, to_verify
from ..sweep.measure import certificate_notes
from .game import Game
from .medium_gradients import absent_embeddings, medium_first_order
from .options import Options
from .result import MethodScores
from .slope import Slope

DRAWN = 8
"""Units that are left out exactly to judge the estimates by, besides the largest."""
CONFIDENCE = 0.95
"""Of the bound on how many units that were not measured are larger."""


def largest_left_out(game: Game, options: Options, largest: int) -> MethodScores:
    """What is lost without each unit: exact for the largest, estimated for the rest."""
    estimates, bounds = first_order(game)
    top, sample = to_verify(bounds, largest, DRAWN, options.seed)
    chosen = sorted([*top, *sample])
    without = ~np.eye(game.n, dtype=bool)[chosen]
    scores = estimates.copy()
    scores[chosen] = game.value - game(without)
    agreement = certificate("gradient", estimates, scores, top, sample)
    others = _others(np.abs(scores), top, sample)
    figures = {
        "removal": game.removal,
        "exact": chosen,
        "estimates": estimates.tolist(),
        "certificate": asdict(agreement),
        "others": others,
    }
    text = (
        f"the smallest of the {len(top)} units that were measured first is "
        f"{others['smallest']:.3g}; {others['larger']} of {len(sample)} others, drawn at random, "
        f"are larger: with {CONFIDENCE:.0%} confidence at most {others['at_most']} of the "
        f"{others['unmeasured']} that were not measured are"
    )
    notes = (*certificate_notes("leave-one-out", agreement), Note(kind="info", text=text))
    return MethodScores(scores, game.value, notes=notes, figures=figures)


def _others(
    sizes: Float[np.ndarray, " units"], top: Sequence[int], sample: Sequence[int]
) -> dict[str, float]:
    """How many units that were not measured may be larger than the smallest of the first ones."""
    smallest = float(sizes[list(top)].min())
    larger = int((sizes[list(sample)] > smallest).sum())
    unmeasured = len(sizes) - len(top) - len(sample)
    at_most = most_unseen(larger, len(sample), unmeasured)
    return {
        "smallest": smallest,
        "larger": larger,
        "unmeasured": unmeasured,
        "at_most": at_most,
        "confidence": CONFIDENCE,
    }


def most_unseen(larger: int, drawn: int, unseen: int) -> int:
    """The most units among the unseen that can be larger, where so many of those drawn are.

    The largest number that the draw does not contradict: P(at most ``larger`` of them are drawn)
    is above 1 - `CONFIDENCE`. Drawn without replacement, the count is hypergeometric.
    """
    possible = range(unseen + 1)
    total = drawn + unseen
    return max(
        n for n in possible if hypergeometric_cdf(larger, drawn, larger + n, total) > 1 - CONFIDENCE
    )


def first_order(
    game: Game,
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """The estimates, and the bounds of their sizes."""
    if game.question.medium is not None:
        # A picture's cells are many numbers each: their estimates' own sizes.
        lost = medium_first_order(game)
        return lost, np.abs(lost)
    lost, bounds = np.zeros(game.n), np.zeros(game.n)
    for part in game.question.parts:
        slope = Slope(game.scorer, part)
        x = slope.clean()
        gradient = slope.at(x[None])[1][0]
        way = x - absent_embeddings(game, part, x)
        by_position = (way * gradient).sum(-1).double().cpu()
        most = (way.norm(dim=-1) * gradient.norm(dim=-1)).double().cpu()
        for unit, places in enumerate(part.tokens):
            lost[unit] += float(by_position[list(places)].sum())
            bounds[unit] += float(most[list(places)].sum())
    return lost, bounds
