"""A bug is told from bad input, a page that fails loses nothing,
and every error of ours has one base class.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import shutil
from pathlib import Path

import pytest

import layerscope as ls
from experiments.cli import BAD_INPUT, BUG, main
from experiments.demo import demo_paths
from experiments.report import closing
from experiments.runs import execute

PATHS = demo_paths()


def words(out):
    texts = ["--corpus", str(PATHS.dev), "--limit", "3"]
    return [
        "capture",
        "--model",
        str(PATHS.model),
        "--site",
        "hook_embed",
        *texts,
        "--out",
        str(out),
    ]


def test_every_error_of_ours_is_a_layerscope_error():
    strange = []
    for room in ls.ROOMS:
        package = importlib.import_module(f"layerscope.{room}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            own = [
                c
                for _, c in inspect.getmembers(module, inspect.isclass)
                if c.__module__ == info.name
            ]
            strange += [
                c
                for c in own
                if issubclass(c, Exception) and not issubclass(c, (ls.LayerscopeError, Warning))
            ]
    # raised and caught inside one function
    assert {c.__name__ for c in strange} <= {"_Stop", "_Read"}


@pytest.mark.parametrize(
    "error",
    [KeyError("selectivity_hi"), ValueError("operands could not be broadcast"), IndexError()],
)
def test_a_bug_shows_its_traceback(error, tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(execute, "identity_of", fails)
    assert main(words(tmp_path / "x")) == BUG
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert type(error).__name__ in shown
    assert "this is a bug in layerscope" in shown


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main([*words(tmp_path / "x"), "--corpus", str(tmp_path / "none.conllu")]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--model", ""], "layerscope: --model: expected a name or a path, got an empty one"),
        (["--model", "no_tokenizer"], "no tokenizer beside it: expected tokenizer.json"),
        (
            ["--model", "m", "--device", "xla:3"],
            "layerscope: device 'xla:3': this machine has none",
        ),
        (["--model", "m", "--out", "file/run"], "layerscope: --out file/run: "),
        (["--model", "m", "--seed", "1.5"], "argument --seed: expected a whole number, got '1.5'"),
    ],
)
def test_a_slip_in_an_option_is_named_in_plain_words(given, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PATHS.model, "m")
    shutil.copytree("m", "no_tokenizer", ignore=shutil.ignore_patterns("tokenizer*"))
    Path("file").write_text("")
    try:
        status = main(["doctor", *given])
    except SystemExit as ended:  # argparse's
        status = ended.code
    assert status == BAD_INPUT
    told = capsys.readouterr().err.splitlines()[-1]
    assert line in told


@pytest.mark.parametrize(
    ("command", "name", "value", "line"),
    [
        ("ablate", "skip", 30, "skip: expected a number of at most 1, got 30.0"),
        ("lens", "held_out", 2, "held_out: expected a number of at most 1, got 2.0"),
        ("calibrate", "split", 50, "split: expected a number of at most 1, got 50.0"),
        ("probe", "l2", [10.0, 0], "l2: expected a number above 0, got 0.0"),
        ("usage", "l2", 0, "l2: expected a number above 0, got 0.0"),
        ("probe", "tol", 0.0, "tol: expected a number above 0, got 0.0"),
        ("attribute", "error", 0.0, "error: expected a number above 0, got 0.0"),
    ],
)
def test_a_share_above_1_and_a_penalty_of_0_are_refused_before_anything_is_read(
    command, name, value, line
):
    with pytest.raises(ls.LayerscopeError) as caught:
        getattr(ls, command)(model="no/model", **{name: value})
    assert str(caught.value) == line


def test_a_property_in_other_capitals_is_the_nearest():
    with pytest.raises(ls.LayerscopeError, match="got 'UPOS'; the nearest is 'upos'; there are"):
        ls.probe.plan(model=str(PATHS.model), corpus=PATHS.dev, property="UPOS")


@pytest.mark.parametrize("command", ["attribute", "ablate", "lens"])
def test_one_text_has_answers_that_differ_as_texts_of_a_file_have(command):
    """Their difference is 0 whatever the model does."""
    given = {"model": str(PATHS.model), "text": "The guards", "target": " the", "wrong": " the"}
    with pytest.raises(ls.LayerscopeError, match="differs from the wrong one, got ' the' twice"):
        getattr(ls, command).plan(**given)


def test_an_error_of_the_system_is_the_file_and_what_is_wrong(tmp_path, capsys):
    Path(tmp_path / "file").write_text("")
    place = tmp_path / "file" / "ioi.jsonl"
    status = main(["make", "ioi", "--model", str(PATHS.model), "--out", str(place)])
    assert status == BAD_INPUT
    assert capsys.readouterr().err == f"layerscope: {tmp_path / 'file'}: File exists\n"


def test_a_page_that_fails_keeps_the_results(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(closing, "provenance", lambda about: about["selectivity_hi"])
        assert main(words(out)) == BUG
    shown = capsys.readouterr().err
    assert "KeyError: 'selectivity_hi'" in shown
    assert f"layerscope report {out}" in shown
    assert json.loads((out / "results.json").read_text())["records"]
    assert not (out / "report.html").exists()
    assert main(["report", str(out)]) == 0
    assert "<!doctype html>" in (out / "report.html").read_text()


def test_a_finished_run_without_findings_and_notes_is_shown(tmp_path):
    out = tmp_path / "run"
    assert main(words(out)) == 0
    results = json.loads((out / "results.json").read_text())
    del results["findings"], results["notes"]
    (out / "results.json").write_text(json.dumps(results))
    assert main(words(out)) == 0


def test_in_python_a_page_that_fails_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(closing, "provenance", lambda about: about["selectivity_hi"])
    with pytest.warns(UserWarning, match="could not be made"):
        results = ls.capture_to_store(
            model=PATHS.model, site="hook_embed", corpus=PATHS.dev, limit=3, out=tmp_path / "run"
        )
    assert results.records


def test_an_option_is_taken_by_its_old_name_and_never_by_half(tmp_path, capsys):
    assert main([*words(tmp_path / "x"), "--lim", "2"]) == 2
    assert "did you mean --limit?" in capsys.readouterr().err
    from experiments.runs.options import from_values
    from experiments.studies import STUDIES

    options = from_values(
        STUDIES["probe"].options,
        {"model": "m", "corpus": "c", "property": "p", "limit_sentences": 4},
    )
    assert options.sample == 4


@pytest.mark.parametrize(
    "ingredient",
    ["weights", "configuration", "tokenizer", "chat template", "generation settings", "adapter", "revision", "dtype",
     "attention", "bos", "longest input", "processor"],
)  # fmt: skip
def test_a_run_is_refused_by_the_name_of_what_changed(ingredient, tmp_path, monkeypatch):
    from experiments.subject import Subject, load

    subject = load(PATHS.model)
    given = {"site": "hook_embed", "corpus": PATHS.dev, "limit": 3, "out": tmp_path / "run"}
    ls.capture_to_store(model=subject, **given)
    changed = {**subject.identity, ingredient: "something else"}
    monkeypatch.setattr(Subject, "identity", property(lambda self: changed))
    with pytest.raises(ls.LayerscopeError, match=f"model: {ingredient} differ"):
        ls.capture_to_store(model=subject, **given)


@pytest.mark.parametrize("setting", ["rms_norm_eps", "rope_theta", "hidden_act"])
def test_a_changed_configuration_is_another_model(setting):
    from experiments.subject import load

    subject = load(PATHS.model)
    before = dict(subject.identity)
    other = load(PATHS.model)
    setattr(other.config, setting, {"hidden_act": "gelu"}.get(setting, 0.25))
    differing = {name for name, value in other.identity.items() if value != before[name]}
    assert differing == {"configuration"}
    assert other.sha256 != subject.sha256


def test_a_changed_processor_or_longest_input_is_another_run():
    """The processor is given by the first study that has pictures,
    when the model may be hashed already.
    """
    from vision_language import build

    from experiments.subject import Subject

    model, processor = build("llava")
    subject = Subject(model.eval(), processor.tokenizer, bos="never")
    plain = subject.identity
    subject.processor = processor
    before = subject.identity
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    other = Subject(model.eval(), processor.tokenizer, bos="never", max_length=7)
    for one, known, name in (
        (before, plain, "processor"),
        (subject.identity, before, "processor"),
        (other.identity, plain, "longest input"),
    ):
        assert {key for key in one if one[key] != known[key]} == {name}


def test_data_is_hashed_as_it_was_parsed(tmp_path):
    import hashlib
    import os
    import threading

    from experiments.corpus.files import opened_text, parsed_sha256

    text = "erste\nzweite\n".encode("utf-8-sig")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(text))
    writer.start()
    with opened_text(pipe) as file:
        assert file.readline() == "erste\n"
    writer.join()
    assert parsed_sha256(pipe) == hashlib.sha256(text).hexdigest()


def test_a_folder_in_use_is_refused_and_a_dead_process_holds_no_lock(tmp_path):
    import subprocess
    import sys
    import time

    from experiments.runs.folder import RunError, RunFolder

    folder = RunFolder(tmp_path / "run", {"a": 1})
    code = (
        "import sys, time; from layerscope.experiments.runs.folder import RunFolder; "
        "from pathlib import Path\nwith RunFolder(Path(sys.argv[1]), {'a': "
        "1}).locked():\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process"), folder.locked():
            pass
        other.kill()
    for _ in range(50):
        try:
            with folder.locked():
                return
        except RunError:
            time.sleep(0.05)
    raise AssertionError("the lock of a dead process holds")


def test_a_cell_that_was_edited_is_one_line(tmp_path):
    from experiments.runs.folder import RunError, RunFolder

    folder = RunFolder(tmp_path / "run", {"a": 1})
    folder.save_cell("x", {"effects": [1.0, 2.0]})
    assert folder.cell("x") == {"effects": [1.0, 2.0]}
    (path,) = (tmp_path / "run" / "cells").glob("*.json")
    path.write_text(path.read_text().replace("2.0", "3.0"))
    with pytest.raises(RunError, match="delete the file"):
        folder.cell("x")
