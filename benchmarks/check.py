"""Whether a benchmark's figures got worse than those that RESULTS.md has of it.

A ratio is written ``1.502x (1.197 to 1.604 of 7 turns)``, or without its spread where there were
few turns. It got worse if it lies beyond the spread of the ratio before and its own spread does not
reach back to that. A benchmark without a peer prints costs instead (``0.047 s (0.046 to 0.053``,
``8.7 us``, ``0.90 MB``); seconds count in those of the matrix product that each block ends with, so
that a slower machine is not a slower program.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

_RATIO = re.compile(
    r"(?P<value>\d+\.\d+)x\b(?: \((?P<low>\d[\d.]*) to (?P<high>\d[\d.]*) of \d+ turns\))?"
)
_COST = re.compile(
    r"(?<!at most )(?<![\d.,])(?P<value>\d+(?:,\d{3})*(?:\.\d+)?) "
    r"(?P<unit>us|ms|s|MB|nodes|forwards)\b"
    r"(?: \((?P<low>\d[\d.]*) to (?P<high>\d[\d.]*)\b)?"
)
"""A figure and its unit, and not what was asked of it."""
_PRODUCT = re.compile(r"the product took ([\d., ]+) s before and ([\d., ]+) s after")
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
WITHOUT_SPREAD = 0.15
"""Taken as the spread of a figure that is printed without one, as a share of it."""


@dataclass(frozen=True)
class Figure:
    """A ratio of two sides, or a cost, and its spread."""

    value: float
    low: float
    high: float
    unit: str = "x"


def ratios(block: str) -> dict[str, Figure]:
    """The ratios of a block of RESULTS.md: the words before each, without their numbers -> it."""
    return _figures(block, _RATIO)


def costs(block: str) -> dict[str, Figure]:
    """The figures with a unit of a block that has no ratio; times in products of matrices."""
    if ratios(block):
        return {}
    figures, product = _figures(block, _COST), _product(block)
    is_time = {"us", "ms", "s"}
    return {
        label: Figure(cost.value / product, cost.low / product, cost.high / product, cost.unit)
        if cost.unit in is_time
        else cost
        for label, cost in figures.items()
    }


def _product(block: str) -> float:
    """Seconds of the matrix product before and after a benchmark; 1 where they are not told."""
    match = _PRODUCT.search(block)
    if match is None:
        return 1.0
    return statistics.median(float(t) for side in match.groups() for t in side.split(", "))


def _figures(block: str, pattern: re.Pattern[str]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    output = block.split("```")[1] if "```" in block else block
    for line in output.splitlines():
        begin = 0
        for match in pattern.finditer(line):
            label = _NUMBER.sub("#", line[begin : match.start()]).strip(" :;,(")
            place = 2
            while label in figures:  # such as the same line for another width
                label = f"{label.rsplit(' [', 1)[0]} [{place}]"
                place += 1
            figures[label] = _figure(match)
            begin = match.end()
    return figures


def _figure(match: re.Match[str]) -> Figure:
    value, unit = float(match["value"].replace(",", "")), match.groupdict().get("unit", "x")
    if match["low"] is None:
        return Figure(value, value * (1 - WITHOUT_SPREAD), value * (1 + WITHOUT_SPREAD), unit)
    return Figure(value, float(match["low"]), float(match["high"]), unit)


def worse(before: str, now: str, smaller: str) -> list[str]:
    """A line for each figure of a block that got worse, or that is measured no more.

    Args:
        smaller: a pattern of the labels whose figures are better the smaller they are; other ratios
            are gains, and other costs those of a peer.
    """
    lines = []
    ratios_now, costs_now = ratios(now), costs(now)
    for label, last in ratios(before).items():
        is_cost = bool(smaller) and re.search(smaller, label) is not None
        lines += _compared(label, last, ratios_now.get(label), is_cost)
    for label, last in costs(before).items():
        if smaller and re.search(smaller, label):
            lines += _compared(label, last, costs_now.get(label), is_cost=True)
    return lines


def _compared(label: str, last: Figure, figure: Figure | None, is_cost: bool) -> list[str]:
    """What is to be said of a figure, beside the last one."""
    was = f"was {last.value:.3g}{last.unit} ({last.low:.3g} to {last.high:.3g})"
    if figure is None:
        return [f"{label}: not measured, {was}"]
    if is_cost:
        is_worse = figure.value > last.high and figure.low > last.value
    else:
        is_worse = figure.value < last.low and figure.high < last.value
    return [f"{label}: {figure.value:.3g}{figure.unit}, {was}"] if is_worse else []
