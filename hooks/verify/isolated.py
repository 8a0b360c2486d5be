"""Edits in copies of one text, each of which stays in its own block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture import capture
from ..edits import function
from ..intervene import intervene
from ..sites import SiteLike
from .exam import Exam, quiet


def isolated(
    exam: Exam,
    changes: Mapping[str, Mapping[int, Callable[[Tensor], Tensor]]],
    rows: int,
    read: Sequence[str],
) -> dict[str, Tensor]:
    """Copies of the first text in one forward, in which every block is entered with the clean
    stream again.

    What a change does therefore stays in its own block: all blocks are examined at once.

    Args:
        changes: site -> row -> function of that row's tensor.
        rows: how many copies; a row without changes is the clean one.
        read: the sites to return.
    """
    edits: dict[SiteLike, Any] = {name: function(_by_row(made)) for name, made in changes.items()}
    for layer in range(exam.n_layers):
        name = f"blocks.{layer}.hook_resid_pre"
        clean = exam.acts[name][:1]
        edits[name] = function(_reset(clean, changes.get(name, {})))
    acts: Any = {}
    with torch.no_grad(), quiet(), intervene(exam.model, edits):
        with capture(exam.model, *read, clone=True, stop=True) as acts:  # the head is not needed
            exam.run(exam.item(0, rows))
    return dict(acts)


def _by_row(made: Mapping[int, Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def apply(value: Tensor) -> Tensor:
        out = value.clone()
        for row, change in made.items():
            out[row] = change(value[row])
        return out

    return apply


def _reset(
    clean: Tensor, made: Mapping[int, Callable[[Tensor], Tensor]]
) -> Callable[[Tensor], Tensor]:
    change = _by_row(made)
    return lambda value: change(clean.to(value).expand_as(value))
