"""Calibration from files and from models: planted temperatures, whole forwards, and lines for what cannot be judged."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from made import softmax
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments import cli
from experiments.calibration import asked
from experiments.calibration.asked import Answer, Asking
from experiments.calibration.generating import generate
from experiments.calibration.predictions import (
    PredictionError,
    Predictions,
    read_predictions,
    save_predictions,
)
from experiments.calibration.questions import (
    Question,
    QuestionError,
    Templates,
    token_probabilities,
)
from experiments.calibration.reliability import Judged, compare, finding, judge
from experiments.corpus.prompts import PromptError, read_pairs
from experiments.demo import demo_paths
from experiments.pages import page_of
from experiments.runs.folder import RunFolder
from experiments.studies import STUDIES
from experiments.subject import Subject, load
from probes.scaling import TemperatureScaling, VectorScaling


def write_rows(path: Path, z: np.ndarray, y: np.ndarray, n_validation: int) -> Path:
    """Logits and labels, the first rows for validation, two rows a group."""
    with path.open("w", encoding="utf-8") as file:
        for i, (row, label) in enumerate(zip(z.tolist(), y.tolist(), strict=True)):
            split = "validation" if i < n_validation else "test"
            file.write(
                json.dumps({"logits": row, "label": label, "group": f"g{i // 2}", "split": split})
                + "\n"
            )
    return path


def run(out: Path, *words: object, command: str = "calibrate") -> dict[str, Any]:
    assert cli.main([command, *map(str, words), "--out", str(out)]) == 0
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    """Logits twice as large as those that the labels are drawn from."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(2200, 3))
    return 2 * z, (z + rng.gumbel(size=z.shape)).argmax(1)


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


