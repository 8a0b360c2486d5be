"""Quantiles and tails of the normal distribution and of Student's t.

Not scipy.stats: its import takes three times as long as all of numpy and scipy.special, in every
command that reports an interval, and these four functions are one call each of scipy.special.
"""

from __future__ import annotations

from typing import Any

from scipy.special import ndtr, ndtri, stdtr, stdtrit


def normal_quantile(p: Any) -> Any:
    r"""The z with :math:`P(Z \le z) = p`."""
    return ndtri(p)


def normal_cdf(z: Any) -> Any:
    r""":math:`P(Z \le z)`."""
    return ndtr(z)


def normal_tail(z: Any) -> Any:
    r""":math:`P(Z > z)`."""
    return ndtr(-z)


def t_quantile(p: Any, freedom: Any) -> Any:
    r"""The t with :math:`P(T \le t) = p`, for p above 0."""
    return stdtrit(freedom, p)


def t_tail(t: Any, freedom: Any) -> Any:
    r""":math:`P(T > t)`."""
    return stdtr(freedom, -t)
