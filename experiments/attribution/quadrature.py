"""Gauss-Legendre quadrature over [0, 1]."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def gauss_legendre(
    count: int,
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Return ``count`` points and weights, exact for polynomials of degree 2 count - 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2
