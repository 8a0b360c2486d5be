"""Lexical and syntactic properties, read off an annotated corpus: a plain dict of small functions.

To add one, write a function of a sentence (and of the training corpus, for what must be counted)
and a row of the dict:

    >>> from experiments.properties import PROPERTIES, Property, get_property
    >>> def capital(sentence, train):
    ...     return ["yes" if word.form[0].isupper() else "no" for word in sentence.words]
    >>> PROPERTIES["capital"] = Property("capital", "word", "class", capital, "begins with a capital")
    >>> from experiments.corpus import read_conllu
    >>> from experiments.demo import demo_paths
    >>> corpus = read_conllu(demo_paths().dev, limit=1)
    >>> get_property("capital", corpus).read(corpus.sentences[0], corpus)[0]
    'yes'
    >>> del PROPERTIES["capital"]

A value of None says that the property does not apply (a word without that feature, the root's
arc): the study leaves such items out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from experiments.corpus import Corpus, Sentence, Word

Value = str | float | None
Reader = Callable[[Sentence, Corpus], "list[Value] | Value"]
Rewriter = Callable[[Sentence, np.random.Generator], Sentence | None]


class UnknownProperty(LookupError):
    """No property of that name; the message names the nearest and lists all."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Property:
    """What to read and how.

    Args:
        name: as the command line spells it.
        level: ``word`` (one value per word), ``arc`` (one per word: of the arc to its head, None
            at the root) or ``sentence`` (one value).
        kind: ``class`` (values are labels) or ``number``.
        read: of the sentence and the training corpus; counts come from the training corpus alone.
        doc: one line.
        rewrite: the sentence that the model is shown instead, or None to leave this one out;
            `read` then gets the rewritten sentence.
    """

    name: str
    level: Literal["word", "sentence", "arc"]
    kind: Literal["class", "number"]
    read: Reader
    doc: str
    rewrite: Rewriter | None = None


