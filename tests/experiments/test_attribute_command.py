"""layerscope attribute on the embedded model, faithfulness against closed forms,
bad input in one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_game import Fake
from rich.console import Console

from experiments import cli
from experiments.attribution import Target, attribute
from experiments.attribution import faithfulness as faith
from experiments.attribution.examples import nearest
from experiments.demo import demo_paths
from experiments.report.schema import Interval
from experiments.runs.folder import RunFolder
from experiments.studies.attribute.findings import findings
from experiments.studies.attribute.options import AttributeOptions
from experiments.studies.attribute.records import MethodRecord, RandomRecord
from experiments.studies.attribute.tables import coloured
from experiments.subject import load

TEXT = "The old teachers near the big house"


def command(out: Path, *more: str) -> list[str]:
    words = ["attribute", "--model", str(demo_paths().model), "--out", str(out)]
    return [*words, *more]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("attribute")
    lines = [
        {"prompt": TEXT, "answer": " are", "wrong": " is"},
        {"prompt": "The teacher near the houses", "answer": " are", "wrong": " is"},
    ]
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    methods = ("leave-one-out", "kernel-shap", "lime")
    options = [word for method in methods for word in ("--method", method)]
    given = command(
        folder / "run",
        "--prompts",
        str(folder / "p.jsonl"),
        *options,
        "--samples",
        "120",
        "--seeds",
        "1",
    )
    given += ["--flips", "2", "--known", str(folder / "p.jsonl")]
    assert cli.main(given) == 0
    return json.loads((folder / "run" / "results.json").read_text(encoding="utf-8")), folder


def test_the_head_noun_decides_the_number_of_the_verb(found: tuple[dict[str, Any], Path]) -> None:
    results, folder = found
    records = {(r["item"], r["method"]): r for r in results["records"]}
    assert len(records) == 2 * 4
    for method in ("leave-one-out", "kernel-shap", "lime"):
        plural, singular = records[0, method], records[1, method]
        assert plural["units"][int(np.argmax(plural["scores"]))] == "teachers"
        assert singular["scores"][singular["units"].index("teacher")] < 0
        assert plural["comprehensiveness"] > records[0, "random"]["comprehensiveness"]
    shap = records[0, "kernel-shap"]
    assert sum(shap["scores"]) == pytest.approx(shap["value"] - shap["baseline"], abs=1e-3)
    assert shap["forwards"] < shap["asked"] + 5
    assert records[0, "lime"]["stability"] > 0
    assert results["agreement"]["lime"]["lime"] == pytest.approx(1)
    example = results["examples"][0]
    assert example["flip"]["changes"][0][1] == "teachers"
    assert example["flip"]["flipped"]
    assert example["nearest"][0]["text"] == TEXT
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert 'class="w-up4"' in page
    assert ">teachers</span>" in page


def test_no_method_is_praised_that_does_no_better_than_random() -> None:
    curves: dict[str, Any] = {"deleted": [0.0] * 11, "inserted": [0.0] * 11}
    others = ("sufficiency", "deletion", "insertion", "infidelity")
    ends = {f"{name}_interval": Interval(0.0, 0.0) for name in ("comprehensiveness", *others)}
    one: dict[str, Any] = {
        "item": 0,
        "text": "x",
        "target": "logit of 'a'",
        "unit": "nats",
        "measured_by": "mask",
    }
    one |= {**curves, **dict.fromkeys(others, 0.0)}
    found: dict[str, Any] = {
        "units": ["x"],
        "spans": [[0, 1]],
        "scores": [1.0],
        "errors": None,
        "value": 1.0,
    }
    found |= {
        "baseline": None,
        "asked": 1,
        "forwards": 1,
        "backwards": 0,
        "notes": [],
        "inner": None,
        "more": {},
    }
    found |= {"stability": None, "sensitivity": None}
    for loss, above, beyond in ((2.0, 1, 1), (1.2, 1, 0), (0.5, 0, 0)):
        ends["comprehensiveness_interval"] = Interval(0.7, 1.3)
        records = [
            MethodRecord(**one, **found, method="lime", comprehensiveness=loss),
            RandomRecord(**one, **ends, method="random", draws=1, comprehensiveness=1.0),
        ]
        text = findings(records, ["lime"])[-1].text
        assert f"The average is exceeded by {above} of 1, the costliest draws by {beyond}." in text


def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = command(
        tmp_path / "run", "--text", TEXT, "--text", "The dog", "--target", " are", "--random", "1"
    )
    saved: list[str] = []
    save = RunFolder.save_cell

    def stop_after(self: RunFolder, name: str, value: Any) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(name)
        save(self, name, value)

    monkeypatch.setattr(RunFolder, "save_cell", stop_after)
    assert cli.main(given) == 130
    monkeypatch.setattr(
        RunFolder,
        "save_cell",
        lambda self, name, value: (saved.append(name), save(self, name, value)),
    )
    assert cli.main(given) == 0
    assert sorted(saved) == [
        "00000-leave-one-out",
        "00000-random",
        "00001-leave-one-out",
        "00001-random",
    ]


def test_a_text_cut_between_its_methods_gets_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measures of methods share values, which batches of other rows would round otherwise."""
    given = [
        "--text",
        TEXT,
        "--target",
        " are",
        "--method",
        "leave-one-out",
        "--method",
        "lime",
        "--method",
        "ig",
    ]
    given += ["--samples", "30", "--random", "2"]
    assert cli.main(command(tmp_path / "whole", *given)) == 0
    save, saved = RunFolder.save_cell, 0

    def stop_after(self: RunFolder, name: str, value: Any) -> None:
        nonlocal saved
        save(self, name, value)
        saved += 1
        if saved % 2 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_cell", stop_after)
    assert [cli.main(command(tmp_path / "cut", *given)) for _ in range(2)] == [130, 130]
    # as the message about a damaged cell says
    (tmp_path / "cut" / "cells" / "00000-lime.json").unlink()
    assert cli.main(command(tmp_path / "cut", *given)) == 0
    whole, cut = (
        json.loads((tmp_path / n / "results.json").read_text())["records"] for n in ("whole", "cut")
    )
    assert whole == cut


