"""Splits: which sentences train, choose and test, with no sentence in two of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.corpus import Corpus, CorpusError, Sentence, read_conllu
from experiments.tasks import SPLITS, Split


def read_splits(
    corpus: Path, dev: Path | None, test: Path | None, limit: int | None, seed: int
) -> tuple[dict[Split, Corpus], list[str]]:
    """Read or cut the three splits.

    Files that are not given are cut from the training file, a tenth of its sentences each. A training sentence whose
    text is also in dev or test is left out of training, so that nothing is tested on what was learned. `limit` then
    draws that many training sentences with the seed; dev and test stay whole.

    Returns:
        The corpora by split, and notes on what was left out.

    Raises:
        CorpusError: a file that cannot be read, or a split with no sentence left.
    """
    train = read_conllu(corpus)
    notes: list[str] = []
    given: dict[Split, Path | None] = {"dev": dev, "test": test}
    order = list(train.sentences)
    random.Random(seed).shuffle(order)
    found: dict[Split, Corpus] = {}
    for split, path in given.items():
        if path is not None:
            found[split] = read_conllu(path)
        else:
            size = max(1, len(train) // 10)
            found[split], order = replace(train, sentences=tuple(order[:size])), order[size:]
            notes.append(f"{split}: {size} sentences cut at random from {train.path.name}, since no file was given")
    held_out = {s.text for split in given for s in found[split].sentences}
    clean = [s for s in order if s.text not in held_out]
    if len(clean) < len(order):
        notes.append(
            f"{len(order) - len(clean)} training sentences left out because their text is also in dev or test"
        )
    if limit is not None and limit < len(clean):
        notes.append(f"{limit} of {len(clean)} training sentences drawn at random (seed {seed})")
        clean = clean[:limit]
    elif limit is not None and limit > len(clean):
        notes.append(f"--limit-sentences {limit}, but only {len(clean)} training sentences are there: all were used")
    place = {s.id: i for i, s in enumerate(train.sentences)}
    clean.sort(key=lambda s: place[s.id])  # a fixed order, whatever was drawn
    found["train"] = replace(train, sentences=tuple(clean))
    found = {split: found[split] for split in SPLITS}
    for split, part in found.items():
        if not part.sentences:
            raise CorpusError(f"{part.path}: expected sentences for the {split} split, none is left")
    _check(found)
    return found, notes


def _check(splits: dict[Split, Corpus]) -> None:
    seen: dict[str, str] = {}
    for split, corpus in splits.items():
        for text in {s.text for s in corpus.sentences}:
            if text in seen and "train" in (split, seen[text]):
                raise CorpusError(f"a sentence is in two splits ({seen[text]} and {split}): {text[:60]!r}")
            seen[text] = split


def shared_texts(first: Sequence[Sentence], second: Sequence[Sentence]) -> int:
    """How many sentences of the second have a text that the first has too."""
    texts = {s.text for s in first}
    return sum(s.text in texts for s in second)
