"""Recorded runs with other values: texts that no page may take for markup."""

from __future__ import annotations

import copy
from typing import Any

from made import EVIL

KEPT = frozenset(
    [
        "kind",
        "level",
        "metric",
        "measure",
        "unit",
        "status",
        "component",
        "checked",
        "schema",
        "started",
        "finished",
        "source",
        "words_",
        "weights",
        "norms",
        "rollout",
        "xy",
        "near",
        "positions",
    ]
)
"""Keys whose values are of a closed list, or encoded numbers: no file,
model or tokenizer decides them.
"""
KEPT_VALUES = frozenset({"random", "named", "attribution", "erase"})
"""The same where the key also holds names."""
NAMES = {
    "agreement": 2,
    "certificates": 1,
    "labels": 1,
    "whole": 1,
    "ranks": 1,
    "classes": 1,
    "checks": 1,
}
"""Mappings whose keys are names, and how many levels of them."""


def with_markup(results: dict[str, Any], markup: str = EVIL) -> dict[str, Any]:
    """A copy in which markup ends every text that comes from a file, a model or a person."""
    return {**_marked(copy.deepcopy(results), markup), "kind": results["kind"]}


def _marked(value: Any, markup: str, key: str = "", names: int = 0) -> Any:
    if key in KEPT:
        return value
    if isinstance(value, dict):
        levels = names or NAMES.get(key, 0)
        return {
            f"{name}{markup}" if levels else name: _marked(
                one, markup, "" if levels else name, levels - 1 if levels else 0
            )
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_marked(one, markup) for one in value]
    return value + markup if isinstance(value, str) and value not in KEPT_VALUES else value


def deeper(probe: dict[str, Any], layers: int) -> dict[str, Any]:
    """A probing study of one property in a model of more blocks; each repeats a measured one."""
    results = copy.deepcopy(probe)
    name = results["records"][0]["property"]
    for key in ("records", "classes"):
        measured = [one for one in results[key] if one["property"] == name]
        last = max(one["layer"] for one in measured)
        results[key] = [
            {
                **one,
                "layer": layer,
                "site": one["site"] if layer < 0 else f"blocks.{layer}.hook_resid_post",
            }
            for layer in range(-1, layers - 1)
            for one in measured
            if one["layer"] == (layer if layer < 0 else layer % (last + 1))
        ]
    one, pairs = results["comparisons"][0], range(-1, layers - 1)
    results["comparisons"] = [
        {**one, "layer_a": a, "layer_b": b} for a in pairs for b in pairs if a < b
    ]
    results["provenance"]["model"]["n_layers"] = layers - 1
    return results | {"mixes": [], "trees": [], "calibration": []}


def without_controls(probe: dict[str, Any]) -> dict[str, Any]:
    """A probing study whose every control was skipped."""
    results = copy.deepcopy(probe)
    skipped = (
        "control",
        "selectivity",
        "selectivity_interval",
        "random_model",
        "score_seen",
        "score_unseen",
    )
    for record in results["records"]:
        record |= {**dict.fromkeys(skipped), "control_scores": [], "n_seen": 0, "n_unseen": 0}
    lists = (
        "classes",
        "errors",
        "confused",
        "comparisons",
        "mixes",
        "trees",
        "calibration",
        "notes",
        "findings",
    )
    return results | {name: [] for name in lists}


def with_effects(
    ablation: dict[str, Any], effects: dict[tuple[int, int | None], float]
) -> dict[str, Any]:
    """An ablation in which these parts, by layer and index, have these clear effects,
    and no other has one.
    """
    results = copy.deepcopy(ablation)
    for record in results["records"]:
        effect = effects.get((record["layer"], record["index"]), 0.0)
        clear = {"p": 0.0001, "q": 0.004} if effect else {"p": 0.6, "q": 0.9}
        record |= {
            **clear,
            "effect": effect,
            "effect_interval": {"low": effect - 0.1, "high": effect + 0.1},
            "exact": True,
        }
    return results


def with_relation(attention: dict[str, Any]) -> dict[str, Any]:
    """A study of attention in which one head follows a dependency."""
    relation = {
        "layer": 1,
        "head": 2,
        "relation": "det",
        "direction": "to governor",
        "score": 0.9,
        "baseline": 0.5,
    }
    relation |= {
        "offset": -1,
        "gain": 0.4,
        "gain_interval": {"low": 0.3, "high": 0.5},
        "n": 40,
        "syntactic": True,
    }
    return {**copy.deepcopy(attention), "relations": [relation]}


def with_one_wrong(examination: dict[str, Any]) -> dict[str, Any]:
    """An examination that finds one thing wrong."""
    results = copy.deepcopy(examination)
    record = next(one for one in results["records"] if one["check"] == "residual sums")
    record |= {
        "status": "WRONG",
        "measured": 0.5,
        "bound": 0.1,
        "reason": "the sum is not the output",
    }
    return results | {"status": "WRONG"}
