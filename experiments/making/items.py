"""What each data set draws: a record of the file,
and what must be one token or as long as another text in the model.
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
    """A record, and what must hold of its words.

    Args:
        prompts: each answer, and each wrong one, must be one token.
        pairs: the two sentences must differ in one token.
        equal: texts that must have as many tokens as each other.
        aligned: they must also have as many as those of the other items.
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
        draw: endless candidates.
        example: a command that uses it; {model} and {file} are put in.
    """

    draw: Callable[[random.Random], Iterator[Candidate]]
    example: str


IOI = (
    "When {a} and {b} went to the {place}, {c} gave a {thing} to",
    "After {a} and {b} got to the {place}, {c} handed a {thing} to",
    "While {a} and {b} were at the {place}, {c} showed a {thing} to",
)
"""Of one length and one order of roles, so that positions align between prompts."""


def ioi(rng: random.Random) -> Iterator[Candidate]:
    """The name that is given to is the one that is named once; corrupted: the other one gives."""
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
    """Subject and verb agree or do not; half of the nouns between them have the other number."""
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
    """The pronoun after a name, for ``swap --list names`` among others."""
    while True:
        shape, side = rng.randrange(len(NAMES)), rng.randrange(2)
        name = rng.choice((MEN, WOMEN)[side])
        prompt = NAMES[shape].format(name=name, place=rng.choice(PLACES))
        answer, wrong = (" he", " she") if side == 0 else (" she", " he")
        record: Record = {"prompt": prompt, "answer": answer, "wrong": wrong, "group": name}
        yield Candidate(record, (Prompt(prompt, answer, wrong),))


def questions(rng: random.Random) -> Iterator[Candidate]:
    """Facts with four choices in any order."""
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
