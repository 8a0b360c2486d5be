"""Metrics against scikit-learn, corrections against numbers worked by hand,
intervals against simulation.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from probes import evaluation
from probes.evaluation import ClusterBootstrap


@pytest.fixture
def said():
    rng = np.random.default_rng(0)
    gold = rng.choice(np.array(["a", "b", "c", "d"], dtype=object), 300, p=[0.5, 0.3, 0.15, 0.05])
    predicted = np.where(
        rng.random(300) < 0.7, gold, rng.choice(np.array(["a", "b", "c", "e"], dtype=object), 300)
    )
    return gold, predicted


def test_metrics_equal_scikit_learn(said):
    gold, predicted = said
    assert evaluation.accuracy(gold, predicted) == metrics.accuracy_score(
        list(gold), list(predicted)
    )
    f1 = metrics.f1_score(list(gold), list(predicted), average="macro", zero_division=0)
    assert evaluation.macro_f1(gold, predicted) == pytest.approx(f1)
    rows = {row["label"]: row for row in evaluation.per_class(gold, predicted)}
    report = metrics.classification_report(
        list(gold), list(predicted), output_dict=True, zero_division=0
    )
    for label, row in rows.items():
        assert row["support"] == report[label]["support"]
        assert row["precision"] == pytest.approx(report[label]["precision"])
        assert (row["recall"] or 0.0) == pytest.approx(report[label]["recall"])
        assert row["f1"] == pytest.approx(report[label]["f1-score"])
    assert rows["e"]["recall"] is None  # predicted, never gold: nothing to recall


def test_r2_equals_scikit_learn():
    rng = np.random.default_rng(0)
    gold, predicted = rng.normal(size=50), rng.normal(size=50)
    ours = evaluation.r2_of_sums(evaluation.r2_columns(gold, predicted).sum(0))
    assert float(ours) == pytest.approx(metrics.r2_score(gold, predicted))


def test_holm_by_hand():
    # 0.005 x 4, 0.01 x 3, then 0.03 x 2 = 0.06 and max(0.06, 0.04) = 0.06
    assert evaluation.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluation.holm([0.9, 0.8]) == [1.0, 1.0]


def test_sums_are_multinomial_resamples_of_whole_clusters():
    clusters = np.array([7, 7, 3, 9, 9, 9])
    boot = ClusterBootstrap(clusters, replicates=500, seed=1)
    counts = boot.sums(np.column_stack([clusters == c for c in (3, 7, 9)]).astype(float))
    # 3 clusters drawn each time
    assert np.array_equal((counts / [1, 2, 3]).sum(1), np.full(500, 3))
    assert np.array_equal(counts % [1, 2, 3], np.zeros((500, 3)))  # always whole
    assert np.allclose(counts.mean(0), [1, 2, 3], atol=0.2)


def test_interval_of_a_mean_has_the_closed_form_width():
    """One item a cluster: the bootstrap's standard error is that of a binomial proportion."""
    n, p = 2000, 0.8
    values = (np.arange(n) < n * p).astype(float)
    found = ClusterBootstrap(np.arange(n)).mean(values)
    assert found.value == p
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.05)


def test_correlated_items_need_a_wider_interval_and_get_it():
    rng = np.random.default_rng(0)
    covered = {"clusters": 0, "items": 0}
    runs, n_clusters, size = 200, 60, 10
    clusters = np.repeat(np.arange(n_clusters), size)
    for run in range(runs):
        # true mean 0
        values = np.repeat(rng.normal(size=n_clusters), size) + 0.5 * rng.normal(
            size=n_clusters * size
        )
        for name, groups in (("clusters", clusters), ("items", np.arange(len(clusters)))):
            found = ClusterBootstrap(groups, replicates=400, seed=run).mean(values)
            covered[name] += found.low <= 0 <= found.high
    assert 0.88 <= covered["clusters"] / runs <= 0.98
    assert covered["items"] / runs < 0.75


