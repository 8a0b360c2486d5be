"""The page of an attribution: each text's words shaded, method by method,
and whether the methods can be believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...report.charts import Series
from ...report.controls import Control, field, is_given
from ...report.lines import lines
from ...report.matrix import step_of
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Fold,
    Heading,
    Mark,
    Marked,
    Page,
    Picture,
    Section,
    Table,
    Text,
    plain_cell,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.schema import Interval
from ...report.words import ABSENT, count, finite, number, plural, signed
from .picture_parts import modalities_table, patches_picture
from .records import (
    MEASURED,
    RANDOM,
    Example,
    Flip,
    MethodRecord,
    Prediction,
    RandomRecord,
    Record,
    Results,
)
from .sound_parts import spans_picture

CONTROLS = (
    Control(
        "random attributions",
        "the measure rewards any ranking",
        is_given("null_draws"),
        "--null-draws 5",
    ),
    Control(
        "other seeds of methods that draw",
        "a ranking that depends on one random draw",
        field("stability"),
        "--seeds 2",
        applies=lambda results: field("stability")(results) or not is_given("seeds")(results),
    ),
    Control(
        "small noise",
        "a ranking that a tiny change of the text overturns",
        is_given("sensitivity"),
        "--sensitivity 10",
    ),
)
"""What each control rules out."""


SHOWN_TEXTS = 50
"""Texts that the page shows; all are in results.json."""
SHOWN_COLUMNS = 64
"""Heads or neurons of a table."""
SHOWN_ANSWERS = 5
"""Answers of the model that are shown, the likeliest."""
DRAWN_METHODS = 5
"""Methods of a curve."""
FAINT = 0.05
"""Share of the strongest score below which a word is not shaded."""
MEASURES = {
    "comprehensiveness": (
        "drop of the value without the top 1, 5, 10, 20, 50% of the units; higher is better"
    ),
    "sufficiency": "drop of the value with only these units; lower is better",
    "deletion": "mean value while units are removed, highest score first; lower is better",
    "insertion": "mean value while units are added, highest score first; higher is better",
    "infidelity": (
        "error of the scores in predicting the effect of removing random units, from 0 to 1; "
        "lower is better"
    ),
    "stability": "rank correlation of the scores over seeds, for methods that draw",
    "sensitivity": "largest relative change of the scores under a noise too small to matter",
}
COSTS = {
    "asked": "changed texts that the method evaluated",
    "forwards": "texts run through the model, each distinct one once",
    "backwards": "texts for which a gradient was computed",
}
COLOURS = ("score", "f1", "control", "plain")


def page(results: Results) -> Page:
    """All parts of the page, top to bottom."""
    scored = [record for record in results.records if isinstance(record, MethodRecord)]
    methods = list(dict.fromkeys(record.method for record in scored))
    items = sorted({record.item for record in scored})
    units = sorted({record.unit for record in scored})
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    sections = (
        [words_section(results, scored, items), faithful_section(results, methods, data)]
        if scored
        else []
    )
    return Page(
        title=f"Which words the answers of {model_name(results.provenance)} depend on",
        kicker="layerscope attribute",
        facts=[plural(len(items), "text"), plural(len(methods), "method"), *units],
        findings=[
            ("faithfulness" if finding.property else "words", finding.property, finding.text)
            for finding in results.findings
        ],
        sections=sections,
        data=data,
    )


def words_section(
    results: Results, records: Sequence[MethodRecord], items: Sequence[int]
) -> Section:
    """The texts: what the model answers, the words shaded, all scores,
    changed words and texts like it.
    """
    examples = {example.item: example for example in results.examples}
    answers = {prediction.item: prediction for prediction in results.predictions}
    pictures = {picture.item: picture for picture in results.pictures}
    sounds = {sound.item: sound for sound in results.sounds}
    shares = {share.item: share for share in results.modalities}
    parts: list[Any] = []
    for item in items[:SHOWN_TEXTS]:
        of_text = [record for record in records if record.item == item]
        if item in answers:
            parts += answer_parts(answers[item], of_text[0], item)
        parts += text_parts(of_text, item)
        if item in pictures:
            parts.append(patches_picture(pictures[item], of_text))
        if item in sounds:
            parts.append(spans_picture(sounds[item], of_text))
        if item in shares:
            parts.append(modalities_table(shares[item], of_text[0]))
        if item in examples:
            parts += example_parts(examples[item], of_text[0], item)
    if len(items) > SHOWN_TEXTS:
        parts.append(Text([f"{len(items) - SHOWN_TEXTS} more texts are in results.json."]))
    about = (
        "Blue words raise the explained value; orange, underlined words lower it. "
        "The darkest word is the strongest one of its text and method. "
        "Point at a word for its score."
    )
    return Section("words", "Words", parts, about, study=True)


def answer_parts(prediction: Prediction, record: MethodRecord, item: int) -> list[Any]:
    """The model's most likely answers as bars, with the right one where it is known."""
    best = prediction.answers[0]
    kind = "class" if prediction.labels else "token"
    right = prediction.gold
    verdict = ""
    if right is not None:
        verdict = (
            f" The gold label is {right!r}: {'correct' if right == best.answer else 'incorrect'}."
        )
    heading = Heading(
        f"Text {item + 1}: predicted {kind} {best.answer!r}, "
        f"probability {number(best.probability, 2)}",
        f"{_quoted(record.text)}{verdict}",
    )
    rows = []
    for one in prediction.answers[:SHOWN_ANSWERS]:
        note = "gold label" if one.answer == right else ""
        bar = Cell(number(one.probability), one.probability, bar=one.probability)
        rows.append(
            [Cell(one.answer, note=note, head=True, tone="strong" if one is best else ""), bar]
        )
    columns = [Column(kind, False), Column("probability")]
    table = Table(
        f"answers-{item}",
        "The model's most likely answers",
        columns,
        rows,
        sortable=False,
        compact=True,
    )
    return [heading, table]


