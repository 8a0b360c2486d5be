"""How much memory and disk a capture takes: said before the first batch, and kept to.

    memory  =  what is held already + texts of a window + tokens of a batch * bytes a token + SLACK
    bytes a token  =  MARGIN * (captured and pooled vectors, images of the shards on their way to
                   disk, one block's work)
    disk    =  rows * (vectors + index)

The batch is made as small as the memory asks for; a text that does not fit by itself, or a disk
without room, is an error.

"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch

from ...hooks import capture
from ...hooks.configuration import head_counts
from ...hooks.shards import COLUMNS
from ...hooks.spool import AHEAD
from ..report.words import size
from ..runs.folder import RunError
from ..subject import Subject
from .layout import WINDOW, Layout

MARGIN = 1.25
"""For what the allocator keeps."""
SLACK = 48_000_000
"""Held whatever the size: buffers, threads, progress, report."""
_TEXT = 500
"""Bytes of a token's id, offsets and place in the layout, as Python holds them."""
_UNITS = {
    "": 1,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def as_bytes(text: str, option: str) -> int:
    """A size such as ``2GB``, ``512MiB`` or ``1e9``, in bytes.

    Raises:
        RunError: something else.

    >>> as_bytes("1.5GB", "--max-ram"), as_bytes("2 MiB", "--max-ram")
    (1500000000, 2097152)
    """
    match = re.fullmatch(
        r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*([KMGT]?I?)B?\s*", text, re.IGNORECASE
    )
    if match is None or match[2].upper() not in _UNITS:
        raise RunError(f"{option} {text!r:.60}: expected a size such as 2GB or 512MB")
    n_bytes = float(match[1]) * _UNITS[match[2].upper()]
    if not 1 <= n_bytes < 2**63:
        raise RunError(f"{option} {text:.60}: expected a size of at least one byte and below 8 EiB")
    return round(n_bytes)


def as_limit(max_ram: str | None) -> int | None:
    """What ``--max-ram`` says, in bytes."""
    return None if max_ram is None else as_bytes(max_ram, "--max-ram")


def site_widths(subject: Subject, places: Sequence[str]) -> dict[str, int]:
    """Values a row at each site, from a forward of one word."""
    batch = subject.example()
    with capture(subject.model, *places, stop=True) as acts:
        subject.forward(batch)
    return {place: acts[place][0, 0].numel() for place in places}


@dataclass(frozen=True)
class Need:
    """What a capture needs, in bytes.

    Attributes:
        resident: before the first batch.
        token: for each token of a batch.
        row: on disk, for each row.
    """

    resident: int
    token: int
    row: int

    @classmethod
    def of(cls, subject: Subject, widths: Mapping[str, int], store_as: torch.dtype) -> Need:
        """From the sites' widths and the model's shapes."""
        weights = subject.dtype.itemsize
        values = sum(widths.values())
        # What a block holds for a token while it runs: the stream and its copies, the MLP, a row of
        # each head's scores.
        heads, _ = head_counts(subject.config)
        scores = heads * min(subject.max_length, 512)
        block = 8 * subject.d_model + 3 * subject.d_inner + scores
        # What is kept of it: the values as they are stored, in as many images as are written ahead,
        # and its index.
        stored = values * store_as.itemsize + 8 * len(COLUMNS)
        pooled = 8 * max(widths.values(), default=0)
        each = 2 * values * weights + (AHEAD + 1) * stored + block * weights + pooled
        resident = psutil.Process().memory_info().rss + SLACK
        return cls(resident, round(MARGIN * each), stored)

    def memory(self, tokens: int, window_tokens: int = 0) -> int:
        """Peak of the process with batches of so many tokens."""
        return self.resident + tokens * self.token + window_tokens * _TEXT

    def batch_tokens(self, asked: int, max_ram: int | None, mean_length: float) -> int:
        """How many tokens a batch may have; at most as many as asked.

        Raises:
            RunError: not one text of 16 tokens fits.
        """
        if max_ram is None:
            return asked
        window = round(WINDOW * mean_length)
        # Of a stream of unknown length the lengths of a whole window are sorted, which is in memory
        # too.
        fit = (max_ram - self.memory(0, window)) // self.token
        if fit < 16:
            raise RunError(
                f"--max-ram {size(max_ram)}: expected at least "
                f"{size(self.memory(16, window))}, of which the model and the program hold "
                f"{size(self.resident)}"
            )
        return min(asked, fit)

    def check(self, layout: Layout, max_ram: int | None) -> None:
        """Refuse a text that does not fit by itself.

        Raises:
            RunError: naming it.
        """
        longest = max(layout.encoded, key=len)
        if max_ram is not None and self.memory(len(longest), layout.n_tokens) > max_ram:
            raise RunError(
                f"--max-ram {size(max_ram)}: the text {longest.text[:40]!r} of "
                f"{len(longest)} tokens needs "
                f"{size(self.memory(len(longest), layout.n_tokens))}"
            )
