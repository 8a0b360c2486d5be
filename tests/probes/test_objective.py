"""The joint objective: its gradient,
and that moving step by step arrives where computing afresh does.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from probes.objective import ABSENT, Point, residuals

N, R, C = 300, 7, 5
CLASSES = (5, 3)


def made(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    Z = torch.randn(N, R, generator=generator, dtype=torch.float64)
    Z[:, -1] = 1
    Y = torch.stack([torch.randint(c, (N,), generator=generator) for c in CLASSES], dim=1)
    W = torch.randn(R, 2, C, generator=generator, dtype=torch.float64)
    W[:, 1, 3:] = 0
    W[-1, 1, 3:] = ABSENT
    return Z.to(dtype), Y, W.to(dtype), torch.tensor([0.5, 20.0], dtype=torch.float64)


def by_autograd(Z: Tensor, Y: Tensor, W: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    W = W.clone().requires_grad_()
    each = []
    for j, c in enumerate(CLASSES):
        cross = torch.nn.functional.cross_entropy(Z @ W[:, j, :c], Y[:, j], reduction="sum")
        each.append(cross + l2[j] / 2 * (W[:-1, j] ** 2).sum())
    torch.stack(each).sum().backward()
    assert W.grad is not None
    return torch.stack(each).detach(), W.grad


def test_objective_and_gradient_are_autograds() -> None:
    Z, Y, W, l2 = made()
    point = Point(Z, Y, W, l2, block=64)
    loss, gradient = by_autograd(Z, Y, W, l2)
    torch.testing.assert_close(point.loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(point.gradient, gradient, rtol=1e-9, atol=1e-9)
    assert point.present.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


def test_moving_arrives_where_computing_afresh_does() -> None:
    Z, Y, W, l2 = made()
    step = torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=W.dtype)
    step[:, 1, 3:] = 0
    point = Point(Z, Y, W, l2, block=64)
    point.move(Z, step, slice(None))
    point.move(Z, -0.5 * step[:, 1:], torch.tensor([1]))
    there = W + step
    there[:, 1] -= 0.5 * step[:, 1]
    loss, gradient = by_autograd(Z, Y, there, l2)
    torch.testing.assert_close(point.loss, loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(point.gradient, gradient, rtol=1e-9, atol=1e-9)
    point.select(torch.tensor([False, True]))
    point.move(Z, -0.5 * step[:, 1:], slice(None))
    torch.testing.assert_close(point.loss, by_autograd(Z, Y, W, l2)[0][1:], rtol=1e-11, atol=0)


def test_rough_products_err_in_proportion_to_the_step() -> None:
    Z, Y, W, l2 = made(torch.float32)
    rough = Z.bfloat16()
    step = torch.randn(W.shape, generator=torch.Generator().manual_seed(1))
    step[:, 1, 3:] = 0
    errors = []
    for size in (1.0, 0.01):
        point = Point(Z, Y, W, l2, block=64)
        point.move(rough, size * step, slice(None))
        errors.append(float((point.logits - (Z @ point.W.view(R, -1)).view(N, 2, C)).abs().max()))
    assert 1e-3 < errors[0] < 0.1
    assert errors[1] == pytest.approx(0.01 * errors[0], rel=0.5)


def test_sure_rows_keep_their_digits_in_single_precision() -> None:
    """1 - p_y and log p_y of a row that is sure, against 50 digits."""
    margins = [-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 8.0, 16.0, 30.0]
    logits = torch.tensor([[[margin, 0.25, -0.5]] for margin in margins])
    y = torch.zeros(len(margins), 1, dtype=torch.int64)
    residual, nats = residuals(logits, y)
    with localcontext(prec=50):
        for row, margin in enumerate(margins):
            e = [Decimal(value).exp() for value in (margin, 0.25, -0.5)]
            p = [float(value / sum(e)) for value in e[1:]]
            missed = float((e[1] + e[2]) / sum(e))
            assert residual[row, 0].tolist() == pytest.approx([-missed, *p], rel=1e-6)
            assert float(nats[row]) == pytest.approx(float((sum(e) / e[0]).ln()), rel=1e-6)
