"""Patching resid_pre over layers x positions of a GPT-2-small shape: our sweep against
TransformerLens's `patching`.

    python benchmarks/patching.py [--texts 4] [--length 16]

Weights are random: the shape decides the time. Both sides end with the same grid, a logit
difference for every layer and position, and their largest disagreement is printed.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from ablation import chunk
from capture import bridge, gpt2
from layerscope.experiments.metrics.metrics import get_metric
from layerscope.experiments.sweep.components import edit_at, places
from layerscope.experiments.sweep.sweep import Sweep
from measure import alternate, random_tokens, ratio, start, texts_parser

from layerscope import capture, edits


def ours(model, clean, corrupted):
    subject = SimpleNamespace(model=model, device=clean.device)
    with torch.no_grad(), capture(model, "blocks.*.hook_resid_pre", clone=True) as acts:
        model(clean)
    sweep = Sweep(subject, get_metric("logit_difference"), chunk(corrupted))
    parts = places(model, "hook_resid_pre", clean.shape[1])
    patch = edits.patch(acts)
    effects = sweep.effects([(part, edit_at(part, patch)) for part in parts])
    return (effects + sweep.clean).mean(1).reshape(12, -1)


def theirs(peer, clean, corrupted):
    from transformer_lens.patching import get_act_patch_resid_pre

    def metric(logits):
        return (logits[:, -1, 1] - logits[:, -1, 2]).mean()

    _, cache = peer.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_resid_pre"))
    return get_act_patch_resid_pre(peer, corrupted, cache, metric).double().cpu().numpy()


def main():
    parser = texts_parser(__doc__, texts=4, length=16)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    start()
    clean, corrupted = random_tokens(2 * given.texts, given.length).chunk(2)
    model, peer = gpt2(), bridge(gpt2())
    with torch.no_grad():
        effects = [ours(model, clean, corrupted), theirs(peer, clean, corrupted)]
        taken = alternate(
            given.repeats,
            ours=lambda: ours(model, clean, corrupted),
            peer=lambda: theirs(peer, clean, corrupted),
        )
    print(
        f"12 layers x {given.length} positions, {given.texts} pairs: TransformerLens "
        f"{np.median(taken['peer']):.1f} s, ours {np.median(taken['ours']):.1f} s: "
        f"{ratio(taken['peer'], taken['ours'])}; largest difference "
        f"{np.abs(effects[0] - effects[1]).max():.1e}"
    )


if __name__ == "__main__":
    main()
