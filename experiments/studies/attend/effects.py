"""Attention beside effect: weight is not importance, so each head's measured ablation effect stands next to where it looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...runs.folder import RunError, read_json
from ...sweep.reading import LEVEL

FIELDS = ("effect", "low", "high", "q", "exact")
AGAINST = ("confidence", "entropy", "output")
"""Statistics whose rank correlation with the size of the effect is told."""


def read_effects(folder: Path, sha256: str) -> tuple[dict[tuple[int, int], dict[str, Any]], dict[str, Any]]:
    """The effects of an ablation of heads, by (layer, head), and what was measured.

    Raises:
        RunError: no finished run there, one of another kind or of other parts, or of another model.
    """
    path = folder / "results.json"
    if not path.exists():
        raise RunError(
            f"--effects {folder}: expected the folder of a finished `layerscope ablate`, it has no results.json"
        )
    found = read_json(path)
    records = [r for r in found.get("records") or () if r.get("component") == "heads"]
    if found.get("kind") != "ablate" or not records:
        raise RunError(f"--effects {folder}: expected an ablation of heads, got a run of kind {found.get('kind')!r}")
    other = found["provenance"]["model"]["sha256"]
    if other != sha256:
        raise RunError(
            f"--effects {folder}: expected effects of this model (sha256 {sha256[:12]}), they are of another "
            f"({other[:12]}; {found['provenance']['model']['name']})"
        )
    first = records[0]
    about = {name: first.get(name) for name in ("metric", "unit", "value", "baseline")}
    return {(r["layer"], r["index"]): {k: r.get(k) for k in FIELDS} for r in records}, about


def disagreement(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Where attention and effect part ways, over the heads that have an effect.

    ``spearman`` are rank correlations of the effect's size with statistics of attention. ``sharp_unneeded`` are heads
    among the most confident quarter whose effect is not clear of chance; ``diffuse_needed`` heads among the least confident
    quarter whose effect is.
    """
    from scipy.stats import spearmanr

    mine = [r for r in records if r.get("effect") is not None]
    size = np.array([abs(r["effect"]) for r in mine])
    spearman: dict[str, float | None] = {}
    for name in AGAINST:
        values = np.array([r[name] for r in mine if r.get(name) is not None])
        varies = len(values) == len(mine) > 2 and np.ptp(values) > 0 and np.ptp(size) > 0
        found: Any = spearmanr(values, size) if varies else None
        spearman[name] = float(found.statistic) if varies else None
    confidence = np.array([r["confidence"] for r in mine])
    low, high = np.quantile(confidence, [0.25, 0.75])
    clear = [r.get("effect_q") is not None and r["effect_q"] < LEVEL for r in mine]
    return {
        "n": len(mine),
        "spearman": spearman,
        "sharp_unneeded": [
            r["site"]
            for r, c in zip(mine, clear, strict=True)
            if r["confidence"] >= high and not c and r["effect_exact"]
        ],
        "diffuse_needed": [r["site"] for r, c in zip(mine, clear, strict=True) if r["confidence"] <= low and c],
    }
