"""The report of an ablation or a patching run: grids of effects, rankings,
and where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..report.depths import DepthCurve
from ..report.parts import Cell, Column, Heat, Page, Section, Stats, Table, Text, signed_cell
from ..report.provenance import model_name
from ..report.records_table import records_section
from ..report.scatter import scatter
from ..report.words import count, finite, interval, number, p_value, plural, signed
from .grid_picture import effect_grid
from .reading import (
    LEVEL,
    STACKS,
    families,
    groups_text,
    power_note,
    significant,
    stack_of,
    strongest,
)
from .records import Certificate, EffectRecord, EffectResults

SHOWN = 40
"""Effects of a ranking."""
OUTLINED = f"false discovery rate below {LEVEL}"


@dataclass(frozen=True)
class ExtraColumn:
    """A column that a study adds to the ranking."""

    column: Column
    cell: Callable[[Any], Cell]


@dataclass(frozen=True, kw_only=True)
class EffectsView:
    """What a study of effects shows of its own.

    Args:
        noun: what its records are called: ablations, patches.
        about: what an effect is.
        positions: which positions are edited, in a sentence.
        share: name and hint of the column of ``normalised``.
        stats: the first numbers of a section: (name, value, detail).
        extra: columns of the ranking.
        tokens: names of positions, where the records are of positions.
        shares: whether grids are coloured by ``normalised``.
        patterns: where the heads look in one text, if that is shown (`attention.text_patterns`).
    """

    noun: str
    about: str
    positions: str
    share: tuple[str, str]
    stats: Sequence[tuple[str, str, str]]
    extra: Sequence[ExtraColumn] = ()
    tokens: Sequence[str] = ()
    shares: bool = False
    patterns: Mapping[str, Any] | None = None


def effects_page(
    results: EffectResults, records: Sequence[EffectRecord], view: EffectsView
) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    first = records[0]
    kinds = " and ".join(dict.fromkeys(record.component for record in records))
    values = " and ".join(dict.fromkeys(record.value for record in records))
    data: dict[str, Any] = {"heats": {}}
    facts = [
        f"{count(len(records))} {view.noun}",
        plural(first.n, "prompt"),
        values,
        first.metric,
    ]
    sections = []
    groups = families(records)
    for (value, component), family in groups.items():
        title = "Effects" if len(groups) == 1 else f"{value.capitalize()}, {component}"
        sections.append(effects_section(family, view, data, f"effects-{len(sections)}", title))
    if results.certificates:
        sections.append(certificate_section(results.certificates, records, data))
    sections.append(records_section(records))
    model, metric = model_name(results.provenance), first.metric.replace("_", " ")
    return Page(
        title=f"What the {kinds} of {model} do to {metric}",
        kicker=f"layerscope {results.kind}",
        facts=facts,
        findings=[("effects-0", finding.property, finding.text) for finding in results.findings],
        sections=sections,
        data=data,
    )


def effects_section(
    records: Sequence[EffectRecord], view: EffectsView, data: dict[str, Any], uid: str, title: str
) -> Section:
    """The grid and the ranking of the strongest."""
    names = [_place(record) for record in records]
    first, ranked = records[0], strongest(records, SHOWN)
    metric = f"{first.metric}, {first.unit}"
    items = [
        *view.stats,
        significant_stat(records),
        ("strongest", signed(ranked[0].effect), _place(ranked[0])),
    ]
    parts: list[Any] = [Stats(items)]
    if limits := power_note(records, first.component):
        parts.append(Text([limits]))
    shares = view.shares and all(record.normalised is not None for record in records)
    grid = effect_grid(
        records,
        uid=uid,
        title=f"Effect of each part on {metric}",
        names=names,
        tokens=view.tokens if first.component == "positions" else (),
        shares=shares,
    )
    if grid is not None:
        drawing, tips, words = grid
        data["heats"][uid] = {"tips": tips, "metric": metric}
        has_patterns = first.component == "heads" and bool(view.patterns)
        if has_patterns and view.patterns is not None:
            shown_first = names.index(_place(ranked[0]))
            data["heats"][uid]["patterns"] = _patterns(view.patterns, records, shown_first)
        labels: dict[str, Any] = (
            {"up": "toward the other run", "down": "away from it"} if shares else {}
        )
        parts.append(Heat(uid, Markup(drawing), words, has_patterns, **labels))
    parts.append(ranking(ranked, len(records), view, uid))
    about = f"{view.about} {view.positions}"
    return Section(uid, title, parts, about, study=True)


def significant_stat(records: Sequence[EffectRecord]) -> tuple[str, str, str]:
    """How many effects are significant, as one of a section's numbers."""
    if all(record.p is None for record in records):
        return ("significant", "cannot be tested", groups_text(records[0]))
    return ("significant", f"{len(significant(records))} of {len(records)}", OUTLINED)


def _patterns(
    patterns: Mapping[str, Any], records: Sequence[EffectRecord], first: int
) -> dict[str, Any]:
    """Where each cell's head looks in one text: the tokens, the weights,
    and the place of each cell among them.
    """
    layers, heads = list(patterns["layers"]), int(patterns["heads"])
    places: list[int | None] = []
    for record in records:
        # Patterns are of the stack that reads the texts.
        has_pattern = record.layer in layers and stack_of(record.site) == "L"
        place = layers.index(record.layer) * heads + (record.index or 0) if has_pattern else None
        places.append(place)
    return {
        "tokens": list(patterns["tokens"]),
        "weights": patterns["weights"],
        "places": places,
        "first": first,
    }


