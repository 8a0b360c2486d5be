"""Made-up results of a probe run, shaped like the real ones: for the report's tests and for looking at it."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import Any

UPOS = [
    "NOUN",
    "VERB",
    "PRON",
    "ADP",
    "DET",
    "PROPN",
    "ADJ",
    "PUNCT",
    "AUX",
    "ADV",
    "CCONJ",
    "PART",
    "NUM",
    "SCONJ",
    "X",
    "INTJ",
    "SYM",
]
DEPREL = [
    "punct",
    "case",
    "det",
    "nsubj",
    "advmod",
    "root",
    "obj",
    "amod",
    "compound",
    "conj",
    "cc",
    "mark",
    "nmod",
    "obl",
    "aux",
    "cop",
    "nmod:poss",
    "advcl",
    "xcomp",
    "nummod",
    "ccomp",
    "flat",
    "acl:relcl",
    "aux:pass",
    "parataxis",
    "acl",
    "appos",
    "nsubj:pass",
    "list",
    "discourse",
    "expl",
    "fixed",
    "obl:tmod",
    "compound:prt",
    "obl:npmod",
    "iobj",
    "vocative",
    "goeswith",
    "csubj",
    "nmod:npmod",
    "nmod:tmod",
    "orphan",
    "det:predet",
    "reparandum",
    "dep",
    "cc:preconj",
    "dislocated",
    "flat:foreign",
    "csubj:pass",
]
WORDS = [
    "the",
    "small",
    "ferry",
    "that",
    "left",
    "before",
    "dawn",
    "carried",
    "more",
    "letters",
    "than",
    "people",
    ",",
    "and",
    "nobody",
    "on",
    "the",
    "pier",
    "could",
    "say",
    "why",
    "the",
    "captain",
    ",",
    "who",
    "had",
    "never",
    "been",
    "late",
    ",",
    "waited",
    "for",
    "her",
]


def curve(layers: int, start: float, peak: float, end: float, where: float) -> list[float]:
    """A score that climbs from `start` to `peak` at share `where` of the depth and falls to `end`."""
    out = []
    for k in range(layers):
        t = k / max(layers - 1, 1)
        if t <= where:
            out.append(start + (peak - start) * (1 - (1 - t / max(where, 1e-9)) ** 2.2))
        else:
            out.append(peak + (end - peak) * ((t - where) / (1 - where)) ** 1.7)
    return out


def one_property(
    name: str, labels: Sequence[str], layers: int, rng: random.Random, number: bool
) -> dict[str, list[dict[str, Any]]]:
    """All tables of one property."""
    peak = rng.uniform(0.84, 0.94)
    scores = curve(layers, peak - 0.12, peak, peak - 0.09, rng.uniform(0.3, 0.55))
    controls = curve(layers, peak - 0.14, peak - 0.2, peak - 0.52, 0.15)
    if number:
        scores, controls = [2 * s - 1 for s in scores], [c - 0.75 for c in controls]
    top = max(range(layers), key=lambda k: scores[k])
    records: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    for k, score in enumerate(scores):
        site = "hook_embed" if k == 0 else f"blocks.{k - 1}.hook_resid_post"
        seeds = [controls[k] + rng.gauss(0, 0.012) for _ in range(5)]
        control = sum(seeds) / 5
        best = scores[top] - score < 0.004
        f1 = None if number else score - 0.07 - 0.04 * (1 - score)
        records.append(
            {
                "site": site,
                "layer": k,
                "property": name,
                "level": "word",
                "kind": "number" if number else "class",
                "metric": "r2" if number else "accuracy",
                "score": score,
                "low": score - 0.006,
                "high": score + 0.0055,
                "control": control,
                "control_scores": seeds,
                "selectivity": score - control,
                "selectivity_low": score - control - 0.011,
                "selectivity_high": score - control + 0.012,
                "majority": -0.0004 if number else 0.171,
                "type_majority": 0.31 if number else peak - 0.075,
                "embedding": scores[0],
                "random_model": scores[0] - 0.02 - 0.09 * k / max(layers - 1, 1) + rng.gauss(0, 0.004),
                "score_seen": score + 0.014,
                "score_unseen": score - 0.11 - 0.05 * (1 - k / max(layers, 2)),
                "n_seen": 21_804,
                "n_unseen": 3_290,
                "macro_f1": f1,
                "macro_f1_low": None if f1 is None else f1 - 0.014,
                "macro_f1_high": None if f1 is None else f1 + 0.013,
                "n_train": 51_037,
                "n_dev": 25_148,
                "n_test": 25_094,
                "n_classes": None if number else len(labels),
                "l2": 10.0 ** rng.randint(0, 2),
                "converged": True,
                "gradient_norm": rng.uniform(1e-6, 9e-5),
                "best": best,
                "p_worse": 1.0 if best else min(1.0, 0.02 * rng.random()),
            }
        )
        for j, label in enumerate(() if number else labels):
            f = max(0.0, min(1.0, score + 0.08 - 0.012 * j + rng.gauss(0, 0.02)))
            row = {"property": name, "site": site, "layer": k, "label": label}
            row |= {
                "support": max(1, 4200 // (j + 1) ** 2),
                "precision": min(1.0, f + 0.01),
                "recall": f - 0.01,
            }
            classes.append(row | {"f1": f})
    site = records[top]["site"]
    errors = [
        {
            "property": name,
            "site": site,
            "layer": top,
            "sentence_id": f"weblog-{100 + e}-0007",
            "words": WORDS * rng.choice((1, 1, 2)),
            "index": rng.randrange(len(WORDS)),
            "gold": 7 if number else labels[e % min(5, len(labels))],
            "predicted": 2.314159 if number else labels[(e % min(5, len(labels)) + 1 + e % 3) % len(labels)],
            "confidence": None if number else 0.999 - 0.004 * e,
        }
        for e in range(50)
    ]
    confused = [
        {
            "property": name,
            "gold": labels[c % 6],
            "predicted": labels[(c + 1 + c // 6) % 9 % len(labels)],
            "count": 300 // (c + 1),
        }
        for c in range(0 if number or len(labels) < 9 else 30)
    ]
    comparisons = []
    for a in range(layers):
        for b in range(a + 1, layers):
            d = scores[b] - scores[a]
            p = 1.0 if abs(d) < 0.004 else min(1.0, 0.00001 + 0.0004 / abs(d))
            row = {"property": name, "layer_a": a, "layer_b": b, "difference": d}
            comparisons.append(row | {"low": d - 0.004, "high": d + 0.004, "p_holm": p})
    last = records[-1]
    text = (
        f"{name} is decodable from the embeddings ({scores[0]:.3f}) and best at layer {max(top - 1, 0)} "
        f"({scores[top]:.3f}, 95% interval {scores[top] - 0.006:.3f} to {scores[top] + 0.0055:.3f}). There it stands "
        f"{records[top]['selectivity']:.3f} above a control task, and {scores[top] - last['type_majority']:.3f} "
        "above giving each word its most frequent tag. It falls towards the top of the model."
    )
    return {
        "records": records,
        "classes": classes,
        "errors": errors,
        "confused": confused,
        "comparisons": comparisons,
        "findings": [{"property": name, "text": text}],
    }


def make_results(
    layers: int = 7,
    properties: Sequence[str] = ("upos", "deprel"),
    numbers: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of a results.json; properties named in `numbers` are numbers with metric r2."""
    rng = random.Random(seed)
    results: dict[str, Any] = {"schema": 1, "kind": "probe", "provenance": provenance(layers)}
    for name in properties:
        labels = UPOS if name == "upos" else DEPREL
        for key, rows in one_property(name, labels, layers, rng, name in numbers).items():
            results.setdefault(key, []).extend(rows)
    results["notes"] = [
        {
            "kind": "dropped",
            "text": "12 of 25,106 test words lost all their tokens to truncation at 256 and are not counted.",
        },
        {
            "kind": "skipped",
            "text": "deprel: 2 classes of the test split do not occur in training (dep, csubj:pass).",
        },
        {
            "kind": "info",
            "text": "Position 0 holds the beginning-of-text token and is kept out of all statistics.",
        },
    ]
    return results


