"""Models that a person can read, fitted to the model's answers around one text:
LIME's line and a small tree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..report.schema import Note
from .game import Game
from .options import Options
from .result import MethodScores, largest_share
from .units import AttributionError

WIDTH = 25.0
"""LIME's kernel width for text, on a distance of 100 (1 - cos)."""
SAMPLES = 5000
CHOOSING_PENALTY, PENALTY = 0.01, 1.0
"""The published penalties: to choose features, and of the line that is shown."""
MOST_FORWARD = 6
"""Features up to which they are chosen one by one."""
FIRST_ROUND, GROWTH = 100, 1.5
"""Changed texts of the first line, at least, and by how much each round multiplies them."""
DEPTH = 3
"""Of the tree."""
REFITS = 30
"""Trees of resampled texts, whose spread is the standard error of the tree's scores."""


def lime_sample(
    units: int, samples: int, rng: np.random.Generator
) -> Bool[np.ndarray, "rows units"]:
    """The whole text, then texts from which U{1..M} units are gone, whichever they are."""
    masks = np.ones((samples, units), dtype=bool)
    how_many = rng.integers(1, units + 1, samples - 1)
    for row, n_removed in zip(masks[1:], how_many, strict=True):
        removed = rng.permutation(units)[:n_removed]
        row[removed] = False
    return masks


def lime_weights(masks: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, " rows"]:
    """sqrt(exp(-d^2 / 25^2)), d = 100 (1 - cos) of the mask with the whole text.

    >>> lime_weights(np.array([[True] * 5 + [False] * 5])).round(4)
    array([0.5034])
    """
    # The cosine of a mask of 0 and 1 with one of 1 alone.
    cosine = np.sqrt(masks.mean(1))
    distance = 100 * (1 - cosine)
    return np.sqrt(np.exp(-((distance / WIDTH) ** 2)))


