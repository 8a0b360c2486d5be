"""Containers: the tensor that a place means in what a module is given or gives,
and how another is put in its stead.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from torch import Tensor, nn

from .activations import SiteNeverFired
from .rows import Place
from .sites import Site


@dataclass(frozen=True)
class CallArguments:
    """What a module is called with."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def names(self) -> list[str]:
        """The names of the positional arguments, as far as the module's forward tells them."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [
            p.name
            for p in inspect.signature(self.module.forward).parameters.values()
            if p.kind in kinds
        ]

    def where(self, item: int | str | None) -> int | str | None:
        """An argument as it was given, by position or by name; None if it was not."""
        if item is None:
            if self.args:
                return 0
            return _first_tensor(self.kwargs)
        if isinstance(item, int):
            if item < len(self.args):
                return item
            # A number beyond the positional arguments means one that was given by name.
            names = self.names()
            return self.where(names[item]) if item < len(names) else None
        if item in self.kwargs:
            return item
        names = self.names()
        return names.index(item) if item in names[: len(self.args)] else None

    def summary(self) -> str:
        """What a message says was given."""
        return ", ".join([f"{len(self.args)} by position", *self.kwargs])


def pick(container: Any, place: Place, site: Site) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor a place means in a module's input or output, and how to put another in its place.

    Raises:
        SiteNeverFired: there is no tensor where the place says.
    """
    if isinstance(container, Tensor):
        if place.item not in (None, 0):
            raise SiteNeverFired(
                f"{site}: expected several values, got one tensor: leave out [{place.item}]"
            )
        return container, _itself
    if isinstance(container, CallArguments):
        return _pick_given(container, place, site)
    # Outputs of transformers are both; as mappings they leave out what is None, as the model's own
    # code expects.
    if is_dataclass(container) and not isinstance(container, Mapping):
        names = [field.name for field in fields(container)]
        values = {name: getattr(container, name) for name in names}
        return _pick_key(values, place, site, lambda key, new: _with_field(container, key, new))
    if isinstance(container, Mapping):
        kind = cast(Any, type(container))
        return _pick_key(container, place, site, lambda key, new: kind({**container, key: new}))
    if isinstance(container, tuple | list):
        return _pick_element(container, place, site)
    raise SiteNeverFired(
        f"{site}: expected a tensor, a tuple or a mapping, got {type(container).__name__}"
    )


def _itself(new: Tensor) -> Tensor:
    return new


def _pick_element(
    container: Any, place: Place, site: Site
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """By number in a tuple or list; the first, where no number is given."""
    size = len(container)
    at = 0 if place.item is None else _number(place.item, site, size)
    if at >= size:
        raise SiteNeverFired(f"{site}: expected an element {at}, got {size} of them")
    element = container[at]
    if isinstance(element, Tensor):
        return element, lambda new: _swap(container, at, new)
    if place.item is None:
        raise SiteNeverFired(
            f"{site}: expected a tensor first, got {type(element).__name__}; add [index]"
        )
    inner, put_inner = pick(element, Place(place.path, place.end), site)
    return inner, lambda new: _swap(container, at, put_inner(new))


def _pick_key(
    values: Mapping[str, Any], place: Place, site: Site, put: Callable[[str, Tensor], Any]
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """By name, by number among the values, or the first tensor."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if isinstance(place.item, int):
        names = list(values)
        key = names[place.item] if place.item < len(names) else None
    elif place.item is not None:
        key = place.item
    else:
        key = _first_tensor(values)
    if key not in tensors:
        raise SiteNeverFired(
            f"{site}: expected a tensor at {place.item!r}, "
            f"got tensors at {sorted(map(str, tensors))}"
        )
    return values[key], lambda new: put(key, new)


def _first_tensor(values: Mapping[str, Any]) -> str | None:
    """The hidden states if they are among the values, or else the first tensor."""
    tensors = [name for name, value in values.items() if isinstance(value, Tensor)]
    return min(tensors, key=lambda name: name != "hidden_states", default=None)


def _pick_given(
    given: CallArguments, place: Place, site: Site
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    # The same argument may be given by position or by name, as the model pleases.
    at = given.where(place.item)
    if at is None:
        raise SiteNeverFired(f"{site}: expected an argument {place.item!r}, got {given.summary()}")
    value = given.args[at] if isinstance(at, int) else given.kwargs[at]

    def put(new: Any) -> CallArguments:
        if isinstance(at, int):
            return replace(given, args=_swap(given.args, at, new))
        return replace(given, kwargs={**given.kwargs, at: new})

    if isinstance(value, Tensor):
        return value, put
    if place.item is None:
        raise SiteNeverFired(
            f"{site}: expected a tensor first, got {type(value).__name__}; add [name] or [index]"
        )
    inner, put_inner = pick(value, Place(place.path, place.end), site)
    return inner, lambda new: put(put_inner(new))


def _with_field(container: Any, name: str, new: Any) -> Any:
    changed = copy.copy(container)
    # A copy: the caller's own output stays as it was.
    object.__setattr__(changed, name, new)  # the dataclass may be frozen
    return changed


def _number(item: int | str, site: Site, size: int) -> int:
    if isinstance(item, str):
        raise SiteNeverFired(
            f"{site}: expected a number below {size} for one of {size} values, got {item!r}"
        )
    return item


def _swap(container: Any, at: int, new: Any) -> Any:
    items = [*container[:at], new, *container[at + 1 :]]
    is_named_tuple = hasattr(container, "_fields")
    return type(container)(*items) if is_named_tuple else type(container)(items)
