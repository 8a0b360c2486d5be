"""Run the benchmarks and write what they print into RESULTS.md.

    python benchmarks/run.py [NAME ...] [--minilm FOLDER] [--smollm FILE] [--ud FOLDER] [--check]
    python benchmarks/run.py --readme

Without names all are run, minutes each; with names only those, and the others' results stay. A
benchmark whose model or corpus is not given is left as it is. Each block of RESULTS.md is the
output of its command, with the date and what a product of 2 x 2.4 GFLOP took just before and after
it: where the two differ, the machine did other work meanwhile.

``--check`` leaves RESULTS.md as it is, and ends with 1 if a figure got worse than the one there by
more than its spread, or is measured no more. ``--readme`` prints the rows of README's table from
RESULTS.md and runs nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from check import ratios, worse

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"


@dataclass(frozen=True)
class Benchmark:
    """A command, what it compares, and what is asked of it."""

    what: str
    asked: str
    command: str
    costs: str = ""
    """A pattern of what is better the smaller it is; every other ratio is a gain, and what has no
    ratio is compared only if it is here.
    """


BENCHMARKS = {
    "capture": Benchmark(
        "capture against the bare body's forward, and against TransformerBridge "
        "`run_with_cache`, GPT-2-small shape",
        "at most 1.03x the bare forward; 1.3x faster than the bridge; under half its memory growth",
        "capture.py",
        costs="bare body|peak memory",
    ),
    "hooks": Benchmark(
        "entering a block and running in it, us a site, on 12 and 80 layers, "
        "against hooks by hand; one head's pattern",
        "entering at most 15 us a site; running at most 10 us above a hook by hand; "
        "one head's memory",
        "hooks.py",
        costs="^(entering, |running, |pattern )",
    ),
    "study": Benchmark(
        "the probing study (features and joint solves) "
        "against transformers and a scikit-learn loop, MiniLM, 3,000 sentences",
        "solves 20x; whole study 15x",
        "study.py --model {minilm} --ud {ud}",
    ),
    "heads-short": Benchmark(
        "zero-ablating 144 heads, GPT-2-small shape, 1x16 tokens, "
        "against one bridge forward a head",
        "8x",
        "ablation.py --texts 1 --length 16 --parts 9",
    ),
    "heads": Benchmark("the same at 8x64 tokens", "4x", "ablation.py --texts 8 --length 64"),
    "race": Benchmark(
        "the 10 largest of 270 heads of SmolLM2, mean ablation over 60 prompts: a race over "
        "prompts against all heads on all prompts",
        "3x, with the same heads and intervals",
        "race.py --model {smollm}",
    ),
    "patching": Benchmark(
        "patching resid_pre over 12 layers x 16 positions, 4 pairs, "
        "against TransformerLens `patching`",
        "5x",
        "patching.py",
    ),
    "neurons": Benchmark(
        "36,864 neurons screened, the top 64 exact, in plain forwards of the same batch",
        "at most 60",
        "neurons.py",
        costs=r"exact|\)",
    ),
    "leace": Benchmark(
        "LEACE fit, 100,000 x 768, against concept-erasure", "no slower", "probes.py leace"
    ),
    "sparse": Benchmark(
        "sweep of sparse probes against TransformerLens `sweep_sparse_probe`",
        "10x",
        "probes.py sparse",
    ),
    "code": Benchmark(
        "online code of 7 layers x (1 task + 5 controls) "
        "against a scikit-learn loop over the same blocks",
        "10x",
        "probes.py code --model {minilm} --ud {ud}",
    ),
    "attention": Benchmark(
        "statistics of all heads over a corpus, against the bare forward with eager attention",
        "at most 1.5x",
        "attention.py",
        costs="bare eager forward",
    ),
    "store": Benchmark(
        "activations on disk: written while capturing against kept in memory; "
        "memory at 10x the text; batches by length against the corpus's order; time at 1x, "
        "4x, 16x; kills; Ray",
        "1.15x; 1.05x; 1.8x; within 10%; identical; identical",
        "store.py --only writing,memory,batches,linear,kills,ray --repeats 15 --texts 4096 "
        "--turns 5 --ud {ud} --model {minilm} --sentences 1500",
        costs="writing|peak memory|by the clock|of the processors",
    ),
    "reading": Benchmark(
        "one layer of a 5 GB store against a plain read of as many bytes, and of the same ranges",
        "0.9x the plain read's rate",
        "store.py --only reading --repeats 15",
    ),
    "attribution": Benchmark(
        "KernelSHAP and LIME (24 words, 1,000 samples), integrated gradients (6 words, "
        "to a gap of 1%) and leave-one-out (64 words) on SmolLM2, "
        "against Captum at its best batch",
        "3x; integrated gradients and the largest words alone 4x",
        "attribution.py --model {smollm} --batches 16 32 64 --repeats 2",
    ),
    "lens": Benchmark(
        "the Jacobian lens's fit against TransformerLens's at the same texts; "
        "least squares against capturing alone; the page of a prompt on SmolLM2",
        "1.0x; 1.2x; 3 s",
        "lens.py --model {smollm}",
        costs=".",
    ),
    "explore": Benchmark(
        "the live bench on SmolLM2, 16 tokens, over its WebSocket and in headless Chromium, "
        "beside a bare forward; CircuitsVis and interpkit, where they are installed",
        "click on a head to painted answer 150 ms (95th percentile 300 ms); "
        "keystroke to predictions and the answer's lens column 400 ms; first screen 2 s; "
        "estimates of all heads 1 s; generation with edits at 0.9x bare "
        "`generate`; 3x a peer",
        "explore.py --smollm {smollm} --peer",
        costs="a bare forward",
    ),
    "growth": Benchmark(
        "time a token at 1x, 4x, 16x text and 12 to 80 layers, "
        "and a property's at 1 to 64 properties; peak memory",
        "time within 10% of linear; memory flat in text",
        "growth.py",
        costs=".",
    ),
    "startup": Benchmark(
        "`import layerscope` over `import torch`, `layerscope --help`, and the demo",
        "30 ms; 100 ms; 12 s",
        "startup.py",
        costs="layerscope",
    ),
    "threads": Benchmark(
        "the demo alone and beside a process that keeps the cores busy, whose idle threads soon "
        "sleep, against GCC's default",
        "not below 0.9x alone; above 1x beside it",
        "threads.py",
    ),
    "pages": Benchmark(
        "seconds, bytes and DOM nodes of the pages of large runs",
        "an ablation of 30 layers of 16 heads over 60 prompts: 2 s, 3 MB",
        "pages.py",
        costs="^",
    ),
}

README = (
    (
        "capture of resid_post at all layers, GPT-2-small shape",
        "the forward of the bare model body",
        "capture",
        "bare body",
        "{:.2f}x its time",
    ),
    (
        "capture of three sites at all layers",
        "TransformerLens `run_with_cache`",
        "capture",
        "mlp.post",
        "{:.2f}x faster",
    ),
    (
        "a probing study of MiniLM (84 probes and controls, 3,000 sentences)",
        "transformers and a scikit-learn loop",
        "study",
        "whole study",
        "{:.1f}x faster",
    ),
    (
        "zero-ablating 144 heads, 1x16 tokens",
        "TransformerLens, one forward per head",
        "heads-short",
        "#x#",
        "{:.1f}x faster",
    ),
    (
        "integrated gradients to a gap of 1%, SmolLM2",
        "Captum at its best batch",
        "attribution",
        "ig:",
        "{:.1f}x faster",
    ),
)
"""Rows of README: what, compared with, the block, the start of a ratio's label there,
and how the ratio reads.
"""


def readme_rows(blocks_by_name: dict[str, str]) -> list[str]:
    """README's table, from the blocks of RESULTS.md."""
    rows = ["| what | compared with | measured |", "|---|---|---|"]
    for what, peer, name, label, text in README:
        measured = [
            r.value
            for found_label, r in ratios(blocks_by_name[name]).items()
            if label in found_label
        ]
        rows.append(f"| {what} | {peer} | {text.format(measured[0])} |")
    return rows


