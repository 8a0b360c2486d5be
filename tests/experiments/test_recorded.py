"""The contract between a study and its views: what a command writes, and that the page or the
tables read it.

The fixtures are tiny real runs (`tests/recorded/make.py` records them). A field that a study
renames is a change of shape here; a field of its records that no view reads must stand in `UNREAD`
or be shown.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded import make
from recorded.altered import with_relation
from recorded.unread import UNREAD

from experiments import cli, terminal
from experiments.comparison import compared_page
from experiments.pages import page_of, render_report
from experiments.report.render import rendered
from experiments.report.schema import Interval, ResultsError, tidy
from experiments.results import Results
from experiments.runs.folder import RunFolder
from experiments.studies import STUDIES

Raw = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def place() -> Iterator[Path]:
    with make.workplace() as folder:
        yield folder


# -- what is written


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in make.SLOW else ())
        for name in make.COMMANDS
    ],
)
def test_a_command_still_writes_what_is_recorded(name: str) -> None:
    assert make.changes(name, make.run(name)) == [], (
        "python tests/recorded/make.py records it again"
    )


def test_every_kind_of_run_is_recorded() -> None:
    assert {results["kind"] for results in RECORDED.values()} == set(STUDIES)
    assert {folder.name for folder in make.HERE.iterdir() if folder.is_dir()} - {
        "__pycache__"
    } == set(make.COMMANDS)


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
    assert [line.partition(":")[0] for line in make.changes_of_values(before, now)] == [
        "records[0].score"
    ]


# -- what is shown

RECORDED = {name: make.recorded(name) for name in make.COMMANDS}


def views(results: Raw) -> tuple[str, str]:
    """The page and what the terminal shows."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        terminal.show(results, Path("run"))
    return render_report(results), shown.getvalue()


def of_kind(kind: str) -> list[Raw]:
    """The recorded runs of a kind, and one of what none of them holds."""
    more = [with_relation(RECORDED["attend"])] if kind == "attend" else []
    return [*(results for results in RECORDED.values() if results["kind"] == kind), *more]


def records_in(hint: Any) -> set[type]:
    """The dataclasses that a type is made of, at any depth."""
    inner = {one for part in typing.get_args(hint) for one in records_in(part)}
    if not dataclasses.is_dataclass(hint):
        return inner
    hints = typing.get_type_hints(hint)
    return {
        hint,
        *(one for field in dataclasses.fields(hint) for one in records_in(hints[field.name])),
    }


@contextlib.contextmanager
def watched(classes: set[type]) -> Iterator[set[tuple[type, str]]]:
    """The class and name of every field of their objects that is read meanwhile."""
    seen: set[tuple[type, str]] = set()

    def read(record: Any, name: str) -> Any:
        names = dataclasses.fields(record) if name == "__dict__" else ()
        seen.update((type(record), one) for one in (name, *(field.name for field in names)))
        return object.__getattribute__(record, name)

    try:
        for one in classes:
            one.__getattribute__ = read
        yield seen
    finally:
        for one in classes:
            if "__getattribute__" in vars(one):
                del one.__getattribute__


def unread(kind: str) -> set[str]:
    """The written fields that neither page nor tables read in any recorded run:
    ``Record.field``.
    """
    classes = records_in(STUDIES[kind].part("records").Results)
    with watched(classes) as seen:
        for results in of_kind(kind):
            views(results)
    known = {(one, field.name) for one in classes for field in dataclasses.fields(one)}
    return {f"{one.__name__}.{name}" for one, name in known - seen}


