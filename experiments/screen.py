"""What a person sees in the terminal: the plan, progress bars, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from experiments.records import component_name, families, strongest

console = Console(stderr=True)


def progress() -> Progress:
    """A progress display; silent where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say(text: str) -> None:
    """One line to standard error."""
    console.print(text, highlight=False, markup=False)


def show(results: dict[str, Any], out: Path) -> None:
    """The table of a run on standard output, then its findings and where the report is."""
    printer = Console(width=None if console.is_terminal else 140)
    for table in TABLES[results["kind"]](results["records"]):
        printer.print(table)
    for finding in results["findings"]:
        printer.print(finding["text"], highlight=False, markup=False)
    for note in results["notes"]:
        if note["kind"] != "info":
            printer.print(f"{note['kind']}: {note['text']}", highlight=False, markup=False)
    printer.print(f"report: {out / 'report.html'}", highlight=False, markup=False)


def _probe_tables(records: list[dict[str, Any]]) -> list[Table]:
    names = dict.fromkeys(r["property"] for r in records)
    return [_probe_table(name, [r for r in records if r["property"] == name]) for name in names]


def _effect_tables(records: list[dict[str, Any]]) -> list[Table]:
    """The strongest effects of each kind; the report has all."""
    return [_effect_table(mine) for mine in families(records).values()]


def _effect_table(records: Sequence[Mapping[str, Any]]) -> Table:
    first = records[0]
    title = (
        f"{first['value']}, {len(records)} {first['component']}: the strongest ({first['metric']}, {first['unit']}; "
        f"n = {first['n']})"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("part", "site", "effect", "95%", "normalised", "p", "q"):
        table.add_column(heading, justify="left" if heading in ("part", "site") else "right")
    for r in strongest(records, 15):
        span = f"{r['low']:.3f} to {r['high']:.3f}"
        table.add_row(
            component_name(r),
            r["site"],
            f"{r['effect']:+.3f}",
            span,
            _number(r["normalised"]),
            "estimate" if r["p"] is None else f"{r['p']:.4f}",
            "" if r["q"] is None else f"{r['q']:.4f}",
        )
    return table


def _probe_table(name: str, records: list[dict[str, Any]]) -> Table:
    first = records[0]
    title = (
        f"{name} ({first['metric']}; n = {first['n_test']}; majority {_number(first['majority'])}, "
        f"type majority {_number(first['type_majority'])})"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    headings = (
        "layer",
        "score",
        "95%",
        "control",
        "selectivity",
        "random model",
        "seen",
        "unseen",
        "macro-F1",
        "l2",
        "",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("layer", "") else "right")
    for r in records:
        mark = ("best " if r["best"] else "") + ("" if r["converged"] else "UNCONVERGED")
        table.add_row(
            "emb" if r["layer"] == 0 else str(r["layer"] - 1),
            _number(r["score"]),
            f"{_number(r['low'])}-{_number(r['high'])}",
            *(
                _number(r[k])
                for k in ("control", "selectivity", "random_model", "score_seen", "score_unseen", "macro_f1")
            ),
            f"{r['l2']:g}",
            mark.strip(),
        )
    return table


def _number(value: float | None) -> str:
    return "n.s." if value is None else f"{value:.3f}"


def _prune_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    first = records[0]
    title = f"heads a layer and {first['metric']}, {first['unit']} (n = {first['n']})"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in (
        "step",
        "heads",
        "kv heads",
        "parameters",
        first["metric"],
        "95%",
        "random heads",
        "speed",
        "model",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for r in records:
        table.add_row(
            str(r["step"]),
            str(r["heads"]),
            str(r["kv_heads"]),
            f"{r['parameters']:,}",
            _number(r["value"]),
            f"{r['low']:.3f} to {r['high']:.3f}",
            "" if r["random"] is None else _number(r["random"]),
            f"{r['speed']:.2f}x",
            r["model"] or "",
        )
    return [table]


def _usage_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    mine = [r for r in records if r["value"] == "erase"]
    first = mine[0]
    title = f"{first['property']}: decodable, and used for {first['metric']} ({first['unit']}; n = {first['n']})"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("layer", "decodable", "after", "by a network", "effect", "95%", "random", "p", "q"):
        table.add_column(heading, justify="right")
    for r in mine:
        table.add_row(
            str(r["layer"]),
            _number(r["decodable"]),
            _number(r["erased_linear"]),
            _number(r["erased_mlp"]),
            f"{r['effect']:+.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            _number(r.get("null")),
            "estimate" if r["p"] is None else f"{r['p']:.4f}",
            "" if r["q"] is None else f"{r['q']:.4f}",
        )
    return [table]


TABLES = {
    "probe": _probe_tables,
    "ablate": _effect_tables,
    "patch": _effect_tables,
    "prune": _prune_tables,
    "usage": _usage_tables,
}