def test_npz_and_jsonl_files_are_the_same_rows(
    world: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    z, y = world
    a = read_predictions(write_rows(tmp_path / "a.jsonl", z[:90], y[:90], 30))
    held = np.arange(90) < 30
    np.savez(
        tmp_path / "b.npz", logits=z[:90], labels=y[:90], groups=np.arange(90) // 2, validation=held
    )
    b = read_predictions(tmp_path / "b.npz")
    assert a.probabilities == pytest.approx(b.probabilities)
    assert (a.labels == b.labels).all()
    assert (a.validation == b.validation).all()
    assert len(np.unique(a.clusters)) == len(np.unique(b.clusters)) == 45
    lines = [
        {"probabilities": {"no": 0.25, "yes": 0.75}, "label": "yes"},
        {"probabilities": {"yes": 1, "no": 0}, "label": 0},
    ]
    path = tmp_path / "named.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    named = read_predictions(path)
    assert named.classes == ("no", "yes")
    assert named.probabilities.tolist() == [[0.25, 0.75], [0.0, 1.0]]
    assert named.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"probabilities": [0.5, 0.4], "label": 0}'],
            "row 1: expected probabilities that sum to 1, got 0.5, 0.4",
        ),
        (
            ['{"probabilities": [0.5, 0.5], "label": 2}'],
            ":1: expected a label from 0 to 1 or one of 0, 1, got 2",
        ),
        (['{"probabilities": [NaN, 0.5], "label": 0}'], "row 1: expected finite probabilities"),
        (['{"logits": [NaN, 0.5], "label": 0}'], "row 1: expected finite logits"),
        (
            ['{"probabilities": [0.5, 0.5]}'],
            ":1: expected 'label' and one of 'probabilities' and 'logits'",
        ),
        (['{"probabilities": ["a", 0.5], "label": 0}'], ":1: expected numbers as probabilities"),
        (
            ['{"probabilities": 5, "label": 0}'],
            ":1: expected a list or an object as probabilities, got 5",
        ),
        (
            ['{"probabilities": true, "label": 0}'],
            ":1: expected a list or an object as probabilities, got True",
        ),
        (
            ['{"probabilities": [' + "9" * 299 + '.0, 1], "label": 0}'],
            "row 1: expected probabilities from 0 to 1",
        ),
        (
            ['{"probabilities": [' + "9" * 310 + ', 1], "label": 0}'],
            ":1: expected numbers of at most 300 digits",
        ),
        (
            ['{"probabilities": ' + "[" * 3000],
            ":1: expected JSON, got brackets that are nested too deeply",
        ),
        (
            ['{"probabilities": [1, 0], "label": 0}', '{"logits": [1, 0], "label": 0}'],
            ":2: expected probabilities of 2",
        ),
        (
            ['{"probabilities": [0.5, 0.5], "label": 0}'] * 3,
            "at least as many rows as bins, got 3 and 15: give --bins",
        ),
        ([""], "expected at least one line, got none"),
        (["{"], ":1: expected a JSON object"),
    ],
)
def test_bad_files_are_one_clear_line(
    lines: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert cli.main(["calibrate", "--predictions", str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_bad_npz_files_are_one_clear_line(tmp_path: Path) -> None:
    good = {"probabilities": np.full((4, 2), 0.5), "labels": np.zeros(4, int)}
    np.savez(tmp_path / "good.npz", **good)
    whole = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "one.npy", good["labels"])
    for name, data, message in (
        ("cut", whole[: len(whole) // 2], "cannot be read as npz"),
        ("empty", b"", "cannot be read as npz"),
        ("one", (tmp_path / "one.npy").read_bytes(), "cannot be read as npz"),
        (
            "text",
            {**good, "probabilities": np.full((4, 2), "a")},
            "expected numbers as probabilities, got <U1",
        ),
        (
            "negative",
            {**good, "labels": np.full(4, -1)},
            "expected a label from 0 to 1 or one of 0, 1, got -1",
        ),
        (
            "nan",
            {**good, "labels": np.full(4, np.nan)},
            "expected a label from 0 to 1 or one of 0, 1, got nan",
        ),
        (
            "nans",
            {**good, "probabilities": np.full((4, 2), np.nan)},
            "row 1: expected finite probabilities",
        ),
        (
            "words",
            {**good, "labels": np.full(4, "a")},
            "expected a label from 0 to 1 or one of 0, 1, got 'a'",
        ),
        (
            "held",
            {**good, "validation": np.full(4, "no")},
            "expected true or false as validation, got <U2",
        ),
        ("object", {**good, "labels": np.array([None] * 4)}, "cannot be read as npz"),
        (
            "scalar",
            {**good, "probabilities": np.array(1.0)},
            r"expected probabilities \[n c\] and labels \[n\]",
        ),
        (
            "names",
            {**good, "classes": np.array(["a", "b", "c"])},
            "expected 2 classes, a name each, got 3",
        ),
    ):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data) if isinstance(data, bytes) else np.savez(path, **data)
        with pytest.raises(PredictionError, match=f"{name}.npz: {message}"):
            read_predictions(path)


NAMED = [f"{k}" for k in range(1, 6)]


def labelled(folder: Path, labels: list[Any], classes: list[str], right: list[int]) -> np.ndarray:
    """The labels that are read of rows whose most probable class is the right one."""
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for label, place in zip(labels, right, strict=True):
            rest = 0.2 / (len(classes) - 1)
            row = {name: 0.8 if k == place else rest for k, name in enumerate(classes)}
            file.write(json.dumps({"probabilities": row, "label": label}) + "\n")
    read = read_predictions(path)
    assert read.probabilities.argmax(1).tolist() == right
    return read.labels


@pytest.mark.parametrize(
    ("labels", "classes", "right"),
    [
        ([3, 2, 5], NAMED, [2, 1, 4]),
        (["3", "2", "5"], NAMED, [2, 1, 4]),
        ([2.0, 1.0, 5.0], NAMED, [1, 0, 4]),
        ([2, 0, 1], ["2", "0", "1"], [0, 1, 2]),
        ([True, False], ["false", "true"], [1, 0]),
        ([1, 0], ["no", "yes"], [1, 0]),
    ],
)
def test_a_label_is_the_class_that_it_names(
    tmp_path: Path, labels: list[Any], classes: list[str], right: list[int]
) -> None:
    assert labelled(tmp_path, labels, classes, right).tolist() == right


@pytest.mark.parametrize(
    ("label", "classes"),
    [(0, NAMED), (2, ["a", "b"]), (True, ["a", "b"]), (-1, ["a", "b"]), (0.5, NAMED)],
)
def test_a_label_that_names_no_class_is_refused(
    tmp_path: Path, label: Any, classes: list[str]
) -> None:
    with pytest.raises(PromptError, match=r"rows.jsonl:1: expected a label from 0 to \d or one of"):
        labelled(tmp_path, [label], classes, [0])


def test_perfect_predictions_of_digits_are_right(tmp_path: Path) -> None:
    """Five stars: accuracy 1, not 0."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 60)
    P = np.where(np.arange(5) == y[:, None], 0.8, 0.05)
    np.savez(tmp_path / "a.npz", probabilities=P, labels=y + 1, classes=np.array(NAMED))
    (record,) = run(tmp_path / "run", "--predictions", tmp_path / "a.npz", "--bins", 4)["records"]
    assert record["accuracy"] == 1.0
    assert record["brier"] == pytest.approx(((P - np.eye(5)[y]) ** 2).sum(1).mean())
    assert record["squared_error"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    "classes", [("1", "2-3"), ("0", "1"), ("2", "0"), ("no", "yes"), ("-1", "10")]
)
def test_predictions_are_read_as_they_were_written(
    tmp_path: Path, classes: tuple[str, str]
) -> None:
    labels = np.array([0, 1, 1])
    P = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
    save_predictions(tmp_path / "a.npz", Predictions(P, labels, classes, np.arange(3), labels == 1))
    read = read_predictions(tmp_path / "a.npz")
    assert (read.classes, read.labels.tolist()) == (classes, [0, 1, 1])
    assert read.probabilities.tolist() == P.tolist()


def test_a_table_of_predictions_is_its_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "label,p_no,p_yes,group\nyes,0.25,0.75,g\nno,1,0,g\n", encoding="utf-8"
    )
    (tmp_path / "b.tsv").write_text(
        'label\tprobabilities\nyes\t{"no": 0.25, "yes": 0.75}\nno\t{"no": 1, "yes": 0}\n'
    )
    for name in ("a.csv", "b.tsv"):
        read = read_predictions(tmp_path / name)
        assert read.classes == ("no", "yes")
        assert read.probabilities.tolist() == [[0.25, 0.75], [1.0, 0.0]]
        assert read.labels.tolist() == [1, 0]
    assert len(set(read_predictions(tmp_path / "a.csv").clusters.tolist())) == 1


def test_an_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A megabyte of packed zeros that would be a gigabyte, and an array that claims more than it holds."""
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("labels.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f8", "fortran_order": False, "shape": (1 << 26,)}
        )
        for _ in range(512):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(
        PredictionError,
        match=r"bomb.npz: expected arrays, got .* MB that unpack to 0.5 GB: refused",
    ):
        read_predictions(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    path = tmp_path / "claim.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("labels.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
        )
    with pytest.raises(
        PredictionError, match=r"claim.npz: array 'labels' says \(1000000000000,\) of float64"
    ):
        read_predictions(path)


def test_terminal_and_page_show_the_brier_score_of_the_records(tmp_path: Path) -> None:
    """One name, one meaning: by numpy, 0 to 2 for whole distributions and 0 to 1 for the answer alone."""
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
    page = {part.uid: part for part in page_of(results).sections[0].parts}
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
            "expected --model for labelled texts, questions, prompts and pairs, and none",
        ),
        (
            ["--predictions", path, "--questions", path],
            "expected one of --predictions, --labelled, --questions",
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


WORDS = """Question : Answer is the answer true or false ? A B . a b c d
0.9 True False Proposed Probability of it A. B. Question: Answer:"""


@pytest.fixture(scope="module")
def small() -> Subject:
    """A random model with a vocabulary of words and letters."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    for word in dict.fromkeys(WORDS.split()):
        vocabulary.setdefault(word, len(vocabulary))
    vocabulary |= {f"x{i}": i for i in range(len(vocabulary), tiny.VOCAB)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    told = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    return Subject(
        tiny.model("llama"), PreTrainedTokenizerFast(tokenizer_object=fast, **told), bos="always"
    )


QUESTIONS = [
    Question("a b ?", ("c", "d"), 0),
    Question("b a ?", ("d c", "b"), 1),
    Question("c ?", ("a", "b", "d"), 2),
]


def next_logits(subject: Subject, text: str) -> torch.Tensor:
    ids = torch.tensor([subject.encode([text])[0].ids])
    with torch.no_grad():
        return subject.model(ids).logits[0, -1].double()


def test_choices_and_p_true_are_read_where_their_tokens_stand(
    small: Subject, tmp_path: Path
) -> None:
    templates = Templates(small)
    found = token_probabilities(small, QUESTIONS, templates, False, 64)
    last = torch.softmax(next_logits(small, templates.ask("answer", question="c ?")), -1)
    ids = [small.tokenizer.convert_tokens_to_ids(c) for c in "abd"]
    assert found[2] == pytest.approx((last[ids] / last[ids].sum()).numpy(), abs=1e-5)
    assert [len(p) for p in found] == [2, 2, 3]
    asking = Asking(small, templates, QUESTIONS, [1, 0, 2], 4, 64, 0)
    said = asked.p_true(asking, "p_true", RunFolder(tmp_path / "run", {}))
    text = templates.ask("p_true", question="a b ?", answer="d")
    assert text.endswith("Answer:")
    p = torch.softmax(next_logits(small, text), -1)
    a, b = (float(p[small.tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB")
    assert said[0].confidence == pytest.approx(a / (a + b), abs=1e-5)
    assert float(said[0].text) == pytest.approx(a + b, abs=1e-3)


@pytest.mark.parametrize("wording", ["plain", "templates", "chat"])
def test_letters_and_p_true_of_a_run_are_those_of_single_forwards(
    small: Subject, tmp_path: Path, wording: str
) -> None:
    """The texts are written out: where the letters stand, what a template or a chat puts around them, what comes last."""
    asked_for = "Answer with the letter of the right choice.\nAnswer:"
    judged = "Is the proposed answer true or false?\nA. True\nB. False\nAnswer:"
    more: list[object] = []
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizer.save_pretrained(tmp_path / "model")
    if wording == "chat":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.chat_template = "{% for turn in messages %}a {{ turn['content'] }} {% endfor %}b "
        tokenizer.save_pretrained(tmp_path / "model")
        asked_for, judged = (
            text.replace("\nAnswer:", " b Answer:") for text in (asked_for, judged)
        )
        more = ["--chat"]
    before, asks = (
        "a " if wording == "chat" else "",
        "Question: {question}\n{choices}\n" + asked_for,
    )
    if wording == "templates":
        (tmp_path / "words").mkdir()
        asks = "x50 {choices} x51 {question} A"
        (tmp_path / "words" / "choose.txt").write_text(asks, encoding="utf-8")
        more = ["--templates", tmp_path / "words"]
    questions = [
        Question(f"{w} b ?", ("c", "d") if i % 2 else ("x60", "b"), i % 2)
        for i, w in enumerate("abcd")
    ]
    questions += [Question(f"x{i} a ?", ("d", f"x{i + 9}"), int(i > 42)) for i in range(40, 46)]
    for name, rows in (("test", questions[:6]), ("held", questions[6:])):
        lines = [
            json.dumps({"question": q.question, "choices": q.choices, "answer": q.answer})
            for q in rows
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def two(text: str) -> np.ndarray:
        """p(A) and p(B) behind a text."""
        logits = next_logits(small, text)
        return torch.softmax(logits, -1)[
            [small.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
        ].numpy()

    expected = []
    for q in questions:
        listed = f"A. {q.choices[0]}\nB. {q.choices[1]}"
        expected.append(two(before + asks.format(question=q.question, choices=listed)))
    P = np.array([p / p.sum() for p in expected])
    told = [
        "--model",
        tmp_path / "model",
        "--questions",
        tmp_path / "test.jsonl",
        "--bos",
        "always",
        "--bins",
        2,
    ]
    told += [
        "--choices",
        "letter",
        "--confidence",
        "p_true",
        "--validation",
        tmp_path / "held.jsonl",
        *more,
    ]
    results = run(tmp_path / "run", *told, command="ask")
    kept = read_predictions(tmp_path / "run" / "predictions.npz")
    assert kept.probabilities == pytest.approx(P, abs=1e-6)
    assert np.abs(P[:, 0] - P[:, 1]).min() > 1e-4  # the letters are told apart
    assert kept.labels.tolist() == [q.answer for q in questions]
    assert kept.validation.tolist() == [False] * 6 + [True] * 4
    sure = []
    for q, p in zip(questions[:6], P, strict=False):
        answer = q.choices[int(p.argmax())]
        a, b = two(f"{before}Question: {q.question}\nProposed answer: {answer}\n{judged}")
        sure.append(a / (a + b))
    by = {r["method"]: r for r in results["records"]}
    assert by["token probabilities"]["confidence"] == pytest.approx(P[:6].max(1).mean(), abs=1e-6)
    assert by["p_true"]["confidence"] == pytest.approx(np.mean(sure), abs=1e-6)
    assert "temperature scaling" in by  # fitted on the other file
    assert by["p_true"]["n"] == 6


def test_ask_confidence_is_calibrate_with_its_old_option(small: Subject, tmp_path: Path) -> None:
    """The same records by the new command, the new option of calibrate, and the name it had."""
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"question": f"x{i} a ?", "choices": ["d", f"x{i + 9}"], "answer": i % 2}
        for i in range(40, 46)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [
        "--model",
        tmp_path / "model",
        "--questions",
        tmp_path / "rows.jsonl",
        "--bos",
        "always",
        "--bins",
        2,
    ]
    new = run(tmp_path / "new", *words, "--confidence", "p_true", command="ask")
    old = run(tmp_path / "old", *words, "--ask", "p_true")
    assert new["records"] == old["records"]
    assert [record["method"] for record in new["records"]] == ["token probabilities", "p_true"]
    assert new["provenance"]["config"]["confidence"] == ["p_true"]
    assert "prompts" not in new
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "Reliability diagram of p_true" in page
    assert "as many random words" not in page  # a control of reasons


def test_generation_is_the_most_probable_token_each_time_or_drawn(small: Subject) -> None:
    text = "Question : a b ? Answer :"
    words, so_far = [], text
    for _ in range(6):
        token = int(next_logits(small, so_far).argmax())
        if token in (0, 1, 2):
            break
        words.append(small.tokenizer.convert_ids_to_tokens(token))
        so_far += f" {words[-1]}"
    assert generate(small, text, 6) == [" ".join(words)]
    drawn = generate(small, text, 1, copies=3000, temperature=1.0, seed=1)
    p = torch.softmax(next_logits(small, text), -1)
    for word in ("a", "A", "true"):
        expected = float(p[small.tokenizer.convert_tokens_to_ids(word)])
        assert np.mean([d == word for d in drawn]) == pytest.approx(expected, abs=0.012)
    assert drawn == generate(small, text, 1, copies=3000, temperature=1.0, seed=1)
    with pytest.raises(QuestionError, match="are longer than the model's"):
        generate(small, text, 10**7)


def test_written_answers_are_parsed_or_counted(
    small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "a b ?": ["c", "A.", "d", "I cannot say"],
        "b a ?": ["zzz"] * 4,
        "c ?": ["Sorry, I cannot answer that"] * 4,
    }
    numbers = {"a b ?": "90%", "b a ?": "quite", "c ?": "I don't know"}

    def canned(subject: Subject, text: str, length: int, copies: int = 1, *_: object) -> list[str]:
        key = next(q for q in said if f"Question: {q}" in text)
        return said[key] if copies > 1 else [numbers[key]]

    monkeypatch.setattr(asked, "generate", canned)
    asking = Asking(small, Templates(small), QUESTIONS, [0, 0, 2], 4, 64, 0)
    folder = RunFolder(tmp_path / "run", {})
    assert [(s.confidence, s.reason) for s in asked.verbalised(asking, "verbalised", folder)] == [
        (0.9, ""),
        (None, "unparsable"),
        (None, "refused"),
    ]
    assert [(s.confidence, s.reason) for s in asked.sampled(asking, "sampled", folder)] == [
        (0.5, ""),
        (None, "unparsable"),
        (None, "refused"),
    ]
    monkeypatch.setattr(asked, "generate", lambda *_: pytest.fail("answered already"))
    assert asked.verbalised(asking, "verbalised", folder)[0] == Answer(0.9, "", "90%")


def test_unanswered_rows_are_counted_and_do_not_pay() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(40) < 0.5
    own = Judged("own", np.where(correct, 0.9, 0.6), correct, np.arange(40))
    silent = Judged(
        "silent",
        np.where(np.arange(40) < 30, 0.9, np.nan),
        correct,
        np.arange(40),
        counts={"refused": 10},
    )
    record = judge(silent, 10, 0)
    assert (record.n, record.n_answered, record.n_refused) == (40, 30, 10)
    assert record.auroc == 0.5
    assert record.squared_error_all == pytest.approx(
        (((0.9 - correct[:30]) ** 2).sum() + 10 * 0.25) / 40
    )
    assert record.accuracy == pytest.approx(correct.mean())
    (row,) = compare([own, silent], 0)
    assert row.n == 30
    assert row.difference == pytest.approx(
        ((0.9 - correct[:30]) ** 2 - (own.confidence[:30] - correct[:30]) ** 2).mean()
    )
    few = judge(
        Judged("few", np.where(np.arange(40) < 3, 0.9, np.nan), correct, np.arange(40)), 10, 0
    )
    assert few.measured is False
    assert few.n_answered == 3


def test_templates_are_replaced_by_name_and_their_fields_checked(tmp_path: Path) -> None:
    (tmp_path / "p_true.txt").write_text("{question} {wrong}\nAnswer:\n", encoding="utf-8")
    templates = Templates(folder=tmp_path)
    assert templates.fill("answer", question="q") == "Question: q\nAnswer:"
    with pytest.raises(
        QuestionError, match=r"template p_true.txt: expected fields answer, question, got \{wrong\}"
    ):
        templates.ask("p_true", question="q", answer="a")
    for text in ("{question} }", "{", "{0}", "{question!x}"):
        (tmp_path / "p_true.txt").write_text(text, encoding="utf-8")
        with pytest.raises(
            QuestionError, match=r"template p_true.txt: expected fields answer, question"
        ):
            Templates(folder=tmp_path).ask("p_true", question="q", answer="a")
    (tmp_path / "p_true.txt").write_bytes(b"\xff")
    with pytest.raises(QuestionError, match=r"p_true.txt: expected UTF-8 text"):
        Templates(folder=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(QuestionError, match="expected a file named"):
        Templates(folder=tmp_path / "none")


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
    """Twelve sure rows, one of them wrong: so skewed that a studentised interval alone runs to 14."""
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
