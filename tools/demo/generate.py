"""Text out of the demo grammar: the annotated splits, the training text, the minimal pairs.

Everything here is a function of its seed, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .grammar import Grammar
from .lexicon import held_out_lemmas
from .tree import Chooser, Node, surface, to_conllu

SEED = 20
SPLITS = {"train": 1200, "dev": 300, "test": 400}
PAIRS = {"none": 80, "pp": 80, "relative": 80}
MAX_WORDS = 30


def _sentences(grammar: Grammar, seen: set[str]) -> Iterator[tuple[Node, str]]:
    """Trees and texts that are not in `seen`, which grows; long sentences are passed over."""
    while True:
        tree = grammar.sentence()
        if len(tree.in_order()) > MAX_WORDS:
            continue
        text = surface(tree)[0]
        if text not in seen:
            seen.add(text)
            yield tree, text


def annotated_splits(seed: int = SEED) -> tuple[dict[str, str], set[str]]:
    """The CoNLL-U text of each split by its name, and all their sentences.

    No sentence is in two splits, and the train split lacks every ninth content word.
    """
    seen: set[str] = set()
    splits: dict[str, str] = {}
    for number, (split, size) in enumerate(SPLITS.items()):
        banned = held_out_lemmas() if split == "train" else frozenset[str]()
        source = _sentences(Grammar(Chooser(seed * 100 + number, banned)), seen)
        blocks = [to_conllu(next(source)[0], f"demo-{split}-{i + 1:04d}") for i in range(size)]
        splits[split] = "".join(blocks)
    return splits, seen


def minimal_pairs(seed: int = SEED) -> tuple[str, set[str]]:
    """Subject-verb agreement pairs as JSON lines in BLiMP's form, and their sentences.

    UIDs: ``demo_agreement_none`` has no noun between subject and verb, ``_pp`` and ``_relative``
    have one of the other number. The sentences share all that stands before the verb.
    """
    grammar = Grammar(Chooser(seed * 100 + 50))
    lines: list[str] = []
    seen: set[str] = set()
    for attractor, size in PAIRS.items():
        made = 0
        while made < size:
            trees = grammar.agreement_pair(attractor)
            (good, good_rows), (bad, _) = (surface(tree) for tree in trees)
            if good in seen:
                continue
            seen |= {good, bad}
            position = next(i for i, row in enumerate(good_rows) if row[0] is trees[0])
            prefix = "".join(form + " " * space for _, form, space in good_rows[:position])
            pair = {
                "sentence_good": good,
                "sentence_bad": bad,
                "field": "morphology",
                "linguistics_term": "subject_verb_agreement",
                "UID": f"demo_agreement_{attractor}",
                "one_prefix_prefix": prefix.rstrip(),
                "one_prefix_word_good": trees[0].form,
                "one_prefix_word_bad": trees[1].form,
                "pairID": str(made),
            }
            lines.append(json.dumps(pair, ensure_ascii=False))
            made += 1
    return "\n".join(lines) + "\n", seen


def training_text(count: int, exclude: set[str], seed: int = SEED) -> tuple[list[str], float]:
    """Sentences to train the model on, and their mean derivation information in nats.

    Args:
        count: how many sentences; the same may come again, as in any text.
        exclude: sentences left out: the annotated splits and the minimal pairs.
        seed: of the grammar's choices; another seed gives held-out text.
    """
    grammar = Grammar(Chooser(seed * 100 + 99))
    texts: list[str] = []
    nats = 0.0
    while len(texts) < count:
        grammar.choose.nats = 0.0
        tree = grammar.sentence()
        if len(tree.in_order()) > MAX_WORDS:
            continue
        text = surface(tree)[0]
        if text not in exclude:
            texts.append(text)
            nats += grammar.choose.nats
    return texts, nats / count


def write_corpus(folder: Path, seed: int = SEED) -> set[str]:
    """Write the three splits and the minimal pairs to `folder`; returns their sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    splits, sentences = annotated_splits(seed)
    for split, text in splits.items():
        (folder / f"{split}.conllu").write_text(text, encoding="utf-8", newline="\n")
    pairs, pair_sentences = minimal_pairs(seed)
    target = folder / "agreement_pairs.jsonl"
    target.write_text(pairs, encoding="utf-8", newline="\n")
    return sentences | pair_sentences