def test_differences_are_paired_and_the_best_set_is_right():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(200), 5)
    easy = rng.random(1000) < 0.8
    same = easy.copy()
    same[:3] ^= True
    worse = easy & (rng.random(1000) < 0.9)
    columns = np.column_stack([worse, easy, same]).astype(float)
    replicates = ClusterBootstrap(clusters).means(columns)
    estimates = list(columns.mean(0))
    best, p = evaluation.best_set(estimates, replicates)
    assert list(best) == [False, True, True]
    assert p[0] < 0.01
    pairs = {(c.a, c.b): c for c in evaluation.compare_pairs(columns, ClusterBootstrap(clusters))}
    assert pairs[0, 1].p_holm < 0.01 < pairs[1, 2].p_holm
    assert pairs[0, 1].difference.low > 0
    assert pairs[1, 2].difference.low <= 0 <= pairs[1, 2].difference.high


def test_a_correction_over_many_pairs_is_passed_by_what_is_plain():
    rng = np.random.default_rng(2)
    right = (rng.random((400, 1)) < 0.8) ^ (rng.random((400, 30)) < 0.1)
    right[:, 0] &= rng.random(400) < 0.5
    pairs = evaluation.compare_pairs(right.astype(float), ClusterBootstrap(np.arange(400), 2000))
    assert len(pairs) == 435
    assert {(c.a, c.b) for c in pairs if c.p_holm < 1e-6} == {(0, i) for i in range(1, 30)}
    assert all(c.p_holm > 0.05 for c in pairs if c.a > 0)


def test_check_disjoint_names_the_offender():
    evaluation.check_disjoint({"train": ["a", "b"], "test": ["c"]})
    with pytest.raises(ValueError, match="'b' is in two splits, train and test"):
        evaluation.check_disjoint({"train": ["a", "b"], "test": ["b"]})


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="at least one item"):
        ClusterBootstrap(np.array([], dtype=int))


def test_false_discovery_rate_is_scipys():
    p = np.random.default_rng(0).random(40) ** 3
    np.testing.assert_allclose(
        evaluation.benjamini_hochberg(list(p)), stats.false_discovery_control(p)
    )


def test_sign_flips_are_scipys_permutations_and_hold_their_level():
    values = np.random.default_rng(1).normal(0.4, 1.0, size=(9, 3))
    for column, p in zip(values.T, evaluation.sign_flip_p(values), strict=True):
        exact = stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(exact.pvalue)
    null = np.random.default_rng(2).normal(size=(40, 1000))
    rejected = np.mean(np.array(evaluation.sign_flip_p(null, replicates=1000)) < 0.05)
    assert 0.03 < rejected < 0.07
    assert max(evaluation.sign_flip_p(null[:, :5] + 2.0)) < 0.001  # the positive control


def test_sign_flips_of_clusters_turn_whole_clusters():
    values = np.repeat(np.random.default_rng(3).normal(size=(8, 1)), 5, axis=0)
    clusters = np.repeat(np.arange(8), 5)
    assert evaluation.sign_flip_p(values, clusters) == evaluation.sign_flip_p(values[::5])


def test_nan_is_refused_and_not_called_significant():
    replicates = np.random.default_rng(0).normal(size=(100, 3))
    with pytest.raises(
        ValueError, match="values: expected finite numbers, got 1 of 4 that are not, first at 2, 0"
    ):
        evaluation.sign_flip_p(np.array([[1.0], [2.0], [np.nan], [3.0]]))
    with pytest.raises(
        ValueError, match="values: expected finite numbers, got 2 of 3 that are not, first at 1, 0"
    ):
        evaluation.mean_p(np.array([[1.0], [np.nan], [np.inf]]))
    with pytest.raises(
        ValueError, match="estimates: expected finite numbers, got 1 of 3 that are not, first at 1"
    ):
        evaluation.best_set([0.5, np.nan, 0.9], replicates)
    replicates[7, 1] = np.nan
    with pytest.raises(ValueError, match="replicates: expected finite numbers, got 1 of 300"):
        evaluation.best_set([0.5, 0.6, 0.9], replicates)


