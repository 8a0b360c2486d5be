"""What `benchmarks/run.py --check` calls worse, and README's rows."""

import ast
import importlib
import re
import sys
import types
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
    assert bool(benchmarks.worse(before, block(*now), "")) == gain
    assert bool(benchmarks.worse(before, block(*now), "sides")) == cost


def test_a_ratio_without_a_spread_has_an_assumed_one(benchmarks):
    before, now = "```\nsolve: 13.6x\n```", "```\nsolve: 11.0x\n```"
    assert benchmarks.worse(before, now, "") == ["solve: 11x, was 13.6x (11.6 to 15.6)"]
    assert not benchmarks.worse(before, "```\nsolve: 11.8x\n```", "")
    gone = benchmarks.worse(before, "```\nanother: 1.0x\n```", "")
    assert gone == ["solve: not measured, was 13.6x (11.6 to 15.6)"]


def test_costs_are_compared_where_there_is_no_ratio_and_times_by_the_machines_speed(benchmarks):
    def block(seconds, megabytes, product):
        return (
            f"```\ndemo: median {seconds} s ({seconds - 1} to {seconds + 1}, 3 runs), "
            f"{megabytes} MB\npython: 0.02 s\n```\n\nthe product took {product}, {product} s "
            f"before and {product} s after."
        )

    before = block(10.0, 3.0, 0.01)
    assert not benchmarks.worse(before, block(20.0, 3.0, 0.02), "demo|#")  # a slower machine
    (slower,) = benchmarks.worse(before, block(20.0, 3.0, 0.01), "demo")
    assert slower.startswith("demo: median: 2e+03s, was 1e+03s (900 to 1.1e+03)")
    (larger,) = benchmarks.worse(before, block(10.0, 4.0, 0.01), "runs")
    assert larger == "# runs): 4MB, was 3MB (2.55 to 3.45)"
    assert not benchmarks.worse(before, block(10.0, 3.0, 0.01).replace("0.02", "0.09"), "demo")


def test_every_row_of_readme_is_in_the_results(benchmarks):
    rows = re.findall(r'^        "([a-z-]+)",\n        "([^"]+)",\n        "{', _source(), re.M)
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", results, re.M | re.S))
    assert rows
    for name, label in rows:
        assert any(label in found for found in benchmarks.ratios(blocks[name])), (name, label)


def _source():
    return (ROOT / "benchmarks" / "run.py").read_text(encoding="utf-8")


SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").rglob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_name_that_a_script_takes_from_the_library_is_there(script):
    assert not missing_names(script.read_text(encoding="utf-8"))


def missing_names(source):
    """Names of layerscope that a script imports, or reads off a module of it, and that are gone."""
    tree, modules, missing = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("layerscope"):
            continue
        owner = importlib.import_module(node.module)
        for alias in node.names:
            try:
                value = getattr(owner, alias.name, None) or importlib.import_module(
                    f"{node.module}.{alias.name}"
                )
            except ImportError:
                missing.append(f"{node.module}.{alias.name}")
                continue
            if isinstance(value, types.ModuleType):
                modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            if owner is not None and not hasattr(owner, node.attr):
                missing.append(f"{owner.__name__}.{node.attr}")
    return missing


def test_a_missing_name_is_found():
    source = "from layerscope.hooks import edits, gone\nedits.scale(2), edits.vanished()"
    assert missing_names(source) == ["layerscope.hooks.gone", "layerscope.hooks.edits.vanished"]
