"""Tensors within `torch.func`: wrappers without memory of their own,
which end with the transform.
"""

from __future__ import annotations

import torch
from torch import Tensor

_functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def is_wrapped(value: Tensor) -> bool:
    """Whether a tensor stands for another one: within `torch.func.grad`, ``vmap``,
    ``jvp`` and what is built on them.
    """
    return _functorch.is_functorch_wrapped_tensor(value)


def unwrapped(value: Tensor) -> Tensor:
    """The tensor itself, which outlives the transform;
    the axis that ``vmap`` maps over comes first.
    """
    while is_wrapped(value):
        axis = _functorch.maybe_get_bdim(value) if _functorch.is_batchedtensor(value) else None
        value = _functorch.get_unwrapped(value)
        value = value if axis is None else value.movedim(axis, 0)
    return value


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are views of one memory, within a transform too."""
    while is_wrapped(a):
        a = _functorch.get_unwrapped(a)
    while is_wrapped(b):
        b = _functorch.get_unwrapped(b)
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def copy_for(value: Tensor, new: Tensor) -> Tensor:
    """A copy of ``value`` that parts of ``new`` may be written into,
    also where ``vmap`` maps over ``new`` alone.
    """
    if not is_wrapped(new):
        return value.clone()
    return torch.where(new.new_ones((), dtype=torch.bool), value, value)
