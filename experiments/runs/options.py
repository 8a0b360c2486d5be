"""From a frozen dataclass to a command line, a TOML file, a call in Python, and back: one reading
for all of them.

A field's type, default and metadata (`option`) say what it takes; nothing is written a second time
elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import json
import math
import os
import shlex
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, TypeVar

from layerscope.arguments import shown
from layerscope.errors import LayerscopeError

C = TypeVar("C")
COMMAND = "command"
"""The key of a TOML file that says which command its options are of."""
LARGEST = 2**63 - 1
"""Of any number."""


class OptionError(LayerscopeError, ValueError):
    """An option that is missing, unknown or has a value it does not take;
    the message is one line.
    """


def option(
    text: str,
    default: Any = MISSING,
    *,
    decides: bool = True,
    in_memory: bool = False,
    **rules: Any,
) -> Any:
    """A field with its help text; without a default it is required.

    Args:
        decides: whether it can change a number: a run that differs in such an option is another
            run.
        in_memory: whether a call in Python may also give an object.
        more: ``choices``, ``metavar``, ``least`` (of a number; 0 where it is not given), ``above``
            (what it must exceed), ``most``, ``aliases`` (names that it had in an earlier version:
            they are taken, and shown nowhere), ``hidden`` (the whole option is of an earlier
            version), ``unless`` (names of options: it must be given where none of them is).
    """
    metadata = {"help": text, "decides": decides, "in_memory": in_memory, **rules}
    return (
        field(metadata=metadata)
        if default is MISSING
        else field(default=default, metadata=metadata)
    )


def command_of(options: type) -> str:
    """The command that a dataclass of options is of: the folder in which its module lies."""
    return options.__module__.split(".")[-2]


# -- the command line


def add_options(parser: argparse._ActionsContainer, config: type) -> None:
    """Give a parser one option for each field, in a group for each class that the configuration
    inherits from.

    What is not given is None, so that `from_values` can tell it from a value that a file gave.
    """
    hints = typing.get_type_hints(config)
    items = {item.name: item for item in dataclasses.fields(config)}
    for owner in config.__mro__[:-1]:
        group = parser
        if owner is not config:
            group = parser.add_argument_group((owner.__doc__ or "").rstrip("."))
        for name in inspect.get_annotations(owner):
            if name in items:  # not yet given by a class that overrides it
                _add_option(group, items.pop(name), *_kind(hints[name]))


def _add_option(
    group: argparse._ActionsContainer, item: dataclasses.Field[Any], kind: Any, several: bool
) -> None:
    for alias in item.metadata.get("aliases", ()):
        as_given: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        if several:
            as_given["action"] = "append"
        group.add_argument(
            flag(alias), dest=item.name, default=None, help=argparse.SUPPRESS, **as_given
        )
    is_hidden = item.metadata.get("hidden", False)
    text = item.metadata["help"]
    if kind is bool:
        text = argparse.SUPPRESS if is_hidden else text
        group.add_argument(flag(item.name), action="store_true", default=None, help=text)
        return
    extra: dict[str, Any] = {}
    if "choices" in item.metadata:
        extra["choices"] = item.metadata["choices"]
    else:
        extra["metavar"] = _placeholder(item, kind)
    if item.default is MISSING:
        text = _with_remark(text, "required")
    elif item.default not in (None, (), "") and "default: " not in text:
        default = shlex.join(map(str, item.default)) if several else item.default
        text = _with_remark(text, f"default: {default}")
    action = "append" if several else "store"
    text = argparse.SUPPRESS if is_hidden else text
    group.add_argument(flag(item.name), type=kind, action=action, help=text, **extra)


def _placeholder(item: dataclasses.Field[Any], kind: Any) -> str:
    """What stands for an option's value in its help: N for a whole number, else its name."""
    return item.metadata.get("metavar") or ("N" if kind is int else item.name.upper())


def _with_remark(text: str, remark: str) -> str:
    """A help text with a remark at its end, in the parentheses that are there already."""
    if text.endswith(")"):
        return f"{text[:-1]}; {remark})"
    return f"{text} ({remark})"


def required_of(config: type) -> list[str]:
    """The options that must be given, as a usage line shows them."""
    hints = typing.get_type_hints(config)
    needed = []
    for item in dataclasses.fields(config):
        if item.default is MISSING or "unless" in item.metadata:
            needed.append(f"{flag(item.name)} {_placeholder(item, _kind(hints[item.name])[0])}")
    return needed