def get_property(name: str, corpus: Corpus) -> Property:
    """The property of this name; ``feats:X`` for a feature X that the corpus annotates.

    Raises:
        UnknownProperty: no such property in this corpus.
    """
    if name in PROPERTIES:
        return PROPERTIES[name]
    features = {f"feats:{feature}": feature for feature in _features(corpus)}
    if name in features:
        return _feature(features[name])
    known = [*PROPERTIES, *features]
    tails = {known_name.rpartition(":")[2]: known_name for known_name in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    near = near or [tails[t] for t in difflib.get_close_matches(name, tails, n=1, cutoff=0.4)]
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise UnknownProperty(f"expected a property, got {name!r}{hint}; there are: {', '.join(known)}")


def list_properties(corpus: Corpus) -> list[Property]:
    """Every property that can be read from this corpus, its features included."""
    return [*PROPERTIES.values(), *(_feature(feature) for feature in _features(corpus))]


def _features(corpus: Corpus) -> list[str]:
    return sorted({feature for s in corpus for word in s.words for feature in word.feats})


def _feature(feature: str) -> Property:
    def read(sentence: Sentence, train: Corpus) -> list[Value]:
        return [word.feats.get(feature) for word in sentence.words]

    doc = f"morphological feature {feature}, of the words that have it"
    return Property(f"feats:{feature}", "word", "class", read, doc)


# Words


def _each(value: Callable[[Word], Value]) -> Reader:
    """A reader that looks at one word at a time."""
    return lambda sentence, train: [value(word) for word in sentence.words]


def _column(name: Literal["upos", "xpos", "deprel"]) -> Reader:
    """A column as it stands; ``_`` is absence."""
    return _each(lambda word: None if getattr(word, name) == "_" else getattr(word, name))


def frequency(sentence: Sentence, train: Corpus) -> list[Value]:
    """Band of the word type's count in training, doubling: 1, 2-3, 4-7, ...; None if unseen."""
    counts = [train.type_counts[word.form.lower()] for word in sentence.words]
    return [_band(count) for count in counts]


def _band(count: int) -> str | None:
    if count == 0:
        return None  # a band that training cannot show is no class to learn
    low = 1 << (count.bit_length() - 1)
    return "1" if low == 1 else f"{low}-{2 * low - 1}"


def shape(word: Word) -> str:
    """The form with X, x, d and c for capitals, small letters, digits and caseless letters.

    Everything else is a dot, and of a run two characters are kept: The Xxx, don't xx.x, 1984 dd.
    """
    out = ""
    for character in word.form:
        if character.isupper():
            mark = "X"
        elif character.islower():
            mark = "x"
        elif character.isdecimal():
            mark = "d"
        else:
            mark = "c" if character.isalpha() else "."
        if not out.endswith(mark * 2):
            out += mark
    return out


def head_direction(word: Word) -> str:
    """Which way the head lies."""
    if word.head == 0:
        return "root"
    return "left" if word.head < word.id else "right"


def head_distance(word: Word) -> float | None:
    """How many words away the head is."""
    return None if word.head == 0 else float(abs(word.head - word.id))


def depths(sentence: Sentence) -> list[int]:
    """Arcs between each word and the root, which has 0."""
    heads = [0] + [word.head for word in sentence.words]
    found: list[int] = []
    for word in sentence.words:
        depth, at = 0, word.head
        while at:
            depth, at = depth + 1, heads[at]
        found.append(depth)
    return found


def arity(sentence: Sentence, train: Corpus) -> list[Value]:
    """How many dependents each word has."""
    children = [0.0] * (len(sentence.words) + 1)
    for word in sentence.words:
        children[word.head] += 1
    return list(children[1:])


def arc_label(word: Word) -> str | None:
    """The relation, of the arc from the word to its head."""
    return None if word.head == 0 or word.deprel == "_" else word.deprel


# Sentences


def _root(sentence: Sentence) -> Word | None:
    return next((word for word in sentence.words if word.head == 0), None)


def _relation(word: Word) -> str:
    return word.deprel.partition(":")[0]


def main_tense(sentence: Sentence, train: Corpus) -> str | None:
    """Tense of the finite verb of the main clause: the root, or its auxiliary or copula."""
    root = _root(sentence)
    if root is None:
        return None
    helpers = [w for w in sentence.words if w.head == root.id and _relation(w) in ("aux", "cop")]
    for word in (root, *helpers):
        if word.feats.get("VerbForm", "Fin") == "Fin" and "Tense" in word.feats:
            return word.feats["Tense"]
    return None


def subject_number(sentence: Sentence, train: Corpus) -> str | None:
    """Number of the root's subject; None where subjects are coordinated."""
    root = _root(sentence)
    if root is None:
        return None
    subjects = [w for w in sentence.words if w.head == root.id and _relation(w) == "nsubj"]
    if not subjects:
        return None
    subject = subjects[0]
    joined = any(w.head == subject.id and _relation(w) == "conj" for w in sentence.words)
    return None if joined else subject.feats.get("Number")


MIN_SHIFT_WORDS = 5


def swap_words(sentence: Sentence, rng: np.random.Generator) -> Sentence | None:
    """Swap two adjacent words in half of the sentences; ``swapped`` says which.

    A sentence is left out, in either half, if it is shorter than five words or has no pair to
    swap: two different words, neither the first (its capital would tell) nor punctuation nor part
    of a multiword token, with white space between. Ids, heads, text and offsets are rebuilt.

    Source: Conneau et al. 2018, "What you can cram into a single vector", section 2.2 (BShift).
    """
    words = sentence.words
    pairs = [i for i in range(1, len(words) - 1) if _swappable(sentence, i)]
    if len(words) < MIN_SHIFT_WORDS or not pairs:
        return None
    # Both draws are made for every sentence, so that one sentence's fate does not depend on
    # another's.
    shift, chosen = rng.random() < 0.5, pairs[int(rng.integers(len(pairs)))]
    if not shift:
        return replace(sentence, swapped=0)
    a, b = words[chosen], words[chosen + 1]
    text = sentence.text
    gap = text[a.end : b.start]
    rebuilt = text[: a.start] + text[b.start : b.end] + gap + text[a.start : a.end] + text[b.end :]
    middle = a.start + (b.end - b.start)
    identity = {a.id: b.id, b.id: a.id}
    moved = [replace(word, head=identity.get(word.head, word.head)) for word in words]
    first = replace(moved[chosen + 1], id=a.id, start=a.start, end=middle)
    second = replace(moved[chosen], id=b.id, start=middle + len(gap), end=b.end)
    moved[chosen : chosen + 2] = [first, second]
    return replace(sentence, text=rebuilt, words=tuple(moved), swapped=a.id)


def _swappable(sentence: Sentence, i: int) -> bool:
    a, b = sentence.words[i : i + 2]
    around = sentence.words[i - 1], *sentence.words[i + 2 : i + 3]
    # Words inside a multiword token touch or overlap the words beside them.
    apart = sentence.text[a.end : b.start].isspace() and around[0].end < a.start
    apart = apart and all(b.end <= word.start for word in around[1:])
    glued = any(b.end == word.start and word.upos != "PUNCT" for word in around[1:])
    plain = "PUNCT" not in (a.upos, b.upos)
    return apart and not glued and plain and a.form.lower() != b.form.lower()


def bigram_shift(sentence: Sentence, train: Corpus) -> str | None:
    """Were two words swapped?"""
    if sentence.swapped is None:
        return None
    return "shifted" if sentence.swapped else "original"


def _table(rows: Sequence[Property]) -> dict[str, Property]:
    return {row.name: row for row in rows}


PROPERTIES: dict[str, Property] = _table(
    [
        Property("upos", "word", "class", _column("upos"), "universal part of speech"),
        Property("xpos", "word", "class", _column("xpos"), "the treebank's own part of speech"),
        Property("frequency", "word", "class", frequency, "band of the type's training count"),
        Property("length", "word", "number", _each(lambda w: float(len(w.form))), "characters"),
        Property("shape", "word", "class", _each(shape), "capitals, small letters, digits, others"),
        Property("deprel", "word", "class", _column("deprel"), "relation to the head, with subtype"),
        Property("head_direction", "word", "class", _each(head_direction), "left, right or root"),
        Property("head_distance", "word", "number", _each(head_distance), "words to the head"),
        Property("depth", "word", "number", lambda s, _: [float(d) for d in depths(s)], "arcs to the root"),
        Property("is_root", "word", "class", _each(lambda w: "yes" if w.head == 0 else "no"), "root or not"),
        Property("arity", "word", "number", arity, "number of dependents"),
        Property("arc:deprel", "arc", "class", _each(arc_label), "relation, from the word and its head together"),
        Property("sentence_length", "sentence", "number", lambda s, _: float(len(s.words)), "words"),
        Property("tree_depth", "sentence", "number", lambda s, _: float(max(depths(s))), "deepest word"),
        Property("main_tense", "sentence", "class", main_tense, "tense of the main clause"),
        Property("subject_number", "sentence", "class", subject_number, "number of the main subject"),
        Property("bigram_shift", "sentence", "class", bigram_shift, "two words swapped or not", swap_words),
    ]
)
