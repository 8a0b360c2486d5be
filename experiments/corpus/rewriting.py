"""Sentences with a change that a reader would notice, in half of them: SentEval's tasks of odd
sentences.

    Conneau et al. 2018, "What you can cram into a single vector", section 2.2 (BShift, SOMO,
    CoordInv)

A rewritten sentence carries its class in ``label``, and so does one that was left as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from . import Corpus, Sentence, Word
from .characters import is_word
from .sentences import relation, root_of

MIN_WORDS = 5
"""Shorter sentences are left out."""
REPLACED = ("NOUN", "VERB")
SUBJECTS = ("nsubj", "csubj", "expl")
FormClass: TypeAlias = "tuple[str, str, tuple[tuple[str, str], ...]]"
"""Part of speech, the language's own tag, and features."""


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
    # Both numbers are drawn for every sentence, so that what one becomes changes no other.
    is_shifted, i = rng.random() < 0.5, pairs[int(rng.integers(len(pairs)))]
    if not is_shifted:
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
    previous = sentence.words[i - 1]
    a, b = sentence.words[i : i + 2]
    following = sentence.words[i + 2 : i + 3]  # none at the end
    if "PUNCT" in (a.upos, b.upos) or a.form.lower() == b.form.lower():
        return False
    # Words inside a multiword token touch or overlap the words beside them.
    if not sentence.text[a.end : b.start].isspace() or previous.end >= a.start:
        return False
    for word in following:
        is_glued = b.end == word.start and word.upos != "PUNCT"
        if b.end > word.start or is_glued:
            return False
    return True


def replace_word(sentence: Sentence, rng: np.random.Generator, corpus: Corpus) -> Sentence | None:
    """Put another noun or verb of the same form class in the place of one,
    in half of the sentences (SOMO).
    """
    places = []
    for i, word in enumerate(sentence.words):
        if word.upos in REPLACED and _alone(sentence, i):
            places.append(i)
    if len(sentence.words) < MIN_WORDS or not places:
        return None
    # Drawn before it is known what is needed: a sentence takes three draws whichever way it goes.
    is_odd = rng.random() < 0.5
    i = places[int(rng.integers(len(places)))]
    draw = rng.random()
    word = sentence.words[i]
    forms = _by_class(corpus).get(_form_class(word), [])
    others = [form for form in forms if form != word.form.lower()]
    if not others:
        return None
    if not is_odd:
        return replace(sentence, label="original")
    form = others[int(draw * len(others))]
    form = form.capitalize() if word.form[0].isupper() else form
    text = sentence.text[: word.start] + form + sentence.text[word.end :]
    # All words behind the new one move by so many characters.
    longer = len(form) - len(word.form)
    words = []
    for other in sentence.words:
        is_behind = other.start >= word.end
        words.append(_moved(other, longer) if is_behind else other)
    words[i] = replace(word, form=form, lemma="_", end=word.end + longer)
    return replace(sentence, text=text, words=tuple(words), label="odd")


def _moved(word: Word, by: int) -> Word:
    """A word at another place of the text."""
    return replace(word, start=word.start + by, end=word.end + by)


def _alone(sentence: Sentence, i: int) -> bool:
    """Whether the word is a token of its own, with its neighbours apart from it or punctuation."""
    word, words = sentence.words[i], sentence.words
    # Part of a contraction: its letters are not its form, and another form does not fit there.
    if sentence.text[word.start : word.end] != word.form:
        return False
    if i > 0:
        previous = words[i - 1]
        if previous.end >= word.start and previous.upos != "PUNCT":
            return False
    if i + 1 < len(words):
        following = words[i + 1]
        if word.end >= following.start and following.upos != "PUNCT":
            return False
    return True


def _form_class(word: Word) -> FormClass:
    return word.upos, word.xpos, tuple(sorted(word.feats.items()))


@lru_cache(maxsize=4)
def _by_class(corpus: Corpus) -> dict[FormClass, list[str]]:
    """Forms of nouns and verbs by class; a form that is met twice is twice as likely."""
    forms: dict[FormClass, list[str]] = {}
    for sentence in corpus:
        for word in sentence.words:
            if word.upos in REPLACED and is_word(word.form):
                forms.setdefault(_form_class(word), []).append(word.form.lower())
    return {kind: sorted(of_class) for kind, of_class in forms.items()}


