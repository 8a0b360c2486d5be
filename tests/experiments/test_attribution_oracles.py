"""Attribution's methods against closed forms, the axioms, and Captum."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import zoo
from fake_game import Fake

from experiments.attribution import (
    Options,
    Scorer,
    Target,
    ask,
    attribute,
    explain,
    leverage,
    shapley,
    surrogates,
)
from experiments.attribution.design import most_telling
from experiments.attribution.paths import integrate
from experiments.attribution.perturbation import leave_one_out, windows
from experiments.attribution.set_process import Kernel, SetProcess
from experiments.attribution.verified import most_unseen
from experiments.subject import Subject

TEXT = "w5 w6 w7 w8 w9 w10"
TARGET = Target(" w20", measure="logit")


def random_game(n: int, seed: int = 0) -> Fake:
    """Every set has a value of its own; unit n-1 is a dummy, and units 0 and 1 are alike."""
    table = np.random.default_rng(seed).normal(size=2**n)

    def of(mask: np.ndarray) -> float:
        alike = [bool(mask[0]) + bool(mask[1]), *map(bool, mask[2:-1])]
        return float(
            table[sum(int(v) * 3**0 * 2 ** (2 * i) for i, v in enumerate(alike)) % len(table)]
        )

    return Fake(n, of)


@pytest.mark.parametrize(
    "method", [shapley.exact, shapley.kernel, shapley.permutations, leverage.leverage]
)
@pytest.mark.parametrize("n", [1, 4])
def test_errors_of_a_drawn_removal_are_those_of_the_mean_over_draws(method: Any, n: int) -> None:
    """In a game that is linear in every draw a method's scores are its weights,
    and nothing else is left to chance.
    """
    weights = np.random.default_rng(0).normal(size=(5, n))
    found = method(
        Fake(n, *((lambda mask, w=w: -float(w @ ~mask)) for w in weights)), Options(samples=64)
    )
    np.testing.assert_allclose(found.scores, weights.mean(0), atol=1e-9)
    np.testing.assert_allclose(found.errors, weights.std(0, ddof=1) / 5**0.5, atol=1e-9)


def brute_force(game: Fake) -> np.ndarray:
    """The mean over all orders of what a unit adds when it comes in."""
    out = np.zeros(game.n)
    for order in itertools.permutations(range(game.n)):
        mask = np.zeros(game.n, dtype=bool)
        for unit in order:
            before = game.of(mask)
            mask[unit] = True
            out[unit] += game.of(mask) - before
    return out / math.factorial(game.n)


LINEAR = np.array([1.5, -2.0, 0.0, 0.25, 3.0])


@pytest.mark.parametrize(
    "method",
    [shapley.exact, shapley.kernel, shapley.permutations, leverage.leverage, leave_one_out],
)
def test_every_method_gives_a_linear_game_its_weights(method: Any) -> None:
    game = Fake(5, lambda mask: 7 + LINEAR @ mask)
    found = method(game, Options(samples=None))
    np.testing.assert_allclose(found.scores, LINEAR, atol=1e-9)
    if found.errors is not None:
        np.testing.assert_allclose(found.errors, 0, atol=1e-9)


def test_lime_gives_a_linear_game_its_weights_but_for_the_penalty() -> None:
    game = Fake(5, lambda mask: 7 + LINEAR @ mask)
    found = surrogates.lime(game, Options(samples=4000))
    np.testing.assert_allclose(found.scores, LINEAR, atol=0.01)
    np.testing.assert_allclose(windows(game, Options(window=5)).scores, LINEAR.sum())


def test_shapley_values_are_those_of_all_orders() -> None:
    game = random_game(6)
    expected = brute_force(game)
    exact = shapley.exact(game, Options())
    np.testing.assert_allclose(exact.scores, expected, atol=1e-12)
    assert exact.scores[-1] == pytest.approx(0, abs=1e-12)  # dummy
    assert exact.scores[0] == pytest.approx(exact.scores[1])  # symmetry
    assert exact.scores.sum() == pytest.approx(game.value - game.empty)  # efficiency
    kernel = shapley.kernel(game, Options())  # 2 M + 2,048 enumerates all sets of 6
    np.testing.assert_allclose(kernel.scores, expected, atol=1e-9)
    np.testing.assert_allclose(kernel.errors, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "samples"),
    [(shapley.kernel, 60), (shapley.permutations, 12)],
    ids=["kernel", "permutations"],
)
def test_the_standard_errors_are_the_spread_over_seeds(method: Any, samples: int) -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=1024)
    game = Fake(10, lambda mask: table[int((mask * 2 ** np.arange(10)).sum())])
    expected = shapley.exact(game, Options()).scores
    found = [method(game, Options(samples=samples, seed=seed)) for seed in range(40)]
    scores = np.array([f.scores for f in found])
    spread, said = scores.std(0, ddof=1), np.sqrt(np.mean([f.errors**2 for f in found], axis=0))
    assert 0.6 < float((said / spread).mean()) < 1.4
    assert (np.abs(scores.mean(0) - expected) < 4 * spread / 40**0.5).all()  # and there is no bias
    assert all(f.scores.sum() == pytest.approx(game.value - game.empty) for f in found)


def test_the_standard_errors_of_leverage_shap_are_its_errors() -> None:
    """On 40 games of which no set tells another anything: nearly the same sets are chosen for all,
    so that the error is taken over games, against their exact values.
    """
    errors, expected = [], []
    for seed in range(40):
        table = np.random.default_rng(seed).normal(size=1024)
        game = Fake(10, lambda mask, t=table: t[int((mask * 2 ** np.arange(10)).sum())])
        found = leverage.leverage(game, Options(samples=80, seed=seed))
        assert found.errors is not None
        errors.append(found.scores - shapley.exact(game, Options()).scores)
        expected.append(found.errors)
        assert found.scores.sum() == pytest.approx(game.value - game.empty)
    ratio = np.sqrt(np.square(expected).mean() / np.square(errors).mean())
    assert 0.8 < ratio < 1.4
    spread = np.std(errors, ddof=1) / 40**0.5
    assert (np.abs(np.mean(errors, axis=0)) < 4 * spread).all()  # and there is no bias


def every_set(units: int) -> np.ndarray:
    return (np.arange(2**units)[:, None] >> np.arange(units)) & 1 > 0


def random_kernel(units: int) -> Kernel:
    rng = np.random.default_rng(0)
    return Kernel(rng.normal(-1, 1, size=units), rng.normal(-1, 1, size=3))


def conditioned(kernel: Kernel, known: list[int], values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean and variance of the Shapley values by enumeration: the process at all sets given it at
    those of these numbers, and Shapley values as the linear map that they are.
    """
    units = len(kernel.log_decays)
    covariance = kernel(every_set(units), every_set(units))
    to_shapley = np.array([shapley.shapley_values(one) for one in np.eye(2**units)])
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known])
    rest = covariance - covariance[:, known] @ gain
    return values @ gain @ to_shapley, np.diag(to_shapley.T @ rest @ to_shapley)


