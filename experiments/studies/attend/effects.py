"""Attention against effect: weight is not importance,
so a head's measured effect is reported with what it attends to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....probes.ranks import spearman
from ...report.schema import entry, from_json
from ...runs.folder import RunError, read_results
from ...sweep.reading import LEVEL
from ...sweep.records import EffectRecord, EffectResults
from .records import Disagreement, HeadEffect, HeadRecord

AGAINST = ("confidence", "entropy", "output")
"""Statistics whose rank correlation with the size of the effect is reported."""
QUARTER = 0.25
LEAST_RANKED = 3
"""Heads from which a rank correlation is defined."""


@dataclass(frozen=True)
class Ablation:
    """A finished ablation of heads.

    Args:
        effects: of each head, by layer and number.
        about: the metric, its unit, the value that replaced the heads, and the metric without
            ablation.
    """

    effects: dict[tuple[int, int], HeadEffect]
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Ablated(EffectResults):
    """What is read of the results of `layerscope ablate`."""

    records: list[EffectRecord] = entry("one for each part")


def read_effects(folder: Path, sha256: str) -> Ablation:
    """The effects of an ablation of heads.

    Raises:
        RunError: no finished run there, one of another kind or of other parts, or of another model.
    """
    path = folder / "results.json"
    if not path.exists():
        raise RunError(
            f"--effects {folder}: expected the folder of a finished `layerscope ablate`, "
            "it has no results.json"
        )
    raw = read_results(path)
    if raw.get("kind") != "ablate":
        raise RunError(
            f"--effects {folder}: expected an ablation of heads, "
            f"got a run of kind {raw.get('kind')!r:.40}"
        )
    results = from_json(_Ablated, raw, str(path))
    records = [record for record in results.records if record.component == "heads"]
    if not records:
        raise RunError(f"--effects {folder}: expected an ablation of heads, it has no head")
    model = results.provenance.get("model") or {}
    # A model's name is not enough: other weights or another revision may have the same.
    if (other := model.get("sha256")) != sha256:
        raise RunError(
            f"--effects {folder}: expected effects of this model (sha256 {sha256[:12]}), "
            f"they are of another ({str(other)[:12]}; {model.get('name')})"
        )
    about = {name: getattr(records[0], name) for name in ("metric", "unit", "value", "baseline")}
    effects = {(one.layer, one.index): _effect(one) for one in records if one.index is not None}
    return Ablation(effects, about)


def _effect(record: EffectRecord) -> HeadEffect:
    return HeadEffect(
        effect=record.effect,
        effect_interval=record.effect_interval,
        q=record.q,
        exact=record.exact,
    )


def disagreement(records: Sequence[HeadRecord], ablation: Ablation) -> Disagreement:
    """Where attention and effect disagree, over the heads that have an effect.

    ``sharp_unneeded`` are heads among the most confident quarter whose effect is not significant;
    ``diffuse_needed`` heads among the least confident quarter whose effect is.
    """
    measured = [(record, record.measured) for record in records if record.measured is not None]
    sizes = np.array([abs(effect.effect) for _, effect in measured])
    confidence = np.array([record.confidence for record, _ in measured])
    low, high = np.quantile(confidence, [QUARTER, 1 - QUARTER])
    sharp, diffuse = [], []
    for record, effect in measured:
        is_significant = effect.q is not None and effect.q < LEVEL
        # An estimate has no q: it shows neither that a head is needed nor that it is not.
        if record.confidence >= high and not is_significant and effect.exact:
            sharp.append(record.site)
        if record.confidence <= low and is_significant:
            diffuse.append(record.site)
    correlations = {}
    for name in AGAINST:
        values = [getattr(record, name) for record, _ in measured]
        correlations[name] = _spearman(values, sizes)
    return Disagreement(
        n=len(measured),
        spearman=correlations,
        sharp_unneeded=sharp,
        diffuse_needed=diffuse,
        **ablation.about,
    )


def _spearman(values: Sequence[float | None], sizes: np.ndarray) -> float | None:
    """The rank correlation; None where a value is missing or one side does not vary."""
    known = np.array([value for value in values if value is not None])
    if (
        len(known) != len(values)
        or len(known) < LEAST_RANKED
        or np.ptp(known) == 0
        or np.ptp(sizes) == 0
    ):
        return None
    return spearman(known, sizes)
