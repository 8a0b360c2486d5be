"""Units taken out one at a time, in windows, or one after the other until the model changes its mind.

leave-one-out    score(i) = v(all) - v(all without i)
windows          score(i) = mean over the windows W that hold i of v(all) - v(all without W)
input-reduction  units leave in the order in which the value suffers least (Feng et al. 2018); score = when a unit left
"""

from __future__ import annotations

import numpy as np

from ..report.schema import Note
from .game import Game
from .options import Options
from .result import Found


def leave_one_out(game: Game, options: Options) -> Found:
    """The value that is lost without each unit."""
    kept = ~np.eye(game.n, dtype=bool)
    lost = game.value - game.each(kept)
    errors = lost.std(0, ddof=1) / np.sqrt(game.draws) if game.draws > 1 else None
    return Found(lost.mean(0), game.value, errors, more={"removal": game.removal})


def windows(game: Game, options: Options) -> Found:
    """The value that is lost without each window, shared by the units in it.

    Source: Zeiler and Fergus 2014, section 4.2 (occlusion).
    """
    size = min(options.window, game.n)
    inside = np.array(
        [[start <= i < start + size for i in range(game.n)] for start in range(game.n - size + 1)]
    )
    lost = game.value - game(~inside)
    scores = (inside * lost[:, None]).sum(0) / inside.sum(0)
    return Found(scores, game.value, more={"removal": game.removal, "window": size})


def input_reduction(game: Game, options: Options) -> Found:
    """Units taken out one after the other, the least missed first; the curve shows how sure the model stays.

    Where the value stays high while next to nothing is left, it is sure of what no person would be. Source: Feng et al.
    2018, section 3, with the value itself in place of its gradient to choose by.
    """
    kept = np.ones(game.n, dtype=bool)
    order: list[int] = []
    curve = [game.value]
    while kept.sum() > 1:
        left = np.flatnonzero(kept)
        tried = np.repeat(kept[None], len(left), 0)
        tried[np.arange(len(left)), left] = False
        values = game(tried)
        best = int(values.argmax())
        order.append(int(left[best]))
        curve.append(float(values[best]))
        kept[left[best]] = False
    order.append(int(np.flatnonzero(kept)[0]))
    scores = np.zeros(game.n)
    scores[order] = np.arange(1, game.n + 1) / game.n
    text = "input reduction's scores are the order in which units left (1 stayed longest), not shares of the value"
    more = {"removal": game.removal, "order": order, "curve": curve}
    return Found(scores, game.value, notes=(Note(kind="info", text=text),), more=more)
