"""The page of ``layerscope ablate``."""

from __future__ import annotations

from ...report.controls import GRID, OVER_PROMPTS, TURNED
from ...report.depths import DepthCurve
from ...report.parts import Cell, Column, Page
from ...report.schema import as_json
from ...report.words import interval, number
from ...sweep.page import EffectsView, ExtraColumn, effect_curves, effects_page
from ...sweep.positions import positions_text
from .records import AblationRecord, Results

CONTROLS = (OVER_PROMPTS, GRID, TURNED)
"""What each control rules out."""

ROLE = 0.3
"""Mean attention from which a head's role on repeated tokens is named."""


def page(results: Results) -> Page:
    """The page of a run, as parts."""
    first = results.records[0]
    has_roles = any(record.induction is not None for record in results.records)
    extra = [ROLES] if has_roles else []
    if any(record.ran_on is not None for record in results.records):
        extra.append(RAN_ON)
    view = EffectsView(
        noun="ablations",
        about="Metric with the part ablated minus metric of the unchanged model, "
        "averaged over prompts.",
        positions=positions_text(results.positions),
        share=(
            "of the clean metric",
            "effect / clean metric; absent where that is not significantly different from 0",
        ),
        stats=[("clean metric", number(results.baseline.value), f"{first.metric}, {first.unit}")],
        extra=extra,
        patterns=as_json(results.patterns) if results.patterns is not None else None,
    )
    return effects_page(results, results.records, view)


def curves(results: Results) -> list[DepthCurve]:
    """The effects of parts that a layer has one of, over depth."""
    return effect_curves(results.records)


def _role(record: AblationRecord) -> Cell:
    """What a head looks at on repeated tokens, where that is most of its attention."""
    scores = {name: getattr(record, name) or 0.0 for name in ("previous", "duplicate", "induction")}
    name = max(scores, key=lambda key: scores[key])
    return Cell(f"{name} {number(scores[name], 2)}" if scores[name] >= ROLE else "", scores[name])


def _ran_on(record: AblationRecord) -> Cell:
    """The prompts of a race that the part ran on."""
    ran_on = record.ran_on or 0
    if record.stopped is None:
        return Cell(str(ran_on), ran_on)
    return Cell(f"{ran_on}, stopped", ran_on, interval(record.stopped_interval))


RAN_ON = ExtraColumn(
    Column(
        "prompts",
        hint="that the part ran on before the race stopped it: "
        "its effect is then an estimate, with its 95% interval over all prompts in small print",
    ),
    _ran_on,
)
ROLES = ExtraColumn(
    Column(
        "on repeated tokens",
        hint="mean attention in the sense of the role, on repeated random tokens",
    ),
    _role,
)
