"""The run folder: configuration, finished cells, results, report,
and the provenance of the numbers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import torch
from filelock import FileLock, Timeout

from layerscope.errors import LayerscopeError

from ..report.schema import as_json, check_schema
from ..report.words import size


class RunError(LayerscopeError, ValueError):
    """A run folder that cannot be used."""


PARTIAL = ".partial"
"""Behind the name of a file that is not whole yet."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    if not path.name:
        raise RunError(f"expected the name of a file to write, got {str(path)!r}")
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        free = free_bytes(path.parent)
        raise RunError(
            f"cannot write {path}: {error.strerror} ({size(free)} free there); "
            "what is computed so far is kept"
        ) from error


def free_bytes(path: Path) -> int:
    """Room on the disk where a folder is or will be."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; NaN is refused, not written."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """What a run's file holds.

    Raises:
        RunError: the file is no JSON object: it was cut short, or changed by hand.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: expected the JSON that a run wrote, got something else ({error}): "
            "delete the file if it is a run's"
        ) from None
    if not isinstance(content, dict):
        raise RunError(
            f"{path}: expected a JSON object that a run wrote, "
            f"got a {type(content).__name__}: delete the file if it is a run's"
        )
    return content


def read_results(path: Path) -> dict[str, Any]:
    """What a ``results.json`` holds.

    Raises:
        RunError: the file is no JSON object.
        ResultsError: it is of another version of the format.
    """
    raw = read_json(path)
    check_schema(raw, str(path))
    return raw


def is_as_written(raw: Mapping[str, Any]) -> bool:
    """Whether results are those that their run wrote, by the hash that they carry."""
    rest = {name: value for name, value in raw.items() if name != "sha256"}
    return raw.get("sha256") == digest(rest)


def plain(value: Any) -> Any:
    """The value as JSON gives it back: paths and dates as text, tuples as lists."""
    return json.loads(json.dumps(value, default=str))


def digest(value: Any) -> str:
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LOCK = ".lock"
_BEFORE_WORK = {"config.json", "run.toml", LOCK}
"""What a run writes before it computes anything:
a folder with no more may be taken by another run.
"""


def holds_work(folder: Path) -> bool:
    """Whether anything was computed in a run's folder."""
    # A process that was killed while it wrote one of them has left a part of it.
    names = {file.name.removesuffix(PARTIAL) for file in folder.iterdir()}
    return bool(names - _BEFORE_WORK)


def file_name(name: str) -> str:
    """A name as a file or folder is called: another one for every name, and the same where it is
    plain already.

    >>> file_name("blocks.0.hook_resid_pre"), file_name("feats:Number"), file_name("push a/b")
    ('blocks.0.hook_resid_pre', 'feats%3ANumber', 'push%20a%2Fb')
    """
    return quote(name, safe="")


class RunFolder:
    """One run's folder: made on first use, continued by the same configuration, refused to another
    once it holds work.

    Args:
        path: the folder.
        config: all that decides the results; written to ``config.json``.
        make: whether the folder is made; if not, it is only looked at.

    Raises:
        RunError: the folder holds a run of another configuration, or files that are no run's.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], make: bool = True) -> None:
        self.path = path
        self.config = plain(dict(config))
        if path.exists() and not path.is_dir():
            raise RunError(f"--out {path}: expected a folder, it is a file")
        known = path / "config.json"
        has_work = path.exists() and holds_work(path)
        if known.exists() and has_work:
            self._compare(read_json(known))
        elif has_work:
            raise RunError(
                f"--out {path}: expected an empty folder or one of this run, it holds other files"
            )
        elif make:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"--out {path}: cannot make the folder: {error.strerror}") from error
            write_json(known, self.config)

    def _compare(self, saved: Mapping[str, Any]) -> None:
        differing = sorted(k for k in {*saved, *self.config} if saved.get(k) != self.config.get(k))
        if differing:
            first = differing[0]
            raise RunError(
                f"--out {self.path} holds a run of another configuration "
                f"({', '.join(differing)} differ; {first}: {saved.get(first)!r} there, "
                f"{self.config.get(first)!r} here): choose another folder or delete it"
            )

    def _still_ours(self) -> None:
        """Before anything was computed here, another run may have taken the folder."""
        self._compare(read_json(self.path / "config.json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder for this process alone; the system takes the lock from a process that died.

        Raises:
            RunError: another process works in it.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise RunError(
                f"--out {self.path}: another process is working in this folder: wait for it"
            ) from None
        try:
            yield
        finally:
            # While it is held: behind the release it may be the file of another process's lock.
            with suppress(OSError):  # Windows keeps what is open
                (self.path / LOCK).unlink()
            lock.release()

    @property
    def results(self) -> dict[str, Any] | None:
        """The finished results, if the run is complete.

        Raises:
            ResultsError: they are of another version of the format.
        """
        return read_results(path) if (path := self.path / "results.json").exists() else None

    @property
    def kept_cells(self) -> int:
        """How many cells an interrupted run has left."""
        return sum(1 for _ in (self.path / "cells").glob("*.json"))

    def cell(self, name: str) -> Any | None:
        """What was saved for one cell of an unfinished run.

        Raises:
            RunError: the file was changed since, or was not written by a run.
        """
        path = self._cell_path(name)
        if not path.exists():
            return None
        saved = read_json(path)
        if saved.get("sha256") != digest(saved.get("value")):
            raise RunError(
                f"{path}: its values are not those that the run wrote: delete the file, "
                "and they are computed again"
            )
        return saved["value"]

    def save_cell(self, name: str, value: Any) -> Any:
        """Keep one cell, so that an interrupted run does not compute it again;
        returns it as a later run reads it.
        """
        self._still_ours()
        self._cell_path(name).parent.mkdir(exist_ok=True)
        value = plain(as_json(value))
        write_json(self._cell_path(name), {"sha256": digest(value), "value": value})
        return value

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What was saved for one cell, or what ``make`` gives now, saved."""
        saved = self.cell(name)
        return self.save_cell(name, make()) if saved is None else saved

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Write the results with their hash, and drop the cells;
        returns them as they are read back.
        """
        self._still_ours()
        # hashed as a reader will see them: JSON makes lists of tuples
        read_back = json.loads(json.dumps(results))
        written = {**read_back, "sha256": digest(read_back)}
        write_json(self.path / "results.json", written)
        shutil.rmtree(self.path / "cells", ignore_errors=True)
        return written

    def _cell_path(self, name: str) -> Path:
        return self.path / "cells" / f"{file_name(name)}.json"


def now() -> str:
    """The time, in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = ("layerscope", "torch", "transformers", "transformer-lens", "scikit-learn", "numpy")
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that ran it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": name,
    }


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    # Linux, where getrusage also counts what the parent held when it started this process
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
