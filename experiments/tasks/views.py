"""The text as properties see it, its layout in the features, and the tasks that are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..corpus import SPLITS, Corpus, Split
from ..features.layout import Layout
from ..subject import Subject
from .properties import Property
from .task import Task, build_task, rewritten

PLAIN = "text"
"""The view of the text as it is."""
SENTENCES = "sentences"
"""The view that has one row a sentence."""

SentencePooling = Literal["mean", "first", "last"]


@dataclass(frozen=True)
class View:
    """The text as some properties see it: as it is, or rewritten; with its layout and its tasks."""

    name: str
    splits: dict[Split, Corpus]
    layouts: dict[Split, Layout]
    layout: Layout
    tasks: tuple[Task, ...]

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
    """Group the properties by the text that the model must see and the rows that it must give, and read their tasks.

    Args:
        sentence_pooling: a sentence's vector: the mean over its words', or that of its ``first`` or ``last`` token.
    """
    groups: dict[str, list[Property]] = {}
    for prop in properties:
        single = prop.level == "sentence" and sentence_pooling != "mean"
        groups.setdefault(prop.name if prop.rewrite else SENTENCES if single else "", []).append(prop)
    views = []
    for name, group in groups.items():
        seen: dict[Split, Corpus] = {
            split: rewritten(corpus, group[0], seed + i) for i, (split, corpus) in enumerate(splits.items())
        }
        single = group[0].level == "sentence" and sentence_pooling != "mean"
        layouts: dict[Split, Layout] = {
            split: Layout.of_sentences(subject, corpus.sentences, sentence_pooling == "last")
            if single
            else Layout.of(subject, corpus.sentences)
            for split, corpus in seen.items()
        }
        whole = Layout([e for s in SPLITS for e in layouts[s].encoded], [p for s in SPLITS for p in layouts[s].spans])
        tasks = tuple(build_task(prop, seen, layouts, _offsets(layouts)) for prop in group)
        views.append(View(name or PLAIN, seen, layouts, whole, tasks))
    return views


def _offsets(layouts: dict[Split, Layout]) -> dict[Split, int]:
    train, dev = layouts["train"].n_rows, layouts["dev"].n_rows
    return {"train": 0, "dev": train, "test": train + dev}
