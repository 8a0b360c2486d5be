"""Statistics of all heads over a corpus against the bare forward with eager attention; and memory
as the corpus grows.

    python benchmarks/attention.py [--model FOLDER] [--texts 400] [--length 24] [--repeats 7]

Without ``--model`` a GPT-2-small shape with random weights: the shape decides the time. Texts are
random tokens of lengths around ``--length``. The bare side runs the body with eager attention over
the same batches and keeps nothing; ours runs the model as it is (sdpa) and makes every sum of
`experiments.attention.heads` (entropy, masses, contributions). Each memory figure is of a process
of its own.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from statistics import median
from types import SimpleNamespace

import torch
from layerscope.experiments.attention.heads import HeadTotals, deal
from layerscope.experiments.attention.passes import pass_over
from layerscope.experiments.subject.batches import Policy, make_batches
from layerscope.experiments.subject.word_spans import Encoded
from measure import alternate, peak_growth, ratio, start


def random_texts(count, length):
    """Texts of random tokens: a BOS,
    and lengths from half to one and a half times the given one.
    """
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        n = int(torch.randint(max(2, length // 2), 3 * length // 2, (1,), generator=generator))
        ids = torch.randint(1000, 10_000, (n,), generator=generator).tolist()
        offsets = tuple((i, i + 1) for i in range(n))
        out.append(Encoded("a" * n, tuple(ids), offsets, (True, *[False] * (n - 1))))
    return out


def subject_of(model):
    """What a pass needs of a subject."""
    body = model.base_model

    def forward(batch):
        with torch.inference_mode():
            return body(**batch.inputs(), use_cache=False)

    def batches(encoded, tokens):
        return make_batches(encoded, Policy(True), 0, tokens, "right")

    return SimpleNamespace(model=model, forward=forward, batches=batches)


def ours(subject, texts, tokens):
    totals = HeadTotals(subject, texts, deal(len(texts), 0))
    pass_over(subject, texts, [totals], batch_tokens=tokens)
    return totals.result()


def bare(subject, texts, tokens):
    for batch in subject.batches(texts, tokens):
        subject.forward(batch)


def the_model(given):
    import transformers

    if given.model:
        model = transformers.AutoModel.from_pretrained(given.model)
    else:
        torch.manual_seed(0)
        model = transformers.GPT2Model(transformers.GPT2Config())
    return model.eval()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    start()
    model = the_model(given)
    if given.memory:
        texts = random_texts(given.memory, given.length)
        subject = subject_of(model)
        ours(subject, texts[:4], given.batch_tokens)
        print(peak_growth(lambda: ours(subject, texts, given.batch_tokens)))
        return
    texts, subject = random_texts(given.texts, given.length), subject_of(model)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    theirs = subject_of(eager)
    two = alternate(
        given.repeats,
        bare=lambda: bare(theirs, texts, given.batch_tokens),
        ours=lambda: ours(subject, texts, given.batch_tokens),
    )
    print(
        f"{given.texts} texts of about {given.length} tokens, {type(model).__name__}: "
        f"bare eager forward {median(two['bare']):.2f} s, statistics of all heads "
        f"{median(two['ours']):.2f} s: {ratio(two['ours'], two['bare'])} (bound 1.5)",
        flush=True,
    )
    if given.no_memory:
        return
    grown = {}
    for count in (given.texts, 4 * given.texts):
        command = [sys.executable, __file__, "--memory", str(count), "--length", str(given.length)]
        command += ["--model", given.model] if given.model else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[count] = int(done.stdout.split()[-1]) / 1e6
    print(
        "peak memory growth: "
        + ", ".join(f"{count} texts {size:.0f} MB" for count, size in grown.items())
    )


if __name__ == "__main__":
    main()