def surprise_by_enumeration(kernel: Kernel, numbers: list[int], values: np.ndarray) -> float:
    """By how much the Shapley values of left-out sets differ from their prediction by the others,
    over the variance of that difference: for single sets and for every fifth.

    Args:
        numbers: of the sets; the whole text is known too, and its value is the last.
    """
    units = len(kernel.log_decays)
    sets, known = every_set(units), [*numbers, 2**units - 1]

    def shapley_of(number: int) -> np.ndarray:
        game = np.zeros(2**units)
        game[number], game[2**units - 1 - number] = 1, -1
        return shapley.shapley_values(game)

    def ratios(left_out: list[int]) -> np.ndarray:
        others = [i for i in range(len(known)) if i not in left_out]
        a, b = sets[np.array(known)[left_out]], sets[np.array(known)[others]]
        gain = np.linalg.solve(kernel(b, b), kernel(b, a))
        covariance = kernel(a, a) - kernel(a, b) @ gain
        to_shapley = np.array([shapley_of(known[i]) for i in left_out])
        missed = (values[left_out] - values[others] @ gain) @ to_shapley
        return missed**2 / np.diag(to_shapley.T @ covariance @ to_shapley)

    n = len(numbers)
    sizes = [min(int(sets[number].sum()), units - int(sets[number].sum())) for number in numbers]
    pairs = {size: math.comb(units, size) / (2 if 2 * size == units else 1) for size in sizes}
    weights = []
    for number, size in zip(numbers, sizes, strict=True):
        unseen = pairs[size] / sizes.count(size) - 1
        weights.append(unseen * float((shapley_of(number) ** 2).sum()))
    by_set = np.average([ratios([i]).mean() for i in range(n)], weights=weights)
    by_fold = np.mean([ratios(list(range(fold, n, 5))) for fold in range(5)])
    return max(1.0, (by_set + by_fold) / 2)


