"""Which positions of a text an edit changes: the same ones that its replacement is made from.

Position 0 is where many models keep an attention sink: whatever token is there, its values are far
from those of all others. A mean that holds it is no mean of words; an ablation that overwrites it
takes the sink from the model, and not what the part knows. So ablations and erasures leave it out
of both by default. A classifier that attends both ways mostly reads its answer at the first token
([CLS]): there all positions are edited by default, or the last layers would seem to do nothing. A
patch puts in what the same position held in another run, and by default covers all.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from ..runs.options import option

if TYPE_CHECKING:
    from ..subject import Subject

ALL, NOT_FIRST, AUTO = "all", "not-first", "auto"
HELP = (
    "positions to edit and to average over; not-first leaves out the first token of each "
    "text, where a model may have an attention sink"
)
HELP_AUTO = f"{HELP}; auto: all for classifiers that attend both ways, else not-first"
Options = TypeVar("Options")


@runtime_checkable
class HasPositions(Protocol):
    """Options with ``--positions``."""

    @property
    def positions(self) -> str: ...


def positions_option(default: str) -> Any:
    """The option ``--positions``."""
    if default == AUTO:
        return option(HELP_AUTO, AUTO, choices=(AUTO, ALL, NOT_FIRST))
    return option(HELP, default, choices=(ALL, NOT_FIRST))


def with_positions(options: Options, subject: Subject) -> Options:
    """The options with ``auto`` decided for this model."""
    if getattr(options, "positions", None) != AUTO:
        return options
    reads_first = bool(subject.classes) and not subject.causal
    return dataclasses.replace(options, positions=ALL if reads_first else NOT_FIRST)  # pyright: ignore[reportArgumentType]


def first_position(options: HasPositions) -> int:
    """The first position that is edited."""
    return 1 if options.positions == NOT_FIRST else 0


def positions_text(positions: str) -> str:
    """A sentence for the page."""
    if positions == NOT_FIRST:
        return (
            "The first token of each text, where a model may keep an attention sink, "
            "is left as it is and out of all means."
        )
    return "All positions are edited, the first token of each text included."
