"""What the benchmarks share: time of alternated runs, peak memory growth, and the machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.results import peak_memory


def alternate(repeats: int, **sides: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each side, run in turns so that a slow moment meets both; one warm-up each."""
    for run in sides.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


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
    return f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"
