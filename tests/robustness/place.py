"""Where the batteries work, and the rule that all commands keep.

The rule: a command succeeds, or prints one line of at most 500 characters and ends with a status
that is neither 0 nor that of a bug; it ends within a bound of time, and stays within a bound of
memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import io
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from layerscope.experiments.runs import execute
from layerscope.experiments.studies import STUDIES
from robustness.inputs import PREPARED, is_of_the_workplace, words_of, write_inputs

COMMANDS = (*STUDIES, "report", "explore", "make", "completion", "demo")
LONGEST = 500
"""Characters of a message."""
SECONDS = 40.0
"""Processor time of one command."""
HANGS = 300
"""Seconds after which the process ends, and shows where it stands."""
MEMORY = 6 << 30
"""Bytes of address space beside those that the process has at its start."""


# -- the place


def write_prepared() -> None:
    """Make the run folders that other runs read."""
    for out, line in PREPARED.items():
        outcome = call([*words_of(line), "--out", out])
        if outcome.status:
            raise RuntimeError(f"{line}: {outcome.message}")
    shutil.copy(next(Path("lenses").rglob("*.safetensors")), "lens.safetensors")


@contextmanager
def workplace(prepared: bool = True) -> Iterator[Path]:
    """A temporary working directory with all inputs.

    Args:
        prepared: also the run folders that other runs read.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "work"  # copies are made beside it
        folder.mkdir()
        with contextlib.chdir(folder):
            write_inputs()
            if prepared:
                write_prepared()
            yield folder


@contextmanager
def linked_copy(place: Path) -> Iterator[Path]:
    """A copy of a folder, to work and to break things in: its files are hard links,
    so an edit replaces the file.
    """
    with tempfile.TemporaryDirectory(dir=place.parent) as parent:
        copy = Path(parent) / "work"
        shutil.copytree(place, copy, copy_function=os.link, symlinks=True)
        with contextlib.chdir(copy):
            yield copy


# -- the rule


@dataclasses.dataclass
class Outcome:
    """What became of a command line.

    Args:
        message: what it printed to standard error.
        wrong: how it broke the rule; empty where it did not.
    """

    words: list[str]
    status: int
    message: str
    wrong: str = ""


class HangError(BaseException):
    """A command that did not end in its time."""


def _hangs(*_: Any) -> None:
    raise HangError(f"no end within {SECONDS:g} s of processor time")


def call(words: Sequence[str]) -> Outcome:
    """Run one command line in this process."""
    from layerscope.experiments.cli import main

    printed, shown = _terminal("backslashreplace"), _terminal("strict")
    before = signal.signal(signal.SIGPROF, _hangs)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with (
            # Compiling flex attention takes minutes, and is PyTorch's own.
            torch.compiler.set_stance("force_eager"),
            contextlib.redirect_stderr(printed),
            contextlib.redirect_stdout(shown),
        ):
            status = main(list(words))
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except BaseException as error:  # nothing may get out
        return Outcome(list(words), -1, f"{error!r:.300}", "an exception got out")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    printed.flush()
    message = printed.buffer.getvalue().decode()
    return Outcome(list(words), status, message[-2500:], _broken(words, status, message))


def _terminal(errors: str) -> Any:
    """A stream as Python's own: standard output refuses what UTF-8 cannot hold,
    standard error shows it.
    """
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors)


def _broken(words: Sequence[str], status: int, message: str) -> str:
    """How the rule was broken."""
    from layerscope.experiments.cli import BUG, WRONG

    lines = message.splitlines()
    allowed = (0, 2, WRONG) if words[:1] == ["doctor"] else (0, 2)
    if status == BUG or "Traceback" in message:
        return "a traceback"
    if status not in allowed:
        return f"status {status}"
    if status == 2 and (len(lines) != 1 or not lines[0].startswith("layerscope")):
        return f"{len(lines)} lines"
    if status == 2 and len(lines[0]) > LONGEST:
        return f"a line of {len(lines[0])} characters"
    return ""


def show(outcome: Outcome) -> None:
    """Print a command line that broke the rule."""
    words = " ".join(word if len(word) < 60 else f"{word[:57]}..." for word in outcome.words)
    print(f"{outcome.wrong}: {words!a}\n    {outcome.message!a}\n", flush=True)


def bound_memory() -> None:
    """From here on this process gets no more than `MEMORY`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def watch() -> None:
    """Begin the time after which this process ends, where it waits or hangs outside of Python."""
    faulthandler.dump_traceback_later(HANGS, exit=True)


# -- models are read once


@contextmanager
def models_read_once(most: int = 60) -> Iterator[None]:
    """Models whose files are the same are the same objects:
    most of a dry run's time is their reading.
    """
    loaders = {name: getattr(execute, name) for name in ("load", "load_media")}
    for name, loader in loaders.items():
        setattr(execute, name, _reading_once(loader, most))
    try:
        yield
    finally:
        for name, loader in loaders.items():
            setattr(execute, name, loader)


def _reading_once(loader: Any, most: int) -> Any:
    @functools.lru_cache(most)
    def known(_files: tuple[Any, ...], path: str, *more: Any, **options: Any) -> Any:
        return loader(path, *more, **options)

    def load(path: Any, *more: Any, **options: Any) -> Any:
        is_here = is_of_the_workplace(str(path)) and Path(path).is_dir()
        if options.get("adapter") is not None or not is_here:
            return loader(path, *more, **options)
        files = []
        for file in sorted(Path(path).rglob("*")):
            facts = file.lstat()
            files.append((file.name, facts.st_ino, facts.st_mtime_ns, facts.st_size))
        return known(tuple(files), path, *more, **options)

    return load
