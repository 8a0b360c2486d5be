"""Whether a benchmark's ratios got worse than those that RESULTS.md has of it.

A ratio is written ``1.502x (1.197 to 1.604 of 7 turns)``, or without its spread where there were
few turns. It got worse if it lies beyond the spread of the ratio before and its own spread does not
reach back to that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RATIO = re.compile(
    r"(?P<value>\d+\.\d+)x\b(?: \((?P<low>\d[\d.]*) to (?P<high>\d[\d.]*) of \d+ turns\))?"
)
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
WITHOUT_SPREAD = 0.15
"""Taken as the spread of a ratio that is printed without one, as a share of it."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sides and its spread."""

    value: float
    low: float
    high: float


def ratios(block: str) -> dict[str, Ratio]:
    """What a block of RESULTS.md measured: the words before a ratio,
    without their numbers -> the ratio.
    """
    found: dict[str, Ratio] = {}
    output = block.split("```")[1] if "```" in block else block
    for line in output.splitlines():
        begin = 0
        for match in _RATIO.finditer(line):
            label = _NUMBER.sub("#", line[begin : match.start()]).strip(" :;,(")
            place = 2
            while label in found:  # such as the same line for another width
                label = f"{label.rsplit(' [', 1)[0]} [{place}]"
                place += 1
            found[label] = _ratio(match)
            begin = match.end()
    return found


def _ratio(match: re.Match[str]) -> Ratio:
    value = float(match["value"])
    if match["low"] is None:
        return Ratio(value, value * (1 - WITHOUT_SPREAD), value * (1 + WITHOUT_SPREAD))
    return Ratio(value, float(match["low"]), float(match["high"]))


def worse(before: str, now: str, costs: str) -> list[str]:
    """A line for each ratio of a block that got worse.

    Args:
        costs: a pattern of the labels whose ratios are costs, which are better the smaller they
            are.
    """
    lines = []
    known = ratios(before)
    for label, ratio in ratios(now).items():
        if label not in known:
            continue
        last = known[label]
        is_cost = bool(costs) and re.search(costs, label) is not None
        if is_cost:
            is_worse = ratio.value > last.high and ratio.low > last.value
        else:
            is_worse = ratio.value < last.low and ratio.high < last.value
        if is_worse:
            spread = f"{last.low:.3g} to {last.high:.3g}"
            lines.append(f"{label}: {ratio.value:.3g}x, was {last.value:.3g}x ({spread})")
    return lines
