"""Metrics against scikit-learn, corrections against numbers worked by hand, intervals against simulation."""

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
    predicted = np.where(rng.random(300) < 0.7, gold, rng.choice(np.array(["a", "b", "c", "e"], dtype=object), 300))
    return gold, predicted


def test_metrics_equal_scikit_learn(said):
    gold, predicted = said
    assert evaluation.accuracy(gold, predicted) == metrics.accuracy_score(list(gold), list(predicted))
    f1 = metrics.f1_score(list(gold), list(predicted), average="macro", zero_division=0)
    assert evaluation.macro_f1(gold, predicted) == pytest.approx(f1)
    rows = {row["label"]: row for row in evaluation.per_class(gold, predicted)}
    report = metrics.classification_report(list(gold), list(predicted), output_dict=True, zero_division=0)
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
    assert np.array_equal((counts / [1, 2, 3]).sum(1), np.full(500, 3))  # 3 clusters drawn each time
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
        values = np.repeat(rng.normal(size=n_clusters), size) + 0.5 * rng.normal(size=n_clusters * size)  # true mean 0
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
    pairs = {(c.a, c.b): c for c in evaluation.compare_pairs(estimates, replicates)}
    assert pairs[0, 1].p < 0.01 < pairs[1, 2].p
    assert pairs[0, 1].difference.low > 0
    assert pairs[1, 2].difference.low <= 0 <= pairs[1, 2].difference.high


def test_a_correction_over_many_pairs_is_passed_by_what_is_plain():
    rng = np.random.default_rng(2)
    replicates = rng.normal(0.5, 0.01, (1000, 30))
    replicates[:, 0] -= 0.2
    pairs = evaluation.compare_pairs([0.3, *[0.5] * 29], replicates)
    assert len(pairs) == 435  # more than 1 / (b + 1) passes
    assert {(c.a, c.b) for c in pairs if c.p < 0.05} == {(0, i) for i in range(1, 30)}
    drawn = rng.normal(5.0, 1.0, 4000)
    assert evaluation.bootstrap_p(drawn[drawn > 0]) == pytest.approx(5.7e-7, rel=0.5)  # 2 (1 - Phi(5))


def test_a_null_difference_is_rarely_called():
    rng = np.random.default_rng(1)
    called = 0
    for run in range(200):
        a, b = rng.random((2, 300)) < 0.7
        draws = ClusterBootstrap(np.repeat(np.arange(60), 5), replicates=400, seed=run).means(
            np.column_stack([a, b]).astype(float)
        )
        called += evaluation.bootstrap_p(draws[:, 1] - draws[:, 0]) < 0.05
    assert called / 200 < 0.10


def test_check_disjoint_names_the_offender():
    evaluation.check_disjoint({"train": ["a", "b"], "test": ["c"]})
    with pytest.raises(ValueError, match="'b' is in two splits, train and test"):
        evaluation.check_disjoint({"train": ["a", "b"], "test": ["b"]})


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="at least one item"):
        ClusterBootstrap(np.array([], dtype=int))


def test_false_discovery_rate_is_scipys():
    p = np.random.default_rng(0).random(40) ** 3
    np.testing.assert_allclose(evaluation.benjamini_hochberg(list(p)), stats.false_discovery_control(p))


def test_sign_flips_are_scipys_permutations_and_hold_their_level():
    values = np.random.default_rng(1).normal(0.4, 1.0, size=(9, 3))
    for column, p in zip(values.T, evaluation.sign_flip_p(values), strict=True):
        exact = stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=np.inf)
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
    with pytest.raises(ValueError, match="values: expected finite numbers, got 1 of 4 that are not, first at 2, 0"):
        evaluation.sign_flip_p(np.array([[1.0], [2.0], [np.nan], [3.0]]))
    with pytest.raises(ValueError, match="replicates: expected finite numbers, got 2 of 3 that are not, first at 1"):
        evaluation.bootstrap_p(np.array([1.0, np.nan, np.inf]))
    with pytest.raises(ValueError, match="estimates: expected finite numbers, got 1 of 3 that are not, first at 1"):
        evaluation.best_set([0.5, np.nan, 0.9], replicates)
    replicates[7, 1] = np.nan
    with pytest.raises(ValueError, match="replicates: expected finite numbers, got 1 of 100"):
        evaluation.compare_pairs([0.5, 0.6, 0.9], replicates)


def test_resamples_without_an_r2_are_left_out_of_its_interval():
    gold, clusters = np.array([1.0, 1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 2, 2])
    found = ClusterBootstrap(clusters).statistic(evaluation.r2_columns(gold, gold + 0.1), evaluation.r2_of_sums)
    worst = np.array([2.0, 3, 2, 3, 2, 3])  # of 27 equally likely draws the lowest that has an R^2 at all
    assert found.low == pytest.approx(metrics.r2_score(worst, worst + 0.1))
    assert found.value == pytest.approx(metrics.r2_score(gold, gold + 0.1))
    flat = np.full(3, 0.1)
    assert np.isnan(evaluation.r2(flat, gold[:3]))
    nothing = ClusterBootstrap(np.arange(3)).statistic(evaluation.r2_columns(flat, gold[:3]), evaluation.r2_of_sums)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
