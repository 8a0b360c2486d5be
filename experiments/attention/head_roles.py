"""What a head is called, from where it looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .arcs import POSITIONAL

ON_REPEATS = 0.3
"""Mean attention from which a role on repeated random tokens is named."""
MASSES = {
    "first": (0.8, "first token"),
    "end": (0.8, "end of text"),
    "punctuation": (0.5, "punctuation"),
    "self": (0.5, "itself"),
    "previous": (0.5, "previous token"),
    "next": (0.5, "next token"),
}
"""Statistic -> the value from which it names the head, and the name."""
BROAD = 0.95
"""Normalised entropy from which a head's attention is called uniform."""


def roles(record: Mapping[str, Any]) -> list[str]:
    """A head's names, the most telling first; empty for a head that does nothing of what is looked for.

    >>> roles({"induction": 0.8, "first": 0.1, "entropy": 0.3})
    ['induction']
    """
    out = [
        name
        for key, name in (("induction", "induction"), ("duplicate", "duplicate token"))
        if (record.get(key) or 0.0) >= ON_REPEATS
    ]
    if record.get("relation"):
        out.append(f"{record['relation']} {record['direction']}")
    masses = [name for key, (least, name) in MASSES.items() if (record.get(key) or 0.0) >= least]
    if (record.get("positional") or 0.0) >= POSITIONAL and not {
        "previous token",
        "next token",
    } & set(masses):
        out.append(
            {-1: "previous word", 1: "next word"}.get(
                record["offset"], f"word at {record['offset']:+d}"
            )
        )
    out += masses
    if (record.get("entropy") or 0.0) >= BROAD:
        out.append("uniform")
    return out
