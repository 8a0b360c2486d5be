"""Erasure: nothing linear is left, nothing more than needed is changed,
and the reference package's result.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes import Inlp, Leace, Moments, erased


def data(
    n: int = 600, d: int = 8, classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 + 2 * np.eye(d)[y], y


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_nothing_linear_is_left(classes: int) -> None:
    X, y = data(classes=classes)
    eraser = Leace().fit(X, y)
    after = eraser.transform(X)
    assert eraser.left_.shape == (8, classes - 1)
    covariance = (after - after.mean(0)).T @ np.eye(classes)[y] / len(y)
    assert np.abs(covariance).max() < 1e-12
    centred = after - after.mean(0)
    assert np.abs(LogisticRegression(C=1e4).fit(centred, y).coef_).max() < 1e-4
    # the same fit finds what is there
    assert np.abs(LogisticRegression(C=1e4).fit(X - X.mean(0), y).coef_).max() > 0.1
    np.testing.assert_allclose(eraser.transform(after), after, atol=1e-10)
    np.testing.assert_allclose(after.mean(0), X.mean(0), atol=1e-10)


def test_it_is_the_smallest_change_in_every_norm() -> None:
    """Against the other affine erasers that leave no covariance: an orthogonal projection,
    and oblique ones.
    """
    X, y = data(classes=2)
    centred, after = X - X.mean(0), Leace().fit_transform(X, y)
    gap = X[y == 1].mean(0) - X[y == 0].mean(0)
    rng = np.random.default_rng(1)
    for trial in range(20):
        read = gap if trial == 0 else rng.normal(size=8)
        other = X - np.outer(centred @ read, gap) / (read @ gap)
        assert np.abs(other[y == 1].mean(0) - other[y == 0].mean(0)).max() < 1e-9
        norm = np.eye(8) if trial < 10 else (half := rng.normal(size=(8, 8))) @ half.T
        cost = [np.einsum("nd,de,ne->", z - X, norm, z - X) for z in (after, other)]
        assert cost[0] <= cost[1] * (1 + 1e-9)


def test_it_equals_the_reference_package() -> None:
    reference = pytest.importorskip("concept_erasure")
    for classes in (2, 3, 5):
        X, y = data(classes=classes)
        fitter = reference.LeaceFitter(8, classes, shrinkage=False, dtype=torch.float64)
        fitter.update(
            torch.from_numpy(X), torch.eye(classes, dtype=torch.float64)[torch.from_numpy(y)]
        )
        theirs = fitter.eraser(torch.from_numpy(X)).numpy()
        np.testing.assert_allclose(Leace().fit_transform(X, y), theirs, atol=1e-10)


def test_a_rare_class_is_erased_too() -> None:
    """Five rows in five thousand: their cross-covariance is small, and is erased all the same."""
    rng = np.random.default_rng(0)
    y = (np.arange(5000) < 5).astype(int)
    X = rng.normal(size=(5000, 20))
    X[:5, 0] += 3
    after = Leace().fit_transform(X, y)
    assert np.abs(after[:5].mean(0) - after[5:].mean(0)).max() < 1e-10
    assert np.abs(X[:5].mean(0) - X[5:].mean(0)).max() > 2


def test_without_information_nothing_is_erased() -> None:
    X = np.repeat(np.random.default_rng(0).normal(size=(50, 4)), 2, axis=0)
    eraser = Leace().fit(X, [0, 1] * 50)  # both classes hold the same rows
    assert eraser.left_.shape == (4, 0)
    np.testing.assert_array_equal(eraser.transform(X), X)


def test_parts_give_the_same_as_the_whole() -> None:
    X, y = data()
    parts = Leace()
    for rows in (slice(0, 100), slice(100, 130), slice(130, 600)):
        parts.partial_fit(X[rows], y[rows])
    np.testing.assert_allclose(parts.transform(X), Leace().fit_transform(X, y), atol=1e-10)


def test_a_tensor_is_erased_in_its_type_and_in_the_graph() -> None:
    X, y = data()
    eraser = Leace().fit(X, y)
    x = torch.from_numpy(X).view(2, 300, 8).requires_grad_()
    out = eraser.erase(x)
    np.testing.assert_allclose(out.detach().view(600, 8).numpy(), eraser.transform(X), atol=1e-12)
    out.sum().backward()
    assert x.grad is not None
    assert eraser.erase(x.detach().bfloat16()).dtype == torch.bfloat16


def test_inlp_leaves_no_linear_probe_above_the_majority() -> None:
    X, y = data(2000)
    eraser = Inlp().fit(X, y)
    basis = eraser.left_
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    assert np.abs((eraser.transform(X) - eraser.mean_) @ basis).max() < 1e-10
    assert eraser.scores_[0] > 0.6
    assert eraser.scores_[-1] < np.bincount(y).max() / len(y) + 0.01
    proof = erased(eraser, X[:1500], y[:1500], X[1500:], y[1500:])
    assert proof["linear_before"] > 0.6
    assert proof["linear"] < proof["majority"] + 0.05


def test_what_is_not_linear_is_said_to_be_left() -> None:
    """The label is the sign of a product and shifts one direction: erasure takes the shift,
    a network reads the product.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 6)).astype(np.float32)
    X[:, 2:] *= 0.5
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    X[:, 2] += y
    proof = erased(Leace().fit(X[:3000], y[:3000]), X[:3000], y[:3000], X[3000:], y[3000:])
    assert proof["gap"] < 1e-6
    assert proof["linear_before"] > 0.75
    assert proof["linear"] < 0.56
    assert proof["mlp"] > 0.85


