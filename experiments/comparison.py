"""Several runs side by side: what each is, the same quantity over relative depth, the best of each,
where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.errors import InputError

from .report.depths import Curve, depth_curves
from .report.parts import Cell, Column, Fold, Notes, Page, Section, Table, plain_cell, score_cell
from .report.provenance import again, caveats, model_name, provenance
from .report.schema import StudyResults
from .report.words import ABSENT, count, finite, interval, layer_label, listed, number, plural
from .runs.study import Study
from .studies import STUDIES
from .sweep.reading import component_name, significant, strongest
from .sweep.records import EffectResults

ASIDE = ("out", "force", "trust_remote_code", "keep_features", "batch_tokens", "device", "model")
"""Options that do not tell runs apart."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn over depth; runs that have the same one share a picture."""

    title: str
    metric: str
    is_change: bool

    @property
    def extreme(self) -> str:
        """Which of a curve's values is spoken of: the largest change either way,
        or else the highest value.
        """
        return "largest" if self.is_change else "highest"

    def top(self, curve: Curve) -> int:
        """Where that value is, the first of several."""
        size: Callable[[float], float] = abs if self.is_change else float
        known = [i for i, value in enumerate(curve.values) if value is not None]
        return max(known, key=lambda i: (size(curve.values[i] or 0.0), -i))


@dataclass(frozen=True)
class Named:
    """A run and what the page calls it."""

    name: str
    study: Study
    results: Any

    @property
    def about(self) -> Mapping[str, Any]:
        """Its provenance."""
        return self.results.provenance

    @property
    def blocks(self) -> int:
        """How many blocks its model has."""
        if n_layers := (self.about.get("model") or {}).get("n_layers"):
            return int(n_layers)
        layers = [getattr(record, "layer", None) or 0 for record in self.results.records]
        return max(layers, default=0) + 1


def compared_page(runs: Sequence[Mapping[str, Any]]) -> Page:
    """All parts of the page, top to bottom.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise InputError("expected at least one run to compare")
    studies = [STUDIES[str(run.get("kind"))] for run in runs]
    typed = [study.read(run) for study, run in zip(studies, runs, strict=True)]
    named = list(map(Named, names(typed), studies, typed))
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    quantities = _quantities(named)
    sections = [_runs(named)]
    for quantity, curves in quantities.items():
        uid, title, metric = f"q{len(sections)}", quantity.title, quantity.metric
        picture = depth_curves(
            curves, data, uid=uid, title=f"{title}: {metric} by relative depth", y_title=metric
        )
        sections.append(
            Section(uid, title, [picture, _bests(uid, quantity, curves)], metric, study=True)
        )
    sections += [section for run in named if (section := _parts(run, len(sections))) is not None]
    sections += [_caveats(named), _provenance(named)]
    kinds = list(dict.fromkeys(study.name for study in studies))
    models = list(dict.fromkeys(model_name(one.about) for one in named))
    return Page(
        title=f"{plural(len(runs), 'run')} side by side: "
        f"{listed(models) if len(models) <= 3 else plural(len(models), 'model')}",
        kicker="layerscope report",
        facts=[
            listed(kinds),
            plural(len(models), "model"),
            plural(len(quantities), "quantity over depth", "quantities over depth"),
        ],
        findings=findings(named, quantities),
        sections=sections,
        data=data,
    )


def findings(
    runs: Sequence[Named], quantities: Mapping[Quantity, Sequence[Curve]]
) -> list[tuple[str, str, str]]:
    """A sentence for each quantity; a run without one says its own."""
    sentences = []
    for i, (quantity, curves) in enumerate(quantities.items(), 1):
        sentences.append((f"q{i}", quantity.title, _finding(quantity, curves)))
    drawn = {curve.name for curves in quantities.values() for curve in curves}
    for run in runs:
        if run.name not in drawn:
            for finding in run.results.findings:
                sentences.append(("", run.name, finding.text))
    return sentences


def names(runs: Sequence[StudyResults]) -> list[str]:
    """A short name for each run: its model; where that is not enough,
    its command and the options that differ.
    """
    commands = [run.kind for run in runs]
    abouts = [run.provenance for run in runs]
    labels = []
    for about, command in zip(abouts, commands, strict=True):
        labels.append(model_name(about) if about.get("model") else command)
    # Each step adds what tells the runs apart, and only while it is needed.
    if _is_ambiguous(labels) and len(set(commands)) > 1:
        labels = _with_commands(labels, commands)
    if _is_ambiguous(labels):
        configs = [about.get("config") or {} for about in abouts]
        labels = _with_options(labels, _differing_options(configs))
    numbered = []
    for i, label in enumerate(labels, 1):
        is_unique = labels.count(label) == 1
        numbered.append(label if is_unique else f"{label} #{i}")
    return numbered


def _with_commands(labels: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The commands in front of the labels;
    a run without a model is called by its command already.
    """
    longer = []
    for label, command in zip(labels, commands, strict=True):
        longer.append(label if label == command else f"{command} {label}")
    return longer


