"""Networks: what a linear map cannot read, what a rank cannot hold,
and the same result alone or beside others.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes import LowRankProbe, MLPProbe, networks_many
from probes.networks import _initial, _Networks
from probes.training import Schedule, by_autograd, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2000, 8))
XOR = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
LINEAR = (X @ RNG.normal(size=(8, 5))).argmax(1)


def scores(fits, targets):
    return {
        key: float((fit.predict(X[1500:]) == targets[key[0]][1500:]).mean())
        for key, fit in fits.items()
    }


def test_a_hidden_layer_reads_what_is_not_linear() -> None:
    targets = {"xor": XOR, "linear": LINEAR}
    train = {name: labels[:1500] for name, labels in targets.items()}
    fits = networks_many(X[:1500], train, 64, seeds=(0, 1), epochs=60, batch=64, rate=3e-3)
    found = scores(fits, targets)
    assert min(found.values()) > 0.9
    assert all(fit.stationary for fit in fits.values())
    flat = scores(
        networks_many(X[:1500], train, 8, "none", epochs=60, batch=64, rate=1e-2), targets
    )
    assert flat["linear", 0] > 0.9
    assert flat["xor", 0] < 0.6  # a linear map of any rank


def test_a_rank_below_the_classes_is_not_enough() -> None:
    train = {"linear": LINEAR[:1500]}
    found = {
        rank: scores(
            networks_many(X[:1500], train, rank, "none", epochs=60, batch=64, rate=1e-2),
            {"linear": LINEAR},
        )
        for rank in (1, 4)
    }
    assert found[4]["linear", 0] > 0.9
    assert found[1]["linear", 0] < 0.7
    (fit,) = networks_many(X[:1500], train, 2, "none", epochs=3).values()
    U, a, V, b = fit.weights
    Z = (torch.from_numpy(X).float() - fit.mean) / fit.scale
    expected = torch.log_softmax(Z @ (V @ U).T + b, 1)
    torch.testing.assert_close(fit.log_proba(X).float(), expected, atol=1e-5, rtol=1e-5)
    assert not a.any()


def test_beside_others_a_network_is_the_same() -> None:
    alone = networks_many(X, {"xor": XOR}, 16, epochs=4)["xor", 0]
    beside = networks_many(X, {"linear": LINEAR, "xor": XOR}, 16, seeds=(0, 7), epochs=4)
    torch.testing.assert_close(
        alone.log_proba(X), beside["xor", 0].log_proba(X), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(alone.log_proba(X), beside["xor", 7].log_proba(X), atol=1e-2)


def test_one_step_is_adams() -> None:
    """The first pass over one batch, against torch's own optimiser and layers."""
    dev = (X[:10], {"xor": XOR[:10]})
    (fit,) = networks_many(X, {"xor": XOR}, 4, dev=dev, epochs=1, batch=2000, rate=1e-2).values()
    generator = torch.Generator().manual_seed(0)
    parts = [((4, 8), 8), ((4,), 8), ((2, 4), 4), ((2,), 4)]
    weights = [(torch.rand(s, generator=generator) * 2 - 1) / f**0.5 for s, f in parts]
    weights = [w.requires_grad_() for w in weights]
    optimiser = torch.optim.Adam(weights, lr=1e-2)
    Z = torch.from_numpy((X - X.mean(0)) / X.std(0)).float()
    y = torch.from_numpy(np.unique(XOR, return_inverse=True)[1])
    logits = (Z @ weights[0].T + weights[1]).relu() @ weights[2].T + weights[3]
    torch.nn.functional.cross_entropy(logits, y).backward()
    optimiser.step()
    for ours, theirs in zip(fit.weights, weights, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=1e-3)


def test_estimators_say_what_they_did() -> None:
    probe = MLPProbe(hidden=32, max_iter=2).fit(X, XOR)
    assert (probe.n_iter_, probe.stationary_) == (2, False)
    np.testing.assert_array_equal(
        probe.predict(X), MLPProbe(hidden=32, max_iter=2).fit(X, XOR).predict(X)
    )
    assert LowRankProbe(3, max_iter=2).fit(X, LINEAR).fit_.weights[0].shape == (3, 8)
    with pytest.raises(
        ValueError, match="target 'y': expected at least 2 classes, got one class: 'a'"
    ):
        networks_many(X[:3], {"y": ["a", "a", "a"]})


