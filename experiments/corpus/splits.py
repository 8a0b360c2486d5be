"""Splits: which sentences train, choose and test, with no sentence in two of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...probes.evaluation import check_disjoint
from . import SPLITS, Corpus, CorpusError, Split, read_conllu
from .characters import bare
from .items import Items
from .senteval import read_senteval

CUT = 10
"""A split without a file is one in so many sentences of the training file."""


Reader = Callable[[Path], Corpus | dict[Split, Corpus]]
"""What reads a file: its corpus, or the three of a file that holds all splits."""


def read_sentences(path: Path) -> Corpus | dict[Split, Corpus]:
    """A treebank, or the three splits of a file in SentEval's format (.txt or .tsv)."""
    return read_senteval(path) if path.suffix in (".txt", ".tsv") else read_conllu(path)


def read_splits(
    corpus: Path,
    dev: Path | None,
    test: Path | None,
    limit: int | None,
    seed: int,
    read: Reader = read_sentences,
) -> tuple[dict[Split, Corpus], list[dict[str, str]]]:
    """Read or cut the three splits.

    A file may bring all three. Files that are not given are otherwise cut from the training
    file, a tenth of its sentences each. A training sentence whose text is also in dev or test is left out of training (and
    a dev sentence whose text is in test, of dev), so that nothing is tested on what was learned. `limit` then draws that
    many training sentences with the seed; dev and test stay whole.

    Returns:
        The corpora by split, and notes on what was cut, drawn and left out.

    Raises:
        CorpusError: a file that cannot be read, or a split with no sentence left.
    """
    train, parts, notes = _read_parts(corpus, {"dev": dev, "test": test}, seed, read)
    parts["dev"], dropped = _without(parts["dev"], {s.text for s in parts["test"].sentences})
    if dropped:
        text = f"{dropped} dev sentences left out because their text is also in test"
        notes.append({"kind": "dropped", "text": text})
    held_out = {s.text for split in ("dev", "test") for s in parts[split].sentences}
    parts["train"], dropped = _without(parts["train"], held_out)
    if dropped:
        text = f"{dropped} training sentences left out because their text is also in dev or test"
        notes.append({"kind": "dropped", "text": text})
    parts["train"] = _drawn(parts["train"], limit, seed, notes)
    place = {s.id: i for i, s in enumerate(train.sentences)}
    # A fixed order, whatever was drawn.
    in_order = sorted(parts["train"].sentences, key=lambda s: place[s.id])
    parts["train"] = replace(parts["train"], sentences=tuple(in_order))

    splits: dict[Split, Corpus] = {split: parts[split] for split in SPLITS}
    for split, part in splits.items():
        if not part.sentences:
            raise CorpusError(
                f"{part.path}: expected sentences for the {split} split, none is left"
            )
    if not isinstance(splits["train"], Items):  # of items the text is the name of a file
        notes += _near_copies(splits)
    check_disjoint({split: [s.text for s in part.sentences] for split, part in splits.items()})
    return splits, notes


def _read_parts(
    corpus: Path, files: dict[Split, Path | None], seed: int, read: Reader
) -> tuple[Corpus, dict[Split, Corpus], list[dict[str, str]]]:
    """The training file as it is, and the splits: training shuffled, the others read or cut from it."""
    whole = read(corpus)
    published = whole if isinstance(whole, dict) else {}
    train = whole["train"] if isinstance(whole, dict) else whole
    shuffled = list(train.sentences)
    # Shuffled before it is cut: files are in the order of their documents.
    random.Random(seed).shuffle(shuffled)
    parts: dict[Split, Corpus] = {}
    notes: list[dict[str, str]] = []
    for split, path in files.items():
        if path is not None:
            part = read(path)
            if isinstance(part, dict):
                raise CorpusError(
                    f"{path}: expected the {split} split alone, got a file with three"
                )
            parts[split] = part
        elif published:
            parts[split] = published[split]
        else:
            size = max(1, len(train) // CUT)
            parts[split] = replace(train, sentences=tuple(shuffled[:size]))
            shuffled = shuffled[size:]
            text = f"{split}: {size} sentences drawn at random from {train.path.name}, because no file was given"
            notes.append({"kind": "info", "text": text})
    parts["train"] = replace(train, sentences=tuple(shuffled))
    return train, parts, notes


def _without(corpus: Corpus, texts: set[str]) -> tuple[Corpus, int]:
    """The sentences that have none of these texts, and how many were left out."""
    left = tuple(s for s in corpus.sentences if s.text not in texts)
    return replace(corpus, sentences=left), len(corpus) - len(left)


def _drawn(corpus: Corpus, limit: int | None, seed: int, notes: list[dict[str, str]]) -> Corpus:
    """The first sentences of a shuffled corpus."""
    size = len(corpus)
    if limit is None or limit == size:
        return corpus
    if limit < size:
        text = f"{limit} of {size} training sentences drawn at random (seed {seed})"
    else:
        text = f"--sample {limit} exceeds the {size} training sentences, so all were used"
    notes.append({"kind": "info", "text": text})
    return replace(corpus, sentences=corpus.sentences[:limit])


def _near_copies(splits: dict[Split, Corpus]) -> list[dict[str, str]]:
    """Sentences that training has too, but for case and punctuation."""
    notes = []
    trained = {bare(sentence.text) for sentence in splits["train"].sentences} - {""}
    for split in ("dev", "test"):
        alike = sum(bare(sentence.text) in trained for sentence in splits[split].sentences)
        if alike:
            text = f"{alike} of {len(splits[split])} {split} sentences equal a training sentence except for case and punctuation"
            notes.append({"kind": "warning", "text": text})
    return notes
