"""Arguments of public functions are checked against the annotations of their parameters, so that a
value of a wrong type is one line and no ``TypeError`` from deep inside.

>>> @checked
... def halved(n: int, by: float | None = None) -> float: ...
>>> halved("a")
Traceback (most recent call last):
layerscope.errors.InputError: halved: n: expected a whole number, got 'a'

The check knows kinds of values (a number, a list of texts, a tensor, a model), not shapes or
ranges. An annotation that it cannot read accepts everything.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from layerscope.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

LONGEST = 80
"""Characters of a value in a message."""
FEW = 1000
"""Values of an array that are looked at one by one."""
_PLAIN = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "None",
    os.PathLike: "a path",
}
_NAMES = {
    "Module": "a torch.nn.Module",
    "Path": "a path",
    "Tensor": "a tensor",
    "dtype": "a torch.dtype",
    "ndarray": "an array",
}
_SEVERAL = {"a whole number": "whole numbers", "a number": "numbers", "text": "texts"}
_UNIONS = (types.UnionType, typing.Union)
_GROUPS = (collections.abc.Sequence, collections.abc.Iterable, list, tuple)


def checked(function: F) -> F:
    """The function, which refuses arguments that do not fit its annotations.

    Raises:
        InputError: in the call; it names the function and the argument.
    """

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        check_arguments(function, args, named)
        return function(*args, **named)

    return typing.cast(F, call)


def check_arguments(function: Callable[..., Any], args: Any, named: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first argument that does not fit its annotation.

    Of too many arguments and unknown names Python itself tells in the call.
    """
    takes = _takes(function)
    for name, value in zip(takes.by_place, args, strict=False):
        if value is not takes.defaults.get(name, _NONE):
            _check(function, name, name, value)
    if takes.others is not None and len(args) > len(takes.by_place):
        others = args[len(takes.by_place) :]
        if not _all_fit(_hints(function).get(takes.others, Any), others):
            for place, value in enumerate(others):
                _check(function, takes.others, f"{takes.others}[{place}]", value)
    for name, value in named.items():
        if value is not takes.defaults.get(name, _NONE):
            _check(function, name if name in takes.names else takes.others_named, name, value)


def check_parameters(estimator: Any) -> None:
    """The same for an estimator's parameters, which scikit-learn lets be anything until ``fit``.

    Raises:
        InputError: naming the estimator and the parameter.
    """
    for name, value in estimator.get_params(deep=False).items():
        _check(type(estimator).__init__, name, name, value)


def _check(function: Callable[..., Any], name: str, label: str, value: Any) -> None:
    hint = _hints(function).get(name, Any)
    if not _fits(hint, value):
        owner = function.__qualname__.removesuffix(".__init__")
        raise InputError(f"{owner}: {label}: expected {_words(hint)}, got {shown(value)}")


class _Takes(typing.NamedTuple):
    """The parameters of a function: by place, all names, ``*others`` and ``**others_named``."""

    by_place: tuple[str, ...]
    names: frozenset[str]
    others: str | None
    others_named: str
    defaults: dict[str, Any]


_NONE = object()


@functools.cache
def _takes(function: Callable[..., Any]) -> _Takes:
    parameters = inspect.signature(function).parameters
    of_kind: dict[Any, list[str]] = {kind: [] for kind in inspect._ParameterKind}
    for name, parameter in parameters.items():
        of_kind[parameter.kind].append(name)
    by_place = of_kind[inspect.Parameter.POSITIONAL_ONLY]
    by_place += of_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return _Takes(
        tuple(by_place),
        frozenset(by_place + of_kind[inspect.Parameter.KEYWORD_ONLY]),
        next(iter(of_kind[inspect.Parameter.VAR_POSITIONAL]), None),
        next(iter(of_kind[inspect.Parameter.VAR_KEYWORD]), ""),
        {name: parameter.default for name, parameter in parameters.items()},
    )


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters; of those whose annotation can be read outside a type checker."""
    plain = inspect.unwrap(function)
    hints = {}
    for name, annotation in plain.__annotations__.items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        # One by one: some name types that only a type checker can read.
        with contextlib.suppress(NameError, TypeError):
            hints |= typing.get_type_hints(alone, plain.__globals__)
    return hints


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a single type is its only one."""
    return typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)