def test_rows_that_are_not_finite_are_refused_and_never_count_as_stationary() -> None:
    dev = X[:10].copy()
    dev[3, 1] = np.nan
    with pytest.raises(
        ValueError,
        match="dev must be finite, got NaN or infinity in 1 of 10 rows, first at row 3, column 1",
    ):
        networks_many(X, {"xor": XOR}, 4, dev=(dev, {"xor": XOR[:10]}))
    with pytest.raises(
        ValueError, match=r"target 'xor' has no dev labels, got them for \['other'\]"
    ):
        networks_many(X, {"xor": XOR}, 4, dev=(X[:10], {"other": XOR[:10]}))
    held = torch.tensor([1.0, torch.nan])
    slopes = by_autograd(lambda w, rows: (w[0] ** 2).sum(1))
    rows = [torch.ones(2, 1)], slopes, lambda w: held, 4
    found = train(*rows, Schedule(0.1, epochs=20, batch=4), torch.Generator())
    assert found.stationary.tolist() == [True, False]
    published = train(*rows, Schedule(0.1, epochs=20, batch=4, returns=False), torch.Generator())
    assert published.stationary.tolist() == [False, False]  # its steps vanish, which proves nothing


def test_a_schedule_that_returns_ends_at_the_bottom_of_a_known_bowl() -> None:
    """Two ill-conditioned quadratics:
    the one whose rate falls to nothing on the way is not called stationary.
    """
    curvature = torch.tensor([1.0, 100.0])

    def loss(w, rows=None):
        return 1.0 + (curvature * (w[0] - 3.0) ** 2).sum(1)

    start = [torch.zeros(1, 2)]
    whole = Schedule(0.1, epochs=500, batch=4, gain=1e-6, patience=3, cut=0.1, stalls=3)
    found = train(start, by_autograd(loss), loss, 4, whole, torch.Generator())
    assert found.stationary.item()
    torch.testing.assert_close(found.weights[0], torch.full((1, 2), 3.0), atol=2e-3, rtol=0)
    cut_short = train(
        start, by_autograd(loss), loss, 4, Schedule(0.1, epochs=10, batch=4), torch.Generator()
    )
    assert not cut_short.stationary.item()
    assert cut_short.lowest.item() > 2


def test_networks_come_back_from_disk(tmp_path) -> None:
    for probe in (MLPProbe(hidden=8, max_iter=2, seed=3), LowRankProbe(2, max_iter=2)):
        probe.fit(X, XOR)
        again = type(probe).load(probe.save(tmp_path / "probe", about={"site": "s"}))
        np.testing.assert_array_equal(again.predict_log_proba(X), probe.predict_log_proba(X))
        np.testing.assert_array_equal(again.predict(X), probe.predict(X))
        for name in ("n_iter_", "stationary_", "n_features_in_"):
            assert getattr(again, name) == getattr(probe, name)
        assert (again.fit_.activation, again.fit_.dev_loss) == (
            probe.fit_.activation,
            probe.fit_.dev_loss,
        )
        assert (again.get_params(), again.about_) == (probe.get_params(), {"site": "s"})


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_the_gradient_is_that_of_autograd(activation):
    sizes, n_rows = [2, 5, 3], 11
    networks = _Networks(sizes, activation, torch.device("cpu"))
    weights = _initial([0, 1, 2], 7, 4, sizes, torch.device("cpu"))
    rows = torch.randn(n_rows, 7)
    labels = torch.stack([torch.randint(size, (n_rows,)) for size in sizes])
    leaves = [w.clone().requires_grad_() for w in weights]
    expected = torch.autograd.grad(networks.losses(leaves, rows, labels).sum(), leaves)
    for ours, theirs in zip(networks.slopes(weights, rows, labels), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
