"""How much memory a sweep takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..features.memory import Need
from ..subject import Subject
from .sweep import READ_BYTES, Chunk, pack


def sweep_bytes(subject: Subject, groups: Sequence[Chunk], parts: int) -> int:
    """What the largest batch of a sweep takes: each block's input, packed copies of the batch, and the logits that are read.

    Args:
        parts: how many are edited.
    """
    vocab = subject.vocabulary
    need = Need.of(subject, {}, torch.float32).token
    most = 0
    for chunk in groups:
        positions, reads = chunk.batch.input_ids.numel(), 4 * vocab * len(chunk.reads.positions)
        copies = max(1, min(parts, pack(subject.device) // positions))
        projected = max(1, min(parts, READ_BYTES // max(reads, 1)))
        inputs = 4 * (subject.n_layers + 1) * subject.d_model * positions
        most = max(most, inputs + copies * positions * need + 3 * (projected + 1) * reads)
    return most
