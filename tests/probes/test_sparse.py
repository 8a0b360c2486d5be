"""Rankings and sparse probes on data whose neurons are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from layerscope.errors import InputError
from probes import SparseProbe, sparse_sweep
from probes.design import NonFiniteError
from probes.nested import nested_regressions
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


@pytest.mark.parametrize("kind", ["unsure", "sure", "separable", "twins", "far"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nested_regressions_are_scikit_learns_one_by_one(kind: str, dtype: type) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(1500, 12))
    if kind == "twins":
        values[:, 6:] = values[:, :6]
    if kind == "far":
        values += 1000
    values = values.astype(dtype)
    size = {"unsure": 0.3, "sure": 4.0, "separable": 50.0}.get(kind, 0.5)
    noise = 0 if kind == "separable" else rng.logistic(size=len(values))
    positive = (values[:, ::3] - values[:, ::3].mean(0)).sum(1) * size + noise > 1
    ks = (1, 3, 8, 12, 40)
    coefs, biases = nested_regressions(torch.from_numpy(values.T.copy()), positive, 1e-2, ks)
    for k, coef, bias in zip(ks, coefs, biases, strict=True):
        first = values[:, :k].astype(np.float64)
        Z = (first - first.mean(0)) / first.std(0)
        solver = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 500}
        best = LogisticRegression(C=100, class_weight="balanced", **solver).fit(Z, positive)
        logits = best.decision_function(Z)
        found = first @ coef[:k] + bias
        np.testing.assert_allclose(found, logits, atol=5e-6 * np.abs(logits).max())
        assert not coef[k:].any()


@pytest.mark.parametrize("ranking", ["mean_difference", "standard_difference", "f"])
@pytest.mark.parametrize("n_train", [2000, 600])
def test_a_split_by_rows_is_that_of_its_copies(ranking: str, n_train: int) -> None:
    turn = np.random.default_rng(2).permutation(len(X))
    train, test = turn[:n_train], turn[2100:]
    given = {"ks": (1, 5), "ranking": ranking, "n_random": 3, "n_rotations": 1}
    apart = sparse_sweep(X[train], Y[train], X[test], Y[test], **given)
    assert sparse_sweep(X, Y, X, Y, train=train, test=test, **given) == apart


def test_classes_of_any_size_have_their_own_sums() -> None:
    rng = np.random.default_rng(6)
    values = (rng.normal(size=(700, 4)) + 5).astype(np.float32)
    labels = np.repeat([0, 1, 2, 3], [1, 64, 65, 570])[rng.permutation(700)]
    rows = rng.permutation(700)[:650]
    means = [values[rows][labels[rows] == c].mean(0, dtype=np.float64) for c in range(4)]
    apart = sum(np.abs(means[c] - means[b]) for c in range(4) for b in range(c))
    for found in (
        RANKINGS["mean_difference"](values, labels[rows], rows),
        RANKINGS["mean_difference"](values[rows], labels[rows]),
    ):
        np.testing.assert_allclose(found, apart, rtol=1e-5)


def test_values_that_are_not_finite_are_refused_on_both_sides_of_a_split() -> None:
    bad = X.copy()
    bad[2500, 3] = np.inf
    given = {"ks": (2,), "n_random": 0, "n_rotations": 0}
    with pytest.raises(NonFiniteError, match=r"X_test must be finite.* row 500, column 3"):
        sparse_sweep(X[:2000], Y[:2000], bad[2000:], Y[2000:], **given)
    rows = np.arange(1000, 3000)
    with pytest.raises(NonFiniteError, match=r"X must be finite.* row 1500, column 3"):
        sparse_sweep(bad, Y, X, Y, train=rows, **given)


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
