"""Seconds until something is there: `import layerscope` over `import torch`, the command line's
help, and the demo.

    python benchmarks/startup.py [REPEATS]

The sides run in turns. The demo is run a third as often, at least once.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORT = (
    "import time, torch; start = time.perf_counter(); import layerscope; "
    "print(time.perf_counter() - start)"
)


def over_torch() -> float:
    """What importing layerscope takes where torch is there already."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def wall(*words: str) -> float:
    """Seconds of a process from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


def demo() -> float:
    """The whole demo, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        return wall("-m", "layerscope", "demo", "--out", f"{folder}/demo")


repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
sides = {
    "import layerscope, over import torch (at most 30 ms)": over_torch,
    "all of layerscope --help (at most 100 ms)": lambda: wall("-m", "layerscope", "--help"),
    "all of layerscope probe --help": lambda: wall("-m", "layerscope", "probe", "--help"),
    "python -c pass": lambda: wall("-c", "pass"),
    "all of layerscope demo (at most 12 s)": demo,
}
for run in sides.values():
    run()
taken: dict[str, list[float]] = {name: [] for name in sides}
for turn in range(repeats):
    for name, run in sides.items():
        if run is not demo or turn % 3 == 0:
            taken[name].append(run())
for name, seconds in taken.items():
    span = f"{min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} runs"
    print(f"{name}: median {statistics.median(seconds):.3f} s ({span})")
