"""A confidence measured against correctness: what ``calibrate`` and ``ask --confidence`` do.

Predictions come from a file, or are made here: a language model's own token probabilities on
questions with choices, on prompts with a right and a wrong answer, on minimal pairs, or of the next
token of prompts or plain texts. With validation rows each scaling of `probes.scaling` is fitted on
them, and judged on the others. With ``--confidence`` the model also says how sure it is of the same
answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..corpus.prompts import Prompt
from ..metrics.metrics import get_metric
from ..report.schema import Finding, Note
from ..runs.execute import Run
from ..subject import Subject
from ..sweep.effects import clusters_of, group_notes
from ..sweep.sweep import chunks, clean_values
from .asked import ASKED, Answer, Asking
from .groups import compare_groups, group_findings
from .inputs import ConfidenceInputs, open_prompt
from .labelled import LabelledTexts, class_probabilities, n_cut, predicted
from .next_tokens import next_tokens
from .predictions import Predictions, save_predictions
from .questions import Question, token_probabilities
from .recalibration import recalibrated
from .records import JudgedRecord
from .reliability import Judged, compare, errors_of, finding, judge_all

Names: TypeAlias = "tuple[Sequence[str], Sequence[str], Sequence[str]]"
"""Of each row: what it is, what was answered, what is right."""
TOKENS = "token probabilities"
FEW_MASS = 0.5
"""Share of the probability below which two letters are not what the model would answer."""
COARSE = 0.5
"""Share of the rows above which one value of a confidence is reported."""


@dataclass(frozen=True)
class Measurement:
    """What a run gives: every confidence, the first one's wrong answers, and what was skipped or
    dropped.

    Args:
        test: the rows that are measured, where they have whole distributions.
    """

    methods: list[Judged]
    names: Names
    notes: list[Note]
    test: Predictions | None = None

    def fields(self, source: str, bins: int, seed: int) -> dict[str, Any]:
        """The fields of the results."""
        records = judge_all(self.methods, bins, seed)
        return {
            "records": records,
            "comparisons": compare(self.methods, seed),
            "errors": errors_of(self.methods[0], *self.names),
            "findings": [
                Finding(property=record.method, text=finding(record)) for record in records
            ],
            "notes": [*self.notes, *_notes(records)],
            "source": source,
        }


def measure(inputs: ConfidenceInputs, run: Run) -> dict[str, Any]:
    """Every confidence of the same answers, judged: the fields of the results.

    Writes ``predictions.npz`` and the scalings that were fitted, ``scalings/NAME.safetensors``, to
    the run's folder.
    """
    options = inputs.options
    if inputs.texts:
        measurement = _of_texts(inputs)
    elif inputs.is_open:
        measurement = _next_token(inputs)
    else:
        measurement = _of_distributions(inputs, run)
    fields = measurement.fields(inputs.source, options.bins, options.seed)
    fields["notes"] = [*inputs.dropped, *fields["notes"]]
    if not getattr(options, "group_by", ()) or measurement.test is None:
        return fields
    groups, differences, notes = compare_groups(
        measurement.test, getattr(options, "positive", None), options.bins, options.seed
    )
    sentences = [Finding(property=name, text=text) for name, text in group_findings(differences)]
    return {
        **fields,
        "groups": groups,
        "group_differences": differences,
        "findings": [*fields["findings"], *sentences],
        "notes": [*fields["notes"], *notes],
    }


def _of_distributions(inputs: ConfidenceInputs, run: Run) -> Measurement:
    """Confidences in answers that were chosen from several."""
    options, notes = inputs.options, list[Note]()
    cells = ("tokens", "tokens-validation")
    predictions = inputs.predictions
    if inputs.labelled:
        predictions = [
            _class_predictions(inputs, run, texts, cell, notes)
            for texts, cell in zip(inputs.labelled, cells, strict=False)
        ]
    elif inputs.questions:
        predictions = [
            _token_predictions(inputs, run, questions, cell)
            for questions, cell in zip(inputs.questions, cells, strict=False)
        ]
    whole = inputs.with_validation(predictions)
    save_predictions(options.out / "predictions.npz", whole)
    test = whole.rows(~whole.validation)
    name = TOKENS if inputs.questions else "probabilities"
    methods = [Judged.of(name, test), *recalibrated(whole, test, notes, options.out)]
    measured: list[Question] = []
    if inputs.questions:
        # Validation rows of another file follow those of the first.
        rows = zip(inputs.questions[0], inputs.validation, strict=True)
        measured = [question for question, is_validation in rows if not is_validation]
    if options.confidence:
        methods += _ask(inputs, run, measured, methods[0], notes)
    groups = np.unique(test.clusters, return_inverse=True)[1]
    notes += group_notes(groups)
    return Measurement(methods, _names(test, measured), notes, test)


def _names(test: Predictions, questions: Sequence[Question]) -> Names:
    """Each row as a reader knows it: what it is, what was answered, what is right."""
    best = test.probabilities.argmax(1)
    if not questions:
        texts = test.texts or [f"row {i + 1}" for i in range(len(test))]
        answered = [test.classes[k] for k in best]
        return texts, answered, [test.classes[k] for k in test.labels]
    texts, answered, right = [], [], []
    for i, (question, k) in enumerate(zip(questions, best, strict=True)):
        texts.append(f"pair {i + 1}" if question.whole else question.question)
        answered.append(question.choices[k].strip())
        right.append(question.choices[question.answer].strip())
    return texts, answered, right


def _class_predictions(
    inputs: ConfidenceInputs, run: Run, labelled: LabelledTexts, cell: str, notes: list[Note]
) -> Predictions:
    """A classifier's own probabilities of labelled texts."""
    subject, options = inputs.subject, inputs.options

    def computed() -> list[list[float]]:
        return class_probabilities(subject, labelled.texts, options.batch_tokens).tolist()

    if count := n_cut(subject, labelled.texts):
        text = f"{count} texts exceed the model's {subject.max_length} tokens and are truncated"
        notes.append(Note(kind="warning", text=text))
    return predicted(subject, labelled, np.array(run.folder.kept(cell, computed)))


