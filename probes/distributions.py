"""Quantiles and tails of the normal distribution, of Student's t and of the hypergeometric.

Not scipy.stats: its import takes three times as long as all of numpy and scipy.special, in every
command that reports an interval, and these functions are a line each without it.
"""

from __future__ import annotations

from math import comb
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


def hypergeometric_cdf(k: int, drawn: int, marked: int, total: int) -> float:
    r""":math:`P(K \le k)` for the number K of marked ones among ``drawn`` of ``total``, drawn
    without replacement.

    >>> hypergeometric_cdf(0, drawn=1, marked=3, total=4)
    0.25
    """
    ways = sum(comb(marked, seen) * comb(total - marked, drawn - seen) for seen in range(k + 1))
    return ways / comb(total, drawn)
