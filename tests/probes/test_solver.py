"""The joint solve against scikit-learn's newton-cholesky, numerical gradients and known data."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes import Design, Fit, NonFiniteError, fit_many
from probes import newton as newton_module
from probes import solver as solver_module
from probes.certificate import gap_bound
from probes.curvature_sample import _systematic_sample
from probes.objective import Point


def softmax_data(n, d, c, seed, noise=3.0):
    """Labels from a softmax over random directions; the features have uneven variances."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    z = X @ rng.normal(size=(d, c))
    return X, (z + noise * rng.gumbel(size=z.shape)).argmax(1)


def objective(X, y, coef, intercept, l2):
    """Written out again, in NumPy and float64, on features that are already standardised."""
    z = X @ coef.T + intercept
    z = z - z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -log_p[np.arange(len(y)), y].sum() + l2 / 2 * (coef**2).sum()


def standardized_solution(fit: Fit, scaler: StandardScaler):
    coef = fit.coef.numpy() * scaler.scale_
    return coef, fit.intercept.numpy() + fit.coef.numpy() @ scaler.mean_


@pytest.mark.parametrize(
    ("n", "d", "c", "l2", "kind", "noise"),
    [
        (500, 20, 5, 1.0, np.float64, 3.0),
        (500, 20, 5, 1.0, np.float32, 3.0),
        (60, 100, 3, 1e-2, np.float64, 3.0),  # fewer rows than features
        (400, 10, 4, 1e-2, np.float64, 0.01),  # separable, weak penalty
        (400, 10, 4, 1e-2, np.float32, 0.01),
        (3000, 30, 7, 100.0, np.float32, 3.0),
        (12000, 15, 4, 1.0, np.float32, 3.0),  # the curvature is sampled
    ],
)
def test_objective_is_that_of_newton_cholesky(n, d, c, l2, kind, noise):
    X, y = softmax_data(n, d, c, seed=n + d, noise=noise)
    X = X.astype(kind)
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    best = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-9, max_iter=500).fit(Z, y)
    reference = objective(Z, y, best.coef_, best.intercept_, l2)
    fits = fit_many(X, {"real": y, "other": np.roll(y, 7)}, l2=l2)
    fit = fits["real"]
    assert fit.converged
    assert fits["other"].converged
    assert fit.objective <= reference * (1 + 1e-6)
    coef, intercept = standardized_solution(fit, scaler)
    assert objective(Z, y, coef, intercept, l2) == pytest.approx(fit.objective, rel=1e-7)
    assert np.abs(coef - best.coef_).max() < 5e-3


