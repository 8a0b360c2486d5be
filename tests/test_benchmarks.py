"""What `benchmarks/run.py --check` calls worse, and README's rows."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import check

    yield check
    sys.modules.pop("check", None)


def block(value, low, high):
    return (
        f"## x\n\n```\n$ run\nten sides, 2x64: {value:.3f}x ({low:.3f} to {high:.3f} of 7 "
        "turns)\n```\n"
    )


@pytest.mark.parametrize(
    ("now", "gain", "cost"),
    [
        ((2.0, 1.9, 2.1), False, False),
        ((1.5, 1.4, 1.6), True, False),  # wholly below: worse if it is a gain
        ((1.5, 1.4, 2.2), False, False),  # its own spread reaches back
        ((2.5, 2.4, 2.6), False, True),
    ],
)
def test_worse_is_beyond_both_spreads_and_by_direction(benchmarks, now, gain, cost):
    before = block(2.0, 1.9, 2.1)
    assert list(benchmarks.ratios(before)) == ["ten sides, #x#"]
    assert bool(benchmarks.worse(before, block(*now), costs="")) == gain
    assert bool(benchmarks.worse(before, block(*now), costs="sides")) == cost


def test_a_ratio_without_a_spread_has_an_assumed_one(benchmarks):
    before, now = "```\nsolve: 13.6x\n```", "```\nsolve: 11.0x\n```"
    assert benchmarks.worse(before, now, "") == ["solve: 11x, was 13.6x (11.6 to 15.6)"]
    assert not benchmarks.worse(before, "```\nsolve: 11.8x\n```", "")
    assert not benchmarks.worse(before, "```\nanother: 1.0x\n```", "")


def test_every_row_of_readme_is_in_the_results(benchmarks):
    rows = re.findall(r'^        "([a-z-]+)",\n        "([^"]+)",\n        "{', _source(), re.M)
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", results, re.M | re.S))
    assert rows
    for name, label in rows:
        assert any(label in found for found in benchmarks.ratios(blocks[name])), (name, label)


def _source():
    return (ROOT / "benchmarks" / "run.py").read_text(encoding="utf-8")
