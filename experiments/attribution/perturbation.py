"""Remove units one at a time, in windows, or cumulatively until one is left.

leave-one-out    score(i) = v(all) - v(all without i)
windows          score(i) = mean of v(all) - v(all without W) over the windows W that contain i
input-reduction  remove the unit whose loss lowers the value least, repeatedly (Feng et al. 2018);
                 score(i) = rank of i in the order of removal / number of units
"""

from __future__ import annotations

import numpy as np

from ..report.schema import Note
from .game import Game
from .options import Options
from .result import MethodScores
from .verified import DRAWN, largest_left_out


def leave_one_out(game: Game, options: Options) -> MethodScores:
    """Measure the drop in value when each unit is removed.

    With ``verify``, the largest scores are exact and the others are estimates.
    """
    if options.verify is not None and options.verify + DRAWN < game.n:
        return largest_left_out(game, options, options.verify)
    all_but_one = ~np.eye(game.n, dtype=bool)
    lost = game.value - game.each(all_but_one)
    errors = None
    if game.draws > 1:
        errors = lost.std(0, ddof=1) / np.sqrt(game.draws)
    return MethodScores(lost.mean(0), game.value, errors, figures={"removal": game.removal})


def windows(game: Game, options: Options) -> MethodScores:
    """Average the drop in value over the windows that contain each unit.

    Source: Zeiler and Fergus 2014, section 4.2 (occlusion).
    """
    size = min(options.window, game.n)
    starts = np.arange(game.n - size + 1)[:, None]
    units = np.arange(game.n)
    inside = (starts <= units) & (units < starts + size)  # window unit
    lost = game.value - game(~inside)
    # Units at the ends are in fewer windows, so take the mean over windows and not the sum.
    n_windows = inside.sum(0)
    scores = (inside * lost[:, None]).sum(0) / n_windows
    return MethodScores(scores, game.value, figures={"removal": game.removal, "window": size})


def input_reduction(game: Game, options: Options) -> MethodScores:
    """Remove units one after the other, each time the one whose removal keeps the value highest.

    The curve shows the value after each removal. If it stays high when almost nothing is left, the
    model is confident on inputs that no person could judge. Source: Feng et al. 2018, section 3;
    here the value itself, not its gradient, selects the unit.
    """
    is_left = np.ones(game.n, dtype=bool)
    order: list[int] = []
    curve = [game.value]
    while is_left.sum() > 1:
        left = np.flatnonzero(is_left)
        # One row per unit that could be removed next.
        tried = np.repeat(is_left[None], len(left), 0)
        tried[np.arange(len(left)), left] = False
        values = game(tried)
        best = int(values.argmax())
        goes = int(left[best])
        order.append(goes)
        curve.append(float(values[best]))
        is_left[goes] = False
    last = int(is_left.argmax())
    order.append(last)
    scores = np.zeros(game.n)
    scores[order] = np.arange(1, game.n + 1) / game.n
    text = (
        "input reduction's scores are the order in which units left (1 stayed longest), "
        "not shares of the value"
    )
    figures = {"removal": game.removal, "order": order, "curve": curve}
    return MethodScores(scores, game.value, notes=(Note(kind="info", text=text),), figures=figures)
