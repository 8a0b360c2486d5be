"""Prompts and minimal pairs from JSONL: what a model is asked, and what it should and should not say.

A line of a prompt file has ``prompt`` and ``answer`` and, where a metric needs them, ``wrong`` (what should be less
likely), ``corrupted`` (the prompt that patching takes from) and ``group`` (prompts made from one template, resampled
together); BLiMP's lines for the one-prefix method are prompts too. A line of a pair file has two sentences, by BLiMP's
names (``sentence_good``, ``sentence_bad``) or as ``sentences: [good, bad]``, and perhaps a ``group``. A paradigm's name
(``UID``) is no group: a file of one paradigm would be a single one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from layerscope.errors import InputError, LayerscopeError

from .files import opened_text

Line = TypeVar("Line")


class PromptError(LayerscopeError, ValueError):
    """A prompt file that cannot be read; the message begins with ``file:line``."""


class UnusableItem(InputError):
    """A line that is well formed and of no use, such as a pair of identical sentences: a file may have some."""


@dataclass(frozen=True)
class Unusable:
    """An item of a file that is left out.

    Args:
        line: of the file, from 1; None where it is not known.
        why: in a line.
    """

    line: int | None
    why: str

    def __str__(self) -> str:
        return self.why if self.line is None else f"line {self.line}: {self.why}"


@runtime_checkable
class Item(Protocol):
    """What a metric has one value of; those of a group are resampled together."""

    @property
    def group(self) -> str | None:
        """The group's name, or None for an item by itself."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A text to continue, the right continuation and, where known, a wrong one.

    Args:
        pair: the second text, for a classifier of pairs.
        label: the text's right class.
    """

    prompt: str
    answer: str
    wrong: str | None = None
    corrupted: str | None = None
    group: str | None = None
    pair: str | None = None
    label: str | None = None
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in what makes one of them acceptable."""

    good: str
    bad: str
    group: str | None = None
    line: int | None = field(default=None, compare=False)


def read_prompts(
    path: Path | str,
    limit: int | None = None,
    answers: bool = True,
    unusable: list[Unusable] | None = None,
) -> list[Prompt]:
    """Read a prompt file.

    Args:
        answers: whether a line must have an answer; without, a missing one is empty.
        unusable: is given the lines that are of no use; without it, the first one is an error.

    Raises:
        PromptError: no JSON, a field that is missing or no text, an answer that equals the wrong one, an empty file.
    """
    return read_lines_as(Path(path), limit, partial(_prompt, answers=answers), unusable)


def read_pairs(path: Path | str, limit: int | None = None, unusable: list[Unusable] | None = None) -> list[Pair]:
    """Read a file of minimal pairs.

    Args:
        unusable: is given the lines that are of no use; without it, the first one is an error.

    Raises:
        PromptError: no JSON, a sentence that is missing or no text, two equal sentences, an empty file.
    """
    return read_lines_as(Path(path), limit, _pair, unusable)


def read_lines_as(
    path: Path,
    limit: int | None,
    make: Callable[[Mapping[str, Any]], Line],
    unusable: list[Unusable] | None = None,
) -> list[Line]:
    """What ``make`` makes of each line of a JSONL file; its `ValueError` is given the line's place.

    Args:
        unusable: is given the lines for which ``make`` raises `UnusableItem`; without it, the first one is an error.

    Raises:
        PromptError: a file that cannot be read, no JSON object, what ``make`` refuses, no line that can be used.
    """
    out: list[Line] = []
    refused = "expected at least one line, got none"
    for number, line in numbered_lines(path):
        if limit is not None and len(out) == limit:
            break
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise InputError(f"expected a JSON object, got {line[:60]!r}")
            item = make(record)
        except ValueError as error:
            if isinstance(error, UnusableItem) and unusable is not None:
                unusable.append(Unusable(number, str(error)))
                refused = f"no line can be used; {unusable[0]}"
                continue
            text = str(error)
            if isinstance(error, json.JSONDecodeError):
                text = f"expected a JSON object: {error}"
            raise PromptError(f"{path}:{number}: {text}") from None
        out.append(replace(item, line=number) if isinstance(item, Prompt | Pair) else item)
    if not out:
        raise PromptError(f"{path}: {refused}")
    return out


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers, read as they are asked for.

    Raises:
        PromptError: a file that cannot be read, or is no UTF-8.
    """
    try:
        with opened_text(path) as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise PromptError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PromptError(f"{path}: expected UTF-8 text") from None


def _prompt(record: Mapping[str, Any], answers: bool) -> Prompt:
    if "one_prefix_prefix" in record:
        good, bad = (_text(record, f"one_prefix_word_{kind}", True) for kind in ("good", "bad"))
        record = {**record, "prompt": record["one_prefix_prefix"], "answer": f" {good}", "wrong": f" {bad}"}
    prompt, answer = _text(record, "prompt", True), _text(record, "answer", answers) or ""
    wrong, corrupted, pair = (_text(record, name, False) for name in ("wrong", "corrupted", "text_pair"))
    label = None if record.get("label") is None else str(record["label"])
    if answer == wrong:
        raise UnusableItem(f"expected an answer that differs from the wrong one, got {answer!r} twice")
    return Prompt(str(prompt), answer, wrong, corrupted, group_of(record), pair, label)


def _pair(record: Mapping[str, Any]) -> Pair:
    if "sentences" in record:
        both = record["sentences"]
        if not isinstance(both, list) or len(both) != 2:
            raise InputError(f"expected sentences: [good, bad], got {str(both)[:60]!r}")
        record = {**record, "sentence_good": both[0], "sentence_bad": both[1]}
    good, bad = _text(record, "sentence_good", True), _text(record, "sentence_bad", True)
    if good == bad:
        raise UnusableItem(f"expected two sentences that differ, got {good!r} twice")
    return Pair(str(good), str(bad), group_of(record))


def group_of(record: Mapping[str, Any]) -> str | None:
    """The group of a line, resampled together; None where the line has none, or null.

    Raises:
        ValueError: neither a text nor a number.
    """
    value = record.get("group")
    if value is None:
        return None
    if not isinstance(value, str | int | float) or value == "":
        raise InputError(f"expected 'group' to be a text or a number, got {value!r}")
    return str(value)


def _text(record: Mapping[str, Any], name: str, required: bool) -> str | None:
    value = record.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"expected {name!r} to be a text, got {value!r}; the line has {', '.join(sorted(record))}")
    return value
