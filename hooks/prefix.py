"""A forward that starts within the text: recorded keys and values of what stands before,
and what else is given by position.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError


class Prefix:
    """What a block takes for its KV cache:
    keys and values of the recorded positions before ``start``; or a recorder.
    """

    def __init__(
        self, keys_and_values: tuple[Tensor, Tensor] | None = None, start: int = 0, copies: int = 1
    ) -> None:
        self._keys_and_values, self._start, self._copies = keys_and_values, start, copies

    @property
    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        if self._keys_and_values is None:
            raise InputError("expected a block that updates its cache")
        return self._keys_and_values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions."""
        if self._keys_and_values is None:
            self._keys_and_values = keys, values
            return keys, values
        all_keys, all_values = self._keys_and_values
        earlier_keys = all_keys[:, :, : self._start].repeat(self._copies, 1, 1, 1)
        earlier_values = all_values[:, :, : self._start].repeat(self._copies, 1, 1, 1)
        return torch.cat([earlier_keys, keys], dim=2), torch.cat([earlier_values, values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """Positions that are held."""
        return self._start


def is_cache(value: Any) -> bool:
    """Whether this is a model's own cache of keys and values,
    which every call of a block would append to.
    """
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


def is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def late(value: Any, start: int, length: int) -> Any:
    """What is given by position, from ``start`` on: masks by query, rotary tables, position ids."""
    if isinstance(value, tuple | list):
        return type(value)(late(part, start, length) for part in value)
    if not isinstance(value, Tensor):
        return value
    # Told apart by shape alone: what has no axis of this length is no matter of position.
    is_mask = value.ndim == 4 and value.shape[-2:] == (length, length)
    is_rotary = value.ndim == 3 and value.shape[1] == length
    is_ids = value.ndim in (1, 2) and value.shape[-1] == length
    if is_mask:
        return value[:, :, start:]
    if is_rotary:
        return value[:, start:]
    return value[..., start:] if is_ids else value


def causal_mask(residual: Tensor, start: int, length: int) -> Float[Tensor, "1 1 query key"]:
    """0 where a query may look, the type's lowest number elsewhere."""
    query, key = torch.arange(start, length)[:, None], torch.arange(length)[None, :]
    mask = torch.zeros(1, 1, length - start, length, dtype=residual.dtype, device=residual.device)
    return mask.masked_fill((key > query).to(residual.device), torch.finfo(residual.dtype).min)
