"""``docs/models.md``: what is known of a tiny model of every family, next to oracles that know
nothing of layerscope.

PYTHONPATH=.:tests python tools/model_table.py                        # writes docs/models.md
PYTHONPATH=.:tests python tools/model_table.py LlamaForCausalLM       # prints one family
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import oracles
import torch
import transformers as hf
import zoo
from layerscope.hooks import UnknownArchitecture, anatomy, verify
from layerscope.hooks.verify.inputs import default_inputs

DOCS = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BOUND = 2e-4
"""Largest relative difference that counts as rounding through a whole model of single precision."""
INTRODUCTION = (
    "This table shows which sites are verified in which model family. `tools/model_table.py` "
    "writes it: each family is built with random weights from its own configuration, with the "
    "flags of real checkpoints and small sizes. To check your own model, run `layerscope doctor "
    "--model M`."
)
COLUMNS = {
    "map": "source of the site names: layerscope's table or TransformerLens's adapter",
    "sites": "number of sites",
    "streams": "residual streams, compared with the model's own `hidden_states`",
    "patterns": "attention patterns, compared with the weights that eager attention returns",
    "heads": "effect of zeroing `hook_z` of a head, compared with zeroing its columns of the "
    "output projection",
    "q, k, v": "effect of zeroing a head's q, k or v, compared with zeroing its rows of the "
    "projection",
    "neurons, experts": "effect of zeroing a neuron, compared with zeroing its column of the down "
    "projection (for experts: in every expert)",
    "doctor": "[verdict of the doctor](doctor.md), quick and full",
    "missing": "sites that are not listed, as numbers of the [reasons](#why-a-part-is-missing) "
    "at the end",
}
LEGEND = (
    "`ok` means equal to the reference, which does not use layerscope. `-` means that there is no "
    "such site, or that the model returns nothing to compare it with."
)


@dataclass
class Row:
    """One family: what each oracle found, the doctor's word, and why a part is missing."""

    name: str
    kind: str = ""
    source: str = ""
    sites: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    quick: str = ""
    full: str = ""
    seconds: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)
    failed: str = ""


def examined(name: str, full: bool = True) -> Row:
    """Build one family and put every oracle and the doctor to it."""
    model = zoo.build(name)
    row = Row(name, model.config.model_type)
    try:
        known = anatomy(model)
    except UnknownArchitecture as error:
        row.failed = str(error).partition(": ")[2].partition(": use raw")[0]
        return row
    row.source = "table" if "table" in known.source else "adapter"
    row.sites, row.missing = len(known.places), dict(known.missing)
    inputs = default_inputs(model)
    for column, oracle in oracles.ORACLES.items():
        try:
            errors = oracle(model, inputs)
        except (
            Exception
        ) as error:  # a model without eager attention, or that returns no hidden states
            row.columns[column] = f"? {type(error).__name__}: {str(error)[:80]}"
            continue
        worst = max(errors.values(), default=0.0)
        row.columns[column] = "" if not errors else "ok" if worst <= BOUND else f"**{worst:.2g}**"
    start = time.perf_counter()
    row.quick = verify(model, quick=True).status
    row.seconds = time.perf_counter() - start
    if full:
        row.full = verify(model).status
    return row


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    by_name = {row.name: row for row in rows}
    reasons: dict[str, int] = {}
    lines = [
        "# Models",
        "",
        _summary(list(by_name.values())),
        "",
        INTRODUCTION,
        "",
        *(f"- *{heading}*: {meaning}" for heading, meaning in COLUMNS.items()),
        "",
        LEGEND,
    ]
    for group, members in zoo.GROUPS.items():
        columns = list(oracles.ORACLES)
        lines += ["", f"## {group[0].upper()}{group[1:]}", ""]
        lines += [
            "| class | model type | map | sites | " + " | ".join(columns) + " | doctor | missing |"
        ]
        lines += ["|---" * (len(columns) + 6) + "|"]
        for name in (n for n in members if n in by_name):
            row = by_name[name]
            cells = [_shown(row.columns.get(column, "")) for column in columns]
            why = sorted({reasons.setdefault(text, len(reasons) + 1) for text in _reasons(row)})
            head = f"| {name} | {row.kind} | {row.source or 'none'} | {row.sites} | "
            lines.append(
                head
                + " | ".join(cells)
                + f" | {row.quick}/{row.full} | {', '.join(map(str, why))} |".replace("| /", "| -")
            )
    lines += [
        "",
        "## Why a part is missing",
        "",
        *(f"{number}. {text}" for text, number in reasons.items()),
        "",
    ]
    return "\n".join(lines)


def _summary(rows: list[Row]) -> str:
    def count(*columns: str) -> int:
        return sum(any(row.columns.get(c) == "ok" for c in columns) for row in rows)

    wrong = sum("WRONG" in (row.quick, row.full) for row in rows)
    return (
        f"{len(rows)} families: {count('streams')} with residual streams, {count('heads')} "
        f"with heads, {count('neurons', 'experts')} with neurons or experts, "
        f"{wrong} with the verdict WRONG."
    )


def _shown(cell: str) -> str:
    return "-" if not cell or cell.startswith("?") else cell


def _reasons(row: Row) -> list[str]:
    if row.failed:
        return [f"no map: {row.failed}"]
    by_reason: dict[str, list[str]] = {}
    for part, reason in row.missing.items():
        text = reason.partition(":")[2].strip() if reason.startswith("not in blocks") else reason
        by_reason.setdefault(
            "some blocks only: the others " + text.removeprefix("they ")
            if text != reason
            else text,
            [],
        ).append(part)
    return [f"`{'`, `'.join(parts)}`: {reason}" for reason, parts in by_reason.items()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    store = Path(sys.argv[sys.argv.index("--rows") + 1]) if "--rows" in sys.argv else None
    asked = [name for name in sys.argv[1:] if name in zoo.FLAGS]
    done: list[Row] = []
    if store is not None and store.exists():
        done = [Row(**json.loads(line)) for line in store.read_text(encoding="utf-8").splitlines()]
    for name in asked or [n for n in zoo.FLAGS if n not in {row.name for row in done}]:
        made = examined(name)
        done.append(made)
        if store is not None:
            with store.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(made)) + "\n")
        shown: dict[str, Any] = {c: v for c, v in made.columns.items() if v not in ("ok", "")}
        print(
            name,
            made.sites,
            made.quick,
            made.full,
            f"{made.seconds:.1f} s",
            shown or "",
            made.failed,
            flush=True,
        )
    if not asked:
        DOCS.write_text(page(done), encoding="utf-8")
