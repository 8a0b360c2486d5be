"""Zero-ablating heads of a GPT-2-small shape, read at the last position: our sweep against one
bridge forward a head.

    python benchmarks/ablation.py [--texts 8] [--length 64] [--every 1] [--parts 3]

Weights are random: the shape decides the time. Both sides end with the same number for every head,
a logit difference, and their largest disagreement is printed. ``--every N`` gives the bridge, and
us, every Nth head only. The bridge's heads are run in three (--parts) parts with our whole sweep
before each, so that both meet the machine's good and bad moments; the mean of ours counts.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import torch
from capture import bridge, gpt2
from layerscope.experiments.metrics.metrics import get_metric
from layerscope.experiments.metrics.reads import Reads
from layerscope.experiments.subject.batches import Batch
from layerscope.experiments.sweep.components import components
from layerscope.experiments.sweep.sweep import Chunk, Sweep
from measure import random_tokens, start, texts_parser

from layerscope import edits


def chunk(ids):
    """The ids as a batch whose last position is read: token 1 against token 2."""
    texts, last = len(ids), ids.shape[1] - 1
    places = [(text, last, token, text) for text in range(texts) for token in (1, 2)]
    batch = Batch(ids, torch.ones_like(ids), None, rows=tuple(range(texts)), shifts=(0,) * texts)
    return Chunk(
        list(range(texts)),
        batch,
        Reads([], torch.tensor(places), torch.tensor([1.0, -1.0] * texts)),
    )


def ours(model, ids, every):
    sweep = Sweep(
        SimpleNamespace(model=model, device=ids.device), get_metric("logit_difference"), chunk(ids)
    )
    parts = components(model, "heads", sweep.chunk.batch)[::every]
    return sweep.effects([(part, edits.zero()) for part in parts])


def theirs(peer, ids, heads):
    def value(logits):
        return (logits[:, -1, 1] - logits[:, -1, 2]).double().numpy()

    def cut(head):
        def hook(z, hook):
            z[:, :, head] = 0
            return z

        return hook

    clean, effects = value(peer(ids)), []
    for layer, head in heads:
        effects.append(
            value(peer.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", cut(head))]))
            - clean
        )
    return np.array(effects)


def main():
    parser = texts_parser(__doc__, texts=8, length=64)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--parts", type=int, default=3)
    given = parser.parse_args()
    start()
    ids = random_tokens(given.texts, given.length)
    model, peer = gpt2(), bridge(gpt2())
    heads = [(layer, head) for layer in range(12) for head in range(12)][:: given.every]
    taken, other, effects, expected = [], 0.0, np.empty(0), []
    with torch.no_grad():
        for _ in range(2):
            ours(model, ids, 12), peer(ids)
        for part in range(given.parts):
            begun = time.perf_counter()
            effects = ours(model, ids, given.every)
            taken.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            expected.append(theirs(peer, ids, np.array_split(heads, given.parts)[part].tolist()))
            other += time.perf_counter() - begun
    ours_seconds, peers = float(np.mean(taken)), np.concatenate(expected)
    print(
        f"{len(heads)} heads, {given.texts}x{given.length}: bridge {other:.1f} s, "
        f"ours {ours_seconds:.1f} s ({min(taken):.1f} to {max(taken):.1f}): "
        f"{other / ours_seconds:.2f}x; "
        f"largest difference of an effect {np.abs(effects - peers).max():.1e} (largest "
        f"effect {np.abs(peers).max():.1e})"
    )


if __name__ == "__main__":
    main()
