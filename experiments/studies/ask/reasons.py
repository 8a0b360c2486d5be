"""A model's reasons: the words of a text that it names, found in the text, and what they are worth.

    effect(S) = v(text) - v(text without the words S)

for the words that the model names, for as many words drawn at random, and for as many words that an
attribution method ranks first; v is log2 p(answer | text), with a ``wrong`` answer the difference
of the two. What is explained is the model's own choice: where ``wrong`` is likelier than
``answer``, the two change places. Refusals, answers that name no word of the text and answers that
name all of them are counted: with nothing left out there is nothing to compare.

Source: the deletion test of DeYoung et al. 2020, section 4 (comprehensiveness), put to a
self-explanation as in Madsen, Chandar & Reddy 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from jaxtyping import Float

from ...attribution import Game, Scorer, Target, ask
from ...attribution.units import split_words
from ...calibration.asked import REFUSAL
from ...corpus.prompts import Prompt
from ...subject import Subject
from .options import AskOptions

FRAME = {
    "and",
    "the",
    "word",
    "words",
    "text",
    "important",
    "most",
    "are",
    "is",
    "for",
    "in",
    "of",
    "this",
    "continuation",
}
"""Words of an answer that frame what it names,
and are not counted as words that the text does not have.
"""


@dataclass(frozen=True)
class Explained:
    """A prompt with the model's own choice as its answer, and the game of its words.

    Args:
        words: the game's units that are words and no punctuation.
        clean: the value of the whole text.
    """

    prompt: Prompt
    game: Game
    words: tuple[int, ...]
    clean: float

    @property
    def texts(self) -> list[str]:
        """The words as they stand in the text."""
        return [self.game.question.units.texts[i] for i in self.words]

    def cost(self, removed: Sequence[Sequence[int]]) -> Float[np.ndarray, " sets"]:
        """What each set of words is worth: the value with them less the value without."""
        present = np.ones((len(removed), self.game.n), dtype=bool)
        for row, places in zip(present, removed, strict=True):
            row[[self.words[k] for k in places]] = False
        return self.clean - self.game(present)


@dataclass(frozen=True)
class Named:
    """What the model's words point at.

    Args:
        places: the named words' places among the prompt's.
        absent: words that it named and that are not there.
        reason: why they cannot be tested: refused, unparsable, or everything (all words are named).
    """

    places: tuple[int, ...]
    absent: tuple[str, ...]
    reason: str
    text: str


def parse_words(answer: str, words: Sequence[str]) -> Named:
    """The words of a text that an answer names, wherever they stand in it.

    >>> parse_words('"Dog", cat and old', ["The", "old", "dog", "barks"])
    Named(places=(1, 2), absent=('cat',), reason='', text='"Dog", cat and old')
    >>> parse_words("The most important word is dog.", ["The", "dog", "is", "old"]).places
    (1,)
    >>> parse_words("I cannot say", ["The", "dog"]).reason
    'refused'
    """
    in_text = [word.lower() for word in words]
    named = []
    for start, end in split_words(answer):
        word = answer[start:end]
        if is_word(word):
            named.append(word.lower())
    lead = len(list(takewhile(FRAME.__contains__, named)))
    if {"word", "words"} & set(named[:lead]):  # "The most important words are", and then they come
        named = named[lead:] or named
    places = tuple(i for i, word in enumerate(in_text) if word in named)
    absent: dict[str, None] = {}
    for word in named:
        if word not in in_text and word not in FRAME:
            absent[word] = None
    refusal = REFUSAL.search(answer)
    if refusal and refusal[0].lower() not in " ".join(in_text):  # which a text may hold
        return Named((), (), "refused", answer)
    if not places:
        return Named((), tuple(absent), "unparsable", answer)
    names_all = len(places) == len(in_text)
    return Named(places, tuple(absent), "everything" if names_all else "", answer)


def is_word(unit: str) -> bool:
    """Whether a unit of a text is a word and no punctuation."""
    return any(character.isalnum() for character in unit)


def explained(subject: Subject, prompt: Prompt, options: AskOptions) -> Explained:
    """A prompt whose answer is the one that the model prefers."""

    def made(prompt: Prompt) -> Explained:
        target = Target(prompt.answer, prompt.wrong, "log-probability")
        scorer = Scorer(ask(subject, prompt.prompt, target), options.batch_tokens)
        game = Game(scorer, options.removal, options.seed)
        units = game.question.units.texts
        return Explained(
            prompt, game, tuple(i for i, unit in enumerate(units) if is_word(unit)), game.value
        )

    first = made(prompt)
    if prompt.wrong is None or first.clean >= 0:
        return first
    return made(replace(prompt, answer=prompt.wrong, wrong=prompt.answer))
