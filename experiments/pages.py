"""The page of a finished run: one self-contained HTML file, made from its ``results.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope.errors import InputError, LayerscopeError

from .report.parts import Page
from .report.render import forced_past, rendered, write_page
from .report.schema import ResultsError
from .runs.folder import is_as_written, write_text
from .studies import STUDIES
from .tidy import as_csv, tidy_rows


@contextmanager
def blaming_edits(*runs: Mapping[str, Any]) -> Iterator[None]:
    """Make one line of whatever goes wrong with results that no run wrote so; with a run's own it
    is a bug.

    Each value is checked when it is read, but not whether it agrees with the others: a curve that
    lacks a point, a name that no record has.

    Raises:
        ResultsError: the error, and that the file was edited.
    """
    try:
        yield
    except (LayerscopeError, OSError):  # a full disk is not the results' fault
        raise
    except Exception as error:
        if all(map(is_as_written, runs)):
            raise
        raise ResultsError(
            f"the results were edited since their run wrote them, and do not fit together any more "
            f"({type(error).__name__}: {error}): run the command again in another folder"
        ) from error


def page_of(results: Mapping[str, Any]) -> Page:
    """The page of a run, as parts.

    Raises:
        InputError: no study has this name; the message gives those there are.
    """
    kind = str(results.get("kind"))
    if kind not in STUDIES:
        raise InputError(f"expected results of kind {' or '.join(STUDIES)}, got {kind!r}")
    with blaming_edits(results):
        return STUDIES[kind].page(results)


def render_report(results: Mapping[str, Any]) -> str:
    """The report as one HTML text."""
    with blaming_edits(results):
        return rendered(page_of(results), forced_past(results))


def write_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report of a run; a reader sees the old file or the new, never half."""
    with blaming_edits(results):
        write_page(page_of(results), Path(path), forced_past(results))


def complete(results: Mapping[str, Any], folder: Path) -> Exception | None:
    """Make the page and ``records.csv`` of a run whose results are saved, unless they are there;
    returns what went wrong, if anything did."""
    path, table = folder / "report.html", folder / "records.csv"
    if path.exists() and table.exists():
        return None
    try:
        with blaming_edits(results):
            write_text(table, as_csv(tidy_rows(results)))
        write_report(results, path)
    except Exception as error:
        return error
    return None
