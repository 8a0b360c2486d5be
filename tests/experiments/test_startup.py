"""What a command does before it computes: the collector of cycles rests, and then goes on."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from layerscope.experiments import subject

from layerscope.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def collecting():
    yield
    gc.unfreeze()
    gc.enable()


def test_a_command_rests_the_collector_until_its_inputs_are_read(tmp_path, monkeypatch, collecting):
    tiny.save(tiny.model("gpt2"), tmp_path / "model")
    read_model, while_reading = subject.read_model, []

    def noting(*given):
        while_reading.append(gc.isenabled())
        return read_model(*given)

    monkeypatch.setattr(subject, "read_model", noting)
    words = f"attribute --model {tmp_path / 'model'} --text cat --dry-run --out {tmp_path / 'run'}"
    monkeypatch.setattr("sys.argv", ["layerscope", *words.split()])

    assert main() == 0
    assert while_reading == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000


@pytest.mark.parametrize("words", ["attribute --no-such-option", "report no-such-folder"])
def test_the_collector_runs_again_after_a_command_that_failed(words, monkeypatch, collecting):
    monkeypatch.setattr("sys.argv", ["layerscope", *words.split()])
    try:
        status = main()
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert gc.isenabled()


PUBLIC_NAMES = """
import pkgutil, sys, types
from layerscope import *
given = dict(globals())
import layerscope as ls
rooms = ls.hooks, ls.probes, ls.experiments
expected = {name for room in rooms for name in room.__all__}
assert expected <= set(given), expected - set(given)
before = {name: getattr(ls, name) for name in dir(ls)}
for room in rooms:
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        __import__(module.name)
for name, thing in before.items():
    assert getattr(ls, name) is thing, f"{name} is {getattr(ls, name)}"
"""


def test_public_names_come_with_a_star_and_stay_when_all_modules_are_imported():
    # a module that has a public name would take its place once something imports it
    command = [sys.executable, "-W", "error::ImportWarning", "-c", PUBLIC_NAMES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "rounds"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_idle_threads_soon_sleep_unless_the_user_has_set_how_they_wait(given, rounds):
    """GCC's OpenMP says itself how long its threads wait."""
    free = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-m", "layerscope", "doctor", "--model", "no-such-folder"],
        cwd=ROOT,
        env={**free, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    rounds_read = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not rounds_read:
        pytest.skip("torch's OpenMP is not GCC's")
    # What GCC takes for an active wait is its own affair.
    assert set(rounds_read) == {rounds} if rounds else "1000" not in rounds_read