def flag(name: str) -> str:
    """How the command line spells a field."""
    return "--" + name.replace("_", "-")


def from_arguments(
    config: type[C], arguments: argparse.Namespace, file: Mapping[str, Any] | None = None
) -> C:
    """The configuration that a parsed command line gives, over what a file gave (`read_toml`).

    Raises:
        OptionError: see `from_values`.
    """
    given = dict(file or {})
    for item in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(arguments, item.name, None)
        if value is not None:
            given[item.name] = value
    return from_values(config, given, spelled=flag)


def as_command(name: str, config: Any) -> str:
    """The command line that gives this configuration again."""
    words = ["layerscope", name]
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    for key, value in as_values(config).items():
        if value == defaults[key]:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag(key)] if one is True else [flag(key), str(one)]
    return shlex.join(words)


def as_call(name: str, config: Any) -> str:
    """The call in Python that gives this configuration again;
    what was in memory is in angle brackets.
    """
    words = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        if _in_memory(value):
            words.append(f"{item.name}=<{value.name}>")
        else:
            plain = str(value) if isinstance(value, Path) else value
            words.append(f"{item.name}={plain!r}")
    return f"layerscope.{name}({', '.join(words)})"


# -- values


def as_values(config: Any, deciding: bool = False) -> dict[str, Any]:
    """Every field's value; a model in memory is its name.

    Args:
        deciding: only those that can change a number.
    """
    values = {}
    for item in dataclasses.fields(config):
        if deciding and not item.metadata["decides"]:
            continue
        value = getattr(config, item.name)
        values[item.name] = getattr(value, "name", value) if _in_memory(value) else value
    return values


def from_values(
    config: type[C], given: Mapping[str, Any], spelled: Callable[[str], str] = str
) -> C:
    """A configuration from plain values: text for a path, one value for several, a whole number for
    a real one.

    Args:
        spelled: how a field's name is shown in an error.

    Raises:
        OptionError: an option that is missing or unknown, a value of another type, below the least
            one, or not one of the choices.
    """
    hints = typing.get_type_hints(config)
    items = {item.name: item for item in dataclasses.fields(config)}  # pyright: ignore[reportArgumentType]
    name_of = {name: name for name in items}
    for item in items.values():
        for alias in item.metadata.get("aliases", ()):
            name_of[alias] = item.name
    for name in given:
        if name not in name_of:
            raise OptionError(f"no option {spelled(name)}: {_expected(name, items, spelled)}")
    values = {}
    for given_name, value in given.items():
        name = name_of[given_name]
        values[name] = _value(items[name], hints[name], value, spelled(name))
    missing = [spelled(name) for name, item in items.items() if _is_missing(item, values)]
    if missing:
        raise OptionError(
            f"missing required option{'s' if len(missing) > 1 else ''}: {', '.join(missing)}"
        )
    return config(**values)


def _is_missing(item: dataclasses.Field[Any], values: Mapping[str, Any]) -> bool:
    """Whether an option that is needed has no value;
    some are needed only where no other stands in for them.
    """
    instead = item.metadata.get("unless", ())
    has_other = any(map(values.get, instead))
    is_needed = item.default is MISSING or (bool(instead) and not has_other)
    return is_needed and values.get(item.name) in (None, ())


def _expected(name: str, items: Iterable[str], spelled: Callable[[str], str]) -> str:
    near = difflib.get_close_matches(name, list(items), 1)
    if near:
        return f"the nearest is {spelled(near[0])}"
    return f"expected {', '.join(map(spelled, items))}"


def _value(item: dataclasses.Field[Any], hint: Any, value: Any, name: str) -> Any:
    kind, several = _kind(hint)
    is_optional = item.default is None or type(None) in typing.get_args(hint)
    if value is None and is_optional:
        return None
    if several:
        many = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_single(item, kind, part, name) for part in many)
    return _single(item, kind, value, name)


