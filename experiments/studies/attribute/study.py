"""``layerscope attribute``: texts and methods,
with the faithfulness and the cost of every method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...attribution import Game, Scorer, explain
from ...attribution.examples import flip, nearest
from ...attribution.faithfulness import (
    Faithfulness,
    faithfulness,
    mean_agreement,
    random_faithfulness,
    rank_agreement,
    sensitivity,
)
from ...attribution.game import DRAWN
from ...attribution.methods import METHODS
from ...attribution.predictions import predictions
from ...attribution.question import Question
from ...corpus.prompts import Prompt
from ...report.schema import Interval, Note, as_json, from_json
from ...report.words import plural
from ...runs import console
from ...runs.execute import Cost, Run
from .findings import findings
from .inputs import AttributeInputs, prepare
from .media import modality_records, shown_pictures, shown_sounds
from .options import AttributeOptions
from .records import (
    MEASURED,
    RANDOM,
    AnswerProbability,
    Example,
    MethodRecord,
    Prediction,
    RandomRecord,
    Record,
    Results,
)

__all__ = ["cost", "measure", "prepare"]

DRAWN_STARTS, DRAWN_VALUES = ("sampled",), ("shuffle",)
"""Baselines, and replacements of hidden values, that are drawn."""


def cost(inputs: AttributeInputs) -> Cost:
    """Texts, units and methods; what a method costs is in its records."""
    options = inputs.options
    units = sum(len(question.units) for question in inputs.questions)
    return Cost(
        f"{plural(len(inputs.questions), 'text')} of {plural(units, options.level)}, "
        f"{plural(len(inputs.methods), 'method')}, each compared with "
        f"{plural(options.null_draws, 'random attribution')}"
    )


def measure(inputs: AttributeInputs, run: Run) -> Results:
    """Every method on every text; what an interrupted run has left is read."""
    answers = []
    for number, (question, prompt) in enumerate(zip(inputs.questions, inputs.prompts, strict=True)):
        answers.append(_prediction(number, question, prompt))
    records: list[Record] = []
    with run.timed("attribution"), console.progress() as bars:
        bar = bars.add_task("attribution", total=len(inputs.questions) * len(inputs.methods))
        for number in range(len(inputs.questions)):
            records += _TextRun(inputs, run, number).records(lambda: bars.advance(bar))
    with run.timed("examples"):
        examples = _examples(inputs, run)
    with run.timed("modalities"):
        modalities = modality_records(inputs, run)
    scored = [record for record in records if isinstance(record, MethodRecord)]
    return Results(
        records=records,
        agreement=_agreement(scored, inputs.methods),
        examples=examples,
        predictions=[answer for answer in answers if answer.answers],
        modalities=modalities,
        pictures=shown_pictures(inputs),
        sounds=shown_sounds(inputs),
        findings=findings(records, inputs.methods),
        notes=[*inputs.notes, *_notes(inputs.options, scored)],
    )


# -- one text


@dataclass(frozen=True)
class _TextRun:
    """One text's records, those that an interrupted run left and the others.

    Methods share the values that their measures need. Where a run was cut within a text, those of
    the finished methods are computed again, in the batches of the first time: the others then get
    the same bits.
    """

    inputs: AttributeInputs
    run: Run
    number: int

    @property
    def options(self) -> AttributeOptions:
        return self.inputs.options

    @property
    def question(self) -> Question:
        return self.inputs.questions[self.number]

    def records(self, advance: Callable[[], object]) -> list[Record]:
        """The record of every method, and that of random attributions."""
        names = list(self.inputs.methods)
        if self.options.null_draws:
            names.append(RANDOM)
        cells = {name: f"{self.number:05d}-{name}" for name in names}
        saved = {name: self.run.folder.cell(cell) for name, cell in cells.items()}
        scorer = Scorer(self.question, self.options.batch_tokens)
        records: list[Record] = []
        for place, name in enumerate(names):
            is_random = name == RANDOM
            if saved[name] is None:
                record = self._random_record(scorer) if is_random else self._record(scorer, name)
                self.run.folder.save_cell(cells[name], record)
            else:
                kind = RandomRecord if is_random else MethodRecord
                record = from_json(kind, saved[name], f"cell {cells[name]}")
                # Later methods share the values that were measured for this one.
                is_followed = any(saved[later] is None for later in names[place + 1 :])
                if is_followed:
                    self._repeat(scorer, record)
            records.append(record)
            if not is_random:
                advance()
        return records

    def _game(self, scorer: Scorer) -> Game:
        return Game(scorer, self.options.removal, self.options.seed, proposals=self.inputs.proposer)

    def _repeat(self, scorer: Scorer, record: Record) -> None:
        """Compute a finished record's values again, which later records share."""
        if isinstance(record, MethodRecord):
            faithfulness(self._game(scorer), np.array(record.scores), self.options.seed)

    def _explained(self, scorer: Scorer, method: str, seed: int) -> Any:
        options = self.options
        return explain(
            scorer,
            method,
            seed=seed,
            removal=options.removal,
            samples=options.samples,
            error=options.error,
            verify=options.verify,
            steps=options.steps,
            baseline=options.baseline,
            site=options.site,
            value=options.value,
            reference=self.inputs.references,
            proposals=self.inputs.proposer,
        )

    def _record(self, scorer: Scorer, method: str) -> MethodRecord:
        """One method's scores and measures."""
        options, question = self.options, self.question
        fresh = Scorer(question, options.batch_tokens)  # so that the cost is the method's own
        attribution = self._explained(fresh, method, options.seed)
        game = self._game(scorer)
        measured = faithfulness(game, attribution.scores, options.seed)
        stability = None
        if options.seeds and is_drawn(method, attribution.more):
            scores = [attribution.scores]
            for k in range(options.seeds):
                scores.append(self._explained(fresh, method, options.seed + 1 + k).scores)
            stability = mean_agreement(scores)
        shaken = None
        if options.sensitivity:

            def again() -> np.ndarray:
                unshared = Scorer(question, options.batch_tokens, share=False)
                return self._explained(unshared, method, options.seed).scores

            shaken = sensitivity(game, again, options.sensitivity, options.seed)
        return MethodRecord(
            item=self.number,
            **attribution.to_json(),
            **_measures(measured),
            measured_by=game.removal,
            stability=stability,
            sensitivity=shaken,
            patches=0 if question.medium is None else question.medium.n_cells,
        )

    def _random_record(self, scorer: Scorer) -> RandomRecord:
        """The measures of random attributions: the mean, and the extremes."""
        options, question, game = self.options, self.question, self._game(scorer)
        # Another seed for each text, lest all texts get the same order of units.
        drawn = random_faithfulness(game, options.null_draws, options.seed + self.number)
        means: dict[str, float] = {}
        ranges: dict[str, Any] = {}
        for name in MEASURED:
            of_draws = [getattr(draw, name) for draw in drawn]
            means[name] = float(np.mean(of_draws))
            ranges[f"{name}_interval"] = Interval(float(min(of_draws)), float(max(of_draws)))
        mean = Faithfulness(
            **means,
            deleted=tuple(np.mean([draw.deleted for draw in drawn], axis=0).tolist()),
            inserted=tuple(np.mean([draw.inserted for draw in drawn], axis=0).tolist()),
        )
        return RandomRecord(
            item=self.number,
            method=RANDOM,
            text=question.text,
            target=question.name,
            unit=question.unit,
            measured_by=game.removal,
            draws=len(drawn),
            **_measures(mean),
            **ranges,
        )


