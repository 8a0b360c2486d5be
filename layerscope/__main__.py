"""``python -m layerscope`` and the command ``layerscope``."""

from __future__ import annotations

import _thread
import gc
import importlib
import os
import sys
import threading
from typing import Any

IDLE_ROUNDS = "1000"
"""Rounds in which a thread of PyTorch's OpenMP waits for work before it sleeps: about 50 us, of
300,000 by default.
"""


def let_idle_threads_sleep() -> None:
    """A thread that waits in a loop keeps a core from the thread that it waits for, if other work
    takes the cores too (`benchmarks/threads.py`). What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", IDLE_ROUNDS)  # read when torch is imported


def interrupt_again(unraisable: Any) -> None:
    """Python drops an interrupt that meets a finaliser (`sys.unraisablehook`): it is sent again."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        # From another thread and later: here it would be dropped once more.
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def main() -> int:
    """Run the command line; returns its exit status."""
    sys.unraisablehook = interrupt_again
    let_idle_threads_sleep()
    was_enabled = gc.isenabled()
    gc.disable()  # until a command has read its inputs: see `experiments.runs.collector`
    try:
        return importlib.import_module("layerscope.experiments.cli").main()
    except KeyboardInterrupt:  # while modules are imported, which takes a second
        print("layerscope: interrupted; nothing was done yet", file=sys.stderr)
        return 130
    finally:  # a program that calls this goes on, whatever the command came to
        if was_enabled:
            gc.enable()


if __name__ == "__main__":
    sys.exit(main())