def test_the_process_is_conditioned_on_its_evaluations() -> None:
    """Against enumeration: the one-dimensional integrals, the rough part, the standard errors."""
    units, rng = 6, np.random.default_rng(0)
    numbers = rng.permutation(np.arange(1, 31))[
        :20
    ].tolist()  # without the last unit: one of a pair
    values = rng.normal(size=20)
    process = SetProcess.fit(every_set(units)[numbers], values, 0.7, random_kernel(units))
    known, standard = [*numbers, 63], np.append(values, 0.7) / np.sqrt((values**2).mean())
    mean, variance = conditioned(process.kernel, known, standard)
    scale = np.sqrt((values**2).mean())
    np.testing.assert_allclose(
        process.values @ process.to_shapley, scale * mean, rtol=1e-6, atol=1e-9
    )
    surprise = surprise_by_enumeration(process.kernel, numbers, standard)
    assert surprise > 1  # the game is not of this kernel
    factor = surprise / (1 - (units + 3) / 20)
    np.testing.assert_allclose(process.errors, scale * np.sqrt(variance * factor), rtol=1e-6)
    everywhere = process.predict(every_set(units))
    np.testing.assert_allclose(everywhere[known], np.append(values, 0.7), atol=1e-9)
    np.testing.assert_allclose(everywhere, -everywhere[::-1], atol=1e-9)  # odd
    np.testing.assert_allclose(
        process.values @ process.to_shapley, shapley.shapley_values(everywhere), atol=1e-9
    )


def test_the_residuals_are_those_of_processes_without_each_evaluation() -> None:
    rng = np.random.default_rng(0)
    masks, values = every_set(6)[1:31:2], rng.normal(size=15)
    process = SetProcess.fit(masks, values, 0.7)
    for left_out in range(15):
        others = [other for other in range(16) if other != left_out]
        known = process.masks[others]
        weights = np.linalg.solve(process.kernel(known, known), process.values[others])
        expected = (process.kernel(process.masks[[left_out]], known) @ weights)[0]
        assert process.residuals[left_out] == pytest.approx(values[left_out] - expected, rel=1e-6)


def test_the_most_telling_set_lowers_the_variances_most() -> None:
    """Step by step, against the variances by enumeration after each candidate."""
    kernel, known, candidates = random_kernel(6), [63], list(range(1, 31, 2))
    masks = every_set(6)
    order = most_telling(kernel, masks[known], masks[candidates], 5)
    for step in order:
        left = [c for c in candidates if c not in known]
        variances = []
        for candidate in left:
            given = [*known, candidate]
            variances.append(conditioned(kernel, given, np.zeros(len(given)))[1].sum())
        chosen = candidates[step]
        assert variances[left.index(chosen)] == pytest.approx(min(variances), rel=1e-4)
        known.append(chosen)


def interacting(n: int, seed: int) -> Fake:
    """Weights, pairs and triples of neighbours, and a saturating sum:
    2^n sets have values of few parameters.
    """
    rng = np.random.default_rng(seed)
    weights, pairs, triples = rng.normal(size=n), rng.normal(size=n), rng.normal(size=n)

    def of(mask: np.ndarray) -> float:
        m = mask.astype(float)
        second = m * np.roll(m, 1)
        third = second * np.roll(m, 2)
        return float(3 * np.tanh(weights @ m / 2) + (pairs @ second + triples @ third) / 2)

    return Fake(n, of)


def test_leverage_shap_stops_at_the_error_that_it_prints() -> None:
    """Simulated on 15 games of 10 units: 95% intervals cover,
    and the surrogate pays against the regression alone.
    """
    covered, ours, kernel = [], [], []
    for seed in range(15):
        game = interacting(10, seed)
        exact = shapley.exact(game, Options()).scores
        found = leverage.leverage(game, Options(error=0.04, seed=seed))
        assert found.errors is not None
        assert (
            found.figures["samples"] == 1022 or found.errors.max() <= 0.04 * abs(found.scores).max()
        )
        assert found.scores.sum() == pytest.approx(game.value - game.empty)
        covered += list(abs(found.scores - exact) <= 1.96 * found.errors + 1e-9)
        ours.append(found.scores - exact)
        plain = shapley.kernel(game, Options(samples=found.figures["samples"], seed=seed))
        kernel.append(plain.scores - exact)
    assert np.mean(covered) >= 0.9
    assert np.square(ours).mean() < 0.5 * np.square(kernel).mean()


