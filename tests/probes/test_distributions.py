"""Against scipy.stats, bit by bit where both are one call of scipy.special."""

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


@pytest.mark.parametrize(("drawn", "total"), [(8, 54), (8, 13), (1, 4), (30, 400), (5, 5)])
def test_the_hypergeometric_is_that_of_scipy_stats(drawn, total):
    for marked in range(total + 1):
        ours = [distributions.hypergeometric_cdf(k, drawn, marked, total) for k in range(drawn + 1)]
        theirs = stats.hypergeom.cdf(np.arange(drawn + 1), total, marked, drawn)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
