"""Scalar mixes against labels whose layer is known, and against a plain optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from probes import LogisticProbe
from probes.mixing import expected_layer, mix_many


def planted(n, layer, layers=4, d=6, seed=0, noise=0.05):
    """Noise at every layer, a linear rule at one."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(n, d, generator=generator) for _ in range(layers)]
    rule = torch.randn(d, 3, generator=torch.Generator().manual_seed(99))
    scores = values[layer] @ rule + noise * torch.randn(n, 3, generator=generator)
    return values, np.array(["a", "b", "c"])[scores.argmax(1).numpy()]


def test_the_mix_finds_the_layer_that_was_planted_and_cumulative_scores_jump_there():
    train, y = planted(2000, 2)
    dev, dev_y = planted(500, 2, seed=1)
    test, test_y = planted(1000, 2, seed=2)
    fits = mix_many(train, {"y": y}, (dev, {"y": dev_y}))
    whole = fits["y", 3]
    assert whole.mix.sum().item() == pytest.approx(1)
    assert whole.mix.argmax() == 2
    assert whole.mix[2] > 0.7
    assert 1.6 < whole.centre_of_gravity < 2.4
    assert 0 < whole.peakedness <= 2
    scores = np.array([np.mean(fits["y", k].predict(test) == test_y) for k in range(4)])
    assert scores[1] < 0.5
    assert scores[2] > 0.9
    assert expected_layer(scores) == pytest.approx(2, abs=0.15)


def joint_optimum(layers, index, l2, starts):
    """Least objective of weights, V and b together, by SciPy's L-BFGS from several weights."""
    Z = torch.stack(
        [(v.double() - v.double().mean(0)) / v.double().std(0, correction=0) for v in layers]
    )
    gold, c, (k, _, d) = torch.from_numpy(index), int(index.max()) + 1, Z.shape

    def objective(x):
        a, V, b = x[:k] ** 2, x[k : k + c * d].view(c, d), x[k + c * d :]
        hidden = torch.einsum("l,lnd->nd", a, Z)
        hidden = hidden / hidden.std(0, correction=0)
        loss = torch.nn.functional.cross_entropy(hidden @ V.T + b, gold, reduction="sum")
        return loss + l2 / 2 * V.square().sum()

    def value(x):
        x = torch.from_numpy(x).requires_grad_()
        loss = objective(x)
        (slope,) = torch.autograd.grad(loss, x)
        return loss.item(), slope.numpy()

    found = []
    for start in starts:
        first = np.r_[np.sqrt(start), np.zeros(c * d + c)]
        options = {"maxiter": 5000, "maxfun": 5000, "ftol": 1e-13, "gtol": 1e-9}
        found.append(minimize(value, first, jac=True, method="L-BFGS-B", options=options))
    best = min(found, key=lambda one: one.fun)
    weights = best.x[:k] ** 2
    return best.fun, weights / weights.sum()


@pytest.mark.parametrize("l2", [0.3, 30.0])
def test_a_mix_is_the_joint_optimum(l2):
    """Weights and regression solved together by SciPy in double precision."""
    generator = torch.Generator().manual_seed(5)
    shared = torch.randn(600, 5, generator=generator)
    layers = [shared + s * torch.randn(600, 5, generator=generator) for s in (1.5, 1.0, 0.8, 2.0)]
    scores = shared @ torch.randn(5, 4, generator=generator)
    index = (scores + torch.randn(600, 4, generator=generator)).argmax(1).numpy()
    dev = ([values[:50] for values in layers], {"y": index[:50]})
    fits = mix_many(layers, {"y": index}, dev, l2=(l2,))
    for top in range(4):
        k, fit = top + 1, fits["y", top]
        starts = [np.full(k, 1 / k), *(0.01 / k + 0.99 * np.eye(k))]
        least, weights = joint_optimum(layers[:k], index, l2, starts)
        assert fit.stationary
        assert fit.objective == pytest.approx(least, rel=1e-4)
        assert fit.mix.numpy() == pytest.approx(weights, abs=0.05)


def test_one_layer_is_a_logistic_probe():
    train, y = planted(1500, 0, layers=1, noise=1.5)
    dev, dev_y = planted(500, 0, layers=1, seed=1, noise=1.5)
    fit = mix_many(train, {"y": y}, (dev, {"y": dev_y}))["y", 0]
    assert fit.mix.tolist() == [1.0]
    assert fit.peakedness == 0
    probe = LogisticProbe(l2=1.0).fit(train[0].numpy(), y)
    assert np.mean(fit.predict(dev) == probe.predict(dev[0].numpy())) > 0.95


def test_a_target_is_trained_the_same_alone_and_beside_others():
    train, y = planted(300, 1)
    dev, dev_y = planted(100, 1, seed=1)
    other = np.array(["p", "q"])[np.arange(300) % 2]
    alone = mix_many(train, {"y": y}, (dev, {"y": dev_y}))
    beside = mix_many(train, {"y": y, "z": other}, (dev, {"y": dev_y, "z": other[:100]}))
    for top in range(4):
        torch.testing.assert_close(
            alone["y", top].weight, beside["y", top].weight, atol=1e-5, rtol=1e-4
        )


def test_expected_layer_is_the_published_quotient():
    scores = np.array([[0.4, 0.6, 0.9, 0.8], [0.5, 0.5, 0.5, 0.5]])
    gains = np.array([0.2, 0.3, -0.1])
    found = expected_layer(scores)
    assert found[0] == pytest.approx((gains * [1, 2, 3]).sum() / gains.sum())
    assert np.isnan(found[1])


def test_layers_of_other_shapes_and_single_classes_are_refused():
    train, y = planted(20, 0)
    with pytest.raises(ValueError, match="one shape"):
        mix_many([train[0], train[1][:10]], {"y": y}, (train, {"y": y}))
    with pytest.raises(ValueError, match="2 classes"):
        mix_many(train, {"y": ["a"] * 20}, (train, {"y": ["a"] * 20}))


def test_layers_that_are_not_finite_are_named():
    train, y = planted(20, 0)
    bad = [values.clone() for values in train]
    bad[2][5, 1] = torch.nan
    with pytest.raises(
        ValueError,
        match="layer 2 must be finite, got NaN or infinity in 1 of 20 rows, first at row 5",
    ):
        mix_many(bad, {"y": y}, (train, {"y": y}))
    with pytest.raises(ValueError, match="dev, layer 2, must be finite"):
        mix_many(train, {"y": y}, (bad, {"y": y}))
