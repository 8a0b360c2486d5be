"""Samples of the scripts that run whole by hand: see README.md."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robustness import battery, choices, identity, inputs, kills, place, readers, stores
from robustness.place import STUDIES

CAPTURE = "capture --model small --site hook_resid_post --corpus test.conllu --limit 4"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A workplace without the runs that others read."""
    folder: Path = tmp_path_factory.mktemp("robustness") / "work"
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        inputs.write_inputs()
        yield folder
    finally:
        os.chdir(before)


# -- the battery


def test_every_case_succeeds_or_is_one_line(work):
    counts, broken = battery.battery(work, range(420), seed=1)
    assert not [(one.wrong, one.words, one.message) for one in broken]
    del counts[battery.CASES]
    assert {status for *_, status in counts} <= {"0", "1", "2"}
    assert sum(count for (*_, status), count in counts.items() if status == "0") > 60
    assert {command for _, command, _ in counts} >= {*STUDIES, "report", "explore", "make"}


def test_the_battery_notices_a_bug(work, monkeypatch):
    from layerscope.experiments.runs import execute

    def fails(inputs):
        raise KeyError("control_scores")

    monkeypatch.setattr(execute, "identity_of", fails)
    _, broken = battery.battery(work, range(30), seed=1, kind="options")
    assert {one.wrong for one in broken} == {"a traceback"}


@settings(max_examples=60)
@given(st.sampled_from(sorted(readers.READERS)), st.data())
def test_what_is_read_of_any_bytes_is_what_another_reader_reads(work, name, data):
    with place.linked_copy(work):
        whole = Path(name).read_bytes()
        at, to = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        middle = data.draw(st.one_of(st.binary(max_size=6), st.text(max_size=6).map(str.encode)))
        Path(name).unlink()
        Path(name).write_bytes(
            data.draw(st.sampled_from([whole[:at] + middle + whole[to:], middle]))
        )
        readers.compare(Path(name))


def _without_a_word(held: dict) -> None:
    """A merge makes a token that the vocabulary lacks."""
    vocabulary = held["model"]["vocab"]
    vocabulary.pop(max(vocabulary, key=len))


def _no_number(held: dict) -> None:
    held["image_std"] = ["\0"]


FOUND = {
    "small/tokenizer.json": (_without_a_word, CAPTURE),
    "seeing/preprocessor_config.json": (
        _no_number,
        "probe --model seeing --images pictures.csv --property colour --l2 1",
    ),
}
"""A file -> a change that the whole battery found to be a traceback, and a line that reads it."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(work, name):
    change, line = FOUND[name]
    with place.linked_copy(work):
        held = json.loads(Path(name).read_text(encoding="utf-8"))
        change(held)
        Path(name).unlink()
        Path(name).write_text(json.dumps(held), encoding="utf-8")
        outcome = place.call([*inputs.words_of(line), "--out", "out"])
    assert (outcome.status, outcome.wrong) == (2, ""), outcome


# -- identity


def test_a_finished_run_is_refused_when_anything_that_decides_its_numbers_changed(work):
    with place.linked_copy(work) as copy:
        words = inputs.words_of(CAPTURE)
        assert place.call([*words, "--out", identity.OUT]).status == 0
        count, wrong = identity.stale(copy, words)
    assert not wrong
    assert count == 15


LINES = [
    (
        "probe --model seeing --images pictures.csv --property colour --l2 1 --control-seeds 0 "
        "--random-models 0"
    ),
    (
        "ablate --model small --prompts prompts.jsonl --component layers --value mean "
        "--reference texts.jsonl"
    ),
    "patch --model small --clean prompts.jsonl --by layer",
    "attend --model small --corpus test.conllu --limit 4 --show 1",
    "geometry --model small --corpus test.conllu --method pca --sample 30 --compare gpt",
    "lens --model small --corpus test.conllu --kind logit",
    "calibrate --model small --questions questions.jsonl --bins 3",
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_so_is_a_run_of_the_other_commands(work, line):
    with place.linked_copy(work) as copy:
        words = inputs.words_of(line)
        assert place.call([*words, "--out", identity.OUT]).status == 0
        count, wrong = identity.stale(copy, words, only=("norm", "data"))
    assert not wrong
    assert count >= 2


def test_two_pipes_are_two_runs(work):
    """What is hashed of a pipe is what was read of it;
    a file that is read several times is no pipe.
    """

    def run(text: str) -> place.Outcome:
        # A command that does not open the pipe leaves the writer waiting.
        threading.Thread(target=lambda: Path("pipe").write_text(text), daemon=True).start()
        words = inputs.words_of("ablate --model small --prompts pipe --component layers")
        return place.call([*words, "--out", "run"])

    with place.linked_copy(work):
        os.mkfifo("pipe")
        text = Path("prompts.jsonl").read_text()
        assert run(text).status == 0
        assert run(text).status == 0
        assert "data: prompts" in run(text.replace("garden", "market")).message
        words = inputs.words_of("capture --model small --site hook_embed --lines pipe")
        assert "expected a file" in place.call(words).message


# -- kills, choices and stores


def test_a_run_that_was_stopped_and_called_again_is_as_one_left_alone(work):
    with place.linked_copy(work) as copy:
        words = inputs.words_of(CAPTURE)
        counts, wrong = kills.check(words, copy / "alone", 2, random.Random(1))
    assert not wrong
    assert counts["identical"] == 2


def test_every_command_has_a_line():
    assert {line.split()[0] for line in inputs.LINES} == set(STUDIES)


def test_the_values_of_capture_go_together(work):
    options = STUDIES["capture"].options
    rows = choices.in_pairs(options, random.Random(0))
    together = set().union(*map(choices.pairs_of, rows))
    assert frozenset({("level", "token"), ("store_as", "bfloat16")}) in together
    _, wrong = choices.checked("capture", work, choices.alone(options)[-6:])
    assert not wrong


def test_changed_stores_are_named_or_read_right(capsys):
    assert stores.main(["--cases", "150", "--seed", "1"]) == 0, capsys.readouterr().out


def test_a_checksum_that_does_not_depend_on_order_is_noticed(monkeypatch):
    from hooks import shards

    class Sum:
        """The sum of all bytes."""

        def __init__(self, data=b""):
            self.total = 0
            self.update(data)

        def update(self, data):
            self.total += sum(bytes(data))

        def hexdigest(self):
            return f"{self.total:x}"

    monkeypatch.setattr(shards.xxhash, "xxh3_64", Sum)
    monkeypatch.setattr(shards.xxhash, "xxh3_64_hexdigest", lambda data: Sum(data).hexdigest())
    assert stores.main(["--cases", "40"]) == 1