def test_stability_is_measured_wherever_something_is_drawn(tmp_path: Path) -> None:
    for removal, drawn in (("resample", True), ("mean", False)):
        given = command(
            tmp_path / removal,
            "--text",
            "The dog",
            "--target",
            " is",
            "--random",
            "0",
            "--removal",
            removal,
        )
        assert cli.main([*given, "--method", "leave-one-out", "--seeds", "1"]) == 0
        (record,) = json.loads((tmp_path / removal / "results.json").read_text(encoding="utf-8"))[
            "records"
        ]
        assert (record["stability"] is not None) == drawn


def test_each_step_of_a_generation_is_explained(tmp_path: Path) -> None:
    assert (
        cli.main(command(tmp_path / "run", "--text", "The old", "--generate", "3", "--random", "0"))
        == 0
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    texts = [r["text"] for r in results["records"]]
    assert [t.startswith("The old") for t in texts] == [True] * 3
    assert texts[1] == texts[0] + results["records"][0]["target"].split("'")[1]
    assert any("random" in note["text"] for note in results["notes"])


def test_every_option_reaches_the_method_that_reads_it(tmp_path: Path) -> None:
    known = [{"prompt": text} for text in ("The teacher near the houses", "Dogs run", TEXT)]
    (tmp_path / "known.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in known), encoding="utf-8"
    )
    given = [
        "--text",
        TEXT,
        "--target",
        " are",
        "--wrong",
        " is",
        "--measure",
        "log-probability",
        "--level",
        "token",
    ]
    more: dict[str, Any] = {
        "removal": "noise",
        "samples": 2,
        "baseline": "sampled",
        "steps": 12,
        "seed": 4,
    }
    told = {**more, "random": 0, "seeds": 0, "sensitivity": 1}
    given += ["--method", "leave-one-out", "--method", "ig"]
    given += [word for name, value in told.items() for word in (f"--{name}", str(value))]
    given += ["--known", str(tmp_path / "known.jsonl"), "--known-site", "blocks.0.hook_resid_post"]
    assert cli.main(command(tmp_path / "run", *given)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    subject = load(demo_paths().model)
    target = Target(" are", " is", "log-probability")
    assert [r["method"] for r in results["records"]] == ["leave-one-out", "ig"]
    for record in results["records"]:
        expected = attribute(
            subject, TEXT, target=target, level="token", method=record["method"], **more
        )
        np.testing.assert_allclose(record["scores"], expected.scores, atol=1e-4)
        assert record["unit"] == expected.unit == "bits"
        assert record["measured_by"] == "noise"
        assert record["sensitivity"] > 0
        change = {"leave-one-out": {"removal": "pad"}, "ig": {"samples": 3}}
        other = attribute(
            subject,
            TEXT,
            target=target,
            level="token",
            method=record["method"],
            **more | change[record["method"]],
        )
        assert np.abs(other.scores - expected.scores).max() > 1e-3  # and each option matters
    texts = [(line["prompt"], None) for line in known]
    near = nearest(subject, TEXT, texts, "blocks.0.hook_resid_post")
    assert [n["cosine"] for n in results["examples"][0]["nearest"]] == pytest.approx(
        [n.cosine for n in near], abs=1e-5
    )
    default = nearest(subject, TEXT, texts, AttributeOptions(model="m").known_site)
    assert abs(default[1].cosine - near[1].cosine) > 1e-3


def test_what_hidden_out_puts_in_is_what_was_asked_for(tmp_path: Path) -> None:
    site = "blocks.2.hook_mlp_out"
    given = [
        "--text",
        TEXT,
        "--target",
        " are",
        "--method",
        "hidden-out",
        "--site",
        site,
        "--random",
        "0",
    ]
    scores = {}
    for flag, value in (("--value", "zero"), ("--hidden", "layer:0")):  # the second is the old name
        out = tmp_path / value[:4]
        assert cli.main(command(out, *given, flag, value)) == 0
        (record,) = json.loads((out / "results.json").read_text(encoding="utf-8"))["records"]
        scores[value] = record["scores"]
    subject = load(demo_paths().model)
    for value, found in scores.items():
        expected = attribute(
            subject, TEXT, target=" are", method="hidden-out", site=site, value=value
        )
        np.testing.assert_allclose(found, expected.scores, atol=1e-5)
    assert np.abs(np.subtract(*scores.values())).max() > 1e-3


def test_words_have_a_ground_as_strong_as_their_scores() -> None:
    text = coloured("good bad so", [[0, 4], [5, 8], [9, 11]], [2.0, -1.0, 0.0])
    with (
        Console(force_terminal=True, color_system="truecolor", width=40) as console,
        console.capture() as capture,
    ):
        console.print(text)
    assert "48;2;31;95;166mgood" in capture.get()
    assert [(span.start, span.end) for span in text.spans] == [(0, 4), (5, 8)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "one of --text TEXT, --audio FILE (of a speech model) and --prompts FILE"),
        (["--text", ""], "expected a text with words"),
        (["--text", TEXT, "--method", "magic"], "expected one of leave-one-out"),
        (["--text", TEXT, "--target", ""], "has no token"),
        (["--text", TEXT, "--target", " are big", "--flips", "1"], "expected answers of one token"),
        (["--text", TEXT, "--method", "conductance"], "conductance is of a site"),
        (["--text", TEXT, "--method", "ig", "--site", "blocks.9.hook_z"], "no site"),
        (["--text", " ".join(["dog"] * 200)], "longer than the model's"),
        (["--text", TEXT, "--probe", "none.safetensors"], "no such file"),
        (
            ["--text", TEXT, "--proposals", str(demo_paths().model)],
            "expected a masked language model",
        ),
        (["--text", TEXT, "--method", "hidden-out"], "hidden-out is of a site"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where no such files are
    assert cli.main(command(tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


# -- faithfulness

WEIGHTS = np.array([4.0, -1.0, 0.5, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_measures_of_a_linear_game_are_known() -> None:
    game = Fake(10, lambda mask: WEIGHTS @ mask)
    true = faith.faithfulness(game, WEIGHTS)
    # 1, 5, 10, 20, 50% of 10 units: 1, 1, 1, 2, 5 of them.
    assert true.comprehensiveness == pytest.approx((3 * 4 + 6 + 6.5) / 5)
    assert true.sufficiency == pytest.approx(5.5 - (3 * 4 + 6 + 6.5) / 5)
    assert true.infidelity == pytest.approx(0, abs=1e-12)
    assert (true.deleted[0], true.deleted[-1], true.inserted[0], true.inserted[-1]) == (
        5.5,
        0,
        0,
        5.5,
    )
    assert true.inserted[1] == 4
    wrong = faith.faithfulness(game, -WEIGHTS)
    assert wrong.comprehensiveness < 0 < true.comprehensiveness
    drawn = faith.random_faithfulness(game, 20)
    mean = np.mean([d.comprehensiveness for d in drawn])
    assert wrong.comprehensiveness < mean < true.comprehensiveness
    assert all(d.infidelity > 0.05 for d in drawn)


def test_ranks_agree_or_do_not() -> None:
    assert faith.rank_agreement(WEIGHTS, 3 * WEIGHTS) == pytest.approx(1)
    assert faith.rank_agreement(WEIGHTS, -WEIGHTS) == pytest.approx(-1)
    assert faith.rank_agreement(WEIGHTS, np.zeros(10)) is None
    assert faith.mean_agreement([WEIGHTS, WEIGHTS, -WEIGHTS]) == pytest.approx(-1 / 3)


def test_infidelity_is_captums() -> None:
    metrics = pytest.importorskip("captum.metrics")
    import torch

    table = np.random.default_rng(0).normal(size=16)
    game = Fake(4, lambda mask: table[int((np.asarray(mask) * 2 ** np.arange(4)).sum())])
    scores = np.array([0.3, -0.2, 0.5, 0.1])
    gone = iter(faith.random_sets(4, faith.DRAWN, 0))

    def perturb(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = torch.tensor(np.array([next(gone) for _ in range(len(inputs))]), dtype=torch.float64)
        return step, inputs - step

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor(game((inputs > 0.5).numpy()))

    ones = torch.ones(1, 4, dtype=torch.float64)
    theirs = metrics.infidelity(
        forward,
        perturb,
        ones,
        torch.tensor(scores)[None],
        n_perturb_samples=faith.DRAWN,
        normalize=True,
    )
    lost = game.value - game(~faith.random_sets(4, faith.DRAWN, 0))
    assert faith.infidelity(game, scores) * (lost**2).mean() == pytest.approx(
        float(theirs), abs=1e-9
    )
