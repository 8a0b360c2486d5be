"""Splits: which sentences train, choose and test, with no sentence in two of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from ...probes.evaluation import check_disjoint
from . import SPLITS, Corpus, CorpusError, Split, read_conllu
from .characters import bare
from .senteval import read_senteval


def read_splits(
    corpus: Path, dev: Path | None, test: Path | None, limit: int | None, seed: int
) -> tuple[dict[Split, Corpus], list[dict[str, str]]]:
    """Read or cut the three splits.

    A file of SentEval's (.txt or .tsv) brings all three. Files that are not given are otherwise cut from the training
    file, a tenth of its sentences each. A training sentence whose text is also in dev or test is left out of training (and
    a dev sentence whose text is in test, of dev), so that nothing is tested on what was learned. `limit` then draws that
    many training sentences with the seed; dev and test stay whole.

    Returns:
        The corpora by split, and notes on what was cut, drawn and left out.

    Raises:
        CorpusError: a file that cannot be read, or a split with no sentence left.
    """
    notes: list[dict[str, str]] = []

    def note(kind: str, text: str) -> None:
        notes.append({"kind": kind, "text": text})

    parts: dict[Split, Corpus] = {}
    if corpus.suffix in (".txt", ".tsv"):  # SentEval's format holds all three
        parts = read_senteval(corpus)
        train = parts["train"]
    else:
        train = read_conllu(corpus)
    given: dict[Split, Path | None] = {"dev": dev, "test": test}
    order = list(train.sentences)
    random.Random(seed).shuffle(order)
    found: dict[Split, Corpus] = {}
    for split, path in given.items():
        if path is not None:
            found[split] = read_conllu(path)
        elif parts:
            found[split] = parts[split]
        else:
            size = max(1, len(train) // 10)
            found[split], order = replace(train, sentences=tuple(order[:size])), order[size:]
            note(
                "info",
                f"{split}: {size} sentences cut at random from {train.path.name}, since no file was given",
            )
    tested = {s.text for s in found["test"].sentences}
    kept = tuple(s for s in found["dev"].sentences if s.text not in tested)
    if len(kept) < len(found["dev"]):
        note(
            "dropped",
            f"{len(found['dev']) - len(kept)} dev sentences left out because their text is also in test",
        )
    found["dev"] = replace(found["dev"], sentences=kept)
    held_out = tested | {s.text for s in kept}
    clean = [s for s in order if s.text not in held_out]
    if len(clean) < len(order):
        note(
            "dropped",
            f"{len(order) - len(clean)} training sentences left out because their text is also in dev or test",
        )
    if limit is not None and limit < len(clean):
        note("info", f"{limit} of {len(clean)} training sentences drawn at random (seed {seed})")
        clean = clean[:limit]
    elif limit is not None and limit > len(clean):
        note(
            "info",
            f"--sample {limit}, but only {len(clean)} training sentences are there: all were used",
        )
    place = {s.id: i for i, s in enumerate(train.sentences)}
    clean.sort(key=lambda s: place[s.id])  # a fixed order, whatever was drawn
    found["train"] = replace(train, sentences=tuple(clean))
    found = {split: found[split] for split in SPLITS}
    for split, part in found.items():
        if not part.sentences:
            raise CorpusError(
                f"{part.path}: expected sentences for the {split} split, none is left"
            )
    for split in ("dev", "test"):
        trained = {bare(sentence.text) for sentence in found["train"].sentences} - {""}
        alike = sum(bare(sentence.text) in trained for sentence in found[split].sentences)
        if alike:
            text = f"{alike} of {len(found[split])} {split} sentences equal a training one up to case and punctuation"
            note("warning", text)
    check_disjoint({split: [s.text for s in part.sentences] for split, part in found.items()})
    return found, notes