def _with_options(labels: Sequence[str], options: Sequence[str]) -> list[str]:
    """The labels with the options that are a run's own behind them."""
    longer = []
    for label, of_run in zip(labels, options, strict=True):
        longer.append(f"{label} ({of_run})" if of_run else label)
    return longer


def _is_ambiguous(labels: Sequence[str]) -> bool:
    return len(set(labels)) < len(labels)


def _differing_options(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each run, in words, its values of the options that are not the same in all runs."""
    differing = _differing_keys(configs)
    texts = []
    for config in configs:
        given = [key for key in differing if config.get(key) not in (None, [], False)]
        texts.append(", ".join(_option_in_words(key, config[key]) for key in given))
    return texts


def _differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that are not the same in all runs, without those that change no number."""
    all_keys = dict.fromkeys(key for config in configs for key in config)
    differing = []
    for key in all_keys:
        values = {str(config.get(key)) for config in configs}
        if key not in ASIDE and len(values) > 1:
            differing.append(key)
    return differing


def _option_in_words(key: str, value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{key} {Path(text).name if '/' in text else text}"


# -- quantities over depth


def _quantities(runs: Sequence[Named]) -> dict[Quantity, list[Curve]]:
    """What can be drawn over depth -> a curve of each run that has it."""
    quantities: dict[Quantity, list[Curve]] = {}
    for run in runs:
        for curve in run.study.curves(run.results):
            if all(value is None for value in curve.values):
                continue
            # Models of other depths are compared at the same share of their blocks.
            depths = [min(layer / run.blocks, 1.0) for layer in curve.layers]
            places = []
            for layer, site in zip(curve.layers, curve.sites, strict=True):
                places.append(_place(run, layer, site))
            quantity = Quantity(curve.title, curve.metric, curve.is_change)
            points = Curve(run.name, places, depths, curve.values, curve.intervals)
            quantities.setdefault(quantity, []).append(points)
    return quantities


def _place(run: Named, layer: float, site: str) -> str:
    label = layer_label(layer - 1, site)  # a curve counts the blocks in front
    return f"layer {label} of 0–{run.blocks - 1}" if label.isdigit() else label


def _finding(quantity: Quantity, curves: Sequence[Curve]) -> str:
    """That value of each run in a sentence."""
    parts = []
    for curve in curves:
        i = quantity.top(curve)
        text = f"{curve.name} {number(curve.values[i])} at {curve.places[i]}"
        span = interval(curve.intervals[i])
        parts.append(f"{text} ({span})" if span else text)
    return f"by {quantity.extreme} {quantity.metric}: " + "; ".join(parts) + "."


def _bests(uid: str, quantity: Quantity, curves: Sequence[Curve]) -> Table:
    columns = [
        Column("run", False),
        Column(quantity.extreme),
        Column("at", False),
        Column("relative depth"),
        Column("first", hint="at its shallowest place"),
        Column("last", hint="at its deepest place"),
    ]
    rows = []
    for curve in curves:
        known = [i for i, v in enumerate(curve.values) if v is not None]
        best = quantity.top(curve)
        ends = (score_cell(curve.values[i], curve.intervals[i]) for i in (known[0], known[-1]))
        top = score_cell(curve.values[best], curve.intervals[best], tone="strong")
        depth = curve.depths[best]
        rows.append(
            [
                Cell(curve.name, head=True),
                top,
                Cell(curve.places[best]),
                Cell(number(depth, 2), depth),
                *ends,
            ]
        )
    return Table(
        f"{uid}-bests",
        f"{quantity.title}: the {quantity.extreme} {quantity.metric} of each run, "
        "95% intervals in small print",
        columns,
        rows,
    )


# -- what the runs are


MOST_OPTIONS = 8
"""Columns of options that differ."""


def _runs(runs: Sequence[Named]) -> Section:
    configs = [run.about.get("config") or {} for run in runs]
    differing = _differing_keys(configs)[:MOST_OPTIONS]
    columns = [
        Column("run", False),
        Column("command", False),
        Column("model", False),
        Column("blocks"),
        Column("width"),
        Column("parameters"),
        *(Column(key.replace("_", " "), False) for key in differing),
        Column("finished", False),
    ]
    rows = []
    for run, config in zip(runs, configs, strict=True):
        model = run.about.get("model") or {}
        cells = [
            Cell(run.name, head=True),
            Cell(run.study.name),
            Cell(model_name(run.about)),
        ]
        for size in ("n_layers", "d_model", "n_parameters"):
            cells.append(Cell(count(model.get(size)), finite(model.get(size))))
        cells += [plain_cell(config.get(key)) for key in differing]
        finished = (run.about.get("resources") or {}).get("finished")
        cells.append(Cell(str(finished or ABSENT)[:10]))
        rows.append(cells)
    table = Table("runs-table", "The runs, with the options in which they differ", columns, rows)
    return Section("runs", "Runs", [table])


def _parts(run: Named, number_: int) -> Section | None:
    """The strongest parts of a run whose records are effects of parts."""
    records = run.results.records
    if not (isinstance(run.results, EffectResults) and run.results.lists_parts and records):
        return None
    columns = [Column("part", False), Column("value", False), Column("effect"), Column("q")]
    rows = [
        [
            Cell(component_name(record), head=True),
            Cell(record.value),
            score_cell(record.effect, record.effect_interval),
            plain_cell(record.q),
        ]
        for record in strongest(records, 10)
    ]
    passing, first = len(significant(records)), records[0]
    about = (
        f"{passing} of {plural(len(records), 'part')} are significant; the ten strongest "
        f"({first.metric}, {first.unit})."
    )
    table = Table(f"parts-{number_}", f"{run.name}: the strongest parts", columns, rows)
    return Section(f"effects-{number_}", run.name, [table], about)


def _caveats(runs: Sequence[Named]) -> Section:
    """The caveats of every run, and whether they read the same data."""
    rows: list[tuple[str, str, str]] = []
    data = set()
    for run in runs:
        (notes,) = caveats(run.results.notes, run.study.cautions(run.results)).parts
        for badge, tone, text in notes.rows:
            if tone == "warn":
                rows.append((badge, tone, f"{run.name}: {text}"))
        hashes = [str(file.get("sha256")) for file in run.about.get("data") or ()]
        data.add(tuple(sorted(hashes)))
    if len(data) > 1:
        text = "The runs read different data: a difference between them may be the data's."
        rows.append(("note", "warn", text))
    if not rows:
        rows.append(("none", "good", "No run has a warning, and all read the same data."))
    return Section("caveats", "Caveats", [Notes(rows)])


def _provenance(runs: Sequence[Named]) -> Section:
    folds = []
    for i, one in enumerate(runs):
        parts = [*provenance(one.about, f"r{i}-").parts, *again(one.about, f"r{i}-").parts]
        folds.append(Fold(one.name, parts))
    return Section(
        "provenance",
        "Provenance",
        folds,
        "Model, data, versions, machine, time and command of each run.",
    )
