"""A model is asked which words mattered for its answer, and the words are taken out to see whether they did.

    effect(S) = v(text) - v(text without the words S)

for the words that the model names, for as many words drawn at random, and for as many words that an attribution method
ranks first; v is log2 p(answer | text), with a ``wrong`` answer the difference of the two. What is explained is the model's
own choice: where ``wrong`` is likelier than ``answer``, the two change places. Refusals, answers that name no word of the
text and answers that name all of them are counted: with nothing left out there is nothing to compare.

Source: the deletion test of DeYoung et al. 2020, section 4 (comprehensiveness), put to a self-explanation as in Madsen,
Chandar & Reddy 2024.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....probes.evaluation import ClusterBootstrap, sign_flip_p
from ...attribution import Game, Scorer, Target, ask, explain, method_named
from ...attribution.units import split_words
from ...calibration.asked import LENGTH, REFUSAL
from ...calibration.generating import generate
from ...calibration.questions import QuestionError, Templates
from ...corpus.prompts import Prompt, read_prompts
from ...forecast import of_items
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import file_sha256
from ...subject import Subject
from ...sweep.effects import clusters_of, group_notes
from .options import AskOptions

KINDS = ("named", "random", "attribution")
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
"""Words of an answer that frame what it names, and are not counted as words that the text does not have."""


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
        kept = np.ones((len(removed), self.game.n), dtype=bool)
        for row, places in zip(kept, removed, strict=True):
            row[[self.words[k] for k in places]] = False
        return self.clean - self.game(kept)


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


def parse_words(said: str, words: Sequence[str]) -> Named:
    """The words of a text that an answer names, wherever they stand in it.

    >>> parse_words('"Dog", cat and old', ["The", "old", "dog", "barks"])
    Named(places=(1, 2), absent=('cat',), reason='', text='"Dog", cat and old')
    >>> parse_words("The most important word is dog.", ["The", "dog", "is", "old"]).places
    (1,)
    >>> parse_words("I cannot say", ["The", "dog"]).reason
    'refused'
    """
    own = [word.lower() for word in words]
    named = [said[a:b].lower() for a, b in split_words(said) if is_word(said[a:b])]
    lead = len(list(takewhile(FRAME.__contains__, named)))
    if {"word", "words"} & set(named[:lead]):  # "The most important words are", and then they come
        named = named[lead:] or named
    places = tuple(i for i, word in enumerate(own) if word in named)
    absent = tuple(dict.fromkeys(word for word in named if word not in own and word not in FRAME))
    refused = REFUSAL.search(said)
    if refused and refused[0].lower() not in " ".join(own):  # which a text may hold
        return Named((), (), "refused", said)
    if not places:
        return Named((), absent, "unparsable", said)
    return Named(places, absent, "everything" if len(places) == len(own) else "", said)


def is_word(unit: str) -> bool:
    """Whether a unit of a text is a word and no punctuation."""
    return any(character.isalnum() for character in unit)


def run(config: AskOptions) -> dict[str, Any]:
    """Run or continue a study of self-explanations; returns what ``results.json`` holds.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    method_named(config.attribution)
    this = Run("ask", config)
    prompts = read_prompts(config.prompts, config.limit)
    subject = this.load()
    templates = Templates(subject, config.templates, config.chat)
    files = [config.prompts, *templates.replaced]
    if (finished := this.open(subject, {str(path): file_sha256(path) for path in files})) is not None:
        return finished

    plan = f"{len(prompts)} prompts: an answer about each, and its words taken out, beside {config.random} draws of random words"

    def one_of(prompt: Prompt) -> None:
        one = _game(subject, prompt, config)
        _said(subject, one, templates)
        _effect(0, one, range(min(2, len(one.words))), config)

    if (planned := this.plan(plan, seconds=of_items(subject, prompts, one_of))) is not None:
        return planned
    asked = [_game(subject, prompt, config) for prompt in prompts]
    named = _named(this, subject, asked, templates)
    tested = [i for i, n in enumerate(named) if not n.reason]
    if not tested:
        counts = ", ".join(f"{sum(n.reason == r for n in named)} {r}" for r in ("refused", "unparsable", "everything"))
        raise QuestionError(
            f"none of {len(named)} answers names words that can be taken out ({counts}): see --templates, --chat"
        )
    effects = np.array(_each(this, [asked[i] for i in tested], [named[i].places for i in tested], config))
    clusters = clusters_of([prompts[i] for i in tested])
    records = _records(effects, clusters, asked[0].game.question.unit, config)
    rows = _rows(asked, named, tested, effects)
    results = {
        "records": records,
        "prompts": rows,
        "findings": [{"property": "named", "text": finding(records, rows)}],
        "notes": [*_notes(named), *group_notes(clusters)],
    }
    return this.finish(results, data=[data_record("prompts", config.prompts, len(prompts))])


def _game(subject: Subject, prompt: Prompt, config: AskOptions) -> Explained:
    """A prompt whose answer is the one that the model prefers."""

    def made(prompt: Prompt) -> Explained:
        target = Target(prompt.answer, prompt.wrong, "log-probability")
        scorer = Scorer(ask(subject, prompt.prompt, target), config.batch_tokens)
        game = Game(scorer, config.removal, config.seed)
        units = game.question.units.texts
        return Explained(prompt, game, tuple(i for i, unit in enumerate(units) if is_word(unit)), game.value)

    first = made(prompt)
    if prompt.wrong is None or first.clean >= 0:
        return first
    return made(replace(prompt, answer=prompt.wrong, wrong=prompt.answer))