def provenance(layers: int) -> dict[str, Any]:
    """Where these numbers would come from if they were real."""
    model = {
        "name": "/srv/models/all-MiniLM-L6-v2",
        "architecture": "BertModel",
        "n_layers": layers - 1,
        "d_model": 384,
        "n_parameters": 22_713_216,
        "sha256": "9a" * 32,
        "dtype": "float32",
        "bos": "[CLS]",
        "bos_reason": "the tokenizer adds it",
    }
    splits = (("train", 3000, 51_037), ("dev", 2001, 25_148), ("test", 2077, 25_106))
    return {
        "command": "layerscope probe --model /srv/models/all-MiniLM-L6-v2 --corpus en_ewt-ud-train.conllu "
        "--dev en_ewt-ud-dev.conllu --test en_ewt-ud-test.conllu --property upos --property deprel "
        "--limit-sentences 3000 --seed 0 --out runs/minilm",
        "config": {
            "site": "hook_resid_post",
            "limit_sentences": 3000,
            "pooling": "last",
            "control_seeds": 5,
        },
        "model": model,
        "data": [
            {
                "split": s,
                "path": f"en_ewt-ud-{s}.conllu",
                "sha256": "4f" * 32,
                "sentences": n,
                "words": w,
                "used_words": w - 12,
            }
            for s, n, w in splits
        ],
        "versions": {
            "layerscope": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.23.0",
        },
        "machine": {
            "cpu": "a processor of two cores",
            "cores": 2,
            "memory_gb": 15.6,
            "device": "cpu",
        },
        "seed": 0,
        "started": "2026-11-22T07:00:00+00:00",
        "finished": "2026-11-22T07:03:12+00:00",
        "seconds": 192.4,
        "timings": {"features": 71.2, "probes": 98.6, "bootstrap": 12.1, "report": 0.4},
        "memory": {"held_bytes": 612_000_000, "disk_bytes": 0, "peak_rss_bytes": 1_940_000_000},
    }


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
        "baseline": {"value": 2.5, "low": 2.1, "high": 2.9},
        "patterns": patterns,
        "records": records,
        "findings": findings,
        "notes": notes,
    }


