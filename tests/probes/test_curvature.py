"""The curvature against autograd's Hessian, and what its preconditioner saves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probes.curvature import ClassBlocks, Curvature
from probes.newton import _State
from probes.objective import ABSENT, Point, dot

N, R, C = 400, 12, 4
CLASSES = (4, 2)
L2 = torch.tensor([0.5, 20.0], dtype=torch.float64)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows in the basis of their Gram matrix with the ones last, labels, coefficients, eigenvalues.

    Where one class is uncertain, features vary otherwise than elsewhere: no preconditioner that
    takes features and classes apart knows of it.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, R - 1, generator=generator, dtype=torch.float64)
    features[: N // 2, : R // 2] *= 20
    features[N // 2 :, R // 2 :] *= 8
    features[:, 0] = torch.cat([torch.full((N // 2,), 9.0), torch.full((N // 2,), -9.0)])
    features -= features.mean(0)
    values, vectors = torch.linalg.eigh(features.T @ features)
    Z = torch.cat([features @ vectors, torch.ones(N, 1, dtype=torch.float64)], 1)
    Y = torch.stack([torch.randint(c, (N,), generator=generator) for c in CLASSES], dim=1)
    W = 0.01 * torch.randn(R, 2, C, generator=generator, dtype=torch.float64)
    W[:-1, :, 0] += vectors[0].view(-1, 1)  # the first half of the rows is surely of class 0
    W[:, 1, 2:] = 0
    W[-1, 1, 2:] = ABSENT
    return Z, Y, W, torch.cat([values, values.new_tensor([N])])


def curvature(block: int = 64) -> tuple[Curvature, Tensor, Tensor, Tensor]:
    Z, Y, W, eigenvalues = problem()
    point = Point(Z, Y, W, L2, block)
    ones, blend = torch.ones(N, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert point.logits is not None
    H = Curvature(Z, Y, ones, point.logits, point.present, L2, eigenvalues, blend, block)
    return H, Z, Y, W


def direction() -> Tensor:
    V = torch.randn(R, 2, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    V[:, 1, 2:] = 0
    return V


def apart(V: Tensor) -> Tensor:
    """Without what all classes of a target share."""
    out = torch.zeros_like(V)
    for j, c in enumerate(CLASSES):
        out[:, j, :c] = V[:, j, :c] - V[:, j, :c].mean(-1, keepdim=True)
    return out


def test_products_are_autograds() -> None:
    H, Z, Y, W = curvature()

    def objective(weights: Tensor) -> Tensor:
        parts = []
        for j, c in enumerate(CLASSES):
            logits = Z @ weights[:, j, :c]
            cross = torch.nn.functional.cross_entropy(logits, Y[:, j], reduction="sum")
            parts.append(cross + L2[j] / 2 * (weights[:-1, j] ** 2).sum())
        return torch.stack(parts).sum()

    expected = torch.autograd.functional.hvp(objective, W, direction())[1]
    torch.testing.assert_close(H.times(direction()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("has_blocks", [False, True])
def test_solves_invert_the_curvature(has_blocks: bool) -> None:
    H, *_ = curvature()
    if has_blocks:
        H.blocks = ClassBlocks(H)
    expected = apart(direction())
    accuracy, none = torch.full((2,), 1e-9, dtype=torch.float64), torch.zeros(2)
    solved, left = H.solve(H.times(expected), accuracy, 500, none)
    torch.testing.assert_close(solved, expected, rtol=1e-5, atol=1e-5)
    rest = H.times(expected - solved)
    torch.testing.assert_close(left, dot(rest, H.precondition(rest)), rtol=1e-2, atol=0)


def test_what_all_classes_share_is_in_no_solution() -> None:
    """It changes no probability. Of a gradient it is rounding, which the penalty would blow up."""
    H, *_ = curvature()
    H.blocks = ClassBlocks(H)
    accuracy, none = torch.full((2,), 1e-9, dtype=torch.float64), torch.zeros(2)
    solved, _ = H.solve(direction() + 1e6, accuracy, 500, none)
    torch.testing.assert_close(apart(solved), solved, rtol=1e-9, atol=1e-9)


def test_blocks_save_most_of_the_products() -> None:
    accuracy, none = torch.full((2,), 1e-3, dtype=torch.float64), torch.zeros(2)
    products = []
    for has_blocks in (False, True):
        H, *_ = curvature()
        H.blocks = ClassBlocks(H) if has_blocks else None
        count, times = [0], Curvature.times

        def counted(self: Curvature, V: Tensor, count=count, times=times) -> Tensor:
            count[0] += 1
            return times(self, V)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Curvature, "times", counted)
            H.solve(H.times(direction()), accuracy, 500, none)
        products.append(count[0])
    assert products[1] < 0.6 * products[0], products


def test_solves_end_where_little_is_left() -> None:
    H, *_ = curvature()
    B, accuracy = apart(direction()), torch.full((2,), 1e-12, dtype=torch.float64)
    exact, _ = H.solve(B, accuracy, 500, torch.zeros(2, dtype=torch.float64))
    at_most = 0.01 * (B * exact).sum((0, 2)) / 2
    rough, _ = H.solve(B, accuracy, 500, at_most)

    def model(X: Tensor) -> Tensor:
        return ((X * H.times(X)).sum((0, 2)) / 2) - (B * X).sum((0, 2))

    left = model(rough) - model(exact)
    assert bool((left < at_most).all())
    assert bool((left > 1e-9 * at_most).all()), "it went on to the end"


def test_blocks_stay_positive_where_single_rows_are_far_from_the_others() -> None:
    generator = torch.Generator().manual_seed(3)
    Z = torch.randn(N, 41, generator=generator)
    Z[::100] *= 3e4
    Z[:, -1] = 1
    Y, l2 = torch.zeros(N, 1, dtype=torch.int64), torch.tensor([1e-3], dtype=torch.float64)
    logits = torch.randn(N, 1, 3, generator=generator)
    present, blend = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.float64)
    variances = (Z.double() ** 2).sum(0)
    H = Curvature(Z, Y, torch.ones(N), logits, present, l2, variances, blend, 64)
    inverse = ClassBlocks(H).inverse.double()
    assert bool((torch.linalg.eigvalsh((inverse + inverse.mT) / 2) > 0).all())


def test_a_decrement_behind_a_part_of_a_step_is_no_sign_of_the_end() -> None:
    state = _State(torch.zeros(3, 1, 2), torch.inf, 0.0)
    whole, part = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.01, dtype=torch.float64)
    for decrement, taken, left in ((25.0, part, 25.0), (1e-3, whole, 1e-3), (1e-5, whole, 1e-7)):
        state.advance(torch.tensor([decrement], dtype=torch.float64), taken)
        assert float(state.remaining) == pytest.approx(left)
