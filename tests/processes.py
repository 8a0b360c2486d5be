"""Processes of their own for tests that kill, lock or measure: forks of a clean server that has
imported what they need.

A fork of the test process itself would wait for ever for threads that are not forked with it, and
would begin with its memory; a new interpreter would import for seconds.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "torch",
        "transformers",
        "experiments.cli",
        "experiments.studies.capture.study",
        "experiments.studies.probe.study",
    ]
)


def killed(
    writes: Callable[[Path], object], parent: Path, goals: Sequence[int], whole: int
) -> Path:
    """A folder whose writer was killed, begun again and killed again, each time once it held so
    many shards.

    A writer may hold its ``whole`` number of shards before the kill reaches it: then this is tried
    in another folder.
    """
    for attempt in range(10):
        folder = parent / f"killed-{attempt}"
        if all(_killed_at(goal, writes, folder) for goal in goals) and _shards(folder) < whole:
            return folder
    raise AssertionError(f"no writer could be killed before it was done, in {attempt + 1} folders")


def _killed_at(goal: int, writes: Callable[[Path], object], folder: Path) -> bool:
    process = PROCESSES.Process(target=writes, args=(folder,))
    process.start()
    while process.is_alive() and _shards(folder) < goal:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == -signal.SIGKILL


def _shards(folder: Path) -> int:
    return len(list(folder.rglob("*.safetensors")))
