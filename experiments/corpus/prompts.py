"""Prompts and minimal pairs: what a model is asked, and what it should and should not say.

A record of a prompt file (`.records`: JSON lines, a JSON array, CSV or TSV) has ``prompt`` (or
``sentence``, or ``text``) and ``answer`` and, where a metric needs them, ``wrong`` (what should be
less likely), ``corrupted`` (the prompt that patching takes from), ``target_prefix`` (of an
encoder-decoder: what its decoder has written before the answer) and ``group`` (prompts made from
one template, resampled together); BLiMP's lines for the one-prefix method are prompts too, and
CounterFact's facts. A record of a pair file has two sentences, by BLiMP's names (``sentence_good``,
``sentence_bad``), JBLiMP's (``good_sentence``), CrowS-Pairs' (``sent_more``, ``sent_less``) or as
``sentences: [good, bad]``, and perhaps a ``group``. In a file of CLAMS a line is ``True`` or
``False`` and a sentence; each false one is paired with the true one before it. A paradigm's name
(``UID``) is no group: a file of one paradigm would be a single one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from layerscope.errors import InputError

from .records import (
    Headerless,
    Numbered,
    PromptError,
    Unusable,
    first_of,
    group_of,
    numbered_lines,
    read_lines_as,
    shown,
)

__all__ = [
    "Item",
    "Pair",
    "Prompt",
    "PromptError",
    "Unusable",
    "group_of",
    "labelled_text",
    "numbered_lines",
    "read_labelled",
    "read_pairs",
    "read_prompts",
]

GOOD = ("sentence_good", "good_sentence", "sent_more", "sen")
BAD = ("sentence_bad", "bad_sentence", "sent_less", "wrong_sen")
"""Names of a pair's sentences: BLiMP's, JBLiMP's, CrowS-Pairs', MultiBLiMP's."""
TEXT = ("prompt", "sentence", "text", "premise", "sentence1")
"""Names of a prompt: ours, CoLA's and SST's, that of plain data sets, MNLI's, SNLI's."""
SECOND = ("text_pair", "hypothesis", "sentence2")
LABEL = ("label", "gold_label")
NAMED = 3
"""Names of a field that an error lists."""
COLA = Headerless(("source", "label", "mark", "sentence"), "label", frozenset("01"))
CLAMS = Headerless(("acceptable", "sentence"), "acceptable", frozenset(("True", "False")))
"""Files of CoLA and of CLAMS, which have no line of names."""


@runtime_checkable
class Item(Protocol):
    """What a metric has one value of; those of a group are resampled together."""

    @property
    def group(self) -> str | None:
        """The group's name, or None for an item by itself."""
        ...


COMMANDS_OF_SOUNDS = "'layerscope ablate', 'attend' and 'attribute' alone"


@dataclass(frozen=True)
class Prompt:
    """A text to continue, the right continuation and, where known, a wrong one.

    Args:
        pair: the second text, for a classifier of pairs.
        label: the text's right class.
        target_prefix: of an encoder-decoder, which reads the prompt as its source: the beginning of
            the target, behind which the answer stands.
        image: of a vision-language model, the file of the picture that it is shown with the prompt.
        audio: of a model that writes what it hears, the file of the sound; ``prompt`` is its path.
        line: of the file, from 1.
    """

    prompt: str
    answer: str
    wrong: str | None = None
    corrupted: str | None = None
    group: str | None = None
    pair: str | None = None
    label: str | None = None
    target_prefix: str | None = None
    image: str | None = None
    audio: str | None = None
    line: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_apart(self.answer, self.wrong)


def check_apart(answer: str | None, wrong: str | None) -> None:
    """Raise `InputError` where the answers that are compared are the same one."""
    if wrong is not None and answer == wrong:
        raise InputError(
            f"expected an answer that differs from the wrong one, got {answer!r} twice"
        )


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
    audio: bool = False,
) -> list[Prompt]:
    """Read a prompt file.

    Args:
        answers: whether a line must have an answer; without, a missing one is empty.
        audio: whether a line may have a sound in the prompt's place.
        unusable: is given the lines that are of no use; without it, the first one is an error.

    Raises:
        PromptError: no JSON, a field that is missing or no text, an answer that equals the wrong
            one, an empty file.
    """
    read = partial(_prompt, answers=answers, audio=audio)
    prompts = read_lines_as(Path(path), limit, read, unusable, (COLA,))
    return [_beside(Path(path), prompt) for prompt in prompts]


def _beside(file: Path, prompt: Prompt) -> Prompt:
    """A prompt whose picture's, or sound's, path is taken from the folder of its file."""
    if prompt.audio is not None:
        sound = str(file.parent / prompt.audio)
        return replace(prompt, audio=sound, prompt=sound)
    if prompt.image is not None:
        return replace(prompt, image=str(file.parent / prompt.image))
    return prompt


def read_labelled(
    path: Path | str, limit: int | None = None, unusable: list[Unusable] | None = None
) -> list[Prompt]:
    """Read a file of texts with their labels: ``text`` (or ``sentence``, or ``prompt``) and
    ``label``.

    Args:
        unusable: is given the lines that are of no use; without it, the first one is an error.

    Raises:
        PromptError: a field that is missing or no text, an empty file.
    """
    return read_lines_as(Path(path), limit, labelled_text, unusable, (COLA,))


