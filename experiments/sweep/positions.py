"""Which positions of a text an edit changes: the same ones that its replacement is made from.

Position 0 is where many models keep an attention sink: whatever token is there, its values are far from those of all
others. A mean that holds it is no mean of words; an ablation that overwrites it takes the sink from the model, and not what
the part knows. So ablations and erasures leave it out of both by default. A patch puts in what the same position held in
another run, and by default covers all.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..runs.options import option

ALL, NOT_FIRST = "all", "not-first"
HELP = (
    "positions that are edited and that means are taken over; not-first leaves out the first token of each text, where a model "
    "may keep an attention sink"
)


@runtime_checkable
class HasPositions(Protocol):
    """Options with ``--positions``."""

    @property
    def positions(self) -> str: ...


def positions_option(default: str) -> Any:
    """The option ``--positions``."""
    return option(HELP, default, choices=(ALL, NOT_FIRST))


def first_position(options: HasPositions) -> int:
    """The first position that is edited."""
    return 1 if options.positions == NOT_FIRST else 0


def positions_text(positions: str) -> str:
    """A sentence for the page."""
    if positions == NOT_FIRST:
        return "The first token of each text, where a model may keep an attention sink, is left as it is and out of all means."
    return "All positions are edited, the first token of each text included."
