"""What every page ends with: controls, caveats, provenance, the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .controls import Control, controls_section
from .parts import Page, Section, Text
from .provenance import Row, again, caveats, model_name, provenance

WHY = ("wrong", "skipped", "dropped")
"""Kinds of notes that say why something was not measured."""


def nothing_measured(results: Any, command: str) -> Page:
    """The page of a run without records: that there are none, and what the run says of it."""
    name = model_name(results.provenance)
    reasons = [note.text for note in results.notes if note.kind in WHY]
    why = reasons or ["The run gives no reason: see its caveats and its configuration below."]
    findings = [("", finding.property, finding.text) for finding in results.findings]
    return Page(
        title=f"Nothing was measured: {command} of {name}",
        kicker=f"layerscope {command}",
        facts=["0 records"],
        findings=findings or [("", "", "This run measured nothing.")],
        sections=[Section("why", "Why there is nothing to show", [Text(why)])],
    )


def closed(
    page: Page, results: Any, controls: Sequence[Control] = (), cautions: Sequence[Row] = ()
) -> Page:
    """The page with the day of the run and the closing sections.

    Args:
        controls: those of this kind of run.
        cautions: caveats that the records show, beside the notes of the results: badge, tone, text.
    """
    day = str((results.provenance.get("resources") or {}).get("finished") or "")[:10]
    ends = [
        controls_section(results, controls),
        caveats(results.notes, cautions, controlled=bool(controls)),
        provenance(results.provenance),
        again(results.provenance),
    ]
    sections = [*page.sections, *(section for section in ends if section is not None)]
    return replace(page, facts=[fact for fact in (*page.facts, day) if fact], sections=sections)
