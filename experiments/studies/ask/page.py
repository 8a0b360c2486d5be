"""The page of what a model says about its answers: its reasons against random words,
or its confidences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from ...calibration.page import CONTROLS as OF_CONFIDENCE
from ...calibration.page import confidence_page
from ...report.controls import Control, field, is_given
from ...report.parts import (
    Cell,
    Column,
    Heat,
    Page,
    Section,
    Stats,
    Table,
    corrected_cell,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.scatter import scatter
from ...report.words import plural, signed, unnamed
from .records import PromptRecord, Results, WordsRecord

NAMES = {
    "named": "named by the model",
    "random": "drawn at random",
    "attribution": "the attribution's top words",
}


def _about_reasons(results: Results) -> bool:
    return bool(results.words)


def _about_confidence(results: Results) -> bool:
    return not results.words


CONTROLS = (
    Control(
        "as many random words",
        "any words would have mattered as much",
        field("over_random"),
        "",
        _about_reasons,
    ),
    Control(
        "the top words of an attribution",
        "no words could have mattered more",
        is_given("attribution"),
        "",
        _about_reasons,
    ),
    *(replace(control, applies=_about_confidence) for control in OF_CONFIDENCE),
)
"""What each control rules out."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    name = model_name(results.provenance)
    if results.confidences:
        return confidence_page(
            results.confidences,
            results.comparisons,
            results.errors,
            results.findings,
            title=f"Confidence of {name}",
            command="ask",
            source=results.source,
        )
    records, prompts, data = results.words, results.prompts, dict[str, Any](heats={})
    facts = [plural(len(prompts), "prompt")]
    if records:
        facts += [f"{records[0].n:,} tested", records[0].unit]
    return Page(
        title=f"Do the words that {name} names matter?",
        kicker="layerscope ask",
        facts=facts,
        findings=[
            ("effects", "named words", unnamed(f.text, "named words")) for f in results.findings
        ],
        sections=[
            *([_effects(records, prompts, data)] if records else []),
            *([_prompts(prompts)] if prompts else []),
        ],
        data=data,
    )


def _effects(
    records: Sequence[WordsRecord], prompts: Sequence[PromptRecord], data: dict[str, Any]
) -> Section:
    """The three kinds of words, and every prompt as a point."""
    unit = records[0].unit
    columns = [
        Column("words", False),
        Column(
            "effect",
            hint="log-probability of the answer (minus that of the wrong one) "
            "with the whole text minus without the words",
        ),
        Column(
            "over random",
            hint="effect minus that of as many words drawn at random, on the same prompts",
        ),
        Column(
            "p (Holm)", hint="of over random; corrected over both kinds of words, intervals are not"
        ),
    ]
    rows = [
        [
            Cell(NAMES[r.words], head=True),
            signed_cell(r.effect, r.effect_interval),
            signed_cell(r.over_random, r.over_random_interval),
            corrected_cell(r.p_holm, r.p),
        ]
        for r in records
    ]
    tested = [p for p in prompts if p.named_effect is not None]
    counts = [
        (why, sum(p.reason == why for p in prompts))
        for why in ("refused", "unparsable", "everything")
    ]
    items = [
        ("tested", f"{len(tested)} of {len(prompts)}", "prompts"),
        *((why, str(n), "answers") for why, n in counts if n),
        ("words not in the text", str(sum(bool(p.absent) for p in prompts)), "answers name some"),
    ]
    parts: list[Any] = [
        Stats(items),
        Table("effects-table", f"Effect of removing words ({unit})", columns, rows, copy=True),
    ]
    if tested:
        parts.append(_scatter(tested, unit, data))
    return Section("effects", "Words removed", parts, "", study=True)


def _scatter(tested: Sequence[PromptRecord], unit: str, data: dict[str, Any]) -> Heat:
    """Named words against random words, a point a prompt."""
    tips = [[p.text[:80], signed(p.named_effect), f"named: {', '.join(p.named)}"] for p in tested]
    data["heats"]["prompts"] = {"tips": tips, "metric": "named", "patterns": None}
    words = "Each point is a prompt. Above the line, the named words matter more than random ones."
    drawing = scatter(
        [(p.random_effect or 0.0, p.named_effect or 0.0) for p in tested],
        uid="prompts",
        title="Named words against random words",
        desc=words,
        x_title=f"effect of random words, {unit}",
        y_title=f"effect of named words, {unit}",
    )
    return Heat("prompts", Markup(drawing), words, label="Named over random words", key=False)


def _prompts(prompts: Sequence[PromptRecord]) -> Section:
    """Every prompt, what the model said, and what that did."""
    columns = [
        Column("text", False),
        Column("continuation", False),
        Column("model's answer", False, "small print: why it was not tested"),
        Column("named words", False),
        Column("named", hint="effect of removing the named words"),
        Column("random"),
        Column("attribution"),
    ]
    rows = [
        [
            Cell(p.text),
            Cell(p.answer),
            Cell(p.said, None, p.reason),
            Cell(", ".join(p.named)),
            *(
                score_cell(effect)
                for effect in (p.named_effect, p.random_effect, p.attribution_effect)
            ),
        ]
        for p in prompts
    ]
    table = Table("prompts-table", "Every prompt", columns, rows, tall=True, copy=True)
    return Section("prompts-section", "Prompt by prompt", [table])
