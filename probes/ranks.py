"""Ranks of numbers, and their correlation.

Not scipy.stats.rankdata: scipy.stats takes a third of a second to import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def average_ranks(values: Any) -> Float[np.ndarray, " n"]:
    """The rank of each number, from 1; equal ones have the mean of their ranks. All are NaN where
    one is.

    >>> average_ranks([0.3, 0.1, 0.3]).tolist()
    [2.5, 1.0, 2.5]
    """
    values = np.asarray(values).ravel()
    if values.dtype.kind == "f" and np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    return (last - (count - 1) / 2)[place]


def spearman(a: Any, b: Any) -> float:
    """Spearman's correlation: Pearson's of the ranks. NaN where one side does not vary.

    >>> spearman([1, 2, 3], [0.1, 0.5, 0.7])
    1.0
    """
    x, y = average_ranks(a), average_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if size else float("nan")
