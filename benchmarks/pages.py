"""Weight of the pages of large runs: seconds to render, bytes, and seconds and DOM nodes to open in
headless Chromium.

    python benchmarks/pages.py [--layers 100] [--properties 50]

The runs are synthetic: the records of the recorded runs (`tests/recorded`), repeated with other
names and noise. One is a probing study of many layers and properties, the other an ablation of 30
layers of 16 heads over 60 prompts.
"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import CHROMIUM, Browser  # noqa: E402
from layerscope.experiments.pages import render_report  # noqa: E402


def recorded(name: str) -> dict[str, Any]:
    """The results of a recorded run."""
    path = ROOT / "tests" / "recorded" / name / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def noised(record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The record with other numbers: real runs repeat none,
    and what repeats compresses too well.
    """
    out = dict(record)
    for name, value in record.items():
        if isinstance(value, float) and name.removesuffix("_interval") == name:
            shift = float(rng.normal(0, 0.01))
            out[name] = value + shift
            if (ends := record.get(f"{name}_interval")) is not None:
                width = abs(float(rng.normal(0, 0.002)))
                out[f"{name}_interval"] = {
                    "low": ends["low"] + shift - width,
                    "high": ends["high"] + shift + width,
                }
    return out


def large_probe(layers: int, properties: int) -> dict[str, Any]:
    """A probing study of many layers, the embedding among them, and many properties."""
    rng = np.random.default_rng(0)
    results = recorded("probe")
    name = next(one["property"] for one in results["records"] if one["kind"] == "class")
    base = copy.deepcopy(results)
    for key in ("records", "classes", "errors", "confused", "comparisons", "calibration"):
        base[key] = [one for one in results[key] if one["property"] == name]
    blocks = range(-1, layers - 1)

    def at(records: list[dict[str, Any]], layer: int, of: str) -> list[dict[str, Any]]:
        known = sorted({one["layer"] for one in records})
        source = layer if layer < 0 else known[1 + layer % (len(known) - 1)]
        site = {} if layer < 0 else {"site": f"blocks.{layer}.hook_resid_post"}
        return [
            noised({**one, "property": of, "layer": layer, **site}, rng)
            for one in records
            if one["layer"] == source
        ]

    grown: dict[str, list[dict[str, Any]]] = {key: [] for key in ("records", "classes")}
    comparisons, errors, confused = [], [], []
    names = [f"feats:Property{number}" for number in range(properties)]
    for of in names:
        for layer in blocks:
            for key, records in grown.items():
                records += at(base[key], layer, of)
        first = base["comparisons"][0]
        for a in blocks:
            for b in range(a + 1, layers - 1):
                # Holm's correction over thousands of pairs leaves most at 1 and the clear ones near
                # 0.
                p = float(rng.choice([1.0, 0.0, rng.random()], p=[0.6, 0.25, 0.15]))
                pair = {"property": of, "layer_a": a, "layer_b": b, "p_holm": p}
                comparisons.append(noised({**first, **pair}, rng))
        errors += [{**one, "property": of} for one in base["errors"]]
        confused += [{**one, "property": of} for one in base["confused"]]
    results |= {**grown, "comparisons": comparisons, "errors": errors, "confused": confused}
    results |= {"mixes": [], "trees": [], "calibration": []}
    results["findings"] = [{"property": of, "text": f"{of} is decodable."} for of in names]
    results["provenance"]["model"]["n_layers"] = layers - 1
    return results


def large_ablation(layers: int, heads: int, prompts: int) -> dict[str, Any]:
    """An ablation of every head of a large model."""
    rng = np.random.default_rng(0)
    results = recorded("ablate-heads")
    records = []
    for layer in range(layers):
        for head in range(heads):
            one = results["records"][(layer * heads + head) % len(results["records"])]
            place = {"site": f"blocks.{layer}.attn.hook_z[{head}]", "layer": layer, "index": head}
            records.append(noised({**one, **place, "n": prompts, "n_clusters": prompts}, rng))
    results["records"] = records
    results["provenance"]["model"]["n_layers"] = layers
    if (patterns := results.get("patterns")) is not None:
        n = len(patterns["tokens"])
        weights = rng.integers(0, 255, layers * heads * n * n, dtype=np.uint8).tobytes()
        patterns |= {"layers": list(range(layers)), "heads": heads}
        patterns["weights"] = base64.b64encode(weights).decode()
    return results


def measure(name: str, results: dict[str, Any], browser: Browser | None, times: int = 3) -> None:
    """Print a page's figures, the fastest of several times."""
    rendering = []
    for _ in range(times):
        start = time.perf_counter()
        text = render_report(results)
        rendering.append(time.perf_counter() - start)
    line = f"{name}: rendered in {min(rendering):.1f} s, {len(text.encode()) / 1e6:.2f} MB"
    if browser is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            path.write_text(text, encoding="utf-8")
            opening = []
            for _ in range(times):
                start = time.perf_counter()
                browser.open(path)
                assert browser.evaluate("document.documentElement.dataset.ready") == "true"
                browser.evaluate("document.body.offsetHeight")
                opening.append(time.perf_counter() - start)
            nodes = browser.evaluate("document.getElementsByTagName('*').length")
            line += f", opened in {min(opening):.1f} s, {nodes:,} nodes"
    print(line, flush=True)


def main() -> None:
    """Both pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--properties", type=int, default=50)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    browser = Browser() if CHROMIUM else None
    measure("ablate, 30 x 16 heads", large_ablation(30, 16, 60), browser, given.times)
    probe = large_probe(given.layers, given.properties)
    name = f"probe, {given.layers} layers x {given.properties} properties"
    measure(name, probe, browser, given.times)


if __name__ == "__main__":
    main()
