"""Races over prompts: against a run without one, and against games whose order is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from experiments import cli
from experiments.sweep.race import stages, surely_behind


def text_lines(count: int) -> str:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        words = rng.integers(3, 60, size=int(rng.integers(3, 7)))
        lines.append(
            json.dumps(
                {"prompt": " ".join(f"w{w}" for w in words), "answer": " w7", "wrong": " w8"}
            )
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("race")
    tiny.model("llama").save_pretrained(base / "model")
    tiny.tokenizer().save_pretrained(base / "model")
    (base / "prompts.jsonl").write_text(text_lines(40), encoding="utf-8")
    return base


def ran(folder: Path, name: str, *more: str) -> dict[str, Any]:
    command = ["ablate", "--model", str(folder / "model"), "--prompts"]
    command += [str(folder / "prompts.jsonl"), "--out", str(folder / name), *more]
    assert cli.main(command) == 0
    return json.loads((folder / name / "results.json").read_text(encoding="utf-8"))


def test_those_that_are_left_have_the_effects_of_a_run_without_a_race(folder: Path) -> None:
    """The two heads of largest effect are left; every other record is marked,
    and its effect is of the prompts that it ran on.
    """
    whole, raced = ran(folder, "whole"), ran(folder, "raced", "--race", "2")
    by_site = {record["site"]: record for record in whole["records"]}
    largest = sorted(by_site, key=lambda site: -abs(by_site[site]["effect"]))[:2]
    left = [record for record in raced["records"] if record["ran_on"] == 40]
    stopped = [record for record in raced["records"] if record["ran_on"] < 40]
    assert stopped
    assert set(largest) <= {record["site"] for record in left}
    for record in left:
        same = by_site[record["site"]]
        for field in ("effect", "p", "n"):
            assert record[field] == pytest.approx(same[field], abs=1e-6)
        for end in ("low", "high"):
            assert record["effect_interval"][end] == pytest.approx(
                same["effect_interval"][end], abs=1e-6
            )
    for record in stopped:
        assert record["effect_interval"] is None
        assert record["p"] is None
        assert not record["exact"]
        assert record["n"] == record["ran_on"] in (10, 15, 23, 35)
    note = next(n["text"] for n in raced["notes"] if n["text"].startswith("race"))
    assert f"{len(left)} of {len(whole['records'])} heads ran on all 40 prompts" in note
    assert ", stopped" in (folder / "raced" / "report.html").read_text(encoding="utf-8")
    # Resumed from its cells: the same race, and nothing runs again.
    (folder / "raced" / "results.json").unlink()
    assert ran(folder, "raced", "--race", "2")["records"] == raced["records"]


def test_a_stage_is_whole_groups_and_all_prompts_come_once() -> None:
    clusters = np.repeat(np.arange(30), 2)
    of_stages = stages(clusters, seed=3)
    assert sorted(np.concatenate(of_stages).tolist()) == list(range(60))
    assert [len(stage) for stage in of_stages] == [20, 10, 16, 14]
    for stage in of_stages:
        assert set(np.bincount(clusters[stage]).tolist()) <= {0, 2}


def test_the_true_largest_seldom_leave_and_most_of_the_others_do() -> None:
    """Simulated with heavy tails: 100 parts, 50 prompts, the largest 5 of known means."""
    rng = np.random.default_rng(0)
    lost, shares = 0, []
    for trial in range(40):
        means = np.concatenate([rng.normal(0, 0.03, 88), rng.normal(0, 0.7, 12)])
        noise = rng.standard_t(4, size=(100, 50)) * np.sqrt(0.05 + np.abs(means))[:, None]
        effects = means[:, None] + 0.4 * noise
        top = set(np.argsort(-np.abs(means))[:5].tolist())
        alive, seen, cost = np.arange(100), np.zeros(50, dtype=bool), 0
        of_stages = stages(np.arange(50), seed=trial)
        for stage in of_stages[:-1]:
            seen[stage] = True
            cost += len(alive) * len(stage)
            some = effects[np.ix_(alive, seen)]
            level = 0.05 / (len(of_stages) - 1)
            alive = alive[~surely_behind(some, np.flatnonzero(seen), 5, level)]
        cost += len(alive) * len(of_stages[-1])
        lost += not top <= set(alive.tolist())
        shares.append(cost / effects.size)
    assert lost <= 2
    assert np.mean(shares) < 0.5


def test_what_a_race_cannot_do_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["ablate", "--model", str(folder / "model"), "--out", str(folder / "bad"), "--prompts"]
    base += [str(folder / "prompts.jsonl")]
    cases = [
        (["--race", "2", "--limit", "5"], "--race: expected more than 10 prompts"),
        (["--race", "8"], "--race 8: expected fewer than the 8 heads"),
        (["--race", "2", "--estimate", "gradient"], "expected one of --race and --estimate"),
    ]
    for more, message in cases:
        assert cli.main([*base, *more]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
