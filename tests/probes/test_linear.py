"""The estimators: scikit-learn's own suite, closed forms, and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from layerscope.errors import InputError
from probes import (
    Inlp,
    LDAProbe,
    Leace,
    LogisticProbe,
    LowRankProbe,
    MeanDifferenceProbe,
    MLPProbe,
    RidgeProbe,
    SparseProbe,
)


@parametrize_with_checks(
    [
        LogisticProbe(),
        RidgeProbe(),
        MeanDifferenceProbe(),
        LDAProbe(),
        SparseProbe(),
        MLPProbe(max_iter=40),
        LowRankProbe(max_iter=40),
        Leace(),
        Inlp(),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def blobs(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 150)
    return rng.normal(size=(150, 4)) * [1, 5, 0.2, 3] + np.eye(4)[y] * 2, y


def test_logistic_probe_is_logistic_regression():
    X, y = blobs()
    Z = StandardScaler().fit_transform(X)
    best = LogisticRegression(C=0.25, solver="newton-cholesky", tol=1e-11, max_iter=500).fit(Z, y)
    probe = LogisticProbe(l2=4.0, tol=1e-13).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), best.predict_proba(Z), atol=1e-6)
    np.testing.assert_allclose(probe.decision_function(X).argmax(1), best.predict(Z))
    assert probe.converged_
    assert probe.gradient_norm_ < 1e-3
    assert probe.coef_.shape == (3, 4)


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 2]), np.array(["x", "yy", "z"]), np.array([False, True, True])]
)
def test_logistic_probe_comes_back_from_disk(tmp_path, labels):
    X, y = blobs()
    probe = LogisticProbe(l2=2.0, max_iter=77).fit(X, labels[y])
    path = probe.save(tmp_path / "probe.safetensors")
    again = LogisticProbe.load(path)
    assert again.get_params() == probe.get_params()
    assert again.classes_.dtype == probe.classes_.dtype
    np.testing.assert_array_equal(again.predict_proba(X), probe.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))
    assert (again.objective_, again.converged_) == (probe.objective_, probe.converged_)
    with safe_open(str(path), framework="np") as file:
        assert json.loads(file.metadata()["layerscope"])["kind"] == "LogisticProbe"
    assert [p.name for p in tmp_path.iterdir()] == ["probe.safetensors"]
    (tmp_path / "other").touch()
    # read by whom the user's other files are
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("outputs", [1, 3])
def test_ridge_probe_is_the_closed_form_and_comes_back(tmp_path, outputs):
    X, _ = blobs(1)
    Y = np.random.default_rng(2).normal(size=(150, outputs)) + X[:, :1]
    Y = Y[:, 0] if outputs == 1 else Y
    Z = StandardScaler().fit_transform(X)
    probe = RidgeProbe(l2=7.0).fit(X, Y)
    np.testing.assert_allclose(probe.predict(X), Ridge(alpha=7.0).fit(Z, Y).predict(Z), atol=1e-10)
    assert probe.gradient_norm_ < 1e-9
    again = RidgeProbe.load(probe.save(tmp_path / "ridge.safetensors"))
    np.testing.assert_array_equal(again.predict(X), probe.predict(X))


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="saved LogisticProbe"):
        LogisticProbe.load(tmp_path / "nothing")
    X, y = blobs()
    path = RidgeProbe().fit(X, y).save(tmp_path / "ridge")
    with pytest.raises(ValueError, match=r"expected a saved LogisticProbe in .*, got 'RidgeProbe'"):
        LogisticProbe.load(path)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a safetensors file"):
        RidgeProbe.load(tmp_path / "junk")


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path):
    X, y = blobs()
    path = LogisticProbe().fit(X, y).save(tmp_path / "probe")
    before = path.read_bytes()
    broken = LogisticProbe().fit(X, y)
    broken.objective_ = float("nan")
    with pytest.raises(ValueError, match="must be JSON values"):
        broken.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_not_finite_names_the_place():
    X, y = blobs()
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 150 rows, first at row 3, column 1"):
        LogisticProbe().fit(X, y)


def test_tensors_without_dense_values_are_one_line():
    X, y = torch.randn(12, 3), ["a", "b"] * 6
    for given, got in ((X.to("meta"), "device meta"), (X.to_sparse(), "layout torch.sparse_coo")):
        with pytest.raises(InputError, match=f"expected a dense tensor .*{got}"):
            LogisticProbe().fit(given, y)
    with pytest.raises(InputError, match="expected features whose squares are finite"):
        LDAProbe().fit(X * 1e30, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b", "c"], "y: expected numbers, got 'a' in row 0"),
        ([1.0, 2, "3"], "y: expected numbers, got '3' in row 2"),
    ],
)
def test_labels_are_no_numbers(y, message):
    with pytest.raises(InputError, match=message):
        RidgeProbe().fit(np.eye(3), y)
