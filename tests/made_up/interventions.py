"""Results of ablation, of estimates, of patching and of pruning."""

from __future__ import annotations

import base64
import random
from typing import Any

from made_up.probing import provenance


def make_ablation(layers: int = 12, heads: int = 12, evil: str = "") -> dict[str, Any]:
    """An ablation run with a few strong heads; ``evil`` stands in every text."""
    rng = random.Random(0)
    records = []
    for layer in range(layers):
        for head in range(heads):
            effect = rng.gauss(0, 0.02) + {(1, 3): -1.4, (5, 5): 0.7}.get((layer, head), 0.0)
            records.append(
                {
                    "site": f"blocks.{layer}.attn.hook_z[{head}]{evil}",
                    "layer": layer,
                    "index": head,
                    "component": "heads",
                    "value": "mean",
                    "metric": f"logit_difference{evil}",
                    "unit": "nats",
                    "baseline": 2.5,
                    "exact": True,
                    "effect": effect,
                    "low": effect - 0.1,
                    "high": effect + 0.1,
                    "normalised": effect / 2.5,
                    "normalised_low": None,
                    "normalised_high": None,
                    "p": 0.0001 if abs(effect) > 0.5 else 0.6,
                    "q": 0.004 if abs(effect) > 0.5 else 0.9,
                    "n": 100,
                    "n_clusters": 15,
                }
            )
    tokens = ["<s>", f" a{evil}", " b"]
    weights = [[[255, 0, 0], [100, 155, 0], [5, 50, 200]] for _ in range(layers * heads)]
    patterns = {
        "tokens": tokens,
        "layers": list(range(layers)),
        "heads": heads,
        "weights": base64.b64encode(bytes(w for head in weights for row in head for w in row)).decode(),
    }
    findings = [{"property": "heads", "text": f"The strongest are L1H3 and L5H5.{evil}"}]
    notes = [{"kind": "skipped", "text": f"effects are not normalised{evil}"}]
    return {
        "schema": 1,
        "kind": "ablate",
        "provenance": provenance(layers),
        "positions": "not-first",
        "baseline": {"value": 2.5, "low": 2.1, "high": 2.9, "n_clusters": 15},
        "certificates": {},
        "patterns": patterns,
        "records": records,
        "findings": findings,
        "notes": notes,
    }


def certificate(evil: str = "") -> dict[str, Any]:
    """How estimates agreed with exact effects."""
    return {
        "method": "gradient",
        "n_top": 2,
        "n_sample": 36,
        "spearman": 0.62,
        "spearman_sample": 0.5,
        "overlap": 1.0,
        "same_sign": 1.0,
        "slope": 1.2,
        "missed": 0,
        "misleads": [f"Spearman's correlation with the exact effects is 0.62{evil}"],
    }


def without_patterns(made: dict[str, Any]) -> dict[str, Any]:
    """What other commands than ablation have of its results."""
    return {key: part for key, part in made.items() if key != "patterns"}


def make_screened(evil: str = "") -> dict[str, Any]:
    """An ablation run of which most effects are estimates, with random directions and what heads do on repeated tokens."""
    made, rng = make_ablation(evil=evil), random.Random(1)
    for number, record in enumerate(made["records"]):
        record["estimate"] = record["effect"] * 0.8 + rng.gauss(0, 0.05)
        record["exact"] = not (record["q"] > 0.05 and number % 4)
        record |= {"null": 0.05 + rng.random() / 100, "null_p": 0.17} if record["exact"] else {"p": None, "q": None}
        record |= {"previous": rng.random(), "duplicate": rng.random() / 9, "induction": rng.random()}
    return {**made, "certificates": {"heads": certificate(evil)}}


def make_patching(evil: str = "") -> dict[str, Any]:
    """A patching run by position, in both directions."""
    made = without_patterns(make_ablation(4, 6, evil))
    records = [
        {
            **{key: value for key, value in record.items() if key != "baseline"},
            "estimate": record["effect"] * 0.8,
            "exact": True,
            "component": "positions",
            "value": direction,
            "site": f"blocks.{record['layer']}.hook_resid_pre{evil}",
        }
        for direction in ("denoising", "noising")
        for record in made["records"]
    ]
    corrupted = {"value": -0.5, "low": -0.9, "high": 0.1, "n_clusters": 15}
    means = {"clean": made["baseline"], "corrupted": corrupted}
    gap = {"value": 3.0, "low": 2.6, "high": 3.4, "n_clusters": 15}
    agreed = {"denoising": certificate(), f"noising{evil}": certificate(evil)}
    tokens = ["<s>", *(f" word{number}{evil}" for number in range(5))]
    parts = {"records": records, "baseline": means, "gap": gap, "certificates": agreed, "tokens": tokens}
    return {**made, "kind": "patch", **parts}


def make_pruning(evil: str = "") -> dict[str, Any]:
    """Three steps from nine heads a layer."""
    records = []
    for step, heads in enumerate((9, 6, 3, 2)):
        value = 4.0 + 0.4 * step
        records.append(
            {
                "step": step,
                "heads": heads,
                "kv_heads": min(heads, 3),
                "parameters": 134_515_008 - 9_000_000 * step,
                "metric": f"loss{evil}",
                "unit": "bits a token",
                "n": 24,
                "n_clusters": 24,
                "value": value,
                "low": value - 0.3,
                "high": value + 0.3,
                "change": 0.4 * step,
                "change_low": 0.3 * step,
                "change_high": 0.5 * step,
                "random": value + step if step != 2 else None,
                "speed": 1 + 0.1 * step,
                "seconds": 0.5 if step else None,
                "original_seconds": 0.6 if step else None,
                "difference": 3e-7 if step else None,
                "removed": [[0, 1]] if step else [],
                "model": f"models/step-{step}{evil}" if step else None,
            }
        )
    made = without_patterns(make_ablation(2, 3, evil))
    baseline = {"value": 4.0, "low": 3.7, "high": 4.3, "n_clusters": 24}
    return {**made, "kind": "prune", "records": records, "baseline": baseline}
