"""Annotated words and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """One syntactic word: its columns, and its character span in the sentence's text.

    ``text[start:end]`` is the form, except inside a multiword token whose surface is not the
    concatenation of its words (``du`` = ``de`` + ``le``): there it is the whole surface token.
    ``head`` is the 1-based id of the governor, 0 at the root. Absent columns stay ``"_"``.
    ``feats`` is shared by all words with the same features: read it, do not change it. ``deps`` and
    ``misc`` are the last two columns as they stand.
    """

    id: int
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: Mapping[str, str]
    head: int
    deprel: str
    start: int
    end: int
    deps: str = "_"
    misc: str = "_"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence: its unique id, its text, its words in order, and the document it is from.

    ``label`` is None in a sentence of a treebank; a rewritten one (property ``bigram_shift``) and
    one from a file of labelled sentences have their class there.
    """

    id: str
    text: str
    words: tuple[Word, ...]
    document: str | None = None
    label: str | None = None

    @property
    def depths(self) -> list[int]:
        """Arcs between each word and the root, which has 0."""
        heads = [0, *(word.head for word in self.words)]
        # of place 0, which governs the root
        depths: list[int | None] = [-1, *(None for _ in self.words)]
        for word in self.words:
            above, at = [], word.id
            while depths[at] is None:
                above.append(at)
                at = heads[at]
            depth = depths[at] or 0
            # each word is walked over once: a chain of n words takes n steps
            for at in reversed(above):
                depth = (depths[heads[at]] or 0) + 1
                depths[at] = depth
        return [depth or 0 for depth in depths[1:]]