def certificate_section(
    certificates: Mapping[str, Certificate], records: Sequence[EffectRecord], data: dict[str, Any]
) -> Section:
    """How far the estimates agree with what was measured exactly."""
    columns = [
        Column("effects of", False),
        Column("verified", hint="the largest by estimate, and others drawn at random"),
        Column(
            "Spearman",
            hint="rank correlation of estimated and exact effects over the grid: "
            "each drawn part represents parts that were not verified",
        ),
        Column("Spearman, drawn", hint="over those drawn at random"),
        Column(
            "overlap", hint="of the larger half of the largest, by estimate and by exact effect"
        ),
        Column("same sign", hint="among the largest"),
        Column("slope", hint="of exact on estimated effects; 1 if the estimate has the right size"),
        Column("misleads", False, hint="why the estimate cannot be trusted here"),
    ]
    rows = []
    for name, agreement in certificates.items():
        figures = (
            agreement.spearman,
            agreement.spearman_sample,
            agreement.overlap,
            agreement.same_sign,
            agreement.slope,
        )
        rows.append(
            [
                Cell(name, head=True),
                Cell(f"{agreement.n_top} + {agreement.n_sample}"),
                *(Cell(number(figure), finite(figure)) for figure in figures),
                Cell("; ".join(agreement.misleads) or "no"),
            ]
        )
    exact = sum(record.exact for record in records)
    about = (
        f"{count(len(records) - exact)} of the {count(len(records))} effects are estimates "
        f"from one gradient; the other {count(exact)} are exact. "
        "Only exact effects are tested."
    )
    caption = "Agreement of estimates with exact effects"
    parts = [Table("certificates", caption, columns, rows), _agreement(records, data)]
    return Section("certificate", "Certificate", parts, about, study=True)


def _agreement(records: Sequence[EffectRecord], data: dict[str, Any]) -> Heat:
    """Each part's exact effect over its estimate."""
    points, tips = [], []
    for record in records:
        if record.exact and record.estimate is not None:
            points.append((record.estimate, record.effect))
            tips.append(
                [_place(record), signed(record.effect), f"estimate {signed(record.estimate)}"]
            )
    data["heats"]["agreement"] = {"metric": "exact", "tips": tips}
    words = (
        f"Exact effect over estimate of {plural(len(points), 'part')}; on the line they are equal."
    )
    drawing = scatter(
        points,
        uid="agreement",
        title="Exact and estimated effects",
        desc=words,
        x_title="estimate",
        y_title="exact effect",
    )
    label = "Exact over estimated effects"
    return Heat("agreement", Markup(drawing), words, label=label, key=False)


def _place(record: EffectRecord) -> str:
    """The site, and the position where it was edited."""
    at = f" at position {record.index}" if record.component == "positions" else ""
    return f"{record.site}{at}"


def ranking(records: Sequence[EffectRecord], total: int, view: EffectsView, uid: str) -> Table:
    """The strongest effects, as a table that sorts."""
    has_estimates = any(record.estimate is not None for record in records)
    has_null = any(record.null_p is not None for record in records)
    columns = [
        Column("site", False),
        Column("effect", hint=view.about),
        Column(*view.share[:1], hint=view.share[1]),
        *([Column("estimate", hint="estimate from the gradient")] if has_estimates else []),
        *([Column("null p", hint=NULL_HINT)] if has_null else []),
        *(extra.column for extra in view.extra),
        Column("p", hint="sign-flip test over prompts"),
        Column("q", hint="false discovery rate over all parts (Benjamini & Hochberg 1995)"),
    ]
    rows = []
    for record in records:
        share = interval(record.normalised_interval)
        rows.append(
            [
                Cell(_place(record), head=True, tone="code"),
                signed_cell(record.effect, record.effect_interval),
                Cell(signed(record.normalised), record.normalised, share),
                *([signed_cell(record.estimate)] if has_estimates else []),
                *([Cell(number(record.null_p), record.null_p)] if has_null else []),
                *(extra.cell(record) for extra in view.extra),
                p_cell(record),
                Cell(p_value(record.q), record.q),
            ]
        )
    caption = f"The {len(rows)} strongest of {total:,}, with 95% intervals in small print"
    return Table(f"ranking-{uid}", caption, columns, rows, copy=True)


NULL_HINT = "equally large changes in random directions with at least this effect"


def p_cell(record: EffectRecord) -> Cell:
    """The p of an effect, or why it has none."""
    if record.p is not None:
        return Cell(p_value(record.p), record.p)
    return Cell("cannot be tested" if record.exact else "estimate")


def effect_curves(records: Sequence[EffectRecord]) -> list[DepthCurve]:
    """The effects of parts that a layer has one of, over depth."""
    curves = []
    for (value, component), family in families(records).items():
        if component not in ("layers", "mlps", "attentions"):
            continue
        stacks: dict[str, list[EffectRecord]] = {}
        for record in family:
            stacks.setdefault(stack_of(record.site), []).append(record)
        for stack, of_stack in stacks.items():
            metric = f"change of {family[0].metric}, {family[0].unit}"
            where = f" of the {STACKS[stack]}" if len(stacks) > 1 else ""
            title = f"{component}{where}, {value}"
            curves.append(DepthCurve.of(title, metric, of_stack, "effect", is_change=True))
    return curves
