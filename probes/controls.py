"""What a probe score must be set beside: control tasks and baselines that see word types only.

A control task (Hewitt & Liang 2019, section 2) gives every word *type* a random label, drawn once
from the task's own label distribution. A probe that scores well on it memorises types; selectivity
is the task's score less the control's.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .labels import Labels


def control_labels(types: Sequence[str], labels: Labels, seed: int) -> np.ndarray:
    r"""A random label for each type, the same wherever the type occurs: :math:`C(v) \sim \hat
    p(y)`.

    The draw depends on the type, the seed and the label distribution only, so that train, dev and
    test agree without knowing of each other.

    Args:
        types: the word type of each item.
        labels: the task's training labels, whose distribution is drawn from.
        seed: which control task.

    Source: Hewitt & Liang 2019, section 2; their code draws from the empirical distribution too.

    >>> first, again = (list(control_labels(["a", "b"], ["X", "Y"], seed=0)) for _ in range(2))
    >>> first == again
    True
    """
    counts = Counter(labels)
    classes = sorted(counts, key=str)
    # The classes' shares laid end to end on [0, 1): each type's number falls into one.
    edges = np.cumsum([counts[c] for c in classes]) / len(labels)
    place = np.searchsorted(edges, _uniform(types, seed), side="right").clip(max=len(classes) - 1)
    return np.array(classes, dtype=object)[place]


def control_numbers(
    types: Sequence[str], numbers: Float[np.ndarray, " m"], seed: int
) -> Float[np.ndarray, " n"]:
    """The same for numbers: each type gets one value drawn from the task's training values."""
    ordered = np.sort(np.asarray(numbers, dtype=float))
    return ordered[(_uniform(types, seed) * len(ordered)).astype(int)]


def majority(train_labels: Labels) -> Any:
    """The most frequent training label; ties go to the first in alphabetical order."""
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], str(label)))


def type_majority(
    train_types: Sequence[str], train_labels: Labels, types: Sequence[str]
) -> np.ndarray:
    """The most frequent training label of each item's word type;
    the overall one for types not seen in training.
    """
    by_type: dict[str, list[Any]] = defaultdict(list)
    for kind, label in zip(train_types, train_labels, strict=True):
        by_type[kind].append(label)
    best = {kind: majority(labels) for kind, labels in by_type.items()}
    fallback = majority(train_labels)
    return np.array([best.get(kind, fallback) for kind in types], dtype=object)


def type_mean(
    train_types: Sequence[str], train_numbers: Float[np.ndarray, " m"], types: Sequence[str]
) -> np.ndarray:
    """The mean training number of each item's word type;
    the overall mean for types not seen in training.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for kind, number in zip(train_types, train_numbers, strict=True):
        sums[kind][0] += float(number)
        sums[kind][1] += 1
    overall = float(np.mean(train_numbers))
    means = {kind: total / count for kind, (total, count) in sums.items()}
    return np.array([means.get(kind, overall) for kind in types])


def _uniform(types: Sequence[str], seed: int) -> Float[np.ndarray, " n"]:
    """A number in [0, 1) for each type, by a hash keyed with the seed."""
    key = seed.to_bytes(8, "little", signed=True)
    number_of = {}
    for kind in set(types):
        digest = hashlib.blake2b(kind.encode(), digest_size=8, key=key).digest()
        number_of[kind] = int.from_bytes(digest, "little") / 2**64
    # The largest hashes round to 1.
    return np.minimum(np.array([number_of[kind] for kind in types]), np.nextafter(1, 0))
