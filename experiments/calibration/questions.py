"""Questions with several choices, one of them right: from a file, from prompts with a wrong answer,
from minimal pairs.

A record of a question file (`corpus.records`) has ``question``, ``choices`` (two or more texts) and
``answer`` (the right one, by its text, its letter or its place from 0), and perhaps ``group``
(questions that are resampled together); MMLU's and ARC's names are read too. Where every whole
number of a file is the text of one of its row's choices, it is that choice. A model's own
probability of a choice is that of its text after the question, or that of its letter after the
question and all choices, divided by the sum over the choices:

    p(choice) = 2^(log2 p(text | question)) / sum over the choices

The wording is in plain files, ``asking/*.txt``; another folder takes their place by
``--templates``.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from layerscope.errors import InputError, LayerscopeError

from ..corpus.prompts import Pair, Prompt
from ..corpus.records import (
    Headerless,
    Numbered,
    PromptError,
    Unusable,
    first_of,
    group_of,
    read_lines_as,
    shown,
)
from ..metrics.metrics import BITS, get_metric
from ..subject import Subject
from ..subject.chat import render_chat
from ..sweep.sweep import chunks, clean_values

TEMPLATES = Path(__file__).parent / "asking"


class QuestionError(LayerscopeError, ValueError):
    """Questions or templates that cannot be asked."""


@dataclass(frozen=True)
class Question:
    """A question with its choices.

    Args:
        question: as it is put to the model in words.
        answer: the place of the right choice.
        prompt: the text that each choice continues; None where the template makes it.
        whole: the choices are whole texts, and continue nothing.
        line: of the file, from 1.

    A question with one choice is open: the choice is its answer, among all tokens.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    group: str | None = None
    prompt: str | None = None
    whole: bool = False
    line: int | None = field(default=None, compare=False)

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to choose from."""
        return len(self.choices) == 1


class Templates:
    """The wording of everything that a model is asked, from plain files.

    Args:
        folder: where files of the same names take the place of the package's.
        subject: with ``chat``, its tokenizer's chat template goes around each question.

    Raises:
        QuestionError: a folder without any of the names, or ``chat`` for a tokenizer without a
            template.
    """

    def __init__(
        self, subject: Subject | None = None, folder: Path | None = None, chat: bool = False
    ) -> None:
        self._tokenizer = subject.tokenizer if subject is not None and chat else None
        names = [path.stem for path in sorted(TEMPLATES.glob("*.txt"))]
        self.texts: dict[str, str] = {}
        for name in names:
            text = (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")
            self.texts[name] = text.rstrip("\n")
        self.replaced: list[Path] = []
        if folder is not None:
            candidates = [folder / f"{name}.txt" for name in names]
            self.replaced = [path for path in candidates if path.is_file()]
            if not self.replaced:
                raise QuestionError(
                    f"--templates {folder}: expected a file named "
                    f"{'.txt, '.join(names)}.txt, found none"
                )
            self.texts |= {path.stem: _template(path) for path in self.replaced}
        if self._tokenizer is not None and not getattr(self._tokenizer, "chat_template", None):
            raise QuestionError("--chat: this tokenizer has no chat template")

    def fill(self, name: str, **fields: str) -> str:
        """A template with its fields;
        a field in braces that is not known is an error that names it.
        """
        text = self.texts[name]
        expected = f"template {name}.txt: expected fields {', '.join(sorted(fields))}"
        try:
            used = {field for _, field, _, _ in string.Formatter().parse(text) if field}
            for field in used - set(fields):
                raise QuestionError(f"{expected}, got {{{field[:80]}}}")
            return text.format(**fields)
        except (ValueError, LookupError) as error:
            if isinstance(error, QuestionError):
                raise
            raise QuestionError(
                f"{expected}, each in braces; braces of the text are doubled ({error})"
            ) from None

    def ask(self, name: str, **fields: str) -> str:
        """The text that a model continues with its answer; in a chat the last line, such as
        ``Answer:``, is the answer's beginning."""
        text = self.fill(name, **fields)
        if self._tokenizer is None:
            return text
        message, _, beginning = text.rpartition("\n")
        return render_chat(self._tokenizer, message) + beginning

    def listed(self, question: Question) -> str:
        """Its choices, one a line, each behind its letter."""
        letters = LETTERS[: len(question.choices)]
        return "\n".join(
            f"{a}. {text.strip()}" for a, text in zip(letters, question.choices, strict=True)
        )


MMLU = Headerless(("question", "A", "B", "C", "D", "answer"), "answer", frozenset("ABCD"))
"""Files of MMLU, which have no line of names."""
LETTERS = string.ascii_uppercase


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise QuestionError(f"{path}: expected UTF-8 text") from None


