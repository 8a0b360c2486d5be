"""Integrated gradients along a path that stays near real words.

A straight line from a word's embedding to the baseline passes through vectors far from any word,
where the model's gradient means little. This path visits points near the embeddings of other words.
Each coordinate still moves monotonically, so the sum over the path is a path integral. Source:
Sanyal and Ren 2021 (discretised integrated gradients), section 3, the greedy search.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..subject.targets import in_target
from .gradients import baselines, complete, each_part
from .lookups import embedding
from .options import Options
from .result import MethodScores
from .scorer import Scorer
from .slope import Slope
from .units import AttributionError

NEIGHBOURS = 200
"""Number of nearest words searched for the next anchor."""


def word_path(
    start: Float[Tensor, " d"],
    end: Float[Tensor, " d"],
    table: Float[Tensor, "vocab d"],
    steps: int,
) -> Float[Tensor, "points d"]:
    """Find a path between two embeddings that is monotone in every coordinate and stays near words.

    Each step takes the coordinates of an anchor word that lie between the present point and the
    end. The other coordinates move by an equal share of the remaining distance.
    """
    points, point = [start], start
    for left in range(steps - 1, 0, -1):
        distances = (table - point).norm(dim=1)
        near = distances.topk(min(NEIGHBOURS, len(table)), largest=False).indices
        anchors = table[near]
        is_between = (anchors - point) * (anchors - end) <= 0
        moved = torch.where(is_between, anchors, point + (end - point) / (left + 1))
        # Choose the move that ends nearest to its anchor word.
        point = moved[(moved - anchors).norm(dim=1).argmin()]
        points.append(point)
    return torch.stack([*points, end])


def discretised(scorer: Scorer, options: Options) -> MethodScores:
    """Sum gradient times step along the path, with the mean gradient of each step's two ends.

    Raises:
        AttributionError: a site, or the baseline ``sampled``.
    """
    if options.site is not None:
        raise AttributionError("dig walks between words' embeddings: it has no --site")
    if options.baseline == "sampled":
        raise AttributionError("dig walks to one baseline: choose zero, pad, mask or mean")
    subject = scorer.question.subject
    sides = (False, True) if subject.has_decoder else (False,)
    words = {side: embedding(subject, in_target=side).float() for side in sides}

    def method(slope: Slope, x: Tensor) -> tuple[Tensor, dict[str, float]]:
        (start,) = baselines(slope, x, options)
        path = x.repeat(options.path_steps + 1, 1, 1)
        for places in slope.part.tokens:
            for at in places:
                table = slope.in_width(words[in_target(slope.part.ids[at])])
                points = word_path(x[at].float(), start[at].float(), table, options.path_steps)
                path[:, at] = points.to(x)
        values, slopes = slope.at(path)
        mean_slopes = (slopes[1:] + slopes[:-1]) / 2
        shares = -(mean_slopes * path.diff(dim=0)).sum(0)  # the path goes away from the text
        change = float(values[0].double() - values[-1].double())
        gap = float(shares.double().sum()) - change
        return shares, {"gap": gap, "change": change, "baseline": float(values[-1])}

    scored, figures = each_part(scorer, options, method)
    way = f"{options.path_steps} steps between words to {options.start}"
    figures = {**figures, "steps": options.path_steps}
    return complete(scored, figures, options, way, "more steps (--steps) make it smaller")
