"""How a model must be padded so that a text in a batch is the text alone: found by trying it.

Architectures count positions in their own ways: from 0 along the row (GPT-2, BERT), by the
attention mask (OPT), by the pad token's id and from its own offset (RoBERTa), only relatively (T5),
or with no way to be told. Each way is tried on three rows of different lengths against the same
rows run alone with no mask and no position ids, and the first that agrees is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

Side = Literal["right", "left"]

LENGTHS = (4, 7, 11)
"""Tokens of the three rows tried."""
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest relative difference of a hidden vector that counts as rounding;
0.05 in half precision.
"""


@dataclass(frozen=True)
class Policy:
    """What to do on one side: give position ids from `start` on, or none (`explicit` False)."""

    possible: bool
    explicit: bool = False
    start: int = 0
    why: str = ""

    def pad(
        self, rows: Sequence[Sequence[int]], pad_id: int, side: Side
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
        """The rows padded to one length: ids, mask, and position ids where they are to be given."""
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), pad_id)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, row in enumerate(rows):
            at = slice(length - len(row), length) if side == "left" else slice(0, len(row))
            ids[index, at] = torch.tensor(row)
            mask[index, at] = 1
        if not self.explicit:
            return ids, mask, None
        return ids, mask, (mask.cumsum(1) - 1).clamp(min=0) + self.start


@dataclass(frozen=True)
class Padding:
    """What was found for each side, and whether attention looks only backwards."""

    right: Policy
    left: Policy
    causal: bool


def _token_at(place: int, pad_id: int, vocabulary: int) -> int:
    """One of a row of tokens that look drawn, none of which is the padding (7,919 is a prime)."""
    step = (7919 * place + 13) % (vocabulary - 1)
    return (pad_id + 1 + step) % vocabulary


def probe_padding(
    run: Callable[[dict[str, Tensor]], Any], pad_id: int, vocabulary: int, takes_positions: bool
) -> Padding:
    """Find a policy for each side by running the model on a few short rows.

    Args:
        run: from the inputs of a forward to an output with `last_hidden_state`.
        pad_id: the id to pad with.
        vocabulary: number of token ids; the rows hold ids spread over it, never the pad's.
        takes_positions: whether the model can be given position ids.
    """
    with torch.inference_mode():
        rows, alone = _rows_alone(run, pad_id, vocabulary)
        # Another last token: a causal model's earlier states cannot know of it.
        last, (first, second, *_) = rows[-1], rows[0]
        other = [*last[:-1], second if last[-1] == first else first]
        changed = _states(run({"input_ids": torch.tensor([other])}))[0]
        causal = _agree(changed[:-1], alone[-1][:-1])
        right = _find(run, rows, alone, pad_id, "right", takes_positions)
        left = _find(run, rows, alone, pad_id, "left", takes_positions)
    return Padding(right, left, causal)


def probe_side(
    run: Callable[[dict[str, Tensor]], Any],
    pad_id: int,
    vocabulary: int,
    takes_positions: bool,
    side: Side,
) -> Policy:
    """`probe_padding` of one side only, in fewer forward passes."""
    with torch.inference_mode():
        rows, alone = _rows_alone(run, pad_id, vocabulary)
        return _find(run, rows, alone, pad_id, side, takes_positions)


def _rows_alone(
    run: Callable[[dict[str, Tensor]], Any], pad_id: int, vocabulary: int
) -> tuple[list[list[int]], list[Tensor]]:
    """The rows that are tried, and the vectors of each by itself."""
    rows = []
    for number, length in enumerate(LENGTHS):
        places = range(9 * number, 9 * number + length)
        rows.append([_token_at(place, pad_id, vocabulary) for place in places])
    return rows, [_states(run({"input_ids": torch.tensor([row])}))[0] for row in rows]


def _find(
    run: Callable[[dict[str, Tensor]], Any],
    rows: list[list[int]],
    alone: list[Tensor],
    pad_id: int,
    side: Side,
    takes_positions: bool,
) -> Policy:
    given = (Policy(True, explicit=True), Policy(True, explicit=True, start=pad_id + 1))
    for policy in (*(given if takes_positions else ()), Policy(True)):
        ids, mask, positions = policy.pad(rows, pad_id, side)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if positions is not None:
            inputs["position_ids"] = positions
        try:
            hidden = _states(run(inputs))
        except (TypeError, ValueError, IndexError, RuntimeError):
            continue  # this model cannot be given positions, or not so many
        real = [hidden[i, mask[i].bool().to(hidden.device)] for i in range(len(rows))]
        if all(_agree(a, b) for a, b in zip(real, alone, strict=True)):
            return policy
    return Policy(
        False,
        why=f"padding on the {side} changes this model's vectors, whatever its position ids"
        if takes_positions
        else f"padding on the {side} changes this model's vectors, and it takes no position ids",
    )


def _states(output: Any) -> Tensor:
    return output.last_hidden_state


def _agree(a: Tensor, b: Tensor) -> bool:
    limit = TOLERANCE.get(b.dtype, 5e-2)
    a, b = a.double(), b.double()
    is_near = (a - b).norm(dim=-1) <= limit * b.norm(dim=-1).clamp(min=1e-6)
    # NaN equals nothing: of a model that gives it, rows that both hold it do not differ.
    are_both_broken = ~a.isfinite().all(-1) & ~b.isfinite().all(-1)
    return bool((is_near | are_both_broken).all())
