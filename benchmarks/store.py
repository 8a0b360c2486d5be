"""Activations on disk: what writing them costs, how fast they are read, what memory, kills and
workers change.

    python benchmarks/store.py [--only writing,reading,memory,batches,linear,kills,ray] [--ud \
        UD_ENGLISH_EWT_FOLDER --model MINILM_FOLDER]

Weights of the writing are random: the shape decides the time. Captures run the embedded model.
`batches` needs --ud, and takes the embedded model's shape for want of --model.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
from layerscope.experiments import cli
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.studies.capture import study as capturing
from layerscope.experiments.subject import load
from layerscope.hooks.shards import read_header
from measure import alternate, ratio, start

from layerscope import ActivationStore, capture, sites

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "experiments.studies.capture.study",
        "experiments.studies.ablate.study",
        "experiments.doctor",
        "experiments.report",
    ]
)


def writing(base, given):
    """The same capture kept in memory, and written."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    names = sites(model, "blocks.*.hook_resid_post")
    batches = [torch.randint(1000, 10_000, (8, 64)) for _ in range(8)]

    def kept():
        captured = []
        for ids in batches:
            with capture(model, *names, stop=True) as acts:
                model.transformer(ids, use_cache=False)
            captured.append({name: acts[name].half() for name in names})

    def written():
        with ActivationStore(base / "written", {}, dtype=torch.float16) as store:
            for ids in batches:
                with capture(model, *names, stop=True, to=store):
                    model.transformer(ids, use_cache=False)
        shutil.rmtree(base / "written")

    with torch.no_grad():
        two = alternate(given.repeats, kept=kept, written=written)
    print(
        f"writing, {len(names)} layers, float16, 8 batches of 8x64: kept in memory "
        f"{median(two['kept']):.2f} s, written {median(two['written']):.2f} s: "
        f"{ratio(two['written'], two['kept'])} (bound 1.15)"
    )


def reading(base, given):
    """One layer of a store of 5 GB against a plain file of as many bytes and the
    same ranges read plainly, cached and not.
    """
    for order in ("in order", "out of order"):
        with tempfile.TemporaryDirectory(dir=base) as folder:
            reading_rows(Path(folder), given, order)


