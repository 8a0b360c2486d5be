"""Units taken out one at a time, in windows, or one after the other until the model changes its
mind.

leave-one-out    score(i) = v(all) - v(all without i)
windows          score(i) = mean over the windows W that hold i of v(all) - v(all without W)
input-reduction  units leave in the order in which the value suffers least (Feng et al. 2018); score
                 = when a unit left
"""

from __future__ import annotations

import numpy as np

from ..report.schema import Note
from .game import Game
from .options import Options
from .result import MethodScores
from .verified import DRAWN, largest_left_out


def leave_one_out(game: Game, options: Options) -> MethodScores:
    """The value that is lost without each unit;
    with ``verify`` exact for the largest and estimated for the rest.
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
    """The value that is lost without each window, shared by the units in it.

    Source: Zeiler and Fergus 2014, section 4.2 (occlusion).
    """
    size = min(options.window, game.n)
    starts = np.arange(game.n - size + 1)[:, None]
    units = np.arange(game.n)
    inside = (starts <= units) & (units < starts + size)  # window unit
    lost = game.value - game(~inside)
    # Units at the ends are in fewer windows: the mean over a unit's windows, not their sum.
    n_windows = inside.sum(0)
    scores = (inside * lost[:, None]).sum(0) / n_windows
    return MethodScores(scores, game.value, figures={"removal": game.removal, "window": size})


def input_reduction(game: Game, options: Options) -> MethodScores:
    """Units taken out one after the other, the least missed first; the curve shows how sure the
    model stays.

    Where the value stays high while next to nothing is left, it is sure of what no person would be.
    Source: Feng et al. 2018, section 3, with the value itself in place of its gradient to choose
    by.
    """
    is_left = np.ones(game.n, dtype=bool)
    order: list[int] = []
    curve = [game.value]
    while is_left.sum() > 1:
        left = np.flatnonzero(is_left)
        # A row for each unit that could go next.
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
