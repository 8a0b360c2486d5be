"""Probes from class means, against scikit-learn's discriminant analysis and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes import LDAProbe, MeanDifferenceProbe, Moments


def blobs(n: int = 400, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    return rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + 1.5 * np.eye(5)[y], np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_corrected_mean_difference_is_discriminant_analysis(classes: int) -> None:
    X, y = blobs(classes=classes)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    np.testing.assert_allclose(
        MeanDifferenceProbe(covariance=True).fit(X, y).predict_proba(X), theirs.predict_proba(X), atol=1e-12
    )


def test_shrinkage_is_scikit_learns() -> None:
    X, y = blobs()
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(X, y)
    np.testing.assert_allclose(LDAProbe(0.3).fit(X, y).predict_proba(X), theirs.predict_proba(X), atol=1e-12)
    few = LDAProbe().fit(X[:12], y[:12])
    assert LDAProbe().fit(X, y).shrinkage_ < few.shrinkage_ < 1  # the fewer the rows, the more it shrinks
    with pytest.raises(ValueError, match="expected 'ledoit-wolf' or a number from 0 to 1, got 2"):
        LDAProbe(2).fit(X, y)


def test_the_plain_mean_difference_cuts_at_the_midpoint() -> None:
    X, y = blobs(classes=2)
    probe = MeanDifferenceProbe().fit(X, y)
    means = np.stack([X[y == c].mean(0) for c in ("a", "b")])
    np.testing.assert_allclose(probe.coef_[1] - probe.coef_[0], means[1] - means[0])
    assert probe.decision_function(means.mean(0, keepdims=True))[0] == pytest.approx(0, abs=1e-12)


def test_probes_come_back_from_disk(tmp_path) -> None:
    X, y = blobs()
    probe = LDAProbe().fit(X, y)
    again = LDAProbe.load(probe.save(tmp_path / "probe", about={"site": "s"}))
    assert (again.shrinkage_, again.about_) == (probe.shrinkage_, {"site": "s"})
    np.testing.assert_array_equal(again.predict_proba(X), probe.predict_proba(X))


def test_moments_are_the_same_in_parts_and_far_from_the_origin() -> None:
    X, y = blobs()
    X += 1e6  # sums of squares would lose everything
    whole, parts = Moments().update(X, y.tolist()), Moments()
    other = Moments().update(X[250:], y[250:].tolist())
    for rows in (slice(0, 3), slice(3, 100), slice(100, 250)):
        parts.update(X[rows], y[rows].tolist())
    parts.merge(other).merge(Moments())
    centred = X - X.mean(0)
    for found in (whole, parts):
        assert found.n == len(X)
        np.testing.assert_allclose(found.total().numpy(), centred.T @ centred, rtol=1e-9, atol=1e-6)
        for c, n, mean in zip(*found.sorted(), strict=True):
            assert int(n) == (y == c).sum()
            np.testing.assert_allclose(mean.numpy(), X[y == c].mean(0), rtol=1e-12)
    single = Moments().update(torch.from_numpy(X).float(), y.tolist())
    centred = X.astype(np.float32).astype(float) - X.astype(np.float32).astype(float).mean(0)
    np.testing.assert_allclose(single.total().numpy(), centred.T @ centred, rtol=1e-4, atol=0.5)


def test_moments_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected a label for each of 2 rows, got 1"):
        Moments().update(np.zeros((2, 1)), ["a"])
    with pytest.raises(ValueError, match="X has 2 features, but is expecting 1 features"):
        Moments().update(np.zeros((1, 1)), ["a"]).update(np.zeros((1, 2)), ["a"])
