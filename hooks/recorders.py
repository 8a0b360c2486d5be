"""Hooks of transformers that keep the output of a block: they run behind ours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

_RECORDERS = "transformers.utils.output_capturing"
"""Where the hooks come from that keep a block's output for ``hidden_states``: transformers adds
them at the first forward that asks for these, and leaves them. They run behind ours, because models
such as LLaVA go on with what they have kept.
"""


def put_last(module: nn.Module, keys: Sequence[int]) -> None:
    """Let these hooks of a module run after all others, in one step for threads that run it."""
    hooks = cast("OrderedDict[int, Any]", module._forward_hooks)
    for key in keys:
        if key in hooks:
            hooks.move_to_end(key)


def recorders_of(module: nn.Module) -> tuple[list[int], list[int]]:
    """The recorders among a module's hooks; and they with all that is behind the first of them,
    which puts the hooks back into their order.
    """
    hooks = module._forward_hooks
    if not hooks:
        return [], []
    keys = [key for key, hook in hooks.items() if getattr(hook, "__module__", "") == _RECORDERS]
    order = list(hooks)
    return keys, order[order.index(keys[0]) :] if keys else []
