"""Files of predictions: formats, labels that name their class,
and lines for what cannot be read.
"""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrated import doubled_logits, run, write_rows

from experiments import cli
from experiments.calibration.predictions import (
    PredictionError,
    Predictions,
    read_predictions,
    save_predictions,
)
from experiments.corpus.prompts import PromptError


def test_npz_and_jsonl_files_are_the_same_rows(tmp_path: Path) -> None:
    z, y = doubled_logits()
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
            "line 1: expected probabilities that sum to 1, got 0.5, 0.4",
        ),
        (
            ['{"probabilities": [0.5, 0.5], "label": 2}'],
            "line 1: expected a label from 0 to 1 or one of 0, 1, got 2",
        ),
        (['{"probabilities": [NaN, 0.5], "label": 0}'], "line 1: expected finite probabilities"),
        (['{"logits": [NaN, 0.5], "label": 0}'], "line 1: expected finite logits"),
        (
            ['{"probabilities": [0.5, 0.5]}'],
            "line 1: expected 'label' and one of 'probabilities' and 'logits'",
        ),
        (
            ['{"probabilities": ["a", 0.5], "label": 0}'],
            "line 1: expected numbers as probabilities",
        ),
        (
            ['{"probabilities": 5, "label": 0}'],
            "line 1: expected a list or an object as probabilities, got 5",
        ),
        (
            ['{"probabilities": true, "label": 0}'],
            "line 1: expected a list or an object as probabilities, got True",
        ),
        (
            ['{"probabilities": [' + "9" * 299 + '.0, 1], "label": 0}'],
            "line 1: expected probabilities from 0 to 1",
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
            "--skip 0.5 (line 2: expected probabilities of 2",
        ),
        (
            ['{"probabilities": [0.5, 0.5], "label": 0}'] * 3,
            "at least as many rows as bins, got 3 rows and 15 bins: give --bins 3 or less",
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


def test_a_row_that_is_no_distribution_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    good = [f"{'ab'[i % 2]};0.{3 + i % 4};0.{7 - i % 4}" for i in range(18)]
    path.write_text("\n".join(["label;p_a;p_b", *good, "c;0.5;0.5", "a;0.9;0.9"]) + "\n")
    found = run(tmp_path / "run", "--predictions", path, "--bins", 4)
    assert found["records"][0]["n"] == 18
    (note,) = (n["text"] for n in found["notes"] if n["kind"] == "dropped")
    assert "2 of 20 items left out: line 20: expected a label" in note
    assert "line 21: expected probabilities that sum to 1" in note
    words = ["calibrate", "--predictions", str(path), "--bins", "4", "--skip", "0.05"]
    assert cli.main([*words, "--out", str(tmp_path / "strict")]) == 2
    assert "2 of 20 items cannot be measured" in capsys.readouterr().err


def test_an_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A megabyte of packed zeros that would be a gigabyte,
    and an array that claims more than it holds.
    """
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
