"""Ridge for many targets against its normal equations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from probes import Design, NonFiniteError, RidgeProbe, ridge_many


def data(n=80, d=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 5
    return X, X @ rng.normal(size=d) + rng.normal(size=n)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (20, 50)])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_ridge_solves_the_normal_equations(n, d, kind):
    X, y = data(n, d)
    X = X.astype(kind)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    w = np.linalg.solve(Z.T @ Z + 3.0 * np.eye(d), Z.T @ (y - y.mean()))
    fit = ridge_many(X, {"y": y}, l2=3.0)["y"]
    exact = kind == np.float64
    np.testing.assert_allclose(fit.predict(X), Z @ w + y.mean(), atol=1e-9 if exact else 1e-3)
    expected = ((y - y.mean() - Z @ w) ** 2).sum() + 3.0 * (w**2).sum()
    assert fit.objective == pytest.approx(expected, rel=1e-10 if exact else 1e-5)


def test_path_gives_each_target_its_own_penalty_by_dev_r2():
    X, _ = data(40, 30, seed=1)
    D, _ = data(300, 30, seed=2)
    rng = np.random.default_rng(3)
    w = np.zeros(30)
    w[0] = 1
    targets = {"clean": X @ w, "noise": rng.normal(size=40)}
    gold = {"clean": D @ w, "noise": rng.normal(size=300)}
    path = [1e-6, 1.0, 1e2, 1e6]
    fits = ridge_many(Design(X), targets, l2=path, dev=(D, gold))
    assert fits["clean"].l2 == 1e-6
    assert fits["noise"].l2 >= 1e2
    scaler = StandardScaler().fit(X)
    for l2 in path:
        model = Ridge(alpha=l2).fit(scaler.transform(X), targets["clean"])
        score = model.score(scaler.transform(D), gold["clean"])
        assert fits["clean"].dev_scores[l2] == pytest.approx(score, abs=1e-6)


def test_bad_input():
    X, y = data()
    with pytest.raises(
        ValueError, match="target 'y' must be finite, got NaN or infinity in 1 rows, first at row 4"
    ):
        ridge_many(X, {"y": np.where(np.arange(80) == 4, np.nan, y)}, l2=1.0)
    with pytest.raises(ValueError, match="needs dev"):
        ridge_many(X, {"y": y})
    with pytest.raises(ValueError, match=r"must be \[80\], one number per row"):
        ridge_many(X, {"y": y[1:]}, l2=1.0)
    with pytest.raises(ValueError, match="dev has 3 features, but X has 6"):
        ridge_many(X, {"y": y}, dev=(X[:, :3], {"y": y}))
    with pytest.raises(ValueError, match=r"target 'y' has no dev labels, got them for \['z'\]"):
        ridge_many(X, {"y": y}, dev=(X, {"z": y}))
    bad = X.copy()
    bad[0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="X must be finite"):
        ridge_many(bad, {"y": y}, l2=1.0)
    with pytest.raises(NonFiniteError, match="dev must be finite"):
        ridge_many(X, {"y": y}, dev=(bad, {"y": y}))


def test_dev_numbers_that_do_not_vary_choose_the_strongest_penalty():
    X, y = data()
    fit = ridge_many(X, {"y": y}, [1.0, 10.0], dev=(X, {"y": np.full(80, 2.0)}))["y"]
    assert fit.l2 == 10
    assert np.isnan(list(fit.dev_scores.values())).all()


def test_rows_in_parts_are_checked_as_rows_at_once():
    X, y = data()
    for fit in (RidgeProbe.fit, RidgeProbe.partial_fit):
        with pytest.raises(ValueError, match=r"l2 must be positive and finite, got -1\.0"):
            fit(RidgeProbe(l2=-1.0), X, y)
        with pytest.raises(ValueError, match="device: expected a device of this machine"):
            fit(RidgeProbe(device="nowhere"), X, y)


def test_parts_after_a_file_are_refused_and_after_fit_begin_anew(tmp_path):
    X, y = data()
    probe = RidgeProbe().fit(X, y)
    with pytest.raises(
        ValueError, match="partial_fit: expected a RidgeProbe fitted here, got one read from a file"
    ):
        RidgeProbe.load(probe.save(tmp_path / "ridge")).partial_fit(X, y)
    np.testing.assert_allclose(
        probe.partial_fit(X[:50], y[:50]).coef_, RidgeProbe().fit(X[:50], y[:50]).coef_
    )
