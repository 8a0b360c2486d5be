"""Races over prompts: against a run without one, and against games whose order is known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from experiments import cli
from experiments.runs.folder import RunFolder
from experiments.sweep.elimination import WRONG, eliminate, standing
from experiments.sweep.race import stages


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
    """The two heads of largest effect are left; every other record is marked, and its interval
    covers the effect of the run without a race.
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
        assert "stopped_interval" not in record
    for record in stopped:
        assert record["effect_interval"] is None
        assert record["p"] is None
        assert not record["exact"]
        assert record["stopped"] == record["effect"]
        assert record["n"] == 40
        assert record["ran_on"] in (8, 11, 15, 21, 29)
        full = by_site[record["site"]]["effect"]
        assert record["stopped_interval"]["low"] <= full <= record["stopped_interval"]["high"]
    note = next(n["text"] for n in raced["notes"] if n["text"].startswith("race"))
    assert f"{len(left)} of {len(whole['records'])} heads ran on all 40 prompts" in note
    assert "one gradient of each prompt" in note
    assert ", stopped" in (folder / "raced" / "report.html").read_text(encoding="utf-8")


def test_a_race_that_was_killed_ends_with_the_same_records(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second stage and continued: what was measured is not measured again."""
    once = ran(folder, "once", "--race", "2")
    save, saved = RunFolder.save_cell, []

    def counted(self: RunFolder, name: str, value: Any) -> Any:
        if "stage 1" in name and len(saved) < 20:
            saved.extend([""] * 20)
            raise KeyboardInterrupt
        saved.append(name)
        return save(self, name, value)

    monkeypatch.setattr(RunFolder, "save_cell", counted)
    command = ["ablate", "--model", str(folder / "model"), "--prompts"]
    command += [str(folder / "prompts.jsonl"), "--out", str(folder / "killed"), "--race", "2"]
    assert cli.main(command) == 130
    kept = [name for name in saved if name]
    assert any("stage 0" in name for name in kept)
    again = ran(folder, "killed", "--race", "2")
    assert again["records"] == once["records"]
    names = [name for name in saved if name]
    assert len(names) == len(set(names))


def test_a_metric_without_a_gradient_races_without_one(folder: Path) -> None:
    raced = ran(folder, "steps", "--race", "2", "--metric", "answer_accuracy")
    note = next(n["text"] for n in raced["notes"] if n["text"].startswith("race"))
    assert "without gradients (metric answer_accuracy has no gradient" in note


def test_all_prompts_come_once_in_stages_that_grow() -> None:
    of_stages = stages(60, seed=3)
    assert sorted(np.concatenate(of_stages).tolist()) == list(range(60))
    assert [len(stage) for stage in of_stages] == [8, 3, 4, 6, 8, 11, 14, 6]


def test_the_error_is_that_of_every_sample_that_could_be_drawn() -> None:
    """Over all samples of 4 of 8 prompts the estimates average to the mean over all prompts, and
    their variance is the average of the variances that are reported: no assumption on the effects
    is part of it.
    """
    rng = np.random.default_rng(1)
    effects = rng.lognormal(size=(3, 8))
    estimates = np.stack([effects[0] + 0.02 * rng.normal(size=8), np.zeros(8), 0.3 * effects[2]])
    means, variances = [], []
    for prompts in itertools.combinations(range(8), 4):
        is_sampled = np.isin(np.arange(8), prompts)
        now = standing(effects[:, is_sampled], estimates, is_sampled)
        means.append(now.means)
        variances.append(now.variances(np.zeros(3), 1.0))
    np.testing.assert_allclose(np.mean(means, axis=0), effects.mean(1), atol=1e-12)
    np.testing.assert_allclose(np.var(means, axis=0), np.mean(variances, axis=0), rtol=1e-9)
    everyone = standing(effects, estimates, np.ones(8, dtype=bool))
    np.testing.assert_allclose(everyone.means, effects.mean(1), rtol=1e-12)
    assert (everyone.variances(np.ones(3), 1.0) == 0).all()


def simulated(rng: np.random.Generator, shape: str, wrong: float = WRONG) -> tuple[bool, float]:
    """Whether a race for 10 of 200 parts on 60 prompts stops one of the true 10 largest,
    and the share of effects that it measures.

    A part is planted at rank 10; the next one is 4% smaller. The estimates see half of what varies.
    """
    n_parts, n_prompts, keep = 200, 60, 10
    sizes = np.concatenate([np.linspace(2, 1.04, 9), [1.0], np.linspace(0.96, 0.6, 12)])
    sizes = np.concatenate([sizes, rng.uniform(0, 0.2, n_parts - len(sizes))])
    noise = {
        "normal": lambda: rng.normal(size=(n_parts, n_prompts)),
        "heavy": lambda: rng.standard_t(3, size=(n_parts, n_prompts)) / np.sqrt(3),
        "skewed": lambda: (rng.lognormal(size=(n_parts, n_prompts)) - 1.65) / 2.16,
        "rare": lambda: ((rng.random((n_parts, n_prompts)) < 0.3) - 0.3) / 0.46,
    }[shape]
    seen, unseen = noise(), noise()
    spread = np.where(sizes > 0.5, 0.5, 0.15)[:, None] / np.sqrt(2)
    # Each part's effect over these prompts is as large as it was planned.
    unseen -= (seen + unseen).mean(1, keepdims=True)
    signs = rng.choice([-1, 1], size=(n_parts, 1))
    effects = signs * (sizes[:, None] + spread * (seen + unseen))
    estimates = signs * spread * seen
    site_names = [str(part // 9) for part in rng.permutation(n_parts)]
    of_stages = stages(n_prompts, seed=int(rng.integers(1 << 30)))

    def effects_of(stage: int, alive: np.ndarray) -> np.ndarray:
        return effects[np.ix_(alive, np.array(of_stages[stage]))]

    outcome = eliminate(effects_of, of_stages, estimates, site_names, keep, wrong)
    return bool((outcome.ran_on[:keep] < n_prompts).any()), outcome.ran_on.mean() / n_prompts


@pytest.mark.parametrize("shape", ["normal", "heavy", "skewed", "rare"])
def test_a_part_planted_at_rank_10_seldom_stops_and_most_others_do(shape: str) -> None:
    """In at most WRONG of the races, which take less than half of the effects; the control is a
    rule at the level of one test of one pair, which loses it far more often.
    """
    rng = np.random.default_rng(0)
    races = [simulated(rng, shape) for _ in range(60)]
    lost = np.mean([is_lost for is_lost, _ in races])
    assert lost <= WRONG
    assert np.mean([share for _, share in races]) < 0.5
    careless = [simulated(rng, shape, wrong=4000.0) for _ in range(20)]
    assert np.mean([is_lost for is_lost, _ in careless]) > 4 * WRONG


def test_what_a_race_cannot_do_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["ablate", "--model", str(folder / "model"), "--out", str(folder / "bad"), "--prompts"]
    base += [str(folder / "prompts.jsonl")]
    cases = [
        (["--race", "2", "--limit", "5"], "--race: expected more than 8 prompts"),
        (["--race", "8"], "--race 8: expected fewer than the 8 heads"),
        (["--race", "2", "--estimate", "gradient"], "expected one of --race and --estimate"),
    ]
    for more, message in cases:
        assert cli.main([*base, *more]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
