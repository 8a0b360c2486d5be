"""What is proved of a solution: in float64, from the features as they were given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .design import Design
from .newton import decrement, gap_bound
from .objective import dot, residuals


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
