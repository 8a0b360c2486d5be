"""Random candidates for each data set.

A candidate is a record of the file with its constraints on tokenization: texts that must be
a single token, and texts that must have equal numbers of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..corpus.prompts import Pair, Prompt
from .words import ATTRACTORS, FACTS, MEN, NOUNS, PLACES, THINGS, VERBS, WOMEN

Record = dict[str, object]


@dataclass(frozen=True)
class Candidate:
    """A record and its constraints on tokenization.

    Args:
        prompts: each correct and each wrong answer must be one token.
        pairs: the two sentences must differ in one token.
        equal: texts that must all have the same number of tokens.
        aligned: the number of tokens in ``equal`` must also be the same for every item.
    """

    record: Record
    prompts: tuple[Prompt, ...] = ()
    pairs: tuple[Pair, ...] = ()
    equal: tuple[str, ...] = ()
    aligned: bool = False


@dataclass(frozen=True)
class Kind:
    """A data set.

    Args:
        draw: yields candidates without end.
        example: a command that uses the data set, with the placeholders {model} and {file}.
    """

    draw: Callable[[random.Random], Iterator[Candidate]]
    example: str


IOI = (
    "When {a} and {b} went to the {place}, {c} gave a {thing} to",
    "After {a} and {b} got to the {place}, {c} handed a {thing} to",
    "While {a} and {b} were at the {place}, {c} showed a {thing} to",
)
"""Templates with the same length and order of roles, so positions align between prompts."""


def ioi(rng: random.Random) -> Iterator[Candidate]:
    """Indirect object identification: the answer is the name that occurs once.

    In the corrupted prompt that name is also the giver, so the other name occurs once.
    """
    while True:
        shape = rng.choice(IOI)
        a, b = rng.sample([*MEN, *WOMEN], 2)
        words = {"a": a, "b": b, "place": rng.choice(PLACES), "thing": rng.choice(THINGS)}
        prompt, corrupted = (shape.format(**words, c=giver) for giver in (b, a))
        answer, wrong = f" {a}", f" {b}"
        record: Record = {"prompt": prompt, "answer": answer, "wrong": wrong}
        record["corrupted"] = corrupted
        yield Candidate(
            record, (Prompt(prompt, answer, wrong),), equal=(prompt, corrupted), aligned=True
        )


AGREEMENT = "The {noun} near the {other} {verb}", "The {noun} behind the {other} {verb}"


def agreement(rng: random.Random) -> Iterator[Candidate]:
    """Minimal pairs of subject-verb agreement.

    The noun between subject and verb differs from the subject in number half of the time.
    """
    while True:
        shape, number = rng.randrange(len(AGREEMENT)), rng.randrange(2)
        noun, other, verbs = rng.choice(NOUNS), rng.choice(ATTRACTORS), rng.choice(VERBS)
        between = rng.randrange(2)
        words = {"noun": noun[number], "other": other[between]}
        good, bad = (
            AGREEMENT[shape].format(**words, verb=verbs[of]) for of in (number, 1 - number)
        )
        record: Record = {"sentence_good": good, "sentence_bad": bad, "group": noun[0]}
        record["attractor"] = "same number" if between == number else "other number"
        yield Candidate(record, pairs=(Pair(good, bad),), equal=(good, bad))


NAMES = (
    "{name} went to the {place} because",
    "{name} left the {place} early, since",
    "Everybody at the {place} liked {name}, because",
)


def names(rng: random.Random) -> Iterator[Candidate]:
    """Prompts whose answer is the pronoun for a name, for example for ``swap --list names``."""
    while True:
        shape, side = rng.randrange(len(NAMES)), rng.randrange(2)
        name = rng.choice((MEN, WOMEN)[side])
        prompt = NAMES[shape].format(name=name, place=rng.choice(PLACES))
        answer, wrong = (" he", " she") if side == 0 else (" she", " he")
        record: Record = {"prompt": prompt, "answer": answer, "wrong": wrong, "group": name}
        yield Candidate(record, (Prompt(prompt, answer, wrong),))


def questions(rng: random.Random) -> Iterator[Candidate]:
    """Factual questions with four choices in random order."""
    while True:
        question, right, wrong = rng.choice(FACTS)
        choices = [right, *wrong]
        rng.shuffle(choices)
        record: Record = {"question": question, "choices": choices, "answer": right}
        asked = f"{question} Answer:"
        prompts = tuple(Prompt(asked, f" {right}", f" {other}") for other in wrong)
        yield Candidate({**record, "group": question}, prompts)


KINDS = {
    "ioi": Kind(
        ioi,
        "ablate --model {model} --prompts {file} --component heads --value mean",
    ),
    "agreement": Kind(
        agreement,
        "ablate --model {model} --pairs {file} --component layers",
    ),
    "names": Kind(
        names,
        "swap --model {model} --prompts {file} --list names",
    ),
    "questions": Kind(
        questions,
        "calibrate --model {model} --questions {file}",
    ),
}
