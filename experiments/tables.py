"""The tables of each kind of run, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from .records import component_name, families, strongest

Records = Sequence[Mapping[str, Any]]


def titled(title: str, headings: str | Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> Table:
    """A table; its headings, perhaps between bars, are to the right, as numbers are, but for those named in ``left``."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings.split("|") if isinstance(headings, str) else headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "n.s." if value is None else f"{value:.3f}"


def _span(record: Mapping[str, Any], name: str = "") -> str:
    """An interval."""
    low, high = record[f"{name}low"], record[f"{name}high"]
    return f"{low:.3f} to {high:.3f}"


def _layer(record: Mapping[str, Any]) -> str:
    return "emb" if record["layer"] == 0 else str(record["layer"] - 1)


def _p(record: Mapping[str, Any]) -> str:
    return "estimate" if record["p"] is None else f"{record['p']:.4f}"


def _q(record: Mapping[str, Any]) -> str:
    return "" if record["q"] is None else f"{record['q']:.4f}"


def _probe(records: Records) -> list[Table]:
    out = []
    for name in dict.fromkeys(r["property"] for r in records):
        mine = [r for r in records if r["property"] == name]
        out.append(_probe_scores(name, mine))
        if any(r.get("ece") is not None for r in mine):
            out.append(_probe_calibration(name, mine))
    return out


def _probe_scores(name: str, records: Records) -> Table:
    first = records[0]
    title = (
        f"{name} ({first['metric']}; n = {first['n_test']}; majority {_number(first['majority'])}, "
        f"type majority {_number(first['type_majority'])})"
    )
    fields = ("control", "selectivity", "random_model", "score_seen", "score_unseen", "macro_f1")
    rows = (
        (
            _layer(r),
            _number(r["score"]),
            f"{_number(r['low'])}-{_number(r['high'])}",
            *(_number(r[k]) for k in fields),
            f"{r['l2']:g}",
            (("best " if r["best"] else "") + ("" if r["converged"] else "UNCONVERGED")).strip(),
        )
        for r in records
    )
    headings = "layer|score|95%|control|selectivity|random model|seen|unseen|macro-F1|l2|"
    return titled(title, headings, rows, ("layer", ""))


def _probe_calibration(name: str, records: Records) -> Table:
    rows = (
        (
            _layer(r),
            _number(r["ece"]),
            f"{r['ece_low']:.3f}-{r['ece_high']:.3f}",
            _number(r["ece_chance"]),
            f"{r['ece_p']:.4f}",
            *(_number(r.get(k)) for k in ("classwise", "brier", "nll", "auroc", "temperature", "ece_scaled")),
        )
        for r in records
        if r.get("ece") is not None
    )
    headings = "layer|ECE|95%|by chance|p|classwise|Brier|NLL|AUROC|temperature|ECE then"
    return titled(f"{name}: calibration of the probes", headings, rows, ("layer",))


def _effects(records: Records) -> list[Table]:
    """The strongest effects of each kind; the report has all."""
    return [_effect_table(mine) for mine in families(records).values()]


def _effect_table(records: Records) -> Table:
    first = records[0]
    title = (
        f"{first['value']}, {len(records)} {first['component']}: the strongest ({first['metric']}, {first['unit']}; "
        f"n = {first['n']})"
    )
    rows = (
        (component_name(r), r["site"], f"{r['effect']:+.3f}", _span(r), _number(r["normalised"]), _p(r), _q(r))
        for r in strongest(records, 15)
    )
    return titled(title, "part|site|effect|95%|normalised|p|q", rows, ("part", "site"))


def _prune(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            *(str(r[k]) for k in ("step", "heads", "kv_heads")),
            f"{r['parameters']:,}",
            _number(r["value"]),
            _span(r),
            "" if r["random"] is None else _number(r["random"]),
            f"{r['speed']:.2f}x",
            r["model"] or "",
        )
        for r in records
    )
    title = f"heads a layer and {first['metric']}, {first['unit']} (n = {first['n']})"
    headings = f"step|heads|kv heads|parameters|{first['metric']}|95%|random heads|speed|model"
    return [titled(title, headings, rows, ("model",))]


def _usage(records: Records) -> list[Table]:
    mine = [r for r in records if r["value"] == "erase"]
    first = mine[0]
    rows = (
        (
            str(r["layer"]),
            *(_number(r[k]) for k in ("decodable", "erased_linear", "erased_mlp")),
            f"{r['effect']:+.3f}",
            _span(r),
            _number(r.get("null")),
            _p(r),
            _q(r),
        )
        for r in mine
    )
    title = f"{first['property']}: decodable, and used for {first['metric']} ({first['unit']}; n = {first['n']})"
    return [titled(title, "layer|decodable|after|by a network|effect|95%|random|p|q", rows)]