def make_screened(evil: str = "") -> dict[str, Any]:
    """An ablation run of which most effects are estimates."""
    made, rng = make_ablation(evil=evil), random.Random(1)
    for number, record in enumerate(made["records"]):
        record["estimate"] = record["effect"] * 0.8 + rng.gauss(0, 0.05)
        if record["q"] > 0.05 and number % 4:
            record.update({"exact": False, "p": None, "q": None})
    certificate = {
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
    return {**made, "certificates": {"heads": certificate}}


def make_patching(evil: str = "") -> dict[str, Any]:
    """A patching run by position, in both directions."""
    made = make_ablation(4, 6, evil)
    records = [
        {
            **record,
            "component": "positions",
            "value": direction,
            "site": f"blocks.{record['layer']}.hook_resid_pre{evil}",
        }
        for direction in ("denoising", "noising")
        for record in made["records"]
    ]
    means = {"clean": made["baseline"], "corrupted": {"value": -0.5, "low": -0.9, "high": 0.1}}
    gap = {"value": 3.0, "low": 2.6, "high": 3.4}
    return {**made, "kind": "patch", "records": records, "baseline": means, "gap": gap}


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
    made = make_ablation(2, 3, evil)
    return {**made, "kind": "prune", "records": records, "baseline": {"value": 4.0, "low": 3.7, "high": 4.3}}


def make_usage(evil: str = "") -> dict[str, Any]:
    """A study of usage over six layers, with pushes to two classes."""
    made, records = make_ablation(evil=evil), []
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
                    "n_test": 2000,
                }
            )
    finding = [{"property": f"feats:Number{evil}", "text": f"feats:Number{evil} is decodable best at layer 5."}]
    return {**made, "kind": "usage", "records": records, "findings": finding}


def make_neurons(evil: str = "") -> dict[str, Any]:
    """A study of neurons at two sites: two rankings, two probes, an ablation and a translation, two neurons named."""
    made, records, table, sites, neurons = make_ablation(evil=evil), [], [], [], []
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