@functools.lru_cache(maxsize=4096)
def _fits_all_of(hint: Any, kind: type) -> bool:
    """Whether every value of a class fits, so that none is looked at."""
    parts = _parts(hint)
    if any(map(_is_device, parts)):
        return False
    for part in parts:
        if type(part) is type and (kind is part or (part not in _PLAIN and issubclass(kind, part))):
            return True
    return False


def _fits(hint: Any, value: Any) -> bool:
    if _fits_all_of(hint, type(value)):
        return True
    parts = _parts(hint)
    if isinstance(value, str) and any(map(_is_device, parts)):
        return exists(value)
    return any(_fits_one(part, value) for part in parts)


def _is_device(hint: Any) -> bool:
    return getattr(hint, "__module__", "") == "torch" and hint.__name__ == "device"


def exists(device: Any) -> bool:
    """Whether this machine has such a device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # no such name; a name without its hardware
        return False
    return True


def _fits_one(hint: Any, value: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return isinstance(value, Mapping) and all(_all_fit(*pair) for pair in _pairs(inner, value))
    if origin is tuple and ... not in inner:
        is_as_long = isinstance(value, (tuple, list)) and len(value) == len(inner)
        return is_as_long and all(map(_fits, inner, value))
    if origin in _GROUPS:
        return _is_group(value) and _all_fit(inner[0] if inner else Any, value)
    if origin is not None:
        hint = origin
    if hint is None or hint is type(None):
        return value is None
    if hint is Any or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return hint is not collections.abc.Callable or callable(value)
    if hint is collections.abc.Callable:
        return callable(value)
    return _is_of(hint, value)


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value is of a class, as Python's and numpy's numbers are of the built-in ones."""
    is_truth = isinstance(value, bool) or type(value).__name__ == "bool"  # numpy's own
    if kind is bool:
        return is_truth
    if kind in (int, float):
        return not is_truth and _is_number(kind, value)
    array = getattr(kind, "array_type", kind)  # of an annotation with a shape
    if array is Any or not isinstance(array, type):
        return True
    if array.__name__ == "ndarray":  # whatever numpy makes an array of
        return hasattr(value, "__array__") or isinstance(value, (list, tuple))
    return isinstance(value, array)


def _is_number(kind: type, value: Any) -> bool:
    if isinstance(value, (str, bytes)):
        return False
    try:
        operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def _is_group(value: Any) -> bool:
    is_text = isinstance(value, (str, bytes, Mapping))
    return not is_text and (hasattr(value, "__iter__") or hasattr(value, "__getitem__"))


def _pairs(inner: tuple[Any, ...], value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(inner[0], list(value)), (inner[1], list(value.values()))] if inner else []


def _all_fit(hint: Any, values: Any) -> bool:
    """Whether all of them fit; those of long arrays and of iterators are not looked at."""
    is_short_array = hasattr(values, "ndim") and values.ndim == 1 and len(values) <= FEW
    if is_short_array:
        values = values.tolist()
    if hint is Any or not isinstance(values, (list, tuple)):
        return True
    if all(_fits_all_of(hint, kind) for kind in {*map(type, values)}):
        return True
    return all(_fits(hint, value) for value in values)


# -- messages


def _words(hint: Any) -> str:
    """What a type takes, in English."""
    parts = _parts(hint)
    if any(map(_is_device, parts)):
        return "a device of this machine, such as 'cpu'"
    words = list(dict.fromkeys(map(_words_of, parts)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _words_of(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple and ... not in inner:
        return f"a tuple of {len(inner)}"
    if origin in _GROUPS:
        names = [_SEVERAL.get(_words_of(part)) for part in _parts(inner[0])] if inner else [None]
        return "a list" if None in names else f"a list of {' or '.join(map(str, names))}"
    kind = origin or hint
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is None:
        return "None"
    if kind is collections.abc.Callable:
        return "a function"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a dict"
    name = getattr(getattr(kind, "array_type", kind), "__name__", str(kind))
    return _NAMES.get(name) or _with_article(name)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def shown(value: Any) -> str:
    """A value in a message: plain ones as they are, others by their class; on one line."""
    if isinstance(value, (list, tuple)):
        parts = ", ".join(map(shown, value[:FEW]))
        text = f"[{parts}]" if isinstance(value, list) else f"({parts})"
    elif isinstance(value, (str, int, float, complex, type(None))):
        text = " ".join(repr(value).split())
    else:
        name = type(value).__name__
        text = _NAMES.get(name) or _with_article(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
