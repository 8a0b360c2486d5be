"""Statistics that ``benchmarks/coverage.py`` measures the present ones against;
nothing else uses them.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from layerscope.probes import evaluation as ev
from layerscope.probes.evaluation import ClusterBootstrap, Interval, interval
from scipy import stats

EXACT = 1e-12
"""A spread that is rounding."""


def bootstrap_p(replicates: np.ndarray, *, two_sided: bool = True) -> float:
    """How often the resampled difference is not on the estimate's side of 0; where it always is,
    a normal tail.
    """
    b = len(replicates)
    smallest = 1 / (b + 1)
    below = (np.sum(replicates <= 0) + 1) / (b + 1)
    above = (np.sum(replicates >= 0) + 1) / (b + 1)
    spread = float(np.std(replicates))
    if min(below, above) == smallest and spread > 0:
        tail = math.erfc(abs(float(np.mean(replicates))) / spread / math.sqrt(2)) / 2
        below = min(below, tail) if below == smallest else below
        above = min(above, tail) if above == smallest else above
    return float(min(1.0, 2 * min(below, above)) if two_sided else below)


def pairs(
    estimates: np.ndarray, replicates: np.ndarray, boot: ClusterBootstrap | None
) -> list[tuple[Interval, float]]:
    """Every pair of conditions: percentiles of the replicates,
    widened where their clusters are given, and p uncorrected.
    """
    intervals = []
    for a, b in itertools.combinations(range(len(estimates)), 2):
        value, drawn = float(estimates[b] - estimates[a]), replicates[:, b] - replicates[:, a]
        least = 0.0
        if boot is not None:
            n = boot.n_clusters
            error = float(drawn.std()) * math.sqrt(n / (n - 1))
            least = 1.0 if error < EXACT else float(2 * stats.t.sf(abs(value) / error, n - 1))
            drawn = boot.widened(value, drawn)
        intervals.append((interval(value, drawn), max(least, bootstrap_p(drawn))))
    return intervals


def mean_p(values: np.ndarray, boot: ClusterBootstrap, clusters: np.ndarray) -> float:
    """The larger of the p of sign flips and of the studentised bootstrap;
    of answers that of sign flips.
    """
    p = ev.sign_flip_p(values[:, None], clusters)[0]
    if np.isin(values, (-1.0, 0.0, 1.0)).all():
        return p
    return max(p, float(boot.studentised(values[:, None]).p()[0]))