def _single(item: dataclasses.Field[Any], kind: Any, value: Any, name: str) -> Any:
    """One value of an option, as its type takes it."""
    if item.metadata["in_memory"] and not isinstance(value, (str, os.PathLike)):
        return _subject(value, name)
    if value == "" and (kind is Path or item.metadata["in_memory"]):
        raise OptionError(f"{name}: expected a name or a path, got an empty one")
    if kind in (Path, str) and isinstance(value, (str, os.PathLike)):
        value = kind(value)
    if isinstance(value, Path) and (not is_text(str(value)) or "\0" in str(value)):
        raise OptionError(f"{name}: expected a path, got {str(value)!r:.80}")
    if isinstance(value, str) and not is_text(value):
        raise OptionError(f"{name}: expected characters, got half of one in {value!r:.80}")
    # To Python a truth value is a number.
    is_truth = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_truth:
        with contextlib.suppress(OverflowError):  # then it is too large, which is said below
            value = float(value)
    is_large = kind is float and isinstance(value, int)
    if not (isinstance(value, kind) or is_large) or (is_truth and kind is not bool):
        raise OptionError(f"{name}: expected {_words(kind)}, got {shown(value)}")
    if kind in (int, float) and isinstance(value, (int, float)):
        _check_bounds(item, kind, typing.cast(float, value), name)
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise OptionError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold it: bytes of a command line that are none, and half characters,
    are no text of a run.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_bounds(item: dataclasses.Field[Any], kind: type, value: int | float, name: str) -> None:
    """Raise `OptionError` for a number that is none, too small or too large;
    0 is the least where nothing is said.
    """
    least, most = item.metadata.get("least", 0), item.metadata.get("most", LARGEST)
    above = item.metadata.get("above", -math.inf)
    is_finite = isinstance(value, int) or math.isfinite(value)
    if not is_finite or value < least or value <= above:
        bound = "" if least == -math.inf else f" of at least {least}"
        bound = bound if above == -math.inf else f" above {above}"
        raise OptionError(f"{name}: expected {_words(kind)}{bound}, got {value!r:.80}")
    if value > most:
        raise OptionError(
            f"{name}: expected {_words(kind)} of at most {most}, got {str(value)[:80]}"
        )


def _in_memory(value: Any) -> bool:
    """Whether it is an object in memory and not a value that a file could hold."""
    return value is not None and not isinstance(value, (str, os.PathLike, int, float, tuple, list))


def _subject(value: Any, name: str) -> Any:
    """A model in memory, with its tokenizer."""
    from ..subject import Subject

    if isinstance(value, Subject):
        return value
    raise OptionError(
        f"{name}: expected a hub id, a path or a pair (model, tokenizer), got {shown(value)}"
    )


def _words(kind: type) -> str:
    return {
        Path: "a path",
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }[kind]


def _kind(hint: Any) -> tuple[Any, bool]:
    """(type of one value, whether several may be given)."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return typing.get_args(hint)[0], True
    if origin in (types.UnionType, typing.Union):
        return next(a for a in typing.get_args(hint) if a is not type(None)), False
    return hint, False


# -- TOML


def as_toml(command: str, config: Any) -> str:
    """A file that gives this configuration again: ``layerscope COMMAND --config FILE``.

    Every option stands there, those that have their default too: the run is the same under another
    version's defaults.
    """
    lines = [f"# layerscope {command} --config THIS_FILE", f"{COMMAND} = {_toml(command)}"]
    for item in dataclasses.fields(config):
        if _in_memory(getattr(config, item.name)):
            lines.append(f"# {item.name} was given in memory: this is what it is called")
    for name, value in as_values(config).items():
        if value is not None:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    # JSON's escapes are TOML's, but for one
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(path: Path, command: str) -> dict[str, Any]:
    """The options that a file gives a command; ``-`` and ``_`` are the same in their names.

    Raises:
        OptionError: a file that is not there, is no TOML, or is of another command.
    """
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise OptionError(f"--config {path}: expected TOML: {error}") from error
    except RecursionError:
        raise OptionError(
            f"--config {path}: expected TOML, got brackets too deep to read"
        ) from None
    of_command = options.pop(COMMAND, command)
    if of_command != command:
        raise OptionError(
            f"--config {path}: expected options of layerscope {command}, "
            f"it holds those of {of_command!s:.80}"
        )
    for name, value in options.items():
        if _in_memory(value):  # a table, or a date
            raise OptionError(
                f"--config {path}: {name}: expected a text, a number, true, "
                f"false or a list, got {value!r:.80}"
            )
    return {name.replace("-", "_"): value for name, value in options.items()}
