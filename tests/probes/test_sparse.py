"""Rankings and sparse probes on data whose neurons are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from layerscope.errors import InputError
from probes import SparseProbe, sparse_sweep
from probes.rankings import RANKINGS, elastic_net_weights, rank

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3000, 20))
Y = np.where(X[:, 3] + X[:, 7] > 1.2, "yes", "no")


@pytest.mark.parametrize("ranking", RANKINGS)
def test_every_ranking_finds_the_two_neurons(ranking: str) -> None:
    assert set(rank(X, Y, ranking)[:2].tolist()) == {3, 7}


def test_rankings_by_their_definitions() -> None:
    values = X.copy()
    values[:, 5] *= 1000  # large, and says nothing
    means = np.stack([values[c == Y].mean(0) for c in ("no", "yes")])
    np.testing.assert_allclose(
        RANKINGS["mean_difference"](values, Y), np.abs(means[0] - means[1]), rtol=1e-9
    )
    assert rank(values, Y, "mean_difference")[0] == 5
    assert set(rank(values, Y, "standard_difference")[:2].tolist()) == {3, 7}
    three = RNG.integers(0, 3, 3000)
    m = np.stack([X[three == c].mean(0) for c in range(3)])
    pairs = np.abs(m[0] - m[1]) + np.abs(m[0] - m[2]) + np.abs(m[1] - m[2])
    np.testing.assert_allclose(RANKINGS["mean_difference"](X, three), pairs, rtol=1e-9)
    with pytest.raises(ValueError, match="ranking: expected mean_difference, "):
        rank(X, Y, "best")


def test_elastic_net_weights_are_scikit_learns() -> None:
    labels = (X @ np.random.default_rng(1).normal(size=(20, 3))).argmax(1)
    Z = (X - X.mean(0)) / X.std(0)
    l1, l2, n = 2e-3, 1e-3, len(X)
    best = LogisticRegression(
        solver="saga",
        l1_ratio=l1 / (l1 + 2 * l2),
        C=1 / (n * (l1 + 2 * l2)),
        tol=1e-7,
        max_iter=5000,
    ).fit(Z, labels)
    np.testing.assert_allclose(
        elastic_net_weights(X, labels, l1, l2, tol=1e-9).numpy(), best.coef_, atol=5e-3
    )
    assert np.abs(best.coef_).max() > 0.5


def test_a_sparse_probe_is_a_balanced_regression_on_its_neurons(tmp_path) -> None:
    probe = SparseProbe(k=2, l2=2.0).fit(X, Y)
    probe = SparseProbe.load(probe.save(tmp_path / "probe"))
    assert set(probe.neurons_.tolist()) == {3, 7}
    mine = X[:, probe.neurons_]
    Z = (mine - mine.mean(0)) / mine.std(0)
    best = LogisticRegression(
        C=0.5, class_weight="balanced", solver="newton-cholesky", tol=1e-10
    ).fit(Z, Y)
    np.testing.assert_allclose(probe.decision_function(X), best.decision_function(Z), atol=1e-5)
    assert np.count_nonzero(probe.coef_) == 2
    with pytest.raises(ValueError, match="expected 2 classes, got 3"):
        SparseProbe().fit(X, np.arange(3000) % 3)


def test_the_sweep_stands_beside_its_bands() -> None:
    records = sparse_sweep(X[:2000], Y[:2000], X[2000:], Y[2000:], ks=(1, 2, 20), n_rotations=3)
    one, two, every = records
    assert set(two["neurons"]) == {3, 7}
    assert two["f1"] > 0.95
    assert one["f1"] < 0.8
    assert two["f1"] > two["random_f1_high"]
    assert two["f1"] > two["rotated_f1_high"] + 0.1  # the neurons' own basis is special here
    # all directions of any basis are the same
    assert every["rotated_f1"] == pytest.approx(every["f1"], abs=0.03)
    noise = np.random.default_rng(5).permutation(Y)
    (null,) = sparse_sweep(X[:2000], noise[:2000], X[2000:], noise[2000:], ks=(2,), n_rotations=2)
    assert abs(null["mcc"]) < 0.1


def test_classes_of_one_item_each_have_no_mutual_information() -> None:
    with pytest.raises(InputError, match="expected a class with at least 2 items, got 3 classes"):
        rank(X[:3], ["a", "b", "c"], "mutual_information")
