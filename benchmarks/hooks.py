"""What hooks cost: microseconds a site to enter a block and to run in it, on 12 and 80 layers, and
one head's pattern.

python benchmarks/hooks.py [--turns 60] [--length 4096]

Entering is measured on GPT-2's blocks by site names, running on blocks that do nothing, where a
forward is its hooks: the figures are what a site costs above the same work in a hook that is
registered by hand. nnsight's are printed where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import alternate, peak_growth, start
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from layerscope import capture, edits, intervene, sites

LAYERS = (12, 80)
WIDTH = 64


class Idle(nn.Module):
    """Blocks that hand on what they are given."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@contextlib.contextmanager
def by_hand(modules: list[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """The same hook on some modules, as one would write it."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def least(turns: int, each: int, **sides: Callable[[], object]) -> dict[str, float]:
    """Microseconds of each side's quickest turn, for each of so many sites."""
    taken = alternate(turns, **sides)
    return {name: 1e6 * min(seconds) / each for name, seconds in taken.items()}


def entering(layers: int, asked: int, turns: int) -> None:
    """Print what entering and leaving a block costs for each of its sites."""
    model = GPT2Model(GPT2Config(n_layer=layers, n_embd=WIDTH, n_head=4, vocab_size=50_257)).eval()
    names = sites(model, "blocks.*.hook_mlp_out")[:asked]
    modules = [model.get_submodule(f"h.{layer}.mlp") for layer in range(asked)]
    halved = dict.fromkeys(names, edits.scale(0.5))

    def enter(block: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with block():
                pass

        return run

    cost = least(
        turns,
        asked,
        hand=enter(lambda: by_hand(modules, lambda module, args, output: output)),
        capture=enter(lambda: capture(model, *names)),
        intervene=enter(lambda: intervene(model, halved)),
    )
    print(
        f"entering, {asked} sites of {layers} layers: capture {cost['capture']:.1f}, "
        f"intervene {cost['intervene']:.1f} us a site; by hand {cost['hand']:.1f}"
    )


def running(layers: int, turns: int) -> None:
    """Print what a site costs in a forward, above a hook by hand."""
    model = Idle(layers).eval()
    modules = list(model.blocks)
    whole, part = "module:blocks.*:output", "module:blocks.*:output[0][0:16]"
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(output.detach())

    def keep_part(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(output[..., :16].detach().clone())

    def halve(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * 0.5

    def halve_part(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., :16] *= 0.5
        return output

    half = edits.scale(0.5)
    works: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
        "capture": (lambda: capture(model, whole), keep),
        "capture of a part": (lambda: capture(model, part), keep_part),
        "intervene": (lambda: intervene(model, {whole: half}), halve),
        "intervene on a part": (lambda: intervene(model, {part: half}), halve_part),
    }
    for name, (ours, hook) in works.items():
        cost = forwards(model, turns, hand=lambda hook=hook: by_hand(modules, hook), ours=ours)
        above = (cost["ours"] - cost["hand"]) / layers
        hand = cost["hand"] / layers
        print(
            f"running, {layers} layers: {name} {above:.1f} us a site above a hook by hand, "
            f"which takes {hand:.1f}"
        )
        kept.clear()


def forwards(model: nn.Module, turns: int, **blocks: Callable[[], Any]) -> dict[str, float]:
    """Microseconds of the quickest forward within each block, taken in turns;
    the second one of each block is timed.
    """
    taken: dict[str, list[float]] = {name: [] for name in blocks}
    x = torch.randn(1, 7, WIDTH)
    with torch.no_grad():
        for _ in range(turns):
            for name, block in blocks.items():
                with block():
                    model(x)
                    before = time.perf_counter()
                    model(x)
                    taken[name].append(time.perf_counter() - before)
    return {name: 1e6 * min(seconds) for name, seconds in taken.items()}


def one_head(length: int) -> None:
    """Print by how much memory grows for the pattern of one head, beside the pattern's own size."""
    config = GPT2Config(n_layer=1, n_embd=768, n_head=12, vocab_size=50_257, n_positions=length)
    model, ids = GPT2Model(config).eval(), torch.arange(length)[None]

    def run(*names: str) -> None:
        gc.collect()
        with torch.no_grad(), capture(model, *names):
            model(ids)

    run("blocks.0.hook_resid_pre")
    bare = peak_growth(lambda: run("blocks.0.hook_resid_pre"))
    grown = peak_growth(lambda: run("blocks.0.attn.hook_pattern[3]"))
    pattern_bytes = length * length * 4
    print(
        f"pattern of one head of 12, {length} tokens: {grown / 2**20:.0f} MB, "
        f"bare forward {bare / 2**20:.0f}, its own size {pattern_bytes / 2**20:.0f}"
    )


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--length", type=int, default=4096)
    options = parser.parse_args()
    start()
    torch.set_num_threads(1)
    for layers in LAYERS:
        for asked in dict.fromkeys((12, layers)):
            entering(layers, asked, options.turns)
    for layers in LAYERS:
        running(layers, options.turns)
    one_head(options.length)
    if importlib.util.find_spec("nnsight") is None:
        print("nnsight: not installed")
    else:
        with_nnsight(options.turns)


def with_nnsight(turns: int) -> None:
    """Print what nnsight takes for the same entering and running:
    a trace of one forward that keeps every block's output.
    """
    from nnsight import NNsight  # pyright: ignore[reportMissingImports]

    for layers in LAYERS:
        model = Idle(layers).eval()
        x, traced = torch.randn(1, 7, WIDTH), NNsight(model)

        def trace(traced: Any = traced, x: Tensor = x) -> None:
            with torch.no_grad(), traced.trace(x):
                _ = [block.output.save() for block in traced.blocks]

        def ours(model: nn.Module = model, x: Tensor = x) -> None:
            with torch.no_grad(), capture(model, "module:blocks.*:output"):
                model(x)

        cost = least(turns, layers, nnsight=trace, ours=ours)
        print(
            f"entering and running, {layers} layers: nnsight {cost['nnsight']:.1f} us a "
            f"site, ours {cost['ours']:.1f}"
        )


if __name__ == "__main__":
    main()
