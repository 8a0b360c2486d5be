"""Arrays of an npz file of unknown origin:
judged by what the file says of itself before anything is unpacked.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from layerscope.errors import LayerscopeError

UNPACKED, PACKED = 1 << 28, 100
"""An npz file may unpack to so many bytes, or to so many times its own size."""
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for files that are damaged or no archives."""


class ArchiveError(LayerscopeError, ValueError):
    """An npz file that cannot be read; the message begins with the file."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, by name.

    Raises:
        ArchiveError: no npz file, objects that would have to be unpickled, more than the file can
            honestly hold.
    """
    try:
        _check(path)
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ArchiveError:
        raise
    except UNREADABLE as error:
        raise ArchiveError(f"{path}: cannot be read as npz: {str(error)[:200]}") from None


def _check(path: Path) -> None:
    """Refuse an archive by what it says of itself, before anything is unpacked.

    Raises:
        ArchiveError: arrays that are far larger than the file, or than what is packed of them; a
            member that is no array.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        # A few kilobytes of zeros may unpack to terabytes.
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(UNPACKED, PACKED * size):
            raise ArchiveError(
                f"{path}: expected arrays, got {size / 1e6:.1f} MB that unpack to "
                f"{unpacked / 1e9:.1f} GB: refused"
            )
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, kind = read(file)
            # The header of an array is believed when memory is asked for; it must not ask for more
            # than there is.
            if math.prod(shape) * kind.itemsize > member.file_size:
                name = member.filename.removesuffix(".npy")
                raise ArchiveError(f"{path}: array {name!r} says {shape} of {kind}, and holds less")
