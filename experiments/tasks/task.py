"""Tasks: a property read off the three splits, as rows of the features with labels,
word types and sentences.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, cast, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import LayerscopeError

from ...probes.rows import OnDisk
from ..corpus import SPLITS, Corpus, Sentence, Split
from ..corpus.sentences import band
from ..corpus.spooled import Sentences
from ..features.layout import Layout
from ..subject.packed import Ragged
from .properties import Pair, Property

Vectors = Float[Tensor, "_rows _d"] | OnDisk


MAX_CLASSES = 256
"""Classes that are probed at most: time grows with classes x control tasks x items x width."""


class TaskError(LayerscopeError, ValueError):
    """A property that cannot be probed on this corpus."""


@dataclass(frozen=True)
class Part:
    """One split of a task.

    Args:
        rows: for each item the rows of the features that make its vector: one for a word, two
            (dependent, head) for an arc or a pair, those of all its words for a sentence.
        labels: a class (str) or a number for each item.
        types: what a control task keys on: the word's form as the model sees it, the two forms of
            an arc, a sentence's first word.
        clusters: the item's sentence, as an index into the split.
        words: the item's word within its sentence, -1 for a sentence.
    """

    rows: Ragged
    labels: np.ndarray
    types: list[str]
    clusters: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, items: Sequence[int]) -> Part:
        """Some of the items."""
        take = np.array(items, dtype=int)
        return Part(
            self.rows.select(items),
            self.labels[take],
            [self.types[i] for i in items],
            self.clusters[take],
            self.words[take],
        )


@dataclass(frozen=True)
class Task:
    """A property on all splits.

    Args:
        n_dropped: items left out because a word of theirs has no vector.
        n_classes: classes in training before rare ones were left out, and ``n_rare`` their items,
            by split; 0 and empty where none was.
    """

    property: Property
    parts: dict[Split, Part]
    n_dropped: int
    n_classes: int = 0
    n_rare: Mapping[Split, int] = field(default_factory=dict)

    def limits(self) -> str:
        """What was left out so that the probe stays solvable, in words; empty where nothing was."""
        if not self.n_classes:
            return ""
        items = ", ".join(f"{count:,} {split}" for split, count in self.n_rare.items())
        return (
            f"{self.property.name}: {self.n_classes:,} classes in training: the "
            f"{MAX_CLASSES} most frequent are probed, and items of the others ({items}) "
            "are left out"
        )

    @cached_property
    def beside(self) -> int:
        """How many words' vectors stand side by side in an item's: two of an arc or a pair,
        else one.
        """
        return 2 if self.property.level in ("arc", "pair") else 1

    def distances(self, split: Split) -> list[str] | None:
        """For arcs and pairs how many words to the right the second stands,
        as a type that a baseline can key on.
        """
        if self.beside == 1:
            return None
        return [str(b - a) for a, b in self.parts[split].rows]

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Tasks with equal keys read the same vectors."""
        return self.property.level, *(self.parts[split].rows.digest for split in SPLITS)

    @overload
    def vectors(
        self, features: Float[Tensor, "rows d"], split: Split
    ) -> Float[Tensor, "n width"]: ...

    @overload
    def vectors(self, features: OnDisk, split: Split) -> OnDisk: ...

    @overload
    def vectors(self, features: Vectors, split: Split) -> Vectors: ...

    def vectors(self, features: Vectors, split: Split) -> Vectors:
        """The items' vectors: a word's own, dependent and head side by side, or the mean over a
        sentence's words; on disk where the features are."""
        rows = self.parts[split].rows
        if not isinstance(features, OnDisk):
            return self._of(features, rows)
        out = features.like(len(rows), features.shape[1] * self.beside)
        for block in out.blocks():
            out[block] = self._of(features, rows.select(range(block.start, block.stop)))
        return out

    def _of(self, features: Vectors, rows: Ragged) -> Float[Tensor, "n width"]:
        flat = features[torch.from_numpy(rows.flat)]
        if self.property.level in ("word", "arc", "pair"):
            return flat.reshape(len(rows), -1)
        return torch.segment_reduce(flat, "mean", lengths=torch.from_numpy(rows.lengths), axis=0)


