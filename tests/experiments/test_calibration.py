"""Calibration by the command: planted temperatures, whole forwards, pages, probes,
and options that are refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import doubled_logits, run, write_rows
from made import softmax
from scipy import stats

from experiments import cli
from experiments.calibration.predictions import (
    read_predictions,
)
from experiments.calibration.reliability import Judged, compare, finding, judge
from experiments.corpus.prompts import read_pairs
from experiments.demo import demo_paths
from experiments.pages import page_of
from experiments.studies import STUDIES
from experiments.subject import load
from probes.scaling import TemperatureScaling, VectorScaling


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    return doubled_logits()


def test_a_planted_temperature_is_found_mended_and_not_fitted_on_test_rows(
    world: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    z, y = world
    results = run(tmp_path / "a", "--predictions", write_rows(tmp_path / "a.jsonl", z, y, 1500))
    raw, scaled = results["records"][:2]
    assert [r["method"] for r in results["records"]] == [
        "probabilities",
        "temperature scaling",
        "vector scaling",
        "isotonic scaling",
    ]
    assert (raw["n"], raw["n_clusters"]) == (700, 350)
    p, right = softmax(z[1500:]).max(1), z[1500:].argmax(1) == y[1500:]
    assert raw["overconfidence"] == pytest.approx((p - right).mean())
    assert raw["overconfidence_interval"]["low"] > 0.05
    assert raw["ece"] > 3 * raw["ece_chance"]
    assert raw["ece_p"] < 0.01
    assert scaled["ece"] < 0.05
    assert results["comparisons"][0]["difference_interval"]["high"] < 0
    temperature = TemperatureScaling.load(tmp_path / "a" / "scalings" / "temperature.safetensors")
    assert temperature.temperature_[0] == pytest.approx(2.0, rel=0.1)  # 1,500 rows
    assert "overconfident by" in results["findings"][0]["text"]
    assert (
        (tmp_path / "a" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    )

    permuted = np.r_[y[:1500], np.random.default_rng(1).permutation(y[1500:])]
    other = run(
        tmp_path / "b", "--predictions", write_rows(tmp_path / "b.jsonl", z, permuted, 1500)
    )
    assert other["records"][0]["accuracy"] < raw["accuracy"] - 0.2
    for name in ("temperature", "vector", "isotonic"):
        a, b = (
            (tmp_path / run / "scalings" / f"{name}.safetensors").read_bytes() for run in ("a", "b")
        )
        assert a == b
    vector = VectorScaling.load(tmp_path / "a" / "scalings" / "vector.safetensors")
    assert vector.weight_ == pytest.approx([0.5, 0.5, 0.5], abs=0.1)


def test_terminal_and_page_show_the_brier_score_of_the_records(tmp_path: Path) -> None:
    """One name, one meaning: by numpy,
    0 to 2 for whole distributions and 0 to 1 for the answer alone.
    """
    rng = np.random.default_rng(0)
    P, y = rng.dirichlet(np.ones(3), 40), rng.integers(0, 3, 40)
    P[0], y[0] = [0.0, 0.5, 0.5], 0  # a label of probability 0
    np.savez(tmp_path / "a.npz", probabilities=P, labels=y)
    results = run(tmp_path / "run", "--predictions", tmp_path / "a.npz", "--bins", 4)
    brier = float(((P - np.eye(3)[y]) ** 2).sum(1).mean())
    squared = float(((P.max(1) - (P.argmax(1) == y)) ** 2).mean())
    (record,) = results["records"]
    assert (record["brier"], record["squared_error"]) == (
        pytest.approx(brier),
        pytest.approx(squared),
    )
    assert (record.get("nll"), record["n_impossible"]) == (None, 1)
    (table,) = STUDIES["calibrate"].tables(results)
    cells = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert (cells["Brier"], cells["squared error"], cells["NLL"]) == (
        f"{brier:.3f}",
        f"{squared:.3f}",
        "infinite",
    )
    page = {part.uid: part for part in page_of(results).sections[0].parts if part.kind == "table"}
    shown = {
        uid: dict(zip((c.name for c in page[uid].columns), page[uid].rows[0], strict=True))
        for uid in page
    }
    assert shown["brier"]["Brier"].text == cells["Brier"]
    assert shown["brier"]["NLL, nats"].text == "infinite"
    assert shown["measures"]["squared error"].text == cells["squared error"]


def test_one_group_has_no_interval_and_no_test() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(60) < 0.5
    confidence = np.where(correct, 0.95, 0.9)
    record = judge(Judged("one", confidence, correct, np.zeros(60, int)), 5, 0)
    assert record.ece == pytest.approx(abs(confidence.mean() - correct.mean()), abs=0.02)
    assert (record.ece_interval, record.ece_p, record.accuracy_interval) == (None, None, None)
    assert record.overconfidence_interval is None
    assert "miscalibration cannot be tested on a single group" in finding(record)
    many = judge(Judged("many", confidence, correct, np.arange(60)), 5, 0)
    assert "significantly miscalibrated, overconfident by" in finding(many)
    calm = judge(Judged("calm", np.full(60, correct.mean()), correct, np.arange(60)), 5, 0)
    assert calm.ece_p is not None
    assert calm.ece_p > 0.05
    assert "not significantly miscalibrated" in finding(calm)
    other = Judged("other", confidence, ~correct, np.zeros(60, int))
    (row,) = compare([Judged("one", confidence, correct, np.zeros(60, int)), other], 0)
    assert (row.difference_interval, row.p_holm) == (None, None)


def test_options_without_anything_to_act_on_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", np.zeros((20, 2)), np.zeros(20, dtype=int), 0)
    for words, message in (
        (
            ["--predictions", path, "--model", "x"],
            "expected --model for labelled texts, texts, questions, prompts and pairs, and none",
        ),
        (
            ["--predictions", path, "--questions", path],
            "expected one of --predictions, --labelled, --text, --questions",
        ),
        (
            ["--predictions", path, "--confidence", "p_true"],
            "--confidence: expected a model to ask",
        ),
        (["--predictions", path, "--split", "0.01"], "--split 0.01 of 10 groups"),
        (["--predictions", tmp_path / "no.npz"], "no.npz: expected a file, there is none"),
        ([], "expected one of --predictions"),
    ):
        assert cli.main(["calibrate", *map(str, words), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_a_text_is_measured_at_every_token_that_has_one_in_front(tmp_path: Path) -> None:
    """Two texts, against transformers' forward of each alone."""
    one = load(demo_paths().model)
    texts = [pair.good for pair in read_pairs(demo_paths().pairs, 2)]
    expected: list[tuple[float, bool]] = []
    for text in texts:
        ids = torch.tensor([one.encode([text])[0].ids])
        with torch.no_grad():
            p = torch.softmax(one.model(ids).logits[0, :-1].double(), -1)
        expected += zip(p.amax(-1).tolist(), (p.argmax(-1) == ids[0, 1:]).tolist(), strict=True)
    words = [word for text in texts for word in ("--text", text)]
    results = run(tmp_path / "out", "--model", demo_paths().model, *words, "--bins", 3)
    (record,) = results["records"]
    assert (record["n"], record["n_clusters"]) == (len(expected), 2)
    assert record["confidence"] == pytest.approx(np.mean([p for p, _ in expected]), abs=1e-5)
    assert record["accuracy"] == pytest.approx(np.mean([right for _, right in expected]))
    wrong = max(p for p, right in expected if not right)
    assert results["errors"][0]["confidence"] == pytest.approx(wrong, abs=1e-5)
    assert results["source"] == "text"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "a b", "--confidence", "p_true"], "expected --questions, --prompts or --pairs"),
        (["--text", "a b", "--split", "0.5"], "expected --questions, --prompts or --pairs"),
        (["--text", "The", "--bos", "never"], "expected at least 2 tokens"),
        (["--text", "The guard", "--bins", "15"], "expected at least as many rows as bins"),
        (["--text", "x", "--prompts", "y.jsonl"], "got text, prompts"),
    ],
)
def test_texts_that_cannot_be_measured_are_one_line(words, message, tmp_path, capsys) -> None:
    command = [
        "calibrate",
        "--model",
        str(demo_paths().model),
        *words,
        "--out",
        str(tmp_path / "o"),
    ]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_a_models_confidence_in_pairs_is_that_of_whole_forwards(tmp_path: Path) -> None:
    """p(good) = p(good sentence) / (p(good) + p(bad)), from forwards of single sentences."""
    results = run(
        tmp_path / "out",
        "--model",
        demo_paths().model,
        "--pairs",
        demo_paths().pairs,
        "--limit",
        40,
        "--split",
        0.4,
    )
    one = load(demo_paths().model)
    expected = []
    for pair in read_pairs(demo_paths().pairs, 40):
        bits = []
        for text in (pair.good, pair.bad):
            ids = torch.tensor([one.encode([text])[0].ids])
            with torch.no_grad():
                logp = torch.log_softmax(one.model(ids).logits[0].double(), -1)
            bits.append(float(logp[:-1].gather(1, ids[0, 1:, None]).sum()))
        expected.append(1 / (1 + np.exp(bits[1] - bits[0])))
    kept = read_predictions(tmp_path / "out" / "predictions.npz")
    own = kept.probabilities[np.arange(40), kept.labels]
    assert own == pytest.approx(expected, abs=1e-3)
    assert 5 < kept.labels.sum() < 35  # which sentence comes first is drawn
    assert kept.validation.sum() == 16
    raw = results["records"][0]
    assert raw["accuracy"] == pytest.approx(np.mean(np.array(expected)[~kept.validation] > 0.5))
    assert {r["method"] for r in results["records"]} == {
        "token probabilities",
        "temperature scaling",
    }
    assert not any("classes" in r for r in results["records"])


