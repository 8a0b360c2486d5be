"""Effects tested against 0: the interval and p come from the same tests,
which are held against scipy's.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from probes.evaluation import (
    ClusterBootstrap,
    compare_pairs,
    floor_of,
    mean_effects,
    mean_p,
)
from probes.groups import group_difference

DRAWS = 2_000


def boot_of(clusters: np.ndarray) -> ClusterBootstrap:
    return ClusterBootstrap(clusters, DRAWS)


def excludes_0(low: float, high: float) -> bool:
    return bool(low > 0 or high < 0)


@pytest.mark.parametrize("n", [6, 9, 13, 14, 30])
def test_the_interval_holds_exactly_the_values_that_are_not_rejected(n: int) -> None:
    """Test inversion: p of the values less theta is below .05 where theta is outside,
    for any theta.
    """
    rng = np.random.default_rng(n)
    values = rng.exponential(size=n) - 0.3
    boot = boot_of(np.arange(n))
    found = mean_effects(values[:, None], boot, DRAWS).interval()
    width = found.high - found.low
    thetas = np.linspace(found.low - 0.503 * width, found.high + 0.503 * width, 81)
    p = mean_effects(values[:, None] - thetas, boot, DRAWS).p
    is_outside = (thetas < found.low) | (thetas > found.high)
    assert (is_outside == (p < 0.05)).all()
    assert is_outside.any()


@pytest.mark.parametrize("n", [6, 10])
def test_p_is_at_least_that_of_scipys_exact_tests(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(0.6, 1, (n, 20))
    found = mean_effects(values, boot_of(np.arange(n)), DRAWS)
    by_t = stats.ttest_1samp(values, 0).pvalue
    flipped = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert (found.p >= np.maximum(by_t, flipped) - 1e-9).all()
    # Of symmetric values the exact tests decide, but for a few that resamples call skewed.
    assert np.isclose(found.p, np.maximum(by_t, flipped)).mean() > 0.4


def test_of_six_values_signs_reject_what_is_outside_of_all_of_them() -> None:
    found = mean_effects(np.arange(1.0, 7.0)[:, None], boot_of(np.arange(6))).interval()
    assert found.low <= 1
    assert found.high >= 6


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_too_few_clusters_have_neither_interval_nor_p(n: int) -> None:
    """2 / 2^5 is above .05: whatever the effects are, signs cannot reject."""
    values = 100 + np.random.default_rng(0).normal(size=(n, 2))
    found = mean_effects(values, boot_of(np.arange(n)))
    np.testing.assert_allclose(found.value, values.mean(0))
    assert np.isnan([found.low, found.high, found.p]).all()
    assert floor_of(n, 1).p >= 0.05 > floor_of(6, 1).p


CASES = ("normal", "lognormal", "one outlier", "answers", "answers of words", "uneven")


@pytest.mark.parametrize("n", [6, 8, 15, 40])
@pytest.mark.parametrize("kind", CASES)
def test_interval_and_p_never_disagree(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    k, clusters = 60, np.arange(n)
    shift = rng.uniform(0, 4, k) / n**0.5
    if kind in ("answers of words", "uneven"):
        clusters = np.repeat(np.arange(n), np.resize([1, 2, 3, 5, 12], n))
    size = len(clusters), k
    values = rng.normal(size=size) + rng.normal(size=(n, k))[clusters] + shift
    if kind == "lognormal":
        values = rng.lognormal(size=size) - 1.65 + 2 * shift
    elif kind == "one outlier":
        values = np.full(size, -1.0)
        values[0] = shift * n
    elif kind.startswith("answers"):
        values = np.sign(np.round(0.7 * values))
    found = mean_effects(values, boot_of(clusters), DRAWS)
    rejected = [excludes_0(*ends) for ends in zip(found.low, found.high, strict=True)]
    assert rejected == list(found.p < 0.05)
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    # The control: some effects are significant and some are not.
    assert 0 < sum(rejected) < k or kind == "one outlier" or n == 6


def test_single_answers_have_mcnemars_exact_p() -> None:
    values = np.r_[np.ones(12), -np.ones(2), np.zeros(20)]
    found = mean_effects(values[:, None], boot_of(np.arange(34)), 20_000)
    assert found.p[0] == pytest.approx(stats.binomtest(2, 14).pvalue, abs=0.003)
    assert found.low[0] > 0
    # Two of thirty in one direction: Wilson's interval of a share would leave 0 out beside p = .5.
    few = mean_effects(np.r_[np.ones(2), np.zeros(28)][:, None], boot_of(np.arange(30)))
    assert few.low[0] <= 0
    assert few.p[0] == pytest.approx(0.5, abs=0.02)


def test_p_far_out_is_a_bound_of_the_exact_one() -> None:
    """38 of 40 equal effects are positive: the exact p is a sum of binomials,
    far below 1 / 10,001.
    """
    values = np.r_[np.ones(38), -np.ones(2)]
    exact = stats.binomtest(2, 40).pvalue
    (p,) = mean_p(values[:, None])
    assert exact <= p < 100 * exact
    assert p < 1e-6
    (all_alike,) = mean_p(np.ones((40, 1)))
    assert all_alike == pytest.approx(floor_of(40, 1).p)
    assert all_alike >= 2 / 2**40


def test_pairs_of_layers_are_compared_by_what_their_scores_differ_in() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(25), 6)
    y = rng.normal(size=150)
    predicted = y[:, None] + rng.normal(size=(150, 3)) * [0.5, 0.8, 0.8]
    errors = (y[:, None] - predicted) ** 2
    pairs = {(c.a, c.b): c for c in compare_pairs(-errors, boot_of(clusters), float(y.var()))}
    r2 = [metrics.r2_score(y, predicted[:, k]) for k in range(3)]
    for (a, b), pair in pairs.items():
        assert pair.difference.value == pytest.approx(r2[b] - r2[a])
        assert excludes_0(pair.difference.low, pair.difference.high) == (pair.p < 0.05)
        # The difference is 0 where that of the squared errors is.
        (p,) = mean_p((errors[:, a] - errors[:, b])[:, None], clusters, DRAWS)
        assert (pair.p < 0.05) == (p < 0.05)
    assert pairs[0, 1].p_holm < 0.01 < pairs[1, 2].p_holm
    assert pairs[0, 1].p <= pairs[0, 1].p_holm


@pytest.mark.parametrize("sizes", [(4, 4), (6, 9), (30, 20)])
def test_intervals_and_p_of_two_groups_never_disagree(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    in_second = np.arange(sum(sizes)) >= sizes[0]
    rejected = []
    for share in (True, False):
        for _ in range(25):
            apart = rng.uniform(0, 1)
            values = rng.normal(size=len(in_second)) + 2 * apart * in_second
            if share:
                values = (values > 0.5).astype(float)
            found = group_difference(
                values, in_second, np.arange(len(values)), share=share, draws=1000
            )
            ends = found.interval
            assert excludes_0(ends.low, ends.high) == (found.p < 0.05)
            rejected.append(found.p < 0.05)
    assert 0 < sum(rejected) < len(rejected)


def test_two_groups_of_three_cannot_be_tested() -> None:
    """Of 20 assignments two are as extreme as any: p is at least .1."""
    values = np.array([0.0, 0.1, 0.2, 10, 11, 12])
    found = group_difference(values, values > 5, np.arange(6), share=False)
    assert np.isnan([found.p, found.interval.low, found.interval.high]).all()
    exact = stats.permutation_test(
        (values[3:], values[:3]), lambda x, y, axis: x.mean(axis) - y.mean(axis)
    )
    assert exact.pvalue == pytest.approx(0.1)
