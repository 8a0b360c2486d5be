"""Control tasks have the three properties that define them; baselines are counted by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from probes import controls


def test_a_type_has_one_label_wherever_it_occurs():
    labels = ["N"] * 6 + ["V"] * 3 + ["A"]
    train = controls.control_labels(["a", "b", "a", "c"], labels, seed=3)
    test = controls.control_labels(["c", "zebra", "a"], labels, seed=3)
    assert train[0] == train[2] == test[2]
    assert train[3] == test[0]


def test_labels_follow_the_task_distribution_and_differ_between_seeds():
    types = [f"w{i}" for i in range(20_000)]
    labels = ["N"] * 6 + ["V"] * 3 + ["A"]
    one, two = (controls.control_labels(types, labels, seed) for seed in (0, 1))
    counts = Counter(one)
    for label, share in (("N", 0.6), ("V", 0.3), ("A", 0.1)):
        assert counts[label] / len(types) == pytest.approx(share, abs=0.015)
    # Two independent draws agree by chance: sum p^2 = 0.46.
    assert np.mean(one == two) == pytest.approx(0.46, abs=0.015)


def test_control_numbers_keep_the_distribution():
    types = [f"w{i}" for i in range(20_000)]
    drawn = controls.control_numbers(types, np.array([1.0, 1.0, 5.0]), seed=0)
    assert set(drawn) == {1.0, 5.0}
    assert np.mean(drawn == 1.0) == pytest.approx(2 / 3, abs=0.015)
    assert (
        controls.control_numbers(["x", "y", "x"], np.arange(9.0), 0)[0]
        == controls.control_numbers(["x"], np.arange(9.0), 0)[0]
    )


def test_baselines_by_hand():
    types, labels = ["run", "run", "run", "dog", "dog"], ["V", "V", "N", "N", "N"]
    assert controls.majority(labels) == "N"
    assert list(controls.type_majority(types, labels, ["run", "dog", "cat"])) == ["V", "N", "N"]
    numbers = np.array([1.0, 2.0, 3.0, 10.0, 20.0])
    assert list(controls.type_mean(types, numbers, ["run", "dog", "cat"])) == [2.0, 15.0, 7.2]
