"""Models that a person can read, fitted to the model's answers around one text: LIME's line and a small tree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..report.schema import Note
from .game import Game
from .options import Options
from .result import Found, largest_share
from .units import AttributionError

WIDTH = 25.0
"""LIME's kernel width for text, on a distance of 100 (1 - cos)."""
SAMPLES = 5000
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
    for row, removed in zip(masks[1:], rng.integers(1, units + 1, samples - 1), strict=True):
        row[rng.permutation(units)[:removed]] = False
    return masks


def lime_weights(masks: Bool[np.ndarray, "rows units"]) -> Float[np.ndarray, " rows"]:
    """sqrt(exp(-d^2 / 25^2)), d = 100 (1 - cos) of the mask with the whole text.

    >>> lime_weights(np.array([[True] * 5 + [False] * 5])).round(4)
    array([0.5034])
    """
    distance = 100 * (1 - np.sqrt(masks.mean(1)))
    return np.sqrt(np.exp(-((distance / WIDTH) ** 2)))


def ridge(
    X: Float[np.ndarray, "rows units"],
    y: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"],
    penalty: float,
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"], float]:
    """Weighted ridge regression with a free intercept: coefficients, their standard errors, weighted R^2."""
    share = weights / weights.sum()
    x, z = X - share @ X, y - share @ y
    bread = np.linalg.inv((x * weights[:, None]).T @ x + penalty * np.eye(X.shape[1]))
    coef = bread @ (x * weights[:, None]).T @ z
    left = z - x @ coef
    scores = x * (weights * left)[:, None]
    errors = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))
    spread = float(weights @ z**2)
    return coef, errors, 1 - float(weights @ left**2) / spread if spread > 0 else 1.0


def lime(game: Game, options: Options) -> Found:
    """LIME for text with the published defaults: a weighted ridge regression (penalty 1) on which units are there.

    Features: forward selection up to 6, else those with the largest weights of a first regression (penalty 0.01).
    Source: Ribeiro et al. 2016, section 3.4, and the defaults of the authors' LimeTextExplainer.
    """
    masks = _masks(game, options)
    asked, wanted = options.asked_error, options.features or game.n
    # The same texts in the same order whatever the error: a smaller one goes on where a larger one stopped.
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
            f"LIME keeps {len(chosen)} of {game.n} units; the others have score 0 (features=0 keeps all)"
        )
    texts.append(
        f"{n} changed texts: the largest standard error is {line.share:.1%} of the largest score"
    )
    notes = [Note(kind="info", text=text) for text in texts]
    if line.share > asked > 0:
        short = f"the asked standard error of {asked:.1%} was not reached in {n} texts: give more --samples"
        notes.append(Note(kind="warning", text=short))
    figures = {"removal": game.removal, "samples": n, "r2": r2, "error": line.share}
    return Found(scores, game.value, spread, notes=tuple(notes), more=figures)


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
    X, weights = masks.astype(float), lime_weights(masks)
    # The published penalties, 0.01 to choose features and 1 for the line that is shown, are of 5,000 texts: of fewer a
    # share, or the line would be flatter the sooner it is ready.
    penalty = len(masks) / SAMPLES
    if wanted >= X.shape[1]:
        chosen = np.arange(X.shape[1])
    elif wanted <= 6:
        chosen = _forward(X, values, weights, wanted)
    else:
        first = ridge(X, values, weights, 0.01 * penalty)[0]
        chosen = np.sort(np.argsort(-np.abs(first), kind="stable")[:wanted])
    coef, errors, r2 = ridge(X[:, chosen], values, weights, penalty)
    scores, spread = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    scores[chosen], spread[chosen] = coef, errors
    return _Line(chosen, scores, spread, r2)


def tree(game: Game, options: Options) -> Found:
    """A regression tree of depth 3 on LIME's samples, in words; it can show that two units matter only together.

    score(i) = sum over the splits by i of their share of the tree's gain, with the sign of what the split adds; its
    standard error is the spread over trees of texts drawn again from these (the bootstrap).
    """
    from sklearn.tree import DecisionTreeRegressor, export_text

    masks = _masks(game, options)
    values, weights = game(masks), lime_weights(masks)

    def fitted(rows: np.ndarray) -> DecisionTreeRegressor:
        regressor = DecisionTreeRegressor(max_depth=DEPTH, random_state=options.seed)
        return regressor.fit(masks[rows], values[rows], sample_weight=weights[rows])

    n = len(masks)
    rng = np.random.default_rng(options.seed)
    of_all = fitted(np.arange(n))
    # A tree's splits jump from one unit to another with few samples changed: the spread is part of the answer.
    refits = [_shares(fitted(rng.integers(n, size=n)).tree_, game.n) for _ in range(REFITS)]
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
    scores, errors = _shares(of_all.tree_, game.n), np.std(refits, axis=0, ddof=1)
    return Found(scores, game.value, errors, notes=notes, more=figures)


def _shares(nodes: Any, units: int) -> Float[np.ndarray, " units"]:
    """Each unit's signed share of a tree's gain."""
    scores = np.zeros(units)
    rows, impurity, value = nodes.weighted_n_node_samples, nodes.impurity, nodes.value[:, 0, 0]
    for at in range(nodes.node_count):
        left, right = nodes.children_left[at], nodes.children_right[at]
        if left < 0:  # a leaf
            continue
        gain = rows[at] * impurity[at] - rows[left] * impurity[left] - rows[right] * impurity[right]
        scores[nodes.feature[at]] += np.sign(value[right] - value[left]) * gain
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
        rest = [i for i in range(X.shape[1]) if i not in chosen]
        gains = [ridge(X[:, [*chosen, i]], y, weights, 1e-9)[2] for i in rest]
        chosen.append(rest[int(np.argmax(gains))])
    return np.sort(np.array(chosen))