def test_pairs_beyond_the_process_correct_it_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a game that the process knows nothing of: the mean over draws is exact where the whole
    correction counts, the standard errors are the spread, and all sets give exact values.
    """
    monkeypatch.setattr(leverage, "MOST_IN_PROCESS", 20)
    table = np.random.default_rng(1).normal(size=256)
    game = Fake(8, lambda mask: table[int((mask * 2 ** np.arange(8)).sum())])
    exact = shapley.exact(game, Options()).scores
    errors, expected = [], []
    for seed in range(40):
        found = leverage.leverage(game, Options(samples=180, seed=seed))
        assert found.figures["samples"] == 180
        assert found.scores.sum() == pytest.approx(game.value - game.empty)
        errors.append(found.scores - exact)
        expected.append(found.errors)
    assert 0.7 < np.sqrt(np.square(errors).mean() / np.square(expected).mean()) < 1.4
    every = leverage.leverage(game, Options(samples=254))
    np.testing.assert_allclose(every.scores, exact, atol=1e-9)
    np.testing.assert_allclose(every.errors, 0, atol=1e-12)


def test_a_drawn_pair_stands_for_those_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The correction over all draws of a sample is what the process misses of the Shapley values."""
    monkeypatch.setattr(leverage, "MOST_IN_PROCESS", 20)
    table = np.random.default_rng(2).normal(size=256)
    exact = shapley.shapley_values(table)
    odd = (table - table[::-1]) / 2
    sums = np.zeros(8)
    for draw in range(300):
        sample = leverage.Sample(8, 0)  # the same pairs for the process
        sample.grow(20)
        sample.rng = np.random.default_rng(draw)
        sample.grow(60)
        at = odd[sample.firsts @ (1 << np.arange(8))]
        process = SetProcess.fit(sample.for_process, at[:20], float(odd[-1]))
        unsure = dataclasses.replace(process, errors=np.full(8, 1e6))  # so that all is added
        weights, _ = leverage.corrected(sample, unsure, at[20:])
        sums += np.append(at, odd[-1]) @ weights
    np.testing.assert_allclose(sums / 300, exact, atol=0.03)


def test_lime_stops_at_the_error_that_it_prints_and_it_covers() -> None:
    """Against the line of 40,000 texts, whose own error is a tenth."""
    game = interacting(8, 3)
    exact = surrogates.lime(game, Options(samples=40_000, features=0)).scores
    covered = []
    for seed in range(30):
        found = surrogates.lime(game, Options(error=0.05, features=0, seed=seed))
        assert found.errors is not None
        assert found.errors.max() <= 0.05 * abs(found.scores).max()
        assert found.figures["samples"] < 2500
        covered += list(abs(found.scores - exact) <= 1.96 * found.errors)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_antithetic_permutations_are_exact_for_pairs_of_units() -> None:
    pairs = np.random.default_rng(0).normal(size=(5, 5))
    game = Fake(5, lambda mask: mask @ pairs @ mask)
    found = shapley.permutations(game, Options(samples=2))
    np.testing.assert_allclose(found.scores, shapley.exact(game, Options()).scores, atol=1e-12)


def test_the_published_kernel_weights() -> None:
    assert [shapley.kernel_weight(4, s) for s in (1, 2, 3)] == pytest.approx([0.25, 0.125, 0.25])
    masks = np.arange(10) >= np.array([2, 5, 8])[:, None]
    np.testing.assert_allclose(surrogates.lime_weights(masks), [0.9147, 0.5034, 0.0868], atol=6e-5)


def test_lime_keeps_the_units_with_the_largest_weights() -> None:
    weights = np.arange(1.0, 13.0)
    found = surrogates.lime(Fake(12, lambda mask: weights @ mask), Options(samples=600, features=7))
    assert np.flatnonzero(found.scores).tolist() == list(range(5, 12))
    few = surrogates.lime(Fake(12, lambda mask: weights @ mask), Options(samples=600, features=3))
    assert np.flatnonzero(few.scores).tolist() == [9, 10, 11]
    assert "keeps 3 of 12" in few.notes[1].text


def test_a_tree_shows_that_two_units_matter_only_together() -> None:
    found = surrogates.tree(Fake(6, lambda mask: 4.0 * (mask[1] and mask[4])), Options(samples=400))
    assert set(np.flatnonzero(found.scores)) == {1, 4}
    assert "1:u1 absent" in found.figures["rules"]
    assert found.figures["r2"] == pytest.approx(1)


def test_the_errors_of_a_trees_scores_are_their_spread_over_seeds() -> None:
    noise = np.random.default_rng(0).normal(size=64)
    game = Fake(
        6,
        lambda mask: (
            4.0 * (mask[1] and mask[4]) + mask[0] + noise[int((mask * 2 ** np.arange(6)).sum())]
        ),
    )
    found = [surrogates.tree(game, Options(samples=150, seed=seed)) for seed in range(25)]
    spread = np.std([f.scores for f in found], axis=0, ddof=1)[[1, 4]]
    said = np.sqrt(np.mean([f.errors**2 for f in found], axis=0))[[1, 4]]
    assert 0.5 < float((said / spread).mean()) < 2