def is_drawn(method: str, figures: Mapping[str, Any]) -> bool:
    """Whether scores depend on the seed, by the method and the settings that it used."""
    return (
        METHODS[method].draws
        or figures.get("removal") in DRAWN
        or figures.get("start") in DRAWN_STARTS
        or figures.get("value") in DRAWN_VALUES
    )


def _measures(measured: Faithfulness) -> dict[str, Any]:
    fields = {}
    for name, value in dataclasses.asdict(measured).items():
        fields[name] = list(value) if isinstance(value, tuple) else value
    return fields


def _prediction(number: int, question: Question, prompt: Prompt) -> Prediction:
    """What the model answers for a text."""
    answers = []
    for answer in predictions(question):
        answers.append(AnswerProbability(answer=answer.answer, probability=answer.probability))
    return Prediction(item=number, answers=answers, labels=bool(question.labels), gold=prompt.label)


def _examples(inputs: AttributeInputs, run: Run) -> list[Example]:
    """For each text the words whose change makes the model give another answer,
    and the known texts most like it.
    """
    options = inputs.options
    if not (options.flips or inputs.known):
        return []
    known = [(prompt.prompt, prompt.answer or None) for prompt in inputs.known]
    examples = []
    for number, question in enumerate(inputs.questions):
        cell = f"{number:05d}-examples"
        raw = run.folder.cell(cell)
        if raw is None:
            # Both in one cell: the two are read together, and a run that is resumed asks for one
            # file a text.
            changed, near = None, []
            if options.flips:
                changed = as_json(flip(Scorer(question, options.batch_tokens), options.flips))
            if known:
                text = inputs.prompts[number].prompt if inputs.model.has_decoder else question.text
                near = nearest(question.subject, text, known, options.known_site)
            raw = {"item": number, "flip": changed, "nearest": [as_json(text) for text in near]}
            run.folder.save_cell(cell, raw)
        examples.append(from_json(Example, raw, f"cell {cell}"))
    return examples


# -- all texts


def _agreement(
    records: Sequence[MethodRecord], methods: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Mean Spearman correlation of each pair of methods over the texts."""
    scores = {(record.item, record.method): np.array(record.scores) for record in records}
    items = sorted({record.item for record in records})
    # Ranks, since methods have units of their own.
    agreement: dict[str, dict[str, float | None]] = {}
    for first in methods:
        row: dict[str, float | None] = {}
        for second in methods:
            known = []
            for item in items:
                of_item = rank_agreement(scores[item, first], scores[item, second])
                if of_item is not None:
                    known.append(of_item)
            row[second] = float(np.mean(known)) if known else None
        agreement[first] = row
    return agreement


def _notes(options: AttributeOptions, records: Sequence[MethodRecord]) -> list[Note]:
    """What was not measured, and what the methods say of their scores;
    a note of many texts once.
    """
    notes = []
    if not options.null_draws:
        notes.append(
            Note(
                kind="skipped",
                text="no random attribution to compare the methods with (--null-draws 0)",
            )
        )
    # A method that draws gives another ranking for another seed; how far it is another is part of
    # the result.
    if not options.seeds and any(is_drawn(record.method, record.more) for record in records):
        notes.append(Note(kind="skipped", text="stability over seeds not measured (--seeds 0)"))
    counts: dict[tuple[str, Note], int] = {}
    for record in records:
        for note in record.notes:
            counts[record.method, note] = counts.get((record.method, note), 0) + 1
    for (method, note), count in counts.items():
        texts = f" ({count} texts)" if count > 1 else ""
        notes.append(replace(note, text=f"{method}: {note.text}{texts}"))
    return notes
