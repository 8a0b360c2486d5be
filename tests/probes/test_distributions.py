"""Against scipy.stats, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from layerscope.probes import distributions
from scipy import stats

P = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 2001), [1e-300, 0.025, 0.975, 1.0, np.nan]])
Z = np.concatenate([np.linspace(-40, 40, 2001), [-np.inf, np.inf, np.nan]])


def test_the_normal_is_that_of_scipy_stats():
    np.testing.assert_array_equal(distributions.normal_quantile(P), stats.norm.ppf(P))
    np.testing.assert_array_equal(distributions.normal_cdf(Z), stats.norm.cdf(Z))
    np.testing.assert_array_equal(distributions.normal_tail(Z), stats.norm.sf(Z))


@pytest.mark.parametrize("freedom", [0.0, 0.5, 1.0, 2.0, 7.3, 29.0, 1e4, 1e10, np.inf, np.nan])
def test_students_t_is_that_of_scipy_stats(freedom):
    np.testing.assert_array_equal(distributions.t_quantile(P, freedom), stats.t.ppf(P, freedom))
    np.testing.assert_array_equal(distributions.t_tail(Z, freedom), stats.t.sf(Z, freedom))
