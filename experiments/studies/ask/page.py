"""The page of a self-explanation: what it costs to take out the words that a model names, random words, and the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...report.controls import Control, field, told
from ...report.parts import Cell, Column, Heat, Page, Section, Stats, Table, score_cell, signed_cell
from ...report.provenance import model_name
from ...report.scatter import scatter
from ...report.words import count, finite, interval, p_value, plural, signed, unnamed

CONTROLS = (
    Control("as many random words", "any words would have cost as much", field("over_random")),
    Control("the first words of an attribution", "no words could have cost more", told("attribution")),
)
"""What each control rules out."""


Record = Mapping[str, Any]
NAMES = {"named": "named by the model", "random": "drawn at random", "attribution": "ranked first by the attribution"}


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Record] = list(results.get("records") or ())
    prompts: Sequence[Record] = list(results.get("prompts") or ())
    data: dict[str, Any] = {"heats": {}}
    first = records[0] if records else {}
    facts = [
        plural(len(prompts), "prompt"),
        f"{count(first.get('n'))} tested",
        str(first.get("unit") or ""),
    ]
    sections = [effects_section(records, prompts, data)] if records else []
    if prompts:
        sections.append(prompts_section(prompts))
    return Page(
        title=f"Do the words matter that {model_name(about)} names?",
        kicker="layerscope ask",
        facts=facts,
        findings=[
            ("effects", "named words", unnamed(str(f.get("text", "")), "named words"))
            for f in results.get("findings") or ()
        ],
        sections=sections,
        data=data,
    )


def effects_section(records: Sequence[Record], prompts: Sequence[Record], data: dict[str, Any]) -> Section:
    """The three kinds of words, and every prompt as a point."""
    unit = str(records[0].get("unit"))
    columns = [
        Column("words", False),
        Column(
            "effect",
            hint="log-probability of the answer (less that of the wrong one) with the whole text minus without the words",
        ),
        Column("over random", hint="effect minus that of as many words drawn at random, on the same prompts"),
        Column("p", hint="sign-flip test over prompts"),
    ]
    rows = [
        [
            Cell(NAMES.get(str(r.get("words")), str(r.get("words"))), head=True),
            signed_cell(r.get("effect"), r.get("low"), r.get("high")),
            Cell(
                signed(r.get("over_random")),
                finite(r.get("over_random")),
                interval(r.get("over_random_low"), r.get("over_random_high")),
            ),
            Cell(p_value(r.get("p")), finite(r.get("p"))),
        ]
        for r in records
    ]
    tested = [p for p in prompts if finite(p.get("named_effect")) is not None]
    items = [
        ("tested", f"{len(tested)} of {len(prompts)}", "prompts"),
        *((why, str(n), "answers") for why in ("refused", "unparsable", "everything") if (n := _count(prompts, why))),
        ("words not in the text", str(sum(bool(p.get("absent")) for p in prompts)), "answers name some"),
    ]
    parts: list[Any] = [
        Stats(items),
        Table("effects-table", f"What it costs to take words out ({unit})", columns, rows, copy=True),
    ]
    if tested:
        data["heats"]["prompts"] = {
            "tips": [
                [
                    str(p.get("text"))[:80],
                    signed(p.get("named_effect")),
                    f"named: {', '.join(map(str, p.get('named') or ()))}",
                ]
                for p in tested
            ],
            "metric": "named",
            "patterns": None,
        }
        words = "Each point is a prompt: above the line the named words matter more than random ones."
        drawing = scatter(
            [(float(p["random_effect"]), float(p["named_effect"])) for p in tested],
            uid="prompts",
            title="Named words against random words",
            desc=words,
            x_title=f"effect of random words, {records[0].get('unit')}",
            y_title=f"effect of named words, {records[0].get('unit')}",
        )
        parts.append(Heat("prompts", Markup(drawing), words, label="Named over random words", key=False))
    return Section("effects", "Words taken out", parts, "", study=True)


def _count(prompts: Sequence[Record], reason: str) -> int:
    return sum(p.get("reason") == reason for p in prompts)


def prompts_section(prompts: Sequence[Record]) -> Section:
    """Every prompt, what the model said, and what that did."""
    columns = [
        Column("text", False),
        Column("goes on", False),
        Column("model's words", False, "what was counted and not tested says why"),
        Column("in the text", False),
        Column("named", hint="what it costs to take out the named words"),
        Column("random"),
        Column("attribution"),
    ]
    rows = [
        [
            Cell(str(p.get("text"))),
            Cell(str(p.get("answer"))),
            Cell(str(p.get("said")), None, str(p.get("reason") or "")),
            Cell(", ".join(map(str, p.get("named") or ()))),
            *(score_cell(p.get(f"{kind}_effect")) for kind in ("named", "random", "attribution")),
        ]
        for p in prompts
    ]
    table = Table("prompts-table", "Every prompt", columns, rows, tall=True, copy=True)
    return Section("prompts-section", "Prompt by prompt", [table])