def test_the_majority_is_not_cut_to_the_width_of_the_test_labels() -> None:
    X, _ = data(60)
    y = ["noun"] * 40 + ["no"] * 20
    assert erased(Leace().fit(X, y), X, y, X[40:], ["no"] * 20)["majority"] == 0
    assert erased(Leace().fit(X, y), X, y, X[20:], y[20:])["majority"] == 0.5


def test_labels_of_any_kind_keep_it() -> None:
    X, _ = data(40)
    for labels in ([1, "b"], [(1, 2), (3, 4)]):
        eraser = Leace().fit_moments(Moments().update(X, labels * 20))
        assert eraser.classes_.tolist() == labels
        own = torch.from_numpy(np.stack([X[i::2].mean(0) for i in (0, 1)]))
        # a class's mean is pushed to where it was
        for label, mean in zip(labels, own, strict=True):
            torch.testing.assert_close(eraser.push(mean, label), mean)


def test_erasers_come_back_whole_and_take_no_further_rows(tmp_path) -> None:
    X, y = data()
    for eraser in (Leace().fit(X, y), Inlp(max_iter=3).fit(X, y)):
        again = type(eraser).load(eraser.save(tmp_path / "eraser"))
        np.testing.assert_array_equal(again.transform(X), eraser.transform(X))
        assert again.n_features_in_ == 8
        if isinstance(again, Inlp):
            assert (again.scores_, again.n_iter_) == (eraser.scores_, eraser.n_iter_)
        else:
            with pytest.raises(
                ValueError, match="expected a Leace fitted here, got one read from a file"
            ):
                again.partial_fit(X, y)
    with pytest.raises(ValueError, match="expected strings, numbers or booleans"):
        Leace().fit_moments(Moments().update(X[:4], [(1, 2), (3, 4)] * 2)).save(tmp_path / "tuples")


@pytest.mark.parametrize("n_classes", [2, 100])
def test_moments_of_rows_far_from_zero_are_those_in_float64(n_classes: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, n_classes, 3000)
    # Class means far from 0 and from each other: sums in float32 would lose these digits.
    centres = 1000 + 30 * rng.normal(size=(n_classes, 5))
    X = (centres[labels] + rng.normal(size=(3000, 5))).astype(np.float32)
    exact = X.astype(np.float64)
    means = np.stack([exact[labels == c].mean(0) for c in range(n_classes)])
    left = exact - means[labels]

    moments = Moments().update(X, labels.tolist())
    np.testing.assert_allclose(moments.sorted()[2].numpy(), means, rtol=2e-7)
    np.testing.assert_allclose(moments.within.numpy(), left.T @ left, rtol=1e-4, atol=0.5)
