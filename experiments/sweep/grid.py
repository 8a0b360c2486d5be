"""The whole grid of a sweep: every part edited in turn on every prompt, saved block by block, so
that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from ...hooks.edits import Edit
from ..metrics.metrics import Metric
from ..runs import console
from ..runs.engine import Engine
from ..runs.folder import RunFolder
from ..subject import Subject
from .components import Component, edit_at
from .sweep import Chunk, Sweep, pack

EditsFor: TypeAlias = "Callable[[int], Callable[[Component], Edit]]"
"""From the number of a group of prompts to the edit of each part there."""
BLOCK_PACKS = 4
"""Packed batches that make a block worth being saved by itself;
fewer would not be joined by those of later layers.
"""
_LAST: dict[str, Any] = {}
"""The clean forward of the group whose blocks are run one after the other."""


@dataclass(frozen=True)
class Grid:
    """Every component edited in turn on every prompt.

    Args:
        name: what the saved cells and the progress bar are called.
        groups: the prompts.
        edits_for: from the number of a group to the edit of each component's whole site there.
    """

    name: str
    subject: Subject
    metric: Metric
    groups: Sequence[Chunk]
    parts: Sequence[Component]
    edits_for: EditsFor

    @property
    def n_prompts(self) -> int:
        """How many prompts there are."""
        return sum(len(chunk.prompts) for chunk in self.groups)

    def of(self, chosen: Sequence[int]) -> Grid:
        """Some of the components."""
        return replace(self, parts=[self.parts[i] for i in chosen])


class Swept(NamedTuple):
    """What a sweep measured: effects, the metric without edits,
    and which edits changed an activation.
    """

    effects: Float[np.ndarray, "components prompts"]
    clean: Float[np.ndarray, " prompts"]
    changed: Bool[np.ndarray, " components"]


def sweep_all(
    folder: RunFolder, grid: Grid, engine: Engine
) -> tuple[Float[np.ndarray, "components prompts"], Float[np.ndarray, " prompts"]]:
    """The effects, and the metric without edits, of `sweep_grid`."""
    swept = sweep_grid(folder, grid, engine)
    return swept.effects, swept.clean


def sweep_grid(folder: RunFolder, grid: Grid, engine: Engine) -> Swept:
    """Every component edited in turn on every prompt;
    blocks of components whose effects are saved are not run.
    """
    n_parts = len(grid.parts)
    blocks = []
    for number in range(len(grid.groups)):
        blocks += [Block(number, parts) for parts in _cuts(grid, number)]
    cells: dict[str, Any] = {}
    for block in blocks:
        name = block.cell(grid)
        cells[name] = folder.cell(name)
    missing = [block for block in blocks if cells[block.cell(grid)] is None]
    with console.progress() as bars:
        done = sum(len(block.parts) for block in blocks if block not in missing)
        bar = bars.add_task(grid.name, total=len(grid.groups) * n_parts, completed=done)
        work = partial(_of_block, grid)
        for block, saved in engine.map(work, missing, lambda steps: bars.advance(bar, steps)):
            folder.save_cell(block.cell(grid), saved)
            cells[block.cell(grid)] = saved
    _LAST.clear()
    effects, clean = np.empty((n_parts, grid.n_prompts)), np.empty(grid.n_prompts)
    changed = np.zeros(n_parts, dtype=bool)
    for block in blocks:
        saved = cells[block.cell(grid)]
        prompts = grid.groups[block.group].prompts
        clean[prompts] = saved["clean"]
        effects[np.ix_(block.parts, prompts)] = saved["effects"]
        changed[list(block.parts)] |= np.array(saved["changed"])
    return Swept(effects, clean, changed)


@dataclass(frozen=True)
class Block:
    """Components of neighbouring layers on one group of prompts:
    what an interrupted sweep loses at most.
    """

    group: int
    parts: tuple[int, ...]

    def cell(self, grid: Grid) -> str:
        """Its name in the run's folder."""
        return f"{grid.name}-{self.group}-{self.parts[0]}"


def _cuts(grid: Grid, number: int) -> Iterator[tuple[int, ...]]:
    """The components of a group in blocks of whole layers,
    each with some packed batches of work.
    """
    enough = BLOCK_PACKS * pack(grid.subject.device) // grid.groups[number].batch.n_positions
    by_layer: dict[int, list[int]] = {}
    for i, part in enumerate(grid.parts):
        by_layer.setdefault(part.layer, []).append(i)
    block: list[int] = []
    for layer in sorted(by_layer):
        block += by_layer[layer]
        if len(block) >= enough:
            yield tuple(block)
            block = []
    if block:
        yield tuple(block)


def _clean_forward(grid: Grid, number: int) -> Sweep:
    chunk = grid.groups[number]
    if _LAST.get("chunk") is not chunk or _LAST.get("metric") is not grid.metric:
        _LAST.update(chunk=chunk, metric=grid.metric, sweep=Sweep(grid.subject, grid.metric, chunk))
    return _LAST["sweep"]


def _of_block(grid: Grid, block: Block, advance: Callable[[int], object]) -> dict[str, Any]:
    """The components of a block edited in turn on its group of prompts."""
    sweep, edit_of = _clean_forward(grid, block.group), grid.edits_for(block.group)
    parts = [grid.parts[i] for i in block.parts]
    effects = sweep.effects([(part, edit_at(part, edit_of(part))) for part in parts], advance)
    return {
        "clean": sweep.clean.tolist(),
        "effects": effects.tolist(),
        "changed": sweep.changed.tolist(),
    }