def test_resamples_without_an_r2_are_left_out_of_its_interval():
    gold, clusters = np.array([1.0, 1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 2, 2])
    found = ClusterBootstrap(clusters).statistic(
        evaluation.r2_columns(gold, gold + 0.1), evaluation.r2_of_sums
    )
    # of 27 equally likely draws the lowest that has an R^2 at all
    worst = np.array([2.0, 3, 2, 3, 2, 3])
    assert found.low == pytest.approx(metrics.r2_score(worst, worst + 0.1))
    assert found.value == pytest.approx(metrics.r2_score(gold, gold + 0.1))
    flat = np.full(3, 0.1)
    assert np.isnan(evaluation.r2(flat, gold[:3]))
    nothing = ClusterBootstrap(np.arange(3)).statistic(
        evaluation.r2_columns(flat, gold[:3]), evaluation.r2_of_sums
    )
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_few_shares_have_wilsons_interval_and_never_none_of_a_width():
    """One item a cluster: Wilson's with Student's t for z; all right is no proof that all are."""
    right = (np.arange(12) < 9).astype(float)
    found = ClusterBootstrap(np.arange(12), 500).mean(right)
    quantile = stats.t.ppf(0.975, 11)
    level = 1 - 2 * stats.norm.sf(quantile)
    # the bootstrap's s^2 has n - 1 below, so that the effective number of items is n - 1
    expected = stats.binomtest(9, 12).proportion_ci(level, method="wilson")
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)
    whole = ClusterBootstrap(np.arange(12), 500).mean(np.ones(12))
    expected = stats.binomtest(12, 12).proportion_ci(level, method="wilson")
    assert (whole.low, whole.high) == pytest.approx((expected.low, 1.0))
    many = ClusterBootstrap(np.arange(500), 500).mean(np.ones(500))
    assert 0.98 < many.low < 1.0
    same = ClusterBootstrap(np.arange(12), 500).mean(np.zeros(12), kind="difference")
    one_way = (1 - expected.low) * np.array([-1, 1])  # no answer changed, either way
    assert (same.low, same.high) == pytest.approx(tuple(one_way))
    nothing = ClusterBootstrap(np.arange(12), 500).mean(np.zeros(12))
    assert (nothing.low, nothing.high) == (0.0, 0.0)  # a measurement that is 0 each time


def test_counted_shares_have_wilsons_interval():
    """0 of 12 x 3 and all of them, by SciPy; without a spread each cluster counts as one."""
    level = 1 - 2 * stats.norm.sf(stats.t.ppf(0.975, 11))
    boot, counts = ClusterBootstrap(np.arange(12), 500), np.full(12, 3.0)
    for right, total in ((np.zeros(12), 0), (counts, 12)):
        interval = boot.share(right, counts)
        expected = stats.binomtest(total, 12).proportion_ci(level, method="wilson")
        assert (interval.low, interval.high) == pytest.approx(
            (expected.low, expected.high), abs=1e-12
        )
    # One answer a cluster: the share is the mean.
    right = (np.arange(12) < 9).astype(float)
    interval, mean = boot.share(right, np.ones(12)), boot.mean(right)
    assert (interval.low, interval.high) == pytest.approx((mean.low, mean.high))


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("p", [0.02, 0.98])
def test_counted_shares_near_0_and_1_are_covered(n, p):
    """Resampled ratios covered .68 and .91 of 5 and 30 clusters."""
    rng, boot = np.random.default_rng(n), ClusterBootstrap(np.arange(n), 500)
    sizes = rng.integers(4, 20, (200, n)).astype(float)
    right = rng.binomial(sizes.astype(int), p).astype(float)
    ends = [boot.share(y, m) for y, m in zip(right, sizes, strict=True)]
    assert np.mean([one.low <= p <= one.high for one in ends]) > 0.93


