"""Edit: a new value for a site, and how it is computed and kept in the precision of the site."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .positions import EditError, Positions, Where, checked_positions


@dataclass(frozen=True)
class Edit:
    """A new value for a site: ``apply(value, where) -> value`` of the same shape.

    Args:
        name: its name in results and messages.
        apply: the function; if it returns None, it must have changed its copy in place.
        needs: earlier sites of the same forward pass whose values it reads.
        given: the argument of the function: a ``copy`` that it may change; the ``value`` itself,
            which it must not change; or the value in at least ``float32``, without autocast, for
            arithmetic that is rounded once at the end.
        asks_where: whether the function needs the positions and texts of its value; calls of single
            blocks are then read too, which costs time at every site.
        is_fresh: whether the function returns the value itself or a tensor that nothing else holds;
            any other is copied before it goes on, because models change theirs in place.
    """

    name: str
    apply: Callable[[Tensor, Where], Tensor | None]
    needs: tuple[str, ...] = ()
    given: Literal["copy", "value", "float32"] = "copy"
    asks_where: bool = True
    is_fresh: bool = False

    def __call__(self, value: Tensor, where: Where | None = None) -> Tensor:
        return self.unrounded(value, where).to(value.dtype)

    def unrounded(self, value: Tensor, where: Where | None = None) -> Tensor:
        """The edited value; in float32, where ``given`` says so, of a value in half precision."""
        where = where or Where()
        if self.given == "float32":
            wide = value.float() if value.dtype in _HALF else value
            if not _has_autocast(value.device.type):
                return _given_back(self.apply(wide, where), wide, self.name, where)
            with torch.autocast(value.device.type, enabled=False):
                return _given_back(self.apply(wide, where), wide, self.name, where)
        if self.given == "value":
            return _given_back(self.apply(value, where), value, self.name, where)
        changed = value.clone()
        new = self.apply(changed, where)
        return changed if new is None else _given_back(new, value, self.name, where)

    def at(self, positions: Positions) -> Edit:
        """The edit at selected positions only: an index, several indices, a slice, or a mask
        ``batch pos`` (a token predicate).

        Index p is token p of each text, from 0, and -1 is the last token so far. Padding, a KV
        cache and beams do not shift positions, and a future token is edited once it is generated.
        A mask refers to the rows as passed to the model. Inside attention, positions are queries.
        The edit is not computed in a forward pass without selected positions.

        Raises:
            EditError: not a position.
            PositionsUnknown: in the forward pass, if the positions of its tokens cannot be
                determined.
        """
        positions = checked_positions(positions)

        name = f"{self.name} at {shown_positions(positions)}"

        def apply(value: Tensor, where: Where) -> Tensor:
            chosen = where.choose(positions, value)
            if where.chosen is not None:
                chosen = chosen & where.chosen
            if not bool(chosen.any()):
                return value
            # ``rows pos`` against the site's axes: heads and the like stand between or behind them.
            shape = [1] * value.ndim
            shape[0], shape[where.query_axis(value)] = chosen.shape
            new = self.unrounded(value, replace(where, chosen=chosen))
            return torch.where(chosen.view(shape).to(value.device), new, value)

        # this edit changes nothing in place itself
        given = "value" if self.given == "copy" else self.given
        return replace(self, name=name, apply=apply, given=given, asks_where=True, is_fresh=True)


_HALF = (torch.float16, torch.bfloat16)


def _has_autocast(device: str) -> bool:
    return _may_autocast(device) and torch.is_autocast_enabled(device)


_may_autocast = functools.cache(torch.amp.is_autocast_available)


def _given_back(new: Any, value: Tensor, name: str, where: Where) -> Tensor:
    """What an edit made of a value, if it is a tensor of such numbers:
    whole ones may have been rounded.
    """
    if isinstance(new, Tensor) and new.dtype == value.dtype:
        return new
    if not isinstance(new, Tensor):
        kind = "None" if new is None else f"a {type(new).__name__}"
        raise EditError(f"{where.site}: expected a tensor from {name}, got {kind}")
    is_real = new.is_floating_point() or new.is_complex()
    if value.is_floating_point() and not is_real:
        raise EditError(
            f"{where.site}: expected a tensor of {value.dtype} from {name}, "
            f"got {new.dtype}: convert it with .to(value)"
        )
    return new


def shown_positions(positions: Positions | None) -> str:
    if positions is None or (isinstance(positions, slice) and positions == slice(None)):
        return "all"
    if isinstance(positions, Tensor):
        is_mask = positions.dtype == torch.bool
        return f"{int(positions.sum())} tokens" if is_mask else str(positions.tolist())
    if isinstance(positions, slice):
        return f"{positions.start or ''}:{positions.stop or ''}"
    return str(positions)
