"""Properties of whole sentences: those of SentEval's probing tasks that an annotated corpus allows, and what they rewrite.

    Conneau et al. 2018, "What you can cram into a single vector", section 2.2

A rewritten sentence carries its class in ``label``. In the look-alikes, ``senteval:...``, classes are equally frequent, those
that length could tell within each band of lengths (`experiments.tasks.task`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from . import Corpus, Sentence, Word
from .characters import is_word

BANDS = ((5, 8), (9, 12), (13, 16), (17, 20), (21, 25), (26, 28))
"""SentEval's six bands of sentence lengths, in words."""
MIN_WORDS = 5
TOP = 19
"""Most frequent shapes of a main clause that are classes of their own; the others are one."""
CONTENT = (10, 100)
"""Training counts between which a word can be a class of ``senteval:word``."""


def root_of(sentence: Sentence) -> Word | None:
    """The first word without a head."""
    return next((word for word in sentence.words if word.head == 0), None)


def _relation(word: Word) -> str:
    return word.deprel.partition(":")[0]


def main_tense(sentence: Sentence, train: Corpus) -> str | None:
    """Tense of the finite verb of the main clause: the root, or its auxiliary or copula."""
    root = root_of(sentence)
    if root is None:
        return None
    helpers = [w for w in sentence.words if w.head == root.id and _relation(w) in ("aux", "cop")]
    for word in (root, *helpers):
        if word.feats.get("VerbForm", "Fin") == "Fin" and "Tense" in word.feats:
            return word.feats["Tense"]
    return None


def _number_of(sentence: Sentence, relation: str) -> str | None:
    """Number of the root's dependent; None where several are coordinated."""
    root = root_of(sentence)
    if root is None:
        return None
    found = [w for w in sentence.words if w.head == root.id and _relation(w) == relation]
    if not found or any(w.head == found[0].id and _relation(w) == "conj" for w in sentence.words):
        return None
    return found[0].feats.get("Number")


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
    parts = [
        w
        for w in sentence.words
        if w.id == root.id or (w.head == root.id and _relation(w) != "punct")
    ]
    return " ".join("ROOT" if w.id == root.id else _relation(w) for w in parts)


@lru_cache(maxsize=2)
def _top_shapes(train: Corpus) -> frozenset[str]:
    counts = Counter(shape for s in train if (shape := clause_shape(s)) is not None)
    return frozenset(
        shape for shape, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    )


def top_shape(sentence: Sentence, train: Corpus) -> str | None:
    """Shape of the main clause, one of training's 19 most frequent or ``other``."""
    shape = clause_shape(sentence)
    return shape if shape is None or shape in _top_shapes(train) else "other"


@lru_cache(maxsize=2)
def _content_words(train: Corpus) -> frozenset[str]:
    low, high = CONTENT
    return frozenset(
        w for w, n in train.type_counts.items() if low <= n <= high and is_word(w) and len(w) > 2
    )


def word_content(sentence: Sentence, train: Corpus) -> str | None:
    """The one word of middling frequency that the sentence holds; None with none or several."""
    held = {word.form.lower() for word in sentence.words} & _content_words(train)
    return held.pop() if len(held) == 1 else None


def label(sentence: Sentence, train: Corpus) -> str | None:
    """The class that a rewriting, or a file of labelled sentences, gave the sentence."""
    return sentence.label


# Rewriting


