"""Lexical and syntactic properties, read off an annotated corpus: a plain dict of small functions.

To add one, write a function of a sentence (and of the training corpus, for what must be counted)
and a row of the dict:

    >>> from layerscope.experiments.tasks.properties import PROPERTIES, Property, get_property
    >>> def capital(sentence, train):
    ...     return ["yes" if word.form[0].isupper() else "no" for word in sentence.words]
    >>> about = "begins with a capital"
    >>> PROPERTIES["capital"] = Property("capital", "word", "class", capital, about)
    >>> from layerscope.experiments.corpus import read_conllu
    >>> from layerscope.experiments.demo import demo_paths
    >>> corpus = read_conllu(demo_paths().dev, limit=1)
    >>> get_property("capital", corpus).read(corpus.sentences[0], corpus)[0]
    'yes'
    >>> del PROPERTIES["capital"]

A value of None says that the property does not apply (a word without that feature, the root's
arc): the study leaves such items out.
"""

from __future__ import annotations

import difflib
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np

from layerscope.errors import LayerscopeError

from ..corpus import Corpus, Sentence, Word, rewriting, sentences
from ..corpus.characters import is_letter
from ..corpus.items import item_properties

Value = str | float | None
Pair = tuple[int, int, str]
"""Places of two words in their sentence, and a label of the two."""
Reader = Callable[[Sentence, Corpus], "list[Value] | Value | list[Pair]"]
Rewriter = Callable[[Sentence, np.random.Generator, Corpus], Sentence | None]


class UnknownProperty(LayerscopeError, LookupError):
    """No property of that name; the message names the nearest and lists all."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Property:
    """What to read and how.

    Args:
        name: as the command line spells it.
        level: ``word`` (one value per word), ``arc`` (one per word: of the arc to its head, None
            at the root), ``pair`` (of any two words, as many as `read` names) or ``sentence`` (one
            value).
        kind: ``class`` (values are labels) or ``number``.
        read: of the sentence and the training corpus; counts come from the training corpus alone.
        doc: one line.
        rewrite: the sentence that the model is shown instead, or None to leave this one out;
            `read` then gets the rewritten sentence. It may take words from the whole split.
        balance: ``class`` to keep as many sentences of every class, ``length`` to do so within each
            band of lengths.
    """

    name: str
    level: Literal["word", "sentence", "arc", "pair"]
    kind: Literal["class", "number"]
    read: Reader
    doc: str
    rewrite: Rewriter | None = None
    balance: Literal["", "class", "length"] = ""


def get_property(name: str, corpus: Corpus) -> Property:
    """The property of this name.

    ``feats:X`` is a feature X that the corpus annotates, ``misc:X`` a key X of its last column, and
    ``column:X`` a column of its words as it stands.

    Raises:
        UnknownProperty: no such property in this corpus.
    """
    of_items = {column: partial(_of_items, column, corpus) for column in item_properties(corpus)}
    if name in PROPERTIES and not of_items:
        return PROPERTIES[name]
    annotated = of_items or {
        **{f"feats:{feature}": partial(_feature, feature) for feature in _features(corpus)},
        **{f"misc:{key}": partial(_misc, key) for key in _misc_keys(corpus)},
        **{f"column:{column}": partial(_whole_column, column) for column in COLUMNS},
    }
    if name in annotated:
        return annotated[name]()
    known = [*annotated] if of_items else [*PROPERTIES, *annotated]
    tails = {known_name.rpartition(":")[2]: known_name for known_name in known}
    near = [one for one in known if one.lower() == name.lower()][:1]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    near = near or [tails[t] for t in difflib.get_close_matches(name, tails, n=1, cutoff=0.4)]
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise UnknownProperty(f"expected a property, got {name!r}{hint}; there are: {', '.join(known)}")


MOST_CLASSES = 20
"""Different numbers up to which a column of numbers is one of classes."""


def _of_items(column: str, corpus: Corpus) -> Property:
    """A column of a table of pictures or sounds: classes,
    or numbers where it holds many different ones.
    """
    values = {word.feats[column] for s in corpus for word in s.words if column in word.feats}
    if len(values) > MOST_CLASSES and all(map(_is_number, values)):
        read = _each(lambda word: float(word.feats[column]) if column in word.feats else None)
        return Property(column, "word", "number", read, f"{column}, a number of each item")
    read = _each(lambda word: word.feats.get(column))
    return Property(column, "word", "class", read, f"{column} of each item")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _features(corpus: Corpus) -> list[str]:
    return sorted({feature for s in corpus for word in s.words for feature in word.feats})


def _feature(feature: str) -> Property:
    def read(sentence: Sentence, train: Corpus) -> list[Value]:
        return [word.feats.get(feature) for word in sentence.words]

    doc = f"morphological feature {feature}, of the words that have it"
    return Property(f"feats:{feature}", "word", "class", read, doc)


def _misc_keys(corpus: Corpus) -> list[str]:
    keys: set[str] = set()
    for sentence in corpus:
        for word in sentence.words:
            keys.update(_misc_of(word.misc))
    return sorted(keys)


@lru_cache(maxsize=100_000)
def _misc_of(column: str) -> dict[str, str]:
    """The pairs of a last column; what is no ``Name=Value`` there is left out."""
    pairs = (part.partition("=") for part in column.split("|"))
    return {name: value for name, equals, value in pairs if equals and name and value}


def _misc(key: str) -> Property:
    read = _each(lambda word: _misc_of(word.misc).get(key))
    return Property(
        f"misc:{key}", "word", "class", read, f"{key} in the last column, of the words that have it"
    )


COLUMNS = ("form", "lemma", "upos", "xpos", "deprel", "deps", "misc")
"""Columns that ``column:NAME`` reads as they stand."""


def _whole_column(name: str) -> Property:
    return Property(
        f"column:{name}", "word", "class", _column(name), f"the column {name} as it stands"
    )


# Words


def _each(value: Callable[[Word], Value]) -> Reader:
    """A reader that looks at one word at a time."""
    return lambda sentence, train: [value(word) for word in sentence.words]


def _column(name: str) -> Reader:
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
            mark = "c" if is_letter(character) else "."
        # Long words and short ones have the same shape: what is left is the pattern, not the
        # length.
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


def arity(sentence: Sentence, train: Corpus) -> list[Value]:
    """How many dependents each word has."""
    children = [0.0] * (len(sentence.words) + 1)
    for word in sentence.words:
        children[word.head] += 1
    return list(children[1:])


def arc_label(word: Word) -> str | None:
    """The relation, of the arc from the word to its head."""
    return None if word.head == 0 or word.deprel == "_" else word.deprel


def arc_exists(sentence: Sentence, train: Corpus) -> list[Pair]:
    """Each word with its head, and with another word that it has no arc with.

    The other word stands as far away on the other side where there is one without an arc, so that
    distance does not tell; otherwise it is drawn from the words without one. A word that has an arc
    with every other is left out, both times.
    """
    rng = np.random.default_rng(zlib.crc32(sentence.text.encode()))
    heads = [word.head - 1 for word in sentence.words]
    children: list[list[int]] = [[] for _ in heads]
    for i, head in enumerate(heads):
        if head >= 0:
            children[head].append(i)
    pairs: list[Pair] = []
    for i, head in enumerate(heads):
        with_arc = sorted({i, head, *children[i]})
        n_free = len(heads) - len(with_arc)
        if head < 0 or not n_free:
            continue
        mirrored = 2 * i - head
        is_free = 0 <= mirrored < len(heads) and mirrored not in with_arc
        other = mirrored if is_free else _free(int(rng.integers(n_free)), with_arc)
        pairs += [(i, head, "arc"), (i, other, "none")]
    return pairs


def _free(number: int, taken: Sequence[int]) -> int:
    """The place with this number among those that are not taken; what is taken is in order."""
    for place in taken:
        if place > number:
            break
        number += 1
    return number


def _look_alikes() -> list[Property]:
    """SentEval's ten probing tasks as far as an annotated corpus has them."""
    at = sentences
    rows: list[tuple[str, Reader, Literal["", "class", "length"], str, Rewriter | None]] = [
        ("length", at.length_band, "class", "band of the length in words", None),
        ("word", at.word_content, "", "which of the mid-frequency words it contains", None),
        ("depth", at.depth_class, "length", "depth of the tree, 2 to 7", None),
        ("top", at.top_shape, "class", "the root's dependents in order", None),
        ("shift", at.label, "length", "two words swapped or not", rewriting.swap_words),
        ("tense", at.main_tense, "length", "tense of the main clause", None),
        ("subject", at.subject_number, "length", "number of the main subject", None),
        ("object", at.object_number, "length", "number of the main object", None),
        ("odd", at.label, "length", "a noun or verb replaced or not", rewriting.replace_word),
        (
            "coordination",
            at.label,
            "length",
            "two clauses exchanged or not",
            rewriting.swap_clauses,
        ),
    ]
    return [
        Property(f"senteval:{name}", "sentence", "class", read, doc, rewrite, balance)
        for name, read, balance, doc, rewrite in rows
    ]


