"""Scalings against planted ones, a grid and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import softmax
from sklearn.isotonic import IsotonicRegression

from probes.calibration import CalibrationError, ece, nll, top_label
from probes.scaling import SCALINGS, IsotonicScaling, TemperatureScaling, VectorScaling, as_logits


def world(n: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, classes))
    return z, (z + rng.gumbel(size=z.shape)).argmax(1)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found_to_one_percent(planted: float) -> None:
    z, y = world(100_000)
    found = TemperatureScaling().fit(planted * z, y)
    assert found.temperature_[0] == pytest.approx(planted, rel=0.01)
    assert found.converged_


def test_the_temperature_is_the_best_of_a_fine_grid_and_mends_what_was_overconfident() -> None:
    z, y = world(3000, seed=1)
    hot, test = 3 * z[:1500], 3 * z[1500:]
    found = TemperatureScaling().fit(hot, y[:1500])
    grid = np.linspace(1, 6, 2001)
    losses = [nll(softmax(hot / t), y[:1500]).mean() for t in grid]
    assert found.temperature_[0] == pytest.approx(grid[int(np.argmin(losses))], abs=0.003)
    before, after = (
        ece(*top_label(P, y[1500:])) for P in (softmax(test), found.predict_proba(test))
    )
    assert before > 0.1
    assert after < 0.05
    assert (found.predict_proba(test).argmax(1) == test.argmax(1)).all()


def test_a_planted_vector_scaling_is_found() -> None:
    z, y = world(60_000, 3)
    w, b = np.array([0.5, 1.0, 2.0]), np.array([0.8, 0.0, -0.8])
    z = z - z.mean(1, keepdims=True)
    y = (w * z + b + np.random.default_rng(5).gumbel(size=z.shape)).argmax(1)
    found = VectorScaling().fit(z, y)
    assert found.weight_ == pytest.approx(w, abs=0.05)
    assert found.bias_ - found.bias_.mean() == pytest.approx(b, abs=0.05)
    absent = VectorScaling().fit(z[y > 0], y[y > 0])  # a class without validation rows stays finite
    assert np.isfinite(absent.predict_proba(z)).all()
    assert absent.converged_


def test_isotonic_equals_scikit_learns_for_two_classes_and_normalises() -> None:
    z, y = world(2000, 2)
    p = softmax(z)
    found = IsotonicScaling().fit(z, y).predict_proba(z[:300])
    expected = IsotonicRegression(out_of_bounds="clip").fit(p[:, 1], y == 1).predict(p[:300, 1])
    assert found[:, 1] == pytest.approx(expected, abs=1e-9)
    z, y = world(500, 4, 2)
    many = IsotonicScaling().fit(z, y).predict_proba(world(500, 4, 3)[0])
    assert many.sum(1) == pytest.approx(np.ones(500))
    assert (many >= 0).all()


@pytest.mark.parametrize("name", SCALINGS)
def test_files_give_the_same_probabilities(name: str, tmp_path: Path) -> None:
    z, y = world(400, 3)
    found = SCALINGS[name]().fit(z, y)
    again = type(found).load(found.save(tmp_path / "scaling.safetensors"))
    assert (again.predict_proba(z) == found.predict_proba(z)).all()
    assert (again.converged_, again.n_rows_) == (found.converged_, 400)


def test_what_cannot_be_fitted_is_flagged_or_refused() -> None:
    z, _ = world(200, 3)
    assert not TemperatureScaling().fit(z, z.argmax(1)).converged_  # separated: ever colder
    assert not TemperatureScaling().fit(z, z.argmin(1)).converged_  # always wrong: ever hotter
    for logits, labels, message in (
        (np.full((3, 2), np.nan), [0, 1, 0], "expected finite logits"),
        (z, np.full(200, 3), "expected labels from 0 to 2, got 3 to 3"),
    ):
        with pytest.raises(CalibrationError, match=message):
            TemperatureScaling().fit(logits, np.array(labels))
    assert np.isfinite(as_logits(np.array([[0.0, 1.0]]))).all()
