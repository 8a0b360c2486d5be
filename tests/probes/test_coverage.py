"""Intervals cover and tests reject as often as they say:
a small run of ``benchmarks/coverage.py``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"
RUNS = 80
"""A rate of .95 has a standard error of .024."""


@pytest.fixture
def coverage(monkeypatch):
    """The script; only while it is imported, its folder's other files (such as hooks.py) can be."""
    spec = importlib.util.spec_from_file_location("coverage_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(PATH.parent))
        spec.loader.exec_module(script)
    return script


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "sizes", "least", "most"),
    [
        ("selectivity", (1000,), 0.88, 1.0),
        ("ece", ((100, 1, 0.0), (300, 5, 0.3)), 0.88, 1.0),
        ("best", (13,), 0.0, 0.125),
        ("layers", (8,), 0.0, 0.11),
        ("f1", (500,), 0.88, 1.0),
        ("mean", (10,), 0.83, 1.0),
        ("rejections", (15,), 0.0, 0.09),
        ("agreement", (3, 10), 0.87, 1.0),
    ],
)
def test_rates_are_what_they_say(
    coverage, part: str, sizes: tuple, least: float, most: float
) -> None:
    for what, _, now, _ in getattr(coverage, part)(RUNS, np.random.default_rng(0), sizes):
        if "outside" in what or "disagree" in what:
            assert now == 0, what
        elif "miscalibrated" in what:
            assert now <= 0.125, what
        else:
            assert least <= now <= most, what
