"""The battery: every kind of file and every option of every command, through ``main([...])``, under
one rule (`place`).

    # by hand; prints counts, and what broke the rule
    python tests/robustness/battery.py --cases 20000 --processes 2
    python tests/robustness/battery.py --first 417 --cases 1 --verbose  # one case again

A case is decided by its number and the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from robustness import cases, inputs, place
from robustness.place import Outcome

Counts = Counter[tuple[str, ...]]
"""(kind of case, command, status) -> command lines."""
CASES = ("cases",)


def outcomes(
    work: Path, number: int, seed: int, kind: str | None = None
) -> Iterator[tuple[str, Outcome]]:
    """The kind of a case, and what became of each of its command lines."""
    with place.linked_copy(work):
        name, lines = cases.drawn(number, seed, kind)
        words: list[str] = []
        try:
            for words in lines:
                yield name, place.call(words)
        except AssertionError as error:  # a value that another reader reads differently
            yield name, Outcome(words, 0, str(error)[:900], "read differently")
        except Exception as error:
            yield name, Outcome(words, 0, f"{error!r:.900}", "the case itself failed")


def battery(
    work: Path,
    numbers: Iterable[int],
    seed: int,
    kind: str | None = None,
    each: Callable[[Outcome], None] | None = None,
) -> tuple[Counts, list[Outcome]]:
    """Run cases in copies of a workplace; returns counts, and what broke the rule.

    Args:
        kind: of all cases; None draws it.
        each: is called with every outcome.
    """
    counts, broken = Counts(), []
    with place.models_read_once(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            counts[CASES] += 1
            for name, outcome in outcomes(work, number, seed, kind):
                command = outcome.words[0] if outcome.words else ""
                known = command if command in place.COMMANDS else "other"
                counts[name, known, str(outcome.status)] += 1
                if outcome.wrong:
                    outcome.words = [f"#{number} {name}:", *outcome.words]
                    broken.append(outcome)
                if each is not None:
                    each(outcome)
    return counts, broken


def _worker(work: str, numbers: range, given: argparse.Namespace) -> tuple[Counts, int]:
    """Cases in a process of its own, at low priority and with bounded memory."""
    import torch

    torch.set_num_threads(1)
    os.nice(5)
    inputs.LINES = tuple(line for line in inputs.LINES if given.line in line)
    if given.kind == "ray":
        _start_ray()
    else:
        place.bound_memory()  # Ray's own processes reserve more than that

    def each(outcome: Outcome) -> None:
        if outcome.wrong or given.verbose:
            place.show(outcome)

    with contextlib.chdir(work):
        numbers_in_time = _in_time(numbers, given.seconds)
        counts, broken = battery(Path(work), numbers_in_time, given.seed, given.kind, each)
    return counts, len(broken)


def _start_ray() -> None:
    """Once for all cases: starting takes seconds."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def _in_time(numbers: Iterable[int], seconds: float) -> Iterator[int]:
    """The numbers, until the time is over; a case that hangs ends the process."""
    end = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > end:
            return
        place.watch()
        yield number


def main(arguments: list[str] | None = None) -> int:
    """Run cases by hand; returns 1 where the rule was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=tuple(cases.KINDS), help="only cases of this kind")
    parser.add_argument("--line", default="", help="only of lines that hold this, such as gguf")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no case after so many seconds"
    )
    parser.add_argument("--verbose", action="store_true", help="show every command line")
    given = parser.parse_args(arguments)
    last = given.first + given.cases
    shares = [range(given.first + k, last, given.processes) for k in range(given.processes)]
    total, n_broken = Counts(), 0
    with place.workplace() as work, _processes(given.processes) as run:
        jobs = [run(_worker, str(work), numbers, given) for numbers in shares]
        for job in jobs:
            counts, of_these = job.result()
            total += counts
            n_broken += of_these
    n_cases = total.pop(CASES)
    for key, count in sorted(total.items()):
        print(f"{' '.join(key):40} {count}")
    print(f"{n_cases:,} cases, {total.total():,} command lines: {n_broken} broke the rule")
    return int(bool(n_broken))


@contextlib.contextmanager
def _processes(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Begin functions in so many processes."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawned) as pool:
        yield pool.submit


if __name__ == "__main__":
    sys.exit(main())
