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
    out = []
    for name in dict.fromkeys(r["property"] for r in records):
        mine = [r for r in records if r["property"] == name]
        out.append(_probe_table(name, mine))
        if any(r.get("ece") is not None for r in mine):
            out.append(_probe_calibration_table(name, mine))
    return out


def _probe_calibration_table(name: str, records: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{name}: calibration of the probes", title_justify="left", title_style="bold")
    headings = (
        "layer",
        "ECE",
        "95%",
        "by chance",
        "p",
        "classwise",
        "Brier",
        "NLL",
        "AUROC",
        "temperature",
        "ECE then",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for r in records:
        if r.get("ece") is not None:
            table.add_row(
                "emb" if r["layer"] == 0 else str(r["layer"] - 1),
                _number(r["ece"]),
                f"{r['ece_low']:.3f}-{r['ece_high']:.3f}",
                _number(r["ece_chance"]),
                f"{r['ece_p']:.4f}",
                *(_number(r.get(k)) for k in ("classwise", "brier", "nll", "auroc", "temperature", "ece_scaled")),
            )
    return table


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


def _neurons_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table a site and change: what is read of each set, and what its change does."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        if r["component"] == "sets":
            found.setdefault((r["site"], r["value"]), []).append(r)
    tables = []
    for (site, value), mine in found.items():
        title = f"{site}: neurons read, and changed ({value}) for {mine[0]['metric']} ({mine[0]['unit']}; n = {mine[0]['n']})"
        table = Table(title=title, title_justify="left", title_style="bold")
        for heading in ("ranking", "k", "accuracy", "effect", "95%", "random", "null p", "q"):
            table.add_column(heading, justify="left" if heading == "ranking" else "right")
        for r in mine:
            table.add_row(
                r["ranking"],
                str(r["k"]),
                _number(r["accuracy"]),
                f"{r['effect']:+.3f}",
                f"{r['low']:.3f} to {r['high']:.3f}",
                f"{r['null_low']:+.3f} to {r['null_high']:+.3f}",
                _number(r["null_p"]),
                f"{r['q']:.4f}",
            )
        tables.append(table)
    return tables


def _attend_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The heads that have a name; the report has all."""
    named = [r for r in records if r["role"]]
    title = f"{len(named)} of {len(records)} heads have a name"
    table = Table(title=title, title_justify="left", title_style="bold")
    columns = ("entropy", "confidence", "first", "punctuation", "previous", "induction")
    effects = ("effect",) if any("effect" in r for r in records) else ()
    for heading in ("head", "does", *columns, *effects):
        table.add_column(heading, justify="left" if heading in ("head", "does") else "right")
    for r in named[:40]:
        numbers = [_number(r.get(name)) for name in (*columns, *effects)]
        table.add_row(component_name(r), r["role"], *numbers)
    if len(named) > 40:
        table.caption = f"the first 40 of {len(named)}; the report has all"
    return [table]


def _capture_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    first = records[0]
    title = f"{first['rows']:,} rows at {len(records)} sites, {first['dtype']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("site", "width", "MB", "largest |value|"):
        table.add_column(heading, justify="left" if heading == "site" else "right")
    for r in records:
        table.add_row(r["site"], str(r["width"]), f"{r['bytes'] / 1e6:.1f}", f"{r['largest']:.4g}")
    return [table]


def _calibrate_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    first = records[0]
    title = f"confidence against correctness (n = {first['n']}, accuracy {_number(first['accuracy'])})"
    table = Table(title=title, title_justify="left", title_style="bold")
    headings = (
        "confidences",
        "answered",
        "mean",
        "ECE",
        "95%",
        "by chance",
        "p",
        "equal mass",
        "Brier",
        "NLL",
        "AUROC",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "confidences" else "right")
    for r in records:
        if not r["measured"]:
            table.add_row(r["method"], str(r["n_answered"]), *["n.s."] * 9)
            continue
        table.add_row(
            r["method"],
            str(r["n_answered"]),
            *(_number(r[k]) for k in ("confidence", "ece")),
            f"{r['ece_low']:.3f} to {r['ece_high']:.3f}",
            _number(r["ece_chance"]),
            f"{r['ece_p']:.4f}",
            *(_number(r.get(k)) for k in ("ece_mass", "brier_top", "nll", "auroc")),
        )
    return [table]


def _ask_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    first = records[0]
    title = f"words taken out: what it costs the answer ({first['unit']}; n = {first['n']})"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("words", "effect", "95%", "over random", "95%", "p"):
        table.add_column(heading, justify="left" if heading == "words" else "right")
    for r in records:
        over = r["over_random"]
        table.add_row(
            r["words"],
            f"{r['effect']:+.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            "" if over is None else f"{over:+.3f}",
            "" if over is None else f"{r['over_random_low']:.3f} to {r['over_random_high']:.3f}",
            "" if r["p"] is None else f"{r['p']:.4f}",
        )
    return [table]


def _geometry_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    names = [key for key in records[0] if key.startswith("trust_") or key.endswith(":space")]
    table = Table(title=f"{records[0]['n']} words", title_justify="left", title_style="bold")
    headings = ("layer", "dimension", "PCs for 90%", "PC 1-2", "anisotropy", "centred", "norm 0", "norm", *names)
    for heading in headings:
        table.add_column(heading.replace("trust_", "trust ").replace(":space", ""), justify="right")
    for r in records:
        table.add_row(
            "emb" if r["layer"] == 0 else str(r["layer"] - 1),
            f"{r['intrinsic_dimension']:.1f}",
            str(r["components_90"]),
            *(_number(r[key]) for key in ("explained_2", "anisotropy", "anisotropy_centred")),
            f"{r['norm_first']:.4g}",
            f"{r['norm_others']:.4g}",
            *(_number(r.get(key)) for key in names),
        )
    return [table]


def _doctor_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    from experiments.doctor import tables

    return tables(records)


def _attribution_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The first texts with their words coloured, and the methods side by side."""
    from experiments.attribution.shown import attribution_tables

    return attribution_tables(records)


TABLES = {
    "geometry": _geometry_tables,
    "attend": _attend_tables,
    "doctor": _doctor_tables,
    "probe": _probe_tables,
    "ablate": _effect_tables,
    "patch": _effect_tables,
    "attribute": _attribution_tables,
    "prune": _prune_tables,
    "usage": _usage_tables,
    "neurons": _neurons_tables,
    "capture": _capture_tables,
    "calibrate": _calibrate_tables,
    "ask": _ask_tables,
}
