"""Numbers, sizes and places as a reader sees them: one spelling for the whole report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .schema import Interval

ABSENT = "–"
ROUNDING = 1e-9
"""Numbers below this are rounding errors, and shown as 0."""
DOUBT = ", a difference that is not significant"
"""What follows a baseline that a score does not exceed significantly."""


def finite(value: Any) -> float | None:
    """The value as a finite float, or None for anything that is not one (null, NaN, text)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any, digits: int = 3) -> str:
    """A score with a true minus sign; an en dash if there is none.

    >>> number(-0.25), number(-0.0004), number(-1e-12), number(0.0004, digits=2)
    ('−0.250', '−4.0e−04', '0.000', '0.00')
    """
    x = finite(value)
    return ABSENT if x is None else plain_number(x, f".{digits}f").replace("-", "−")


def plain_number(value: float, form: str = ".3f") -> str:
    """A number in this format, but in scientific notation if three or more decimals would show
    zeros only. Below ``ROUNDING`` it is 0, without a sign.

    >>> plain_number(0.25), plain_number(0.0004, "+.3f"), plain_number(-1e-12)
    ('0.250', '+4.0e-04', '0.000')
    """
    text = f"{value:{form}}"
    if float(text) != 0.0:
        return text
    has_decimals = len(text.partition(".")[2]) >= 3
    if has_decimals and abs(value) >= ROUNDING:
        sign = "+" if form.startswith("+") else ""
        return f"{value:{sign}.1e}"
    return text.lstrip("+-")


def signed(value: Any, digits: int = 3) -> str:
    """A difference, always with its sign."""
    text = number(value, digits)
    bare = text == ABSENT or text.startswith("−") or not text.strip("0.")
    return text if bare else f"+{text}"


def with_unit(text: str, unit: str) -> str:
    """A number and its unit; a share has none.

    >>> with_unit("2.3", "bits"), with_unit("0.8", "share")
    ('2.3 bits', '0.8')
    """
    return text if unit == "share" else f"{text} {unit}"


def interval(ends: Interval | None, digits: int = 3) -> str:
    """`low to high`, or nothing where there is none."""
    return "" if ends is None else f"{number(ends.low, digits)} to {number(ends.high, digits)}"


def p_value(value: Any) -> str:
    """A p-value, never printed as zero."""
    x = finite(value)
    if x is None:
        return ABSENT
    return "<0.001" if x < 0.001 else f"{x:.3f}"


def general(value: Any) -> str:
    """A quantity of any size (a penalty, a gradient norm) in four significant digits."""
    x = finite(value)
    return ABSENT if x is None else f"{x:.4g}".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with its thousands set apart."""
    x = finite(value)
    return ABSENT if x is None else f"{int(x):,}"


def size(value: Any) -> str:
    """Bytes in the largest binary unit that keeps the figure at one or above."""
    x = finite(value)
    if x is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(x) < 1024:
            return f"{x:.0f} {unit}" if unit == "B" else f"{x:.1f} {unit}"
        x /= 1024
    return f"{x:.1f} TiB"


def duration(value: Any) -> str:
    """Seconds as a person says them."""
    x = finite(value)
    if x is None:
        return ABSENT
    if x < 60:
        return f"{x:.1f} s"
    minutes, seconds = divmod(round(x), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def plural(n: int, one: str, many: str | None = None) -> str:
    """`1 layer`, `7 layers`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def runs(positions: Iterable[int], labels: Sequence[str]) -> str:
    """Positions on an axis as runs of their labels: `emb, 2–4`."""
    groups: list[list[int]] = []
    for p in sorted(positions):
        if groups and p == groups[-1][-1] + 1:
            groups[-1].append(p)
        else:
            groups.append([p])
    parts: list[str] = []
    for group in groups:
        first, last = labels[group[0]], labels[group[-1]]
        if len(group) == 1:
            parts.append(first)
        elif len(group) == 2:
            parts.extend((first, last))
        else:
            parts.append(f"{first}–{last}")
    return ", ".join(parts)


def layer_label(layer: Any, site: str = "") -> str:
    """`emb` for -1, the embedding layer; the block's own number for the others; the site's name
    where it has none.

    >>> layer_label(-1), layer_label(3), layer_label(None, "module:rnn:output")
    ('emb', '3', 'module:rnn:output')
    """
    x = finite(layer)
    if x is None:
        return site or "?"
    return "emb" if x < 0 else str(int(x))


def family(site: str) -> str:
    """The site with its block number left out: sites that differ in depth alone share one curve."""
    return re.sub(r"\bblocks\.\d+\.", "blocks.*.", site)


def unnamed(text: str, name: str) -> str:
    """The paragraph without the name that it opens with: the page sets the name in front,
    as a link.
    """
    opens = next((o for o in (f"{name}: ", f"{name} ") if name and text.startswith(o)), "")
    return text.removeprefix(opens)
