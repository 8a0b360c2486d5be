"""The contract between a study and its views: what a command writes, and that the page or the tables show it.

The fixtures are tiny real runs (`tests/recorded/make.py` records them). A field that a study renames is a change of
shape here; recorded again, it is a field that no view reads, and must stand in `UNREAD` or be shown.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded import make
from recorded.unread import EMPTY, UNREAD

from experiments import terminal
from experiments.pages import page_of, render_report
from experiments.studies import STUDIES

Results = dict[str, Any]
Path_ = tuple[str, ...]

KEYED_BY_DATA = {"agreement": 2, "certificates": 1, "conservation": 1}
"""Parts whose keys are names of methods, directions or sites, and how many levels of them."""
GENERIC = ("provenance", "config")
"""Shown whole, whatever its keys are."""


@pytest.fixture(scope="module", autouse=True)
def place() -> Iterator[Path]:
    with make.workplace() as folder:
        yield folder


# -- what is written


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in make.SLOW else ()) for name in make.COMMANDS]
)
def test_a_command_still_writes_what_is_recorded(name: str) -> None:
    assert make.changes(name, make.run(name)) == [], "python tests/recorded/make.py records it again"


def test_every_kind_of_run_is_recorded() -> None:
    assert {results["kind"] for results in RECORDED.values()} == set(STUDIES)
    assert {folder.name for folder in make.HERE.iterdir() if folder.is_dir()} - {"__pycache__"} == set(make.COMMANDS)


def test_a_renamed_field_another_type_unit_or_number_is_a_change() -> None:
    before = {"records": [{"unit": "bits", "score": 0.5}, {"unit": "bits", "score": None}]}
    for place, key, value, said in (
        (0, "unit", "nats", "records[].unit: str bits or str nats, recorded as str bits"),
        (0, "other", 1, "records[].other: new, int"),
        (1, "score", 0.25, "records[].score: float, recorded as NoneType or float"),
    ):
        now = copy.deepcopy(before)
        now["records"][place][key] = value
        assert make.changes_of_shape(before, now) == [said]
    del now["records"][0]["score"], now["records"][1]["score"]
    assert make.changes_of_shape(before, now) == ["records[].score: not written any more"]
    now = copy.deepcopy(before)
    now["records"][0]["score"] *= 1 + 1e-7
    assert list(make.changes_of_values(before, now)) == []
    now["records"][0]["score"] *= 1 + 1e-5
    assert [line.partition(":")[0] for line in make.changes_of_values(before, now)] == ["records[0].score"]


# -- what is shown

RECORDED = {name: make.recorded(name) for name in make.COMMANDS}


def views(results: Results) -> tuple[str, str]:
    """The page and what the terminal shows."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        terminal.show(results, Path("run"))
    return render_report(results), shown.getvalue()


def folded(path: Path_) -> Path_:
    """The path with a star for each key that is data."""
    for place, key in enumerate(path):
        levels = KEYED_BY_DATA.get(key, 0)
        path = tuple("*" if place < at <= place + levels else one for at, one in enumerate(path))
    return path


def fields(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """The folded path of every key, and what stands there; lists have no place in a path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield folded((*path, key)), one
            if (*path, key) != GENERIC:
                yield from fields(one, (*path, key))
    elif isinstance(value, list):
        for one in value:
            yield from fields(one, path)


def renamed(value: Any, names: set[Path_], path: Path_ = ()) -> Any:
    """A copy in which the keys at these folded paths are called otherwise."""
    if isinstance(value, dict):
        return {
            f"{key}_renamed" if folded((*path, key)) in names else key: renamed(one, names, (*path, key))
            for key, one in value.items()
        }
    return [renamed(one, names, path) for one in value] if isinstance(value, list) else value


def is_noticed(results: Results, name: Path_) -> bool:
    """Whether the views of a copy with this field renamed fail, or are others."""
    other = renamed(results, {name})
    try:
        return page_of(other) != page_of(results) or views(other) != views(results)
    except Exception:
        return True


def of_kind(kind: str) -> dict[str, Results]:
    """The recorded runs of a kind, the small ones first."""
    found = {name: results for name, results in RECORDED.items() if results["kind"] == kind}
    return dict(sorted(found.items(), key=lambda item: len(str(item[1]))))


def places(kind: str) -> dict[Path_, list[tuple[str, Any]]]:
    """Every field of a kind -> the runs that hold it, with its values; provenance is that of the kind capture."""
    found: dict[Path_, list[tuple[str, Any]]] = {}
    for name, results in of_kind(kind).items():
        for path, value in fields(results):
            found.setdefault(path, []).append((name, value))
    common = {path for path, _ in fields(RECORDED["capture"])} if kind != "capture" else set()
    return {path: held for path, held in found.items() if path[0] != "provenance" or path not in common}


def named(texts: str) -> set[Path_]:
    """Paths from words."""
    return {tuple(text.split(".")) for text in texts.split()}


@pytest.mark.parametrize("name", make.COMMANDS)
def test_both_views_are_made_of_a_recorded_run(name: str) -> None:
    page, shown = views(RECORDED[name])
    assert page == views(RECORDED[name])[0]
    assert page_of(RECORDED[name]) == page_of(copy.deepcopy(RECORDED[name]))
    for finding in RECORDED[name]["findings"]:
        assert finding["text"] in shown.replace("\n", " ") or finding["text"].split()[0] in shown


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_a_written_field_is_shown_or_stands_in_the_list(kind: str) -> None:
    held, unread, empty = places(kind), named(UNREAD.get(kind, "")), named(EMPTY.get(kind, ""))
    assert unread | empty <= set(held), "the list holds fields that are not written"
    unseen = set()
    for path in set(held) - unread - empty:
        runs = dict.fromkeys(name for name, value in held[path] if value not in (None, [], {})) or {
            name: None for name, _ in held[path]
        }
        if not any(is_noticed(RECORDED[name], path) for name in runs):
            unseen.add(".".join(path))
    assert sorted(unseen) == [], "no view changes where these are renamed: show them, or add them to the list"


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_the_fields_of_the_list_change_no_view(kind: str) -> None:
    held, unread, empty = places(kind), named(UNREAD.get(kind, "")), named(EMPTY.get(kind, ""))
    full = {".".join(path) for path in empty if any(value not in (None, [], {}) for _, value in held[path])}
    assert full == set(), "listed as empty in every run, and not"
    for name, results in of_kind(kind).items():
        assert views(renamed(results, unread)) == views(results), f"{name}: a field of the list is read"


def test_a_renamed_series_of_controls_is_noticed() -> None:
    """The page drops the controls' band and says nothing: only this comparison sees it."""
    assert is_noticed(RECORDED["probe"], ("records", "control_scores"))
