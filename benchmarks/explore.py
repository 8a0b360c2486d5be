"""The live bench against its targets: SmolLM2-135M, 16 tokens, over the WebSocket and in headless
Chromium.

python benchmarks/explore.py --smollm FILE [--repeats 15] [--peer]

Targets (two cores of its own): click on a head to painted answer, median 150 ms, 95th percentile
300 ms; keystroke to tokens, predictions and the answer's lens column 400 ms; first screen 2 s after
the model is loaded; estimates of all heads 1 s; generation with edits at 0.9x the rate of bare
`generate`. Times are given beside a bare forward of the same text in the same run, because a shared
machine makes seconds alone say little.
"""

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import statistics
import sys
import threading
import time
import urllib.request
from pathlib import Path

import torch
from measure import start

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# ruff: noqa: E402

from layerscope.experiments.explorer.bench import Bench
from layerscope.experiments.explorer.runner import Runner
from layerscope.experiments.explorer.server import Site, bound, server_of
from layerscope.experiments.explorer.session import View
from layerscope.experiments.explorer.views import tokens_of
from layerscope.experiments.subject import load
from websockets.sync.client import connect

TEXT = "The keys to the old cabinet in the corner of the room by the window"


class Served:
    """A bench behind its own server, and one socket."""

    def __init__(self, bench):
        self.bench = bench
        self.listener = bound("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.site = Site(bench, Runner(None), View(TEXT), "127.0.0.1", self.port)
        self.server = server_of(self.site)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        address = self.site.address.replace("http", "ws") + "live"
        origin = f"http://127.0.0.1:{self.port}"
        self.socket = connect(address, origin=origin, max_size=None)
        self.socket.recv()

    def until(self, part, **request):
        """Seconds until the first message of a kind, and that message."""
        begun = time.perf_counter()
        self.socket.send(json.dumps(request))
        while True:
            message = json.loads(self.socket.recv())
            if message["part"] == "problem":
                raise SystemExit(message["text"])
            if message["part"] == part:
                return time.perf_counter() - begun, message

    def settle(self):
        self.site.worker.idle()
        while True:
            try:
                self.socket.recv(timeout=0.05)
            except TimeoutError:
                return

    def close(self):
        self.socket.close()
        self.server.should_exit = True
        self.thread.join()
        self.site.close()


def spread(taken):
    """Median and 95th percentile in milliseconds."""
    ordered = sorted(taken)
    high = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return f"median {1000 * statistics.median(ordered):.0f} ms, 95% {1000 * high:.0f} ms"


def line(name, taken, forwards):
    each = [a / b for a, b in zip(taken, forwards, strict=True)]
    print(f"{name}: {spread(taken)}; {statistics.median(each):.2f}x a bare forward", flush=True)


def clicks(served, repeats):
    """Each head click beside a bare forward of the same text."""
    bench = served.bench
    inputs = bench.read(TEXT).inputs
    taken, forwards = [], []
    layers = bench.subject.n_layers
    for number in range(repeats):
        layer = (7 * number) % layers
        edit = f"blocks.{layer}.attn.hook_z[{number % 9}]=zero"
        taken.append(served.until("look", do="look", view={"text": TEXT, "edits": [edit]})[0])
        served.settle()
        forwards.append(bare(bench, inputs))
    line("click on a head to the answer (over the socket)", taken, forwards)
    return forwards


def bare(bench, inputs):
    begun = time.perf_counter()
    with torch.no_grad():
        bench.model(**inputs)
    return time.perf_counter() - begun


def keystrokes(served, repeats, forwards):
    answers, lens, grids = [], [], []
    for number in range(repeats):
        text = f"{TEXT} {'abcdefghijklmnopqrstuvwxyz'[number % 26]}"
        begun = time.perf_counter()
        served.until("look", do="look", view={"text": text})
        answers.append(time.perf_counter() - begun)
        served.until("lens", do="lens", view={"text": text})
        lens.append(time.perf_counter() - begun)
        served.settle()
        grids.append(time.perf_counter() - begun)
    line("keystroke to tokens and predictions", answers, forwards)
    line("keystroke to the answer's lens column", lens, forwards)
    line("keystroke to the whole lens (31 x 16)", grids, forwards)


def estimated(served, repeats, forwards):
    taken = []
    for number in range(repeats):
        text = f"{TEXT} {number}"
        served.until("look", do="look", view={"text": text})
        served.settle()
        taken.append(served.until("heads", do="heads", view={"text": text})[0])
    line("estimates of all heads, MLPs and neurons", taken, forwards)


def generation(served, repeats):
    """Tokens a second of the edited side, and of transformers' own greedy generate, in turns."""
    bench = served.bench
    view = View.parse({"text": TEXT, "edits": ["blocks.9.attn.hook_z[1]=zero"]})
    from layerscope.experiments.explorer.views import continued

    inputs = bench.read(TEXT).inputs
    ratios = []
    for _ in range(max(3, repeats // 4)):
        begun = time.perf_counter()
        count = len(list(continued(bench, view, 24, is_edited=True)))
        speed = count / (time.perf_counter() - begun)
        begun = time.perf_counter()
        with torch.no_grad():
            out = bench.model.generate(**inputs, max_new_tokens=24, do_sample=False)
        ratios.append(
            speed * (time.perf_counter() - begun) / (out.shape[1] - inputs["input_ids"].shape[1])
        )
    shown = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(
        "generation with an edit over bare generate, tokens a second: "
        f"{statistics.median(ratios):.2f}x ({shown})",
        flush=True,
    )


def peer(served, repeats):
    """interpkit's GUI over its HTTP API: the same module zeroed, the same lens, in turns."""
    try:
        import interpkit
        import uvicorn
        from interpkit.gui.server import create_app
        from interpkit.gui.sessions import ModelRegistry
    except ImportError as error:
        print(f"no peer: {error.name} is not installed")
        return
    subject = served.bench.subject
    registry = ModelRegistry()
    session = registry.add_preloaded(
        interpkit.load(copy.deepcopy(subject.model), tokenizer=subject.tokenizer)
    )
    listener = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(registry), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    root = f"http://127.0.0.1:{listener.getsockname()[1]}/api"

    def asked(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(root + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def theirs(operation, **body):
        begun = time.perf_counter()
        job = asked(f"/sessions/{session.id}/ops/{operation}", body)["job_id"]
        while (reply := asked(f"/jobs/{job}"))["status"] not in ("done", "error"):
            time.sleep(0.002)
        if reply["status"] == "error":
            raise SystemExit(f"interpkit {operation}: {reply}")
        return time.perf_counter() - begun

    ablations, lenses = [], []
    for number in range(repeats):
        layer = (7 * number) % subject.n_layers
        text = f"{TEXT} {number}"
        served.until("look", do="look", view={"text": text})
        served.settle()
        view = {"text": text, "edits": [f"blocks.{layer}.hook_mlp_out=zero"]}
        our_seconds = served.until("look", do="look", view=view)[0]
        served.settle()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints tables of its own
            ablated = theirs("ablate", text=text, at=f"model.layers.{layer}.mlp")
        ablations.append(ablated / our_seconds)
        begun = time.perf_counter()
        served.until("done", do="lens", view={"text": text})
        our_seconds = time.perf_counter() - begun
        with contextlib.redirect_stdout(io.StringIO()):
            lensed = theirs("lens", text=text)
        lenses.append(lensed / our_seconds)
    version = importlib.metadata.version("interpkit")
    for name, ratios in (("a module zeroed", ablations), ("the lens at all positions", lenses)):
        shown = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"interpkit {version} over its HTTP API, {name}: takes "
            f"{statistics.median(ratios):.2f}x our time ({shown})",
            flush=True,
        )
    server.should_exit = True
    thread.join()


def patterns(served, repeats):
    """CircuitsVis: one forward that gives attention, and a layer's patterns as HTML; ours:
    a head's over the socket.
    """
    try:
        from circuitsvis.attention import attention_patterns
    except ImportError as error:
        print(f"no peer: {error.name} is not installed")
        return
    bench = served.bench
    ratios = []
    for number in range(repeats):
        layer = (7 * number) % bench.subject.n_layers
        text = f"{TEXT} {number}"
        served.until("look", do="look", view={"text": text})
        served.settle()
        clean = bench.read(text)
        tokens = [token["text"] for token in tokens_of(bench, clean)]
        our_seconds = served.until(
            "pattern", do="pattern", view={"text": text}, layer=layer, head=0
        )[0]
        served.settle()
        begun = time.perf_counter()
        bench.model.set_attn_implementation("eager")
        with torch.no_grad():
            weights = bench.model(**clean.inputs, output_attentions=True).attentions[layer][0]
        str(attention_patterns(tokens, weights))
        ratios.append((time.perf_counter() - begun) / our_seconds)
        bench.model.set_attn_implementation("sdpa")
    shown = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(
        f"CircuitsVis, a layer's patterns: takes {statistics.median(ratios):.2f}x our time "
        f"for one head ({shown})",
        flush=True,
    )


def painted(served, repeats, forwards):
    """In Chromium, from the click to the frame that shows the answer."""
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        print("no chromium: painting is not measured")
        return
    browser = Browser()
    try:
        begun = time.perf_counter()
        browser.open(served.site.address, 1300)
        while not browser.evaluate("document.querySelector('.bars tr') !== null"):
            time.sleep(0.01)
        print(f"first screen, with its answer: {time.perf_counter() - begun:.2f} s", flush=True)
        script = """(async (edit) => {
          const app = document.querySelector('.explore').explore;
          const begun = performance.now();
          app.add(edit);
          const number = app.lookNumber;
          while (Number(app.root.dataset.looked) < number) await new Promise(requestAnimationFrame);
          await new Promise(requestAnimationFrame);
          const taken = performance.now() - begun;
          app.undo();
          return taken / 1000;
        })"""
        taken = []
        for number in range(repeats):
            while browser.evaluate("document.querySelector('.explore').dataset.busy") != "false":
                time.sleep(0.02)
            layer = (11 * number) % served.bench.subject.n_layers
            edit = f"blocks.{layer}.attn.hook_z[{number % 9}]=zero"
            taken.append(browser.evaluate(f"{script}({json.dumps(edit)})"))
        line("click on a head to painted answer (Chromium)", taken, forwards)
    finally:
        browser.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm", required=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--peer",
        action="store_true",
        help="also interpkit's GUI and CircuitsVis, where they are installed",
    )
    given = parser.parse_args()
    start()
    bench = Bench(load(given.smollm))
    served = Served(bench)
    try:
        served.until("look", do="look", view={"text": TEXT})
        served.settle()
        print(f"{len(bench.read(TEXT).encoded)} tokens", flush=True)
        forwards = clicks(served, given.repeats)
        keystrokes(served, given.repeats, forwards)
        estimated(served, max(3, given.repeats // 3), forwards[: max(3, given.repeats // 3)])
        generation(served, given.repeats)
        painted(served, given.repeats, forwards)
        if given.peer:
            patterns(served, given.repeats)
            peer(served, given.repeats)
    finally:
        served.close()


if __name__ == "__main__":
    main()
