"""Reading the records of ablation and patching: families, names, the strongest, what is clear of chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05
"""False-discovery rate below which an effect is called clear of chance."""


def families(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The records of each value and kind of part: what shares a grid and a false-discovery rate."""
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        out.setdefault((str(record.get("value")), str(record.get("component"))), []).append(dict(record))
    return out


def strongest(records: Sequence[Mapping[str, Any]], count: int = 10) -> list[Mapping[str, Any]]:
    """The components with the largest effect either way."""
    return sorted(records, key=lambda r: -abs(float(r["effect"])))[:count]


def clear_of_chance(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records whose false-discovery rate is below ``LEVEL``."""
    return [r for r in records if r.get("q") is not None and r["q"] < LEVEL]


def component_name(record: Mapping[str, Any]) -> str:
    """How people call it: L3H5, L3N1024, L3 MLP, L3 at position 7."""
    kind, layer = record["component"], record["layer"]
    after = {
        "heads": f"H{record['index']}",
        "neurons": f"N{record['index']}",
        "positions": f" at position {record['index']}",
        "mlps": " MLP",
        "attentions": " attention",
    }
    return f"L{layer}{after.get(kind, '')}"


def ranking(records: Sequence[Mapping[str, Any]], count: int = 5) -> str:
    """The strongest by name, for a sentence."""
    return ", ".join(f"{component_name(r)} ({r['effect']:+.3g})" for r in strongest(records, count))
