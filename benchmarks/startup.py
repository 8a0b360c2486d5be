"""Seconds until something is there: `import layerscope` over `import torch`, and the command line's help.

python benchmarks/startup.py [REPEATS]
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOOKS = "import time, torch; start = time.perf_counter(); import layerscope; print(time.perf_counter() - start)"


def over_torch() -> float:
    """What importing hooks takes where torch is there already."""
    return float(
        subprocess.run(
            [sys.executable, "-c", HOOKS], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    )


def wall(*words: str) -> float:
    """Seconds of a process from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
sides = {
    "import layerscope, over import torch (at most 30 ms)": over_torch,
    "layerscope --help (at most 1 s)": lambda: wall("-m", "layerscope", "--help"),
    "layerscope probe --help": lambda: wall("-m", "layerscope", "probe", "--help"),
    "python -c pass": lambda: wall("-c", "pass"),
}
for name, run in sides.items():
    run()
    taken = sorted(run() for _ in range(repeats))
    print(
        f"{name}: median {statistics.median(taken):.3f} s ({taken[0]:.3f} to {taken[-1]:.3f}, {repeats} runs)"
    )
