"""Probes from class means, against scikit-learn's discriminant analysis and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from layerscope.errors import InputError
from probes import LDAProbe, LogisticProbe, MeanDifferenceProbe, Moments, RidgeProbe


def blobs(n: int = 400, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    return rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + 1.5 * np.eye(5)[y], np.array(
        ["a", "b", "c"]
    )[y]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_corrected_mean_difference_is_discriminant_analysis(classes: int) -> None:
    X, y = blobs(classes=classes)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    np.testing.assert_allclose(
        MeanDifferenceProbe(covariance=True).fit(X, y).predict_proba(X),
        theirs.predict_proba(X),
        atol=1e-12,
    )


def test_shrinkage_is_scikit_learns() -> None:
    """Theirs of features divided by their deviation within the classes,
    where shrinking to the mean variance is ours.
    """
    X, y = blobs()
    within = np.concatenate([X[y == c] - X[y == c].mean(0) for c in np.unique(y)]).std(0)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(X / within, y)
    ours = LDAProbe(0.3).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X / within), atol=1e-10)
    few = LDAProbe().fit(X[:12], y[:12])
    assert (
        LDAProbe().fit(X, y).shrinkage_ < few.shrinkage_ < 1
    )  # the fewer the rows, the more it shrinks
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
    means = MeanDifferenceProbe.load(
        MeanDifferenceProbe().fit(X, y).save(tmp_path / "means")
    ).means_
    np.testing.assert_allclose(means, [X[y == c].mean(0) for c in "abc"])


@pytest.mark.parametrize("probe", [MeanDifferenceProbe(), LDAProbe(0.3)])
def test_a_probe_from_disk_has_forgotten_its_rows_and_takes_no_more(tmp_path, probe) -> None:
    X, y = blobs()
    again = type(probe).load(probe.fit(X, y).save(tmp_path / "probe"))
    with pytest.raises(ValueError, match="fitted here, got one read from a file"):
        again.partial_fit(X, y)
    assert again.fit(X[:300], y[:300]).partial_fit(X[300:], y[300:]).moments_.n == 400


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


PARTS = (slice(0, 40), slice(40, 41), slice(41, 400))


@pytest.mark.parametrize(
    "probe", [MeanDifferenceProbe(), MeanDifferenceProbe(covariance=True), LDAProbe(0.3)]
)
def test_rows_in_parts_are_rows_at_once(probe: MeanDifferenceProbe | LDAProbe) -> None:
    X, y = blobs()
    whole = clone(probe).fit(X, y)
    for rows in PARTS:
        probe.partial_fit(X[rows], y[rows])
    np.testing.assert_allclose(probe.predict_proba(X), whole.predict_proba(X), atol=1e-10)
    assert probe.moments_.n == 400
    assert clone(probe).fit(X[:300], y[:300]).moments_.n == 300  # fit begins anew


def test_ledoit_wolf_needs_all_rows() -> None:
    X, y = blobs()
    assert hasattr(LDAProbe(0.5), "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        LDAProbe().partial_fit(X, y)


@pytest.mark.parametrize("outputs", [1, 2])
def test_ridge_in_parts_is_scikit_learns(outputs: int) -> None:
    X, _ = blobs()
    X = np.column_stack([X * [1, 30, 1, 1, 0.01], np.full(len(X), 3.0)])  # one feature says nothing
    Y = (X @ np.random.default_rng(1).normal(size=(6, outputs)) + 5).squeeze()
    probe = RidgeProbe(l2=20.0)
    for rows in PARTS:
        probe.partial_fit(X[rows], Y[rows])
    Z = StandardScaler().fit_transform(X)
    theirs = Ridge(alpha=20.0).fit(Z, Y)
    np.testing.assert_allclose(probe.predict(X), theirs.predict(Z), atol=1e-9)
    loss = ((Y - theirs.predict(Z)) ** 2).sum() + 20 * (theirs.coef_**2).sum()
    assert probe.objective_ == pytest.approx(loss, rel=1e-9)
    assert probe.coef_.shape == ((6,) if outputs == 1 else (2, 6))
    np.testing.assert_allclose(
        RidgeProbe(l2=20.0).fit(X, Y).predict(X), probe.predict(X), atol=1e-9
    )


def test_principal_components_are_scikit_learns() -> None:
    X, y = blobs()
    moments = (
        Moments()
        .update(X[:100], y[:100].tolist())
        .merge(Moments().update(X[100:], y[100:].tolist()))
    )
    values, directions = moments.principal(3)
    theirs = PCA(3).fit(X)
    np.testing.assert_allclose(values, theirs.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(
        (theirs.components_ @ directions.numpy()).__abs__(), np.eye(3), atol=1e-8
    )
    with pytest.raises(ValueError, match="expected 1 to 5 components"):
        moments.principal(6)


def test_a_large_feature_that_says_nothing_changes_nothing() -> None:
    """scikit-learn standardises before it shrinks; a probe that does not is at chance here."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 30))
    y = (X[:, 0] + 0.5 * rng.normal(size=400) > 0).astype(int)
    large = X * np.where(np.arange(30) == 7, 1e4, 1.0)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(large, y)
    for probe in (LDAProbe(), LDAProbe(0.1)):
        assert probe.fit(large, y).score(large, y) >= theirs.score(large, y) - 0.02
        np.testing.assert_allclose(
            probe.predict_proba(large), type(probe)(**probe.get_params()).fit(X, y).predict_proba(X)
        )