def solved_together(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks that read the same vectors and are of one kind, classes or numbers, group by group."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.key, task.property.kind), []).append(task)
    return list(groups.values())


def build_task(
    prop: Property,
    splits: dict[Split, Corpus],
    layouts: dict[Split, Layout],
    offsets: dict[Split, int],
    form: Callable[[str], str] = str,
) -> Task:
    """Read one property off the splits.

    Args:
        layouts: where each split's words are in the features; `offsets` the row at which each split
            begins.
        form: a word as the model sees it.

    Raises:
        TaskError: no item, one class only, or no test class that training knows.
    """
    parts, dropped = {}, 0
    # A form stands in many sentences, and the tokenizer is asked once for each.
    seen = lru_cache(maxsize=None)(form)
    for split in SPLITS:
        parts[split], lost = _part(
            prop, splits[split], splits["train"], layouts[split], offsets[split], seen
        )
        if prop.balance:
            lengths = None
            if prop.balance == "length":
                sentences = splits[split].sentences
                lengths = [len(sentences[i].words) for i in parts[split].clusters]
            parts[split] = balanced(parts[split], lengths)
        dropped += lost
    for split in SPLITS:
        if not len(parts[split]):
            raise TaskError(
                f"property {prop.name!r}: expected items in the {split} split, got none"
            )
    if prop.kind == "class":
        classes = set(parts["train"].labels)
        if len(classes) < 2:
            raise TaskError(
                f"property {prop.name!r}: expected at least 2 classes in training, got one: "
                f"{classes.pop()!r}"
            )
        # A probe can only say classes that it was trained on; without one in common every accuracy
        # is 0.
        if not classes & set(parts["test"].labels):
            raise TaskError(
                f"property {prop.name!r}: no class of the test split occurs in training"
            )
    else:
        for split in ("train", "test"):
            # R2 divides by the variance.
            if float(np.ptp(parts[split].labels)) == 0:
                raise TaskError(
                    f"property {prop.name!r}: expected numbers that vary in {split}, "
                    "got one value only"
                )
    return _limited(Task(prop, parts, dropped))


def _limited(task: Task) -> Task:
    """The task with the most frequent classes of training alone, where there are more than a joint
    solve can carry.

    A class that training does not have at all stays in test, and counts as wrong there.
    """
    counts = Counter(task.parts["train"].labels) if task.property.kind == "class" else Counter()
    if len(counts) <= MAX_CLASSES:
        return task
    # Ties by name, so that the classes do not depend on the order of the words.
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    rare = set(ordered[MAX_CLASSES:])
    parts, n_rare = {}, {}
    for split, part in task.parts.items():
        common = [i for i, label in enumerate(part.labels) if label not in rare]
        parts[split], n_rare[split] = part.of(common), len(part) - len(common)
        if not common:
            raise TaskError(
                f"property {task.property.name!r}: expected items of the {MAX_CLASSES} most "
                f"frequent classes in {split}, got none"
            )
    return replace(task, parts=parts, n_classes=len(counts), n_rare=n_rare)


def _part(
    prop: Property,
    corpus: Corpus,
    train: Corpus,
    layout: Layout,
    offset: int,
    form: Callable[[str], str],
) -> tuple[Part, int]:
    """A split's items, and how many fell out because a word has no vector."""
    items = _Items(offset)
    for cluster, (sentence, rows) in enumerate(zip(corpus.sentences, layout.rows, strict=True)):
        values = prop.read(sentence, train)
        forms = [form(word.form) for word in sentence.words]
        if prop.level == "sentence":
            if values is not None:
                present = [row for row in rows if row is not None]
                items.add(present, values, forms[0].lower(), cluster, -1)
        elif prop.level == "pair":
            for i, j, label in cast(list[Pair], values):
                items.add((rows[i], rows[j]), label, f"{forms[i]}\t{forms[j]}", cluster, i)
        else:
            _add_words(items, prop.level, sentence, cast(list[Any], values), forms, rows, cluster)
    return items.part(object if prop.kind == "class" else np.float64), items.dropped


def _add_words(
    items: _Items,
    level: str,
    sentence: Sentence,
    values: Sequence[Any],
    forms: Sequence[str],
    rows: Sequence[int | None],
    cluster: int,
) -> None:
    """The words that have a value; an arc is its word together with the head."""
    for i, (word, value) in enumerate(zip(sentence.words, values, strict=True)):
        if value is None:
            continue
        if level == "arc":
            head = word.head - 1
            items.add((rows[i], rows[head]), value, f"{forms[i]}\t{forms[head]}", cluster, i)
        else:
            items.add((rows[i],), value, forms[i], cluster, i)


class _Items:
    """The items of a part, as they come.

    Attributes:
        dropped: how many have a word without a vector.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.dropped = 0
        self._rows = Ragged()
        self._labels: list[Any] = []
        self._types: list[str] = []
        self._clusters, self._words = array("q"), array("q")

    def add(
        self, rows: Sequence[int | None], label: Any, kind: str, cluster: int, word: int
    ) -> None:
        """One item: rows of its features, its label and type, its sentence and its (first) word."""
        present = [row + self.offset for row in rows if row is not None]
        if not rows or len(present) < len(rows):
            self.dropped += 1
            return
        self._rows.append(present)
        self._labels.append(label)
        self._types.append(kind)
        self._clusters.append(cluster)
        self._words.append(word)

    def part(self, dtype: type) -> Part:
        """All of them."""
        labels = np.array(self._labels, dtype=dtype)
        clusters = np.array(self._clusters, dtype=np.int64)
        words = np.array(self._words, dtype=np.int64)
        return Part(self._rows, labels, self._types, clusters, words)


STRAY = 10
"""A class with less than one in so many of the mean class's
items is left out of a balanced part.
"""


def balanced(part: Part, lengths: Sequence[int] | None) -> Part:
    """As many items of every class, the first ones; with the items' ``lengths`` within each band of
    them.

    A class with less than a tenth of the mean class's items is left out, so that one stray label
    does not empty a band.
    """
    groups: dict[Any, dict[Any, list[int]]] = {}
    for i, label in enumerate(part.labels):
        of_band = groups.setdefault("" if lengths is None else band(lengths[i]), {})
        of_band.setdefault(label, []).append(i)
    chosen: list[int] = []
    for length, classes in groups.items():
        mean = sum(map(len, classes.values())) / len(classes)
        common = [items for items in classes.values() if len(items) >= mean / STRAY]
        # Items that are in no band, and bands of one class, would tell the length.
        if length is None or len(common) < 2:
            continue
        fewest = min(map(len, common))
        for items in common:
            chosen += items[:fewest]
    return part.of(sorted(chosen))


def rewritten(corpus: Corpus, prop: Property, seed: int) -> Corpus:
    """The corpus as a property such as ``bigram_shift`` shows it to the model; sentences it cannot
    use are left out.

    Each sentence draws by its id, so that its fate does not depend on the others'.
    """
    if prop.rewrite is None:
        return corpus
    return Corpus(Sentences.of(_rewritten(corpus, prop, seed)), corpus.path, corpus.sha256)


def _rewritten(corpus: Corpus, prop: Property, seed: int) -> Iterator[Sentence]:
    assert prop.rewrite is not None
    for sentence in corpus.sentences:
        # A checksum, since Python's own hash differs from run to run.
        rng = np.random.default_rng([seed, zlib.crc32(sentence.id.encode())])
        new = prop.rewrite(sentence, rng, corpus)
        if new is not None:
            yield new
