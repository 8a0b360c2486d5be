"""All 36,864 neurons of a GPT-2-small shape screened by gradient, the largest 64 measured exactly:
how many forwards?

    python benchmarks/neurons.py [--texts 8] [--length 64]

The unit is a plain forward of the same batch, timed before and after. Weights are random: the shape
decides the time.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import torch
from ablation import chunk
from capture import gpt2
from layerscope.experiments.metrics.metrics import get_metric
from layerscope.experiments.sweep.components import components
from layerscope.experiments.sweep.estimate import estimates, to_verify, weighted_spearman
from layerscope.experiments.sweep.sweep import Sweep
from measure import random_tokens, start, texts_parser

from layerscope import edits

TOP = 64


def screened(model, ids):
    subject, metric = (
        SimpleNamespace(model=model, device=ids.device),
        get_metric("logit_difference"),
    )
    here = chunk(ids)
    parts = components(model, "neurons", here.batch)
    estimate = estimates(subject, metric, here, parts, lambda part: edits.zero()).effects.mean(1)
    top, _ = to_verify(np.abs(estimate), TOP, 0, seed=0)
    sweep = Sweep(subject, metric, here)
    exact = np.zeros(len(parts))
    exact[top] = sweep.effects([(parts[i], edits.zero()) for i in top]).mean(1)
    same_sign = (np.sign(estimate[top]) == np.sign(exact[top])).mean()
    return len(parts), weighted_spearman(estimate[top], exact[top], np.ones(len(top))), same_sign


def main():
    given = texts_parser(__doc__, texts=8, length=64).parse_args()
    start()
    ids = random_tokens(given.texts, given.length)
    model, forwards = gpt2(), []

    def forward():
        begun = time.perf_counter()
        with torch.no_grad():
            model(ids)
        forwards.append(time.perf_counter() - begun)

    for _ in range(4):
        forward()
    begun = time.perf_counter()
    count, spearman, same_sign = screened(model, ids)
    seconds = time.perf_counter() - begun
    for _ in range(3):
        forward()
    unit = float(np.median(forwards[1:]))
    print(
        f"{count:,} neurons, {given.texts}x{given.length}, the top {TOP} exact: "
        f"{seconds:.1f} s; a forward {unit:.2f} s ({min(forwards):.2f} to "
        f"{max(forwards):.2f}): {seconds / unit:.0f} forwards; "
        f"Spearman with the exact effects {spearman:.2f}, same sign {same_sign:.0%}"
    )


if __name__ == "__main__":
    main()