# -- Captum


@pytest.fixture(scope="module")
def captum() -> Any:
    return pytest.importorskip("captum.attr")


@pytest.fixture(scope="module", params=["llama", "bert"])
def subject(request: pytest.FixtureRequest) -> Subject:
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "w4"
    return Subject(tiny.model(request.param), tokenizer, bos="always")


def text_of(subject: Subject) -> tuple[str, torch.Tensor, int]:
    """A text, its ids, and where its answer is read."""
    text = TEXT if subject.causal else f"{TEXT} w4"
    ids = torch.tensor([subject.encode([text])[0].ids])
    read = ids.shape[1] - 1
    return text, ids, read


def logit(subject: Subject, read: int) -> Any:
    return lambda ids: subject.model(ids).logits[:, read, 20]


def logit_of_vectors(subject: Subject, read: int) -> Any:
    return lambda vectors: subject.model(inputs_embeds=vectors).logits[:, read, 20]


def test_saliency_and_gradient_times_input_are_captums(captum: Any, subject: Subject) -> None:
    text, ids, read = text_of(subject)
    vectors = subject.model.get_input_embeddings()(ids).detach()
    for method, theirs in (("saliency", captum.Saliency), ("grad-input", captum.InputXGradient)):
        expected = (
            theirs(logit_of_vectors(subject, read)).attribute(vectors.requires_grad_())[0].sum(-1)
        )
        found = attribute(subject, text, target=TARGET, method=method, level="token")
        np.testing.assert_allclose(found.scores, expected[1:7].detach().numpy(), atol=1e-5)


