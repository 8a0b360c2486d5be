"""The report of an ablation or a patching run: grids of effects, rankings, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..report.depths import DepthCurve
from ..report.parts import Cell, Column, Heat, Page, Section, Stats, Table, signed_cell
from ..report.provenance import model_name
from ..report.records_table import records_section
from ..report.scatter import scatter
from ..report.words import count, finite, interval, number, p_value, plural, signed
from .grid_picture import effect_grid
from .reading import LEVEL, clear_of_chance, families, strongest

SHOWN = 40
ROLE = 0.3
"""Mean attention from which a head's role on repeated tokens is named."""
ABOUT = {
    "ablate": "Metric with the part taken out minus metric of the untouched model, mean over prompts.",
    "patch": "Metric with one value from the other run minus metric without, mean over prompts.",
}
OF_WHOLE = {
    "ablate": ("of the clean metric", "effect / clean metric; absent where that is not different from 0"),
    "patch": ("of the way", "effect / metric of the other run minus metric of this one; absent where that is about 0"),
}


def effects_page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about, run = results.get("provenance") or {}, str(results.get("kind"))
    records: Sequence[Mapping[str, Any]] = list(results.get("records") or ())
    first = records[0] if records else {}
    metric = str(first.get("metric", "?"))
    kinds = " and ".join(dict.fromkeys(str(r.get("component")) for r in records)) or "?"
    values = " and ".join(dict.fromkeys(str(r.get("value")) for r in records))
    data: dict[str, Any] = {"heats": {}}
    facts = [
        f"{count(len(records))} {'patches' if run == 'patch' else 'ablations'}",
        plural(int(first.get("n") or 0), "prompt"),
        values,
        metric,
    ]
    sections = grids(results, records, data)
    if certificates := results.get("certificates") or {}:
        sections.append(certificate_section(certificates, records, data))
    if 0 < len(records) <= 5000:
        sections.append(records_section(results))
    return Page(
        title=f"What the {kinds} of {model_name(about)} do to {metric.replace('_', ' ')}",
        kicker=f"layerscope {run}",
        facts=facts,
        findings=[("effects-0", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=sections,
        data=data,
    )


def grids(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> list[Section]:
    """A section for each family."""
    found, sections = families(records), []
    for (value, component), mine in found.items():
        title = "Effects" if len(found) == 1 else f"{value.capitalize()}, {component}"
        sections.append(effects_section(results, mine, data, f"effects-{len(sections)}", title))
    return sections


def effects_section(
    results: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any], uid: str, title: str
) -> Section:
    """The grid and the ranking of the strongest."""
    names = [_place(r) for r in records]
    clear = clear_of_chance(records)
    first, run = records[0], str(results.get("kind"))
    metric = f"{first.get('metric')}, {first.get('unit', '')}"
    ranked = strongest(records, SHOWN)
    items = [
        ("clear of chance", f"{len(clear)} of {len(records)}", f"false-discovery rate below {LEVEL}"),
        ("strongest", signed(ranked[0].get("effect")), _place(ranked[0])),
    ]
    if run == "ablate":
        items.insert(0, ("clean metric", number(first.get("baseline")), metric))
    else:
        means, gap = results.get("baseline") or {}, results.get("gap") or {}
        items[:0] = [
            (f"{name} run", number((means.get(name) or {}).get("value")), metric) for name in ("clean", "corrupted")
        ]
        items.insert(2, ("difference", number(gap.get("value")), interval(gap.get("low"), gap.get("high"))))
    parts: list[Any] = [Stats(items)]
    grid = effect_grid(records, uid=uid, title=f"Effect of each part on {metric}", names=names)
    if grid is not None:
        drawing, tips, words = grid
        data["heats"][uid] = {"tips": tips, "metric": metric}
        shown = first.get("component") == "heads" and bool(results.get("patterns"))
        if shown:
            data["heats"][uid]["patterns"] = _patterns(results["patterns"], records, names.index(_place(ranked[0])))
        parts.append(Heat(uid, Markup(drawing), words, shown))
    parts.append(ranking(ranked, len(records), run, uid))
    return Section(uid, title, parts, ABOUT[run], study=True)


def _patterns(patterns: Mapping[str, Any], records: Sequence[Mapping[str, Any]], first: int) -> dict[str, Any]:
    """Where each cell's head looks in one text: the tokens, the weights, and the place of each cell among them."""
    layers, heads = list(patterns["layers"]), int(patterns["heads"])
    places = [
        layers.index(r["layer"]) * heads + int(r.get("index") or 0) if r["layer"] in layers else None for r in records
    ]
    return {"tokens": list(patterns["tokens"]), "weights": patterns["weights"], "places": places, "first": first}


def certificate_section(
    certificates: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any]
) -> Section:
    """How far the estimates agree with what was measured exactly."""
    columns = [
        Column("effects of", False),
        Column("verified", hint="the largest by estimate, and others drawn at random"),
        Column("Spearman", hint="rank correlation of estimated and exact effects, over all that were verified"),
        Column("Spearman, drawn", hint="over those drawn at random"),
        Column("overlap", hint="of the larger half of the largest, by estimate and by exact effect"),
        Column("same sign", hint="among the largest"),
        Column("slope", hint="of exact on estimated effects; 1 if the estimate has the right size"),
        Column("misleads", False, hint="why the estimate is not to be trusted here"),
    ]
    rows = [
        [
            Cell(str(name), head=True),
            Cell(f"{found.get('n_top')} + {found.get('n_sample')}"),
            *(
                Cell(number(found.get(key)), finite(found.get(key)))
                for key in ("spearman", "spearman_sample", "overlap", "same_sign", "slope")
            ),
            Cell("; ".join(str(reason) for reason in found.get("misleads") or ()) or "no"),
        ]
        for name, found in certificates.items()
    ]
    exact = sum(1 for r in records if r.get("exact", True))
    about = (
        f"{count(len(records) - exact)} of the {count(len(records))} effects are estimates from one gradient; the other "
        f"{count(exact)} are exact. Only exact effects are tested."
    )
    caption = "Agreement of estimates with exact effects"
    parts = [Table("certificates", caption, columns, rows), _agreement(records, data)]
    return Section("certificate", "Certificate", parts, about, study=True)


def _agreement(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Heat:
    """Each part's exact effect over its estimate."""
    both = [r for r in records if r.get("exact", True) and finite(r.get("estimate")) is not None]
    points = [(float(r["estimate"]), float(r["effect"])) for r in both]
    data["heats"]["agreement"] = {
        "metric": "exact",
        "tips": [[_place(r), signed(r["effect"]), f"estimate {signed(r['estimate'])}"] for r in both],
    }
    words = f"Exact effect over estimate of {plural(len(both), 'part')}; on the line they are equal."
    drawing = scatter(
        points,
        uid="agreement",
        title="Exact and estimated effects",
        desc=words,
        x_title="estimate",
        y_title="exact effect",
    )
    return Heat("agreement", Markup(drawing), words, label="Exact over estimated effects", key=False)


def _role(record: Mapping[str, Any]) -> Cell:
    """What a head looks at on repeated tokens, where that is most of its attention."""
    scores = {name: finite(record.get(name)) or 0.0 for name in ("previous", "duplicate", "induction")}
    name = max(scores, key=lambda key: scores[key])
    return Cell(f"{name} {number(scores[name], 2)}" if scores[name] >= ROLE else "", scores[name])


def _place(record: Mapping[str, Any]) -> str:
    """The site, and the position where it was edited."""
    at = f" at position {record.get('index')}" if record.get("component") == "positions" else ""
    return f"{record.get('site')}{at}"


def ranking(records: Sequence[Mapping[str, Any]], total: int, run: str, uid: str) -> Table:
    """The strongest effects, as a table that sorts."""
    estimated, null, roles = (any(key in r for r in records) for key in ("estimate", "null_p", "induction"))
    columns = [
        Column("site", False),
        Column("effect", hint=ABOUT[run]),
        Column(OF_WHOLE[run][0], hint=OF_WHOLE[run][1]),
        *([Column("estimate", hint="what the gradient said")] if estimated else []),
        *([Column("null p", hint="changes as large in random directions with at least this effect")] if null else []),
        *(
            [Column("on repeated tokens", hint="mean attention where the role looks, on random tokens that come twice")]
            if roles
            else []
        ),
        Column("p", hint="sign-flip test over prompts"),
        Column("q", hint="false-discovery rate over all parts (Benjamini & Hochberg 1995)"),
    ]
    rows = [
        [
            Cell(_place(r), head=True, tone="code"),
            signed_cell(r.get("effect"), r.get("low"), r.get("high")),
            Cell(
                signed(r.get("normalised")),
                finite(r.get("normalised")),
                interval(r.get("normalised_low"), r.get("normalised_high")),
            ),
            *([signed_cell(r.get("estimate"))] if estimated else []),
            *([Cell(number(r.get("null_p")), finite(r.get("null_p")))] if null else []),
            *([_role(r)] if roles else []),
            Cell(p_value(r.get("p")) if r.get("exact", True) else "estimate", finite(r.get("p"))),
            Cell(p_value(r.get("q")), finite(r.get("q"))),
        ]
        for r in records
    ]
    caption = f"The {len(rows)} strongest of {total:,}, with 95% intervals in small print"
    return Table(f"ranking-{uid}", caption, columns, rows, copy=True)


def effect_curves(results: Mapping[str, Any]) -> list[DepthCurve]:
    """The effects of parts that a layer has one of, over depth."""
    found = []
    for (value, component), records in families(list(results.get("records") or ())).items():
        if component in ("layers", "mlps", "attentions"):
            metric = f"change of {records[0]['metric']}, {records[0]['unit']}"
            title = f"{component}, {value}"
            found.append(DepthCurve.of(title, metric, records, "effect", first=1, is_change=True))
    return found
