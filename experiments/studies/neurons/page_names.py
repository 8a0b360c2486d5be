"""The neurons that a study names: ranked by their effect alone,
and with the words that move them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...report.parts import (
    Cell,
    Column,
    Contexts,
    Fold,
    Heat,
    Mistake,
    Section,
    Table,
    corrected_cell,
    signed_cell,
)
from ...report.ranked import Ranked, ranked
from ...report.records_table import mistake
from ...report.words import ABSENT, signed
from ...sweep.reading import LEVEL
from .records import NeuronRecord, ReadRecord, Results, SetRecord, SiteRecord, WordRecord

Row = TypeVar("Row", SetRecord, ReadRecord, NeuronRecord)
MOST_RANKED = 30
"""Neurons that the ranked picture shows."""


def rows_of(rows: Sequence[Row], site: SiteRecord) -> list[Row]:
    """The rows of one site."""
    return [row for row in rows if row.site == site.site]


def in_words(name: str) -> str:
    """A name of the records as a reader sees it."""
    return name.replace("_", " ")


def _ranked(
    place: int,
    neurons: Sequence[NeuronRecord],
    alone: Mapping[int | None, SetRecord],
    data: dict[str, Any],
) -> Heat | None:
    """The named neurons by the effect of changing each alone; None where none was changed."""
    changed = [(neuron, alone[neuron.index]) for neuron in neurons if neuron.index in alone]
    if not changed:
        return None
    changed.sort(key=lambda pair: -abs(pair[1].effect))
    rows = []
    for neuron, record in changed[:MOST_RANKED]:
        highest = max(neuron.classes, key=lambda label: neuron.classes[label], default="")
        note = f"“{neuron.top_form}”, highest for {highest}" if highest else f"“{neuron.top_form}”"
        is_clear = record.q is not None and record.q < LEVEL
        rows.append(Ranked(_name(neuron), record.effect, record.effect_interval, is_clear, note))
    first = changed[0][1]
    left_out = f" The {MOST_RANKED} largest of {len(changed)}." if len(changed) > len(rows) else ""
    return ranked(
        f"ranked-{place}",
        rows,
        data,
        title="Effect of each neuron alone",
        x_title=f"change of {first.metric}, {first.unit}",
        caption=f"Each named neuron changed alone ({first.value}). Bars: 95% intervals over texts. "
        f"Filled: significant (FDR < {LEVEL}). Right: the word that is most frequent where "
        f"the neuron is most active, and its highest class.{left_out}",
    )


def names_section(place: int, site: SiteRecord, results: Results, data: dict[str, Any]) -> Section:
    """The neurons that the rankings put first, each with its words."""
    neurons = rows_of(results.neurons, site)
    alone = {
        record.index: record
        for record in rows_of(results.records, site)
        if record.component == "neurons"
    }
    rankings = list(neurons[0].ranks) if neurons else []
    columns = [
        Column("neuron", False),
        *(Column(in_words(ranking), hint="its place in this ranking") for ranking in rankings),
        Column(
            "highest for",
            False,
            "the class with the highest mean, in standard deviations from all words",
        ),
        Column("lowest for", False, "the class with the lowest mean"),
        Column("effect alone", hint="metric with this neuron alone changed minus metric without"),
        Column("q", hint="false discovery rate over the named neurons of this run"),
    ]
    rows = [_neuron_row(neuron, rankings, alone.get(neuron.index)) for neuron in neurons]
    folds = [_words_of(neuron, is_open=i == 0) for i, neuron in enumerate(neurons)]
    about = (
        "The first neurons of every ranking, and the words that move them most: "
        "in standard deviations from the mean of all words, at most two of a word form, "
        "with the word's label."
    )
    table = Table(f"neurons-{place}", "The neurons by name", columns, rows, copy=True)
    picture = _ranked(place, neurons, alone, data)
    parts = [*([] if picture is None else [picture]), table, *folds]
    return Section(f"names-{place}", f"Neurons of {site.site}", parts, about, study=True)


def _name(neuron: NeuronRecord) -> str:
    return f"L{neuron.layer}N{neuron.index}"


def _neuron_row(
    neuron: NeuronRecord, rankings: Sequence[str], alone: SetRecord | None
) -> list[Cell]:
    classes = sorted(neuron.classes.items(), key=lambda item: -item[1])
    ends = [f"{label} {signed(value, 2)}" for label, value in (classes[:1] + classes[-1:])]
    effect = (None, None) if alone is None else (alone.effect, alone.effect_interval)
    q, p = (None, None) if alone is None else (alone.q, alone.p)
    return [
        Cell(_name(neuron), float(neuron.index), head=True),
        *(Cell(str(neuron.ranks[ranking]), float(neuron.ranks[ranking])) for ranking in rankings),
        *(Cell(text) for text in ends),
        signed_cell(*effect),
        corrected_cell(q, p),
    ]


def _words_of(neuron: NeuronRecord, is_open: bool) -> Fold:
    """The words that move a neuron most, each in its sentence."""
    words = [_context(word) for word in neuron.words]
    forms = ", ".join(dict.fromkeys(word.word for word in words[:8]))
    share = f"{100 * neuron.top_share:.0f}% of its farthest 100 words"
    return Fold(
        f"{_name(neuron)}: {forms} (“{neuron.top_form}” is {share})",
        [Contexts(words)],
        open=is_open,
    )


@dataclass(frozen=True)
class _Shown:
    """A word as `mistake` draws one: its label as the gold class, and no prediction."""

    words: list[str]
    index: int | None
    sentence_id: str
    gold: str
    predicted: str = ""
    confidence: float | None = None


def _context(word: WordRecord) -> Mistake:
    """The word in its sentence."""
    shown = mistake(_Shown(word.words, word.index, word.sentence_id, word.label or ABSENT))
    return replace(shown, confidence=signed(word.deviations, 1))
