"""One bad line does not end a file: it is left out, counted and named,
in every command that reads lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.demo import demo_paths

GOOD = [
    {"prompt": f"The {noun} near the {place}", "answer": " is", "wrong": " are"}
    for noun in ("guard", "author", "farmer", "pilot", "teacher", "doctor")
    for place in ("house", "car")
]
"""A prompt a line; twelve, so that one more is less than a tenth of them."""
LETTERS = "abcdefghijklmnop"
BAD = 3
"""Where the bad line stands, from 1."""
COMMANDS: dict[str, tuple[str, Any]] = {
    "lens": ("lens --prompts {bad} --random-models 0", {"answer": " is"}),
    "lens, too long": ("lens --prompts {bad} --random-models 0", {"prompt": "guard " * 600}),
    "lens corpus": ("lens --corpus {bad} --random-models 0", {"answer": " is"}),
    "attribute": ("attribute --prompts {bad} --null-draws 0 --seeds 0", {"answer": " is"}),
    "attribute, no word": ("attribute --prompts {bad} --null-draws 0 --seeds 0", {"prompt": "  "}),
    "attribute, no picture": (
        "attribute --prompts {bad} --null-draws 0 --seeds 0",
        {"prompt": "The guard", "image": "gone.png"},
    ),
    "attend": ("attend --prompts {bad}", {"prompt": 3}),
    "ablate reference": (
        "ablate --prompts {good} --reference {bad} --component mlps --value mean",
        {"answer": " is"},
    ),
    "ablate, no picture": (
        "ablate --prompts {bad} --component mlps",
        {**GOOD[0], "image": "gone.png"},
    ),
    "patch": ("patch --clean {good} --corrupted {bad} --by layer", {"answer": " is"}),
    "swap words": ("swap --prompts {good} --words {words} --null-draws 1", {"a": "guard"}),
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def words_of(name: str, folder: Path, count: int) -> list[str]:
    """The command, on files with so many bad lines."""
    line, bad = COMMANDS[name]
    others = [{**row, "prompt": row["prompt"].replace("near", "behind")} for row in GOOD]
    pairs = [{"a": "guard", "b": "author"}, *({"a": f"x{c}", "b": f"y{c}"} for c in LETTERS)]
    # A line of --corrupted stands for one of --clean; in other files the bad lines are additional.
    rest = others[BAD - 1 + count :] if name == "patch" else others[BAD - 1 :] + GOOD
    files = {
        "good": write(folder / "good.jsonl", GOOD),
        "bad": write(folder / "bad.jsonl", [*others[: BAD - 1], *[bad] * count, *rest]),
        "words": write(folder / "words.jsonl", [*pairs[:2], *[bad] * count, *pairs[2:]]),
    }
    given = line.format(**files).split()
    return [*given, "--model", str(demo_paths().model), "--device", "cpu"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_line_is_left_out_and_named(name: str, tmp_path: Path) -> None:
    assert cli.main([*words_of(name, tmp_path, 1), "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    dropped = [note["text"] for note in results["notes"] if note["kind"] == "dropped"]
    assert any(text.startswith("1 of ") and f"line {BAD}: " in text for text in dropped), dropped


@pytest.mark.parametrize("name", COMMANDS)
def test_many_bad_lines_are_an_error_that_says_how_to_go_on(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(name, tmp_path, 4)
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "cannot be measured: correct them, or leave them out with --skip" in said
    assert "(lines 3, 4, 5, and 1 more: " in said
    assert cli.main([*words, "--skip", "0.5", "--dry-run", "--out", str(tmp_path / "other")]) == 0


def test_a_text_of_the_command_line_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(demo_paths().model), "--out", str(tmp_path / "run")]
    assert cli.main(["lens", *words, "--text", "guard " * 600]) == 2
    assert "expected a text of at most" in capsys.readouterr().err
