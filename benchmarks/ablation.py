"""Zero-ablating heads of a GPT-2-small shape, read at the last position: our sweep against one bridge forward a head.

    python benchmarks/ablation.py [--texts 8] [--length 64] [--every 1]

Weights are random: the shape decides the time. Both sides end with the same number for every head, a logit difference,
and their largest disagreement is printed. ``--every N`` gives the bridge, and us, every Nth head only.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from capture import bridge, gpt2
from measure import once, random_tokens, start, texts_parser

from experiments.components import components
from experiments.metrics import get_metric
from experiments.padding import Batch
from experiments.reads import Reads
from experiments.sweep import Chunk, Sweep
from hooks import edits


def chunk(ids):
    """The ids as a batch whose last position is read: token 1 against token 2."""
    texts, last = len(ids), ids.shape[1] - 1
    places = [(text, last, token, text) for text in range(texts) for token in (1, 2)]
    batch = Batch(ids, torch.ones_like(ids), None, rows=tuple(range(texts)), shifts=(0,) * texts)
    return Chunk(list(range(texts)), batch, Reads([], torch.tensor(places), torch.tensor([1.0, -1.0] * texts)))


def ours(model, ids, every):
    sweep = Sweep(SimpleNamespace(model=model, device=ids.device), get_metric("logit_difference"), chunk(ids))
    parts = components(model, "heads", sweep.chunk.batch)[::every]
    return sweep.effects([(part, edits.zero()) for part in parts])


def theirs(peer, ids, every):
    def value(logits):
        return (logits[:, -1, 1] - logits[:, -1, 2]).double().numpy()

    def cut(head):
        def hook(z, hook):
            z[:, :, head] = 0
            return z

        return hook

    clean, found = value(peer(ids)), []
    for layer, head in [(layer, head) for layer in range(12) for head in range(12)][::every]:
        found.append(value(peer.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", cut(head))])) - clean)
    return np.array(found)


def main():
    parser = texts_parser(__doc__, texts=8, length=64)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    start()
    ids = random_tokens(given.texts, given.length)
    model, peer = gpt2(), bridge(gpt2())
    seconds, effects = once(
        lambda: (model(ids), peer(ids)),
        ours=lambda: ours(model, ids, given.every),
        bridge=lambda: theirs(peer, ids, given.every),
    )
    print(
        f"{len(effects['ours'])} heads, {given.texts}x{given.length}: bridge {seconds['bridge']:.1f} s, ours "
        f"{seconds['ours']:.1f} s: {seconds['bridge'] / seconds['ours']:.2f}x; largest difference of an effect "
        f"{np.abs(effects['ours'] - effects['bridge']).max():.1e} (largest effect {np.abs(effects['bridge']).max():.1e})"
    )


if __name__ == "__main__":
    main()
