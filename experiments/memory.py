"""How much memory and disk a capture takes: said before the first batch, and kept to.

    memory  =  what is held already + texts of a window + tokens of a batch * bytes a token + SLACK
    bytes a token  =  MARGIN * (captured and pooled vectors, images of the shards on their way to disk, one block's work)
    disk    =  rows * (vectors + index)

The batch is made as small as the memory asks for; a text that does not fit by itself, or a disk without room, is an error.

A study's probes hold one site's vectors and what a joint solve makes of them, or, where that is too much, leave both on disk
(`probes.rows.OnDisk`) and hold blocks, coefficients, labels, and a sample of the rows as large as the memory allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch

from ..hooks import capture
from ..hooks.shards import COLUMNS
from ..hooks.spool import AHEAD
from ..probes.design import CPU_BLOCK
from ..probes.newton import MEMORY
from ..probes.rows import block_of
from ..probes.solver import MAX_COLUMNS
from .config import ProbeConfig, UsageConfig
from .features import WINDOW, Layout
from .interventions.sweep import READ_BYTES, Chunk, pack
from .probing.tasks import Task, solved_together
from .run_folder import RunError
from .subject import Subject

MARGIN = 1.25
"""For what the allocator keeps."""
SLACK = 48_000_000
"""Held whatever the size: buffers, threads, progress, report."""
_TEXT = 500
"""Bytes of a token's id, offsets and place in the layout, as Python holds them."""
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def as_bytes(text: str, option: str) -> int:
    """A size such as ``2GB``, ``512MiB`` or ``1e9``, in bytes.

    Raises:
        RunError: something else.

    >>> as_bytes("1.5GB", "--max-ram"), as_bytes("2 MiB", "--max-ram")
    (1500000000, 2097152)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*([KMGT]?I?)B?\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        raise RunError(f"{option} {text}: expected a size such as 2GB or 512MB")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def site_widths(subject: Subject, places: Sequence[str]) -> dict[str, int]:
    """Values a row at each site, from a forward of one word."""
    (batch,) = subject.batches(subject.encode(["a"]))
    with capture(subject.model, *places, stop=True) as acts:
        subject.forward(batch)
    return {place: acts[place][0, 0].numel() for place in places}


@dataclass(frozen=True)
class Need:
    """What a capture needs, in bytes.

    Attributes:
        held: before the first batch.
        token: for each token of a batch.
        row: on disk, for each row.
    """

    held: int
    token: int
    row: int

    @classmethod
    def of(cls, subject: Subject, widths: Mapping[str, int], store_as: torch.dtype) -> Need:
        """From the sites' widths and the model's shapes."""
        weights = next(subject.model.parameters()).element_size()
        values, config = sum(widths.values()), subject.config
        inner = max((getattr(config, n, 0) or 0 for n in ("intermediate_size", "n_inner", "d_ff")), default=0)
        heads = getattr(config, "num_attention_heads", 1)
        block = 8 * subject.d_model + 3 * (inner or 4 * subject.d_model) + heads * min(subject.max_length, 512)
        images = (AHEAD + 1) * (values * store_as.itemsize + 8 * len(COLUMNS))
        each = 2 * values * weights + images + block * weights + 8 * max(widths.values(), default=0)
        held = psutil.Process().memory_info().rss + SLACK
        return cls(held, round(MARGIN * each), values * store_as.itemsize + 8 * len(COLUMNS))

    def memory(self, tokens: int, window_tokens: int = 0) -> int:
        """Peak of the process with batches of so many tokens."""
        return self.held + tokens * self.token + window_tokens * _TEXT

    def batch_tokens(self, asked: int, max_ram: int | None, mean_length: float) -> int:
        """How many tokens a batch may have; at most as many as asked.

        Raises:
            RunError: not one text of 16 tokens fits.
        """
        if max_ram is None:
            return asked
        window = round(WINDOW * mean_length)
        fit = (max_ram - self.memory(0, window)) // self.token
        if fit < 16:
            raise RunError(
                f"--max-ram {max_ram / 1e9:.2f} GB: expected at least {self.memory(16, window) / 1e9:.2f} GB, of which the "
                f"model and the program hold {self.held / 1e9:.2f} GB"
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
                f"--max-ram {max_ram / 1e9:.2f} GB: the text {longest.text[:40]!r} of {len(longest)} tokens needs "
                f"{self.memory(len(longest), layout.n_tokens) / 1e9:.2f} GB"
            )


@dataclass(frozen=True)
class Solve:
    """What probes take that share their vectors and are solved together, in bytes.

    Args:
        rows: of training; ``others`` of dev and test.
        width: values of a vector.
        targets: properties and their control tasks; ``columns`` their classes, side by side.
    """

    rows: int
    others: int
    width: int
    targets: int
    columns: int

    @classmethod
    def of(cls, tasks: Sequence[Task], width: int, controls: int) -> list[Solve]:
        """The solves of some tasks at a site: those that read the same vectors are one."""
        found = []
        for group in solved_together(tasks):
            parts = group[0].parts
            wide = width * group[0].beside
            classes = sum(len(set(t.parts["train"].labels)) for t in group if t.property.kind == "class")
            columns = min(max(classes, 1) * (1 + controls), MAX_COLUMNS)
            rows, others = len(parts["train"]), len(parts["dev"]) + len(parts["test"])
            found.append(cls(rows, others, wide, len(group) * (1 + controls), columns))
        return found

    @property
    def said(self) -> int:
        """Labels, weights of the rows, and what is said of those that are scored, wherever the vectors are."""
        return self.rows * (32 * self.targets + 96) + self.others * (24 * self.columns + 32 * self.targets)

    @property
    def whole(self) -> int:
        """With the vectors in memory, which are copied, turned and rounded; logits, and for the curvature probabilities twice."""
        return self.said + 4 * (self.rows * (4 * self.width + 4 * self.columns) + 3 * self.others * self.width)

    @property
    def least(self) -> int:
        """With the vectors on disk: blocks, coefficients and what L-BFGS keeps of them, the Gram matrix and its eigenvectors."""
        block = block_of(4 * self.width)
        blocks = 16 * block * self.width + 16 * min(block, CPU_BLOCK) * (2 * self.width + 4 * self.columns)
        copies = 4 * (2 * MEMORY + 20) * self.width * self.columns
        return self.said + blocks + copies + 48 * self.width**2

    @property
    def sample(self) -> int:
        """The smallest sample that a solve is worth starting with."""
        return 8 * min(self.rows, 2048) * (self.width + 4 * self.columns)

    @property
    def disk(self) -> int:
        """Vectors as they are and turned."""
        return 8 * (self.rows + self.others) * (self.width + 1)


@dataclass(frozen=True)
class Fits:
    """How a study's probes are fitted.

    Attributes:
        memory: peak of the process, in bytes.
        disk: bytes of temporary files.
        hold: None if vectors are held in memory; else they stay on disk, and a sample of them may take so many bytes.
    """

    memory: int
    disk: int
    hold: int | None

    @classmethod
    def plan(
        cls,
        held: int,
        one_site: int,
        copies: int,
        solves: Sequence[Solve],
        beside: Mapping[str, int],
        max_ram: int | None,
        other: int = 0,
    ) -> Fits:
        """Hold the vectors if they fit; else leave them on disk.

        Args:
            held: bytes before the first probe.
            one_site: bytes of a site's vectors, of which ``copies`` are held together.
            beside: what options take that want vectors in memory, by name.
            other: bytes that another step of the study takes in place of the probes.

        Raises:
            RunError: not even that fits, or an option does not.
        """
        vectors = (copies + 1) * one_site + max(s.whole for s in solves) + sum(beside.values())
        whole = held + round(MARGIN * max(vectors, other))
        if max_ram is None or whole <= max_ram:
            return cls(whole, 0, None)
        fixed = max(s.least for s in solves)
        least = held + round(MARGIN * max(fixed + max(s.sample for s in solves), other))
        name = f"--max-ram {max_ram / 1e9:.2f} GB"
        if beside:
            raise RunError(
                f"{name}: {' and '.join(beside)} hold vectors in memory and need {whole / 1e9:.2f} GB: leave them out, or "
                f"take more memory"
            )
        if least > max_ram:
            raise RunError(
                f"{name}: expected at least {least / 1e9:.2f} GB with the vectors on disk "
                f"({whole / 1e9:.2f} GB with them in memory), of which {held / 1e9:.2f} GB are held already"
            )
        disk = copies * one_site + max(s.disk for s in solves)
        return cls(max_ram, disk, int((max_ram - held - MARGIN * fixed) / (2 * MARGIN)))

    def line(self) -> str:
        """How, in words."""
        if self.hold is None:
            return f"probes in memory, up to {self.memory / 1e9:.2f} GB"
        return (
            f"probes of vectors on disk ({self.disk / 1e9:.2f} GB at a time), two passes a solve, one an iteration and one a "
            f"sample of {self.hold / 1e9:.2f} GB; in memory up to {self.memory / 1e9:.2f} GB"
        )


def sweep_bytes(subject: Subject, groups: Sequence[Chunk], parts: int) -> int:
    """What the largest batch of a sweep takes: each block's input, packed copies of the batch, and the logits that are read.

    Args:
        parts: how many are edited.
    """
    vocab = getattr(subject.config, "vocab_size", 0)
    need = Need.of(subject, {}, torch.float32).token
    most = 0
    for chunk in groups:
        positions, reads = chunk.batch.input_ids.numel(), 4 * vocab * len(chunk.reads.positions)
        copies = max(1, min(parts, pack(subject.device) // positions))
        projected = max(1, min(parts, READ_BYTES // max(reads, 1)))
        inputs = 4 * (subject.n_layers + 1) * subject.d_model * positions
        most = max(most, inputs + copies * positions * need + 3 * (projected + 1) * reads)
    return most


def as_limit(config: ProbeConfig | UsageConfig) -> int | None:
    """What ``--max-ram`` says, in bytes."""
    return None if config.max_ram is None else as_bytes(config.max_ram, "--max-ram")
