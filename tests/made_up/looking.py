"""Results of attention, geometry, a capture and the doctor."""

from __future__ import annotations

import base64
import random
from typing import Any

from made_up.probing import provenance


def make_attention(evil: str = "") -> dict[str, Any]:
    """Results of a study of attention: two layers of three heads, one text, a relation, effects."""
    rng = random.Random(0)
    statistics = ("entropy", "confidence", "distance", "first", "norm_first", "previous", "output")
    zeros = ("end", "punctuation", "self", "next")
    records = []
    for layer in range(2):
        for head in range(3):
            record: dict[str, Any] = {
                "site": f"blocks.{layer}.attn.hook_pattern[{head}]",
                "layer": layer,
                "index": head,
                "component": "heads",
                "positional": 0.5,
                "offset": -1,
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
            for name in zeros:
                record |= {name: 0.0, f"{name}_low": 0.0, f"{name}_high": 0.0}
            record |= {"induction": rng.random(), "duplicate": rng.random()}
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
    checkpoints = [
        {
            "step": step,
            "name": f"step-{step}{evil}",
            "layer": layer,
            "index": head,
            "entropy": 1 - step / 200 * head / 3,
        }
        | {"entropy_low": 0.1, "entropy_high": 1.0, "change": step / 1000 if step else None}
        for step in (0, 50, 100)
        for layer in range(2)
        for head in range(3)
    ]
    return {
        "schema": 1,
        "kind": "attend",
        "provenance": provenance(2),
        "notes": [{"kind": "info", "text": f"a note{evil}"}],
        "checkpoints": checkpoints,
        "records": records,
        "layers": [
            {**dict.fromkeys((*statistics, *zeros), 0.3), "layer": n, "norm_first": 0.1, "change": float(n) or None}
            for n in (0, 1)
        ],
        "relations": [relation],
        "uniform": {"entropy": 1.0, "first": 0.2},
        "shown": {"layers": [0, 1], "heads": 3, "texts": [shown]},
        "effects": apart,
        "findings": [{"property": "heads", "text": f"text{evil}"}],
    }


def make_geometry(evil: str = "") -> dict[str, Any]:
    """Results of a study of geometry: two layers, three words, one map, CKA, the logit lens of one text."""

    def numbers(*values: int) -> str:
        return base64.b64encode(b"".join(v.to_bytes(2, "little") for v in values)).decode()

    records = []
    for layer, site in enumerate(("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")):
        figures = {"explained_2": 0.4 + layer / 9, "components_90": 5, "anisotropy": 0.2, "anisotropy_centred": 0.0}
        figures |= {"intrinsic_dimension": 7.5 + layer, "trust_pca": 0.8, "norm_first": 900.0, "norm_others": 12.0}
        tell = {f"upos{evil}:{k}": v for k, v in {"majority": 0.3, "space": 0.82, "pca": 0.5}.items()}
        tell |= {f"upos{evil}:space_low": 0.7, f"upos{evil}:space_high": 0.9}
        records.append(
            {
                "site": site,
                "layer": layer - 1,
                "n": 3,
                "explained": [0.3, 0.1],
                "norms": [900.0, None],
                **figures,
                **tell,
            }
        )
    lens = {"log2p": -3.0, "log2p_low": -4.0, "log2p_high": -2.0, "top1": 0.5, "median_rank": 3.0}
    lens |= {"top1_low": 0.4, "top1_high": 0.6}
    text = {"tokens": ["<s>", f"a{evil}"], "top": [[f"b{evil}"], ["a"]], "p": [[0.2], [0.9]], "rank": [[4], [0]]}
    text["log2p"] = [[-2.3], [-0.2]]
    return {
        "schema": 1,
        "kind": "geometry",
        "provenance": provenance(2),
        "notes": [{"kind": "info", "text": f"a note{evil}"}],
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
        "lens": {"records": [{"layer": n - 1, **lens} for n in range(2)], "texts": [text]},
        "findings": [{"property": "space", "text": f"text{evil}"}],
    }


def make_capture(evil: str = "") -> dict[str, Any]:
    """A store of two kinds of sites."""
    sites = [f"blocks.{layer}.{kind}{evil}" for kind in ("hook_resid_post", "attn.hook_z") for layer in range(3)]
    records = [
        {"site": site, "layer": i % 3, "unit": "word", "rows": 3053, "width": 128, "dtype": "float32"}
        | {"bytes": 1_563_136, "largest": 18.0 + i}
        for i, site in enumerate(sites)
    ]
    store = {"rows": 3053, "texts": 300, "shards": 2, "bytes": 7_941_592, "tokens_per_second": 8417}
    findings = [{"property": "store", "text": f"3,053 words of 300 texts at 6 sites{evil}"}]
    return {
        "schema": 1, "kind": "capture", "provenance": provenance(4), "records": records, "findings": findings,
        "notes": [], "store": store,
    }  # fmt: skip


def make_doctor(evil: str = "") -> dict[str, Any]:
    """An examination with one thing wrong and one not supported."""
    records = [
        {"check": check, "site": site, "status": status, "measured": 0.5, "bound": 0.1, "reason": f"{why}{evil}"}
        for check, site, status, why in (
            ("fires", "blocks.0.hook_resid_post", "OK", ""),
            ("fires", "blocks.0.attn.hook_pattern", "UNSUPPORTED", "no weights are given back"),
            ("residual sums", "blocks.0.hook_resid_post", "WRONG", "the sum is not the output"),
            ("weights", "", "OK", "tied"),
        )
    ]
    return {
        "schema": 1,
        "kind": "doctor",
        "status": "WRONG",
        "provenance": provenance(4),
        "records": records,
        "checks": {"fires": f"Every site holds a tensor.{evil}", "residual sums": "They sum."},
        "findings": [{"property": "doctor", "text": f"4 findings, 1 WRONG{evil}"}],
        "notes": [{"kind": "wrong", "text": f"residual sums{evil}"}],
    }
