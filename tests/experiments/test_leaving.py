"""What leaves a run: pictures as files, tidy tables, what an interrupt keeps;
and tables of activations in a notebook.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tiny
import torch
from naive import subject

import experiments
from experiments import cli
from experiments.demo import demo_paths
from experiments.report.pictures import Picture
from experiments.results import Results
from experiments.sweep import grid, sweep
from hooks import capture
from layerscope.errors import InputError

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="20" '
    'height="10"/></svg>'
)


def test_a_picture_is_saved_as_its_name_says(tmp_path: Path) -> None:
    pytest.importorskip("cairosvg")
    picture = Picture("a bar", SVG)
    begins = {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}
    for ending, begin in begins.items():
        assert picture.save(tmp_path / f"fig.{ending}").read_bytes().startswith(begin)
    for name in ("fig.jpg", "fig"):
        with pytest.raises(InputError, match=r"expected a name that ends in \.svg, \.pdf, \.png"):
            picture.save(tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "name", ["attribute", "ablate-heads", "probe", "calibrate-labelled", "swap"]
)
def test_a_frame_has_one_value_a_cell(name: str) -> None:
    results = Results(json.loads((RECORDED / name / "results.json").read_text()))
    frame = results.frame
    assert not frame.map(lambda cell: isinstance(cell, list | dict)).any(axis=None)
    if name == "attribute":
        scored = [record for record in results.records if "scores" in record]
        assert len(frame.dropna(subset="score")) == sum(len(r["scores"]) for r in scored)
        first = frame.iloc[1]
        assert (first.unit, first.score) == (scored[0]["units"][1], scored[0]["scores"][1])


def test_a_run_folder_holds_its_records_as_a_table(tmp_path: Path) -> None:
    found = experiments.ablate(
        model=demo_paths().model, pairs=demo_paths().pairs, limit=3, component="mlps", out=tmp_path
    )
    table = pandas.read_csv(tmp_path / "records.csv")
    np.testing.assert_allclose(table.effect, found.frame.effect)
    with (tmp_path / "records.csv").open(newline="") as file:
        assert next(csv.reader(file))[0] == "site"


def test_an_interrupted_sweep_keeps_whole_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sweep.PACK, "cpu", 1)
    line = (
        f"ablate --model {demo_paths().model} --pairs {demo_paths().pairs} --limit 3 "
        f"--component heads --out {tmp_path}"
    )
    whole, calls = grid._of_block, []

    def third_fails(*args: Any) -> Any:
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(grid, "_of_block", third_fails)
    assert cli.main(line.split()) == 130
    assert "interrupted; 2 parts are done and kept in" in capsys.readouterr().err
    assert cli.main(line.split()) == 0
    assert len(calls) - 3 == len({record["layer"] for record in Results.load(tmp_path).records}) - 2
    other = f"{line}-whole"
    monkeypatch.setattr(grid, "_of_block", whole)
    monkeypatch.setitem(sweep.PACK, "cpu", 4096)
    assert cli.main(other.split()) == 0
    both = [Results.load(folder).frame for folder in (tmp_path, f"{tmp_path}-whole")]
    np.testing.assert_allclose(both[0].effect, both[1].effect, atol=1e-5)


def test_an_interrupt_before_any_work_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "_of_block", fails)
    line = (
        f"ablate --model {demo_paths().model} --pairs {demo_paths().pairs} "
        f"--limit 3 --out {tmp_path}"
    )
    assert cli.main(line.split()) == 130
    assert "nothing was done yet" in capsys.readouterr().err


def test_activations_are_a_table_whose_sites_complete() -> None:
    one = subject("gpt2")
    with capture(one.model, "blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern") as acts:
        assert "no forward has run yet" in repr(acts)
        one.model(torch.tensor([[1, 2, 3]]))
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"]
    assert sorted(acts._ipython_key_completions_()) == sorted(names)
    assert f"{names[0]}    [1, 3, 32]" in repr(acts)
    assert "<td>[1, 4, 3, 3]</td><td>float32</td>" in acts._repr_html_()
    assert tiny.VOCAB == 100


def test_a_reader_that_stops_early_breaks_no_pipe() -> None:
    script = f"{sys.executable} -m layerscope completion bash | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ablat --model x", "did you mean ablate?"),
        ("report {folder}/rums", "no such run folder: did you mean {folder}/runs?"),
        ("report {folder}", "expected a finished run's folder, with a results.json"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    line: str, expected: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.json").write_text("{}")
    try:
        status = cli.main(line.format(folder=tmp_path).split())
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert expected.format(folder=tmp_path) in capsys.readouterr().err