def test_an_open_prompts_confidence_is_the_most_probable_tokens(tmp_path: Path) -> None:
    one, lines = load(demo_paths().model), []
    for pair in read_pairs(demo_paths().pairs, 20):
        words = pair.good.split()
        lines.append({"prompt": " ".join(words[:2]), "answer": f" {words[2]}"})
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    kept, expected = [], []
    for line in lines:
        start = len(one.encode([line["prompt"]])[0].ids)
        whole = one.encode([line["prompt"] + line["answer"]])[0].ids
        if len(whole) == start + 1:  # answers of one token
            with torch.no_grad():
                p = torch.softmax(one.model(torch.tensor([whole[:-1]])).logits[0, -1].double(), -1)
            kept.append(line)
            expected.append((float(p.max()), int(p.argmax()) == whole[-1]))
    assert len(kept) >= 5
    path.write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    results = run(tmp_path / "out", "--model", demo_paths().model, "--prompts", path, "--bins", 3)
    (record,) = results["records"]
    assert record["confidence"] == pytest.approx(np.mean([c for c, _ in expected]), abs=1e-4)
    assert record["accuracy"] == pytest.approx(np.mean([right for _, right in expected]))


def test_a_probing_study_measures_its_probes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = demo_paths()
    some = tmp_path / "test.conllu"
    some.write_text(
        "\n\n".join(paths.test.read_text(encoding="utf-8").split("\n\n")[:80]) + "\n\n",
        encoding="utf-8",
    )
    words = [
        "probe",
        "--model",
        paths.model,
        "--corpus",
        paths.train,
        "--dev",
        paths.dev,
        "--test",
        some,
    ]
    words += [
        "--property",
        "upos",
        "--sample",
        60,
        "--l2",
        30,
        "--control-seeds",
        0,
        "--random-models",
        0,
    ]
    assert cli.main([*map(str, words), "--calibration", "--out", str(tmp_path / "run")]) == 0
    assert "upos: calibration of the probes" in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert len(results["calibration"]) == len(results["records"])
    record = results["records"][-1]
    with np.load(tmp_path / "run" / "predictions" / "upos" / f"{record['site']}.npz") as file:
        test = ~file["validation"]
        P, y = file["probabilities"][test].astype(float), file["labels"][test]
    confidence, right = P.max(1), P.argmax(1) == y
    gaps = [
        abs(confidence[rows].sum() - right[rows].sum())
        for low in range(15)
        if (rows := (confidence > low / 15) & (confidence <= (low + 1) / 15)).any()
    ]
    assert record["ece"] == pytest.approx(sum(gaps) / len(y), abs=1e-4)
    # but for words of classes that training lacks
    assert right.mean() == pytest.approx(record["score"], abs=0.02)
    classes = results["calibration"][-1]["classes"]
    assert sum(c["support"] for c in classes) == len(y)
    assert "Calibration of each class" in (tmp_path / "run" / "report.html").read_text(
        encoding="utf-8"
    )


