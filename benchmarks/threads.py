"""The demo alone and beside a process that keeps the cores busy: `layerscope` as it is, whose idle
threads soon sleep, against GCC's default, by which they wait in a loop.

    python benchmarks/threads.py [REPEATS]

Three ways in turns: as it is; by default, which GOMP_SPINCOUNT=300000 is; and with one thread.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine

ROOT = Path(__file__).resolve().parents[1]
BUSY = "import torch; a = torch.randn(1500, 1500)\nwhile True: a @ a"
WAYS = {
    "as it is": {},
    "by default": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def seconds(way: dict[str, str]) -> float:
    """Of the demo, in an empty folder."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "layerscope", "demo", "--out", f"{folder}/demo"]
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, **way}, capture_output=True, check=True
        )
    return time.perf_counter() - start


def say(where: str, repeats: int) -> None:
    """Medians of all ways."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            taken[name].append(seconds(way))
    medians = {name: statistics.median(of_way) for name, of_way in taken.items()}
    spans = ", ".join(
        f"{name} {medians[name]:.1f} s ({min(of_way):.1f} to {max(of_way):.1f})"
        for name, of_way in taken.items()
    )
    gain = medians["by default"] / medians["as it is"]
    print(f"{where}: {spans}: {gain:.2f}x of the default's speed", flush=True)


repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
print(machine())
seconds({})  # fills the disk's cache
say("alone", repeats)
busy = subprocess.Popen([sys.executable, "-c", BUSY])
try:
    say("beside one process that multiplies on all cores", repeats)
finally:
    busy.kill()