def ridge(
    X: Float[np.ndarray, "rows units"],
    y: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"],
    penalty: float,
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"], float]:
    """Weighted ridge regression with a free intercept: coefficients, their standard errors,
    weighted R^2.

        coef = (x'Wx + penalty I)^-1 x'Wz,    x and z less their weighted means

    The errors are White's sandwich, which holds whatever the variance of a row is.
    """
    share = weights / weights.sum()
    # Centred, so that the intercept is left out of the penalty.
    x, z = X - share @ X, y - share @ y
    weighted = (x * weights[:, None]).T
    bread = np.linalg.inv(weighted @ x + penalty * np.eye(X.shape[1]))
    coef = bread @ weighted @ z
    residual = z - x @ coef
    scores = x * (weights * residual)[:, None]
    meat = scores.T @ scores
    errors = np.sqrt(np.diag(bread @ meat @ bread))
    total = float(weights @ z**2)
    unexplained = float(weights @ residual**2)
    r2 = 1 - unexplained / total if total > 0 else 1.0
    return coef, errors, r2


def lime(game: Game, options: Options) -> MethodScores:
    """LIME for text with the published defaults: a weighted ridge regression (penalty 1) on which
    units are there.

    Features: forward selection up to 6, else those with the largest weights of a first regression
    (penalty 0.01). Source: Ribeiro et al. 2016, section 3.4, and the defaults of the authors'
    LimeTextExplainer.
    """
    masks = _masks(game, options)
    asked, wanted = options.asked_error, options.features or game.n
    # The same texts in the same order whatever the error: a smaller one goes on where a larger one
    # stopped.
    n = min(len(masks), max(FIRST_ROUND, 2 * game.n)) if asked else len(masks)
    values = game(masks[:n])
    while True:
        line = _line(masks[:n], values, wanted)
        if n == len(masks) or line.share <= asked:
            break
        n_before, n = n, min(len(masks), math.ceil(GROWTH * n))
        values = np.concatenate([values, game(masks[n_before:n])])
    chosen, scores, spread, r2 = line.chosen, line.scores, line.errors, line.r2
    texts = [
        f"LIME's line explains {r2:.0%} of the weighted variance around the text (R^2 {r2:.3f})",
    ]
    if len(chosen) < game.n:
        texts.append(
            f"LIME keeps {len(chosen)} of {game.n} units; "
            "the others have score 0 (features=0 keeps all)"
        )
    texts.append(
        f"with {n} changed texts, the largest standard error is {line.share:.1%} of the "
        "largest score"
    )
    notes = [Note(kind="info", text=text) for text in texts]
    if line.share > asked > 0:
        short = (
            f"the requested standard error of {asked:.1%} was not reached with {n} texts: "
            "give more --samples"
        )
        notes.append(Note(kind="warning", text=short))
    figures = {"removal": game.removal, "samples": n, "r2": r2, "error": line.share}
    return MethodScores(scores, game.value, spread, notes=tuple(notes), figures=figures)


@dataclass(frozen=True)
class _Line:
    """LIME's line on some changed texts.

    Args:
        chosen: the units that it keeps.
        scores, errors: of all units; 0 of the others.
    """

    chosen: np.ndarray
    scores: Float[np.ndarray, " units"]
    errors: Float[np.ndarray, " units"]
    r2: float

    @property
    def share(self) -> float:
        """The largest standard error over the largest score."""
        return largest_share(self.scores, self.errors)


def _line(
    masks: Bool[np.ndarray, "rows units"], values: Float[np.ndarray, " rows"], wanted: int
) -> _Line:
    """The line's units and their weights; the others have score 0."""
    X, weights = masks.astype(float), lime_weights(masks)
    # The published penalties are of 5,000 texts: of fewer a share, or the line would be flatter the
    # sooner it is ready.
    share = len(masks) / SAMPLES
    chosen = _chosen(X, values, weights, wanted, CHOOSING_PENALTY * share)
    coef, coef_errors, r2 = ridge(X[:, chosen], values, weights, PENALTY * share)
    n_units = X.shape[1]
    scores, errors = np.zeros(n_units), np.zeros(n_units)
    scores[chosen] = coef
    errors[chosen] = coef_errors
    return _Line(chosen, scores, errors, r2)


def _chosen(
    X: np.ndarray, values: np.ndarray, weights: np.ndarray, wanted: int, penalty: float
) -> np.ndarray:
    """The units that the line is fitted on, in order."""
    n_units = X.shape[1]
    if wanted >= n_units:
        return np.arange(n_units)
    if wanted <= MOST_FORWARD:
        return _forward(X, values, weights, wanted)
    coef, _, _ = ridge(X, values, weights, penalty)
    largest_first = np.argsort(-np.abs(coef), kind="stable")
    return np.sort(largest_first[:wanted])


def tree(game: Game, options: Options) -> MethodScores:
    """A regression tree of depth 3 on LIME's samples, in words; it can show that two units matter
    only together.

    score(i) = sum over the splits by i of their share of the tree's gain, with the sign of what the
    split adds; its standard error is the spread over trees of texts drawn again from these (the
    bootstrap).
    """
    from sklearn.tree import DecisionTreeRegressor, export_text

    masks = _masks(game, options)
    values, weights = game(masks), lime_weights(masks)

    def fitted(rows: np.ndarray) -> DecisionTreeRegressor:
        regressor = DecisionTreeRegressor(max_depth=DEPTH, random_state=options.seed)
        return regressor.fit(masks[rows], values[rows], sample_weight=weights[rows])

    n = len(masks)
    of_all = fitted(np.arange(n))
    # A tree's splits jump from one unit to another with few samples changed: the spread is part of
    # the answer.
    rng = np.random.default_rng(options.seed)
    refits = []
    for _ in range(REFITS):
        of_drawn = fitted(rng.integers(n, size=n))
        refits.append(_shares(of_drawn.tree_, game.n))
    names = [f"{i}:{text}" for i, text in enumerate(game.question.units.texts)]
    rules = export_text(of_all, feature_names=names, decimals=3)
    rules = rules.replace("<= 0.500", "absent").replace("> 0.500", "there")
    r2 = float(of_all.score(masks, values, sample_weight=weights))
    texts = (
        "the tree's scores are signed shares of its gain, not of the value",
        f"the tree explains {r2:.0%} of the weighted variance around the text (R^2 {r2:.3f})",
    )
    notes = tuple(Note(kind="info", text=text) for text in texts)
    figures = {"removal": game.removal, "samples": n, "r2": r2, "rules": rules}
    scores = _shares(of_all.tree_, game.n)
    errors = np.std(refits, axis=0, ddof=1)
    return MethodScores(scores, game.value, errors, notes=notes, figures=figures)


def _shares(nodes: Any, units: int) -> Float[np.ndarray, " units"]:
    """Each unit's signed share of a tree's gain."""
    scores = np.zeros(units)
    value = nodes.value[:, 0, 0]
    # Of each node: the weight of its rows times their variance.
    variance = nodes.weighted_n_node_samples * nodes.impurity
    for node in range(nodes.node_count):
        left, right = nodes.children_left[node], nodes.children_right[node]
        if left < 0:  # a leaf
            continue
        gain = variance[node] - variance[left] - variance[right]
        # A unit that is there goes to the right.
        sign = np.sign(value[right] - value[left])
        scores[nodes.feature[node]] += sign * gain
    total = np.abs(scores).sum()
    return scores / total if total else scores


def _masks(game: Game, options: Options) -> Bool[np.ndarray, "rows units"]:
    """The whole text and the changed ones, as many as may be used."""
    if game.n < 2:
        raise AttributionError(
            "a surrogate compares units: expected at least 2, got 1; use leave-one-out"
        )
    samples = SAMPLES if options.samples is None else options.samples
    if samples < game.n + 2:
        raise AttributionError(
            f"expected at least {game.n + 2} samples for {game.n} units, got {samples}"
        )
    return lime_sample(game.n, samples, np.random.default_rng(options.seed))


def _forward(X: np.ndarray, y: np.ndarray, weights: np.ndarray, wanted: int) -> np.ndarray:
    """Units one by one, each the one that raises R^2 most (penalty 0, as published)."""
    chosen: list[int] = []
    for _ in range(wanted):
        rest = [unit for unit in range(X.shape[1]) if unit not in chosen]
        r2_with = []
        for unit in rest:
            _, _, r2 = ridge(X[:, [*chosen, unit]], y, weights, 1e-9)
            r2_with.append(r2)
        best = int(np.argmax(r2_with))
        chosen.append(rest[best])
    return np.sort(np.array(chosen))