def _token_predictions(
    inputs: ConfidenceInputs, run: Run, questions: Sequence[Question], cell: str
) -> Predictions:
    """The model's own probabilities;
    questions with fewer choices than others have 0 for what they lack.
    """
    subject, options = inputs.subject, inputs.options
    letters = options.choices == "letter"

    def computed() -> list[list[float]]:
        rows = token_probabilities(
            subject, questions, inputs.templates, letters, options.batch_tokens
        )
        return [row.tolist() for row in rows]

    rows = run.folder.kept(cell, computed)
    width = max(len(row) for row in rows)
    # With padding a class would mean another choice in each row.
    same_width = all(len(row) == width for row in rows)
    return Predictions(
        np.array([row + [0.0] * (width - len(row)) for row in rows]),
        np.array([q.answer for q in questions]),
        tuple(f"choice {k + 1}" for k in range(width)),
        clusters_of(questions),
        np.zeros(len(questions), bool),
        by_class=letters and same_width,
        same_width=same_width,
    )


def _next_token(inputs: ConfidenceInputs) -> Measurement:
    """The most probable of all tokens after each prompt: its probability,
    and whether it is the answer's.
    """
    subject, questions = inputs.subject, inputs.questions[0]
    texts, answers = [q.question for q in questions], [q.choices[0] for q in questions]
    prompts = [open_prompt(question) for question in questions]
    confidence = _of_prompts(subject, "confidence", prompts, inputs.options.batch_tokens)
    rank = _of_prompts(subject, "rank", prompts, inputs.options.batch_tokens)
    is_right = rank == 0
    confidence = np.minimum(confidence, 1.0)  # rounding may leave it a little above
    judged = Judged("next token", confidence, is_right, clusters_of(questions))
    note = Note(kind="info", text="the answer is the most probable of all tokens after the prompt")
    others = ["another token"] * len(questions)
    return Measurement([judged], (texts, others, answers), [note])


