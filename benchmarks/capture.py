"""Capture against the bare forward, and against TransformerLens's run_with_cache, on a GPT-2-small
shape.

    python benchmarks/capture.py [--repeats 7]

Weights are random: the shape decides the time. Each memory figure is of a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from statistics import median

import torch
import transformers
from measure import alternate, machine, peak_growth, ratio

from layerscope import capture, sites

NAMES = ("blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "blocks.*.mlp.hook_post")


def gpt2():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()


def bridge(model):
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge

    model.config.architectures = ["GPT2LMHeadModel"]
    words = Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    with tempfile.TemporaryDirectory() as folder:
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="<s>", unk_token="a"
        ).save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            "shape", hf_model=model, tokenizer=tokenizer, device="cpu"
        )


def ours(model, ids, names):
    with capture(model, *names, stop=True) as acts:
        model.transformer(ids, use_cache=False)
    return acts


def times(repeats):
    ids = torch.randint(1000, 10_000, (8, 64))
    model = gpt2()
    resid = (NAMES[0],)
    two = alternate(
        4 * repeats,  # a bound of 1.03 wants more turns than one of 1.3, and smaller ones do
        bare=lambda: model.transformer(ids[:2], use_cache=False),
        capture=lambda: ours(model, ids[:2], resid),
    )
    print(
        f"resid_post at all layers, 2x64: bare body {median(two['bare']):.3f} s, "
        f"capture {median(two['capture']):.3f} s: {ratio(two['capture'], two['bare'])} "
        "(bound 1.03)",
        flush=True,
    )
    listed = set(sites(model, *NAMES))
    peer = bridge(gpt2())
    two = alternate(
        repeats,
        bridge=lambda: peer.run_with_cache(ids, names_filter=lambda name: name in listed),
        capture=lambda: ours(model, ids, NAMES),
    )
    print(
        f"resid_post, z and mlp.post, 8x64: run_with_cache {median(two['bridge']):.3f} s, "
        f"capture {median(two['capture']):.3f} s: "
        f"{ratio(two['bridge'], two['capture'])} (bound 1.3)",
        flush=True,
    )


def memory(side):
    ids = torch.randint(1000, 10_000, (1, 1024))
    model = gpt2()
    listed = set(sites(model, *NAMES))
    if side == "bridge":
        peer = bridge(model)
        peer.run_with_cache(ids[:, :8], names_filter=lambda name: name in listed)
        print(
            peak_growth(lambda: peer.run_with_cache(ids, names_filter=lambda name: name in listed))
        )
    else:
        ours(model, ids[:, :8], NAMES)
        print(peak_growth(lambda: ours(model, ids, NAMES)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", choices=("bridge", "capture"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    with torch.no_grad():
        if given.memory:
            memory(given.memory)
            return
        print(machine())
        times(given.repeats)
    peaks = {}
    for side in ("bridge", "capture"):
        done = subprocess.run(
            [sys.executable, __file__, "--memory", side], capture_output=True, text=True, check=True
        )
        peaks[side] = int(done.stdout.split()[-1])
    print(
        f"peak memory growth at 1x1024: run_with_cache {peaks['bridge'] / 1e6:.0f} MB, "
        f"capture {peaks['capture'] / 1e6:.0f} MB: {peaks['capture'] / peaks['bridge']:.2f} "
        "of it (bound 0.5)"
    )


if __name__ == "__main__":
    main()
