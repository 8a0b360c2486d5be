"""The text as properties see it, its layout in the features,
and the tasks that are read from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..corpus import SPLITS, Corpus, Split
from ..features.layout import Layout
from ..report.schema import Note
from ..subject import Subject
from ..subject.packed import Joined
from .properties import Property
from .task import Task, build_task, rewritten

PLAIN = "text"
"""The view of the text as it is."""
SENTENCES = "sentences"
"""The view that has one row a sentence."""

SentencePooling = Literal["mean", "first", "last"]


@dataclass(frozen=True)
class View:
    """The text as some properties see it: as it is, or rewritten; with its layout and its tasks.

    Args:
        n_left_out: sentences that the rewriting could not use, by split.
    """

    name: str
    splits: dict[Split, Corpus]
    layouts: dict[Split, Layout]
    layout: Layout
    tasks: tuple[Task, ...]
    n_left_out: Mapping[Split, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[Note]:
        """What has no vector, and what was left out."""
        texts = []
        if any(self.n_left_out.values()):
            counts = ", ".join(f"{count:,} {split}" for split, count in self.n_left_out.items())
            texts.append(f"{self.name}: {counts} sentences cannot be rewritten and are left out")
        if self.layout.n_unknown:
            texts.append(
                f"{self._prefix}{self.layout.n_unknown:,} of {self._n_words:,} words are "
                "unknown to the tokenizer and have no vector"
            )
        for task in self.tasks:
            if task.n_dropped:
                texts.append(
                    f"{task.property.name}: {task.n_dropped} items left out: "
                    "a word has no tokens (truncated) or is unknown to the tokenizer"
                )
            if limits := task.limits():
                texts.append(limits)
        return [Note(kind="dropped", text=text) for text in texts]

    @property
    def _prefix(self) -> str:
        return "" if self.name == PLAIN else f"{self.name}: "

    @property
    def _n_words(self) -> int:
        return sum(corpus.n_words for corpus in self.splits.values())

    @property
    def offsets(self) -> dict[Split, int]:
        """The row of the features at which each split begins."""
        return _offsets(self.layouts)


def build_views(
    subject: Subject,
    splits: dict[Split, Corpus],
    properties: Sequence[Property],
    seed: int,
    sentence_pooling: SentencePooling = "mean",
) -> list[View]:
    """Group the properties by the text that the model must see and the rows that it must give, and
    read their tasks.

    Args:
        sentence_pooling: a sentence's vector: the mean over its words', or that of its ``first`` or
            ``last`` token.
    """

    def is_single(prop: Property) -> bool:
        """Whether the property's vector is that of one token of the sentence."""
        return prop.level == "sentence" and sentence_pooling != "mean"

    groups: dict[str, list[Property]] = {}
    for prop in properties:
        name = SENTENCES if is_single(prop) else ""
        if prop.rewrite:  # another text, that no other property sees
            name = prop.name
        groups.setdefault(name, []).append(prop)
    views = []
    for name, group in groups.items():
        first = group[0]
        seen: dict[Split, Corpus] = {}
        # Each split draws its rewritings with a seed of its own.
        for i, (split, corpus) in enumerate(splits.items()):
            seen[split] = rewritten(corpus, first, seed + i)
        layouts: dict[Split, Layout] = {}
        for split, corpus in seen.items():
            if is_single(first):
                is_last = sentence_pooling == "last"
                layouts[split] = Layout.of_sentences(subject, corpus.sentences, is_last)
            else:
                layouts[split] = Layout.of(subject, corpus.sentences)
        offsets = _offsets(layouts)
        tasks = tuple(build_task(prop, seen, layouts, offsets, subject.form) for prop in group)
        left_out: dict[Split, int] = {}
        if first.rewrite:
            left_out = {split: len(splits[split]) - len(seen[split]) for split in SPLITS}
        views.append(View(name or PLAIN, seen, layouts, _whole(layouts), tasks, left_out))
    return views


def _whole(layouts: dict[Split, Layout]) -> Layout:
    """The three splits behind each other, as their features are read."""
    in_order = [layouts[split] for split in SPLITS]
    return Layout(
        Joined(*(layout.encoded for layout in in_order)),
        Joined(*(layout.spans for layout in in_order)),
        n_unknown=sum(layout.n_unknown for layout in in_order),
    )


def _offsets(layouts: dict[Split, Layout]) -> dict[Split, int]:
    train, dev = layouts["train"].n_rows, layouts["dev"].n_rows
    return {"train": 0, "dev": train, "test": train + dev}
