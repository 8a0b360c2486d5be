"""Results of usage, of neurons and of attribution."""

from __future__ import annotations

from typing import Any

from made_up.interventions import certificate, make_ablation, without_patterns
from made_up.probing import provenance


def make_usage(evil: str = "") -> dict[str, Any]:
    """A study of usage over six layers, with pushes to two classes."""
    made, records = without_patterns(make_ablation(evil=evil)), []
    for value, sign in (("erase", -1.0), (f"push Sing{evil}", 0.4), ("push Plur", -0.6)):
        for layer in range(6):
            effect = sign * (layer + 1) / 6
            records.append(
                {
                    **made["records"][layer],
                    "site": f"blocks.{layer}.hook_resid_post{evil}",
                    "layer": layer,
                    "index": None,
                    "component": "layers",
                    "value": value,
                    "property": f"feats:Number{evil}",
                    "effect": effect,
                    "low": effect - 0.1,
                    "high": effect + 0.1,
                    "null": 0.1,
                    "null_p": 0.17,
                    "decodable": 0.8 + 0.02 * layer,
                    "decodable_low": 0.78 + 0.02 * layer,
                    "decodable_high": 0.82 + 0.02 * layer,
                    "majority": 0.6,
                    "erased_linear": 0.6,
                    "erased_mlp": 0.75,
                    "erased_rank": 1,
                    "erased_change": 0.3 + layer / 100,
                    "estimate": effect * 0.9,
                    "exact": True,
                    "l2": 10.0,
                    "converged": True,
                    "n_train": 3000,
                    "n_test": 2000,
                }
            )
    finding = [{"property": f"feats:Number{evil}", "text": f"feats:Number{evil} is decodable best at layer 5."}]
    agreed = {value: certificate(evil) for value in dict.fromkeys(record["value"] for record in records)}
    return {**made, "kind": "usage", "records": records, "findings": finding, "certificates": agreed}


def make_neurons(evil: str = "") -> dict[str, Any]:
    """A study of neurons at two sites: two rankings, two probes, an ablation and a translation, two neurons named."""
    made, records, table, sites, neurons = without_patterns(make_ablation(evil=evil)), [], [], [], []
    for layer in range(2):
        here: dict[str, Any] = {"site": f"blocks.{layer}.mlp.hook_post{evil}", "layer": layer}
        for ranking in (f"f{evil}", "mean_difference"):
            for k in (1, 4):
                for probe in (f"logistic{evil}", "lda"):
                    row = {**here, "ranking": ranking, "probe": probe, "k": k}
                    for name, value in (("", 0.8), ("random", 0.6), ("rotated", 0.7)):
                        ends = {f"{name}_low".lstrip("_"): value - 0.05, f"{name}_high".lstrip("_"): value + 0.05}
                        row |= {name or "accuracy": value + 0.01 * k, **ends}
                    table.append(row)
                for value in ("mean", f"translate Sing{evil}"):
                    both = {"ranking": ranking, "k": k, "value": value, "neurons": list(range(k)), "accuracy": 0.8}
                    null = {"null": 0.0, "null_low": -0.1, "null_high": 0.1, "null_p": 0.05}
                    more = {"beyond": 0.2 * k, "beyond_low": 0.1 * k, "beyond_high": 0.3 * k, "index": None}
                    record = {**made["records"][0], **here, **both, **null, **more, "component": "sets"}
                    records.append({**record, "effect": 0.2 * k, "low": 0.1 * k, "high": 0.3 * k})
        records.append({**records[-1], "component": "neurons", "index": 3, "ranking": "alone", "value": "mean", "k": 1})
        whole = {f"logistic{evil}": 0.9, "lda": 0.9}
        sites.append({**here, "width": 8, "majority": 0.55, "whole": whole, "unconverged": 0})
        word = {"words": ["the", f"dogs{evil}", "bark"], "index": 1, "sentence_id": f"s1{evil}", "split": "train"}
        word |= {"value": 2.0, "deviations": 3.1, "label": f"Plur{evil}"}
        for index in (3, 5):
            about = {"ranks": {f"f{evil}": 1, "mean_difference": 2}, "classes": {"Sing": -0.5, f"Plur{evil}": 0.9}}
            top = {"top_form": f"dogs{evil}", "top_share": 0.25, "words": [word, {**word, "label": None}]}
            neurons.append({**here, "index": index, **about, **top})
    finding = [{"property": f"upos{evil}", "text": f"upos{evil} is read best from one neuron."}]
    parts = {"records": records, "table": table, "sites": sites, "neurons": neurons, "findings": finding}
    return {**made, "kind": "neurons", "property": f"upos{evil}", **parts}


def make_attribution(evil: str = "") -> dict[str, Any]:
    """Two texts under two methods, beside random attributions."""
    steps = [k / 10 for k in range(11)]
    records: list[dict[str, Any]] = []
    for item, text in enumerate(("A dog waits here", "Dogs wait here now")):
        units = [f"{word}{evil}" for word in text.split()]
        about = {"item": item, "text": " ".join(units), "target": f"log probability of ' x'{evil}", "unit": "bits"}
        names = ("comprehensiveness", "sufficiency", "deletion", "insertion", "infidelity")
        measured = {name: 0.4 + number / 50 + item / 100 for number, name in enumerate(names)}
        curves = {"deleted": [-s for s in steps], "inserted": [s - 1 for s in steps], "measured_by": "delete"}
        for number, method in enumerate(("leave-one-out", "ig")):
            starts = [sum(len(word) + 1 for word in units[:place]) for place in range(len(units))]
            spans = [[start, start + len(word)] for start, word in zip(starts, units, strict=True)]
            own = {
                "units": units,
                "spans": spans,
                "scores": [0.1, 2.0, -1.0 - number, 0.0],
                "errors": None,
                "value": -0.5,
            }
            cost = {"baseline": None, "asked": 5, "forwards": 5, "backwards": 0, "notes": [], "inner": None, "more": {}}
            noise = {"stability": None, "sensitivity": None}
            records.append({**about, "method": method, **own, **cost, **measured, **curves, **noise})
        bounds = {f"{name}_{end}": value for name in measured for end, value in (("low", 0.1), ("high", 0.9))}
        records.append({**about, "method": "random", "draws": 5, **measured, **curves, **bounds})
    methods = ("leave-one-out", "ig")
    return {
        "schema": 1,
        "kind": "attribute",
        "provenance": provenance(3),
        "records": records,
        "agreement": {a: {b: 1.0 if a == b else 0.4 for b in methods} for a in methods},
        "examples": [],
        "predictions": [
            {"item": 0, "labels": True, "answers": [{"answer": f"x{evil}", "probability": 0.7}], "gold": f"x{evil}"}
        ],
        "findings": [{"property": "faithfulness", "text": f"Taking out the words that ig names costs most.{evil}"}],
        "notes": [],
    }