@pytest.mark.parametrize(
    ("n", "d", "l2", "size", "standardize"),
    [
        (20, 200, 1e-4, 1.0, True),
        (8, 50, 2e-5, 1.0, True),
        (20, 50, 1e-6, 1.0, True),
        (200, 20, 1e6, 1e6, False),
        (200, 20, 1e8, 1e6, False),
        (60, 40, 1e-12, 1e-6, False),
    ],
)
def test_weak_penalties_and_large_features_are_solved_in_single_precision(
    n, d, l2, size, standardize
):
    """Next to no curvature is left there: what rounding leaves of a gradient must stay out."""
    X, y = softmax_data(n, d, 3, seed=n, noise=0.01)
    X = (size * X).astype(np.float32)
    scaler = StandardScaler(with_std=standardize).fit(X.astype(np.float64))
    fit = fit_many(X, {"y": y}, l2=l2, standardize=standardize)["y"]
    assert fit.converged
    exact = fit_many(X.astype(np.float64), {"y": y}, l2=l2, standardize=standardize, tol=1e-10)["y"]
    assert fit.objective == pytest.approx(exact.objective, rel=2e-6)
    Z, scale = scaler.transform(X.astype(np.float64)), scaler.scale_ if standardize else 1.0
    coef, bias = fit.coef.numpy() * scale, fit.intercept.numpy() + fit.coef.numpy() @ scaler.mean_

    def loss(flat):
        table = torch.from_numpy(flat).view(3, -1).requires_grad_()
        logits = torch.from_numpy(Z) @ table[:, :-1].T + table[:, -1]
        value = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum")
        value = value + l2 / 2 * table[:, :-1].square().sum()
        value.backward()
        return value.item(), table.grad.numpy().ravel()

    at = np.column_stack([coef, bias]).ravel()
    assert loss(at)[0] == pytest.approx(fit.objective, rel=1e-6)
    # Another optimiser, from where this one ended, finds nothing that is left.
    further = minimize(loss, at, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    assert fit.objective <= further.fun * (1 + 1e-6)


def test_the_bound_holds_where_only_the_bias_is_away_from_its_optimum():
    """Rows that are sure leave a bias little curvature, far less than its class's count."""
    rng = np.random.default_rng(0)
    n, l2 = 40, 1e-2
    x = np.concatenate([rng.normal(-6, 1, n // 2), rng.normal(6, 1, n // 2)])
    Z = torch.from_numpy(np.column_stack([x - x.mean(), np.ones(n)]))
    Y = torch.tensor([[0]] * (n // 2) + [[1]] * (n // 2))
    l2s = torch.tensor([l2], dtype=torch.float64)

    def point(weights):
        W = torch.tensor(weights, dtype=torch.float64).view(2, 1, 2)
        return Point(Z, Y, W, l2s, block=n)

    def value(weights):
        at = point([-weights[0], weights[0], -weights[1], weights[1]])
        g = at.gradient[:, 0]
        return float(at.loss[0]), (g[:, 1] - g[:, 0]).numpy()

    best = minimize(value, [0.3, 0.0], jac=True, tol=1e-14)
    largest = float((Z[:, :-1] ** 2).sum())
    for shift in (0.01, 0.1, 0.5):
        b = best.x[1] + shift
        w = minimize(lambda w, b=b: value([w[0], b])[0], [best.x[0]], tol=1e-14).x[0]
        at = point([-w, w, -b, b])
        p = torch.softmax(Z @ at.W[:, 0], 1)
        curvature = (p * (1 - p)).sum(0)[None]
        left = float(at.loss[0]) - best.fun
        bound = gap_bound(at.gradient, curvature, l2s, coupling=max(largest, n))
        assert left <= float(bound[0])
        assert left > float(gap_bound(at.gradient, at.predicted, l2s)[0])  # counts do not bound it


def test_directions_that_single_precision_lost_are_not_called_converged():
    """Their gradient meets no curvature but the penalty's, which the certificate knows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    X[:, 1] *= 1e6  # without standardisation the first feature is rounding beside it
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit = fit_many(X, {"y": y}, l2=1.0, standardize=False)["y"]
    assert not fit.converged
    assert fit_many(X, {"y": y}, l2=1.0)["y"].converged


def test_high_precision_in_float64():
    X, y = softmax_data(300, 8, 3, seed=1)
    scaler = StandardScaler().fit(X)
    Z = scaler.transform(X)
    best = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12, max_iter=500).fit(Z, y)
    fit = fit_many(X, {"y": y}, l2=2.0, tol=1e-14)["y"]
    coef, intercept = standardized_solution(fit, scaler)
    np.testing.assert_allclose(coef, best.coef_, atol=1e-7)
    shift = (intercept - best.intercept_).mean()  # the bias is known up to a constant
    np.testing.assert_allclose(intercept - shift, best.intercept_, atol=1e-6)


def test_two_classes_are_a_softmax_which_is_binomial_with_twice_c():
    X, y = softmax_data(300, 6, 2, seed=3)
    scaler = StandardScaler().fit(X)
    best = LogisticRegression(C=2 / 3.0, tol=1e-10, max_iter=1000).fit(scaler.transform(X), y)
    fit = fit_many(X, {"y": y}, l2=3.0, tol=1e-12)["y"]
    coef, intercept = standardized_solution(fit, scaler)
    np.testing.assert_allclose(coef[1] - coef[0], best.coef_[0], atol=1e-5)
    np.testing.assert_allclose(coef.sum(0), 0, atol=1e-6)
    assert intercept[1] - intercept[0] == pytest.approx(best.intercept_[0], abs=1e-5)


def test_certificate_is_the_gradient_by_finite_differences():
    X, y = softmax_data(80, 4, 3, seed=5)
    Z = StandardScaler().fit_transform(X)
    with pytest.warns(ConvergenceWarning, match="1 of 1 probes did not converge.*'?y"):
        fit = fit_many(X, {"y": y}, l2=0.5, tol=1e-12, max_iter=2)["y"]
    assert not fit.converged
    coef, intercept = standardized_solution(fit, StandardScaler().fit(X))
    theta = np.concatenate([coef.ravel(), intercept])
    f = lambda t: objective(Z, y, t[:12].reshape(3, 4), t[12:], 0.5)  # noqa: E731
    gradient = [(f(theta + e) - f(theta - e)) / 2e-5 for e in np.eye(15) * 1e-5]
    assert fit.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    best = fit_many(X, {"y": y}, l2=0.5, tol=1e-12)["y"]
    assert 0 < fit.objective - best.objective <= fit.gap


def test_an_iteration_that_ends_too_early_is_not_called_converged(monkeypatch):
    X, y = softmax_data(300, 6, 4, seed=21)
    true = newton_module.minimise

    def hasty(*args, **options):
        found = true(*args, **{**options, "tol": 1e-2})
        return dataclasses.replace(found, converged=torch.ones_like(found.converged))

    monkeypatch.setattr(solver_module, "minimise", hasty)
    with pytest.warns(ConvergenceWarning):
        assert not fit_many(X, {"y": y}, l2=1e-3)["y"].converged


def test_fits_of_other_rows_are_a_start_and_no_more():
    """From the optimum itself there is nothing left to do; from other rows, which lack a class,
    the optimum is the same.
    """
    X, y = softmax_data(600, 6, 4, seed=3)
    X = X * [1, 50, 0.1, 1, 1, 1] + [0, 1000, 0, 0, 0, 0]
    cold = fit_many(X, {"y": y, "two": y > 1}, l2=2.0, tol=1e-10)
    again = fit_many(X, {"y": y, "two": y > 1}, l2=2.0, tol=1e-10, start=cold)
    assert [fit.n_iter for fit in again.values()] == [0, 0] < [fit.n_iter for fit in cold.values()]
    some = np.flatnonzero(y != 3)[:200]
    part = fit_many(X[some], {"y": y[some]}, l2=2.0)
    warm = fit_many(X, {"y": y, "two": y > 1}, l2=2.0, tol=1e-10, start=part)
    for name, fit in warm.items():
        assert fit.objective == pytest.approx(cold[name].objective, rel=1e-9)
        np.testing.assert_allclose(fit.coef, cold[name].coef, rtol=1e-3, atol=1e-6)


def test_many_targets_are_the_same_as_one_at_a_time():
    X, y = softmax_data(400, 6, 5, seed=8)
    rng = np.random.default_rng(0)
    targets = {"five": y, "four": np.minimum(y, 3), "two": y > 2, "noise": rng.permutation(y)}
    targets["absent"] = np.where(y == 4, 0, y)  # padded to the width of its group
    together = fit_many(X, targets, l2=0.7, tol=1e-12)
    assert list(together) == list(targets)
    for name, labels in targets.items():
        alone = fit_many(X, {name: labels}, l2=0.7, tol=1e-12)[name]
        assert together[name].objective == pytest.approx(alone.objective, rel=1e-10)
        np.testing.assert_allclose(together[name].coef, alone.coef, atol=1e-5)
        assert len(together[name].classes) == len(np.unique(labels))


def test_padding_keeps_absent_columns_out():
    X, _ = softmax_data(300, 4, 3, seed=2)
    rng = np.random.default_rng(1)
    ten, nine = rng.integers(0, 10, 300), rng.integers(0, 9, 300)
    for kind in (np.float64, np.float32):
        fits = fit_many(X.astype(kind), {"ten": ten, "nine": nine}, l2=1.0)
        alone = fit_many(X.astype(kind), {"nine": nine}, l2=1.0)["nine"]
        assert fits["nine"].coef.shape == (9, 4)
        assert fits["nine"].objective == pytest.approx(alone.objective, rel=1e-6)


def test_bit_for_bit_again():
    X, y = softmax_data(9000, 5, 3, seed=4)
    one, two = (fit_many(X.astype(np.float32), {"y": y}, l2=1.0)["y"] for _ in range(2))
    assert torch.equal(one.coef, two.coef)
    assert one.objective == two.objective


def test_constant_and_duplicate_features():
    X, y = softmax_data(200, 4, 3, seed=6)
    wide = np.column_stack([X, np.full(200, 3.7), X[:, 0]])
    for kind in (np.float64, np.float32):
        fit = fit_many(wide.astype(kind), {"y": y}, l2=1.0)["y"]
        assert torch.all(fit.coef[:, 4] == 0)
        np.testing.assert_allclose(fit.coef[:, 0], fit.coef[:, 5], atol=1e-4)


def test_without_standardisation_the_penalty_is_on_the_features_as_they_are():
    X, y = softmax_data(300, 5, 3, seed=9)
    best = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-11, max_iter=500).fit(X, y)
    fit = fit_many(X, {"y": y}, l2=10.0, standardize=False, tol=1e-12)["y"]
    np.testing.assert_allclose(fit.coef, best.coef_, atol=1e-5)


def test_labels_of_any_hashable_kind():
    X, y = softmax_data(120, 3, 3, seed=10)
    kinds = {
        "text": [("A", "B", "C")[i] for i in y],
        "pairs": [(int(i), "x") for i in y],
        "mixed": [(None, "b", 3)[i] for i in y],
        "tensor": torch.as_tensor(y),
    }
    for name, labels in kinds.items():
        fit = fit_many(X, {name: labels}, l2=0.1)[name]
        predicted = fit.predict(X)
        assert set(predicted.tolist()) <= set(list(labels) if name != "tensor" else y.tolist())
        hits = [
            p == (g.item() if name == "tensor" else g)
            for p, g in zip(predicted, labels, strict=True)
        ]
        assert np.mean(hits) > 0.5
        np.testing.assert_allclose(fit.predict_proba(X).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("choose", ["accuracy", "bits"])
def test_path_takes_the_best_dev_penalty_and_ends_where_dev_tells_no_more(choose):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 60))
    signal = (X[:, 0] + X[:, 1] + 2 * rng.normal(size=150) > 0).astype(int)
    D = rng.normal(size=(2000, 60))
    gold = (D[:, 0] + D[:, 1] + 2 * rng.normal(size=2000) > 0).astype(int)
    path = [0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 1e5]
    fit = fit_many(X, {"y": signal}, l2=path, dev=(D, {"y": gold}), choose=choose)["y"]
    # scikit-learn on the whole path; its binomial penalty is twice ours
    scaler, whole = StandardScaler().fit(X), {}
    for l2 in path:
        model = LogisticRegression(C=2 / l2, tol=1e-8).fit(scaler.transform(X), signal)
        p = model.predict_proba(scaler.transform(D))
        right = (p.argmax(1) == gold).mean()
        whole[l2] = right if choose == "accuracy" else np.log2(p[np.arange(2000), gold]).mean()
    tried = sorted(fit.dev_scores, reverse=True)
    assert [fit.dev_scores[l2] for l2 in tried] == pytest.approx(
        [whole[l2] for l2 in tried], abs=2e-3
    )
    best = max(fit.dev_scores.values())
    assert fit.l2 == max(l2 for l2, score in fit.dev_scores.items() if score == best)
    assert len(tried) < len(path), "dev falls here, so the weakest is not tried"
    falls = [whole[b] < whole[a] for a, b in itertools.pairwise(tried)]
    if choose == "bits":
        assert falls[-2:] == [True, True]
        assert best == pytest.approx(max(whole.values()), abs=2e-3)
    else:  # what is left to win is within a standard error
        error = np.sqrt(best * (1 - best) / 2000)
        assert max(whole.values()) - best < error


def test_dev_may_lack_classes_and_have_unknown_ones():
    X, y = softmax_data(200, 4, 3, seed=12)
    dev = (X[:50], {"y": ["never seen" if i == 0 else int(v % 2) for i, v in enumerate(y[:50])]})
    fit = fit_many(X, {"y": y}, l2=[1.0, 10.0], dev=dev)["y"]
    assert 0 < max(fit.dev_scores.values()) < 1


def test_design_is_shared_and_progress_is_told():
    X, y = softmax_data(200, 4, 3, seed=13)
    design, seen = Design(X), []
    fit = fit_many(design, {"y": y}, l2=1.0, progress=lambda *a: seen.append(a))["y"]
    assert fit.objective == fit_many(X, {"y": y}, l2=1.0)["y"].objective
    assert seen[-1] == (1, 1)


def test_a_planted_direction_is_found_and_random_labels_are_not():
    rng = np.random.default_rng(0)
    X, test = rng.normal(size=(3000, 20)), rng.normal(size=(3000, 20))
    direction = rng.normal(size=20)
    targets = {"planted": X @ direction > 0, "random": rng.integers(0, 2, 3000)}
    fits = fit_many(X, targets, l2=1.0)
    assert (fits["planted"].predict(test) == (test @ direction > 0)).mean() > 0.97
    assert abs((fits["random"].predict(test) == rng.integers(0, 2, 3000)).mean() - 0.5) < 0.04


def test_rare_class_among_many_rows_when_the_curvature_is_sampled():
    X, y = softmax_data(10000, 6, 3, seed=14)
    y[17] = 3  # a class of one row, whose bias no uniform sample would see
    Z = StandardScaler().fit_transform(X)
    best = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-9, max_iter=200).fit(Z, y)
    fit = fit_many(X.astype(np.float32), {"y": y}, l2=10.0)["y"]
    assert fit.objective <= objective(Z, y, best.coef_, best.intercept_, 10.0) * (1 + 1e-6)


def test_sample_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    q, values = torch.rand(500, dtype=torch.float64) + 0.2, torch.rand(500, dtype=torch.float64)
    q[3] = 100.0
    totals = []
    for _ in range(1000):
        index, weight = _systematic_sample(q, 60, generator)
        assert 3 in index.tolist()
        totals.append(float((values[index] * weight).sum()))
    assert np.mean(totals) == pytest.approx(float(values.sum()), rel=0.02)


def test_bad_input_is_one_clear_line():
    X, y = softmax_data(50, 4, 2, seed=15)
    broken = X.copy()
    broken[7, 2], broken[9, 1] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"2 of 50 rows, first at row 7, column 2 \(nan\)"):
        fit_many(broken, {"y": y}, l2=1.0)
    with pytest.raises(
        ValueError, match="target 'same': expected at least 2 classes, got one class: 'a'"
    ):
        fit_many(X, {"same": ["a"] * 50}, l2=1.0)
    with pytest.raises(ValueError, match="expected at least 2 classes, got none"):
        fit_many(X, {"none": []}, l2=1.0)
    with pytest.raises(ValueError, match="target 'y' has 49 labels, but X has 50 rows"):
        fit_many(X, {"y": y[1:]}, l2=1.0)
    with pytest.raises(ValueError, match="needs dev"):
        fit_many(X, {"y": y}, l2=[1.0, 2.0])
    with pytest.raises(ValueError, match="l2 must be positive"):
        fit_many(X, {"y": y}, l2=0.0)
    with pytest.raises(ValueError, match="has no dev labels"):
        fit_many(X, {"y": y}, l2=1.0, dev=(X, {}))
    with pytest.raises(ValueError, match="dev has 3 features, but X has 4"):
        fit_many(X, {"y": y}, l2=1.0, dev=(X[:, :3], {"y": y}))
    fit = fit_many(X, {"y": y}, l2=1.0)["y"]
    with pytest.raises(ValueError, match="X has 3 features, but the fit expects 4"):
        fit.predict(X[:, :3])


def test_large_finite_values_are_not_called_broken():
    X = np.full((40, 2), 3e38, dtype=np.float32)
    X[:, 1] = np.arange(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert fit_many(X, {"y": np.arange(40) > 20}, l2=1.0)["y"].predict(X).mean() > 0.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    X, y = softmax_data(3000, 30, 7, seed=16)
    here = fit_many(X.astype(np.float32), {"y": y}, l2=10.0)["y"]
    there = fit_many(X.astype(np.float32), {"y": y}, l2=10.0, device="cuda")["y"]
    assert there.objective == pytest.approx(here.objective, rel=1e-6)


@pytest.mark.parametrize("tol", [1e-4, 1e-5, 5e-7])
def test_rough_and_exact_phases_reach_the_tolerance(tol):
    X, y = softmax_data(9000, 12, 5, seed=6)
    targets = {"y": y, "two": y > 1, "shuffled": np.random.default_rng(0).permutation(y)}
    fits = fit_many(X.astype(np.float32), targets, l2=1.0, tol=tol)
    Z = StandardScaler().fit_transform(X)
    for name in ("y", "shuffled"):
        best = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-9, max_iter=200)
        best.fit(Z, targets[name])
        least = objective(Z, targets[name], best.coef_, best.intercept_, 1.0)
        assert fits[name].converged
        assert fits[name].objective == pytest.approx(least, rel=2 * tol)


def test_a_weak_penalty_on_nearly_separable_words_needs_the_curvature_of_all_rows() -> None:
    # Each row is one of 300 word types with noise. Steps by the curvature of a sample are too long.
    n, types, d, c, l2 = 9000, 300, 60, 10, 1e-3
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(types, d))
    class_odds, type_odds = 1 / np.arange(1, c + 1), 1 / np.arange(1, types + 1)
    class_of = rng.choice(c, size=types, p=class_odds / class_odds.sum())
    words = rng.choice(types, size=n, p=type_odds / type_odds.sum())
    X = (vectors[words] + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
    y = class_of[words]
    fit = fit_many(X, {"y": y}, l2=l2, tol=1e-5)["y"]
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    best = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-6, max_iter=100).fit(Z, y)
    assert fit.converged
    assert fit.n_iter <= 30
    reference = objective(Z, y, best.coef_, best.intercept_, l2)
    assert fit.objective == pytest.approx(reference, rel=2e-5)


@pytest.mark.parametrize("l2", [1.0, 0.01])
def test_rows_far_from_the_others_and_hardly_a_penalty(l2: float) -> None:
    # The curvature of few rows is that of the far ones: steps are cut short again and again, and a
    # decrement that falls behind such a step is no sign of the end.
    rng = np.random.default_rng(4)
    X = rng.normal(size=(1500, 50)).astype(np.float32)
    X[rng.integers(1500, size=15)] *= 50
    logits = X @ rng.normal(size=(50, 12)) / X.std() - 2 * np.log(np.arange(1, 13))
    y = (logits + rng.gumbel(size=(1500, 12))).argmax(1)
    fit = fit_many(X, {"y": y}, l2=l2, tol=1e-6)["y"]
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    best = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    log_p = best.fit(Z, y).predict_log_proba(Z)
    right = np.searchsorted(best.classes_, y)
    objective = -log_p[np.arange(1500), right].sum() + l2 / 2 * (best.coef_**2).sum()
    assert fit.converged
    assert fit.objective == pytest.approx(objective, rel=2e-6)
