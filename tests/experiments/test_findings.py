"""Every sentence of a finding is held against its records, for every command;
a sentence that is false is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from claims import CAPTIONS, CLAIMS, NOTES, FalseClaim, check_agreement, held, held_by
from recorded import make

from experiments.calibration.reliability import finding
from experiments.report.parts import Picture, Stats, Text
from experiments.report.schema import Interval, as_json
from experiments.studies import STUDIES
from experiments.studies.probe.findings import finding as probed

RECORDED = {name: make.recorded(name) for name in make.COMMANDS}
DIGITS = re.compile(r"\d+(?:\.\d+)?")
WORDS = (
    ("not significantly", "significantly"),
    ("overconfident", "underconfident"),
    ("Nothing is WRONG", "WRONG: gradients"),
    (", a difference that is not significant", ""),
    (" nats", " bits"),
)
"""What a sentence says, and what would be false in its place."""


def sentences(name: str) -> list[tuple[dict[str, Any], str, str, str]]:
    results = RECORDED[name]
    return [(results, results["kind"], f["text"], f["property"]) for f in results["findings"]]


def is_held(results: dict[str, Any], kind: str, text: str, about: str) -> bool:
    try:
        held(results, kind, text, about)
    except FalseClaim:
        return False
    return True


def with_another_last_digit(text: str, match: re.Match[str]) -> str:
    """The text with one number changed in its last place."""
    number = match[0]
    digit = "5" if number[-1] in "01239" else "1"
    return text[: match.end() - 1] + digit + text[match.end() :]


@pytest.mark.parametrize("name", make.COMMANDS)
def test_every_sentence_is_true_of_its_records(name: str) -> None:
    for results, kind, text, about in sentences(name):
        held(results, kind, text, about)


@pytest.mark.parametrize("name", make.COMMANDS)
def test_a_sentence_with_another_number_is_noticed(name: str) -> None:
    planted = 0
    for results, kind, text, about in sentences(name):
        for match in DIGITS.finditer(text):
            # Digits of names (feats:x2, capture/store3) are no numbers of the sentence.
            is_of_path = "/" in text[max(0, match.start() - 12) : match.start()]
            is_of_word = match.start() > 0 and text[match.start() - 1].islower()
            if is_of_path or is_of_word:
                continue
            changed = with_another_last_digit(text, match)
            assert not is_held(results, kind, changed, about), f"taken for true: {changed}"
            planted += 1
    assert planted


def test_a_sentence_with_another_word_is_noticed() -> None:
    planted = set()
    for name in make.COMMANDS:
        for results, kind, text, about in sentences(name):
            for said, other in WORDS:
                changed = text.replace(said, other, 1)
                if changed == text:
                    continue
                # The unit of a logit stands in some sentences only.
                if said == " nats" and kind not in ("ablate", "attribute"):
                    continue
                assert not is_held(results, kind, changed, about), f"taken for true: {changed}"
                planted.add(said)
    assert len(planted) == len(WORDS)


def test_every_command_has_claims() -> None:
    assert set(CLAIMS) == set(STUDIES)


def notes_of(name: str) -> list[str]:
    """The notes with a number."""
    return [n["text"] for n in RECORDED[name]["notes"] if DIGITS.search(n["text"])]


def captions_of(name: str) -> list[str]:
    """What a page says of its pictures, tables and sections, where that holds a number; findings
    and notes have their own tests.
    """
    results = RECORDED[name]
    study = STUDIES[results["kind"]]
    page = study.page(results)
    texts = [text for section in page.sections for text in texts_of(section)]
    return [text for text in dict.fromkeys(texts) if DIGITS.search(text)]


def texts_of(part: Any) -> Iterator[str]:
    """Captions and texts of a part of a page, and of the parts within it."""
    for field in ("about", "caption", "summary"):
        if text := getattr(part, field, ""):
            yield str(text)
    if isinstance(part, Stats):
        yield from (f"{label}: {value}; {note}" for label, value, note in part.items)
    if isinstance(part, Text):
        yield from (str(text) for text in part.paragraphs)
    if isinstance(part, Picture):
        yield from (drawing.caption for drawing in part.drawings)
    for inner in getattr(part, "parts", ()):
        yield from texts_of(inner)


def is_claimed(claims: Sequence[Any], results: dict[str, Any], text: str) -> bool:
    try:
        held_by(claims, results, text)
    except FalseClaim:
        return False
    return True


@pytest.mark.parametrize("name", make.COMMANDS)
def test_every_note_with_a_number_is_true_of_its_records(name: str) -> None:
    for text in notes_of(name):
        held_by(NOTES, RECORDED[name], text)


@pytest.mark.parametrize("name", make.COMMANDS)
def test_every_caption_with_a_number_is_true_of_its_records(name: str) -> None:
    for text in captions_of(name):
        held_by(CAPTIONS, RECORDED[name], text)


def test_a_note_or_a_caption_with_another_number_is_noticed() -> None:
    """Each number is changed in its last place; names,
    levels and what no record holds are the rest.
    """
    planted = unnoticed = 0
    for name in make.COMMANDS:
        for claims, texts in ((NOTES, notes_of(name)), (CAPTIONS, captions_of(name))):
            for text in texts:
                for match in DIGITS.finditer(text):
                    changed = with_another_last_digit(text, match)
                    planted += 1
                    unnoticed += is_claimed(claims, RECORDED[name], changed)
    assert planted > 200
    assert unnoticed < 0.25 * planted, f"{unnoticed} of {planted}"


TESTED = {
    "effect_interval": "p",
    "difference_interval": "p",
    "over_random_interval": "p",
    "beyond_interval": "beyond_p",
}
"""Intervals of what is tested against 0, and the p of the test."""


@pytest.mark.parametrize("name", make.COMMANDS)
def test_intervals_and_tests_agree_in_every_record(name: str) -> None:
    rows: list[dict[str, Any]] = []
    for field in ("records", "comparisons", "group_differences"):
        rows += [row for row in RECORDED[name].get(field, []) if isinstance(row, dict)]
    for row in rows:
        # An effect of removed words has no p of its own: that of the row is over random ones.
        is_of_words = "over_random" in row
        for interval, p in TESTED.items():
            if is_of_words and interval == "effect_interval":
                continue
            ends, value = row.get(interval), row.get(p)
            if ends is not None and value is not None:
                check_agreement(ends["low"], ends["high"], value, f"{name} {interval}")


@pytest.mark.parametrize(
    ("p", "low", "high", "words"),
    [
        (0.04, 0.1, 0.3, "significantly miscalibrated, overconfident by 0.120"),
        (0.0004, -0.3, -0.1, "significantly miscalibrated, underconfident by 0.120"),
        (0.01, -0.1, 0.2, "neither significantly overconfident nor underconfident"),
        (0.2, 0.1, 0.3, "not significantly miscalibrated"),
    ],
)
def test_a_verdict_says_what_its_test_and_interval_say(
    p: float, low: float, high: float, words: str
) -> None:
    record = STUDIES["calibrate"].read(RECORDED["calibrate-pairs"]).records[0]
    altered = replace(
        record,
        ece_p=p,
        ece_p_holm=p,
        overconfidence=0.12 if low + high > 0 else -0.12,
        overconfidence_interval=Interval(low, high),
    )
    text = finding(altered)
    assert words in text
    held({"records": [as_json(altered)]}, "calibrate", text, altered.method)


def test_a_score_that_the_majority_may_have_is_doubted() -> None:
    results = RECORDED["probe"]
    records = [r for r in STUDIES["probe"].read(results).records if r.property == "upos"]
    for majority, is_doubted in ((0.2, False), (0.9, True)):
        altered = [replace(record, majority=majority) for record in records]
        text = probed(altered)
        assert ("not significantly above" in text) == is_doubted
        raw = {**results, "records": [as_json(record) for record in altered]}
        raw["findings"] = [{"property": "upos", "text": text}]
        held(raw, "probe", text, "upos")
        other = text.replace(
            " The highest is not significantly above the most frequent class (0.900).", ""
        )
        if is_doubted:
            raw["findings"] = [{"property": "upos", "text": other}]
            assert not is_held(raw, "probe", other, "upos")
