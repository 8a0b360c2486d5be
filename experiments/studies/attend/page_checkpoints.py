"""The section of checkpoints: how heads come to look where they look."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ...report.charts import Series
from ...report.lines import lines
from ...report.parts import (
    Drawing,
    Picture,
    Section,
)
from ...report.words import finite, number
from .records import (
    CheckpointRecord,
    head_name,
)

TRAINING = {
    "entropy": (
        "Entropy over training",
        "1 is uniform attention: a head that stays there has learned nothing yet.",
    ),
    "change": (
        "Movement over training",
        (
            "Squared Hellinger distance between each token's attention and that at "
            "the previous checkpoint."
        ),
    ),
}
"""What is drawn over the checkpoints: its title and caption."""


def checkpoints_section(records: Sequence[CheckpointRecord], data: dict[str, Any]) -> Section:
    """Entropy and movement of heads over a training run: their mean,
    and the heads that end sharpest and most diffuse.
    """
    pictures = [Picture([checkpoint_curves(records, name, data)]) for name in TRAINING]
    return Section("checkpoints", "Training", pictures, "", study=True)


def checkpoint_curves(
    records: Sequence[CheckpointRecord], name: str, data: dict[str, Any]
) -> Drawing:
    """One quantity over the checkpoints."""
    steps = sorted({record.step for record in records})
    at = {(record.step, record.layer, record.index): record for record in records}
    heads = sorted(
        {(record.layer, record.index) for record in records},
        key=lambda head: at[steps[-1], *head].entropy,
    )

    def values(head: tuple[int, int]) -> list[float | None]:
        return [finite(getattr(at[step, *head], name)) for step in steps]

    means: list[float | None] = []
    for place in range(len(steps)):
        known = [value for head in heads if (value := values(head)[place]) is not None]
        means.append(fmean(known) if known else None)
    sharpest, broadest = heads[0], heads[-1]
    series = [
        Series(head_name(*sharpest), "control", values(sharpest)),
        Series(head_name(*broadest), "random", values(broadest)),
        Series("mean of heads", "score", means),
    ]
    title, caption = TRAINING[name]
    return lines(
        f"checkpoints-{name}",
        series,
        data,
        labels=[str(step) for step in steps],
        names=[f"step {step}" for step in steps],
        title=title,
        x_title="step",
        y_title=name,
        caption=caption,
        words="; ".join(
            f"step {s} {number(v)}" for s, v in zip(steps, means, strict=True) if v is not None
        ),
    )
