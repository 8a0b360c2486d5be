"""What the benchmarks share: time of alternated runs, peak memory growth, and the machine."""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from layerscope.experiments.runs.folder import peak_memory


def texts_parser(usage: str | None, texts: int, length: int) -> argparse.ArgumentParser:
    """A parser that asks for the size of a batch."""
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=texts)
    parser.add_argument("--length", type=int, default=length)
    return parser


def start() -> None:
    """Hold warnings back, so that the result is what is printed, and name the machine."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print(machine())


def random_tokens(texts: int, length: int) -> torch.Tensor:
    """Token ids of a batch, the same in every run."""
    return torch.randint(1000, 10_000, (texts, length), generator=torch.Generator().manual_seed(0))


def once(
    warm: Callable[[], object], **sides: Callable[[], Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds and result of each side, run once after a warm-up, without gradients;
    for runs of minutes.
    """
    seconds, results = {}, {}
    with torch.no_grad():
        for name, run in sides.items():
            warm()
            start = time.perf_counter()
            results[name] = run()
            seconds[name] = time.perf_counter() - start
    return seconds, results


def alternate(repeats: int, **sides: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each side, run in turns so that a slow moment meets both,
    each first in half of them; one warm-up each.
    """
    for run in sides.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(repeats):
        for name in order:
            start = time.perf_counter()
            sides[name]()
            taken[name].append(time.perf_counter() - start)
        order.reverse()
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Median of the ratios turn by turn, with the interval that the sign test gives it (95%)."""
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    n = len(each)
    reach = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    span = (
        f" ({each[reach]:.3f} to {each[n - 1 - reach]:.3f} of {n} turns)"
        if n > 5
        else f" ({n} turns)"
    )
    return f"{statistics.median(each):.3f}x{span}"


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which the process's resident memory peaks above what it was before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = peak_memory()
    run()
    return peak_memory() - before


def machine() -> str:
    """One line for the record."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return (
        f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
