"""How a sentence is held against its records: patterns with numbers in them,
and what a number must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

Raw = dict[str, Any]
Groups = dict[str, str]
Check = Callable[[Raw, Groups, str], None]
NUMBER = r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+−]?\d+)?%?"
LEVEL = 0.05


class FalseClaim(AssertionError):
    """A sentence that the records do not bear out, or that no pattern knows."""


Claim = tuple[re.Pattern[str], Check]


def held_by(claims: Sequence[Claim], results: Raw, text: str, about: str = "") -> None:
    """Raise `FalseClaim` unless every part of a text is known and true of these results."""
    rest = text
    while rest:
        for pattern, check in claims:
            match = pattern.match(rest)
            if match is not None and match.end():
                groups = {name: text or "" for name, text in match.groupdict().items()}
                try:
                    check(results, groups, about)
                except (LookupError, ValueError, StopIteration, TypeError) as error:
                    raise FalseClaim(f"it names what is not there: {error}") from error
                rest = rest[match.end() :].lstrip()
                break
        else:
            raise FalseClaim(f"no claim is known that begins {rest[:80]!r}")


def true(is_true: bool, what: str = "") -> None:
    """Raise `FalseClaim` unless it is."""
    if not is_true:
        raise FalseClaim(what)


def same(text: str, value: float | None, what: str = "") -> None:
    """A printed number is the value to within half a unit of its last place."""
    true(value is not None, f"{what}: {text} of nothing")
    assert value is not None
    scale = 100 if text.endswith("%") else 1
    printed = text.rstrip("%").replace(",", "").replace("−", "-")
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    half = 0.5 * 10.0**exponent
    true(abs(float(printed) - scale * value) <= half * (1 + 1e-6), f"{what}: {text}, {value}")


def ends(groups: Groups, interval: Raw | None, low: str = "low", high: str = "high") -> None:
    """Two printed ends, or none of none."""
    true(bool(groups[low]) == (interval is not None), "an interval")
    if interval is not None:
        same(groups[low], interval["low"], "low")
        same(groups[high], interval["high"], "high")


def compiled(text: str) -> re.Pattern[str]:
    """A pattern in which ``<name>`` is a number and ``<name:...>`` is what follows the colon."""
    escaped = re.sub(r"<(\w+)>", lambda m: f"(?P<{m[1]}>{NUMBER})", text)
    return re.compile(re.sub(r"<(\w+):(.*?)>", lambda m: f"(?P<{m[1]}>{m[2]})", escaped))


def nothing(results: Raw, g: Groups, about: str) -> None:
    """A part without a number."""


def check_agreement(low: float, high: float, p: float, what: str) -> None:
    """An interval leaves 0 out exactly where p is below 5%."""
    true((low > 0 or high < 0) == (p < LEVEL), f"{what}: {low} to {high} beside p = {p}")
