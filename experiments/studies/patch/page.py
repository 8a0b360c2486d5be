"""The page of ``layerscope patch``."""

from __future__ import annotations

from ...report.controls import GRID, OVER_PROMPTS, TURNED, Control
from ...report.depths import DepthCurve
from ...report.parts import Page
from ...report.words import interval, number
from ...sweep.page import EffectsView, effect_curves, effects_page
from ...sweep.positions import positions_text
from .records import Results

CONTROLS = (
    OVER_PROMPTS,
    GRID,
    TURNED,
    Control(
        "both directions",
        "a sufficient part is mistaken for a necessary one",
        lambda results: len({record.value for record in results.records}) > 1,
        "--direction both",
    ),
)
"""What each control rules out."""


def page(results: Results) -> Page:
    """The page of a run, as parts."""
    first, runs, gap = results.records[0], results.baseline, results.gap
    metric = f"{first.metric}, {first.unit}"
    view = EffectsView(
        noun="patches",
        about="Metric with the patch minus metric without it, averaged over prompts.",
        positions=positions_text(results.positions),
        share=(
            "of the way",
            (
                "effect / (metric of the other run minus metric of this one); "
                "absent where that is about 0"
            ),
        ),
        stats=[
            ("clean run", number(runs.clean.value), metric),
            ("corrupted run", number(runs.corrupted.value), metric),
            ("difference", number(gap.value), interval(gap.interval)),
        ],
        tokens=results.tokens,
        shares=True,
    )
    return effects_page(results, results.records, view)


def curves(results: Results) -> list[DepthCurve]:
    """The effects of parts that a layer has one of, over depth."""
    return effect_curves(results.records)
