"""Calibration against synthetic models whose calibration is known, brute force and scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from made import softmax
from scipy import stats
from scipy.stats import binom, binomtest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from probes import calibration as cal
from probes.evaluation import ClusterBootstrap


def drawn(n: int, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences uniform on (.5, 1), right with that probability less ``shift``."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1.0, n)
    return confidence, rng.random(n) < confidence - shift


@pytest.mark.parametrize(
    ("n", "wide", "equal"),
    [(100, 0.089, 0.123), (300, 0.051, 0.070), (1000, 0.028, 0.038), (10000, 0.009, 0.012)],
)
def test_a_perfectly_calibrated_model_has_the_ece_of_chance(
    n: int, wide: float, equal: float
) -> None:
    """Independent samples of calibrated models, and `chance` on the confidences of some of them,
    agree.
    """
    samples = [drawn(n, seed=i) for i in range(40 if n < 10000 else 6)]
    for how, expected in (("width", wide), ("mass", equal)):
        found = np.mean([cal.ece(*sample, how=how) for sample in samples])
        by_chance = [cal.chance(c, cal.Bins.of(c, how=how), 100).mean for c, _ in samples[:6]]
        assert found == pytest.approx(expected, rel=0.09, abs=0.0006)
        assert np.mean(by_chance) == pytest.approx(expected, rel=0.09, abs=0.0006)


def test_known_miscalibration_lies_in_its_interval_as_often_as_it_says() -> None:
    hits = dict.fromkeys(("ece", "calibrated p", "miscalibrated p"), 0)
    for seed in range(40):
        confidence, correct = drawn(2000, 0.1, seed)
        bins = cal.Bins.of(confidence)
        boot = ClusterBootstrap(np.arange(2000), 1000, seed)
        found = cal.ece_interval(confidence, correct, bins, boot)
        hits["ece"] += found.low <= 0.1 <= found.high
        by_chance = cal.chance(confidence, bins, 200, seed)
        hits["miscalibrated p"] += by_chance.p(found.value) < 0.05
        hits["calibrated p"] += by_chance.p(cal.ece(confidence, drawn(2000, 0.0, seed)[1])) < 0.05
    assert hits["ece"] >= 34
    assert hits["miscalibrated p"] == 40
    assert hits["calibrated p"] <= 7


def test_always_ninety_percent_has_the_auroc_it_deserves() -> None:
    confidence, correct = np.full(400, 0.9), np.random.default_rng(0).random(400) < 0.6
    assert cal.auroc(confidence, correct) == 0.5
    assert cal.ece(confidence, correct) == pytest.approx(0.9 - correct.mean())
    assert cal.ece(confidence, correct, how="mass") == pytest.approx(0.9 - correct.mean())
    assert cal.risk_coverage(confidence, correct) == pytest.approx(np.full(400, 1 - correct.mean()))
    auc, area = cal.ranking_intervals(confidence, correct, ClusterBootstrap(np.arange(400), 300))
    assert (auc.low, auc.high) == (0.5, 0.5)
    assert area.low < area.value < area.high
    sharp = np.where(correct, 0.9, 0.8)  # a confidence that knows
    assert cal.auroc(sharp, correct) == 1.0


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    P = softmax(rng.normal(size=(500, 4)) * 1.5)
    return P, np.array([rng.choice(4, p=p) for p in P])


def test_scores_equal_scikit_learns_and_the_parts_of_brier_add_up(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    P, y = table
    confidence, correct = cal.top_label(P, y)
    assert cal.nll(P, y).mean() == pytest.approx(log_loss(y, P))
    assert cal.auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))
    parts = cal.brier_parts(P, cal.one_hot(y, 4))
    assert parts.brier == pytest.approx(cal.brier(P, y).mean(), abs=1e-12)
    assert parts.uncertainty == pytest.approx(
        sum((y == k).mean() * (y != k).mean() for k in range(4))
    )
    first, is_first = P[:, 0], y == 0
    two = np.column_stack([first, 1 - first])
    # scikit-learn's score of two classes is that of one of them
    halved = brier_score_loss(is_first, first)
    outcomes = np.column_stack([is_first, ~is_first]).astype(float)
    assert cal.brier_parts(two, outcomes).brier == pytest.approx(2 * halved, abs=1e-12)
    assert cal.brier(two, (~is_first).astype(int)).mean() == pytest.approx(2 * halved)
    assert cal.squared_error(first, is_first).mean() == pytest.approx(halved)
    coarse = np.round(two * 10) / 10  # forecasts of few values: nothing is left within the bins
    assert cal.brier_parts(coarse, outcomes, 20).within == pytest.approx(0, abs=1e-9)
    with pytest.raises(cal.CalibrationError, match="at least 2 classes, got one column"):
        cal.brier_parts(first[:, None], outcomes[:, :1])


def test_bins_by_hand() -> None:
    """(low, high]: a confidence on an edge belongs below it; and the sums of each bin,
    one row at a time.
    """
    confidence = np.array([0.0, 0.2, 0.2000001, 0.6, 0.61, 1.0])
    correct = np.array([False, True, True, False, True, True])
    bins = cal.Bins.of(confidence, 5)
    assert bins.index.tolist() == [0, 0, 1, 2, 3, 4]
    assert cal.ece(confidence, correct, 5) == pytest.approx(
        (abs(1 - 0.2) + abs(1 - 0.2000001) + abs(0 - 0.6) + abs(1 - 0.61) + 0) / 6
    )
    assert cal.maximum_error(confidence, correct, 5) == pytest.approx(1 - 0.2000001)
    mass = cal.Bins.of(np.array([0.1, 0.1, 0.1, 0.4, 0.5, 0.6]), 3, "mass")
    assert mass.index.tolist() == [0, 0, 0, 1, 2, 2]  # ties stay together


def test_classwise_is_the_ece_of_every_class_against_the_rest(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    P, y = table
    expected = []
    for k in range(4):
        gap = 0.0
        for low, high in itertools.pairwise(np.arange(16) / 15):
            rows = (P[:, k] > low) & (P[:, k] <= high)
            gap += abs(P[rows, k].sum() - (y[rows] == k).sum())
        expected.append(gap / len(y))
    assert cal.classwise(P, y) == pytest.approx(expected)


def test_risks_are_means_over_all_orders_of_ties() -> None:
    confidence = np.array([0.9, 0.7, 0.7, 0.7, 0.2])
    correct = np.array([True, True, False, False, True])
    curves = []
    for middle in itertools.permutations([1, 2, 3]):
        wrong = ~correct[[0, *middle, 4]]
        curves.append(np.cumsum(wrong) / np.arange(1, 6))
    assert cal.risk_coverage(confidence, correct) == pytest.approx(np.mean(curves, axis=0))


def test_rankings_of_resamples_equal_those_of_repeated_rows() -> None:
    """Row by row for confidences of few values (risks but for the midpoint rule),
    and nearly so for many values.
    """
    rng = np.random.default_rng(3)
    for confidence in (np.round(rng.random(400), 1), rng.random(400)):
        correct = rng.random(400) < 0.3 + 0.5 * confidence
        clusters = np.arange(400) // 2
        boot = ClusterBootstrap(clusters, 100)
        drawn = np.stack(
            [boot.grouped(np.zeros(400, int), 1, (clusters == c) / 2.0)[:, 0] for c in range(200)],
            1,
        )
        values, areas = [], []
        for w in drawn[:, clusters].round().astype(int):
            values.append(roc_auc_score(np.repeat(correct, w), np.repeat(confidence, w)))
            areas.append(cal.risk_coverage(np.repeat(confidence, w), np.repeat(correct, w)).mean())
        auc, area = cal.ranking_intervals(confidence, correct, boot)
        assert auc.value == pytest.approx(roc_auc_score(correct, confidence))
        # Many rows: the interval of the standard error is that of the resamples.
        assert (auc.low, auc.high) == pytest.approx(
            tuple(np.quantile(values, [0.025, 0.975])), abs=0.03
        )
        assert (area.low, area.high) == pytest.approx(
            tuple(np.quantile(areas, [0.025, 0.975])), abs=0.008
        )


def test_auroc_has_delongs_error_and_an_interval_without_a_mistake() -> None:
    """Against sums over all pairs; one wrong row below all others tells little,
    however many are right.
    """
    rng = np.random.default_rng(4)
    correct = np.arange(60) % 3 > 0
    confidence = np.round(rng.normal(size=60) + 0.8 * correct, 1)
    right, wrong = confidence[correct][:, None], confidence[~correct]
    won = (right > wrong) + (right == wrong) / 2
    of_right, of_wrong = won.mean(1), won.mean(0)
    error = np.sqrt(of_right.var(ddof=1) / 40 + of_wrong.var(ddof=1) / 20)
    found = cal.auroc_interval(confidence, correct, ClusterBootstrap(np.arange(60), 10))
    a = found.value
    welch: Any = stats.ttest_ind(of_right, of_wrong, equal_var=False)
    items, z = a * (1 - a) / error**2, stats.t.ppf(0.975, welch.df)
    # Wilson's ends solve (a - p)^2 = z^2 p (1 - p) / n.
    ends = np.roots([1 + z**2 / items, -2 * a - z**2 / items, a**2])
    assert sorted([found.low, found.high]) == pytest.approx(sorted(ends))
    # Each row twice, in one cluster, is no more than once (but for the correction of the shares).
    twice = cal.auroc_interval(
        np.tile(confidence, 2), np.tile(correct, 2), ClusterBootstrap(np.tile(np.arange(60), 2), 10)
    )
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high))
    perfect = np.r_[0.1, rng.uniform(0.5, 1, 11)]
    one = cal.auroc_interval(perfect, perfect > 0.2, ClusterBootstrap(np.arange(12), 10))
    assert one.value == one.high == 1
    assert one.low < 0.5
    nothing = cal.auroc_interval(perfect, perfect > 0, ClusterBootstrap(np.arange(12), 10))
    assert np.isnan(nothing.low)


@pytest.mark.parametrize(("claimed", "n"), [(0.9, 30), (0.85, 30), (0.97, 100), (0.95, 100)])
def test_all_answers_right_are_underconfident_only_if_the_binomial_says_so(
    claimed: float, n: int
) -> None:
    """A calibrated model has all of them right with probability claimed ** n."""
    confidence, correct = np.full(n, claimed), np.ones(n, dtype=bool)
    by_chance = cal.chance(confidence, cal.Bins.of(confidence, 10), 4000)
    boot = ClusterBootstrap(np.arange(n), 500)
    found = cal.overconfidence_interval(confidence, correct, boot, by_chance)
    assert found.value == pytest.approx(claimed - 1)
    assert (found.high < 0) == bool(binom.pmf(n, n, claimed) < 0.025)


def test_intervals_of_bins_have_a_width_even_where_all_rows_are_right() -> None:
    confidence, correct = (
        np.r_[np.full(5, 0.95), np.full(300, 0.5)],
        np.r_[np.full(5, True), np.arange(300) < 150],
    )
    bins = cal.Bins.of(confidence, 10)
    low, high = cal.bin_intervals(correct, bins, ClusterBootstrap(np.arange(305), 500))
    assert low[9] < 0.6
    assert high[9] == pytest.approx(1.0)
    assert (low[4], high[4]) == pytest.approx((0.444, 0.556), abs=0.01)
    assert np.isnan(low[0])
    assert low[9] == pytest.approx(
        binomtest(5, 5).proportion_ci(0.95, method="wilson").low, abs=1e-10
    )


@pytest.mark.parametrize(
    ("P", "y", "message"),
    [
        (
            [[0.5, 0.4]],
            [0],
            "row 1: expected probabilities that sum to 1, got 0.5, 0.4, which sum to 0.9",
        ),
        (
            [[0.5, 0.5], [1.5, -0.5]],
            [0, 1],
            "row 2: expected probabilities from 0 to 1, got 1.5, -0.5",
        ),
        ([[np.nan, 0.5]], [0], "row 1: expected finite probabilities, got nan, 0.5"),
        ([[0.5, 0.5]], [2], "row 1: expected a label from 0 to 1, got 2"),
        ([[0.5, 0.5]], [-1], "row 1: expected a label from 0 to 1, got -1"),
        ([[1.0]], [0], "expected rows of probabilities of at least 2 classes, got 1 rows of 1"),
    ],
)
def test_bad_rows_are_named_in_one_line(P: list[list[float]], y: list[int], message: str) -> None:
    with pytest.raises(cal.CalibrationError) as error:
        cal.check(np.array(P), np.array(y))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_fewer_rows_than_bins_are_refused() -> None:
    with pytest.raises(
        cal.CalibrationError, match="expected at least as many rows as bins, got 3 rows and 15 bins"
    ):
        cal.ece(np.full(3, 0.5), np.full(3, True))


def test_the_correlation_of_groups_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.5, 1, 60), rng.random(60) < 0.7
    clusters = rng.integers(0, 9, 60)
    rest = correct - confidence - (correct - confidence).mean()
    above = below = 0.0
    for i, j in itertools.permutations(range(60), 2):
        if clusters[i] == clusters[j]:
            above += rest[i] * rest[j]
            below += min(confidence[i], confidence[j]) * (1 - max(confidence[i], confidence[j]))
    assert cal.correlation(confidence, correct, clusters) == pytest.approx(max(0.0, above / below))
    assert cal.correlation(confidence, correct, np.arange(60)) == 0.0
    together = np.repeat(rng.random(30) < 0.7, 2)
    assert cal.correlation(np.full(60, 0.7), together, np.arange(60) // 2) == pytest.approx(
        1.0, abs=0.35
    )


def test_groups_that_are_right_together_show_a_larger_ece_by_chance() -> None:
    """All rows of a group alike: ten groups of ten rows are ten rows."""
    confidence = np.full(100, 0.8)
    clusters = np.arange(100) // 10
    correct = np.repeat(np.arange(10) < 8, 10)
    bins = cal.Bins.of(confidence)
    alone = cal.chance(confidence, bins, 4000)
    grouped = cal.chance(confidence, bins, 4000, correct=correct, clusters=clusters)
    k = np.arange(11)
    expected = (binom.pmf(k, 10, 0.8) * np.abs(k / 10 - 0.8)).sum()
    assert cal.correlation(confidence, correct, clusters) == pytest.approx(1.0, abs=1e-9)
    assert grouped.mean == pytest.approx(expected, rel=0.03)
    assert alone.mean < expected / 2


def test_an_ece_lies_in_its_interval_and_one_group_has_none() -> None:
    confidence, correct = drawn(60, seed=3)
    bins = cal.Bins.of(confidence)
    found = cal.ece_interval(confidence, correct, bins, ClusterBootstrap(np.arange(60), 400))
    assert found.low == 0.0 < found.value < found.high
    alone = cal.ece_interval(
        confidence, correct, bins, ClusterBootstrap(np.zeros(60, dtype=int), 400)
    )
    assert np.isnan([alone.low, alone.high]).all()


@pytest.mark.parametrize("claimed", [0.9, 0.97, 0.99, 0.999])
@pytest.mark.parametrize("n", [5, 8, 10, 15])
def test_no_rounding_makes_a_model_underconfident(n: int, claimed: float) -> None:
    """A calibrated model answers all of these rows right in claimed^n of its samples, here in 20%
    to 99.5%: to be all right is no sign of too little confidence.
    """
    assert claimed**n > 0.2
    confidence, correct = np.full(n, claimed), np.ones(n, dtype=bool)
    by_chance = cal.chance(confidence, cal.Bins.of(confidence, 2))
    boot = ClusterBootstrap(np.arange(n), 200)
    found = cal.overconfidence_interval(confidence, correct, boot, by_chance)
    assert found.low < 0 <= found.high
    mirrored = cal.chance(1 - confidence, cal.Bins.of(1 - confidence, 2))
    found = cal.overconfidence_interval(1 - confidence, ~correct, boot, mirrored)
    assert found.low <= 0 < found.high


@pytest.mark.parametrize("n_clusters", [3, 5])
def test_overconfidence_of_few_clusters_whose_answers_agree_is_covered(n_clusters: int) -> None:
    # Each cluster's answers are right with a probability of its own, nearly 0 or nearly 1.
    n_runs, covers = 200, 0
    clusters = np.repeat(np.arange(n_clusters), 6)
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        chance_of_cluster = rng.beta(0.24, 0.06, size=n_clusters)
        confidence = rng.uniform(0.7, 0.9, size=len(clusters))
        correct = rng.random(len(clusters)) < chance_of_cluster[clusters]
        boot = ClusterBootstrap(clusters, replicates=300, seed=seed)
        by_chance = cal.chance(confidence, cal.Bins.of(confidence, 5), 300)
        found = cal.overconfidence_interval(confidence, correct, boot, by_chance)
        covers += found.low <= 0 <= found.high  # both means are 0.8
    assert covers / n_runs >= 0.93
