"""Every ranking of neurons combined with every probe: accuracy of each probe on the first k neurons
of each ranking.

A good probe can hide a poor ranking and vice versa, so every ranking is combined with every probe
(Antverg & Belinkov 2022):

    accuracy(ranking, probe, k) = share of test rows that the probe, trained on the ranking's
                                  first k neurons, gets right

There are two baselines: neurons in random order, and the first k directions of random rotations,
ranked in the same way. They show whether the ranking and the basis of the neurons matter.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning

from layerscope.arguments import checked

from .controls import majority
from .evaluation import ClusterBootstrap, accuracy
from .gaussian import LDAProbe, MeanDifferenceProbe
from .labels import Labels
from .linear import LogisticProbe
from .rankings import rank
from .sparse import BAND, SparseProbe, rotation

PROBES: dict[str, Callable[[int], LogisticProbe | LDAProbe | MeanDifferenceProbe | SparseProbe]] = {
    "logistic": lambda k: LogisticProbe(l2=1.0, tol=1e-5),
    "lda": lambda k: LDAProbe(),
    "mean_difference": lambda k: MeanDifferenceProbe(),
    "balanced": lambda k: SparseProbe(k=k),
}
"""Probe -> how one of k standardised neurons is made; ``balanced`` is `SparseProbe`'s regression,
for two classes only.
"""


@dataclass(frozen=True)
class CrossTable:
    """The result of `cross_table`.

    Args:
        orders: for each ranking the neurons from the most to the least informative.
        records: ``ranking, probe, k, accuracy, low, high``, and of both bands mean and 95% of the
            draws (with few draws their whole range): ``random, random_low, random_high, rotated,
            rotated_low, rotated_high``.
        whole: accuracy of each probe on all neurons.
        majority: accuracy of the most frequent training class.
        unconverged: how many probes stopped early.
    """

    orders: dict[str, Int[np.ndarray, " d"]]
    records: list[dict[str, Any]]
    whole: dict[str, float]
    majority: float
    unconverged: int


def probes_for(n_classes: int) -> tuple[str, ...]:
    """The probes that this many classes allow."""
    return tuple(name for name in PROBES if name != "balanced" or n_classes == 2)


_Answers: TypeAlias = "Mapping[tuple[str, int], np.ndarray]"
"""Probe and number of neurons -> which test rows it gets right."""


@checked
def cross_table(
    X: Float[np.ndarray, "n d"],
    y: Labels,
    X_test: Float[np.ndarray, "m d"],
    y_test: Labels,
    clusters: Int[np.ndarray, " m"],
    rankings: Sequence[str],
    ks: Sequence[int],
    n_random: int = 20,
    n_rotations: int = 3,
    seed: int = 0,
    given: Mapping[str, Int[np.ndarray, " d"]] | None = None,
) -> CrossTable:
    """Accuracy of every probe on the first k neurons of every ranking; ranked and trained on X,
    scored on X_test.

    Args:
        clusters: the sentence of each test row, for the intervals.
        n_random: random orders of the neurons.
        n_rotations: random orthogonal bases, each ranked by every ranking.
        given: further orders of the neurons, made elsewhere; a rotation cannot be ranked in the
            same way.

    Raises:
        ValueError: an unknown ranking, one class only, or features that are not finite.
    """
    # As text, so that labels of two types compare.
    labels, gold = np.asarray(y).astype(str), np.asarray(y_test).astype(str)
    rng, d = np.random.default_rng(seed), X.shape[1]
    names = probes_for(len(np.unique(labels)))
    trial = _Trial(labels, gold, names)
    orders = {ranking: rank(X, labels, ranking) for ranking in rankings} | dict(given or {})
    ranked = {ranking: trial.right(X, X_test, order, ks) for ranking, order in orders.items()}
    # The order of the draws is part of the numbers: first the random orders, then the rotations.
    random = [trial.right(X, X_test, rng.permutation(d), ks) for _ in range(n_random)]
    rotated: dict[str, list[_Answers]] = {ranking: [] for ranking in orders}
    for _ in range(n_rotations):
        # A rotation keeps what a linear probe of the whole layer can tell; only single neurons lose
        # their meaning.
        Q = rotation(d, rng).astype(X.dtype)
        train, test = X @ Q, X_test @ Q
        for ranking in rankings:
            order = rank(train, labels, ranking)
            rotated[ranking].append(trial.right(train, test, order, ks))
    whole = trial.right(X, X_test, np.arange(d), [d])

    boot = ClusterBootstrap(clusters, seed=seed)
    records = []
    for ranking, probe, k in itertools.product(orders, names, ks):
        record = {"ranking": ranking, "probe": probe, "k": k}
        score = boot.mean(ranked[ranking][probe, k], kind="share")
        record |= {"accuracy": score.value, "low": score.low, "high": score.high}
        record |= _band("random", random, probe, k)
        record |= _band("rotated", rotated[ranking], probe, k)
        records.append(record)
    always_majority = np.full(len(gold), majority(labels), dtype=object)
    return CrossTable(
        orders,
        records,
        {probe: float(whole[probe, d].mean()) for probe in names},
        accuracy(gold, always_majority),
        trial.unconverged,
    )


class _Trial:
    """Trains and scores every probe on chosen columns."""

    def __init__(self, labels: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> None:
        self._labels, self._gold, self._names = labels, gold, names
        self.unconverged = 0

    def right(
        self,
        X: Float[np.ndarray, "n d"],
        X_test: Float[np.ndarray, "m d"],
        order: np.ndarray,
        ks: Sequence[int],
    ) -> dict[tuple[str, int], Float[np.ndarray, " m"]]:
        """1 for each test row that a probe gets right from the order's first k columns,
        for each k.
        """
        out = {}
        for k in ks:
            first_k = order[:k]
            train = X[:, first_k].astype(np.float64)
            mean = train.mean(0)
            scale = np.maximum(train.std(0), 1e-12)
            Z = (train - mean) / scale
            Z_test = (X_test[:, first_k] - mean) / scale
            for name in self._names:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # counted
                    probe = PROBES[name](k).fit(Z, self._labels)
                self.unconverged += not getattr(probe, "converged_", True)
                out[name, k] = (probe.predict(Z_test) == self._gold).astype(np.float64)
        return out


def _band(name: str, draws: Sequence[_Answers], probe: str, k: int) -> dict[str, float | None]:
    """Mean accuracy over draws and the range of most of them; None without draws."""
    values = [float(answers[probe, k].mean()) for answers in draws]
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(values, BAND)
    return {name: float(np.mean(values)), f"{name}_low": float(low), f"{name}_high": float(high)}
