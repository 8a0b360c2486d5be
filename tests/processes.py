"""Processes of their own for tests that kill, lock or measure: forks of a clean server that has imported what they need.

A fork of the test process itself would wait for ever for threads that are not forked with it, and would begin with its
memory; a new interpreter would import for seconds.
"""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch", "transformers", "experiments.cli", "experiments.capturing", "experiments.layerwise"]
)