def _of_texts(inputs: ConfidenceInputs) -> Measurement:
    """The most probable token at every position of plain texts,
    and whether it is the one that follows.
    """
    rows = next_tokens(inputs.subject, inputs.texts, inputs.options.batch_tokens)
    note = Note(kind="info", text="a row is a token of the texts that has another in front of it")
    names = (rows.fronts, rows.predicted, rows.following)
    return Measurement([rows.judged], names, [note, *group_notes(rows.text)])


def _of_prompts(
    subject: Subject, metric: str, prompts: Sequence[Prompt], batch_tokens: int
) -> np.ndarray:
    of_metric = get_metric(metric)
    groups = chunks(subject, of_metric.reads(subject, prompts), batch_tokens)
    return clean_values(subject, of_metric, list(groups))


def _ask(
    inputs: ConfidenceInputs,
    run: Run,
    questions: Sequence[Question],
    tokens: Judged,
    notes: list[Note],
) -> list[Judged]:
    """What the model says of its answers, in each of the ways that are asked for."""
    subject, options = inputs.subject, inputs.options
    assert tokens.probabilities is not None
    chosen = [int(k) for k in tokens.probabilities.argmax(1)]
    asking = Asking(
        subject,
        inputs.templates,
        questions,
        chosen,
        options.samples,
        options.batch_tokens,
        options.seed,
    )
    judged = []
    for name in dict.fromkeys(options.confidence):
        answers = ASKED[name](asking, name, run.folder)
        judged.append(_judged(name, answers, tokens))
        notes += _answer_notes(name, answers)
    return judged


def _answer_notes(name: str, answers: Sequence[Answer]) -> list[Note]:
    """Answers that are none, and probabilities that went elsewhere than to the two letters."""
    notes = []
    if name == "p_true":
        n_few = sum(float(answer.text) < FEW_MASS for answer in answers)
        if n_few:
            text = (
                f"p_true: A and B together have less than half of the probability in {n_few} of "
                f"{len(answers)} questions"
            )
            notes.append(Note(kind="warning", text=text))
    for reason in ("refused", "unparsable"):
        texts = [answer.text for answer in answers if answer.reason == reason]
        if texts:
            text = (
                f"{name}: {len(texts)} of {len(answers)} answers {reason}, "
                f"such as {texts[0][:60]!r}"
            )
            notes.append(Note(kind="dropped", text=text))
    return notes


def _judged(name: str, answers: Sequence[Answer], tokens: Judged) -> Judged:
    confidence = []
    counts: dict[str, int] = {"refused": 0, "unparsable": 0}
    for answer in answers:
        confidence.append(np.nan if answer.confidence is None else answer.confidence)
        if answer.reason in counts:
            counts[answer.reason] += 1
    return Judged(name, np.array(confidence), tokens.correct, tokens.clusters, counts=counts)


def _notes(records: Sequence[JudgedRecord]) -> list[Note]:
    """What a reader of the records must know."""
    notes = []
    for record in records:
        if not record.measured:
            text = f"{record.method}: {record.n_answered} confidences are too few to measure"
            notes.append(Note(kind="skipped", text=text))
            continue
        assert record.commonest_share is not None
        if record.commonest_share > COARSE and record.n_answered > 1:
            text = (
                f"{record.method}: {record.commonest_share:.0%} of the confidences are "
                f"{record.commonest:.3g}"
            )
            notes.append(Note(kind="warning", text=text))
        if record.n_impossible:
            rows = f"{record.n_impossible} rows give their label zero probability"
            text = f"{record.method}: {rows}, so the log-likelihood is infinite"
            notes.append(Note(kind="warning", text=text))
    return notes
