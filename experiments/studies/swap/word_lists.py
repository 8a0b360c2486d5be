"""Pairs of words that are swapped, and texts in which they are.

Words of a list have two sides, ``a`` and ``b``. A text with words of one side only is changed; each
word takes the capitals of the one that it replaces. ``her`` is two words: in front of a word it is
``his``, else ``him``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerscope.errors import InputError

from ...corpus.records import Record, Unusable, read_lines_as, shown

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@dataclass(frozen=True)
class Change:
    """A text with words of one side swapped for the other's.

    Args:
        text: the changed text.
        spans: where the words stand in the unchanged one.
        side: that of the words that are replaced: 0 for a, 1 for b.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    side: int


@dataclass(frozen=True)
class WordList:
    """Pairs of words that are swapped."""

    name: str
    pairs: tuple[tuple[str, str], ...]

    def sides(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """For each side from a word in small letters to those that may take its place."""
        sides: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
        for a, b in self.pairs:
            sides[0].setdefault(a.lower(), []).append(b)
            sides[1].setdefault(b.lower(), []).append(a)
        return sides

    def change(self, text: str) -> Change | None:
        """The text with its words swapped; None without any, or with words of both sides."""
        sides = self.sides()
        spans: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for match in WORD.finditer(text):
            for side, words in enumerate(sides):
                if match[0].lower() in words:
                    spans[side].append(match.span())
        if bool(spans[0]) == bool(spans[1]):
            return None
        side = 0 if spans[0] else 1
        new = [_other(sides[side], text, span) for span in spans[side]]
        return Change(replaced(text, spans[side], new), tuple(spans[side]), side)

    def of_same_side(self, text: str, change: Change, rng: np.random.Generator) -> str | None:
        """The text with other words of the same side; None where the side has fewer than three."""
        words = sorted({pair[change.side] for pair in self.pairs})
        if len(words) < 3 or self.name == "pronouns":
            return None
        drawn: dict[str, str] = {}
        for span in change.spans:
            old = text[slice(*span)]
            others = [word for word in words if word.lower() != old.lower()]
            drawn.setdefault(old.lower(), others[int(rng.integers(len(others)))])
        new = [drawn[text[slice(*span)].lower()] for span in change.spans]
        return replaced(text, change.spans, new)


def _other(words: Mapping[str, Sequence[str]], text: str, span: tuple[int, int]) -> str:
    """The word that takes a place; of several, as for ``her``, the last in front of a word,
    else the first.
    """
    others = words[text[slice(*span)].lower()]
    if len(others) == 1:
        return others[0]
    follows = re.match(r"\s+[^\W\d_]", text[span[1] :])
    return others[-1] if follows else others[0]


def replaced(text: str, spans: Sequence[tuple[int, int]], words: Sequence[str]) -> str:
    """A text with other words in these places, each with the capitals of the one before it."""
    out, at = [], 0
    for (start, stop), word in zip(spans, words, strict=True):
        out += [text[at:start], _as_written(text[start:stop], word)]
        at = stop
    return "".join([*out, text[at:]])


def _as_written(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


def random_swap(
    text: str, change: Change, vocabulary: Sequence[str], rng: np.random.Generator
) -> str | None:
    """As many other words of the text replaced by words of other texts;
    None where it has no other words.
    """
    taken = set(change.spans)
    places = [match.span() for match in WORD.finditer(text) if match.span() not in taken]
    if not places:
        return None
    count = min(len(change.spans), len(places))
    drawn = sorted(rng.choice(len(places), count, replace=False).tolist())
    spans = [places[number] for number in drawn]
    words = [vocabulary[int(rng.integers(len(vocabulary)))] for _ in spans]
    return replaced(text, spans, words)


def read_word_lists(path: Path, unusable: list[Unusable]) -> list[WordList]:
    """Lists of pairs from a file: ``a``, ``b``, and perhaps ``list``, the name of the list that
    they are of.

    Args:
        unusable: is given the lines without two words.

    Raises:
        PromptError: a file that cannot be read, or without any pair.
    """

    def make(record: Record) -> tuple[str, str, str]:
        a, b = (record.get(name) for name in ("a", "b"))
        if not (isinstance(a, str) and isinstance(b, str)):
            raise InputError(f"expected two words, a and b, got {shown(a)} and {shown(b)}")
        return str(record.get("list", path.stem)), *_pair(a, b)

    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, a, b in read_lines_as(path, None, make, unusable):
        by_name.setdefault(name, []).append((a, b))
    return [WordList(name, tuple(pairs)) for name, pairs in by_name.items()]


def pairs_given(swaps: Sequence[str]) -> list[WordList]:
    """The pairs of the command line, as one list.

    Raises:
        InputError: not two words with a colon between.
    """
    pairs = []
    for swap in swaps:
        a, colon, b = swap.partition(":")
        if not colon:
            raise InputError(
                f"--swap {swap}: expected two words with a colon between, such as he:she"
            )
        pairs.append(_pair(a, b))
    return [WordList("given", tuple(pairs))] if pairs else []


def _pair(a: str, b: str) -> tuple[str, str]:
    for word in (a, b):
        if not WORD.fullmatch(word.strip()):
            raise InputError(f"expected one word of letters, got {word[:40]!r}")
    if a.strip().lower() == b.strip().lower():
        raise InputError(f"expected two words that differ, got {a!r} twice")
    return a.strip(), b.strip()