def test_smoothgrad_is_the_mean_of_plain_gradients_around_the_text(subject: Subject) -> None:
    text, ids, read = text_of(subject)
    x, value = (
        subject.model.get_input_embeddings()(ids).detach()[0],
        logit_of_vectors(subject, read),
    )
    noise = torch.randn(8, *x.shape, generator=torch.Generator().manual_seed(3))
    noise[:, 0] = noise[:, 7:] = 0  # the words' own vectors alone
    shares = []
    for draw in noise:
        leaf = (x + 0.4 * (x.max() - x.min()) * draw)[None].requires_grad_()
        (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
        shares.append((slope[0] * x)[1:7].sum(-1).numpy())
    more: dict[str, Any] = {"target": TARGET, "level": "token", "samples": 8, "seed": 3}
    found = attribute(subject, text, method="smoothgrad", noise=0.4, **more)
    np.testing.assert_allclose(found.scores, np.mean(shares, 0), rtol=1e-3, atol=1e-7)
    assert found.errors is not None
    np.testing.assert_allclose(
        found.errors, np.std(shares, 0, ddof=1) / 8**0.5, rtol=1e-3, atol=1e-7
    )
    still = attribute(subject, text, method="smoothgrad", noise=0.0, **more)
    plain = attribute(subject, text, target=TARGET, method="grad-input", level="token").scores
    np.testing.assert_allclose(still.scores, plain, rtol=1e-3, atol=1e-7)
    # and the noise does something
    assert np.abs(found.scores - plain).max() > 0.1 * np.abs(plain).max()


def test_integrated_gradients_are_captums(captum: Any, subject: Subject) -> None:
    text, ids, read = text_of(subject)
    baseline = ids.clone()
    baseline[0, 1:7] = subject.pad_id
    theirs = captum.LayerIntegratedGradients(
        logit(subject, read), subject.model.get_input_embeddings()
    )
    found = attribute(subject, text, target=TARGET, method="ig", level="token", baseline="pad")
    expected = theirs.attribute(ids, baseline, n_steps=100, method="gausslegendre")[0].sum(-1)
    size = float(expected.abs().max())
    np.testing.assert_allclose(found.scores, expected[1:7].detach().numpy(), atol=0.01 * size)
    assert found.scores.sum() == pytest.approx(found.value - found.baseline, rel=0.01)


class Bend:
    """sum_i w_i tanh(sharpness (x_i - .3)): its path integral is known,
    and almost all of it lies at one place.
    """

    def __init__(self, weights: torch.Tensor, sharpness: float) -> None:
        self.weights, self.sharpness = weights, sharpness

    def values(self, points: torch.Tensor) -> torch.Tensor:
        return (self.weights * torch.tanh(self.sharpness * (points - 0.3))).sum(1)

    def at(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bent = torch.tanh(self.sharpness * (points - 0.3))
        return self.values(points), self.weights * self.sharpness * (1 - bent**2)


@pytest.mark.parametrize(("sharpness", "most"), [(1.0, 10), (200.0, 250)])
def test_steps_go_where_the_gradient_moves(sharpness: float, most: int) -> None:
    """Against the closed form; a smooth path takes one round,
    a sharp one far fewer steps than a Gauss rule of all of it.
    """
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    bend = Bend(weights, sharpness)
    start, x = torch.zeros(3).double(), torch.ones(3).double()
    found = integrate(bend, x, start, 10, 1e-4, 1000)
    step = math.tanh(sharpness * 0.7) + math.tanh(sharpness * 0.3)
    # All shares go as one curve: the largest misses 2 / .5 times what their sum does.
    np.testing.assert_allclose(found.shares, weights * step, atol=4 * 1e-4)
    assert abs(found.gap) <= found.missed <= 1e-4
    assert found.steps <= most
    points, of_points = np.polynomial.legendre.leggauss(most)
    slopes = bend.at(torch.from_numpy((points[:, None] + 1) / 2).expand(-1, 3))[1]
    fixed = (torch.from_numpy(of_points / 2)[:, None] * slopes).sum(0)
    assert sharpness == 1 or float((fixed - weights * step).abs().max()) > 10 * found.missed


class Jumping:
    """Two lines whose sum jumps up by 2 at a third of the way and down again at two thirds."""

    def at(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        way = points[:, 0]
        raised = ((way > 1 / 3) & (way < 2 / 3)).to(points)
        return points @ torch.tensor([1.0, 3.0]).to(points) + 2 * raised, torch.tensor(
            [[1.0, 3.0]]
        ).to(points).expand_as(points)


def test_a_jump_is_named_although_another_one_hides_it() -> None:
    """The gap is that of the sum, where two jumps cancel."""
    start, x = torch.zeros(2).double(), torch.ones(2).double()
    found = integrate(Jumping(), x, start, 10, 1e-4, 1000)
    np.testing.assert_allclose(found.jumps, [2.0, 2.0], atol=1e-3)
    np.testing.assert_allclose(found.shares, [1.0, 3.0], atol=1e-3)
    assert abs(found.gap) < 1e-3
    assert found.missed < 1e-4
    assert found.steps < 250


def test_integrated_gradients_say_how_much_the_value_jumps_where_a_router_chooses() -> None:
    """Along the path, by plain forwards: the changes of the value where other experts run."""
    model = zoo.build("MixtralForCausalLM", std=0.3)
    subject = Subject(model, tiny.tokenizer(), bos="always")
    target = Target(" w20", measure="logit")
    found = attribute(subject, "w5 w6 w7 w8 w9", target=target, method="ig")
    table = model.get_input_embeddings().weight.detach()
    embeds = table[torch.tensor(subject.encode(["w5 w6 w7 w8 w9"])[0].ids)]
    start = embeds.clone()
    start[1:] = table.mean(0)
    values, experts = [], []
    for share in torch.linspace(0, 1, 4001).split(1000):
        points = start + share[:, None, None] * (embeds - start)
        with torch.no_grad():
            out = model(inputs_embeds=points, output_router_logits=True)
        values.append(out.logits[:, -1, 20])
        chosen = [layer.view(*points.shape[:2], -1).topk(2).indices for layer in out.router_logits]
        experts.append(torch.stack(chosen, 1).sort(-1).values.flatten(1))
    changes = torch.cat(values).diff().abs()
    others = (torch.cat(experts).diff(dim=0) != 0).any(1)
    assert found.more["jumped"] == pytest.approx(float(changes[others].sum()), rel=0.06)
    assert found.more["steps"] < 1000
    (told,) = [note.text for note in found.notes if note.kind == "warning"]
    assert "NOT COMPLETE: the gap is above 1%: the value jumps at 8 points of the path" in told


def test_a_sampled_baseline_is_the_mean_over_texts_of_drawn_words(subject: Subject) -> None:
    text, ids, read = text_of(subject)
    generator, embed = torch.Generator().manual_seed(2), subject.model.get_input_embeddings()
    special = set(subject.tokenizer.all_special_ids)
    known = torch.tensor([i for i in range(tiny.VOCAB) if i not in special])
    drawn = known[torch.randint(len(known), (3, ids.shape[1]), generator=generator)]
    x, value = embed(ids).detach()[0], logit_of_vectors(subject, read)
    points = (torch.arange(200) + 0.5)[:, None, None] / 200  # midpoints of a fine straight path
    shares = []
    for other in embed(drawn).detach():
        start = x.clone()
        start[1:7] = other[1:7]
        leaf = (start + points * (x - start)).requires_grad_()
        (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
        shares.append((slope.mean(0) * (x - start))[1:7].sum(-1).numpy())
    more: dict[str, Any] = {"target": TARGET, "level": "token", "method": "ig", "seed": 2}
    found = attribute(subject, text, baseline="sampled", samples=3, **more)
    np.testing.assert_allclose(found.scores, np.mean(shares, 0), atol=0.01 * np.abs(shares).max())


@pytest.mark.parametrize("removal", ["pad", "mean"])
def test_verified_leave_one_out_is_exact_on_top_and_captums_gradient_below(
    captum: Any, subject: Subject, removal: str
) -> None:
    """Estimates are gradient x (input - baseline) of Captum, those of the largest product of
    lengths are measured; the measured ones are those of leaving every unit out.
    """
    text = " ".join(f"w{i}" for i in range(3, 23))
    question = ask(subject, text, TARGET, "token")
    whole = explain(Scorer(question), "leave-one-out", removal=removal)
    found = explain(Scorer(question), "leave-one-out", removal=removal, verify=4)
    (part,) = question.parts
    embed = subject.model.get_input_embeddings()
    vectors = embed(torch.tensor([part.ids])).detach()
    weight = embed.weight.detach()
    absent = vectors.clone()
    absent[0, [p for (p,) in part.tokens]] = (
        weight[subject.pad_id] if removal == "pad" else weight.mean(0)
    )
    value = logit_of_vectors(subject, part.reads[0])
    gradient = captum.Saliency(value).attribute(vectors.requires_grad_(), abs=False)[0].detach()
    places = [p for (p,) in part.tokens]
    way = (vectors.detach() - absent)[0, places]
    expected = (way * gradient[places]).sum(-1)
    bounds = (way.norm(dim=-1) * gradient[places].norm(dim=-1)).numpy()
    np.testing.assert_allclose(found.more["estimates"], expected.numpy(), rtol=2e-3, atol=1e-5)
    exact = found.more["exact"]
    assert len(exact) == 12
    largest = np.argsort(-bounds)[:4].tolist()
    assert set(largest) <= set(exact)
    np.testing.assert_allclose(found.scores[exact], whole.scores[exact], atol=1e-5)
    assert found.cost.forwards < whole.cost.forwards
    sizes = np.abs(whole.scores)
    is_larger = sizes > sizes[largest].min()
    others = found.more["others"]
    assert others["larger"] == is_larger[list(set(exact) - set(largest))].sum()
    unmeasured = list(set(range(len(sizes))) - set(exact))
    assert others["unmeasured"] == len(unmeasured)
    assert is_larger[unmeasured].sum() <= others["at_most"] <= len(unmeasured)
    assert "Spearman" in " ".join(note.text for note in found.notes)


@pytest.mark.parametrize(("unseen", "n_larger"), [(46, 3), (46, 20), (5, 5), (12, 0)])
def test_the_bound_on_unseen_units_holds_in_95_of_100_draws(unseen: int, n_larger: int) -> None:
    """By counting draws; and the next smaller bound would not hold where none was drawn."""
    rng, drawn = np.random.default_rng(0), 8
    is_larger = np.arange(drawn + unseen) < n_larger
    holds = 0
    for _ in range(2000):
        seen = int(rng.permutation(is_larger)[:drawn].sum())
        holds += n_larger - seen <= most_unseen(seen, drawn, unseen)
    assert holds >= 0.94 * 2000
    most = most_unseen(0, drawn, unseen)
    if most < unseen:
        # With one more that is larger, drawing none would be rarer than one in twenty.
        chance = math.comb(drawn + unseen - most - 1, drawn) / math.comb(drawn + unseen, drawn)
        assert (
            chance
            <= 0.05
            < math.comb(drawn + unseen - most, drawn) / math.comb(drawn + unseen, drawn)
        )


def test_occlusion_is_captums(captum: Any, subject: Subject) -> None:
    text, ids, read = text_of(subject)
    baselines = torch.full_like(ids, subject.pad_id)
    expected = captum.FeatureAblation(logit(subject, read)).attribute(ids, baselines)[0]
    found = attribute(subject, text, target=TARGET, removal="pad")
    np.testing.assert_allclose(found.scores, expected[1:7].numpy(), atol=1e-5)
    body = ids[:, 1:7]
    fixed = logit(subject, read)

    def inner(some: torch.Tensor) -> torch.Tensor:
        rest = ids[:, 7:].expand(len(some), -1)
        return fixed(torch.cat([ids[:, :1].expand(len(some), -1), some, rest], 1))

    expected = captum.Occlusion(inner).attribute(
        body, sliding_window_shapes=(3,), baselines=subject.pad_id
    )[0]
    found = attribute(subject, text, target=TARGET, removal="pad", method="windows", window=3)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-5)


def test_kernel_shap_is_captums_on_its_samples(captum: Any, subject: Subject) -> None:
    _, ids, read = text_of(subject)
    rows: list[torch.Tensor] = []
    values: list[float] = []

    def record(given: torch.Tensor) -> torch.Tensor:
        out = logit(subject, read)(given).double()
        rows.extend((given != subject.pad_id)[:, 1:7])
        values.extend(out.tolist())
        return out

    torch.manual_seed(0)
    np.random.seed(0)
    mask = torch.tensor([[0, *range(1, 7), *[0] * (ids.shape[1] - 7)]])
    baseline = torch.full_like(ids, subject.pad_id)
    baseline[mask == 0] = ids[mask == 0]
    theirs = captum.KernelShap(record).attribute(ids, baseline, feature_mask=mask, n_samples=200)[0]
    found = np.array([r.numpy() for r in rows]), np.array(values)
    inside = found[0].any(1) & ~found[0].all(1)
    full, empty = found[1][found[0].all(1)][0], found[1][~found[0].any(1)][0]
    scores, _ = shapley.kernel_solve(
        found[0][inside], found[1][inside], np.ones(inside.sum()), full, empty
    )
    # Captum's own problem, solved in float64: a million for the whole text and the empty one. In
    # float32 it is off by 1e-3.
    X, y = np.column_stack([np.ones(len(found[0])), found[0]]), found[1]
    w = np.where(found[0].all(1) | ~found[0].any(1), 1e6, 1.0)
    np.testing.assert_allclose(
        scores, np.linalg.solve((X * w[:, None]).T @ X, (X * w[:, None]).T @ y)[1:], atol=1e-5
    )
    np.testing.assert_allclose(scores, theirs[1:7].numpy(), atol=3e-3)


def test_conductance_is_captums(captum: Any) -> None:
    one = Subject(tiny.model("llama"), tiny.tokenizer(), bos="always")
    text, ids, read = text_of(one)
    vectors = one.model.get_input_embeddings()(ids).detach()
    baseline = vectors.clone()
    baseline[:, 1:7] = one.model.get_input_embeddings().weight[one.pad_id].detach()
    layer = one.model.get_submodule("model.layers.0.mlp.down_proj")
    theirs = captum.LayerConductance(logit_of_vectors(one, read), layer)
    expected = theirs.attribute(
        vectors, baseline, n_steps=200, method="riemann_trapezoid", attribute_to_layer_input=True
    )
    found = attribute(
        one,
        text,
        target=TARGET,
        method="conductance",
        site="blocks.0.mlp.hook_post",
        steps=200,
        level="token",
        baseline="pad",
    )
    assert found.inner is not None
    assert found.inner.shape == (6, 64)
    np.testing.assert_allclose(
        found.inner, expected[0, 1:7].detach().numpy(), atol=0.05 * np.abs(found.inner).max()
    )


def test_heads_share_the_attribution_of_their_site() -> None:
    one = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")
    found = attribute(one, TEXT, target=TARGET, method="ig", site="blocks.1.attn.hook_z")
    assert found.inner is not None
    assert found.inner.shape == (6, 4)
    np.testing.assert_allclose(found.inner.sum(1), found.scores, atol=1e-6)
    # All heads at zero, by hand: the site's whole attribution is what the value loses.
    from hooks import edits, intervene

    ids = torch.tensor([one.encode([TEXT])[0].ids])
    with torch.no_grad(), intervene(one.model, {"blocks.1.attn.hook_z": edits.zero()}):
        without = float(one.model(ids).logits[0, -1, 20])
    assert found.scores.sum() + found.more["outside"] == pytest.approx(
        found.value - without, rel=0.01, abs=1e-4
    )


def test_the_weights_have_no_gradient_afterwards() -> None:
    one = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")
    for method in ("ig", "conductance", "smoothgrad"):
        attribute(one, TEXT, target=TARGET, method=method, site="blocks.0.mlp.hook_post")
    assert all(p.grad is None for p in one.model.parameters())


def test_a_frozen_graph_is_one_clear_line() -> None:
    one = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")
    scorer = Scorer(ask(one, TEXT, TARGET))
    block = one.model.transformer.h[0]
    handle = block.register_forward_hook(lambda module, args, out: out.detach())
    try:
        with pytest.raises(ValueError, match="no gradient from the value"):
            explain(scorer, "saliency")
    finally:
        handle.remove()