def read_questions(
    path: Path, limit: int | None = None, unusable: list[Unusable] | None = None
) -> list[Question]:
    """Read a question file.

    Args:
        unusable: is given the questions that cannot be asked; without it, the first one is an
            error.

    Raises:
        PromptError: another format, a field that is missing, an answer that is no choice, two equal
            choices, an empty file.
    """
    rows = read_lines_as(path, limit, lambda record: record, headerless=(MMLU,), prepare=_numbered)
    refused: list[Unusable] = []
    drafts: list[tuple[int, _Draft]] = []
    for row in rows:
        try:
            drafts.append((row[_LINE], _draft(row)))
        except InputError as error:
            refused.append(Unusable(row[_LINE], str(error)))
    whole = [draft for _, draft in drafts if isinstance(draft.answer, int)]
    # In a file in which every whole number is one of its row's choices, a number is a choice and
    # not a place.
    by_name = all(str(draft.answer) in draft.choices for draft in whole)
    questions = []
    for line, draft in drafts:
        try:
            questions.append(replace(draft.question(by_name), line=line))
        except InputError as error:
            refused.append(Unusable(line, str(error)))
    refused.sort(key=lambda one: one.line or 0)
    if refused and (unusable is None or not questions):
        raise PromptError(f"{path}:{refused[0].line}: {refused[0].why}")
    if unusable is not None:
        unusable += refused
    return questions


_LINE = "\0line"
"""The key of a record's line, while a file is read."""


def _numbered(records: Iterator[Numbered]) -> Iterator[Numbered]:
    return ((number, {**record, _LINE: number}) for number, record in records)


@dataclass(frozen=True)
class _Draft:
    """A question whose answer is as the file gives it.

    Args:
        labels: what each choice is called, such as its letter.
    """

    text: str
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str | int
    group: str | None

    def question(self, by_name: bool) -> Question:
        """The question with the place of its answer.

        Args:
            by_name: whether a whole number is the text of a choice; else it is a place.

        Raises:
            InputError: an answer that is no choice.
        """
        answer = str(self.answer) if by_name and isinstance(self.answer, int) else self.answer
        for names in (self.choices, self.labels):
            if answer in names:
                return Question(self.text, self.choices, names.index(str(answer)), self.group)
        if isinstance(answer, int) and 0 <= answer < len(self.choices):
            return Question(self.text, self.choices, answer, self.group)
        raise InputError(
            "expected 'answer' to be a choice, its letter, "
            f"or its place from 0 to {len(self.choices) - 1}, got {shown(self.answer)}"
        )


def _draft(record: Mapping[str, Any]) -> _Draft:
    """A record by our names, MMLU's (letters as columns), ARC's (texts and labels of choices,
    ``answerKey``) or OpenBookQA's (``question_stem``).
    """
    text, choices = first_of(record, ("question", "question_stem")), record.get("choices")
    answer = first_of(record, ("answer", "answerKey"))
    if isinstance(text, dict):  # ARC as it is published
        text, choices = text.get("stem"), text.get("choices")
    fields = ", ".join(sorted(set(record) - {_LINE}))[:200]
    if not isinstance(text, str) or not text:
        raise InputError(
            f"expected 'question' to be a text, got {shown(text)}; the line has {fields}"
        )
    if choices is None:  # columns A, B, C, ...
        choices = [record[letter] for letter in itertools.takewhile(record.__contains__, LETTERS)]
        if not choices:
            raise InputError(f"expected 'choices', or columns A, B, ...; the line has {fields}")
    texts, labels = _choices(choices)
    _check_choices(texts, choices)
    labels = labels or list(LETTERS[: len(texts)])
    answer = _answer(answer, [*texts, *labels])
    return _Draft(text, tuple(texts), tuple(labels), answer, group_of(record))


def _check_choices(texts: Sequence[Any], given: Any) -> None:
    """Raise `InputError` unless these are two or more texts, as many as there are letters,
    and no two alike.
    """
    are_texts = all(isinstance(choice, str) and choice.strip() for choice in texts)
    if len(texts) < 2 or not are_texts:
        raise InputError(f"expected 'choices' to be two or more texts, got {shown(given)}")
    if len(texts) > len(LETTERS):
        raise InputError(f"expected at most {len(LETTERS)} choices, got {len(texts)}")
    if len({choice.strip() for choice in texts}) < len(texts):
        raise InputError(f"expected choices that differ, got {shown(given)}")


