"""Groups of a classifier's rows compared, from labelled texts and from a file of predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import transformers as hf
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix

import experiments
from experiments import cli
from experiments.demo import demo_paths

WORDS = ("The guards smile .", "A dog sees the house .", "The teacher reads .", "The cats run .")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = hf.AutoTokenizer.from_pretrained(demo_paths().model)
    tiny.save_classifier(folder, tokenizer, initializer_range=0.2)
    return folder


def rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "text": WORDS[int(rng.integers(4))],
            "label": ("good", "bad")[int(rng.integers(2))],
            "group": ("women", "men")[i % 2],
        }
        for i in range(count)
    ]


def test_labelled_texts_give_the_probabilities_and_rates_of_other_libraries(
    classifier: Path, tmp_path: Path
) -> None:
    lines, path = rows(60), tmp_path / "labelled.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["text", "label", "group"])
        table.writeheader()
        table.writerows(lines)
    found = experiments.calibrate(
        model=classifier, labelled=path, by="group", bins=5, out=tmp_path / "run"
    )
    pipeline = hf.pipeline("text-classification", str(classifier), device="cpu")
    answers = [answer["label"] for answer in pipeline([line["text"] for line in lines])]
    labels = [line["label"] for line in lines]
    assert found.records[0]["accuracy"] == pytest.approx(accuracy_score(labels, answers))
    values = {(r["group"], r["measure"]): r for r in found.raw["groups"]}
    for group in ("women", "men"):
        here = [i for i, line in enumerate(lines) if line["group"] == group]
        (tn, fp), (fn, tp) = confusion_matrix(
            [labels[i] for i in here], [answers[i] for i in here], labels=["good", "bad"]
        )
        assert values[group, "false_positives"]["value"] == pytest.approx(fp / (fp + tn))
        assert values[group, "false_negatives"]["value"] == pytest.approx(fn / (fn + tp))
        assert values[group, "accuracy"]["value"] == pytest.approx((tp + tn) / 30)
        ends = stats.binomtest(int(fp), int(fp + tn)).proportion_ci(method="wilson")
        # Student's t in place of the normal quantile: a little wider
        own = values[group, "false_positives"]["value_interval"]
        assert own["low"] <= ends.low + 1e-9
        assert own["high"] >= ends.high - 1e-9
        assert own["high"] - own["low"] < 1.3 * (ends.high - ends.low)
    saved = np.load(tmp_path / "run" / "predictions.npz")
    scores = pipeline(WORDS[0], top_k=None)
    expected = {score["label"]: score["score"] for score in scores}
    row = next(i for i, line in enumerate(lines) if line["text"] == WORDS[0])
    assert saved["probabilities"][row] == pytest.approx(
        [expected["good"], expected["bad"]], abs=1e-5
    )
    assert "Groups by group" in (tmp_path / "run" / "report.html").read_text()


def predictions(path: Path, accuracies: dict[str, float], count: int) -> Path:
    rng = np.random.default_rng(1)
    lines = []
    for group, accuracy in accuracies.items():
        for i in range(count):
            label = i % 2
            p = 0.9 if (rng.random() < accuracy) == (label == 1) else 0.1
            lines.append({"probabilities": [1 - p, p], "label": label, "who": group})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not(tmp_path: Path) -> None:
    path = predictions(tmp_path / "p.jsonl", {"a": 0.9, "b": 0.9, "c": 0.55}, 200)
    found = experiments.calibrate(predictions=path, by="who", out=tmp_path / "run")
    of_accuracy = {
        (r["a"], r["b"]): r for r in found.raw["group_differences"] if r["measure"] == "accuracy"
    }
    assert of_accuracy["a", "b"]["p_holm"] > 0.05
    assert of_accuracy["a", "c"]["p_holm"] < 0.01
    assert of_accuracy["a", "c"]["difference_interval"]["high"] < -0.2
    alike = of_accuracy["a", "b"]["difference_interval"]
    assert alike["low"] < 0 < alike["high"]


def test_a_group_of_right_answers_is_as_uncertain_as_the_binomial_says(tmp_path: Path) -> None:
    """30 answers of confidence .9 are all right in .9^30 = 4.2% of calibrated samples."""
    path = predictions(tmp_path / "rows.jsonl", {"a": 1.0, "b": 0.5}, 30)
    found = experiments.calibrate(predictions=path, by="who", bins=5, out=tmp_path / "run")
    values = {(r["group"], r["measure"]): r for r in found.raw["groups"]}
    of_right = values["a", "overconfidence"]
    assert of_right["value"] == pytest.approx(-0.1)
    assert of_right["value_interval"]["low"] < -0.1 <= 0 <= of_right["value_interval"]["high"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--predictions {p} --group-by age", ("--group-by age: expected a text or a "
        "number in this column")),
        ("--predictions {p} --group-by who --positive x", "--positive x: expected one of 0, 1"),
        ("--predictions {p} --positive 1", "--positive: expected --group-by COLUMN"),
        ("--labelled {p} --model {demo}", "expected a model that classifies texts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    options: str, expected: str, tmp_path: Path, capsys: Any
) -> None:
    path = predictions(tmp_path / "p.jsonl", {"a": 0.9, "b": 0.9}, 20)
    if options.startswith("--labelled"):
        path.write_text("".join(json.dumps(line) + "\n" for line in rows(20)))
    line = options.format(p=path, demo=demo_paths().model)
    assert cli.main(f"calibrate {line} --out {tmp_path / 'run'}".split()) == 2
    assert expected in capsys.readouterr().err