def _table(rows: Sequence[Property]) -> dict[str, Property]:
    return {row.name: row for row in rows}


PROPERTIES: dict[str, Property] = _table(
    [
        Property("upos", "word", "class", _column("upos"), "universal part of speech"),
        Property("xpos", "word", "class", _column("xpos"), "the treebank's own part of speech"),
        Property("frequency", "word", "class", frequency, "band of the type's training count"),
        Property("length", "word", "number", _each(lambda w: float(len(w.form))), "characters"),
        Property("shape", "word", "class", _each(shape), "capitals, small letters, digits, others"),
        Property(
            "deprel", "word", "class", _column("deprel"), "relation to the head, with subtype"
        ),
        Property("head_direction", "word", "class", _each(head_direction), "left, right or root"),
        Property("head_distance", "word", "number", _each(head_distance), "words to the head"),
        Property(
            "depth", "word", "number", lambda s, _: [float(d) for d in s.depths], "arcs to the root"
        ),
        Property(
            "is_root",
            "word",
            "class",
            _each(lambda w: "yes" if w.head == 0 else "no"),
            "root or not",
        ),
        Property("arity", "word", "number", arity, "number of dependents"),
        Property(
            "arc:deprel",
            "arc",
            "class",
            _each(arc_label),
            "relation, from the word and its head together",
        ),
        Property(
            "arc:exists",
            "pair",
            "class",
            arc_exists,
            "whether there is an arc from the first word to the second",
        ),
        Property(
            "sentence_length", "sentence", "number", lambda s, _: float(len(s.words)), "words"
        ),
        Property(
            "tree_depth", "sentence", "number", lambda s, _: float(max(s.depths)), "deepest word"
        ),
        Property(
            "main_tense", "sentence", "class", sentences.main_tense, "tense of the main clause"
        ),
        Property(
            "subject_number",
            "sentence",
            "class",
            sentences.subject_number,
            "number of the main subject",
        ),
        Property(
            "bigram_shift",
            "sentence",
            "class",
            sentences.label,
            "two words swapped or not",
            rewriting.swap_words,
        ),
        Property(
            "label",
            "sentence",
            "class",
            sentences.label,
            "the label of a file of labelled sentences",
        ),
        *_look_alikes(),
    ]
)