@pytest.mark.parametrize(
    "probe", [LDAProbe(), MeanDifferenceProbe(), LogisticProbe(), RidgeProbe()]
)
def test_tensors_of_any_kind_are_rows(probe) -> None:
    X = torch.randn(40, 4).to(torch.bfloat16)
    y = (X[:, 0] > 0).long()
    expected = clone(probe).fit(X.float().numpy(), y.numpy()).predict(X.float().numpy())
    np.testing.assert_array_equal(
        clone(probe).fit(X.float().requires_grad_(), y).predict(X), expected
    )
    np.testing.assert_array_equal(
        clone(probe).fit(X, y).predict(X.float().requires_grad_()), expected
    )
    assert clone(probe).fit(X, y.tolist()).predict(X[:1]).shape == (1,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": [1]}, "params: expected an object of shrinkage, got"),
        ({"params": {"shrinkag": 1}}, "params: expected an object of shrinkage, got"),
        ({"classes": 5}, "classes: expected a list of labels, got 5"),
        ({"classes": ["a", "a", "b"]}, "classes: expected different labels"),
        ({"classes": ["a", "b"]}, "classes: expected 3 labels, got 2"),
        ({"classes_dtype": "<M8[s]"}, "classes_dtype: expected the type of labels, got '<M8"),
        ({"about": "me"}, "about: expected an object, got 'me'"),
        ({"schema": 2}, "schema: expected 1, got 2"),
        ({"kind": 7}, "expected a saved LDAProbe in"),
        (None, "header: expected JSON"),
        ("[" * 3000, "header: expected JSON"),
        ("3", "header: expected an object, got 3"),
    ],
)
def test_an_edited_header_is_one_line_with_its_path(tmp_path, change, message) -> None:
    path = LDAProbe().fit(*blobs()).save(tmp_path / "probe")
    with safe_open(str(path), framework="np") as file:
        header = json.loads(file.metadata()["layerscope"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = (
        change
        if isinstance(change, str)
        else "{"
        if change is None
        else json.dumps({**header, **change})
    )
    save_file(tensors, str(path), metadata={"layerscope": text})
    with pytest.raises(InputError) as error:
        LDAProbe.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_probe_without_its_tensors_is_one_line(tmp_path) -> None:
    path = LDAProbe().fit(*blobs()).save(tmp_path / "probe")
    with safe_open(str(path), framework="np") as file:
        metadata, coef = file.metadata(), file.get_tensor("coef")
    save_file({"intercept": coef[:, 0]}, str(path), metadata=metadata)
    with pytest.raises(InputError, match=r"probe: not a whole LDAProbe"):
        LDAProbe.load(path)
    save_file({"coef": coef * np.nan, "intercept": coef[:, 0]}, str(path), metadata=metadata)
    with pytest.raises(InputError, match=r"probe: coef: expected finite numbers"):
        LDAProbe.load(path)