def swap_words(sentence: Sentence, rng: np.random.Generator, corpus: Corpus) -> Sentence | None:
    """Swap two adjacent words in half of the sentences (BShift).

    A sentence is left out, in either half, if it is shorter than five words or has no pair to
    swap: two different words, neither the first (its capital would tell) nor punctuation nor part
    of a multiword token, with white space between. Ids, heads, text and offsets are rebuilt.
    """
    words = sentence.words
    pairs = [i for i in range(1, len(words) - 1) if _swappable(sentence, i)]
    if len(words) < MIN_WORDS or not pairs:
        return None
    shift, i = rng.random() < 0.5, pairs[int(rng.integers(len(pairs)))]
    if not shift:
        return replace(sentence, label="original")
    gap = sentence.text[words[i].end : words[i + 1].start]
    before = sentence.text[words[i - 1].end : words[i].start]
    after = sentence.text[words[i + 1].end : words[i + 2].start] if i + 2 < len(words) else ""
    pieces = [
        (range(i), ""),
        (range(i + 1, i + 2), before),
        (range(i, i + 1), gap),
        (range(i + 2, len(words)), after),
    ]
    return replace(_assembled(sentence, pieces), label="shifted")


def _swappable(sentence: Sentence, i: int) -> bool:
    a, b = sentence.words[i : i + 2]
    around = sentence.words[i - 1], *sentence.words[i + 2 : i + 3]
    # Words inside a multiword token touch or overlap the words beside them.
    apart = sentence.text[a.end : b.start].isspace() and around[0].end < a.start
    apart = apart and all(b.end <= word.start for word in around[1:])
    glued = any(b.end == word.start and word.upos != "PUNCT" for word in around[1:])
    plain = "PUNCT" not in (a.upos, b.upos)
    return apart and not glued and plain and a.form.lower() != b.form.lower()


def replace_word(sentence: Sentence, rng: np.random.Generator, corpus: Corpus) -> Sentence | None:
    """Put another noun or verb of the same form class in the place of one, in half of the sentences (SOMO)."""
    places = [
        i
        for i, w in enumerate(sentence.words)
        if w.upos in ("NOUN", "VERB") and _alone(sentence, i)
    ]
    if len(sentence.words) < MIN_WORDS or not places:
        return None
    odd, i, draw = rng.random() < 0.5, places[int(rng.integers(len(places)))], rng.random()
    word = sentence.words[i]
    others = [
        form for form in _by_class(corpus).get(_form_class(word), []) if form != word.form.lower()
    ]
    if not others:
        return None
    if not odd:
        return replace(sentence, label="original")
    form = others[int(draw * len(others))]
    form = form.capitalize() if word.form[0].isupper() else form
    text = sentence.text[: word.start] + form + sentence.text[word.end :]
    longer = len(form) - len(word.form)
    words = [
        replace(w, start=w.start + longer, end=w.end + longer) if w.start >= word.end else w
        for w in sentence.words
    ]
    words[i] = replace(word, form=form, lemma="_", end=word.end + longer)
    return replace(sentence, text=text, words=tuple(words), label="odd")


def _alone(sentence: Sentence, i: int) -> bool:
    """Whether the word is a token of its own, with its neighbours apart from it or punctuation."""
    word, words = sentence.words[i], sentence.words
    before = i == 0 or words[i - 1].end < word.start or words[i - 1].upos == "PUNCT"
    after = i + 1 == len(words) or word.end < words[i + 1].start or words[i + 1].upos == "PUNCT"
    return before and after and sentence.text[word.start : word.end] == word.form


def _form_class(word: Word) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return word.upos, word.xpos, tuple(sorted(word.feats.items()))


@lru_cache(maxsize=4)
def _by_class(corpus: Corpus) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], list[str]]:
    """Forms of nouns and verbs by class; a form that is met twice is twice as likely."""
    out: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[str]] = {}
    for sentence in corpus:
        for word in sentence.words:
            if word.upos in ("NOUN", "VERB") and is_word(word.form):
                out.setdefault(_form_class(word), []).append(word.form.lower())
    return {kind: sorted(forms) for kind, forms in out.items()}