def _neurons(records: Records) -> list[Table]:
    """A table a site and change: what is read of each set, and what its change does."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        if r["component"] == "sets":
            found.setdefault((r["site"], r["value"]), []).append(r)
    tables = []
    for (site, value), mine in found.items():
        first = mine[0]
        rows = (
            (
                r["ranking"],
                str(r["k"]),
                _number(r["accuracy"]),
                f"{r['effect']:+.3f}",
                _span(r),
                f"{r['null_low']:+.3f} to {r['null_high']:+.3f}",
                _number(r["null_p"]),
                f"{r['q']:.4f}",
            )
            for r in mine
        )
        title = f"{site}: neurons read, and changed ({value}) for {first['metric']} ({first['unit']}; n = {first['n']})"
        tables.append(titled(title, "ranking|k|accuracy|effect|95%|random|null p|q", rows, ("ranking",)))
    return tables


def _attend(records: Records) -> list[Table]:
    """The heads that have a name; the report has all."""
    named = [r for r in records if r["role"]]
    columns = ("entropy", "confidence", "first", "punctuation", "previous", "induction")
    columns += ("effect",) if any("effect" in r for r in records) else ()
    rows = ((component_name(r), r["role"], *(_number(r.get(name)) for name in columns)) for r in named[:40])
    title = f"{len(named)} of {len(records)} heads have a name"
    table = titled(title, ("head", "does", *columns), rows, ("head", "does"))
    if len(named) > 40:
        table.caption = f"the first 40 of {len(named)}; the report has all"
    return [table]


def _capture(records: Records) -> list[Table]:
    first = records[0]
    rows = ((r["site"], str(r["width"]), f"{r['bytes'] / 1e6:.1f}", f"{r['largest']:.4g}") for r in records)
    title = f"{first['rows']:,} rows at {len(records)} sites, {first['dtype']}"
    return [titled(title, "site|width|MB|largest value", rows, ("site",))]


def _calibrate(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            r["method"],
            str(r["n_answered"]),
            *(_number(r[k]) for k in ("confidence", "ece")),
            _span(r, "ece_"),
            _number(r["ece_chance"]),
            f"{r['ece_p']:.4f}",
            *(_number(r.get(k)) for k in ("ece_mass", "brier_top", "nll", "auroc")),
        )
        if r["measured"]
        else (r["method"], str(r["n_answered"]), *["n.s."] * 9)
        for r in records
    )
    title = f"confidence against correctness (n = {first['n']}, accuracy {_number(first['accuracy'])})"
    headings = "confidences|answered|mean|ECE|95%|by chance|p|equal mass|Brier|NLL|AUROC"
    return [titled(title, headings, rows, ("confidences",))]


def _ask(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            r["words"],
            f"{r['effect']:+.3f}",
            _span(r),
            "" if r["over_random"] is None else f"{r['over_random']:+.3f}",
            "" if r["over_random"] is None else _span(r, "over_random_"),
            "" if r["p"] is None else f"{r['p']:.4f}",
        )
        for r in records
    )
    title = f"words taken out: what it costs the answer ({first['unit']}; n = {first['n']})"
    return [titled(title, "words|effect|95%|over random|95%|p", rows, ("words",))]


def _geometry(records: Records) -> list[Table]:
    names = [key for key in records[0] if key.startswith("trust_") or key.endswith(":space")]
    shown = [name.replace("trust_", "trust ").replace(":space", "") for name in names]
    rows = (
        (
            _layer(r),
            f"{r['intrinsic_dimension']:.1f}",
            str(r["components_90"]),
            *(_number(r[key]) for key in ("explained_2", "anisotropy", "anisotropy_centred")),
            f"{r['norm_first']:.4g}",
            f"{r['norm_others']:.4g}",
            *(_number(r.get(key)) for key in names),
        )
        for r in records
    )
    headings = ("layer", "dimension", "PCs for 90%", "PC 1-2", "anisotropy", "centred", "norm 0", "norm", *shown)
    return [titled(f"{records[0]['n']} words", headings, rows)]


def _doctor(records: Records) -> list[Table]:
    from .examination import tables

    return tables(records)


def _attribute(records: Records) -> list[Table]:
    """The first texts with their words coloured, and the methods side by side."""
    from .attribution.shown import attribution_tables

    return attribution_tables(records)


TABLES = {
    "geometry": _geometry,
    "attend": _attend,
    "doctor": _doctor,
    "probe": _probe,
    "ablate": _effects,
    "patch": _effects,
    "attribute": _attribute,
    "prune": _prune,
    "usage": _usage,
    "neurons": _neurons,
    "capture": _capture,
    "calibrate": _calibrate,
    "ask": _ask,
}
"""Kind of run -> its tables, from its records."""