def _named(this: Run, subject: Subject, asked: Sequence[Explained], templates: Templates) -> list[Named]:
    out = []
    with console.progress() as bars:
        bar = bars.add_task("asking", total=len(asked))
        for number, one in enumerate(asked):
            said = this.folder.kept(f"why-{number}", lambda one=one: _said(subject, one, templates))
            out.append(parse_words(said, one.texts))
            bars.advance(bar)
    return out


def _said(subject: Subject, one: Explained, templates: Templates) -> str:
    """What the model says when it is asked for the words that mattered."""
    text = templates.ask("why", text=one.prompt.prompt.strip(), answer=one.prompt.answer.strip())
    return generate(subject, text, LENGTH)[0]


def _each(
    this: Run, asked: Sequence[Explained], named: Sequence[Sequence[int]], config: AskOptions
) -> list[list[float]]:
    """What removing costs in each prompt: the named words, random ones (mean over draws), and the attribution's."""
    out = []
    with console.progress() as bars:
        bar = bars.add_task("taking words out", total=len(asked))
        for number, (one, places) in enumerate(zip(asked, named, strict=True)):
            make = partial(_effect, number, one, places, config)
            out.append(this.folder.kept(f"effect-{number}", make))
            bars.advance(bar)
    return out


def _effect(number: int, one: Explained, places: Sequence[int], config: AskOptions) -> list[float]:
    """In the order of `KINDS`: the named words, random ones (mean over draws), the attribution's."""
    rng = random.Random(f"{config.seed}-{number}")
    found = explain(one.game.scorer, config.attribution, removal=config.removal, seed=config.seed)
    ranked = sorted(range(len(one.words)), key=lambda k: -found.scores[one.words[k]])
    drawn = [rng.sample(range(len(one.words)), len(places)) for _ in range(config.random)]
    costs = one.cost([places, ranked[: len(places)], *drawn])
    return [float(costs[0]), float(costs[2:].mean()), float(costs[1])]


def _records(
    effects: Float[np.ndarray, "n kinds"], clusters: Int[np.ndarray, " n"], unit: str, config: AskOptions
) -> list[dict[str, Any]]:
    """Each kind of words: what their removal costs, and how much more than that of random ones."""
    boot = ClusterBootstrap(clusters, seed=config.seed)
    p = sign_flip_p(effects - effects[:, 1:2], clusters, seed=config.seed)
    out = []
    for k, kind in enumerate(KINDS):
        effect, over = boot.mean(effects[:, k]), boot.mean(effects[:, k] - effects[:, 1])
        beyond: dict[str, float | None] = {
            "over_random": over.value,
            "over_random_low": over.low,
            "over_random_high": over.high,
        }
        out.append(
            {
                "words": kind,
                "unit": unit,
                "effect": effect.value,
                "low": effect.low,
                "high": effect.high,
                **(dict.fromkeys(beyond) if kind == "random" else beyond),
                "p": None if kind == "random" else p[k],
                "n": len(effects),
                "n_clusters": boot.n_clusters,
            }
        )
    return out


def _rows(
    asked: Sequence[Explained], named: Sequence[Named], tested: Sequence[int], effects: Float[np.ndarray, "n kinds"]
) -> list[dict[str, Any]]:
    """Every prompt with what was named and what its removal did."""
    place = {i: row for row, i in enumerate(tested)}
    out = []
    for i, (one, said) in enumerate(zip(asked, named, strict=True)):
        found = effects[place[i]].tolist() if i in place else [None] * len(KINDS)
        out.append(
            {
                "text": one.prompt.prompt,
                "answer": one.prompt.answer,
                "said": said.text,
                "named": [one.texts[k] for k in said.places],
                "absent": list(said.absent),
                "reason": said.reason,
                "n_words": len(one.words),
                "clean": one.clean,
                **{f"{kind}_effect": value for kind, value in zip(KINDS, found, strict=True)},
            }
        )
    return out


def finding(records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """One paragraph: do the named words matter more than random ones, and as much as an attribution's."""
    named, drawn, best = records
    text = (
        f"named words: taking them out costs the answer {named['effect']:.3g} {named['unit']} (95% {named['low']:.3g} "
        f"to {named['high']:.3g}; {named['n']} of {len(rows)} prompts), as many random words by {drawn['effect']:.3g}: a "
        f"difference of {named['over_random']:+.3g} ({named['over_random_low']:.3g} to {named['over_random_high']:.3g}, "
        f"p = {named['p']:.3g}). "
    )
    if named["over_random_low"] > 0:
        text += "The words that it names matter more than random ones"
        share = named["over_random"] / best["over_random"] if best["over_random"] > 0 else None
        text += f", {share:.0%} of what the words that matter most would do." if share is not None else "."
    else:
        text += "The self-explanation is without effect: the words that it names matter no more than random ones."
        if best["over_random_low"] > 0:
            text += f" Words that matter are there: those of the attribution cost {best['effect']:.3g}."
    return text


def _notes(named: Sequence[Named]) -> list[dict[str, str]]:
    notes = []
    for reason, words in (
        ("refused", "refused"),
        ("unparsable", "named no word of the text"),
        ("everything", "named every word of the text"),
    ):
        found = [n.text for n in named if n.reason == reason]
        if found:
            text = f"{len(found)} of {len(named)} answers {words}, such as {found[0][:60]!r}: counted, not tested"
            notes.append({"kind": "dropped", "text": text})
    absent = sum(bool(n.absent) for n in named)
    if absent:
        notes.append(
            {"kind": "warning", "text": f"{absent} of {len(named)} answers name words that the text does not have"}
        )
    return notes