def _quoted(text: str) -> str:
    return f"“{text if len(text) <= 200 else text[:199] + '…'}”"


def text_parts(records: Sequence[MethodRecord], item: int) -> list[Any]:
    """One text as every method sees it, and its scores on demand."""
    first = records[0]
    target = first.target[:1].upper() + first.target[1:]
    folded: list[Any] = [scores_table(records, item)]
    for record in records:
        if rules := record.more.get("rules"):
            folded.append(
                Text([f"{record.method}: {line}" for line in rules.splitlines() if line.strip()])
            )
        if record.inner:
            table = parts_table(record, item)
            folded += [Text([f"{table.caption}:"]), table]
    return [
        Heading(f"{target}: {number(first.value)} {first.unit}", _baselines(records)),
        Marked([marked(record) for record in records]),
        Fold(f"Scores of {plural(len(first.units), 'unit')}", folded),
    ]


def example_parts(example: Example, record: MethodRecord, item: int) -> list[Any]:
    """The words whose change makes the model give another answer,
    and the known texts most like this one.
    """
    parts: list[Any] = []
    if example.flip is not None:
        parts += _flip_parts(example.flip, record)
    if example.nearest:
        columns = [Column("known text", False), Column("label", False), Column("cosine")]
        rows = [
            [
                Cell(near.text),
                Cell(near.label or ABSENT),
                Cell(number(near.cosine), finite(near.cosine)),
            ]
            for near in example.nearest
        ]
        parts.append(
            Table(f"near-{item}", "Known texts most like this one", columns, rows, sortable=False)
        )
    return parts


def _flip_parts(flip: Flip, record: MethodRecord) -> list[Any]:
    """The text with its changed words, and the answer's lead after each change."""
    changed = {unit: (before, after) for unit, before, after in flip.changes}
    marks: list[Mark] = []
    at = 0
    for unit, (start, end) in enumerate(record.spans):
        if unit in changed:
            before, after = changed[unit]
            marks += [Mark(record.text[at:start]), Mark(after, "down2", f"was {before}")]
            at = end
    marks.append(Mark(record.text[at:]))
    lead = " → ".join(signed(value) for value in flip.values)
    outcome = "the model gives another answer" if flip.flipped else "the model's answer stays"
    return [
        Marked([("changed words", f"lead {lead}", marks)]),
        Text([f"{plural(len(changed), 'word')} changed: {outcome}."]),
    ]


