"""The report of an ablation run: the grid of effects, the ranking, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .heat import effect_grid
from .parts import Cell, Column, Heat, Page, Section, Stats, Table
from .provenance import again, caveats, model_name, provenance
from .tables import records_section
from .words import count, finite, interval, number, p_value, plural, signed

SHOWN = 40


def ablate_page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Mapping[str, Any]] = list(results.get("records") or ())
    first = records[0] if records else {}
    kind, value, metric = (str(first.get(k, "?")) for k in ("component", "value", "metric"))
    data: dict[str, Any] = {"heats": {}}
    facts = [
        plural(len(records), kind.removesuffix("s")),
        f"{count(first.get('n'))} prompts",
        f"{value} ablation",
        metric,
    ]
    finished = str(about.get("finished") or "")[:10]
    sections = [effects_section(records, data, f"{metric}, {first.get('unit', '')}")] if records else []
    if 0 < len(records) <= 5000:
        sections.append(records_section(results))
    sections += [caveats(results, []), provenance(results), again(results)]
    return Page(
        title=f"What the {kind} of {model_name(about)} do to {metric.replace('_', ' ')}",
        kicker="layerscope ablate",
        facts=[*facts, finished] if finished else facts,
        findings=[("effects", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=sections,
        data=data,
    )


def effects_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any], metric: str) -> Section:
    """The grid and the ranking of the strongest."""
    names = [str(r.get("site")) for r in records]
    clear = [r for r in records if (finite(r.get("q")) or 0.0) < 0.05]
    first = records[0]
    ranked = sorted(records, key=lambda r: -abs(float(r["effect"])))
    items = [
        ("clean metric", number(first.get("baseline")), metric),
        ("clear of chance", f"{len(clear)} of {len(records)}", "false-discovery rate below 0.05"),
        ("strongest", signed(ranked[0].get("effect")), str(ranked[0].get("site"))),
    ]
    parts: list[Any] = [Stats(items)]
    grid = effect_grid(records, uid="effects", title=f"Effect of each part on {metric}", names=names)
    if grid is not None:
        drawing, tips, words = grid
        data["heats"]["effects"] = {"tips": tips, "metric": metric}
        parts.append(Heat("effects", Markup(drawing), words))
    parts.append(ranking(ranked[:SHOWN], len(records)))
    about = "Metric with the part taken out minus metric of the untouched model, mean over prompts."
    return Section("effects", "Effects", parts, about, study=True)


def ranking(records: Sequence[Mapping[str, Any]], total: int) -> Table:
    """The strongest effects, as a table that sorts."""
    columns = [
        Column("site", False),
        Column("effect", hint="metric with the part taken out, minus metric"),
        Column("of the clean metric", hint="effect / clean metric; absent where that is not different from 0"),
        Column("p", hint="sign-flip test over prompts"),
        Column("q", hint="false-discovery rate over all parts (Benjamini & Hochberg 1995)"),
    ]
    rows = [
        [
            Cell(str(r.get("site")), head=True, tone="code"),
            Cell(signed(r.get("effect")), finite(r.get("effect")), interval(r.get("low"), r.get("high"))),
            Cell(
                signed(r.get("normalised")),
                finite(r.get("normalised")),
                interval(r.get("normalised_low"), r.get("normalised_high")),
            ),
            Cell(p_value(r.get("p")), finite(r.get("p"))),
            Cell(p_value(r.get("q")), finite(r.get("q"))),
        ]
        for r in records
    ]
    caption = f"The {len(rows)} strongest of {total:,}, with 95% intervals in small print"
    return Table("ranking", caption, columns, rows, copy=True)
