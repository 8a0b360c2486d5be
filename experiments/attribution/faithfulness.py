"""Is an attribution any good: what happens to the value when the units that it names leave, or stay
alone.

    comprehensiveness  mean over shares k of v(all) - v(all without the top k)
                       (DeYoung et al. 2020; large is good)
    sufficiency        mean over shares k of v(all) - v(the top k alone)           (small is good)
    deletion           mean of v along the curve as units leave, the highest first (small is good)
    insertion          mean of v along the curve as units come, the highest first  (large is good)
    infidelity         E (b I.phi - (v(all) - v(all without I)))^2 / E (v(all) - v(all without
                       I))^2, I random units, b the best scale (Yeh et al. 2019; from 0, every
                       change foretold, to 1)
    sensitivity        largest |phi(x + r) - phi(x)| / |phi(x)| over small noise r on the embedding
                       (small is good)

The shares are 1, 5, 10, 20 and 50% of the units, at least one. All are in the value's unit: on a
log-probability 2^v is what ERASER uses. A number means something only beside that of a random
attribution, which is measured with it. They also measure how the model takes texts with holes:
compare them within one removal only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from ...hooks import edits, intervene
from ...hooks.sites import SiteLike
from ...probes.ranks import spearman
from .game import Game
from .lookups import Lookup, moments, tables

TINY = 1e-300
"""Divisors are at least this: 0 by 0 is 0."""

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
POINTS = 11
"""Points of a curve: 0, 10, ..., 100% of the units."""
DRAWN = 100
"""Random sets of units of the infidelity."""
RADIUS = 0.02
"""Of the noise that the sensitivity adds, as a share of the embedding's standard deviation."""

Scores = Float[np.ndarray, " units"]


@dataclass(frozen=True)
class Faithfulness:
    """How faithful an attribution is; `curves` has v at 0, 10, ..., 100% of the units."""

    comprehensiveness: float
    sufficiency: float
    deletion: float
    insertion: float
    infidelity: float
    deleted: tuple[float, ...]
    inserted: tuple[float, ...]


def faithfulness(game: Game, scores: Scores, seed: int = 0) -> Faithfulness:
    """The measures of one attribution; the units with the highest scores (signed) come first."""
    n = game.n
    # Ties in the text's order, so that equal scores give equal curves.
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(n, dtype=int)
    rank[order] = np.arange(n)
    steps = np.arange(n + 1)[:, None]
    # Row k lacks, or has alone, the k units of the highest scores.
    without, alone = game(rank >= steps), game(rank < steps)
    tops = [max(1, math.ceil(share * n)) for share in SHARES]
    return Faithfulness(
        comprehensiveness=float(np.mean([without[0] - without[k] for k in tops])),
        sufficiency=float(np.mean([without[0] - alone[k] for k in tops])),
        deletion=float(without.mean()),
        insertion=float(alone.mean()),
        infidelity=infidelity(game, scores, seed),
        deleted=_points(without),
        inserted=_points(alone),
    )


def random_faithfulness(game: Game, draws: int, seed: int = 0) -> list[Faithfulness]:
    """The same of attributions that are drawn."""
    rng = np.random.default_rng([seed, 1])
    return [faithfulness(game, rng.normal(size=game.n), seed) for _ in range(draws)]


def infidelity(game: Game, scores: Scores, seed: int = 0) -> float:
    """How badly the scores foretell what random sets of units take with them."""
    gone = random_sets(game.n, DRAWN, seed)
    lost = game.value - game(~gone)
    predicted = gone @ scores
    # Scores on another scale foretell as well: the best scale is taken (least squares).
    scale = float(predicted @ lost) / max(float(predicted @ predicted), TINY)
    errors = scale * predicted - lost
    return float((errors**2).mean()) / max(float((lost**2).mean()), TINY)


def random_sets(units: int, draws: int, seed: int) -> Bool[np.ndarray, "rows units"]:
    """Sets of units, of any size but none, the same for every attribution of a text."""
    rng = np.random.default_rng([seed, 2])
    sets = np.zeros((draws, units), dtype=bool)
    for row, size in zip(sets, rng.integers(1, units + 1, draws), strict=True):
        row[rng.permutation(units)[:size]] = True
    return sets


def sensitivity(game: Game, run: Callable[[], Scores], draws: int = 3, seed: int = 0) -> float:
    """The largest relative change of an attribution under noise too small to matter.

    Args:
        run: makes the attribution with a fresh scorer that does not share beginnings.
    """
    subject = game.question.subject
    lookups = tables(subject).text
    radius = RADIUS * moments(subject).of_table.cpu()
    longest = max(len(part.ids) for part in game.question.parts)
    clean = run()
    worst = 0.0
    for draw in range(draws):
        # The same noise for all forwards of a run: what moves is the attribution, not its samples.
        generator = torch.Generator().manual_seed(seed + draw)
        noise = radius * torch.randn(longest, len(radius), generator=generator)

        def moved(value: torch.Tensor, lookup: Lookup, noise: torch.Tensor = noise) -> torch.Tensor:
            new = value.clone()
            new[:, : len(noise)] += noise[: value.shape[1], lookup.columns].to(value)
            return new

        edit: dict[SiteLike, Any] = {}
        for lookup in lookups:
            edit[lookup.site] = edits.function(partial(moved, lookup=lookup), "noise")
        with intervene(subject.model, edit):
            other = run()
        worst = max(
            worst, float(np.linalg.norm(other - clean) / max(np.linalg.norm(clean), 1e-300))
        )
    return worst


def rank_agreement(first: Scores, second: Scores) -> float | None:
    """Spearman's correlation of two attributions of one text; None where one has no order."""
    agreement = spearman(first, second)
    return None if math.isnan(agreement) else agreement


def mean_agreement(scores: Sequence[Scores]) -> float | None:
    """The mean over all pairs, of seeds or of methods."""
    known = []
    for i, first in enumerate(scores):
        for second in scores[:i]:
            agreement = rank_agreement(first, second)
            if agreement is not None:
                known.append(agreement)
    return float(np.mean(known)) if known else None


def _points(curve: Float[np.ndarray, " steps"]) -> tuple[float, ...]:
    """A curve at 0, 10, ..., 100% of its units."""
    n = len(curve) - 1
    return tuple(np.interp(np.linspace(0, n, POINTS), np.arange(n + 1), curve).tolist())