def marked(record: MethodRecord) -> tuple[str, str, list[Mark]]:
    """One text as one method sees it."""
    text, scores = record.text, record.scores
    largest = max((abs(score) for score in scores), default=0.0)
    marks: list[Mark] = []
    at = 0
    for i, (start, end) in enumerate(record.spans):
        if start < at or end <= start:  # a token that has no characters of its own
            continue
        if start > at:
            marks.append(Mark(text[at:start]))
        is_strong = largest > 0 and abs(scores[i]) >= FAINT * largest
        shade = (
            f"{'up' if scores[i] > 0 else 'down'}{step_of(scores[i], largest)}" if is_strong else ""
        )
        error = record.errors[i] if record.errors else 0.0
        spread = f" ± {number(error)}" if error else ""
        marks.append(Mark(text[start:end], shade, signed(scores[i]) + spread))
        at = end
    marks.append(Mark(text[at:]))
    figures = f"{count(record.forwards)} forwards"
    if record.backwards:
        figures += f", {count(record.backwards)} backwards"
    return record.method, figures, marks


def scores_table(records: Sequence[MethodRecord], item: int) -> Table:
    """A row for each unit, a column for each method."""
    columns = [
        Column("unit", False),
        *(Column(record.method, hint=f"in {record.unit}") for record in records),
    ]
    rows = []
    for i, unit in enumerate(records[0].units):
        cells = [Cell(unit, float(i), head=True)]
        for record in records:
            note = f"± {number(record.errors[i])}" if record.errors else ""
            cells.append(Cell(signed(record.scores[i]), finite(record.scores[i]), note))
        rows.append(cells)
    return Table(
        f"scores-{item}",
        "Scores, with standard errors in small print",
        columns,
        rows,
        tall=True,
        copy=True,
    )


def parts_table(record: MethodRecord, item: int) -> Table:
    """A row for each unit, a column for each head, neuron or site inside the model."""
    inner, figures, site = record.inner or [], record.more, record.more.get("site")
    names = list(figures.get("columns") or [str(i) for i in range(len(inner[0]))])[:SHOWN_COLUMNS]
    rows = [
        [Cell(unit, float(i), head=True), *(signed_cell(value) for value in row[:SHOWN_COLUMNS])]
        for i, (unit, row) in enumerate(zip(record.units, inner, strict=True))
    ]
    if whole := figures.get("whole"):
        rows.append(
            [
                Cell("all at once", float(len(rows)), head=True),
                *(signed_cell(whole[name]) for name in names),
            ]
        )
    left_out = len(inner[0]) - len(names)
    caption = f"{record.method} at {site}, part by part"
    caption += f"; {left_out} more are in results.json" if left_out else ""
    # Heads or neurons of one site are called by their number, sites by their name.
    short = [
        name.rpartition("[")[2].rstrip("]") if name.startswith(f"{site}[") else name
        for name in names
    ]
    columns = [Column("unit", False), *(Column(name, hint=f"in {record.unit}") for name in short)]
    return Table(f"parts-{item}-{record.method}", caption, columns, rows, tall=True, copy=True)


def faithful_section(results: Results, methods: Sequence[str], data: dict[str, Any]) -> Section:
    """Methods compared: faithfulness, agreement, cost."""
    records = results.records
    has_random = any(isinstance(record, RandomRecord) for record in records)
    compared = [RANDOM, *methods] if has_random else list(methods)
    parts: list[Any] = [methods_table(results, compared)]
    parts.append(
        Picture([curve(records, compared, "deleted", "Units removed, highest score first", data)])
    )
    parts.append(
        Picture([curve(records, compared, "inserted", "Units added, highest score first", data)])
    )
    removal = ", ".join(sorted({record.measured_by for record in records}))
    about = (
        f"Measured by the model's answers to texts with words removed (removal: {removal}). "
        "Compare each number with that of random attributions, and only within one removal."
    )
    return Section("faithfulness", "Faithfulness", parts, about, study=True)


