"""Where a store's files are: a folder on this machine, or one that fsspec reaches (``s3://``,
``gs://``, ``memory://``).

A file appears under its name when it is whole: written to a temporary name and renamed here, put in
one piece elsewhere.
"""

from __future__ import annotations

import mmap
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

LOCK = ".lock"
_PARTIAL = ".partial"


class LocalFolder:
    """A folder of this machine's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def sizes(self) -> dict[str, int]:
        """Bytes of each whole file, by name, in order; empty if the folder is not there."""
        if not self.path.is_dir():
            return {}
        entries = [
            e
            for e in os.scandir(self.path)
            if not e.name.startswith(".") and not e.name.endswith(_PARTIAL)
        ]
        return {
            e.name: e.stat().st_size for e in sorted(entries, key=lambda e: e.name) if e.is_file()
        }

    def size(self, name: str) -> int | None:
        """Bytes of one file, None if it is not there."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file."""
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def part(self, name: str, start: int, stop: int) -> RawIOBase:
        """Some bytes of a file, to be read in order; to be closed."""
        file = (self.path / name).open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):  # what lies behind is another site's, and not read ahead
            os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_RANDOM)
        file.seek(start)
        return file

    def announce(self, name: str, start: int, stop: int) -> None:
        """Have the disk begin to bring some bytes of a file that are read soon,
        where memory does not hold them.
        """
        if hasattr(os, "posix_fadvise"):
            with (self.path / name).open("rb", buffering=0) as file:
                if not _in_memory(file.fileno(), start):
                    os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)

    def view(self, name: str, start: int, stop: int) -> Any:
        """A buffer of some bytes of a file, mapped into memory."""
        if stop == start:
            return bytearray()
        first = start - start % mmap.ALLOCATIONGRANULARITY
        # a private mapping: what is written to it stays here
        with (self.path / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), stop - first, access=mmap.ACCESS_COPY, offset=first)
        return memoryview(mapped)[start - first :]

    def write(self, name: str, parts: Sequence[Any]) -> None:
        """Write a file from its parts, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f"{name}.{uuid.uuid4().hex[:8]}{_PARTIAL}"
        try:
            with partial.open("wb", buffering=0) as file:
                for part in parts:
                    rest = memoryview(part).cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
            os.replace(partial, self.path / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)

    def lock(self) -> Any | None:
        """Keep other writers out until what is returned is released; None if another one is in."""
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()  # the system lets go of it when the process ends, however it ends
        except Timeout:
            return None
        return lock

    def clear(self) -> None:
        """Remove what interrupted writers left, the lock,
        and the folder if nothing else is in it.
        """
        if self.path.is_dir():
            for left in (*self.path.glob(f"*{_PARTIAL}"), self.path / LOCK):
                left.unlink(missing_ok=True)
            with suppress(OSError):  # other files are in it
                self.path.rmdir()

    def free(self) -> int | None:
        """Free bytes, where that is known."""
        known = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        return shutil.disk_usage(known).free


def _in_memory(descriptor: int, at: int) -> bool:
    """Whether a byte of a file can be read without the disk;
    False where the system does not tell.
    """
    try:
        return os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except (AttributeError, OSError):
        return False


class NoLock:
    """What stands for a lock where there is none."""

    def release(self) -> None:
        """Nothing is held."""


class RemoteFolder:
    """A folder that fsspec reaches.

    There is no lock there: two writers of one store write the same shards twice.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self.files, self.root = fsspec.core.url_to_fs(self.url)

    def __str__(self) -> str:
        return self.url

    def sizes(self) -> dict[str, int]:
        """Bytes of each whole file, by name, in order; empty if the folder is not there."""
        self.files.invalidate_cache()
        try:
            entries = self.files.ls(self.root, detail=True)
        except FileNotFoundError:
            return {}
        files = {
            str(f["name"]).rsplit("/", 1)[-1]: int(f["size"])
            for f in entries
            if f["type"] == "file"
        }
        return dict(sorted(files.items()))

    def size(self, name: str) -> int | None:
        """Bytes of one file, None if it is not there."""
        self.files.invalidate_cache()
        try:
            return int(self.files.size(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file."""
        return self.files.cat_file(f"{self.root}/{name}", start=start, end=stop)

    def part(self, name: str, start: int, stop: int) -> BytesIO:
        """Some bytes of a file, fetched in one piece, to be read in order."""
        return BytesIO(self.read(name, start, stop))

    def announce(self, name: str, start: int, stop: int) -> None:
        """Nothing is fetched before it is read."""

    def view(self, name: str, start: int, stop: int) -> Any:
        """A buffer of some bytes of a file."""
        return bytearray(self.read(name, start, stop))

    def write(self, name: str, parts: Sequence[Any]) -> None:
        """Write a file from its parts, whole or not at all."""
        self.files.makedirs(self.root, exist_ok=True)
        self.files.pipe_file(
            f"{self.root}/{name}", b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        )

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{name}")

    def lock(self) -> Any | None:
        """Keep other writers out until what is returned is released; None if another one is in."""
        return NoLock()

    def clear(self) -> None:
        """Remove the folder if nothing else is in it."""
        with suppress(OSError):
            self.files.rmdir(self.root)

    def free(self) -> int | None:
        """Free bytes, where that is known."""
        return None


Folder = LocalFolder | RemoteFolder


def folder_at(where: str | os.PathLike[str]) -> Folder:
    """The folder of a path or a URL."""
    text = os.fspath(where)
    return RemoteFolder(text) if "://" in text else LocalFolder(expanded(text))


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` written out; ``~name`` stays as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
