"""Rows on disk: they come back as they went, and a solve of them ends where one in memory does."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest
import torch

from probes import Design, fit_many
from probes.design import NonFiniteError
from probes.ridge import ridge_many
from probes.rows import BLOCK, OnDisk

N, D = 20_000, 30


@pytest.fixture(scope="module")
def data():
    """Correlated features far from 0, one of them constant, and the labels of two tasks."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, D, generator=generator) @ torch.randn(D, D, generator=generator) * 0.3 + 5
    X[:, 3] = 2.5
    uniform = torch.rand(N, 10, generator=generator)
    noise = -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))
    logits = X @ torch.randn(D, 10, generator=generator) * 0.2 + noise
    return X, {"seven": logits[:, :7].argmax(1).numpy(), "three": logits[:, 7:].argmax(1).numpy()}


def on_disk(X, hold=1 << 20):
    rows = OnDisk(tuple(X.shape), hold=hold)
    for some in torch.randperm(len(X), generator=torch.Generator().manual_seed(1)).split(3000):
        rows[some] = X[some]  # in any order, as shards hold them
    return rows


def test_rows_come_back(data):
    X, _ = data
    rows = on_disk(X)
    assert torch.equal(rows[:], X)
    assert torch.equal(rows[BLOCK - 5 : BLOCK + 7], X[BLOCK - 5 : BLOCK + 7])
    some = torch.tensor([N - 1, 0, BLOCK, BLOCK - 1, 5, 5])
    assert torch.equal(rows[some], X[some])
    assert rows[some[:0]].shape == (0, D)
    assert torch.equal(torch.cat([rows[part] for part in rows.blocks()]), X)
    assert rows.like(2, 3).shape == (2, 3)
    for places, values in (
        (slice(N - 1, None), X[:2]),
        (slice(0, 1), X[:3]),
        (torch.tensor([4]), X[:2]),
    ):
        with pytest.raises(ValueError, match="expected 1 rows of 30, got"):
            rows[places] = values
    with pytest.raises(ValueError, match=f"expected rows from 0 to {N - 1}, got {N} to {N}"):
        rows[torch.tensor([N])] = X[:1]
    for use in (lambda: rows[::2], lambda: rows.__setitem__(slice(0, 4, 2), X[:2])):
        with pytest.raises(ValueError, match="expected a slice of neighbouring rows, got step 2"):
            use()
    assert torch.equal(rows[:], X)  # none of it was written


def test_a_file_is_closed_with_its_rows_and_a_folder_that_is_not_there_is_one_error(
    tmp_path, monkeypatch
):
    rows = OnDisk((1, 1))
    descriptor = rows._file.descriptor
    os.fstat(descriptor)
    del rows
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    unraised = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    with pytest.raises(FileNotFoundError):
        OnDisk((1, 1), str(tmp_path / "missing"))
    gc.collect()
    assert not unraised


def test_the_gram_matrix_of_one_pass(data):
    X, _ = data
    design, known = Design(on_disk(X)), X.double().numpy()
    np.testing.assert_allclose(design.mean, known.mean(0), rtol=1e-9)
    scale = known.std(0)
    scale[3] = 1
    np.testing.assert_allclose(design.scale, scale, rtol=1e-7)
    values = np.linalg.eigvalsh(N * np.corrcoef(np.delete(known, 3, 1).T))
    np.testing.assert_allclose(design.eigenvalues[:-1], values, rtol=1e-4)


@pytest.mark.parametrize("hold", [1 << 20, 1 << 28], ids=["few rows sampled", "all rows sampled"])
def test_the_optimum_is_that_in_memory(data, hold):
    X, labels = data
    dev = {name: y[:2000] for name, y in labels.items()}
    path, tol = (1000.0, 100.0), 1e-7
    known = fit_many(X, labels, path, dev=(X[:2000], dev), tol=tol)
    design = Design(on_disk(X, hold))
    assert (design.sample_limit(14) < N) == (hold == 1 << 20)
    found = fit_many(design, labels, path, dev=(on_disk(X[:2000]), dev), tol=tol)
    for name, fit in found.items():
        assert fit.converged
        assert fit.l2 == known[name].l2
        assert fit.objective == pytest.approx(known[name].objective, rel=1e-6)
        assert torch.allclose(fit.coef, known[name].coef, atol=2e-3)
        assert torch.equal(fit.log_proba(on_disk(X[:50])), fit.log_proba(X[:50]))
    # Not the code itself: the gradient of the objective, in float64.
    fit, y = found["three"], torch.from_numpy(labels["three"])
    Z = ((X.double() - design.mean) / design.scale)[:, design.scale != 1]
    residual = fit.log_proba(X).exp() - torch.nn.functional.one_hot(y, 3)
    slope = Z.T @ residual + fit.l2 * (fit.coef * design.scale)[:, design.scale != 1].T
    assert float(slope.norm()) ** 2 / (2 * fit.l2) < 1e-5 * fit.objective


def test_ridge_of_rows_on_disk(data):
    X, _ = data
    y = {"number": (X @ torch.arange(D).float()).numpy()}
    known = ridge_many(X, y, (10.0, 1.0), dev=(X[:99], {"number": y["number"][:99]}))["number"]
    found = ridge_many(
        on_disk(X), y, (10.0, 1.0), dev=(on_disk(X[:99]), {"number": y["number"][:99]})
    )["number"]
    assert found.l2 == known.l2
    np.testing.assert_allclose(found.predict(on_disk(X)), known.predict(X), rtol=1e-4)


def test_few_rows_of_many_features_and_rows_that_are_not_finite(data):
    X, labels = data
    few = {"three": labels["three"][:20]}
    known, found = (fit_many(rows, few, 1.0)["three"] for rows in (X[:20], on_disk(X[:20])))
    assert found.objective == pytest.approx(known.objective, rel=1e-6)
    bad = on_disk(X)
    bad[torch.tensor([9000])] = torch.full((1, D), float("nan"))
    with pytest.raises(NonFiniteError, match="first at row 9000, column 0"):
        Design(bad)
