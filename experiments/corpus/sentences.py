"""Properties of whole sentences: those of SentEval's probing tasks that an annotated corpus allows.

    Conneau et al. 2018, "What you can cram into a single vector", section 2.2

A rewritten sentence carries its class in ``label``. In the look-alikes, ``senteval:...``, classes
are equally frequent, those that length could tell within each band of lengths
(`experiments.tasks.task`).
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from . import Corpus, Sentence, Word
from .characters import is_word

BANDS = ((5, 8), (9, 12), (13, 16), (17, 20), (21, 25), (26, 28))
"""SentEval's six bands of sentence lengths, in words."""
TOP = 19
"""Most frequent shapes of a main clause that are classes of their own; the others are one."""
CONTENT = (10, 100)
"""Training counts between which a word can be a class of ``senteval:word``."""


def root_of(sentence: Sentence) -> Word | None:
    """The first word without a head."""
    return next((word for word in sentence.words if word.head == 0), None)


def relation(word: Word) -> str:
    """A word's relation without its subtype."""
    return word.deprel.partition(":")[0]


def main_tense(sentence: Sentence, train: Corpus) -> str | None:
    """Tense of the finite verb of the main clause: the root, or its auxiliary or copula."""
    root = root_of(sentence)
    if root is None:
        return None
    # In "has seen" and "is old" the root has no tense of its own.
    helpers = [w for w in sentence.words if w.head == root.id and relation(w) in ("aux", "cop")]
    for word in (root, *helpers):
        if word.feats.get("VerbForm", "Fin") == "Fin" and "Tense" in word.feats:
            return word.feats["Tense"]
    return None


def _number_of(sentence: Sentence, name: str) -> str | None:
    """Number of the root's dependent; None where several are coordinated."""
    root = root_of(sentence)
    if root is None:
        return None
    dependents = [w for w in sentence.words if w.head == root.id and relation(w) == name]
    if not dependents:
        return None
    first = dependents[0]
    # "The cat and the dog": the first conjunct is singular, the subject is not.
    if any(w.head == first.id and relation(w) == "conj" for w in sentence.words):
        return None
    return first.feats.get("Number")


def subject_number(sentence: Sentence, train: Corpus) -> str | None:
    """Number of the root's subject."""
    return _number_of(sentence, "nsubj")


def object_number(sentence: Sentence, train: Corpus) -> str | None:
    """Number of the root's object."""
    return _number_of(sentence, "obj")


def band(n: int) -> str | None:
    """SentEval's band of a length in words.

    >>> band(10), band(40)
    ('9-12', None)
    """
    return next((f"{low}-{high}" for low, high in BANDS if low <= n <= high), None)


def length_band(sentence: Sentence, train: Corpus) -> str | None:
    """Band of the length."""
    return band(len(sentence.words))


def depth_class(sentence: Sentence, train: Corpus) -> str | None:
    """Depth of the dependency tree, where it is 2 to 7."""
    deepest = max(sentence.depths)
    return str(deepest) if 2 <= deepest <= 7 else None


def clause_shape(sentence: Sentence) -> str | None:
    """The root's dependents in order, punctuation left out: ``nsubj ROOT obj``."""
    root = root_of(sentence)
    if root is None:
        return None
    parts = []
    for word in sentence.words:
        if word.id == root.id:
            parts.append("ROOT")
        elif word.head == root.id and relation(word) != "punct":
            parts.append(relation(word))
    return " ".join(parts)


@lru_cache(maxsize=2)
def _top_shapes(train: Corpus) -> frozenset[str]:
    shapes = (clause_shape(sentence) for sentence in train)
    counts = Counter(shape for shape in shapes if shape is not None)
    # Ties by name, so that the classes do not depend on the order of the sentences.
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return frozenset(shape for shape, _ in by_count[:TOP])


def top_shape(sentence: Sentence, train: Corpus) -> str | None:
    """Shape of the main clause, one of training's 19 most frequent or ``other``."""
    shape = clause_shape(sentence)
    return shape if shape is None or shape in _top_shapes(train) else "other"


@lru_cache(maxsize=2)
def _content_words(train: Corpus) -> frozenset[str]:
    lowest, highest = CONTENT
    words = set()
    for form, count in train.type_counts.items():
        is_long_word = is_word(form) and len(form) > 2
        if is_long_word and lowest <= count <= highest:
            words.add(form)
    return frozenset(words)


def word_content(sentence: Sentence, train: Corpus) -> str | None:
    """The one word of middling frequency that the sentence holds; None with none or several."""
    forms = {word.form.lower() for word in sentence.words}
    content = forms & _content_words(train)
    return content.pop() if len(content) == 1 else None


def label(sentence: Sentence, train: Corpus) -> str | None:
    """The class that a rewriting, or a file of labelled sentences, gave the sentence."""
    return sentence.label
