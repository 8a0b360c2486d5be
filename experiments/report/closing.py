"""What every page ends with: controls, caveats, provenance, the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .controls import Control, controls_section
from .parts import Page
from .provenance import Row, again, caveats, provenance


def closed(
    page: Page, results: Any, controls: Sequence[Control] = (), cautions: Sequence[Row] = ()
) -> Page:
    """The page with the day of the run and the closing sections.

    Args:
        controls: those of this kind of run.
        cautions: caveats that the records show, beside the notes of the results: badge, tone, text.
    """
    day = str(results.provenance.get("finished") or "")[:10]
    ends = [
        controls_section(results, controls),
        caveats(results.notes, cautions, controlled=bool(controls)),
        provenance(results.provenance),
        again(results.provenance),
    ]
    sections = [*page.sections, *(section for section in ends if section is not None)]
    return replace(page, facts=[fact for fact in (*page.facts, day) if fact], sections=sections)