def test_an_interval_ends_where_its_quantity_does():
    """Twelve sure rows, one of them wrong:
    so skewed that a studentised interval alone runs to 14.
    """
    confidence = np.array(
        [0.999, 0.998, 0.9999, 0.9995, 0.97, 0.99, 0.9991, 0.93, 0.98, 0.9992, 0.9996, 0.71]
    )
    correct = np.array([True] * 11 + [False])
    record = judge(Judged("m", confidence, correct, np.arange(12)), 4, 0)
    for name, least, most in (
        ("confidence", 0, 1),
        ("overconfidence", -1, 1),
        ("squared_error", 0, 1),
    ):
        value, ends = getattr(record, name), getattr(record, f"{name}_interval")
        assert least <= ends.low <= value <= ends.high <= most, name


def test_an_accuracy_of_0_is_not_certain() -> None:
    """Wilson's interval of 0 of 12 has its upper end at q^2 / (12 + q^2)."""
    confidence = np.linspace(0.3, 0.9, 12)
    record = judge(Judged("m", confidence, np.zeros(12, bool), np.arange(12)), 4, 0)
    q = stats.t.ppf(0.975, 11)
    assert record.accuracy_interval is not None
    assert record.accuracy_interval.low == 0
    assert record.accuracy_interval.high == pytest.approx(q**2 / (12 + q**2))
