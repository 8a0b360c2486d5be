"""Neurons by name: where each ranking puts them, what each class does to them, and the words that move them most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...corpus import SPLITS
from ...tasks.task import Task
from ...tasks.views import View
from .sets import Means

WORDS = 12
SAME = 2
"""At most so many of a word form: else the most frequent words would be all that one sees."""


def named(orders: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """The first ``count`` neurons of every ranking, each once: the firsts of all, then the seconds."""
    return list(
        dict.fromkeys(order[i] for i in range(count) for order in orders.values() if i < len(order))
    )


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
        For each: ``index``; ``ranks``, its place in each ranking, from 1; ``classes``, each class's mean over training
        words in standard deviations from that of all words; ``words``, those whose values lie farthest from the mean of all
        words: ``words, index, sentence_id, split, value, deviations, label``, at most two of a form; ``top_form, top_share``:
        the most frequent form among the farthest hundred, and its share.
    """
    places = [
        (split, sentence, at)
        for split in SPLITS
        for sentence, line in zip(
            view.splits[split].sentences, view.layouts[split].rows, strict=True
        )
        for at, row in enumerate(line)
        if row is not None
    ]
    labels = {
        rows[0]: str(label)
        for p in task.parts.values()
        for rows, label in zip(p.rows, p.labels, strict=True)
    }
    ranks = {
        ranking: {neuron: i + 1 for i, neuron in enumerate(order)}
        for ranking, order in orders.items()
    }
    out = []
    for neuron in neurons:
        values = features[:, neuron].astype(np.float64)
        scale = max(float(values.std()), 1e-12)
        away = (values - values.mean()) / scale
        order = np.argsort(-np.abs(away), kind="stable")
        forms = [places[i][1].words[places[i][2]].form.lower() for i in order[:100]]
        form, count = Counter(forms).most_common(1)[0]
        out.append(
            {
                "index": int(neuron),
                "ranks": {ranking: found[neuron] for ranking, found in ranks.items()},
                "classes": {
                    c: float(m[neuron] - values.mean()) / scale for c, m in means.of.items()
                },
                "top_form": form,
                "top_share": count / len(forms),
                "words": [
                    {
                        "words": [word.form for word in places[i][1].words],
                        "index": places[i][2],
                        "sentence_id": places[i][1].id,
                        "split": places[i][0],
                        "value": float(values[i]),
                        "deviations": float(away[i]),
                        "label": labels.get(i),
                    }
                    for i in _farthest(order, places)
                ],
            }
        )
    return out


def _farthest(order: np.ndarray, places: Sequence[tuple[str, Any, int]]) -> list[int]:
    """The first rows of the order, at most ``SAME`` of a form."""
    kept: list[int] = []
    seen: Counter[str] = Counter()
    for row in order.tolist():
        _, sentence, at = places[row]
        form = sentence.words[at].form.lower()
        if seen[form] < SAME:
            seen[form] += 1
            kept.append(row)
        if len(kept) == WORDS:
            break
    return kept
