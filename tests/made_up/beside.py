"""A probing study with everything that may stand beside its records."""

from __future__ import annotations

from typing import Any

from made_up.confidence import make_calibration
from made_up.probing import make_results

CALIBRATED = ("ece", "ece_low", "ece_high", "ece_chance", "ece_p", "ece_mass", "classwise", "brier", "nll", "auroc")


def with_calibration(results: dict[str, Any], evil: str = "") -> dict[str, Any]:
    """A probing study that measured its probes' calibration."""
    (found, *_) = make_calibration(evil)["records"]
    for record in results["records"]:
        record |= {k: found.get(k) for k in CALIBRATED} | {"temperature": 1.2, "ece_scaled": 0.1}
    heads = [{k: r[k] for k in ("property", "site", "layer")} for r in results["records"]]
    return {**results, "calibration": [{**found, **head} for head in heads]}


def make_beside(evil: str = "") -> dict[str, Any]:
    """Scalar mixes, syntax trees, other seeds, calibration and the online code, at four layers."""
    results = with_calibration(make_results(4, (name := f"upos{evil}",)), evil)
    sites = [record["site"] for record in results["records"]]
    for layer, record in enumerate(results["records"]):
        bits = {"gain": 0.2 + layer / 10, "conditional": 0.25 + layer / 10, "information": 3.0 + layer / 10}
        for key, value in bits.items():
            record |= {key: value, f"{key}_low": value - 0.02, f"{key}_high": value + 0.02}
        record |= {
            "code_bits": 7900.0 - layer,
            "compression": 8.0 + layer / 10,
            "control_compression": 1.7 + layer / 10,
        }
        record |= {"score_seeds": [record["score"], 0.8], "selectivity_seeds": [record["selectivity"], None]}
    mix = {"property": name, "sites": sites, "mix": [0.4, 0.3, 0.2, 0.1], "centre_of_gravity": 1.0, "centre_above": 1.6}
    mix |= {"peakedness": 0.15, "cumulative": [0.8, 0.85, 0.9, 0.91], "headroom": 0.11, "headroom_low": 0.1}
    mix |= {"headroom_high": 0.12, "expected_layer": 1.3, "low": 1.2, "high": 1.4, "converged": True}
    trees = [
        {"site": site, "layer": layer - 1, "rank": 64, "n": 1901, "epochs": 20 + layer, "converged": layer > 0}
        | {"uuas": 0.24 + layer / 10, "uuas_low": 0.23, "uuas_high": 0.55, "distance_spearman": 0.3 + layer / 10}
        | {"root_accuracy": 0.32 + layer / 10, "root_low": 0.3, "root_high": 0.7, "depth_spearman": 0.37 + layer / 10}
        | {"chain_uuas": 0.43, "chain_root": 0.22, "chain_spearman": 0.57}
        | {"random_uuas": 0.21 if layer else None, "random_root": 0.28}
        for layer, site in enumerate(sites)
    ]
    seeds = {"property": name, "seeds": [0, 1], "best": sites[:2], "scores": [0.9, 0.8], "mean": 0.85, "sd": 0.07}
    unclear = {**mix, "property": f"depth{evil}", "expected_layer": None, "converged": False}
    return {**results, "mixes": [mix, unclear], "trees": trees, "seeds": [{**seeds, "sd_selectivity": None}]}
