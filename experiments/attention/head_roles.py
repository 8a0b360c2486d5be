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
    """A head's names, the most telling first; empty for a head that does nothing of what is looked
    for.

    >>> roles({"induction": 0.8, "first": 0.1, "entropy": 0.3})
    ['induction']
    """

    def value(key: str) -> float:
        """0 where it was not measured."""
        return record.get(key) or 0.0

    names = []
    for key, name in (("induction", "induction"), ("duplicate", "duplicate token")):
        if value(key) >= ON_REPEATS:
            names.append(name)
    if record.get("relation"):
        names.append(f"{record['relation']} {record['direction']}")
    masses = [name for key, (least, name) in MASSES.items() if value(key) >= least]
    # A head of the previous token is one of the previous word too, wherever words are single
    # tokens: named once.
    is_of_token = bool({"previous token", "next token"} & set(masses))
    if value("positional") >= POSITIONAL and not is_of_token:
        offset = record["offset"]
        neighbours = {-1: "previous word", 1: "next word"}
        names.append(neighbours.get(offset, f"word at {offset:+d}"))
    names += masses
    if value("entropy") >= BROAD:
        names.append("uniform")
    return names
