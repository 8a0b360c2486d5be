"""Against scipy.stats, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from layerscope.probes.ranks import average_ranks
from scipy.stats import rankdata

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
