"""Text files that are hashed as they are read: a pipe can be read once only,
and a file may change between two readings.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HASHES: dict[str, str] = {}


class _Hashing(io.RawIOBase):
    """A file whose bytes are hashed as they pass."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.digest = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = self.raw.readinto(buffer) or 0  # pyright: ignore[reportAttributeAccessIssue]
        self.digest.update(buffer[:count])
        return count


@contextmanager
def opened_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """A file; `parsed_sha256` knows its hash when the block ends."""
    with path.open("rb", buffering=0) as raw:
        hashing = _Hashing(raw)
        with io.BufferedReader(hashing, 1 << 16) as file:
            with contextlib.suppress(GeneratorExit):  # a reader that has enough lines
                yield file  # pyright: ignore[reportReturnType]
            while hashing.read(1 << 20):  # what was not asked for is part of the file too
                pass
        _HASHES[str(path)] = hashing.digest.hexdigest()


@contextmanager
def opened_text(path: Path) -> Iterator[io.TextIOBase]:
    """A UTF-8 file, without its byte order mark;
    `parsed_sha256` knows its hash when the block ends.
    """
    with opened_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        yield text
        text.detach()  # the file is still read to its end


UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16."""
GZIP = b"\x1f\x8b"


def encoding_of(error: UnicodeDecodeError) -> str:
    """What a file that is no UTF-8 holds, as far as its first bad byte tells."""
    if error.start == 0 and error.object.startswith(UTF16):
        return "UTF-16: save it as UTF-8"
    if error.object.startswith(GZIP):
        return "gzip: unpack it"
    return f"the byte 0x{error.object[error.start]:02x}"


def parsed_sha256(path: Path) -> str:
    """The hash of the bytes that were last read by `opened_text`;
    of the file as it is where it was read otherwise.
    """
    if str(path) in _HASHES:
        return _HASHES[str(path)]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
