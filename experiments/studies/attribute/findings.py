"""What an attribution finds, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...report.schema import Finding
from .records import RANDOM, MethodRecord, Record

SHOWN_TEXTS, SHOWN_UNITS = 3, 3
"""Texts that have a sentence, and units that it names."""


def findings(records: Sequence[Record], methods: Sequence[str]) -> list[Finding]:
    """The first method's strongest units in each of the first texts, and which methods do better than random scores."""
    of_first = [r for r in records if isinstance(r, MethodRecord) and r.method == methods[0]]
    sentences = [_strongest(record) for record in of_first[:SHOWN_TEXTS]]
    faithful = _faithful(records, methods)
    return sentences if faithful is None else [*sentences, faithful]


def _strongest(record: MethodRecord) -> Finding:
    largest_first = np.argsort(-np.abs(record.scores), kind="stable")
    units = []
    for i in largest_first[:SHOWN_UNITS]:
        units.append(f"{record.units[i]!r} ({record.scores[i]:+.2f})")
    target = f"{record.target[0].upper()}{record.target[1:]}"
    value = f"{target} is {record.value:.2f} {record.unit}"
    due = f"by {record.method} most of it is due to {', '.join(units)}"
    return Finding(property="", text=f"{value}; {due}.")


def _faithful(records: Sequence[Record], methods: Sequence[str]) -> Finding | None:
    """Which methods name units whose removal costs more than that of random ones; None without random ones."""
    losses: dict[str, list[float]] = {}
    for record in records:
        losses.setdefault(record.method, []).append(record.comprehensiveness)
    if RANDOM not in losses:
        return None
    means = {method: float(np.mean(losses[method])) for method in methods}
    by_chance = float(np.mean(losses[RANDOM]))
    best = max(means, key=lambda method: means[method])
    above = [method for method, loss in means.items() if loss > by_chance]
    cost = f"{means[best]:.2f} {records[0].unit}, mean over texts and shares; random words {round(by_chance, 2) + 0.0:.2f}"
    if above:
        text = (
            f"Removing the words that {best} ranks highest costs most ({cost}). {len(above)} of {len(means)} methods do "
            "better than random scores."
        )
    else:
        text = f"No method ranks words higher whose removal costs more than that of random ones; the best is {best} ({cost})."
    return Finding(property="faithfulness", text=text)
