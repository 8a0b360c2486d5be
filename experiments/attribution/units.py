"""What gets a score: the tokens, words or spans of a text, each with the tokens that carry it.

A word is a run of letters and digits (with the hyphens and apostrophes inside it), a run of other
signs, or one character of a script that is written without spaces (Chinese, Japanese, Thai, ...).
Units that share a token are one unit: a token cannot be half there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import regex

from layerscope.errors import LayerscopeError

from ..report.schema import Note
from ..subject import Subject
from ..subject.word_spans import Encoded, trimmed, word_spans

LEVELS = ("word", "token", "span")

# Kana, Han (with its extensions), Thai, Lao, Khmer, Myanmar: no spaces between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
# A combining mark (an Indic vowel sign, an accent by itself) belongs to what it stands on.
_LETTERS = rf"[[\w\p{{N}}]--[{_UNSPACED}]]+"
_WORD = regex.compile(
    rf"(?V1)[{_UNSPACED}]\p{{M}}*|{_LETTERS}(?:['’\-]{_LETTERS})*"
    rf"|(?:[^\w\p{{N}}\s][\p{{M}}\u200c\u200d]*)+"
)
_CLAUSE = regex.compile(r"[^.,;:!?\n。，、；：！？]*[.,;:!?\n。，、；：！？]*")


class AttributionError(LayerscopeError, ValueError):
    """A text, a target or a method that cannot be used as asked; the message is one line."""


@dataclass(frozen=True)
class Units:
    """The units of a text.

    Args:
        level: word, token or span.
        texts: each unit as it stands in the text.
        spans: its start and end in characters of the text.
        tokens: the positions of its tokens; no position is in two units.
        notes: what was joined or left out.
    """

    level: str
    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    tokens: tuple[tuple[int, ...], ...]
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


def split_words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each word in characters.

    >>> [text[a:b] for text in ["It's well-known: 你好"] for a, b in split_words(text)]
    ["It's", 'well-known', ':', '你', '好']
    >>> [text[a:b] for text in ["हिन्दी, தமிழ்"] for a, b in split_words(text)]
    ['हिन्दी', ',', 'தமிழ்']
    """
    return [match.span() for match in _WORD.finditer(text)]


def split_clauses(text: str) -> list[tuple[int, int]]:
    """(start, end) of each stretch up to its punctuation."""
    clauses = []
    for match in _CLAUSE.finditer(text):
        start, end = trimmed(text, *match.span())
        if end > start:
            clauses.append((start, end))
    return clauses


def find_units(
    subject: Subject,
    encoded: Encoded,
    level: str = "word",
    spans: Sequence[tuple[int, int]] | None = None,
    fixed: Collection[int] = (),
    begin: int = 0,
) -> Units:
    """The units of an encoded text.

    Args:
        spans: characters of each unit, for the level ``span``; by default the clauses.
        fixed: positions that belong to no unit, such as a mask that is to be filled.
        begin: character in front of which there are no words.

    Raises:
        AttributionError: an unknown level, an empty text, one that is longer than the model reads.
    """
    if level not in LEVELS:
        raise AttributionError(f"level {level!r}: expected {', '.join(LEVELS)}")
    if spans is not None and level != "span":
        raise AttributionError(f"spans belong to level 'span', got level {level!r}")
    if encoded.cut is not None:
        raise AttributionError(
            f"the text is longer than the model's {subject.max_length} tokens (it ends at "
            f"character {encoded.cut})"
        )
    text = encoded.text
    # Special tokens are part of how the model reads any text, not of this one.
    excluded = set(fixed)
    excluded.update(i for i, special in enumerate(encoded.special) if special)
    free = [i for i in range(len(encoded)) if i not in excluded]
    if not free:
        raise AttributionError(f"expected a text with words, got {text[:40]!r}")
    if level == "token":
        return _tokens(subject, encoded, free)
    if level == "word":
        wanted = split_words(text)
    else:
        wanted = split_clauses(text) if spans is None else list(spans)
    wanted = [span for span in wanted if span[0] >= begin]
    return _joined(level, encoded, sorted(wanted), excluded, free)


def _tokens(subject: Subject, encoded: Encoded, free: Sequence[int]) -> Units:
    """Each token as a unit; one without characters of its own has the tokenizer's name."""
    places = [trimmed(encoded.text, *encoded.offsets[i]) for i in free]
    names = []
    for i, (start, end) in zip(free, places, strict=True):
        names.append(encoded.text[start:end] or subject.token(encoded.ids[i]))
    tokens = tuple((i,) for i in free)
    return Units("token", tuple(names), tuple(places), tokens)


def _joined(
    level: str, encoded: Encoded, wanted: list[tuple[int, int]], excluded: set[int], free: list[int]
) -> Units:
    """The units that the characters ask for, those that share a token joined."""
    text = encoded.text
    places: list[tuple[int, int]] = []
    tokens: list[list[int]] = []
    n_joined = n_lost = 0
    for (start, end), span in zip(wanted, word_spans(encoded, wanted), strict=True):
        positions = range(0) if span is None else range(span.start, span.stop)
        of_unit = [i for i in positions if i not in excluded]
        if not of_unit:
            n_lost += span is None
        elif tokens and of_unit[0] <= tokens[-1][-1]:
            # A token cannot be half there: both are one unit.
            tokens[-1] = sorted({*tokens[-1], *of_unit})
            places[-1] = (places[-1][0], max(end, places[-1][1]))
            n_joined += 1
        else:
            tokens.append(of_unit)
            places.append((start, end))
    if not tokens:
        raise AttributionError(f"expected a text with a {level}, got {text[:40]!r}")
    n_outside = len(free) - sum(map(len, tokens))
    sentences = [
        (
            n_joined,
            "info",
            f"{level}s share a token with the previous {level} and are merged with it",
        ),
        (n_lost, "dropped", f"{level}s have no token and therefore no score"),
        (n_outside, "info", f"tokens (white space) belong to no {level} and are left unchanged"),
    ]
    notes = [Note(kind=kind, text=f"{n} {sentence}") for n, kind, sentence in sentences if n]
    return Units(
        level,
        tuple(text[start:end] for start, end in places),
        tuple(places),
        tuple(map(tuple, tokens)),
        tuple(notes),
    )
