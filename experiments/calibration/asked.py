r"""A model is asked how sure it is of its own answer, in three ways, all about the same answers.

    p_true       p(A) / (p(A) + p(B)) behind "Is the proposed answer true or false?  A. True
                 B. False"
    verbalised   the number that the model writes when it is asked for the probability of its answer
    sampled      the share of sampled answers, at temperature 1, that choose its answer

Refusals and texts without a number, or without a choice, are counted by reason and have no
confidence.

Source: Kadavath et al. 2022, section 3 (P(True)); Tian et al. 2023 (verbalised); Wang et al. 2023,
section 3 (agreement of samples).
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..corpus.prompts import Prompt
from ..metrics.metrics import BITS, get_metric
from ..runs import console
from ..runs.folder import RunFolder
from ..subject import Subject
from ..sweep.sweep import chunks, clean_values
from .generating import generate
from .questions import Question, Templates

LENGTH = 24
"""Most tokens of a written answer."""
REFUSAL = re.compile(
    r"\b(i (can ?not|can't|am unable|'m unable|am not able|don't know|do not know|"
    r"am sorry|'m sorry)|sorry|as an ai"
    r"|not (possible|able) to|unable to|cannot (be determined|determine|provide|answer))",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"(?<![\w.,])([-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?)(?!\w|[.,]\d)"
    r"\s*(%|percent|/\s*\d+|out of \d+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """What was made of one answer about an answer: a confidence, or the reason why there is none,
    and the words.
    """

    confidence: float | None
    reason: str = ""
    text: str = ""


@dataclass(frozen=True)
class Asking:
    """Who is asked, and how.

    Args:
        questions, answers: what was asked and the place of the choice that the model gives as its
            answer.
        samples: for ``sampled``.
    """

    subject: Subject
    templates: Templates
    questions: Sequence[Question]
    answers: Sequence[int]
    samples: int
    batch_tokens: int
    seed: int

    def shown(self, i: int) -> dict[str, str]:
        """Question and answer as templates take them."""
        q = self.questions[i]
        return {"question": q.question, "answer": q.choices[self.answers[i]].strip()}


def parse_probability(text: str) -> Answer:
    """The probability that a text gives: its first 0.8, .8, 80%, 8/10 or 8 out of 10, or else its
    first whole number, 0 or 1.

    A refusal is distinguished from nonsense.

    >>> parse_probability("I'd say 85%.").confidence, parse_probability("0.7").confidence
    (0.85, 0.7)
    >>> parse_probability("Sorry, I cannot answer").reason, parse_probability("very").reason
    ('refused', 'unparsable')
    >>> answers = "Of the 12 facts, 0.8", "from 0 to 10: 8/10"
    >>> tuple(parse_probability(answer).confidence for answer in answers)
    (0.8, 0.8)
    >>> parse_probability("120%").reason, parse_probability("0,8").reason
    ('unparsable', 'unparsable')
    >>> parse_probability("1e-3").confidence
    0.001
    """
    numbers = list(NUMBER.finditer(text))
    # A number with a unit or a point says more than a whole one, which may count something else.
    telling = (m for m in numbers if m[2] or not m[1].isdigit())
    number = next(telling, numbers[0] if numbers else None)
    if number is None:
        return Answer(None, "refused" if REFUSAL.search(text) else "unparsable", text)
    value, unit = float(number[1]), (number[2] or "").lower()
    if unit in ("%", "percent"):
        value /= 100
    elif unit:  # "/10", "out of 10"
        whole = float(re.sub(r"\D", "", unit))
        value = value / whole if whole else -1.0
    is_probability = 0 <= value <= 1
    return Answer(value, text=text) if is_probability else Answer(None, "unparsable", text)


def parse_choice(text: str, choices: Sequence[str]) -> int | str:
    """The place of the choice that a text gives, by its letter or its words; or the reason why
    there is none.

    >>> parse_choice("B. Paris", ["Rome", "Paris"]), parse_choice("It is Paris.", ["Rome", "Paris"])
    (1, 1)
    >>> parse_choice("A", ["Rome", "Paris"]), parse_choice("Rome or Paris", ["Rome", "Paris"])
    (0, 'unparsable')
    """
    letters = string.ascii_uppercase[: len(choices)]
    if letter := re.match(rf"\W*([{letters}])(?:[.):,]|\W*$|\s+is\b)", text):
        return letters.index(letter[1])
    present = [k for k, choice in enumerate(choices) if _holds(text, choice)]
    # A choice may be part of another one: the longest that is present counts.
    longest = []
    for k in present:
        if not any(k != j and _holds(choices[j], choices[k]) for j in present):
            longest.append(k)
    if len(longest) == 1:
        return longest[0]
    return "refused" if REFUSAL.search(text) else "unparsable"


def _holds(text: str, part: str) -> bool:
    words, wanted = _words(text), _words(part)
    if not wanted:
        return False
    starts = range(len(words) - len(wanted) + 1)
    return any(words[i : i + len(wanted)] == wanted for i in starts)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def p_true(asking: Asking, *_: object) -> list[Answer]:
    """P(True) of every answer;
    ``text`` is the probability that went to the two letters together.
    """
    prompts = []
    for i in range(len(asking.questions)):
        text = asking.templates.ask("p_true", **asking.shown(i))
        prompts += [Prompt(text, " A"), Prompt(text, " B")]
    metric = get_metric("log_probability")
    reads = metric.reads(asking.subject, prompts)
    groups = list(chunks(asking.subject, reads, asking.batch_tokens))
    # Two rows a question, for A and for B; the rest of the probability went elsewhere.
    p = np.exp(clean_values(asking.subject, metric, groups) / BITS).reshape(-1, 2)
    return [Answer(float(a / (a + b)), text=f"{a + b:.3f}") for a, b in p]


def verbalised(asking: Asking, name: str, folder: RunFolder) -> list[Answer]:
    """The number that the model writes, most probable tokens first."""

    def one(i: int) -> Answer:
        text = asking.templates.ask("verbalised", **asking.shown(i))
        return parse_probability(generate(asking.subject, text, LENGTH)[0])

    return _each(asking, name, folder, one)


def sampled(asking: Asking, name: str, folder: RunFolder) -> list[Answer]:
    """The share of samples that choose the answer;
    without one that chooses there is no confidence.
    """

    def one(i: int) -> Answer:
        q = asking.questions[i]
        text = asking.templates.ask(
            "choose", question=q.question, choices=asking.templates.listed(q)
        )
        # At temperature 1 the share of samples is an estimate of the model's own probability.
        texts = generate(asking.subject, text, LENGTH, asking.samples, 1.0, asking.seed + i)
        chosen = [parse_choice(text, q.choices) for text in texts]
        reasons = [one for one in chosen if isinstance(one, str)]
        words = " | ".join(texts[:3])
        if len(reasons) == len(chosen):
            return Answer(None, max(set(reasons), key=reasons.count), words)
        return Answer(sum(one == asking.answers[i] for one in chosen) / len(chosen), text=words)

    return _each(asking, name, folder, one)


def _each(
    asking: Asking, name: str, folder: RunFolder, one: Callable[[int], Answer]
) -> list[Answer]:
    """One question after the other; what is answered already is not asked again."""
    out = []
    with console.progress() as bars:
        bar = bars.add_task(name, total=len(asking.questions))
        for i in range(len(asking.questions)):
            saved = folder.kept(f"{name}-{i}", lambda i=i: dataclasses.astuple(one(i)))
            out.append(Answer(*saved))
            bars.advance(bar)
    return out


ASKED: dict[str, Callable[[Asking, str, RunFolder], list[Answer]]] = {
    "p_true": p_true,
    "verbalised": verbalised,
    "sampled": sampled,
}
