"""The table of every record, and a sentence around a wrong word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .parts import Column, Mistake, Section, Table, plain_cell
from .schema import as_json, tidy
from .words import number, plural


@runtime_checkable
class WrongItem(Protocol):
    """A word or sentence that a probe takes for something else."""

    @property
    def words(self) -> Sequence[str]: ...
    @property
    def index(self) -> int | None: ...
    @property
    def gold(self) -> str | float: ...
    @property
    def predicted(self) -> str | float: ...
    @property
    def confidence(self) -> float | None: ...
    @property
    def sentence_id(self) -> str: ...


LISTED = 1000
"""Records that the table lists; a page of more would take seconds to open it."""
WINDOW = 16
"""Words on either side of a wrong one."""


def mistake(error: WrongItem) -> Mistake:
    """A sentence around its wrong word; without one (sentence level) its beginning."""
    words = [str(w) for w in error.words]
    index = error.index
    at = index if isinstance(index, int) and 0 <= index < len(words) else None
    start, stop = (0, 2 * WINDOW) if at is None else (max(0, at - WINDOW), at + WINDOW + 1)
    before = " ".join(words[start : stop if at is None else at])
    after = "" if at is None else " ".join(words[at + 1 : stop])
    return Mistake(
        before=("… " if start else "")
        + before
        + (" …" if at is None and stop < len(words) else ""),
        word="" if at is None else words[at],
        after=after + (" …" if at is not None and stop < len(words) else ""),
        gold=shown(error.gold),
        predicted=shown(error.predicted),
        confidence=number(error.confidence),
        source=error.sentence_id or "",
        where="" if at is None else f"word {at + 1}",
    )


def shown(value: Any) -> str:
    """A label as it is, a number in short."""
    return plain_cell(value).text


def records_section(typed: Sequence[Any]) -> Section:
    """Every record with every field, as it stands in results.json."""
    records = [tidy(as_json(record)) for record in typed[:LISTED]]
    fields = list(dict.fromkeys(k for r in records for k in r))
    texts = {k for k in fields if any(isinstance(r.get(k), (str, list)) for r in records)}
    rows = [[plain_cell(r.get(k)) for k in fields] for r in records]
    table = Table(
        "records-table",
        "The records of this run",
        [Column(k, k not in texts) for k in fields],
        rows,
        tall=True,
        copy=True,
        shows=False,
    )
    about = f"{plural(len(typed), 'record')} in results.json. Choose a heading to sort."
    if len(typed) > LISTED:
        about = (
            f"The first {LISTED:,} of {about} `Results.load(folder).frame` has "
            "all of them in Python."
        )
    return Section("records", "All records", [table], about)
