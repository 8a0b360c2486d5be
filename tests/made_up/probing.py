"""Results of a probing study, and where they would come from if they were real."""

from __future__ import annotations

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
                "layer": k - 1,
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
            row = {"property": name, "site": site, "layer": k - 1, "label": label}
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
            "layer": top - 1,
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
            row = {"property": name, "layer_a": a - 1, "layer_b": b - 1, "difference": d}
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
        "--sample 3000 --seed 0 --out runs/minilm",
        "config": {
            "site": "hook_resid_post",
            "sample": 3000,
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