def test_a_single_cluster_has_no_interval_and_no_test():
    boot = ClusterBootstrap(np.zeros(7, dtype=int))
    values = np.random.default_rng(0).normal(size=7)
    for found in (
        boot.mean(values),
        boot.statistic(np.column_stack([values, np.ones(7)]), lambda s: s[..., 0] / s[..., 1]),
    ):
        assert found.value == pytest.approx(values.mean())
        assert np.isnan([found.low, found.high]).all()
    assert np.isnan(evaluation.mean_p(values[:, None], np.zeros(7, dtype=int))).all()
    assert "no interval" in (evaluation.few_clusters(1) or "")
    assert "about 90%" in (evaluation.few_clusters(10) or "")
    assert evaluation.few_clusters(100) is None
    # sizes 1 to 12: 30 groups carry as much as 23.4 of one size, and cover .917
    sizes = np.repeat(np.arange(24), np.tile(np.arange(1, 13), 2))
    effective = evaluation.effective_clusters(sizes)
    assert effective == pytest.approx(24 * 6.5**2 / (650 / 12))
    assert evaluation.few_clusters(24) is None
    assert "of unequal size" in (evaluation.few_clusters(24, effective=effective) or "")
    assert evaluation.few_clusters(40, effective=effective) is None


def test_an_accelerated_interval_is_scipys_at_widened_levels():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=40)
    widened = stats.norm.cdf(np.sqrt(40 / 39) * stats.t.ppf(0.975, 39)) * 2 - 1
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: x.std(axis),
        confidence_level=widened,
        n_resamples=20_000,
        method="BCa",
        rng=rng,
    ).confidence_interval
    columns = np.column_stack([values, values**2, np.ones(40)])
    found = ClusterBootstrap(np.arange(40), 20_000).statistic(
        columns,
        lambda s: np.sqrt(np.maximum(s[..., 1] / s[..., 2] - (s[..., 0] / s[..., 2]) ** 2, 0)),
    )
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=0.06)


def test_a_studentised_mean_has_the_closed_form_error_and_students_width():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 2))
    boot = ClusterBootstrap(np.arange(30))
    np.testing.assert_allclose(boot.standard_errors(values), stats.sem(values, axis=0))
    low, high = boot.mean_ends(values)
    width = 2 * stats.t.ppf(0.975, 29) * stats.sem(values, axis=0)
    np.testing.assert_allclose(high - low, width, rtol=0.15)
    few_low, few_high = ClusterBootstrap(np.arange(4)).mean_ends(values[:4])
    expected = stats.t.interval(0.95, 3, values[:4].mean(0), stats.sem(values[:4], axis=0))
    np.testing.assert_allclose((few_low, few_high), expected)


def test_errors_of_uneven_clusters_are_those_of_leaving_each_one_out():
    """Means and ratios; Student's t has the degrees of freedom of as many clusters of one size."""
    rng = np.random.default_rng(3)
    sizes = np.array([1, 1, 2, 3, 12])
    clusters = np.repeat(np.arange(5), sizes)
    values = rng.normal(size=(19, 1))
    boot = ClusterBootstrap(clusters)
    without = np.array([values[clusters != c].mean() for c in range(5)])
    error = np.sqrt(4 / 5 * ((without - values.mean()) ** 2).sum())
    np.testing.assert_allclose(boot.standard_errors(values), [error])
    found = boot.mean(values[:, 0])
    freedom = 19**2 / (sizes**2).sum() - 1
    assert found.high - found.value >= stats.t.ppf(0.975, freedom) * error * (1 - 1e-9)
    # A ratio of sums is a mean of items in the shares of what is below.
    above, below = rng.normal(size=4), np.array([1.0, 2.0, 3.0, 4.0])
    ratio = ClusterBootstrap(np.arange(4)).ratio(above, below)
    left = [np.delete(above, c).sum() / np.delete(below, c).sum() for c in range(4)]
    spread = np.sqrt(3 / 4 * ((np.array(left) - ratio.value) ** 2).sum())
    half = stats.t.ppf(0.975, 10**2 / 30 - 1) * spread
    assert (ratio.low, ratio.high) == pytest.approx((ratio.value - half, ratio.value + half))


