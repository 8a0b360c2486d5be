"""A sample of the battery of hostile options and files; all of it runs by hand (``python tests/robustness/battery.py``)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("battery", Path(__file__).with_name("battery.py"))
assert SPEC is not None
assert SPEC.loader is not None
module = importlib.util.module_from_spec(SPEC)
sys.modules["battery"] = module
SPEC.loader.exec_module(module)


def test_bad_input_is_one_line_and_never_a_traceback():
    counts, failed = module.battery(500, seed=1)
    assert counts["status 0"] > 50  # the cases are not all refused at the door
    assert not [(one.wrong, one.words, one.message) for one in failed]


def test_the_battery_notices_a_bug(monkeypatch):
    from layerscope.experiments.runs import execute

    def fails(inputs):
        raise KeyError("control_scores")

    monkeypatch.setattr(execute, "identity_of", fails)
    _, failed = module.battery(20, seed=1)
    assert {one.wrong for one in failed} == {"a traceback"}
