"""How heads come to look where they look: their entropy over the checkpoints of a training run, and
how far they move.

entropy   normalised, as in `experiments.attention.heads`; a head that stays at 1 has learned
          nothing yet
change    squared Hellinger distance 1 - sum_k sqrt(A_qk A'_qk) of a token's attention to that of
          the checkpoint before, mean over tokens; 0 where nothing moved, 1 where no weight stayed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...attention.heads import HeadTotals
from ...attention.passes import (
    PATTERN,
    layers_with_patterns,
    layers_with_sink,
    pass_over,
    runs,
    with_sink,
)
from ...report.schema import Interval, as_json, from_json
from ...runs.execute import DataFile
from ...runs.folder import RunError, RunFolder
from ...subject import Subject, load
from ...subject.batches import Batch
from ...subject.identity import hash_files
from ...subject.word_spans import Encoded
from .records import CheckpointRecord

KEPT_BYTES = 1 << 28
"""Memory for the patterns that the next checkpoint is compared with:
the batch that fills it is the last in ``change``.
"""


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The models in the subfolders of a folder, by the last number in their names.

    Raises:
        RunError: fewer than two.
    """
    checkpoints = []
    # "step-9" comes before "step-10": by number, not by name.
    for path in folder.glob("*/") if folder.is_dir() else ():
        numbers = re.findall(r"\d+", path.name)
        if numbers and (path / "config.json").exists():
            checkpoints.append((int(numbers[-1]), path))
    if len(checkpoints) < 2:
        raise RunError(
            f"--checkpoints {folder}: expected at least two folders with a model, "
            f"named by their step (such as step-100), got {len(checkpoints)}"
        )
    return sorted(checkpoints)


def checkpoint_file(path: Path) -> DataFile:
    """A checkpoint as data of the run: its weights and its configuration;
    its tokenizer is not read.
    """
    files = [*sorted(path.glob("*.safetensors")), path / "config.json"]
    return DataFile(path.name, str(path), hash_files(files), 0)


class Kept:
    """The patterns of the first texts, as roots, for the next checkpoint; and how far each head
    moved since the last.

    Args:
        before: ``roots`` of the checkpoint before; None for the first.
        sinks: of each layer, whether its softmax has a learned sink.
    """

    parts = (PATTERN,)

    def __init__(
        self, encoded: Sequence[Encoded], before: Sequence[Tensor] | None, sinks: Sequence[bool]
    ) -> None:
        self._encoded, self._before, self._sinks = encoded, before, sinks
        self.roots: list[Tensor] = []
        self._bytes = 0
        self._at = 0
        self._moved: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def begin(self, batch: Batch) -> None:
        """Batches come in the same order at every checkpoint; one is kept whole,
        so that every layer has the same texts.
        """
        self._batch, self._keeps = batch, self._bytes < KEPT_BYTES

    def end(self) -> None:
        """Nothing to do."""

    def see(self, layer: int, part: str, value: Tensor) -> None:
        """Compare one layer's batch with the checkpoint before, and keep it."""
        for run in runs(self._batch, self._encoded):
            rows = value[run.rows, :, run.queries, run.keys].float()
            root = with_sink(rows, self._sinks[layer]).clamp(min=0).sqrt()
            if self._before is not None and self._at < len(self._before):
                overlap = (root * self._before[self._at].to(root.device)).sum(-1)
                moved = (1 - overlap).sum((0, 2)).double().cpu()
                self._moved[layer] = self._moved.get(layer, torch.zeros_like(moved)) + moved
                self._tokens[layer] = self._tokens.get(layer, 0) + root.shape[0] * root.shape[2]
            if self._keeps:
                self.roots.append(root.cpu())
                self._bytes += root.nbytes
            self._at += 1

    def change(self) -> Float[np.ndarray, "layer head"] | None:
        """Mean squared Hellinger distance of every head to the checkpoint before;
        None at the first.
        """
        if self._before is None:
            return None
        layers = [self._moved[n].numpy() / max(self._tokens[n], 1) for n in sorted(self._moved)]
        return np.clip(np.stack(layers), 0, 1)


def over_checkpoints(
    subject: Subject,
    checkpoints: Sequence[tuple[int, Path]],
    encoded: Sequence[Encoded],
    groups: Int[np.ndarray, " n"],
    folder: RunFolder,
    *,
    seed: int,
    batch_tokens: int,
    advance: Callable[[], object] = lambda: None,
) -> list[CheckpointRecord]:
    """One record a checkpoint and head.

    Args:
        subject: the model of the run; the checkpoints share its tokenizer and BOS, and must have
            its layers and heads.
        folder: keeps each checkpoint's records, so that an interrupted run continues.

    Raises:
        RunError: a checkpoint of another shape.
    """
    before: list[Tensor] | None = None
    records: list[CheckpointRecord] = []
    saved = [folder.cell(f"checkpoint-{step}") for step, _ in checkpoints]
    for number, (step, path) in enumerate(checkpoints):
        # A step that is done is run again where the one after it is not: that is compared with it.
        is_needed = saved[number] is None or (number + 1 < len(saved) and saved[number + 1] is None)
        rows = saved[number]
        if is_needed:
            checkpoint = _checkpoint(subject, path)
            heads = HeadTotals(checkpoint, encoded, groups)
            patterns = Kept(encoded, before, layers_with_sink(checkpoint.model))
            pass_over(checkpoint, encoded, [heads, patterns], batch_tokens=batch_tokens)
            before = patterns.roots
            if rows is None:
                rows = as_json(_records(step, path.name, heads, patterns.change(), seed))
                folder.save_cell(f"checkpoint-{step}", rows)
        assert rows is not None  # what no cell holds has just been computed
        records += [from_json(CheckpointRecord, row, f"cell checkpoint-{step}") for row in rows]
        advance()
    return records


def _checkpoint(subject: Subject, path: Path) -> Subject:
    """A checkpoint as the run's model is: its type, device, tokenizer and BOS.

    Raises:
        RunError: its layers are not the model's.
    """
    checkpoint = load(
        path,
        dtype=subject.dtype,
        device=subject.device,
        tokenizer=subject.tokenizer,
        bos="never" if subject.bos is None else subject.bos,
        body_only=True,
    )
    layers = layers_with_patterns(subject.model)
    if layers_with_patterns(checkpoint.model) != layers:
        raise RunError(
            f"--checkpoints: expected {len(layers)} layers of attention as the model has, "
            f"{path} differs"
        )
    return checkpoint


def _records(
    step: int, name: str, heads: HeadTotals, change: np.ndarray | None, seed: int
) -> list[CheckpointRecord]:
    statistics = heads.result()
    entropy, (low, high) = statistics.value("entropy"), statistics.intervals(seed)["entropy"]
    return [
        CheckpointRecord(
            step=step,
            name=name,
            layer=layer,
            index=head,
            entropy=float(entropy[row, head]),
            entropy_interval=Interval.between(low[row, head], high[row, head]),
            change=None if change is None else float(change[row, head]),
        )
        for row, layer in enumerate(statistics.layers)
        for head in range(entropy.shape[1])
    ]