def swap_clauses(sentence: Sentence, rng: np.random.Generator, corpus: Corpus) -> Sentence | None:
    """Exchange two coordinated main clauses in half of the sentences (CoordInv).

    The sentence must be clause, conjunction, clause, and perhaps a closing mark; both clauses have
    a subject.
    """
    parts = _clauses(sentence)
    if parts is None:
        return None
    if rng.random() >= 0.5:
        return replace(sentence, label="original")
    first, comma, conjunction, second, closing = parts
    pieces = [(second, ""), (comma, ""), (conjunction, " "), (first, " "), (closing, "")]
    new = _assembled(sentence, [(indices, gap) for indices, gap in pieces if len(indices)])
    # The sentence's first word is within now, and another one begins it.
    opener = sentence.words[first[0]]
    inner = len(second) + len(comma) + len(conjunction)
    words, text = list(new.words), new.text
    keeps_case = opener.upos == "PROPN" or opener.form == "I" or opener.form.isupper()
    if not keeps_case:
        words[inner], text = _cased(words[inner], text, upper=False)
    words[0], text = _cased(words[0], text, upper=True)
    return replace(new, text=text, words=tuple(words), label="inverted")


def _clauses(sentence: Sentence) -> tuple[range, range, range, range, range] | None:
    """First clause, comma, conjunction, second clause, closing mark, as places of words;
    None for another sentence.
    """
    root, words = root_of(sentence), sentence.words
    # Words of one contraction share their characters, and cannot be moved apart.
    is_overlapping = any(a.end > b.start for a, b in itertools.pairwise(words))
    if root is None or is_overlapping or not _has_subject(words, root):
        return None
    for word in words:
        is_conjunct = word.head == root.id and relation(word) == "conj"
        if is_conjunct and _has_subject(words, word):
            clauses = _clauses_around(words, word)
            if clauses is not None:
                return clauses
    return None


def _clauses_around(
    words: Sequence[Word], verb: Word
) -> tuple[range, range, range, range, range] | None:
    """The parts of a sentence whose second clause is the verb's;
    None where the verb's words are not one run of words.
    """
    under_verb = [i for i, word in enumerate(words) if verb.id in _ancestors(words, word)]
    conjunction = None
    for i in under_verb:
        if words[i].head == verb.id and relation(words[i]) == "cc":
            conjunction = i
            break
    if conjunction is None:
        return None
    has_comma = conjunction > 0 and words[conjunction - 1].form == ","
    comma = conjunction - 1 if has_comma else conjunction

    second = [i for i in under_verb if i > conjunction]
    if not second or comma == 0 or min(under_verb) < comma:
        return None
    # The second clause must be one run of words up to the end, but for a closing mark.
    end = second[-1] + 1
    is_run = second == list(range(conjunction + 1, end))
    if not is_run:
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
    return any(w.head == verb.id and relation(w) in SUBJECTS for w in words)


def _ancestors(words: Sequence[Word], word: Word) -> set[int]:
    """The word's own id, and those of all above it."""
    ids = {word.id}
    while word.head and word.head not in ids:
        ids.add(word.head)
        word = words[word.head - 1]
    return ids


def _assembled(sentence: Sentence, pieces: Sequence[tuple[range, str]]) -> Sentence:
    """The sentence with its words in another order: runs of words, each after the given text;
    ids and heads are rebuilt.
    """
    words, reordered = sentence.words, []
    text = sentence.text[: words[0].start]
    for indices, gap in pieces:
        if not len(indices):
            continue
        first, last = words[indices[0]], words[indices[-1]]
        text += gap
        shift = len(text) - first.start
        text += sentence.text[first.start : last.end]
        reordered += [_moved(words[i], shift) for i in indices]
    text += sentence.text[words[-1].end :]
    # Heads follow their words: the tree is the same, only the order is another.
    new_id = {word.id: i for i, word in enumerate(reordered, 1)}
    numbered = []
    for i, word in enumerate(reordered, 1):
        numbered.append(replace(word, id=i, head=new_id.get(word.head, 0)))
    return replace(sentence, text=text, words=tuple(numbered))


def _cased(word: Word, text: str, upper: bool) -> tuple[Word, str]:
    first = word.form[0].upper() if upper else word.form[0].lower()
    if len(first) != 1:  # a capital of two letters would move the text
        return word, text
    cased_text = text[: word.start] + first + text[word.start + 1 :]
    return replace(word, form=first + word.form[1:]), cased_text
