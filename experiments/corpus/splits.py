"""Splits: which sentences train, choose and test, with no sentence in two of them."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

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
    file, a tenth of its sentences each. A training sentence whose text is also in dev or test is
    left out of training (and a dev sentence whose text is in test, of dev), so that nothing is
    tested on what was learned. `limit` then draws that many training sentences with the seed; dev
    and test stay whole.

    Returns:
        The corpora by split, and notes on what was cut, drawn and left out.

    Raises:
        CorpusError: a file that cannot be read, or a split with no sentence left.
    """
    train, shuffled, parts, notes = _read_parts(corpus, {"dev": dev, "test": test}, seed, read)
    of_test = set(parts["test"].texts())
    dev_places = _without(parts["dev"], range(len(parts["dev"])), of_test)
    if dropped := len(parts["dev"]) - len(dev_places):
        parts["dev"] = parts["dev"].select(dev_places)
        text = f"{dropped} dev sentences left out because their text is also in test"
        notes.append({"kind": "dropped", "text": text})
    places = _without(train, shuffled, of_test.union(parts["dev"].texts()))
    if dropped := len(shuffled) - len(places):
        text = f"{dropped} training sentences left out because their text is also in dev or test"
        notes.append({"kind": "dropped", "text": text})
    # A fixed order, whatever was drawn.
    parts["train"] = train.select(sorted(_drawn(places, limit, seed, notes)))

    splits: dict[Split, Corpus] = {split: parts[split] for split in SPLITS}
    for split, part in splits.items():
        if not part.sentences:
            raise CorpusError(
                f"{part.path}: expected sentences for the {split} split, none is left"
            )
    if not isinstance(splits["train"], Items):  # of items the text is the name of a file
        notes += _near_copies(splits)
    return splits, notes


def _read_parts(
    corpus: Path, files: dict[Split, Path | None], seed: int, read: Reader
) -> tuple[Corpus, Sequence[int], dict[Split, Corpus], list[dict[str, str]]]:
    """The training file, places of its training sentences in random order,
    the other splits (read or cut from it), and notes.
    """
    whole = read(corpus)
    published = whole if isinstance(whole, dict) else {}
    train = whole["train"] if isinstance(whole, dict) else whole
    shuffled = array("q", range(len(train)))
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
            parts[split] = train.select(shuffled[:size])
            shuffled = shuffled[size:]
            text = (
                f"{split}: {size} sentences drawn at random from {train.path.name}, "
                "because no file was given"
            )
            notes.append({"kind": "info", "text": text})
    return train, shuffled, parts, notes


def _without(corpus: Corpus, places: Sequence[int], texts: set[str]) -> Sequence[int]:
    """The places, in their order, whose sentences have none of these texts."""
    unwanted = {place for place, text in enumerate(corpus.texts()) if text in texts}
    return array("q", (place for place in places if place not in unwanted))


def _drawn(
    places: Sequence[int], limit: int | None, seed: int, notes: list[dict[str, str]]
) -> Sequence[int]:
    """The first of the shuffled places."""
    size = len(places)
    if limit is None or limit == size:
        return places
    if limit < size:
        text = f"{limit} of {size} training sentences drawn at random (seed {seed})"
    else:
        text = f"--sample {limit} exceeds the {size} training sentences, so all were used"
    notes.append({"kind": "info", "text": text})
    return places[:limit]


def _near_copies(splits: dict[Split, Corpus]) -> list[dict[str, str]]:
    """Sentences that training has too, but for case and punctuation."""
    notes = []
    held_out = {split: list(map(bare, splits[split].texts())) for split in ("dev", "test")}
    asked = {text for texts in held_out.values() for text in texts} - {""}
    # Of training, which may be large, only what is asked for is kept.
    trained = asked.intersection(map(bare, splits["train"].texts()))
    for split, texts in held_out.items():
        alike = sum(text in trained for text in texts)
        if alike:
            text = (
                f"{alike} of {len(texts)} {split} sentences equal a training sentence except "
                "for case and punctuation"
            )
            notes.append({"kind": "warning", "text": text})
    return notes
