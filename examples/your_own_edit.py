"""An edit of your own: at every token only the K neurons of an MLP that are furthest from 0 stay.
What does each layer need?

# by default the embedded model and corpus
python examples/your_own_edit.py [MODEL CORPUS.conllu] [K ...]
"""

import sys

import torch
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.subject import load

from layerscope import edits, intervene


def largest(k):
    """Any function from a site's tensor to one of the same shape is an edit;
    it must not change what it is given.
    """

    def apply(value):
        smallest = value.abs().topk(k, dim=-1).values[..., -1:]
        return torch.where(value.abs() >= smallest, value, 0)

    return edits.function(apply, name=f"the {k} largest")


def loss(subject, encoded):
    """Bits a token."""
    total, count = 0.0, 0
    for batch in subject.batches(encoded, tokens=2048):
        logits = subject.forward(batch, logits=True).logits[:, :-1].float()
        labels = (
            batch.input_ids[:, 1:]
            .masked_fill(batch.attention_mask[:, 1:] == 0, -100)
            .to(logits.device)
        )
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        total, count = total + float(nats) / 0.6931471805599453, count + int((labels >= 0).sum())
    return total / count


def main(model=None, corpus=None, *sizes, sentences=60):
    subject = load(model or demo_paths().model)
    encoded = subject.encode(
        [s.text for s in read_conllu(corpus or demo_paths().test, limit=sentences)]
    )
    clean = loss(subject, encoded)
    print(f"{subject.name}: {clean:.3f} bits a token")
    found = {}
    for k in map(int, sizes or (4, 32)):
        for layer in range(subject.n_layers):
            with intervene(subject.model, {f"blocks.{layer}.mlp.hook_post": largest(k)}):
                found[k, layer] = loss(subject, encoded) - clean
        shown = " ".join(f"{found[k, layer]:+.3f}" for layer in range(subject.n_layers))
        print(f"{k:5} neurons a token, by layer: {shown}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
