"""Against scipy.stats; ranks bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from layerscope.probes.ranks import average_ranks, spearman
from scipy.stats import rankdata, spearmanr

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(size=100),
        RNG.integers(0, 9, 100),
        RNG.random(50) > 0.5,
        np.array([0.0, -0.0, np.inf, -np.inf, 1e-300]),
        np.array([1.0, np.nan, 0.0]),
        np.array([]),
    ],
)
def test_ranks_are_those_of_scipy_stats(values):
    np.testing.assert_array_equal(average_ranks(values), rankdata(values))


@pytest.mark.parametrize("n", [3, 10, 100])
@pytest.mark.parametrize("has_ties", [False, True])
def test_the_correlation_of_ranks_is_that_of_scipy_stats(n, has_ties):
    a = RNG.integers(0, 4, n) if has_ties else RNG.normal(size=n)
    b = a + RNG.normal(size=n)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-14)
    assert np.isnan(spearman(a, np.zeros(n)))