@pytest.mark.parametrize("name", make.COMMANDS)
def test_both_views_are_made_of_a_recorded_run(name: str) -> None:
    page, shown = views(RECORDED[name])
    assert page == views(RECORDED[name])[0]
    assert page_of(RECORDED[name]) == page_of(copy.deepcopy(RECORDED[name]))
    for finding in RECORDED[name]["findings"]:
        assert finding["text"] in shown.replace("\n", " ") or finding["text"].split()[0] in shown


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_a_field_of_the_records_is_read_or_stands_in_the_list(kind: str) -> None:
    assert sorted(unread(kind)) == sorted(UNREAD.get(kind, "").split()), (
        "show it, or add it to the list"
    )


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_a_run_without_records_says_that_nothing_was_measured(kind: str) -> None:
    run = copy.deepcopy(of_kind(kind)[0])
    run = {name: [] if isinstance(value, list) else value for name, value in run.items()}
    run["notes"] = [{"kind": "skipped", "text": "no text had an answer"}]
    page, _ = views(run)
    assert "Nothing was measured" in page
    assert "no text had an answer" in page
    rendered(compared_page([run, of_kind(kind)[0]]))


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_an_interval_is_the_field_beside_its_number(kind: str) -> None:
    """``x_interval`` of ``x``, so that a table has the columns x, x_low and x_high."""
    for one in records_in(STUDIES[kind].part("records").Results) - {Interval}:
        hints = typing.get_type_hints(one)
        holds = {name for name, hint in hints.items() if Interval in (hint, *typing.get_args(hint))}
        assert holds == {name for name in hints if name.split("_")[-1] == "interval"}
        of_nothing = {"interval", "chance_interval"}  # edges of a bin or of a value; a null's range
        assert {name.removesuffix("_interval") for name in holds - of_nothing} <= set(hints)


def test_a_row_of_a_table_has_the_ends_of_an_interval_as_columns() -> None:
    record = {"score": 0.5, "score_interval": {"low": 0.25, "high": 0.75}}
    nested = {"gain_interval": None, "on": {"map": record}}
    assert tidy({**record, **nested}) == {
        "score": 0.5,
        "score_low": 0.25,
        "score_high": 0.75,
        "gain_low": None,
        "gain_high": None,
        "on.map.score": 0.5,
        "on.map.score_low": 0.25,
        "on.map.score_high": 0.75,
    }


@pytest.mark.parametrize("version", [1, None, "2"])
def test_results_of_another_format_are_refused_in_a_line(version: Any, tmp_path: Path) -> None:
    old = {**RECORDED["ablate-layers"], "schema": version}
    folder = RunFolder(tmp_path / "run", {})
    (folder.path / "results.json").write_text(json.dumps(old), encoding="utf-8")
    for read in (Results.load, lambda path: RunFolder(path, {}).results):
        with pytest.raises(ResultsError, match="run the command again") as error:
            read(folder.path)
        assert len(str(error.value).splitlines()) == 1
    assert cli.main(["report", str(folder.path)]) == 2


def test_former_names_of_fields_are_read() -> None:
    """Runs of before say `converged` of losses that are not convex."""
    raw = copy.deepcopy(RECORDED["probe"])
    for record in (*raw["mixes"], *raw["trees"]):
        record["converged"] = record.pop("stationary")
    assert len(raw["trees"]) > 1
    read = STUDIES["probe"].read
    assert read(raw) == read(RECORDED["probe"])


def test_a_field_that_no_view_reads_is_noticed() -> None:
    with watched(records_in(Inner | None)) as seen:
        assert Inner(shown=1, hidden=2).shown == 1
    assert seen == {(Inner, "shown")}
    assert records_in(dict[str, list[Inner]]) == {Inner}


@dataclasses.dataclass(frozen=True)
class Inner:
    """A record."""

    shown: int
    hidden: int


def test_provenance_is_shown_whole_but_for_the_list() -> None:
    """It is a mapping, not records: each key is renamed in turn."""
    run = RECORDED["capture"]
    page = page_of(run)
    keys = {(key,) for key in run["provenance"]} | {
        (part, key)
        for part in ("model", "machine", "versions", "resources", "doctor")
        for key in run["provenance"][part]
    }
    silent = set()
    for path in sorted(keys):
        other = copy.deepcopy(run)
        within = other["provenance"] if len(path) == 1 else other["provenance"][path[0]]
        within[f"{path[-1]}_renamed"] = within.pop(path[-1])
        if page_of(other) == page:
            silent.add(".".join(path))
    assert sorted(silent) == sorted(UNREAD["provenance"].split())


@pytest.mark.parametrize("kind", sorted(STUDIES))
def test_two_runs_of_every_kind_are_compared_by_depth(kind: str) -> None:
    run = of_kind(kind)[0]
    rendered(compared_page([run, copy.deepcopy(run)]))
    for curve in STUDIES[kind].curves(STUDIES[kind].read(run)):
        depth = [
            0.0 if "resid_pre" in site else int(site.split(".")[1]) + 1.0 for site in curve.sites
        ]
        assert list(curve.layers) == depth, "blocks in front of the site"
        assert len(curve.values) == len(depth)