def methods_table(results: Results, methods: Sequence[str]) -> Table:
    """Every measure of every method, and what it cost."""
    records = results.records
    present = {name: hint for name, hint in MEASURES.items() if _mean(records, name) is not None}
    columns = [
        Column("method", False),
        *(Column(name, hint=hint) for name, hint in present.items()),
    ]
    columns.append(Column("agreement", hint="mean rank correlation with the other methods"))
    columns += [Column(name, hint=hint) for name, hint in COSTS.items()]
    rows = []
    for method in methods:
        of_method = [record for record in records if record.method == method]
        cells = [Cell(method, method, head=True)]
        for name in present:
            cells.append(score_cell(_mean(of_method, name), _mean_range(of_method, name)))
        agreement = _agreement(results, method)
        cells.append(Cell(number(agreement), agreement))
        scored = [record for record in of_method if isinstance(record, MethodRecord)]
        for name in COSTS:
            cells.append(
                plain_cell(sum(getattr(record, name) for record in scored) if scored else None)
            )
        rows.append(cells)
    caption = (
        f"Means over texts, in {records[0].unit}; for random attributions the lowest and the "
        "highest in small print"
    )
    return Table("faithful-table", caption, columns, rows, copy=True)


def _agreement(results: Results, method: str) -> float | None:
    """A method's mean rank correlation with the others."""
    others = [
        value
        for other, value in results.agreement.get(method, {}).items()
        if other != method and value is not None
    ]
    return float(np.mean(others)) if others else None


def curve(
    records: Sequence[Record], methods: Sequence[str], name: str, title: str, data: dict[str, Any]
) -> Drawing:
    """The value as units leave or come, the mean over texts."""
    series = []
    for i, method in enumerate(methods[:DRAWN_METHODS]):
        values = [getattr(record, name) for record in records if record.method == method]
        place = i - (methods[0] == RANDOM)
        colour = "random" if method == RANDOM else COLOURS[place % len(COLOURS)]
        series.append(Series(method, colour, [float(value) for value in np.mean(values, axis=0)]))
    shares = [f"{10 * i}%" for i in range(11)]
    left_out = (
        f" The first {DRAWN_METHODS} of {len(methods)} methods."
        if len(methods) > DRAWN_METHODS
        else ""
    )
    return lines(
        name,
        series,
        data,
        labels=shares,
        names=[f"{share} of the units" for share in shares],
        title=title,
        y_title=f"value, {records[0].unit}",
        x_title="share of the units",
        caption=f"{title}; mean over texts.{left_out} A faithful method's curve departs early from "
        "that of random attributions.",
        words="; ".join(
            f"{s.name}: " + ", ".join(number(value) for value in s.values) for s in series
        ),
    )


def _mean(records: Sequence[Record], name: str) -> float | None:
    """The mean over the records that have this number."""
    known = [
        value for record in records if (value := finite(getattr(record, name, None))) is not None
    ]
    return float(np.mean(known)) if known else None


def _mean_range(records: Sequence[Record], name: str) -> Interval | None:
    """From the mean lowest to the mean highest draw, of random attributions."""
    drawn = [record for record in records if isinstance(record, RandomRecord)]
    if not drawn or name not in MEASURED:
        return None
    ranges = [getattr(record, f"{name}_interval") for record in drawn]
    return Interval(*np.mean([(one.low, one.high) for one in ranges], axis=0).tolist())


def _baselines(records: Sequence[MethodRecord]) -> str:
    """The value without any word, where methods have such a state; each method's own,
    where they differ.
    """
    methods_of: dict[str, list[str]] = {}
    for record in records:
        if record.baseline is not None:
            methods_of.setdefault(number(record.baseline), []).append(record.method)
    if not methods_of:
        return ""
    if len(methods_of) == 1:
        return f"Score with all words removed: {next(iter(methods_of))}."
    shares = [f"{value} ({', '.join(methods)})" for value, methods in methods_of.items()]
    return f"Score with all words removed: {'; '.join(shares)}."
