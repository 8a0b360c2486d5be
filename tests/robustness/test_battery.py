"""A sample of the battery of hostile options and files; all of it runs by hand (``python tests/robustness/battery.py``)."""

from __future__ import annotations

from robustness import battery


def test_bad_input_is_one_line_and_never_a_traceback():
    counts, failed = battery.battery(500, seed=1)
    assert counts["status 0"] > 50  # the cases are not all refused at the door
    assert not [(one.wrong, one.words, one.message) for one in failed]


def test_the_battery_notices_a_bug(monkeypatch):
    from layerscope.experiments.runs import execute

    def fails(inputs):
        raise KeyError("control_scores")

    monkeypatch.setattr(execute, "identity_of", fails)
    _, failed = battery.battery(20, seed=1)
    assert {one.wrong for one in failed} == {"a traceback"}
