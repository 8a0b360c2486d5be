"""Attribution on a causal language model: ours against Captum's at equal samples, both in one run.

    python benchmarks/attribution.py --model SMOLLM2.gguf [--only kernel-shap] [--samples \
        1000] [--words 24]
        [--batches 8 16 32 64] [--repeats 3]

KernelSHAP and LIME replace words by padding; integrated gradients go from the padding's embedding
until they miss at most 1% of the change of a text of 6 words, Captum's in the fewest steps of
`STEPS` that do; occlusion takes 64 words one by one. Captum is run at each `perturbations_per_eval`
(or internal batch) of --batches, and its best counts; the last two also as they come (one word at a
time; all steps at once). Of repeated runs the median, and of their ratios. The largest difference
of the numbers is printed: occlusion's are the same, integrated gradients' to about the gap. Beside
occlusion of all words stands that of --verify K: K words exactly, the others estimated, with how
many of the K largest it measured.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import numpy as np
import torch
from captum.attr import FeatureAblation, KernelShap, LayerIntegratedGradients, Lime
from layerscope.experiments.attribution import Scorer, Target, ask, explain
from layerscope.experiments.subject import load
from measure import once, ratio, start

STORY = (
    "the old man who had lived near the river for many years said that his house was too "
    "small and that he wanted to move into the city where his children and their friends "
    "worked in a large shop that sold books and maps to people who came from far away to "
    "see the sea and walk along its long white shore every summer"
)
DEFAULT = "captum as it comes"
SOME = "ours, the largest exactly"
STEPS = (10, 20, 50, 100, 200, 400, 800, 1600, 3200)
"""Numbers of Gauss-Legendre steps that Captum is tried at."""
INTEGRATED = 6
"""Words of integrated gradients, of which Captum's take hundreds of steps:
of 24 more than any of these.
"""
GAP = 0.01
"""Share of the change that integrated gradients may miss."""


def sides(given, method):
    subject = load(given.model, dtype=given.dtype)
    words = {"leave-one-out": 64, "ig": INTEGRATED}.get(method, given.words)
    text = " ".join(STORY.split()[:words])
    question = ask(subject, text, Target(" and", measure="logit"))
    (part,) = question.parts
    ids = torch.tensor([part.ids])
    token, read = part.classes[0], part.reads[0]
    mask = torch.zeros_like(ids)
    for unit, places in enumerate(part.tokens, 1):
        mask[0, list(places)] = unit
    baseline = torch.where(mask > 0, subject.pad_id, ids)

    def forward(rows):
        return subject.model(rows).logits[:, read, token].float()

    def ours(**settings):
        scorer = Scorer(question, given.tokens)
        settings = {
            "removal": "pad",
            "baseline": "pad",
            "samples": given.samples,
            "features": 0,
        } | settings
        result = explain(scorer, method, **settings)
        return result.scores, result.cost, result.more

    def some():
        return ours(verify=given.verify)

    def integrated(steps, batch):
        with torch.enable_grad():
            layer = LayerIntegratedGradients(forward, subject.model.get_input_embeddings())
            scores = layer.attribute(
                ids, baseline, n_steps=steps, method="gausslegendre", internal_batch_size=batch
            )
        return scores[0].sum(-1).detach().float()

    def steps_needed():
        change = float(forward(ids) - forward(baseline))
        for steps in STEPS:
            if abs(float(integrated(steps, 32).sum()) - change) <= GAP * abs(change):
                print(f"captum's integrated gradients miss at most {GAP:.0%} in {steps} steps")
                return steps
        raise SystemExit(f"captum's integrated gradients miss more than {GAP:.0%} in {STEPS[-1]}")

    steps = steps_needed() if method == "ig" else 0

    def theirs(batch):
        if method == "ig":
            each = integrated(steps, batch)
            return np.array([float(each[list(places)].sum()) for places in part.tokens]), None
        settings = {"feature_mask": mask, "baselines": baseline, "perturbations_per_eval": batch}
        if method == "leave-one-out":
            scores = FeatureAblation(forward).attribute(ids, **settings)
        else:
            kind = KernelShap if method == "kernel-shap" else Lime
            scores = kind(forward).attribute(ids, n_samples=given.samples, **settings)
        return np.array([float(scores[0, places[0]]) for places in part.tokens]), None

    return lambda: forward(ids), ours, some, theirs


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--only", default=None, choices=("kernel-shap", "lime", "ig", "leave-one-out")
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--words", type=int, default=24)
    parser.add_argument("--verify", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    start()
    for method in (given.only,) if given.only else ("kernel-shap", "lime", "ig", "leave-one-out"):
        warm, ours, some, theirs = sides(given, method)
        runs = {"ours": ours} | {
            f"captum {batch}": partial(theirs, batch) for batch in given.batches
        }
        if method == "leave-one-out":
            runs[SOME] = some
        if method in ("leave-one-out", "ig"):
            runs[DEFAULT] = partial(theirs, None if method == "ig" else 1)
        taken = {name: [] for name in runs}
        for _ in range(given.repeats):
            seconds, results = once(warm, **runs)
            for name in runs:
                taken[name].append(seconds[name])
        median = {name: statistics.median(times) for name, times in taken.items()}
        others = (name for name in runs if name not in ("ours", SOME))
        best = min(others, key=lambda name: median[name])
        (our_scores, cost, _), (other, _) = results["ours"], results[best]
        against = ", ".join(
            f"{ratio(taken[it], taken['ours'])} against {it}"
            for it in dict.fromkeys((best, *({DEFAULT} & {*runs})))
        )
        print(
            f"{method}: {', '.join(f'{name} {median[name]:.1f} s' for name in runs)}: "
            f"{against}; {cost.asked} texts asked for, {cost.forwards} run, {cost.tokens} "
            f"tokens; largest difference {np.abs(our_scores - other).max():.1e} of "
            f"{np.abs(other).max():.1e}",
            flush=True,
        )
        if SOME in runs:
            _, cost, figures = results[SOME]
            largest = np.argsort(-np.abs(our_scores), kind="stable")[: given.verify]
            n_found = len(set(largest.tolist()) & set(figures["exact"]))
            print(
                f"{SOME}, {given.verify} words: {ratio(taken[best], taken[SOME])} against {best}; "
                f"{cost.forwards} texts run, {cost.tokens} tokens, {cost.backwards} backwards; "
                f"{n_found} of the {given.verify} largest measured; larger than the smallest "
                f"measured first: at most {figures['others']['at_most']} of the "
                f"{figures['others']['unmeasured']} others",
                flush=True,
            )


if __name__ == "__main__":
    main()
