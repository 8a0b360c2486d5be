"""Shapley values of a text's units: exact, by weighted regression, by permutations.

    phi_i = sum over S without i of |S|! (M - |S| - 1)! / M! [v(S + i) - v(S)]

They sum to v(all) - v(nothing). Every estimate carries the standard error of its draw, and of the
removal's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from .game import Game
from .options import Options
from .result import MethodScores
from .units import AttributionError

MOST_EXACT = 12
"""Units up to which all 2^M sets are evaluated."""

Masks = Bool[np.ndarray, "rows units"]


def exact(game: Game, options: Options) -> MethodScores:
    """All 2^M sets of units, each once."""
    if game.n > MOST_EXACT:
        raise AttributionError(
            f"exact Shapley values of {game.n} units would take {2**game.n:,} texts: "
            f"expected at most {MOST_EXACT} units; use kernel-shap or permutation-shap"
        )
    # Bit i of a set's number says whether unit i is in it.
    sets, bits = np.arange(2**game.n)[:, None], np.arange(game.n)
    masks = (sets >> bits) & 1 > 0
    each = game.each(masks)
    of_draws = np.stack([shapley_values(values) for values in each])
    scores, errors = over_draws(of_draws)
    empty = float(each[:, 0].mean())
    return MethodScores(scores, game.value, errors, empty, figures={"removal": game.removal})


def over_draws(
    each: Float[np.ndarray, "draws units"],
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """The mean over draws of the removal, and its standard error:
    0 of a removal that is not drawn.
    """
    n_draws, n_units = each.shape
    errors = np.zeros(n_units)
    if n_draws > 1:
        errors = each.std(0, ddof=1) / math.sqrt(n_draws)
    return each.mean(0), errors


def shapley_values(values: Float[np.ndarray, " sets"]) -> Float[np.ndarray, " units"]:
    """From the values of all sets; bit i of a set's number says whether unit i is in it."""
    n = int(math.log2(len(values)))
    sets = np.arange(len(values))
    size = np.array([int(s).bit_count() for s in sets])
    weight = np.array([1 / (n * math.comb(n - 1, s)) for s in range(n)])
    shares = np.empty(n)
    for i in range(n):
        without = sets[(sets >> i) & 1 == 0]
        with_it = without | 1 << i
        added = values[with_it] - values[without]
        shares[i] = (weight[size[without]] * added).sum()
    return shares


def kernel_weight(units: int, size: int) -> float:
    """(M - 1) / (C(M, s) s (M - s)): the weight of one set of s of M units (Lundberg and Lee 2017,
    theorem 2).
    """
    return (units - 1) / (math.comb(units, size) * size * (units - size))


def kernel(game: Game, options: Options) -> MethodScores:
    """Weighted regression on sets: whole sizes while the budget lasts, then drawn ones,
    each with its complement.
    """
    value, empties = game.value, game.each(np.zeros((1, game.n), dtype=bool))[:, 0]
    empty = float(empties.mean())
    if game.n == 1:
        scores, errors = over_draws(value - empties[:, None])
        return MethodScores(scores, value, errors, empty, figures={"removal": game.removal})
    budget = 2 * game.n + 2048 if options.samples is None else options.samples
    if budget < 2 * game.n:
        raise AttributionError(
            f"kernel-shap: expected at least {2 * game.n} samples for {game.n} units, got {budget}"
        )
    masks, weights, pairs = kernel_sample(game.n, budget, np.random.default_rng(options.seed))
    each = game.each(masks)
    scores, errors = kernel_solve(masks, each.mean(0), weights, value, empty, pairs)
    if len(each) > 1:  # the removal is drawn
        of_draws = []
        for values, empty_value in zip(each, empties.tolist(), strict=True):
            of_draw, _ = kernel_solve(masks, values, weights, value, empty_value)
            of_draws.append(of_draw)
        _, removal_errors = over_draws(np.stack(of_draws))
        # Two independent errors: of the coalitions that were sampled, and of what took the removed
        # words' place.
        errors = np.hypot(errors, removal_errors)
    n_drawn = int((pairs >= 0).sum())
    figures = {"removal": game.removal, "samples": len(masks), "drawn": n_drawn}
    return MethodScores(scores, value, errors, empty, figures=figures)


_ROUNDING = 1e-8


