"""Every command stopped in the middle and called again: the results are those of a run that was
left alone, but for ``provenance.resources``.

    # by hand; only lines that hold one of the words
    python tests/robustness/kills.py [--kills 8] [WORD ...]  # --kills 2 for a sample

A kill is aimed at a write (a cell, a shard, the results, the table, the page): before the file has
its name, behind it, or with half of its text on the disk. Others come at a random moment (SIGINT,
SIGTERM, SIGKILL), or as a disk that is full.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from processes import PROCESSES
from robustness.edits import first_difference

HOW = ("before", "behind", "half")
LATE = ("results.json", "records.csv", "report.html", "run.toml")
"""Files that every run writes beside its cells."""


@dataclass(frozen=True)
class Aim:
    """The write at which a process dies.

    Args:
        number: of the write, from 0.
        how: one of `HOW`.
    """

    number: int
    how: str


def _watch_writes(aim: Aim | None, log: Path) -> None:
    """From here on every file that gets its name is listed; this process dies at one of them."""
    count = 0

    def watching(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(source: Any, target: Any, *more: Any) -> Any:
            nonlocal count
            is_aim = aim is not None and count == aim.number
            count += 1
            if is_aim and aim.how != "behind":
                if aim.how == "half":
                    os.truncate(source, Path(source).stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            done = rename(source, target, *more)
            with log.open("a") as file:
                file.write(f"{Path(target).name}\n")
            if is_aim:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return renamed

    os.replace, os.rename = watching(os.replace), watching(os.rename)


def _run(words: list[str], log: Path, aim: Aim | None, largest: int | None) -> None:
    """A command line, in a process of its own; its status is the process's."""
    status = 70
    try:
        sys.argv = ["layerscope", *words]
        with Path(f"{log}.err").open("w") as errors, Path(os.devnull).open("w") as nothing:
            os.dup2(errors.fileno(), 2)
            os.dup2(nothing.fileno(), 1)
        _watch_writes(aim, log)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        status = importlib.import_module("layerscope.__main__").main()
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    finally:
        os._exit(status)


def begun(
    words: list[str], log: Path, aim: Aim | None = None, largest: int | None = None
) -> ForkServerProcess:
    """A process that runs a command line.

    Args:
        log: where it lists what it wrote; standard error is beside it.
        largest: bytes that a file of it may have, as on a disk that is full.
    """
    errors = Path(f"{log}.err")
    errors.unlink(missing_ok=True)
    process = PROCESSES.Process(target=_run, args=(words, log, aim, largest))
    process.start()
    while (
        process.is_alive() and not errors.exists()
    ):  # a signal before this would stop the wrong code
        time.sleep(0.002)
    return process


def ended(process: ForkServerProcess) -> int:
    """The status of a process that ended; negative where a signal ended it."""
    process.join()
    status = process.exitcode
    assert status is not None
    return status


