"""Two groups compared: intervals that cover and tests that hold their level,
on samples whose truth is known.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from probes.groups import group_difference, group_mean

RUNS = 400


@pytest.mark.parametrize(
    ("share", "sizes"), [(0.1, (40, 60)), (0.5, (30, 120)), (0.02, (150, 150))]
)
def test_intervals_of_shares_cover_and_the_test_holds_its_level(
    share: float, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    second = np.repeat([False, True], sizes)
    covered = apart = rejected = 0
    for run in range(RUNS):
        values = (rng.random(len(second)) < share).astype(float)
        mean = group_mean(values[~second], np.arange(sizes[0]), share=True)
        found = group_difference(
            values, second, np.arange(len(second)), share=True, draws=199, seed=run
        )
        covered += mean.low <= share <= mean.high
        apart += found.interval.low <= 0 <= found.interval.high
        rejected += found.p <= 0.05
    # of 400 runs, three standard errors below 95% and above 5%
    assert covered / RUNS > 0.917
    assert apart / RUNS > 0.917
    assert rejected / RUNS < 0.083


def test_clusters_in_both_groups_are_paired() -> None:
    """Templates that differ much, and by a little between their two versions:
    only the pairing sees the little.
    """
    rng = np.random.default_rng(1)
    template = rng.normal(0, 3, 40)
    values = np.concatenate([template, template + 0.3 + rng.normal(0, 0.3, 40)])
    second, clusters = np.repeat([False, True], 40), np.tile(np.arange(40), 2)
    paired = group_difference(values, second, clusters, share=False)
    alone = group_difference(values, second, np.arange(80), share=False)
    assert paired.p == pytest.approx(stats.ttest_rel(values[40:], values[:40]).pvalue, abs=0.01)
    assert alone.p == pytest.approx(
        stats.ttest_ind(values[40:], values[:40], equal_var=False).pvalue, abs=0.05
    )
    assert paired.interval.low > 0 > alone.interval.low
    width = paired.interval.high - paired.interval.low
    t = stats.ttest_rel(values[40:], values[:40]).confidence_interval()
    assert width == pytest.approx(t.high - t.low, rel=0.25)


def test_paired_groups_hold_their_level_too() -> None:
    rng = np.random.default_rng(2)
    second, clusters = np.repeat([False, True], 25), np.tile(np.arange(25), 2)
    rejected = covered = 0
    for run in range(RUNS):
        template = rng.normal(0, 1, 25)
        values = np.concatenate([template, template]) + rng.normal(0, 1, 50)
        found = group_difference(values, second, clusters, share=False, draws=199, seed=run)
        rejected += found.p <= 0.05
        covered += found.interval.low <= 0 <= found.interval.high
    assert rejected / RUNS < 0.083
    assert covered / RUNS > 0.917


def test_all_right_against_all_wrong_and_one_cluster() -> None:
    second = np.repeat([False, True], 10)
    found = group_difference(second.astype(float), second, np.arange(20), share=True)
    # as in Fisher's exact test, no other of the 184,756 assignments is as far but the opposite
    assert found.p < 0.001
    assert found.interval.value == 1
    assert 0.5 < found.interval.low < found.interval.high == 1
    same = group_difference(np.ones(20), second, np.arange(20), share=True)
    assert same.p == 1
    assert same.interval.low < 0 < same.interval.high
    single = group_difference(second.astype(float), second, np.repeat([0, 1], 10), share=True)
    assert math.isnan(single.p)
