"""Neurons ranked by what the metric would lose without them, to first order, from one gradient a
batch of texts.

    score_j = |mean over texts of the sum over tokens of (changed x_j - x_j) d metric / d x_j|

This ranks by use where all other rankings go by what can be read. It is given texts of its own: on
those that effects are measured on it would choose what happens to matter there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from ....hooks import Site
from ....hooks.edits import Edit
from ...corpus.prompts import Item
from ...metrics.metrics import Metric
from ...runs.folder import RunError
from ...subject import Subject
from ...sweep.components import Component
from ...sweep.effects import clusters_of
from ...sweep.estimate import estimates
from ...sweep.sweep import chunks


def halves(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Texts to rank on and texts to measure, no group in both.

    Raises:
        RunError: one group only.
    """
    clusters = clusters_of(items)
    if clusters.max() == 0:
        raise RunError(
            "--gradient: expected at least two texts or groups of texts, "
            "to rank on one and measure the other"
        )
    even = clusters % 2 == 0
    return [item for item, e in zip(items, even, strict=True) if e], [
        item for item, e in zip(items, even, strict=True) if not e
    ]


def by_gradient(
    subject: Subject,
    metric: Metric,
    items: Sequence[Item],
    widths: Mapping[str, int],
    edit_of: Callable[[str], Edit],
    tokens: int,
) -> dict[str, Int[np.ndarray, " d"]]:
    """For each site its neurons from the most to the least missed.

    Args:
        widths: how many neurons each site has; sites have no heads.
        edit_of: what the whole of a site becomes.

    Raises:
        MetricError: a metric without a gradient.
    """
    parts = []
    for name, width in widths.items():
        site = Site(name)
        parts += [Component("neurons", site.layer or 0, j, site) for j in range(width)]
    change = {name: edit_of(name) for name in widths}

    def edit_of_part(part: Component) -> Edit:
        return change[part.site.name]

    total = np.zeros(len(parts))
    for chunk in chunks(subject, metric.reads(subject, items), tokens):
        # One forward and backward for all neurons of all sites, where removing each would take a
        # forward a neuron.
        total += estimates(subject, metric, chunk, parts, edit_of_part).effects.sum(1)
    ends = np.cumsum(list(widths.values()))[:-1]
    orders = {}
    for name, effects in zip(widths, np.split(total, ends), strict=True):
        orders[name] = np.argsort(-np.abs(effects), kind="stable")
    return orders
