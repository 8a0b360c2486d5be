"""What a run reports while it goes on: the plan, progress, details; all of it to standard error.

Colours are left out where standard error is no terminal, or NO_COLOR is set.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)


@dataclass
class Level:
    """How much is printed during a run: 0 nothing, 1 the plan and progress, 2 also details."""

    level: int = 1


talk = Level()


def progress() -> Progress:
    """A progress display; silent where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal or talk.level == 0,
    )


def say(text: str) -> None:
    """One line to standard error, unless the run is quiet."""
    if talk.level > 0:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def detail(text: str) -> None:
    """One line to standard error, if the run is verbose."""
    if talk.level > 1:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