def make_attention(evil: str = "") -> dict[str, Any]:
    """Results of a study of attention: two layers of three heads, one text, a relation, effects."""
    rng = random.Random(0)
    statistics = ("entropy", "confidence", "distance", "first", "norm_first", "previous", "output", "induction")
    records = []
    for layer in range(2):
        for head in range(3):
            record: dict[str, Any] = {
                "site": f"blocks.{layer}.attn.hook_pattern[{head}]",
                "layer": layer,
                "index": head,
                "component": "heads",
                "nearest": "L0H1",
                "nearest_similarity": 0.9,
                "role": f"det to governor{evil}" if (layer, head) == (1, 2) else "",
                "effect": rng.uniform(-1, 1),
                "effect_low": -0.5,
                "effect_high": 0.5,
                "effect_q": 0.01,
                "effect_exact": True,
            }
            for name in statistics:
                record |= {name: rng.random(), f"{name}_low": 0.1, f"{name}_high": 0.9}
            records.append(record)
    records[-1] |= {"relation": f"det{evil}", "direction": "to governor", "relation_score": 1.0}
    tokens = ["<s>", f"a{evil}", " b"]
    weights = bytes([255, 0, 0, 128, 127, 0, 85, 85, 85] * 6)
    shown = {
        "tokens": tokens,
        "weights": base64.b64encode(weights).decode(),
        "norms": base64.b64encode(bytes([10, 255, 100] * 6)).decode(),
        "rollout": base64.b64encode(bytes([255, 0, 0, 64, 191, 0, 100, 55, 100])).decode(),
    }
    relation = {"layer": 1, "head": 2, "relation": f"det{evil}", "direction": "to governor", "score": 0.9}
    relation |= {"baseline": 0.5, "offset": -1, "gain": 0.4, "low": 0.3, "high": 0.5, "n": 40, "syntactic": True}
    apart = {"n": 6, "spearman": {"confidence": 0.2, "entropy": None}, "metric": f"loss{evil}", "unit": "bits"}
    apart |= {"sharp_unneeded": [records[0]["site"]], "diffuse_needed": [records[3]["site"]], "value": "zero"}
    return {
        **make_results(2, ("upos",)),
        "kind": "attend",
        "records": records,
        "layers": [{"layer": n, "entropy": 0.5, "first": 0.3, "norm_first": 0.1, "change": n or None} for n in (0, 1)],
        "relations": [relation],
        "uniform": {"entropy": 1.0, "first": 0.2},
        "shown": {"layers": [0, 1], "heads": 3, "texts": [shown]},
        "effects": apart,
        "findings": [{"property": "heads", "text": f"text{evil}"}],
    }


def make_calibration(evil: str = "") -> dict[str, Any]:
    """A study of calibration: token probabilities, numbers in words with refusals, and one that gave too few."""
    bins = [
        {
            "low": k / 15,
            "high": (k + 1) / 15,
            "n": 10 * (k - 6),
            "confidence": (k + 0.5) / 15,
            "accuracy": (k - 1) / 15,
            "accuracy_low": (k - 3) / 15,
            "accuracy_high": (k + 1) / 15,
            "chance_low": (k - 1) / 15,
            "chance_high": min(1.0, (k + 2) / 15),
        }
        for k in range(7, 15)
    ]
    spreads = ("accuracy", "confidence", "overconfidence", "ece", "ece_mass", "brier_top", "brier_all", "auroc", "aurc")
    record = {
        "method": f"token probabilities{evil}",
        "n": 360,
        "n_answered": 360,
        "measured": True,
        "ece_chance": 0.04,
        "ece_p": 0.001,
        "ece_mass_chance": 0.05,
        "maximum_error": 0.2,
        "aurc_best": 0.05,
        **{name + end: 0.3 + by for name in spreads for end, by in (("", 0.0), ("_low", -0.05), ("_high", 0.05))},
        "bins": bins,
        "coverage": {
            "share": [k / 20 for k in range(1, 21)],
            "risk": [0.3] * 20,
            "best": [0.01 * k for k in range(20)],
        },
    }
    whole = {
        **{"brier": 0.5, "brier_low": 0.45, "brier_high": 0.55, "reliability": 0.05, "resolution": 0.2},
        **{"uncertainty": 0.65, "within": 0.0, "nll": None, "classwise": 0.1, "classwise_chance": 0.03},
        "classes": [
            {
                "label": f"choice {k}{evil}",
                "support": 90,
                "share": 0.25,
                "probability": 0.2,
                "ece": 0.1,
                "ece_chance": 0.03,
            }
            for k in range(4)
        ],
    }
    asked = {"method": f"verbalised{evil}", "n_answered": 300, "n_refused": 20, "n_unparsable": 40}
    few = {k: v for k, v in record.items() if k.startswith(("n", "accuracy", "brier_all"))}
    return {
        "schema": 1,
        "kind": "calibrate",
        "source": "questions",
        "provenance": {**provenance(6), "command": f"layerscope calibrate{evil}"},
        "records": [
            {**record, **whole},
            {**record, **asked},
            {**few, "method": f"sampled{evil}", "n_answered": 3, "n_refused": 357, "measured": False},
        ],
        "comparisons": [
            {
                "a": f"token probabilities{evil}",
                "b": f"verbalised{evil}",
                "n": 300,
                "difference": 0.02,
                "difference_low": -0.01,
                "difference_high": 0.05,
                "p_holm": 0.2,
            }
        ],
        "errors": [
            {
                "method": "token probabilities",
                "text": f"What?{evil}",
                "gold": f"a{evil}",
                "predicted": f"b{evil}",
                "confidence": 0.9,
            }
        ],
        "findings": [{"property": f"verbalised{evil}", "text": f"verbalised{evil}: accuracy 0.3{evil}"}],
        "notes": [{"kind": "dropped", "text": f"verbalised: 20 of 360 answers refused{evil}"}],
    }


