"""What is proved of a solution: in float64, from the features as they were given; and the bounds
on what an objective can be above its minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .curvature import SOLVE_REST, ClassBlocks, Curvature
from .curvature_sample import draw, rough_rows, sample_size
from .design import Design
from .objective import Point, dot, residuals

DECREMENT_RESIDUAL, DECREMENT_STEPS = 0.1, 100
"""Residual and steps of the solve that gives the decrement."""


@dataclass(frozen=True)
class Certificate:
    """Of each target, [k]: the objective, the norm of its gradient, how far the objective can be
    above its minimum by the gradient alone, and whether it is within tol of it.
    """

    loss: Float[Tensor, " k"]
    norm: Float[Tensor, " k"]
    gap: Float[Tensor, " k"]
    proved: Tensor


def certify(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    tol: float,
) -> Certificate:
    """Objective and gradient of the final coefficients.

    A fit counts as converged only by what is computed here, whatever ended the iteration: by the
    bound that follows from the gradient, or else by the Newton decrement of that gradient.
    """
    W = W.double()
    r, k, c = W.shape
    # Out of the eigenbasis, so that rounding in the rotated rows cannot hide an error.
    coef = (design.basis @ W[:-1].reshape(r - 1, k * c)).view(design.d, k, c)
    V = torch.cat([coef, W[-1:]])
    gradient, loss = torch.zeros_like(V), torch.zeros_like(l2)
    of_bias = torch.zeros_like(V[-1])
    for rows, part in design.blocks(torch.float64):
        with_constant = torch.cat([part, part.new_ones(len(part), 1)], dim=1)
        logits = (with_constant @ V.view(-1, k * c)).view(-1, k, c)
        residual, nats = residuals(logits, Y[rows])
        loss += nats.sum(0)
        of_bias += (residual.abs() - residual.square()).sum(0)
        gradient += (with_constant.T @ residual.view(-1, k * c)).view_as(gradient)
    gradient[:-1] += l2.view(1, -1, 1) * coef
    loss += l2 / 2 * dot(coef, coef)
    norm = dot(gradient, gradient).sqrt()
    gap = gap_bound(gradient, of_bias, l2, coupling=float(design.eigenvalues.max()))
    proved = gap <= tol * loss
    if not bool(proved.all()):  # the bound is loose where the penalty is weak: ask the curvature
        rest = ~proved
        enough = tol * loss[rest]
        error = _error(design, Y[:, rest], W[:, rest], l2[rest], gradient[:, rest], enough)
        proved[rest] = (error <= enough) & (gap[rest] < torch.inf)
    return Certificate(loss, norm, gap, proved)


def _error(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    gradient: Float[Tensor, "d1 k c"],
    enough: Float[Tensor, " k"],
) -> Float[Tensor, " k"]:
    """About objective - minimum, by the curvature: g' H^-1 g / 2."""
    rotated = torch.einsum("dr,dkc->rkc", design.basis, gradient[:-1])
    in_basis = torch.cat([rotated, gradient[-1:]])
    inside = decrement(design, Y, W.to(design.dtype), l2, in_basis, enough)
    # Directions that the basis left out as rounding have no curvature but the penalty's.
    outside = gradient[:-1] - torch.einsum("dr,rkc->dkc", design.basis, rotated)
    of_outside = dot(outside, outside) / (2 * l2)
    # Norms of H^-1 add up at most.
    return (inside.sqrt() + of_outside.sqrt()) ** 2


def gap_bound(
    gradient: Float[Tensor, "r k c"],
    of_bias: Float[Tensor, "k c"],
    l2: Float[Tensor, " k"],
    coupling: float = 0.0,
) -> Float[Tensor, " k"]:
    r"""How far the objective can be above its minimum.

        f(W) - min f <= (||grad_W|| + sqrt(e_max d))^2 / (2 l2) + d,
                   d = sum_c grad_bc^2 / (2 h_c)

    The bias is not penalised: d is what its own optimum would take off, class by class. Where the
    bias is optimal, the rest is l2-strongly convex in W. Moving it there changes grad_W by
    Z' (diag p - p p') v with v = grad_b / h, which is no longer than sqrt(e_max d).

    Args:
        of_bias: h, the bias's curvature sum_i p_ic (1 - p_ic).
        coupling: e_max, the largest eigenvalue of Z'Z; 0 leaves out that W follows the bias.
    """
    size = dot(gradient[:-1], gradient[:-1]).sqrt()
    bias = (gradient[-1].double() ** 2 / (2 * of_bias.double())).nan_to_num(0.0).sum(-1)
    return (size + (coupling * bias).sqrt()) ** 2 / (2 * l2) + bias


def decrement(
    design: Design,
    Y: Int[Tensor, "n k"],
    W: Float[Tensor, "r k c"],
    l2: Float[Tensor, " k"],
    gradient: Float[Tensor, "r k c"],
    enough: Float[Tensor, " k"],
    seed: int = 1,
) -> Float[Tensor, " k"]:
    """Newton decrement g' H^-1 g / 2, about objective - minimum, with a fresh curvature sample,
    to about ``enough``: what conjugate gradients find of it, and what they leave.

    The sample is larger than that of the first iterations and none of theirs, so that it does not
    repeat an error that stopped the iteration too early.
    """
    generator = torch.Generator().manual_seed(seed)
    point = Point(design.rotated, Y, W, l2, design.block)
    size = min(2 * sample_size(design), design.sample_limit(W[0].numel()))
    sample = draw(rough_rows(design), point, size, generator)
    blend = torch.zeros_like(l2)
    curvature = Curvature(*sample, point.present, l2, design.eigenvalues, blend, design.block)
    curvature.blocks = ClassBlocks(curvature)
    g = gradient.to(W.dtype)
    residual = torch.full_like(l2, DECREMENT_RESIDUAL)
    x, left = curvature.solve(g, residual, DECREMENT_STEPS, SOLVE_REST * enough)
    # ||g|| <= ||H x|| + ||g - H x|| in the norm of H^-1: a solve that came to nothing proves
    # nothing.
    return (dot(g, x).clamp(min=0).sqrt() + left.clamp(min=0).sqrt()) ** 2 / 2