def test_replicates_of_few_clusters_are_widened_to_students_interval():
    values = np.random.default_rng(4).normal(size=8)
    boot = ClusterBootstrap(np.arange(8), 20_000)
    drawn = boot.means(values[:, None])[:, 0]
    low, high = np.quantile(boot.widened(float(values.mean()), drawn), [0.025, 0.975])
    expected = stats.t.interval(0.95, 7, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.06)
    # Where the largest of 7 differences is judged, 1 - 0.05 / 7 is the quantile that counts.
    tail = 0.05 / 7
    (most,) = np.quantile(boot.widened(float(values.mean()), drawn, among=7), [1 - tail])
    bound = stats.t.interval(1 - 2 * tail, 7, values.mean(), stats.sem(values))[1]
    assert most == pytest.approx(bound, abs=0.1)


def test_p_and_interval_agree_and_the_larger_p_counts():
    rng = np.random.default_rng(2)
    values = rng.exponential(size=(15, 200)) - 0.6
    boot = ClusterBootstrap(np.arange(15), seed=0)
    low, high = boot.mean_ends(values)
    p = boot.studentised(values).p()
    np.testing.assert_array_equal(p < 0.05, (low > 0) | (high < 0))
    both = np.array(evaluation.mean_p(values, replicates=10_000))
    # Other draws of signs: both are right to within the error of 10,000.
    assert (both >= np.array(evaluation.sign_flip_p(values, replicates=10_000)) - 0.03).all()
    assert (both >= p - 1e-12).all()


def test_the_floor_of_p_is_that_of_all_signs():
    for n, tests in ((6, 10), (9, 3), (13, 270)):
        floor = evaluation.floor_of(n, tests)
        assert floor.p == pytest.approx(evaluation.sign_flip_p(np.ones((n, 1)) + 0.0)[0])
        q = evaluation.benjamini_hochberg([floor.p] + [1.0] * (tests - 1))[0]
        assert floor.q == pytest.approx(q)
        assert floor.silent == (q >= 0.05)
        if floor.together <= tests:
            enough = [floor.p] * floor.together + [1.0] * (tests - floor.together)
            assert evaluation.benjamini_hochberg(enough)[0] < 0.05
            if floor.together > 1:
                assert evaluation.benjamini_hochberg([*enough[1:], 1.0])[0] >= 0.05


def test_a_weighted_rank_correlation_is_that_of_the_repeated_grid():
    rng = np.random.default_rng(0)
    a = rng.normal(size=30).round(1)
    b = (a + rng.normal(size=30)).round(1)
    weights = rng.integers(1, 6, 30)
    whole = stats.spearmanr(np.repeat(a, weights), np.repeat(b, weights)).statistic
    assert evaluation.weighted_spearman(a, b, weights.astype(float)) == pytest.approx(whole)
    assert np.isnan(evaluation.weighted_spearman(np.ones(5), b[:5], np.ones(5)))
    assert evaluation.stratum_weights(10, 20, 270).sum() == 270


