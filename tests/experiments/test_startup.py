"""What a command does before it computes: the collector of cycles rests, and then goes on."""

from __future__ import annotations

import gc

import pytest
import tiny
from layerscope.experiments import subject

from layerscope.__main__ import main


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