def swap_clauses(sentence: Sentence, rng: np.random.Generator, corpus: Corpus) -> Sentence | None:
    """Exchange two coordinated main clauses in half of the sentences (CoordInv).

    The sentence must be clause, conjunction, clause, and perhaps a closing mark; both clauses have a subject.
    """
    parts = _clauses(sentence)
    if parts is None:
        return None
    if rng.random() >= 0.5:
        return replace(sentence, label="original")
    first, comma, joint, second, tail = parts
    pieces = [(second, ""), (comma, ""), (joint, " "), (first, " "), (tail, "")]
    new = _assembled(sentence, [(indices, gap) for indices, gap in pieces if len(indices)])
    opener, inner = sentence.words[first[0]], len(second) + len(comma) + len(joint)
    words, text = list(new.words), new.text
    if opener.upos != "PROPN" and opener.form != "I" and not opener.form.isupper():
        words[inner], text = _cased(words[inner], text, upper=False)
    words[0], text = _cased(words[0], text, upper=True)
    return replace(new, text=text, words=tuple(words), label="inverted")


def _clauses(sentence: Sentence) -> tuple[range, range, range, range, range] | None:
    """First clause, comma, conjunction, second clause, closing mark, as places of words; None for another sentence."""
    root, words = root_of(sentence), sentence.words
    overlapping = any(a.end > b.start for a, b in itertools.pairwise(words))
    if root is None or overlapping or not _has_subject(words, root):
        return None
    for word in words:
        if word.head == root.id and _relation(word) == "conj" and _has_subject(words, word):
            clauses = _clauses_around(words, word)
            if clauses is not None:
                return clauses
    return None


def _clauses_around(
    words: Sequence[Word], verb: Word
) -> tuple[range, range, range, range, range] | None:
    """The parts of a sentence whose second clause is the verb's; None where the verb's words are not one run of words."""
    under_verb = [i for i, word in enumerate(words) if verb.id in _ancestors(words, word)]
    conjunctions = [
        i for i in under_verb if words[i].head == verb.id and _relation(words[i]) == "cc"
    ]
    if not conjunctions:
        return None
    conjunction = conjunctions[0]
    has_comma = conjunction > 0 and words[conjunction - 1].form == ","
    comma = conjunction - 1 if has_comma else conjunction

    second = [i for i in under_verb if i > conjunction]
    if not second or comma == 0 or min(under_verb) < comma:
        return None
    end = second[-1] + 1
    if second != list(range(conjunction + 1, end)):
        return None
    closing = range(end, len(words))
    if len(closing) > 1 or any(words[i].upos != "PUNCT" for i in closing):
        return None
    return (
        range(comma),
        range(comma, conjunction),
        range(conjunction, conjunction + 1),
        range(conjunction + 1, end),
        closing,
    )


def _has_subject(words: Sequence[Word], verb: Word) -> bool:
    return any(w.head == verb.id and _relation(w) in ("nsubj", "csubj", "expl") for w in words)


def _ancestors(words: Sequence[Word], word: Word) -> set[int]:
    """The word's own id, and those of all above it."""
    found = {word.id}
    while word.head and word.head not in found:
        found.add(word.head)
        word = words[word.head - 1]
    return found


def _assembled(sentence: Sentence, pieces: Sequence[tuple[range, str]]) -> Sentence:
    """The sentence with its words in another order: runs of words, each after the given text; ids and heads are rebuilt."""
    words, made = sentence.words, []
    text = sentence.text[: words[0].start]
    for indices, gap in pieces:
        if len(indices):
            text += gap
            moved = len(text) - words[indices[0]].start
            text += sentence.text[words[indices[0]].start : words[indices[-1]].end]
            made += [
                replace(words[i], start=words[i].start + moved, end=words[i].end + moved)
                for i in indices
            ]
    text += sentence.text[words[-1].end :]
    place = {word.id: i for i, word in enumerate(made, 1)}
    made = [replace(w, id=i, head=place.get(w.head, 0)) for i, w in enumerate(made, 1)]
    return replace(sentence, text=text, words=tuple(made))


def _cased(word: Word, text: str, upper: bool) -> tuple[Word, str]:
    first = word.form[0].upper() if upper else word.form[0].lower()
    if len(first) != 1:
        return word, text
    return replace(word, form=first + word.form[1:]), text[: word.start] + first + text[
        word.start + 1 :
    ]