def speed() -> str:
    """Seconds of a float32 product of 2 x 2.4 GFLOP, three times."""
    a, b = torch.randn(1000, 1200), torch.randn(1200, 1000)
    taken = []
    for _ in range(4):
        begun = time.perf_counter()
        for _ in range(2):
            a @ b
        taken.append(time.perf_counter() - begun)
    return ", ".join(f"{t:.3f}" for t in taken[1:])


def measure(name: str, command: str) -> str:
    """The block of one benchmark."""
    one, before = BENCHMARKS[name], speed()
    script, *rest = command.split()
    done = subprocess.run(
        [sys.executable, str(HERE / script), *rest], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"{script} ended with {done.returncode}: "
            f"{(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    shown_command = re.sub(r"(/[\w.-]+){3,}/", "", f"python benchmarks/{command}")
    return (
        f"## {name}\n\n{one.what[0].upper()}{one.what[1:]}. Asked: {one.asked}.\n\n```\n$ "
        f"{shown_command}\n{done.stdout.strip()}\n```\n\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; "
        f"the product took {before} s before and {speed()} s after."
    )


def blocks(text: str) -> dict[str, str]:
    """Name -> block, of a RESULTS.md."""
    parts = re.split(r"^(?=## )", text, flags=re.M)[1:]
    return {part.splitlines()[0][3:].strip(): part.strip() for part in parts}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--minilm", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--smollm", help="SmolLM2-135M, a GGUF file")
    parser.add_argument("--ud", help="folder of UD English-EWT")
    parser.add_argument("--check", action="store_true", help="compare with RESULTS.md")
    parser.add_argument("--readme", action="store_true", help="print README's rows")
    given = parser.parse_args()
    unknown = sorted({*given.names} - {*BENCHMARKS})
    if unknown:
        parser.error(f"expected some of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    known_blocks = blocks(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if given.readme:
        print("\n".join(readme_rows(known_blocks)))
        return 0
    places = {"minilm": given.minilm, "smollm": given.smollm, "ud": given.ud}
    failed = False
    for name in given.names or BENCHMARKS:
        needed = re.findall(r"{(\w+)}", BENCHMARKS[name].command)
        if missing := [place for place in needed if not places[place]]:
            print(f"{name}: left as it is, needs --{' and --'.join(missing)}")
            continue
        print(f"{name} ...", flush=True)
        try:
            block = measure(name, BENCHMARKS[name].command.format(**places))
        except RuntimeError as error:  # a peer that is not installed, most often
            print(f"{name}: left as it is, {error}")
            failed = True
            continue
        print(block, flush=True)
        if given.check:
            lines = worse(known_blocks.get(name, ""), block, BENCHMARKS[name].costs)
            for line in lines:
                print(f"{name}: got worse: {line}")
            failed |= bool(lines)
            continue
        known_blocks[name] = block
        write(known_blocks)
    return int(failed)


def write(blocks_by_name: dict[str, str]) -> None:
    """RESULTS.md, the benchmarks in their order and then what else stands there."""
    order = [n for n in BENCHMARKS if n in blocks_by_name] + [
        n for n in blocks_by_name if n not in BENCHMARKS
    ]
    head = (
        "# Results\n\nWhat the benchmarks print, each run with both sides in one process "
        "(`python benchmarks/run.py`), and at the end what bounds some of it. "
        "Each block begins with its machine."
    )
    RESULTS.write_text(
        "\n\n".join([head, *(blocks_by_name[n] for n in order)]) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    raise SystemExit(main())
