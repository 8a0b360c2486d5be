"""What a confidence is measured on: predictions of a file, or rows that a model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ..corpus.prompts import Prompt, Unusable, read_pairs, read_prompts
from ..metrics.metrics import get_metric
from ..metrics.usable import check_share, joined_notes, unusable_notes, usable
from ..report.schema import Note
from ..runs.execute import Cost, DataFile, Inputs, Load
from ..subject import Subject
from ..subject.word_spans import Encoded
from ..sweep.effects import clusters_of
from .labelled import LabelledTexts, read_labelled_texts, with_known_labels
from .next_tokens import encoded_texts, followed
from .options import SOURCES, ConfidenceOptions
from .predictions import PredictionError, Predictions, drawn_groups, read_predictions
from .questions import (
    Question,
    QuestionError,
    Templates,
    asked_items,
    of_pairs,
    of_prompts,
    read_questions,
)


@dataclass(kw_only=True)
class ConfidenceInputs(Inputs):
    """What has been read.

    Args:
        source: the option that names the file.
        predictions: of the file and of the validation file, where they are predictions.
        labelled: texts of both files, where a classifier is asked.
        texts: whose next tokens a language model predicts.
        questions: of both files, where a model is asked.
        templates: the wording of what it is asked.
        dropped: what was left out of the files.
    """

    options: ConfidenceOptions
    source: str
    predictions: list[Predictions] = field(default_factory=list)
    labelled: list[LabelledTexts] = field(default_factory=list)
    questions: list[list[Question]] = field(default_factory=list)
    texts: list[Encoded] = field(default_factory=list)
    templates: Templates = field(default_factory=Templates)
    dropped: list[Note] = field(default_factory=list)

    @property
    def rows(self) -> Sequence[Predictions | LabelledTexts | list[Question]]:
        """The rows of each file."""
        return self.predictions or self.labelled or self.questions

    @property
    def is_open(self) -> bool:
        """Whether the prompts have an answer and nothing to choose from."""
        return bool(self.questions) and self.questions[0][0].is_open

    @cached_property
    def validation(self) -> Bool[np.ndarray, " n"]:
        """The rows of the first file that scalings are fitted on."""
        if self.predictions:
            clusters, marked = self.predictions[0].clusters, self.predictions[0].validation
        elif self.labelled:
            clusters = clusters_of(self.labelled[0].texts)
            marked = np.array(self.labelled[0].validation)
        elif self.texts:
            clusters = np.concatenate(
                [np.full(len(followed(text)), number) for number, text in enumerate(self.texts)]
            )
            marked = np.zeros(len(clusters), bool)
        else:
            clusters = clusters_of(self.questions[0])
            marked = np.zeros(len(clusters), bool)
        return (
            drawn_groups(clusters, self.options.split, self.options.seed)
            if self.options.split
            else marked
        )

    def with_validation(self, predictions: Sequence[Predictions]) -> Predictions:
        """The rows of both files, those that scalings are fitted on marked."""
        first = predictions[0].marked(self.validation)
        return first if len(predictions) == 1 else first.with_validation(predictions[1])


def prepare(options: ConfidenceOptions, load: Load) -> ConfidenceInputs:
    """The rows, and the model that is asked.

    Raises:
        QuestionError: options that do not fit together, fewer rows than bins.
        PredictionError, PromptError: a file that cannot be read.
    """
    # The options first, then the files, then the model: a mistake costs no time that was not needed
    # to find it.
    inputs = ConfidenceInputs(options=options, subject=None, source=_checked(options))
    paths = [] if inputs.source == "text" else [options.source]
    if options.validation:
        paths.append(options.validation)
    unusable: list[list[Unusable]] = [[] for _ in paths]
    for path, left_out in zip(paths, unusable, strict=True):
        _read(inputs, path, left_out)
    _check_shares(inputs, unusable)
    if inputs.source != "predictions":
        inputs.subject = load(classifier=True)
        _check_model(inputs.subject, inputs.source)
    inputs.templates = Templates(inputs.subject, options.templates, options.chat)
    if inputs.subject is not None:
        _leave_out(inputs, inputs.subject, unusable)
        _check_shares(inputs, unusable)
    for rows, left_out in zip(inputs.rows, unusable, strict=True):
        inputs.dropped += unusable_notes(left_out, len(rows))
    if inputs.subject is not None:
        for questions in inputs.questions:
            inputs.dropped += joined_notes(questions, inputs.subject)
    files = zip((inputs.source, "validation"), paths, inputs.rows, strict=False)
    inputs.data = [DataFile.of(name, path, len(rows)) for name, path, rows in files]
    for path in inputs.templates.replaced:
        inputs.data.append(DataFile.of(f"template {path.stem}", path, 1))
    _check_measured(inputs)
    return inputs


def _checked(options: ConfidenceOptions) -> str:
    """Which of the sources is given, with what it needs.

    Raises:
        QuestionError: none or several, a model missing or too much, an option that has nothing to
            act on.
    """
    sources = [name for name in SOURCES if hasattr(options, name)]
    given = [name for name in sources if getattr(options, name) not in (None, ())]
    if len(given) != 1:
        raise QuestionError(
            f"expected one of --{', --'.join(sources)}, got {', '.join(given) or 'none'}"
        )
    source = given[0]
    is_of_file = source == "predictions"
    if options.confidence and is_of_file:
        raise QuestionError("--confidence: expected a model to ask, not predictions from a file")
    if is_of_file != (options.model is None):
        raise QuestionError(
            "expected --model for labelled texts, texts, questions, prompts and pairs, "
            "and none for --predictions"
        )
    if options.confidence and source == "labelled":
        raise QuestionError("--confidence: expected a language model to ask, not a classifier")
    if source == "text" and (options.confidence or options.validation or options.split):
        raise QuestionError(
            "--confidence, --validation and --split need answers to choose from: "
            "expected --questions, --prompts or --pairs in place of --text"
        )
    # The options of `ask --confidence` know neither of these two.
    by, positive = getattr(options, "group_by", ()), getattr(options, "positive", None)
    if by and source not in ("predictions", "labelled"):
        raise QuestionError("--group-by: expected --predictions or --labelled, which have columns")
    if positive and not by:
        raise QuestionError(
            "--positive: expected --group-by COLUMN, because it selects the class for group errors"
        )
    if options.validation is not None and options.split:
        raise QuestionError("expected one of --validation FILE and --split SHARE")
    files = [options.validation] if source == "text" else [options.source, options.validation]
    for path in files:
        if path is not None and (path.is_dir() or not path.exists()):  # it may be a pipe
            got = "got a folder" if path.is_dir() else "there is none"
            raise QuestionError(f"{path}: expected a file, {got}")
    return source


def _read(inputs: ConfidenceInputs, path: Path, unusable: list[Unusable]) -> None:
    """Add the rows of a file."""
    options = inputs.options
    by: tuple[str, ...] = getattr(options, "group_by", ())
    if inputs.source == "predictions":
        inputs.predictions.append(read_predictions(path, options.limit, by, unusable))
    elif inputs.source == "labelled":
        inputs.labelled.append(read_labelled_texts(path, options.limit, by, unusable))
    else:
        inputs.questions.append(_read_questions(options, inputs.source, path, unusable))


def _read_questions(
    options: ConfidenceOptions, source: str, path: Path, unusable: list[Unusable]
) -> list[Question]:
    """The questions of a file; prompts of which none has a wrong answer are open ones."""
    templates = Templates(folder=options.templates)
    if source == "pairs":
        return of_pairs(read_pairs(path, options.limit, unusable), templates, options.seed)
    if source == "questions":
        return read_questions(path, options.limit, unusable)
    prompts = read_prompts(path, options.limit, unusable=unusable)
    if any(prompt.wrong is not None for prompt in prompts):
        return of_prompts(prompts, templates, options.seed, unusable)
    if options.confidence or options.validation or options.split:
        raise QuestionError(
            "--confidence, --validation and --split need prompts with a "
            "'wrong' answer to choose from"
        )
    return [Question(p.prompt, (p.answer,), 0, p.group, p.prompt, line=p.line) for p in prompts]


def _check_model(subject: Subject, source: str) -> None:
    """Refuse a classifier that is asked questions,
    and a language model that is given labelled texts.
    """
    if source != "labelled" and subject.classes:
        raise QuestionError(
            f"--{source}: expected a language model, {subject.name} classifies texts: "
            "give --labelled FILE"
        )


def _check_shares(inputs: ConfidenceInputs, unusable: Sequence[list[Unusable]]) -> None:
    """Refuse a file of which too much is left out."""
    for rows, left_out in zip(inputs.rows, unusable, strict=True):
        check_share(left_out, len(rows) + len(left_out), inputs.options.skip)


def _leave_out(
    inputs: ConfidenceInputs, subject: Subject, unusable: Sequence[list[Unusable]]
) -> None:
    """Keep what the model can be asked, and encode texts for it."""
    for number, rows in enumerate(inputs.labelled):
        inputs.labelled[number] = with_known_labels(subject, rows, unusable[number])
    for number, rows in enumerate(inputs.questions):
        inputs.questions[number] = _measurable(inputs, subject, rows, unusable[number])
    if inputs.source == "text":
        texts = getattr(inputs.options, "text", ())[: inputs.options.limit]
        inputs.texts = encoded_texts(subject, texts)


def _measurable(
    inputs: ConfidenceInputs,
    subject: Subject,
    questions: Sequence[Question],
    unusable: list[Unusable],
) -> list[Question]:
    """The questions that the model can be asked; those that are too long for it,
    or whose choices join them, are left out.
    """
    options = inputs.options

    def read(some: Sequence[Question]) -> None:
        if some[0].is_open:
            metric, items = "confidence", [open_prompt(question) for question in some]
        else:
            metric, items = asked_items(some, inputs.templates, options.choices == "letter")
        get_metric(metric).reads(subject, items)

    return usable(questions, read, unusable, options.skip)[0]


def _check_measured(inputs: ConfidenceInputs) -> None:
    """Refuse fewer rows to measure than bins."""
    n_measured, bins = int((~inputs.validation).sum()), inputs.options.bins
    if not n_measured:
        raise PredictionError(
            f"{inputs.options.source}: expected rows to measure, all are validation rows"
        )
    # Each bin of equal mass takes a row at least.
    if n_measured < bins:
        raise QuestionError(
            f"expected at least as many rows as bins, got {n_measured} rows and "
            f"{bins} bins: give --bins {n_measured} or less"
        )


def open_prompt(question: Question) -> Prompt:
    return Prompt(question.prompt or question.question, question.choices[0])


def cost(inputs: ConfidenceInputs) -> Cost:
    """Forwards over the rows, and answers written by the model."""
    n = sum(map(len, inputs.rows))
    if inputs.subject is None:
        return Cost(f"{n:,} rows; confidences: the probabilities of the file")
    if inputs.labelled:
        return Cost(f"{n:,} texts; confidences: the classifier's probabilities")
    if inputs.texts:
        n_tokens = sum(len(followed(text)) for text in inputs.texts)
        return Cost(
            f"{n_tokens:,} tokens of {len(inputs.texts):,} texts; confidence: "
            "the most probable next token"
        )
    ways = ", ".join(("token probabilities", *inputs.options.confidence))
    return Cost(f"{n:,} rows; confidences: {ways}")
