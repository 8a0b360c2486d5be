"""What an attribution finds, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...report.schema import Finding
from ...report.words import plural
from .records import RANDOM, MethodRecord, RandomRecord, Record

SHOWN_TEXTS, SHOWN_UNITS = 3, 3
"""Texts that have a sentence, and units that it names."""


def findings(records: Sequence[Record], methods: Sequence[str]) -> list[Finding]:
    """The first method's strongest units in each of the first texts,
    and which methods do better than random scores.
    """
    of_first = [r for r in records if isinstance(r, MethodRecord) and r.method == methods[0]]
    sentences = [_strongest(record) for record in of_first[:SHOWN_TEXTS]]
    faithful = _faithful(records, methods)
    return sentences if faithful is None else [*sentences, faithful]


def _strongest(record: MethodRecord) -> Finding:
    largest_first = np.argsort(-np.abs(record.scores), kind="stable")
    units = []
    for i in largest_first[:SHOWN_UNITS]:
        units.append(f"{record.units[i]!r} ({record.scores[i]:+.2f})")
    value = f"The {record.target} is {record.value:.2f} {record.unit}."
    scores = f"The largest scores by {record.method} are {', '.join(units)}."
    return Finding(property="", text=f"{value} {scores}")


def _faithful(records: Sequence[Record], methods: Sequence[str]) -> Finding | None:
    """Which methods name units whose removal costs more than that of random ones;
    None without random ones.
    """
    losses: dict[str, list[float]] = {}
    for record in records:
        losses.setdefault(record.method, []).append(record.comprehensiveness)
    if RANDOM not in losses:
        return None
    means = {method: float(np.mean(losses[method])) for method in methods}
    by_chance = float(np.mean(losses[RANDOM]))
    best = max(means, key=lambda method: means[method])
    # Of each text the draw that costs most: a method above these is above every random ranking.
    of_draws = [r.comprehensiveness_interval.high for r in records if isinstance(r, RandomRecord)]
    highest = float(np.mean(of_draws))
    n_above = sum(loss > by_chance for loss in means.values())
    n_beyond = sum(loss > highest for loss in means.values())
    text = (
        f"Removing the words that {best} ranks highest costs {means[best]:.2f} "
        f"{records[0].unit} (mean over texts and shares of words), the most of "
        f"{plural(len(means), 'method')}. Removing random words costs {_rounded(by_chance)} "
        f"on average and {_rounded(highest)} in the costliest draws. The average is "
        f"exceeded by {n_above} of {len(means)}, the costliest draws by {n_beyond}."
    )
    return Finding(property="faithfulness", text=text)


def _rounded(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no negative zero