def test_selectivity_counts_the_spread_of_control_tasks():
    """Few seeds that differ much: the width is Student's over the seeds;
    without a spread that of the sentences.
    """
    right = np.r_[np.ones(9000), np.zeros(1000)]
    scores = [0.5, 0.6, 0.7]
    drawn = np.random.default_rng(0).random((10_000, 3)) < scores
    boot = ClusterBootstrap(np.arange(10_000), 200)
    found = evaluation.selectivity(right, drawn.mean(1), list(drawn.mean(0)), boot)
    half = stats.t.ppf(0.975, 2) * stats.sem(drawn.mean(0))
    assert found.value == pytest.approx(0.9 - drawn.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    none = evaluation.selectivity(
        right, drawn[:, 0].astype(float), [float(drawn[:, 0].mean())], boot
    )
    assert np.isnan([none.low, none.high]).all()


def test_rare_classes_stay_in_the_interval_of_macro_f1():
    """Of balanced classes the delta method is the bootstrap;
    a class of one right item is no certainty.
    """
    rng = np.random.default_rng(0)
    gold = np.repeat(np.array(["a", "b", "c"], dtype=object), 200)
    said = np.where(rng.random(600) < 0.8, gold, "a").astype(object)
    boot = ClusterBootstrap(np.arange(600), 4000)
    found = evaluation.macro_f1_interval(gold, said, boot)
    assert found.value == pytest.approx(metrics.f1_score(list(gold), list(said), average="macro"))
    drawn = [rng.integers(0, 600, 600) for _ in range(400)]
    spread = np.std(
        [metrics.f1_score(list(gold[i]), list(said[i]), average="macro") for i in drawn]
    )
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.2)
    rare = np.append(gold, "d"), np.append(said, "d")
    with_rare = evaluation.macro_f1_interval(*rare, ClusterBootstrap(np.arange(601), 100))
    assert with_rare.high - with_rare.low > 1.5 * (found.high - found.low)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_effects_of_which_all_but_one_are_alike_have_students_interval(noise):
    """Resamples without the odd one have no spread, up to rounding:
    dividing by it would give an interval of a million.
    """
    from scipy import stats

    from probes.evaluation import ClusterBootstrap, mean_p

    values = np.r_[np.full(11, -4.7), -0.1] + noise * np.random.default_rng(0).normal(size=12)
    found = ClusterBootstrap(np.arange(12)).mean(values)
    error = values.std(ddof=1) / np.sqrt(12)
    half = stats.t.ppf(0.975, 11) * error
    assert found.low == pytest.approx(values.mean() - half, rel=0.02)
    assert found.high == pytest.approx(values.mean() + half, rel=0.02)
    assert mean_p(values[:, None])[0] < 0.001


def test_a_medians_interval_is_scipys_exact_one_for_independent_items():
    """Each item its own cluster:
    Woodruff's ends are order statistics near those of the exact binomial interval.
    """
    values = np.random.default_rng(0).lognormal(size=400)
    found = ClusterBootstrap(np.arange(400)).median(values)
    exact = stats.quantile_test(values, q=1.0, p=0.5).confidence_interval()
    ends = np.searchsorted(np.sort(values), [found.low, found.high, exact.low, exact.high])
    assert found.value == np.median(values)
    assert abs(ends[0] - ends[2]) <= 3
    assert abs(ends[1] - ends[3]) <= 3
    # the same items four times each, in clusters of equal items: four times the data say no more
    again = ClusterBootstrap(np.repeat(np.arange(400), 4)).median(np.repeat(values, 4))
    assert (again.low, again.high) == pytest.approx((found.low, found.high), rel=0.05)


@pytest.mark.parametrize("n", [3, 10, 40, 600])
def test_answers_that_are_all_wrong_or_all_right_leave_an_interval(n):
    """Wilson's of 0 of n: from 0 to q^2 / (n + q^2)."""
    q = stats.t.ppf(0.975, n - 1)
    wrong = ClusterBootstrap(np.arange(n), 50).mean(np.zeros(n, dtype=bool))
    right = ClusterBootstrap(np.arange(n), 50).mean(np.ones(n, dtype=bool))
    assert (wrong.value, wrong.low) == (0, 0)
    assert wrong.high == pytest.approx(q**2 / (n + q**2))
    assert (right.value, right.high) == (1, 1)
    assert right.low == pytest.approx(1 - wrong.high)


@pytest.mark.parametrize("p", [[0.01, np.nan, 0.04], [np.nan], [np.nan, 0.2, 0.01, np.nan, 0.011]])
def test_corrections_leave_out_what_was_not_tested(p):
    tested = np.isfinite(p)
    found = np.array([evaluation.holm(p), evaluation.benjamini_hochberg(p)])
    assert np.isnan(found[:, ~tested]).all()
    alone = np.array(p)[tested]
    if len(alone):
        np.testing.assert_allclose(found[1, tested], stats.false_discovery_control(alone))
    order = np.argsort(alone)
    steps = np.maximum.accumulate(alone[order] * np.arange(len(alone), 0, -1))
    np.testing.assert_allclose(found[0, tested][order], np.minimum(steps, 1))
