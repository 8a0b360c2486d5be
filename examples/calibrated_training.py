"""Train a classifier head on a frozen encoder in three ways and see what each does to its
confidence.

    plain               cross-entropy
    label smoothing     cross-entropy with 0.9 on the label and 0.1 spread over all classes (Szegedy
                        et al. 2016)
    reduced inputs      cross-entropy, and the entropy of what it says of nonsense maximised (Feng
                        et al. 2018, section 5)

The task is the genre of a sentence (the first part of its id in UD English-EWT: answers, email,
newsgroup, reviews, weblog). A reduced input is two words of a sentence, those of some pairs drawn
at random on which the plain head is surest of what it says of the whole sentence: no person could
tell, and the head often is as sure as before.

python examples/calibrated_training.py MODEL TRAIN.conllu TEST.conllu [SENTENCES]
"""

import random
import sys

import numpy as np
import torch
from layerscope.experiments.calibration.reliability import Judged, judge
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.subject import load
from torch import nn

PAIRS, SMOOTHING, WEIGHT, STEPS = 4, 0.1, 1.0, 400


def read(path, limit, seed):
    """Sentences of at least six words, and their genres."""
    kept = [s for s in read_conllu(path) if len(s.words) >= 6]
    random.Random(seed).shuffle(kept)
    return kept[:limit], [s.id.split("-")[0] for s in kept[:limit]]


def vectors(subject, texts):
    """The mean of each text's last hidden states."""
    encoded, out = subject.encode(texts), {}
    for batch in subject.batches(encoded, tokens=4096):
        hidden = subject.forward(batch).last_hidden_state.float()
        mask = batch.attention_mask[:, :, None]
        means = (hidden * mask).sum(1) / mask.sum(1)
        out |= dict(zip(batch.rows, means, strict=True))
    return torch.stack([out[i] for i in range(len(texts))])


def pairs(sentences, seed):
    """Two words of each sentence, several times."""
    rng = random.Random(seed)
    return [
        " ".join(rng.sample([w.form for w in s.words], 2)) for s in sentences for _ in range(PAIRS)
    ]


def surest(head, whole, reduced):
    """Of each sentence's pairs the one on which the head is surest
    of what it says of the sentence.
    """
    with torch.no_grad():
        said = head(whole).argmax(1)
        p = torch.softmax(head(reduced.flatten(0, 1)), 1).view(len(whole), PAIRS, -1)
    best = p[torch.arange(len(whole)), :, said].argmax(1)
    return reduced[torch.arange(len(whole)), best]


def train(X, y, classes, smoothing=0.0, reduced=None, seed=0):
    """A head with one hidden layer, trained on all rows at once."""
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(X.shape[1], 256), nn.ReLU(), nn.Linear(256, classes))
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(head(X), y, label_smoothing=smoothing)
        if reduced is not None:
            log_p = torch.log_softmax(head(reduced), 1)
            loss = loss + WEIGHT * (log_p.exp() * log_p).sum(1).mean()  # minus the entropy
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head


def main(model, train_path, test_path, limit=2000):
    """Train, measure, print."""
    subject = load(model, body_only=True)
    parts = {
        name: read(path, int(limit), 0)
        for name, path in (("train", train_path), ("test", test_path))
    }
    classes = sorted(set(parts["train"][1]))
    X, y, small = {}, {}, {}
    for name, (sentences, genres) in parts.items():
        X[name] = vectors(subject, [s.text for s in sentences])
        small[name] = vectors(subject, pairs(sentences, 1)).view(len(sentences), PAIRS, -1)
        y[name] = torch.tensor([classes.index(g) for g in genres])
    mean, spread = X["train"].mean(0), X["train"].std(0)
    X, small = ({k: (v - mean) / spread for k, v in part.items()} for part in (X, small))

    plain = train(X["train"], y["train"], len(classes))
    nonsense = {name: surest(plain, X[name], small[name]) for name in X}
    heads = {
        "plain": plain,
        "label smoothing": train(X["train"], y["train"], len(classes), SMOOTHING),
        "reduced inputs": train(X["train"], y["train"], len(classes), reduced=nonsense["train"]),
    }
    print(
        f"{len(y['train'])} training and {len(y['test'])} test sentences, "
        f"{len(classes)} genres: {', '.join(classes)}"
    )
    print(
        f"{'head':16} accuracy  confidence  ECE (by chance) "
        " NLL    AUROC  on reduced inputs: confidence, share above .9"
    )
    for name, head in heads.items():
        with torch.no_grad():
            P = torch.softmax(head(X["test"]).double(), 1).numpy()
            low = torch.softmax(head(nonsense["test"]), 1).max(1).values
        labels = y["test"].numpy()
        judged = Judged(name, P.max(1), P.argmax(1) == labels, np.arange(len(labels)), P, labels)
        r = judge(judged, bins=15, seed=0)
        print(
            f"{name:16} {r.accuracy:.3f}     {r.confidence:.3f}       {r.ece:.3f} "
            f"({r.ece_chance:.3f})    {r.nll:.3f}  {r.auroc:.3f}  {low.mean():.3f}, "
            f"{(low > 0.9).float().mean():.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
