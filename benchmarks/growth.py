"""How time and memory grow: a token's time with more text and with more layers, a property's with
more properties.

    python benchmarks/growth.py [--turns 5]

Weights are random and narrow: what grows is counted, and every ratio is of the smallest case's time
for each unit. 1.0x is linear; below it, what is done once is shared by more.

text        features of words at all layers, extracted to disk, a token; and the peak memory of a
            process that does it
layers      one forward that captures every layer, a token and layer
properties  the joint solve of properties of 12 classes on the same rows, a property
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch
import transformers
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.features.layout import Layout, extract
from layerscope.experiments.features.sites import study_sites
from layerscope.experiments.subject import load
from measure import alternate, peak_growth, random_tokens, ratio, start

from layerscope import ActivationStore, Design, capture, fit_many

TEXTS = (1, 4, 16)
"""Times the smallest text."""
SENTENCES = 400
"""Of the smallest text, those of the embedded corpus again and again."""
LAYERS = (12, 24, 48, 80)
PROPERTIES = (1, 4, 16, 64)
ROWS, WIDTH, CLASSES = 12_000, 96, 12
"""Of what the properties are solved on."""


def compared(
    what: str, unit: str, units: Mapping[int, int], turns: int, run: Callable[[int], object]
) -> None:
    """One line: the time of a unit in the smallest case, and in the others as a ratio of it."""
    sides = {f"{size}": lambda size=size: run(size) for size in units}
    seconds = alternate(turns, **sides)
    smallest = next(iter(units))
    each = {}
    for size, count in units.items():
        each[size] = [taken / count for taken in seconds[f"{size}"]]
    print(f"{what}: {smallest}: {median(each[smallest]) * 1e6:.1f} us {unit}")
    for size in list(units)[1:]:
        print(f"  {what}, {size}: {ratio(each[size], each[smallest])}", flush=True)


def features(times: int) -> int:
    """Extract the features of so many times the text; how many tokens it has."""
    sentences = list(read_conllu(demo_paths().train, limit=SENTENCES)) * times
    subject = load(str(demo_paths().model), body_only=True)
    layout = Layout.of(subject, sentences)
    with tempfile.TemporaryDirectory() as folder:
        store = ActivationStore(folder, {"run": "growth"}, dtype=torch.float32)
        extract(subject, layout, study_sites(subject, "hook_resid_post"), store)
    return sum(len(one) for one in layout.encoded)


def text(turns: int) -> None:
    tokens = {times: features(times) for times in TEXTS}
    compared("text", "a token", tokens, turns, features)
    for times in (TEXTS[0], TEXTS[-1]):
        command = [sys.executable, __file__, "--memory", str(times)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"  peak memory growth at {times} times the text: {done.stdout.strip()} MB")


def layers(turns: int) -> None:
    ids = random_tokens(4, 64)
    models = {}
    for count in LAYERS:
        config = transformers.GPT2Config(n_layer=count, n_embd=64, n_head=4, vocab_size=10_000)
        models[count] = transformers.GPT2Model(config).eval()

    @torch.no_grad()
    def run(count: int) -> None:
        with capture(models[count], "blocks.*.hook_resid_post"):
            models[count](ids, use_cache=False)

    units = {count: count * ids.numel() for count in LAYERS}
    compared("layers", "a token and layer", units, turns, run)


def properties(turns: int) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    targets = {}
    for number in range(PROPERTIES[-1]):
        scores = X @ rng.normal(size=(WIDTH, CLASSES)) + 3 * rng.normal(size=(ROWS, CLASSES))
        targets[f"property {number}"] = scores.argmax(1)

    def run(count: int) -> None:
        some = dict(list(targets.items())[:count])
        fit_many(Design(X), some, 100.0, tol=1e-5)

    compared("properties", "a property", {count: count for count in PROPERTIES}, turns, run)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--memory", type=int, metavar="TIMES", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        features(1)  # what is there before the first text does not count
        print(f"{peak_growth(lambda: features(given.memory)) / 1e6:.0f}")
        return
    start()
    torch.manual_seed(0)
    text(given.turns)
    layers(given.turns)
    properties(given.turns)


if __name__ == "__main__":
    main()