def read_pairs(
    path: Path | str, limit: int | None = None, unusable: list[Unusable] | None = None
) -> list[Pair]:
    """Read a file of minimal pairs.

    Args:
        unusable: is given the lines that are of no use; without it, the first one is an error.

    Raises:
        PromptError: no JSON, a sentence that is missing or no text, two equal sentences, an empty
            file.
    """
    return read_lines_as(Path(path), limit, _pair, unusable, (CLAMS,), _paired)


def _prompt(record: Mapping[str, Any], answers: bool, audio: bool = False) -> Prompt:
    if "one_prefix_prefix" in record:  # BLiMP's form for sentences that differ in one word
        good, bad = (_text(record, f"one_prefix_word_{kind}", True) for kind in ("good", "bad"))
        words = {"answer": f" {good}", "wrong": f" {bad}"}
        record = {**record, "prompt": record["one_prefix_prefix"], **words}
    if "requested_rewrite" in record:
        record = {**record, **_fact(record["requested_rewrite"])}
    if "target_true" in record:  # CounterFact's facts, one in a row
        record = {"answer": record["target_true"], "wrong": record.get("target_false"), **record}
    sound = _text(record, "audio", False)
    if sound is not None and not audio:
        raise InputError(f"audio {sound}: sounds are read by {COMMANDS_OF_SOUNDS}")
    prompt, answer = _text(record, TEXT, sound is None), _text(record, "answer", answers) or ""
    if sound is not None and prompt is not None:
        raise InputError(f"expected a prompt or audio, got both ({shown(prompt)}, {shown(sound)})")
    wrong, corrupted = _text(record, "wrong", False), _text(record, "corrupted", False)
    label = first_of(record, LABEL)
    if not isinstance(label, str | int | float | None):
        raise InputError(f"expected 'label' to be a text or a number, got {shown(label)}")
    return Prompt(
        str(prompt or sound),
        answer,
        wrong,
        corrupted,
        group_of(record),
        _text(record, SECOND, False),
        None if label is None else str(label),
        _text(record, "target_prefix", False),
        _text(record, "image", False),
        sound,
    )


def _fact(rewrite: Any) -> dict[str, str]:
    """A fact of CounterFact as a prompt: the true object is right, the new one wrong.

    Raises:
        InputError: a field that is missing or of another kind.
    """
    try:
        prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
        true, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        return {"prompt": prompt, "answer": f" {true.strip()}", "wrong": f" {new.strip()}"}
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            "expected requested_rewrite with prompt, subject, target_true and target_new, "
            f"got {shown(rewrite)}"
        ) from None


def labelled_text(record: Mapping[str, Any]) -> Prompt:
    """A record's text and label; answers of a language model that stand beside them are not read.

    Raises:
        InputError: a field that is missing or of another kind.
    """
    answers = ("answer", "wrong", "target_true", "target_false")
    unanswered = {name: value for name, value in record.items() if name not in answers}
    prompt = _prompt(unanswered, answers=False)
    if prompt.label is None:
        fields = ", ".join(sorted(record))[:200]
        raise InputError(f"expected 'label', the text's class; the line has {fields}")
    return prompt


def _pair(record: Mapping[str, Any]) -> Pair:
    if "sentences" in record:
        both = record["sentences"]
        if not isinstance(both, list) or len(both) != 2:
            raise InputError(f"expected sentences: [good, bad], got {shown(both)}")
        record = {**record, "sentence_good": both[0], "sentence_bad": both[1]}
    good, bad = _text(record, GOOD, True), _text(record, BAD, True)
    if good == bad:
        raise InputError(f"expected two sentences that differ, got {good!r} twice")
    return Pair(str(good), str(bad), group_of(record))


def _paired(records: Iterator[Numbered]) -> Iterator[Numbered]:
    """CLAMS's lines as pairs: each false sentence with the true one before it;
    other records as they are.
    """
    good, group = "", 0
    for number, record in records:
        if set(record) != set(CLAMS.names):
            yield number, record
        elif record["acceptable"] == "True":
            # One true sentence has several false ones: these pairs are resampled as one.
            good, group = record["sentence"], number
        elif record["acceptable"] == "False" and good:
            pair = {"sentence_good": good, "sentence_bad": record["sentence"], "group": group}
            yield number, pair
        else:
            raise InputError(
                "expected 'True' and a sentence, then 'False' and another, with tabs between"
            )


def _text(record: Mapping[str, Any], names: str | tuple[str, ...], required: bool) -> str | None:
    """The text under the first of these names that the record has."""
    names = (names,) if isinstance(names, str) else names
    value = first_of(record, names)
    if value is None and not required:
        return None
    if not isinstance(value, str) or not value:
        wanted = " or ".join(map(repr, names[:NAMED]))
        fields = ", ".join(sorted(record))[:200] or "no field"
        raise InputError(
            f"expected {wanted} to be a text, got {shown(value)}; the line has {fields}"
        )
    return value
