"""How much memory a sweep takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..features.memory import Need
from ..subject import Subject
from .sweep import READ_BYTES, Chunk, pack

FLOAT = 4
"""Bytes of a number."""


def sweep_bytes(
    subject: Subject, groups: Sequence[Chunk], parts: int, of_targets: bool = False
) -> int:
    """What the largest batch of a sweep takes: each block's input, packed copies of the batch, and
    the logits that are read.

    Args:
        parts: how many are edited.
        of_targets: only the logits of the reads' target tokens are made of the copies.
    """
    need = Need.of(subject, {}, torch.float32).token
    most = 0
    for chunk in groups:
        positions, n_read = chunk.batch.n_positions, len(chunk.reads.positions)
        tokens = len(chunk.reads.places[:, 2].unique()) if of_targets else subject.vocabulary
        inputs = FLOAT * (subject.n_layers + 1) * subject.d_model * positions
        clean = FLOAT * n_read * subject.vocabulary
        n_copies = max(1, min(parts, pack(subject.device) // positions))
        copies = n_copies * positions * need
        # States and logits that are read of one copy.
        read = FLOAT * n_read * (subject.d_model + tokens)
        n_projected = max(1, min(parts, READ_BYTES // max(read, 1)))
        projected = 3 * (n_projected + 1) * read
        most = max(most, inputs + clean + copies + projected)
    return most
