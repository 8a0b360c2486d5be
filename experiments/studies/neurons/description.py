"""Neurons by name: where each ranking puts them, what each class does to them,
and the words that move them most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ...corpus import SPLITS, Sentence
from ...tasks.task import Task
from ...tasks.views import View
from .sets import Means

WORDS = 12
FORMS = 100
"""The farthest words among which the most frequent form is looked for."""
SAME = 2
"""At most so many of a word form: else the most frequent words would be all that one sees."""


def named(orders: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """The first ``count`` neurons of every ranking, each once: the firsts of all,
    then the seconds.
    """
    neurons: dict[int, None] = {}
    for i in range(count):
        for order in orders.values():
            if i < len(order):
                neurons[order[i]] = None
    return list(neurons)


def described(
    view: View,
    task: Task,
    features: Float[np.ndarray, "rows d"],
    neurons: Sequence[int],
    orders: Mapping[str, Sequence[int]],
    means: Means,
) -> list[dict[str, Any]]:
    """One entry a neuron.

    Returns:
        For each: ``index``; ``ranks``, its place in each ranking, from 1; ``classes``, each class's
            mean over training
        words in standard deviations from that of all words; ``words``, those whose values lie
        farthest from the mean of all
        words: ``words, index, sentence_id, split, value, deviations, label``, at most two of a
            form; ``top_form, top_share``:
        the most frequent form among the farthest hundred, and its share.
    """
    places = _word_places(view)
    labels: dict[int, str] = {}  # of rows that are items of the task
    for part in task.parts.values():
        for rows, label in zip(part.rows, part.labels, strict=True):
            labels[rows[0]] = str(label)
    ranks = {}
    for ranking, order in orders.items():
        ranks[ranking] = {neuron: place for place, neuron in enumerate(order, 1)}
    descriptions = []
    for neuron in neurons:
        values = features[:, neuron].astype(np.float64)
        scale = max(float(values.std()), 1e-12)
        away = (values - values.mean()) / scale
        # Stable: rows of equal value stay in the order of the corpus.
        order = np.argsort(-np.abs(away), kind="stable")
        forms = [places[row].form for row in order[:FORMS]]
        top_form, count = Counter(forms).most_common(1)[0]
        words = []
        for row in _farthest(order, places):
            place = places[row]
            words.append(
                {
                    "words": [word.form for word in place.sentence.words],
                    "index": place.number,
                    "sentence_id": place.sentence.id,
                    "split": place.split,
                    "value": float(values[row]),
                    "deviations": float(away[row]),
                    "label": labels.get(row),
                }
            )
        classes = {}
        for label, mean in means.of.items():
            classes[label] = float(mean[neuron] - values.mean()) / scale
        descriptions.append(
            {
                "index": int(neuron),
                "ranks": {ranking: of_ranking[neuron] for ranking, of_ranking in ranks.items()},
                "classes": classes,
                "top_form": top_form,
                "top_share": count / len(forms),
                "words": words,
            }
        )
    return descriptions


class _Place(NamedTuple):
    """The word of one row of the features."""

    split: str
    sentence: Sentence
    number: int

    @property
    def form(self) -> str:
        """The word in small letters."""
        return self.sentence.words[self.number].form.lower()


def _word_places(view: View) -> list[_Place]:
    """The words in the order of the rows."""
    places = []
    for split in SPLITS:
        lines = zip(view.splits[split].sentences, view.layouts[split].rows, strict=True)
        for sentence, line in lines:
            for index, row in enumerate(line):
                if row is not None:
                    places.append(_Place(split, sentence, index))
    return places


def _farthest(order: np.ndarray, places: Sequence[_Place]) -> list[int]:
    """The first rows of the order, at most ``SAME`` of a form."""
    rows: list[int] = []
    seen: Counter[str] = Counter()
    for row in order.tolist():
        form = places[row].form
        if seen[form] < SAME:
            seen[form] += 1
            rows.append(row)
        if len(rows) == WORDS:
            break
    return rows