def make_ask(evil: str = "") -> dict[str, Any]:
    """A self-explanation without effect: two prompts tested, one refused."""
    spread = {"effect": 0.4, "low": 0.1, "high": 0.7, "unit": "bits", "n": 2, "n_clusters": 2}
    over = {"over_random": 0.1, "over_random_low": -0.2, "over_random_high": 0.4, "p": 0.5}
    row = {"answer": f" are{evil}", "named": [f"keys{evil}"], "absent": [], "reason": "", "n_words": 4, "clean": 2.0}
    effects = {"named_effect": 0.5, "random_effect": 0.2, "attribution_effect": 1.5}
    return {
        "schema": 1,
        "kind": "ask",
        "provenance": {**provenance(6), "command": f"layerscope ask{evil}"},
        "records": [
            {"words": "named", **spread, **over},
            {"words": "random", **spread, **dict.fromkeys(over)},
            {"words": "attribution", **spread, **over},
        ],
        "prompts": [
            {"text": f"The keys to the{evil}", "said": f"keys{evil}", **row, **effects},
            {"text": "The keys of a", "said": "keys", **row, **effects, "absent": ["zebra"]},
            {"text": "The key", "said": f"I cannot{evil}", **row, **dict.fromkeys(effects), "reason": "refused"},
        ],
        "findings": [{"property": "named", "text": f"named words: taking them out costs the answer 0.4 bits{evil}"}],
        "notes": [{"kind": "dropped", "text": f"1 of 3 answers refused{evil}"}],
    }


def make_geometry(evil: str = "") -> dict[str, Any]:
    """Results of a study of geometry: two layers, three words, one map, CKA, the logit lens of one text."""

    def numbers(*values: int) -> str:
        return base64.b64encode(b"".join(v.to_bytes(2, "little") for v in values)).decode()

    records = []
    for layer, site in enumerate(("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")):
        figures = {"explained_2": 0.4, "components_90": 5, "anisotropy": 0.2, "anisotropy_centred": 0.0}
        figures |= {"intrinsic_dimension": 7.5, "trust_pca": 0.8, "norm_first": 900.0, "norm_others": 12.0}
        tell = {f"upos{evil}:{k}": v for k, v in {"majority": 0.3, "space": 0.8, "pca": 0.5}.items()}
        tell |= {f"upos{evil}:space_low": 0.7, f"upos{evil}:space_high": 0.9}
        records.append(
            {"site": site, "layer": layer, "n": 3, "explained": [0.3, 0.1], "norms": [900.0, None], **figures, **tell}
        )
    lens = {"log2p": -3.0, "log2p_low": -4.0, "log2p_high": -2.0, "top1": 0.5, "median_rank": 3.0}
    text = {"tokens": ["<s>", f"a{evil}"], "top": [[f"b{evil}"], ["a"]], "p": [[0.2], [0.9]], "rank": [[4], [0]]}
    return {
        **make_results(2, ("upos",)),
        "kind": "geometry",
        "records": records,
        "words": {
            "sentences": [[f"one{evil}", "two"], ["three"]],
            "at": [[0, 0], [0, 1], [1, 0]],
            "labels": {f"upos{evil}": [f"NOUN{evil}", "VERB", None], "depth": [1.0, 2.0, 1.0]},
        },
        "maps": {"pca": [{"low": -1.0, "high": 1.0, "xy": numbers(0, 65535, 30000, 20000, 1, 2)}] * 2},
        "near": [numbers(1, 2, 0, 2, 0, 1)] * 2,
        "cka": {
            "rows": [r["site"] for r in records],
            "columns": [r["site"] for r in records],
            "values": [[1, 0.5], [0.5, 1]],
        },
        "cka_between": {"rows": ["a"], "columns": [f"b{evil}"], "values": [[-0.01]], "model": f"other{evil}"},
        "lens": {"records": [{"layer": n, **lens} for n in range(2)], "texts": [text]},
        "findings": [{"property": "space", "text": f"text{evil}"}],
    }
