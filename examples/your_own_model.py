"""Not only transformers: an LSTM language model trained on a text, its gates read, probed, ablated
and attributed.

# by default the embedded corpus
python examples/your_own_model.py [CORPUS.conllu] [EPOCHS] [TEXT.txt]

The corpus has the parts of speech that are probed; a text file, a sentence a line, is read in
training alone.
"""

import sys
from collections import Counter
from pathlib import Path

import torch
from layerscope.experiments.attribution import attribute
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.subject.own_model import of_function
from torch import nn

from layerscope import LogisticProbe, capture, intervene, verify


class Cell(nn.Module):
    """One step: i, f, g, o = W [x, h]; c' = f c + i g; h' = o tanh c'.

    Each part is a module, so each can be hooked.
    """

    def __init__(self, width):
        super().__init__()
        self.gates = nn.Linear(2 * width, 4 * width)
        self.state = nn.Identity()  # h'

    def forward(self, x, h, c):
        i, f, g, o = self.gates(torch.cat([x, h], dim=-1)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return self.state(o.sigmoid() * c.tanh()), c


class LstmLm(nn.Module):
    """Words in, next-word logits out."""

    def __init__(self, vocabulary, width=64):
        super().__init__()
        self.width = width
        self.embed, self.cell, self.head = (
            nn.Embedding(vocabulary, width),
            Cell(width),
            nn.Linear(width, vocabulary),
        )

    def forward(self, ids):
        x = self.embed(ids)
        h = c = x.new_zeros(len(ids), self.width)
        states = []
        for step in range(ids.shape[1]):
            h, c = self.cell(x[:, step], h, c)
            states.append(h)
        return self.head(torch.stack(states, dim=1))


def main(path=None, epochs=3, sentences=400, text=None):
    torch.manual_seed(0)
    corpus = list(read_conllu(path or demo_paths().train, limit=sentences + 100))
    lines = Path(text).read_text(encoding="utf-8").lower().splitlines() if text else []
    rows = [[w.form.lower() for w in s.words] for s in corpus] + [
        line.split() for line in lines if line.strip()
    ]
    counts = Counter(word for row in rows for word in row)
    vocabulary = {
        word: i for i, word in enumerate(["<s>", "<unk>", *(w for w, n in counts.items() if n > 1)])
    }
    names = list(vocabulary)
    encoded = [[0, *(vocabulary.get(word, 1) for word in row)] for row in rows]
    encoded, only_read = encoded[: len(corpus)], encoded[len(corpus) :]
    train, test = encoded[:sentences] + only_read, encoded[sentences:]

    model = LstmLm(len(vocabulary))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(epochs):
        total = 0.0
        for start in range(0, len(train), 16):
            rows = [torch.tensor(r) for r in train[start : start + 16]]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
            logits = model(ids[:, :-1].clamp(min=0))
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        print(f"epoch {epoch + 1}: {total / len(train):.3f} nats a word")
    model.eval()

    # 1. The doctor, on this module: what is read is what it does.
    batch = {"ids": torch.tensor([row[:5] for row in test if len(row) >= 5][:3])}
    verdict = verify(model, batch, sites=["module:embed:output", "module:head:input"])
    print(f"doctor: {verdict.status}, {len(verdict)} findings")

    # 2. Gates and states by module path: a module that is called once a step has one tensor a step.
    def states(row):
        with (
            torch.no_grad(),
            capture(model, "module:cell.state:output", "module:cell.gates:output") as acts,
        ):
            model(torch.tensor([row]))
        gates = torch.cat(acts.all("module:cell.gates:output")).chunk(4, dim=-1)
        return torch.cat(acts.all("module:cell.state:output"))[1:], gates[1].sigmoid()[1:]

    both = [states(row) for row in encoded]
    labels = [[w.upos for w in s.words] for s in corpus]
    X = [
        torch.cat([state for state, _ in part]).numpy()
        for part in (both[:sentences], both[sentences:])
    ]
    y = [
        [label for row in part for label in row]
        for part in (labels[:sentences], labels[sentences:])
    ]
    print(f"forget gate: mean {torch.cat([f for _, f in both]).mean():.2f}")

    # 3. A probe of the states for parts of speech.
    score = LogisticProbe(l2=10.0).fit(X[0], y[0]).score(X[1], y[1])
    majority = Counter(y[0]).most_common(1)[0][0]
    print(
        f"UPOS from the state: {score:.3f}; the most frequent class "
        f"{y[1].count(majority) / len(y[1]):.3f}"
    )

    # 4. Units ablated: which of them the next word needs.
    def nats():
        losses = []
        with torch.no_grad():
            for row in test[:30]:
                logits = model(torch.tensor([row[:-1]]))[0]
                losses.append(float(nn.functional.cross_entropy(logits, torch.tensor(row[1:]))))
        return sum(losses) / len(losses)

    def without(unit):
        def edit(h):
            h = h.clone()
            h[..., unit] = 0
            return h

        with intervene(model, {"module:cell.state:output": edit}):
            return nats()

    clean = nats()
    effects = {unit: without(unit) - clean for unit in range(0, model.width, 8)}
    worst = max(effects, key=lambda unit: effects[unit])
    print(f"clean {clean:.3f} nats a word; without unit {worst} {effects[worst]:+.3f}")

    # 5. The next word attributed to the words before it, by the methods that transformers are asked
    # with.
    row = max(test[:30], key=len)
    subject = of_function(model, vocabulary, embedding="embed", bos="<s>")
    text, target = " ".join(names[i] for i in row[1:-1]), f" {names[row[-1]]}"
    scores = {}
    for method in ("leave-one-out", "grad-input", "ig"):
        found = attribute(subject, text, target=target, method=method)
        scores[method] = found.scores
        words = [f"{w} {v:+.2f}" for w, v in zip(found.units, found.scores, strict=True)]
        print(f"{found.target} from, by {method}: {', '.join(words[-6:])}")
    return {
        "upos": score,
        "majority": y[1].count(majority) / len(y[1]),
        "effects": effects,
        "status": verdict.status,
        "scores": scores,
        "path": found.more,
    }


if __name__ == "__main__":
    given = [*sys.argv[1:], None, None, None]
    main(given[0], int(given[1] or 3), text=given[2])
