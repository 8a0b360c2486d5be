"""Leave-one-out on long texts: one gradient estimates every unit, and the largest are measured.

    estimate(i) = sum over the unit's tokens of (x - absent) . dv/dx,    at the unchanged text

This is the first-order drop in the value when the unit is removed. One forward and one backward
pass give it for all units. A model is seldom linear between a word and its absence, so the sign and
size of an estimate are unreliable. The units that are measured exactly are therefore those with the
largest bound on a first-order change of this size:

    bound(i) = sum over the unit's tokens of |x - absent| |dv/dx|

On texts of 64 words (SmolLM2), 6 of the ten largest units were among the ten with the largest
bound, and 3 among the ten with the largest estimate. A random sample of the other units is also
measured exactly. From it, the certificate reports how well the estimates agree with exact values,
and a note reports how many unmeasured units may be larger.
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
"""Number of randomly drawn units that are also measured, to check the estimates."""
CONFIDENCE = 0.95
"""Confidence of the bound on the number of larger units that were not measured."""


def largest_left_out(game: Game, options: Options, largest: int) -> MethodScores:
    """Leave-one-out scores: exact for the largest and the sampled units, estimates for the rest."""
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
    """Bound the number of unmeasured units that are larger than the smallest of ``top``."""
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
    """Upper confidence bound on the larger units among the ``unseen``.

    ``larger`` of the ``drawn`` units are larger. The bound is the greatest number n for which
    P(at most ``larger`` are drawn | ``larger`` + n in all) exceeds 1 - `CONFIDENCE`. The count is
    hypergeometric, because units are drawn without replacement.
    """
    possible = range(unseen + 1)
    total = drawn + unseen
    return max(
        n for n in possible if hypergeometric_cdf(larger, drawn, larger + n, total) > 1 - CONFIDENCE
    )


def first_order(
    game: Game,
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """Return the first-order estimates and the bounds on their absolute values."""
    if game.question.medium is not None:
        # A unit of a picture or sound holds many numbers, so the bound is the estimate's own size.
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