def kernel_sample(
    units: int, budget: int, rng: np.random.Generator
) -> tuple[Masks, Float[np.ndarray, " rows"], np.ndarray]:
    """Sets, their weights, and which pair each drawn one belongs to (-1
    for a size of which all sets are there).
    """
    masks: list[np.ndarray] = []
    weights: list[float] = []
    left = {size: kernel_weight(units, size) * math.comb(units, size) for size in range(1, units)}
    room = budget
    # Whole sizes first, the heaviest (smallest and largest) in front, while they deserve all of
    # their sets.
    for size in range(1, units // 2 + 1):
        both = sorted({size, units - size})
        n_sets = sum(math.comb(units, s) for s in both)
        share = sum(left[s] for s in both) / sum(left.values())
        if room * share < n_sets * (1 - _ROUNDING):
            break
        for s in both:
            for members in itertools.combinations(range(units), s):
                masks.append(_mask(units, list(members)))
                weights.append(left[s] / math.comb(units, s))
            del left[s]
        room -= n_sets
        if not left:
            break
    pairs = [-1] * len(masks)
    n_drawn = room // 2 if left else 0
    if n_drawn:
        # Of the other sizes sets are drawn, each with its complement, which lowers the variance.
        sizes = np.array(list(left))
        chances = np.array(list(left.values()))
        chances /= chances.sum()
        weight = sum(left.values()) / (2 * n_drawn)
        drawn = rng.choice(sizes, size=n_drawn, p=chances)
        for pair, size in enumerate(drawn):
            mask = _mask(units, rng.permutation(units)[:size])
            masks += [mask, ~mask]
            weights += [weight] * 2
            pairs += [pair] * 2
    return np.array(masks), np.array(weights), np.array(pairs)


def _mask(units: int, members: Sequence[int] | np.ndarray) -> np.ndarray:
    mask = np.zeros(units, dtype=bool)
    mask[members] = True
    return mask


def kernel_solve(
    masks: Masks,
    values: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"],
    full: float,
    empty: float,
    pairs: np.ndarray | None = None,
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """The weighted regression under sum(phi) = v(all) - v(nothing), and the standard errors of what
    was drawn.

    min_phi sum_s w_s (v(s) - v(nothing) - s.phi)^2; the errors are the sandwich over pairs.
    """
    total = full - empty
    # The last unit's share is what the others leave of the total: put in, the constraint is gone
    # and a plain regression is left.
    X = masks[:, :-1].astype(float) - masks[:, -1:]
    y = values - empty - masks[:, -1] * total
    # The sandwich (bread, meat, bread) holds whatever the variance of a coalition's value is.
    weighted = (X * weights[:, None]).T
    bread = np.linalg.pinv(weighted @ X)
    beta = bread @ weighted @ y
    scores = np.append(beta, total - beta.sum())
    residual = y - X @ beta
    gradient = X * (weights * residual)[:, None]
    meat = np.zeros_like(bread)
    known = np.zeros(len(X), dtype=bool) if pairs is None else pairs >= 0
    drawn = np.zeros(0, dtype=int) if pairs is None else pairs[known].astype(int)
    if len(drawn):
        sums = np.zeros((int(drawn.max()) + 1, X.shape[1]))
        np.add.at(sums, drawn, gradient[known])
        sums -= sums.mean(0)
        meat = sums.T @ sums * len(sums) / max(len(sums) - 1, 1)
    # Back to all units, the last one included.
    onto = np.vstack([np.eye(len(beta)), -np.ones(len(beta))])
    spread = onto @ bread @ meat @ bread @ onto.T
    return scores, np.sqrt(np.maximum(np.diag(spread), 0.0))


def permutations(game: Game, options: Options) -> MethodScores:
    """Units put back one by one in random orders, each order also backwards; exact where units meet
    only in pairs.

    Source: Castro et al. 2009; antithetic pairs: Mitchell et al. 2022, section 4.
    """
    pairs = 10 if options.samples is None else options.samples
    if pairs < 2:
        raise AttributionError(
            f"permutation-shap: expected at least 2 pairs of permutations, got {pairs}"
        )
    rng = np.random.default_rng(options.seed)
    # An order and its reverse err in opposite directions: what a unit gains by coming early in the
    # one it loses in the other.
    orders = [rng.permutation(game.n) for _ in range(pairs)]
    reversed_orders = [order[::-1] for order in orders]
    forwards = marginals(game.each, orders)
    backwards = marginals(game.each, reversed_orders)
    of_pairs = (forwards + backwards) / 2  # draw pair unit
    scores, removal_errors = over_draws(of_pairs.mean(1))
    order_errors = of_pairs.mean(0).std(0, ddof=1) / math.sqrt(pairs)
    errors = np.hypot(order_errors, removal_errors)
    figures = {"removal": game.removal, "permutations": 2 * pairs}
    return MethodScores(scores, game.value, errors, game.empty, figures=figures)


def marginals(
    each: Callable[[Masks], Float[np.ndarray, "draws rows"]], orders: list[np.ndarray]
) -> Float[np.ndarray, "draws orders units"]:
    """What each unit adds when it comes in, for each draw of the removal and each order."""
    n = len(orders[0])
    masks = np.zeros((len(orders), n + 1, n), dtype=bool)
    for row, order in zip(masks, orders, strict=True):
        for step, unit in enumerate(order, 1):
            row[step:, unit] = True
    # All orders in one call, so that equal sets are scored once.
    values = each(masks.reshape(-1, n))
    added = np.diff(values.reshape(-1, len(orders), n + 1))  # draw order step
    of_units = np.empty_like(added)
    for at, order in enumerate(orders):
        of_units[:, at, order] = added[:, at]
    return of_units