def _answer(value: Any, names: Sequence[str]) -> str | int:
    """The answer of a record: a choice, its letter or its place;
    a place in a cell of a table is text.
    """
    if isinstance(value, str) and value not in names and value.strip().isdecimal():
        return int(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(
            f"expected 'answer' to be a choice, its letter or its place, got {shown(value)}"
        )
    return value


def _choices(value: Any) -> tuple[list[Any], list[str]]:
    """Texts and labels of choices, in the forms in which they are published."""
    labels: Any = []
    if isinstance(value, dict):
        texts, labels = value.get("text"), value.get("label")
    # ARC has a list of objects, others one object of two lists, most a list of texts.
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        texts = [item.get("text") for item in value]
        labels = [item.get("label") for item in value]
    else:
        texts = value
    if not isinstance(texts, list):
        return [], []
    return texts, _labels_of(labels, len(texts))


def _labels_of(labels: Any, count: int) -> list[str]:
    """A label for each choice; none where there are not as many, or some are no names."""
    if not isinstance(labels, list) or len(labels) != count:
        return []
    if not all(isinstance(label, str | int) for label in labels):
        return []
    return [str(label) for label in labels]


def of_prompts(
    prompts: Sequence[Prompt], templates: Templates, seed: int, unusable: list[Unusable]
) -> list[Question]:
    """Prompts with a right and a wrong continuation as questions; which comes first is drawn with
    the seed.

    Args:
        unusable: is given the prompts without a wrong one.
    """
    rng, out = random.Random(seed), []
    for prompt in prompts:
        if prompt.wrong is None:
            why = f"{prompt.prompt[:40]!r} has no 'wrong' to choose from"
            unusable.append(Unusable(prompt.line, why))
            continue
        place = rng.randrange(2)
        choices = (prompt.answer, prompt.wrong) if place == 0 else (prompt.wrong, prompt.answer)
        asked = templates.fill("continuation", text=prompt.prompt.strip())
        out.append(Question(asked, choices, place, prompt.group, prompt.prompt, line=prompt.line))
    return out


def of_pairs(pairs: Sequence[Pair], templates: Templates, seed: int) -> list[Question]:
    """Minimal pairs as questions; which sentence comes first is drawn with the seed."""
    rng, out = random.Random(seed), []
    for pair in pairs:
        place = rng.randrange(2)
        choices = (pair.good, pair.bad) if place == 0 else (pair.bad, pair.good)
        asked = templates.fill("pair", first=choices[0], second=choices[1])
        out.append(Question(asked, choices, place, pair.group, whole=True, line=pair.line))
    return out


def asked_items(
    questions: Sequence[Question], templates: Templates, letters: bool
) -> tuple[str, list[Any]]:
    """What is measured of questions: the name of the metric, and its items,
    in the order of questions and choices.
    """
    if questions[0].whole and not letters:
        return "pair_difference", [Pair(q.choices[0], q.choices[1]) for q in questions]
    prompts = []
    for question in questions:
        text, answers = _asked(question, templates, letters)
        prompts += [Prompt(text, answer) for answer in answers]
    return "log_probability", prompts


def token_probabilities(
    subject: Subject,
    questions: Sequence[Question],
    templates: Templates,
    letters: bool,
    batch_tokens: int,
) -> list[Float[np.ndarray, " choices"]]:
    """The model's own probability of each choice of each question.

    Args:
        letters: of the choice's letter, all choices being listed; else of its text.

    Raises:
        MetricError: a choice whose tokens join the question's, or a text that is too long.
    """
    metric, items = asked_items(questions, templates, letters)
    bits = _values(subject, metric, items, batch_tokens)
    if metric == "pair_difference":
        # Of two choices only the difference counts.
        return [softmax(np.array([difference, 0.0]) / BITS) for difference in bits]
    ends = np.cumsum([len(q.choices) for q in questions])[:-1]
    return [softmax(of_question / BITS) for of_question in np.split(bits, ends)]


def _asked(question: Question, templates: Templates, letters: bool) -> tuple[str, list[str]]:
    """The text that is put to the model, and how each choice goes on from it."""
    if letters:
        listed = templates.listed(question)
        text = templates.ask("choose", question=question.question, choices=listed)
        return text, [f" {letter}" for letter in LETTERS[: len(question.choices)]]
    if question.prompt is not None:
        return question.prompt, list(question.choices)
    text = templates.ask("answer", question=question.question)
    return text, [f" {choice.strip()}" for choice in question.choices]


def _values(
    subject: Subject, metric: str, items: Sequence[Any], batch_tokens: int
) -> Float[np.ndarray, " items"]:
    of_metric = get_metric(metric)
    groups = chunks(subject, of_metric.reads(subject, items), batch_tokens)
    return clean_values(subject, of_metric, list(groups))
