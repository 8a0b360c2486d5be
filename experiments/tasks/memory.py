"""How much memory and disk a study's probes take, and whether their vectors are held or left on
disk.

They hold one site's vectors and what a joint solve makes of it, or, where that is too much, leave
both on disk (`probes.rows.OnDisk`) and hold blocks, coefficients, labels, and a sample of the rows
as large as the memory allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...probes.design import CPU_BLOCK
from ...probes.lbfgs import MEMORY
from ...probes.rows import block_of
from ...probes.solver import MAX_COLUMNS
from ..features.memory import MARGIN
from ..report.words import size
from ..runs.folder import RunError
from .task import Task, solved_together


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
        solves = []
        for group in solved_together(tasks):
            parts = group[0].parts
            # An arc or a pair has two vectors side by side.
            wide = width * group[0].beside
            classes = sum(
                len(set(t.parts["train"].labels)) for t in group if t.property.kind == "class"
            )
            columns = min(max(classes, 1) * (1 + controls), MAX_COLUMNS)
            rows, others = len(parts["train"]), len(parts["dev"]) + len(parts["test"])
            solves.append(cls(rows, others, wide, len(group) * (1 + controls), columns))
        return solves

    @property
    def labels(self) -> int:
        """Labels, weights of the rows, and predictions of those that are scored,
        wherever the vectors are.
        """
        return self.rows * (32 * self.targets + 96) + self.others * (
            24 * self.columns + 32 * self.targets
        )

    @property
    def whole(self) -> int:
        """With the vectors in memory, which are copied, turned and rounded; logits, and for the
        curvature probabilities twice.
        """
        return self.labels + 4 * (
            self.rows * (4 * self.width + 4 * self.columns) + 3 * self.others * self.width
        )

    @property
    def least(self) -> int:
        """With the vectors on disk: blocks, coefficients and what L-BFGS keeps of them,
        the Gram matrix and its eigenvectors.
        """
        block = block_of(4 * self.width)
        on_cpu = min(block, CPU_BLOCK)
        blocks = 16 * block * self.width + 16 * on_cpu * (2 * self.width + 4 * self.columns)
        coefficients = self.width * self.columns
        copies = 4 * (2 * MEMORY + 20) * coefficients
        gram = 48 * self.width**2
        return self.labels + blocks + copies + gram

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
        hold: None if vectors are held in memory; else they stay on disk, and a sample of them may
            take so many bytes.
    """

    memory: int
    disk: int
    hold: int | None

    @classmethod
    def plan(
        cls,
        resident: int,
        one_site: int,
        copies: int,
        solves: Sequence[Solve],
        beside: Mapping[str, int],
        max_ram: int | None,
        other: int = 0,
    ) -> Fits:
        """Hold the vectors if they fit; else leave them on disk.

        Args:
            resident: bytes before the first probe.
            one_site: bytes of a site's vectors, of which ``copies`` are held together.
            beside: what options take that want vectors in memory, by name.
            other: bytes that another step of the study takes in place of the probes.

        Raises:
            RunError: not even that fits, or an option does not.
        """
        # One site is read while the one before it is solved.
        vectors = (copies + 1) * one_site + max(s.whole for s in solves) + sum(beside.values())
        whole = resident + round(MARGIN * max(vectors, other))
        if max_ram is None or whole <= max_ram:
            return cls(whole, 0, None)
        fixed = max(s.least for s in solves)
        sampled = fixed + max(s.sample for s in solves)
        least = resident + round(MARGIN * max(sampled, other))
        name = f"--max-ram {size(max_ram)}"
        if beside:
            raise RunError(
                f"{name}: {' and '.join(beside)} hold vectors in memory and need "
                f"{size(whole)}: leave them out, or take more memory"
            )
        if least > max_ram:
            raise RunError(
                f"{name}: expected at least {size(least)} with the vectors on disk "
                f"({size(whole)} with them in memory), of which {size(resident)} are already in use"
            )
        disk = copies * one_site + max(s.disk for s in solves)
        # Half of what is left goes to the sample; the other half is for what is made of it.
        sample_limit = (max_ram - resident - MARGIN * fixed) / (2 * MARGIN)
        return cls(max_ram, disk, int(sample_limit))

    def line(self) -> str:
        """How, in words."""
        if self.hold is None:
            return f"probes in memory, up to {size(self.memory)}"
        return (
            f"probes of vectors on disk ({size(self.disk)} at a time), two passes a solve, "
            f"one an iteration and one a sample of {size(self.hold)}; "
            f"in memory up to {size(self.memory)}"
        )