def results_of(out: Path) -> Any:
    """A run's results without what may differ from run to run."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    results.pop("sha256")
    results["provenance"].pop("resources")
    return json.loads(json.dumps(results).replace(str(out), "OUT").replace(out.name, "OUT"))


@dataclass
class Command:
    """A command line, and what its run did when it was left alone."""

    words: list[str]
    results: Any
    writes: list[str]
    seconds: float

    @classmethod
    def of(cls, words: list[str], out: Path) -> Command:
        """Run it to its end.

        Raises:
            AssertionError: it does not succeed.
        """
        log, start = Path(f"{out}.log"), time.perf_counter()
        status = ended(begun([*words, "--out", str(out)], log))
        seconds = time.perf_counter() - start
        assert status in (0, 1), f"status {status}: {_printed(log)}"
        return cls(words, results_of(out), log.read_text().splitlines(), seconds)


def _printed(log: Path) -> str:
    """The end of what a run said, longer than any line of ours."""
    return Path(f"{log}.err").read_text()[-4000:]


def stop(command: Command, out: Path, rng: random.Random) -> str:
    """Stop a run once; returns how.

    Raises:
        AssertionError: an interrupt or a full disk is not one true line.
    """
    words, log = [*command.words, "--out", str(out)], Path(f"{out}.log")
    way = rng.random()
    if way < 0.15:
        largest = rng.choice((800, 2_000, 8_000, 30_000))
        status = ended(begun(words, log, largest=largest))
        _check_line(log, status, (0, 1, 2))
        return "full disk"
    if way < 0.6 and command.writes:
        # The last writes are as likely as all cells together.
        late = [place for place, name in enumerate(command.writes) if name in LATE]
        number = rng.choice(late if late and rng.random() < 0.5 else range(len(command.writes)))
        aim = Aim(number, rng.choice(HOW))
        ended(begun(words, log, aim))
        return f"{aim.how} {_kind(command.writes[number])}"
    name = rng.choice(("SIGINT", "SIGINT", "SIGTERM", "SIGKILL"))
    process = begun(words, log)
    time.sleep(rng.random() * command.seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, getattr(signal, name))
    status = ended(process)
    if name == "SIGINT":
        _check_line(log, status, (0, 1, 130))
        _check_parts(out, log, status)
    return name


def _kind(name: str) -> str:
    """What a written file is."""
    return name if name in (*LATE, "config.json") else f"*{Path(name).suffix}"


def _check_line(log: Path, status: int, expected: tuple[int, ...]) -> None:
    """Raise where a run that was stopped did not end with one line."""
    printed = _printed(log)
    lines = [line for line in printed.splitlines() if line.startswith("layerscope:")]
    is_one_line = status in (0, 1) or len(lines) == 1
    is_right = status in expected and is_one_line and "Traceback" not in printed
    assert is_right, f"status {status}: {printed}"


def _check_parts(out: Path, log: Path, status: int) -> None:
    """Raise where the number of parts that an interrupt says is not the number that is there."""
    printed = _printed(log)
    count = len(list((out / "cells").glob("*.json")))
    if status == 130 and "parts are done" in printed:
        assert f"; {count} parts" in printed, f"{count} parts are there: {printed}"


def problem_of(command: Command, out: Path, rng: random.Random, counts: Counter[str]) -> str:
    """What is wrong after a run was stopped once or twice and called again;
    empty where nothing is.
    """
    ways: list[str] = []
    try:
        for _ in range(rng.choice((1, 1, 2))):
            ways.append(stop(command, out, rng))
            counts[ways[-1]] += 1
    except AssertionError as error:
        return f"{ways}: {error}"
    log = Path(f"{out}.log")
    status = ended(begun([*command.words, "--out", str(out)], log))
    if status not in (0, 1):
        return f"{ways}: called again it ends with {status}: {_printed(log)}"
    if difference := first_difference(command.results, results_of(out)):
        return f"{ways}: {difference}"
    missing = [name for name in LATE if not (out / name).exists()]
    if missing:
        return f"{ways}: missing: {missing}"
    counts["identical"] += 1
    # The page of a process that was killed has a name of its own, which no other process takes.
    left = [path for path in out.rglob("*") if "partial" in path.name or path.suffix == ".tmp"]
    counts["of these with a page that was not finished"] += bool(left)
    wrong = [path.name for path in left if ".html" not in path.name]
    return f"{ways}: left: {wrong}" if wrong else ""


def check(
    words: list[str], out: Path, n_kills: int, rng: random.Random
) -> tuple[Counter[str], list[str]]:
    """One command: a run left alone, then runs that are stopped and called again; counts,
    and what is wrong.
    """
    counts, wrong = Counter[str](), []
    try:
        command = Command.of(words, out)
    except AssertionError as error:
        return counts, [str(error)]
    for turn in range(n_kills):
        again = out.with_name(f"{out.name}-{turn}")
        if problem := problem_of(command, again, rng, counts):
            wrong.append(problem)
        shutil.rmtree(again, ignore_errors=True)
    return counts, wrong


def main(arguments: list[str] | None = None) -> int:
    """All lines, or those that hold one of the words; returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--kills", type=int, default=8, help="of each line")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    import torch
    from robustness import inputs, place  # not in the processes that are stopped

    torch.set_num_threads(1)
    total, n_wrong = Counter[str](), 0
    with place.workplace() as work:
        for number, line in enumerate(inputs.LINES):
            if given.words and not any(word in line for word in given.words):
                continue
            rng = random.Random(f"{given.seed}-{number}")
            counts, wrong = check(inputs.words_of(line), work / f"alone-{number}", given.kills, rng)
            total += counts
            n_wrong += len(wrong)
            print(f"{line}: {counts['identical']} identical, {len(wrong)} wrong", flush=True)
            for problem in wrong:
                print(f"    {problem}", flush=True)
    for name, count in sorted(total.items()):
        print(f"{name:24} {count}")
    print(f"{n_wrong} wrong")
    return int(bool(n_wrong))


if __name__ == "__main__":
    sys.exit(main())
