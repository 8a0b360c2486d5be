"""Where the numbers come from: model, data, versions, machine, time, memory, and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .parts import Cell, Column, Command, Fold, Notes, Pairs, Section, Table, Text
from .words import ABSENT, count, duration, finite, size

BADGES = {
    "wrong": ("WRONG", "warn"),
    "skipped": ("not supported", "warn"),
    "dropped": ("dropped", "warn"),
    "unconverged": ("unconverged", "warn"),
    "warning": ("warning", "warn"),
    "approximate": ("approximate", "warn"),
    "info": ("note", "quiet"),
}


def model_name(provenance: Mapping[str, Any]) -> str:
    """The model's name: a hub id with its owner, a folder's own name (the one above it if that is
    just "model").
    """
    name = str((provenance.get("model") or {}).get("name") or "a model")
    if not name.startswith(("/", ".", "~")) and name.count("/") < 2:
        return name
    path = Path(name)
    return (path.parent.name if path.name == "model" else path.name) or name


Row = tuple[str, str, str]
"""Of the caveats: badge, tone, text."""


def caveats(
    notes: Sequence[Any], cautions: Sequence[Row] = (), *, controlled: bool = False
) -> Section:
    """What was skipped, dropped, unconverged or approximated; stated outright where nothing was.

    Args:
        notes: those of the results (`report.schema.Note`).
        cautions: what the records show beside them.
        controlled: whether this kind of run has controls.
    """
    rows = list(cautions)
    for note in notes:
        badge, tone = BADGES.get(note.kind, (note.kind, "quiet"))
        rows.append((badge, tone, note.text))
    if not rows:
        checked = "Every control ran, every probe converged, nothing" if controlled else "Nothing"
        rows.append(("none", "good", f"{checked} was dropped or approximated."))
    rows.sort(key=lambda row: (row[0] != "WRONG", row[1] != "warn"))
    about = (
        "What was skipped, dropped, unconverged or approximated, "
        "and what that means for the numbers above."
    )
    return Section("caveats", "Caveats", [Notes(rows)], about)


def model_pairs(model: Mapping[str, Any]) -> Pairs:
    """The model's identity card."""
    bos = model.get("bos")
    reason = model.get("bos_reason")
    bos_text = (str(bos) if bos is not None else "none") + (f" ({reason})" if reason else "")
    rows = [
        ("name", _text(model.get("name")), True),
        ("architecture", _text(model.get("architecture")), False),
        (
            "size",
            f"{count(model.get('n_layers'))} layers, width {count(model.get('d_model'))}, "
            f"{count(model.get('n_parameters'))} parameters",
            False,
        ),
        ("dtype", _text(model.get("dtype")), False),
        ("beginning of text", bos_text, False),
        ("sha256", _text(model.get("sha256")), True),
    ]
    return Pairs("Model", rows)


def data_table(data: list[Mapping[str, Any]], prefix: str = "") -> Table:
    """The splits with their sizes and hashes."""
    columns = [
        Column("split", False),
        Column("sentences"),
        Column("words"),
        Column("words used"),
        Column("file", False),
        Column("sha256", False),
    ]
    rows = [
        [
            Cell(_text(d.get("split")), head=True),
            *(
                Cell(count(d.get(k)), finite(d.get(k)))
                for k in ("sentences", "words", "used_words")
            ),
            Cell(_text(d.get("path")), tone="code"),
            Cell(_text(d.get("sha256")), tone="code"),
        ]
        for d in data
    ]
    return Table(f"{prefix}data-table", "Data", columns, rows, sortable=False, shows=False)


def provenance(about: Mapping[str, Any], prefix: str = "") -> Section:
    """Everything that a second run has to equal;
    ``prefix`` sets the parts' names apart on a page of several runs.
    """
    machine, used = about.get("machine") or {}, about.get("resources") or {}
    memory = used.get("memory") or {}
    timings = [(str(k), duration(v), False) for k, v in (used.get("parts") or {}).items()]
    memory_rows = {
        "held_bytes": "held in memory",
        "disk_bytes": "on disk",
        "peak_rss_bytes": "peak of the process",
    }
    run = [
        ("started", _text(used.get("started")), False),
        ("finished", _text(used.get("finished")), False),
        ("seed", _text(about.get("seed")), False),
        *(
            (str(name).removesuffix("_gb"), _machine(machine[name], str(name)), False)
            for name in machine
        ),
    ]
    cost = [("in all", duration(used.get("seconds")), False), *timings]
    cost += [
        (words, size(memory.get(key)), False) for key, words in memory_rows.items() if key in memory
    ]
    parts: list[Any] = [
        model_pairs(about.get("model") or {}),
        data_table(list(about.get("data") or ()), prefix),
        Pairs("Run and machine", run),
        Pairs("Time and memory", cost),
        Pairs(
            "Versions",
            [(str(k), _text(v), False) for k, v in (about.get("versions") or {}).items()],
        ),
    ]
    config = json.dumps(about.get("config") or {}, indent=2, ensure_ascii=False, default=str)
    parts.append(Fold("Full configuration", [Command(f"{prefix}config", config)]))
    return Section("provenance", "Provenance", [p for p in parts if getattr(p, "rows", True)])


def again(about: Mapping[str, Any], prefix: str = "") -> Section:
    """The command that made this page."""
    text = _text(about.get("command"))
    words = "The same seed on the same machine gives the same numbers, bit for bit."
    return Section("again", "Run it again", [Text([words]), Command(f"{prefix}command", text)])


def _text(value: Any) -> str:
    return ABSENT if value is None or value == "" else str(value)


def _machine(value: Any, name: str) -> str:
    x = finite(value)
    if x is None:
        return _text(value)
    return f"{x:.1f} GB" if name.endswith("_gb") else f"{x:g}"
