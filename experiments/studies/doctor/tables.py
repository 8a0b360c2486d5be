"""The terminal's tables of ``layerscope doctor``: the map of checks by kinds of sites, and what is not supported."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ....hooks.order import ORDER
from ....hooks.verify import kind_of, worst
from .records import CheckRecord, Results


def map_of(
    records: Sequence[CheckRecord],
) -> tuple[list[str], dict[str, dict[str, list[CheckRecord]]]]:
    """Kinds of sites in the order of a forward (``""``, the whole model, last), and check -> kind -> its records."""
    grid: dict[str, dict[str, list[CheckRecord]]] = {}
    for record in records:
        grid.setdefault(record.check, {}).setdefault(kind_of(record.site), []).append(record)
    there = list(dict.fromkeys(kind for row in grid.values() for kind in row))
    in_blocks = [kind for kind in ORDER if kind in there]
    outside = [kind for kind in there if kind and kind not in ORDER]
    embeddings = [kind for kind in outside if "embed" in kind]
    behind = [kind for kind in outside if kind not in embeddings]
    whole = [""] if "" in there else []
    return [*embeddings, *in_blocks, *behind, *whole], grid


def tables(results: Results) -> list[Table]:
    """The map: checks by kinds of sites; then what is not OK, with its reasons."""
    records = results.records
    kinds, grid = map_of(records)
    table = Table(
        title="the doctor's map: worst of all layers",
        title_justify="left",
        title_style="bold",
        padding=(0, 0, 0, 1),
    )
    table.add_column("check")
    for kind in kinds:
        table.add_column(_short(kind), justify="center")
    marks = {"OK": "ok", "UNSUPPORTED": "-", "WRONG": "WRONG"}
    for check, row in grid.items():
        table.add_row(check, *(marks[worst(row[kind])] if kind in row else "" for kind in kinds))
    reasons = Table(title="not supported", title_justify="left", title_style="bold")
    for heading in ("check", "site", "findings", "why"):
        reasons.add_column(heading)
    rows: dict[tuple[str, str, str], int] = {}
    for check, row in grid.items():
        for kind, found in row.items():
            for r in (r for r in found if r.status == "UNSUPPORTED"):
                rows[check, kind, r.reason] = rows.get((check, kind, r.reason), 0) + 1
    for (check, kind, reason), count in rows.items():
        reasons.add_row(check, kind or "model", str(count), reason)
    return [table, reasons] if rows else [table]


def _short(kind: str) -> str:
    """``blocks.attn.hook_z`` in a narrow column."""
    name = (
        kind.removeprefix("attn.")
        .removeprefix("hook_")
        .replace("mlp.hook_", "mlp.")
        .replace(".hook_normalized", "")
    )
    return (
        name.replace("resid_", "r.").replace("attn_scores", "scores").replace("_embed", ".emb")
        or "model"
    )