def reading_rows(base, given, order):
    names, rows, width = [f"blocks.{i}.hook_resid_post" for i in range(12)], 4096, 768
    shards = round(given.gigabytes * 1e9 / (len(names) * rows * width * 2))
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).half()
    before = time.perf_counter()
    with ActivationStore(base / "large", {}) as store:
        for shard in range(shards):
            row = (
                torch.arange(rows) if order == "in order" else torch.randperm(rows)
            ) + shard * rows
            store.write(
                shard,
                torch.stack([row, row // 16, row % 16, row % 16, row % 16 + 1], 1),
                dict.fromkeys(names, values),
            )
        store.seal(shards, shards * rows)
    taken = time.perf_counter() - before
    store = ActivationStore(base / "large")
    size = shards * values.numel() * 2
    plain = {name: base / f"plain-{number}" for number, name in enumerate(names)}
    for path in plain.values():
        with path.open("wb") as file:
            for _ in range(shards):
                file.write(values.numpy().data)
    os.sync()
    print(
        f"a store of rows {order}, {store.size() / 1e9:.2f} GB, {shards} shards, "
        f"written in {taken:.1f} s; one layer {size / 1e6:.0f} MB"
    )

    headers = {
        name: read_header(store.folder, name, length)
        for name, length in store.folder.sizes().items()
        if name.startswith("shard")
    }

    def ranges(site):
        whole, at = np.empty(size, dtype=np.uint8), 0
        for name, header in headers.items():
            slot = header.slots[site]
            with (base / "large" / name).open("rb", buffering=0) as file:
                file.seek(slot.start)
                at += file.readinto(whole[at : at + slot.stop - slot.start].data)
        assert at == size

    sides = {
        "plain": lambda site: np.fromfile(plain[site], dtype=np.uint8),
        "ranges": ranges,
        "store": store.read,
    }
    one = {name: functools.partial(read, names[5]) for name, read in sides.items()}
    say_rates("one layer, in the page cache", alternate(given.repeats, **one), size)

    def dropped(read, site):
        for path in (*plain.values(), *(base / "large").iterdir()):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = time.perf_counter()
        read(site)
        return time.perf_counter() - before

    # Each read is of another layer than the one before: the host of a virtual machine keeps what
    # was read last.
    cold, read_before = {name: [] for name in sides}, 0
    for turn in range(given.repeats):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            cold[name].append(dropped(sides[name], names[read_before % len(names)]))
            read_before += 1
    say_rates("another layer each time, dropped from the page cache", cold, size)


def say_rates(what, two, size):
    plain, ranges, ours = (
        f"{size / median(two[name]) / 1e9:.2f} GB/s" for name in ("plain", "ranges", "store")
    )
    print(
        f"reading {what}: one plain file {plain}, the shards' ranges without us "
        f"{ranges}, store {ours}: {ratio(two['plain'], two['store'])} of the plain file's "
        f"rate (bound 0.9), {ratio(two['ranges'], two['store'])} of the ranges'"
    )


def lines(base, count):
    """As many texts as are asked for, those of the embedded corpus again and again."""
    path, texts = base / f"lines-{count}.txt", [s.text for s in read_conllu(demo_paths().train)]
    path.write_text("\n".join(texts[i % len(texts)] for i in range(count)), encoding="utf-8")
    return path


def command(out, *options):
    given = [
        "capture",
        "--model",
        demo_paths().model,
        "--out",
        out,
        "--site",
        "hook_resid_post",
        *options,
    ]
    return [str(word) for word in given]


def quietly(words):
    """Run a command without its table."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise SystemExit(cli.main(words))


def run(words):
    """Seconds of a command in a process of its own that has imported all, and its results."""
    process = PROCESSES.Process(target=quietly, args=(words,))
    before = time.perf_counter()
    process.start()
    process.join()
    assert process.exitcode == 0, words
    out = Path(words[words.index("--out") + 1])
    return time.perf_counter() - before, json.loads((out / "results.json").read_text())


def memory(base, given):
    """Peak memory of a capture of ten times as many texts."""
    peak = {}
    for count in (given.texts, 10 * given.texts):
        _, results = run(command(base / f"memory-{count}", "--lines", lines(base, count)))
        peak[count] = results["provenance"]["resources"]["memory"]["peak_rss_bytes"]
        shutil.rmtree(base / f"memory-{count}")
    few, many = peak.values()
    print(
        f"peak memory, {given.texts:,} texts {few / 1e6:.0f} MB, "
        f"{10 * given.texts:,} texts {many / 1e6:.0f} MB: {many / few:.3f}x (bound 1.05)"
    )


def timed(words, pipe):
    """Run a capture and send the seconds, the seconds of the processor,
    and the tokens of its one pass.
    """
    whole = capturing.sealed

    def sealed(*given):
        wall, cpu = time.perf_counter(), time.process_time()
        end = whole(*given)
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu, end.tokens))
        return end

    capturing.sealed = sealed
    quietly(words)


def linear(base, given):
    """Time of a capture of 1x, 4x and 16x the tokens, in turns."""
    sizes = (1, 4, 16)
    files = {times: lines(base, given.texts // 2 * times) for times in sizes}
    wall, cpu = ({times: [] for times in sizes} for _ in range(2))
    for turn in range(given.turns):
        for times in sizes[:: 1 if turn % 2 else -1]:
            taken = []
            for _ in range(3 if times == 1 else 1):
                ours, theirs = PROCESSES.Pipe(duplex=False)
                out = base / "linear"
                process = PROCESSES.Process(
                    target=timed, args=(command(out, "--lines", files[times]), theirs)
                )
                process.start()
                taken.append(ours.recv())
                process.join()
                shutil.rmtree(out)
            wall[times].append(median(1e6 * seconds / tokens for seconds, _, tokens in taken))
            cpu[times].append(median(1e6 * seconds / tokens for _, seconds, tokens in taken))
    print(
        f"linear: 1x is {given.texts // 2:,} texts, {given.turns} turns; "
        "microseconds a token (bound 0.9 to 1.1)"
    )
    for what, each in (("by the clock", wall), ("of the processors", cpu)):
        ratios = ", ".join(f"{times}x {median(values):.1f}" for times, values in each.items())
        print(
            f"  {what}: {ratios}: "
            f"4x {ratio(each[4], each[1])}, 16x {ratio(each[16], each[1])} of 1x"
        )


def batches(base, given):
    """Batches of similar length against padded batches of 32 sentences in the corpus's order."""
    if given.ud is None:
        print("batches: skipped (--ud)")
        return
    subject = load(given.model or demo_paths().model, body_only=True)
    texts = [s.text for s in read_conllu(given.ud / "en_ewt-ud-train.conllu", given.sentences)]
    encoded = subject.encode(texts)
    tokens = sum(map(len, encoded))

    def ordered():
        for at in range(0, len(encoded), 32):
            for batch in subject.batches(encoded[at : at + 32], tokens=1 << 40):
                subject.forward(batch)

    def bucketed():
        for batch in subject.batches(encoded, tokens=4096):
            subject.forward(batch)

    two = alternate(max(2, given.repeats // 2), ordered=ordered, bucketed=bucketed)
    rates = {name: tokens / median(taken) for name, taken in two.items()}
    print(
        f"batches, {subject.name.rstrip('/').rsplit('/', 1)[-1]}, {len(texts):,} sentences "
        f"of UD English-EWT, {tokens:,} tokens: corpus order {rates['ordered']:,.0f} "
        f"tokens/s, by length {rates['bucketed']:,.0f}: "
        f"{ratio(two['ordered'], two['bucketed'])} (bound 1.8)"
    )


def contents(folder):
    """All that a run wrote and that may not depend on how often it was killed."""
    shards = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}
    results = json.loads((folder / "results.json").read_text())
    return shards, results["records"]


def kills(base, given):
    """Killed at random moments and started again, until whole; against an undisturbed run."""
    rng, demo = random.Random(0), demo_paths()
    prompts = base / "prompts.jsonl"
    texts = [s.text for s in read_conllu(demo.dev, 64)]
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in texts), encoding="utf-8")
    sweep = [
        "ablate",
        "--model",
        demo.model,
        "--prompts",
        prompts,
        "--metric",
        "loss",
        "--batch-tokens",
        64,
        "--out",
    ]
    for name, words in (
        (
            "capture",
            [
                "capture",
                "--model",
                demo.model,
                "--corpus",
                demo.dev,
                "--site",
                "hook_resid_post",
                "--batch-tokens",
                256,
                "--out",
            ],
        ),
        ("sweep", sweep),
    ):
        words = [str(word) for word in words]
        seconds, _ = run([*words, str(base / name)])
        whole, done, ends = contents(base / name), 0, 0
        while done < given.kills or not ends or (base / "killed").exists():
            process = PROCESSES.Process(target=quietly, args=([*words, str(base / "killed")],))
            process.start()
            process.join(rng.uniform(0, seconds) if done < given.kills else None)
            process.kill()
            process.join()
            done += process.exitcode == -signal.SIGKILL
            if process.exitcode == 0:
                ends += 1
                same = contents(base / "killed") == whole
                assert same, f"{name}: another result after a kill"
                shutil.rmtree(base / "killed")
        print(
            f"kills: {done} at random moments of a {name} of {seconds:.1f} s, "
            f"{ends} runs ended: all identical"
        )


def ray(base, given):
    """Two workers of one thread against this process with one and with two."""
    path = lines(base, given.texts)
    outputs, taken = {}, {}
    for name, threads, options in (
        ("local, 1 thread", 1, ()),
        ("local, 2 threads", 2, ()),
        ("Ray, 2 workers", 1, ("--engine", "ray", "--workers", 2, "--num-cpus", 1)),
    ):
        torch.set_num_threads(threads)
        out = base / f"ray-{len(outputs)}"
        before = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(command(out, "--lines", path, *options)) == 0
        taken[name] = time.perf_counter() - before
        outputs[name] = contents(out)
    one, _, both = outputs.values()
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in taken.items())
    print(
        f"Ray, {given.texts:,} texts: {times}; bytes and records "
        f"{'identical' if one == both else 'DIFFER'} (one thread each)"
    )


PARTS = {f.__name__: f for f in (writing, reading, memory, linear, batches, kills, ray)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--turns", type=int, default=7, help="of linear")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ud", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument(
        "--scratch", type=Path, help="where stores are written (default: the system's place)"
    )
    given = parser.parse_args()
    start()
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory(dir=given.scratch) as base:
            PARTS[name](Path(base), given)


if __name__ == "__main__":
    main()
