"""The doctor as a command and before every study, on the embedded model and on broken ones."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from experiments import cli
from experiments.demo import demo_paths
from experiments.pages import render_report
from experiments.runs import execute as execution
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from experiments.studies.doctor.options import DoctorOptions
from experiments.subject import Subject, load
from experiments.subject.bos import SENTENCES
from experiments.subject.checks import TEXTS, examine, round_trip, sample, spans
from experiments.subject.word_spans import Encoded


@pytest.fixture(scope="module")
def model_path():
    return str(demo_paths().model)


@pytest.fixture
def broken(monkeypatch):
    """The loader gives a model whose first layer lacks its causal mask."""
    whole = execution.load

    def loads(*args, **more):
        subject = whole(*args, **more)
        subject.body.layers[0].self_attn.is_causal = False
        return subject

    monkeypatch.setattr(execution, "load", loads)


def test_the_command_prints_the_map_and_writes_a_run(model_path, tmp_path, capsys):
    assert cli.main(["doctor", "--model", model_path, "--out", str(tmp_path / "d")]) == 0
    shown = capsys.readouterr().out
    assert "the doctor's map" in shown
    assert "Nothing is WRONG" in " ".join(shown.split())
    results = json.loads((tmp_path / "d" / "results.json").read_text())
    assert (results["kind"], results["status"]) == ("doctor", "OK")
    checks = {r["check"] for r in results["records"]}
    assert {"gradients", "padding", "tokens round-trip", "word spans", "float16"} <= checks
    assert checks <= set(results["checks"])
    assert {r["status"] for r in results["records"]} == {"OK"}
    page = (tmp_path / "d" / "report.html").read_text()
    assert "nothing is WRONG" in page
    assert cli.main(["doctor", "--model", model_path, "--out", str(tmp_path / "d"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {name: results[name] for name in printed if name != "out"} == {
        k: v for k, v in printed.items() if k != "out"
    }
    assert {"records", "status", "findings"} <= set(printed)


def test_a_wrong_model_is_exit_status_one_and_the_page_says_so(
    model_path, tmp_path, capsys, broken
):
    assert cli.main(["doctor", "--model", model_path, "--out", str(tmp_path / "d")]) == 1
    assert "WRONG" in capsys.readouterr().out
    results = json.loads((tmp_path / "d" / "results.json").read_text())
    assert results["status"] == "WRONG"
    assert "attention mask" in {r["check"] for r in results["records"] if r["status"] == "WRONG"}
    assert "something is WRONG" in render_report(results)


def test_a_folder_for_each_model_unless_one_is_named():
    outs = [
        DoctorOptions(model=m, dtype=d).out
        for m, d in (("org/gpt2", None), ("/a/b", None), ("/a/b", "float16"))
    ]
    assert [str(out)[:-8] for out in outs] == [
        "runs/doctor-gpt2-",
        "runs/doctor-b-",
        "runs/doctor-b-",
    ]
    assert len(set(outs)) == 3
    # what changes no number is the same run
    assert DoctorOptions(model="/a/b", force=True).out == outs[1]


@pytest.fixture
def pairs(tmp_path):
    rows = demo_paths().pairs.read_text().splitlines()[:4]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "pairs.jsonl"


def study(model_path, pairs, out, *more):
    return cli.main(
        [
            "ablate",
            "--model",
            model_path,
            "--pairs",
            str(pairs),
            "--component",
            "mlps",
            "--out",
            str(out),
            *more,
        ]
    )


def test_a_study_runs_the_quick_part_first_and_a_finished_one_does_not(
    model_path, pairs, tmp_path, capsys, monkeypatch
):
    assert study(model_path, pairs, tmp_path / "a") == 0
    assert "quick checks in" in capsys.readouterr().err
    about = json.loads((tmp_path / "a" / "results.json").read_text())["provenance"]["doctor"]
    assert (about["status"], about["wrong"]) == ("OK", [])
    monkeypatch.setattr(
        "experiments.subject.checks.verify",
        lambda *a, **k: pytest.fail("a finished run is examined again"),
    )
    assert study(model_path, pairs, tmp_path / "a") == 0
    assert "quick checks" not in capsys.readouterr().err


def test_a_study_refuses_a_wrong_model_or_brands_its_report(
    model_path, pairs, tmp_path, capsys, broken
):
    assert study(model_path, pairs, tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert "is not what its sites say" in said
    assert "attention mask" in said
    assert not (tmp_path / "a" / "results.json").exists()
    assert study(model_path, pairs, tmp_path / "a", "--force") == 0
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["provenance"]["doctor"]["status"] == "WRONG"
    assert results["notes"][0]["kind"] == "wrong"
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Forced past the doctor" in page
    assert "--force" in results["provenance"]["command"]


def test_the_examination_changes_no_number_of_a_study(model_path, pairs, tmp_path, monkeypatch):
    config = {"model": model_path, "pairs": pairs, "component": "heads", "value": "resample"}
    with_it = execute(STUDIES["ablate"], AblateOptions(**config, out=tmp_path / "a"))
    monkeypatch.setattr("experiments.runs.execute._examined", lambda subject, force: {})
    without = execute(STUDIES["ablate"], AblateOptions(**config, out=tmp_path / "b"))
    assert with_it["records"] == without["records"]


# -- text


def test_sentences_are_cut_to_one_length(model_path):
    subject = load(model_path)
    ids = sample(subject)["input_ids"]
    assert len(ids) == 3
    assert (ids[:, 0] == subject.bos).all()
    rows = [e.ids for e in subject.encode(SENTENCES[:3])]
    assert ids.tolist() == [list(row[: ids.shape[1]]) for row in rows]


def test_words_are_lost_out_of_order_or_without_tokens():
    """Planted: a tokenizer whose offsets are shifted, and one that drops letters."""
    subject = Subject(tiny.model("gpt2"), tiny.tokenizer())
    assert {f.status for f in spans(subject)} == {"OK"}
    encode = subject.encode

    def shifted(texts):
        (e,) = encode(texts)
        moved = tuple((min(a + 9, len(e.text)), min(b + 9, len(e.text))) for a, b in e.offsets)
        return [Encoded(e.text, e.ids, moved, e.special)]

    def cut_short(texts):
        (e,) = encode(texts)
        return [Encoded(e.text, e.ids[:-2], e.offsets[:-2], e.special[:-2])]

    subject.encode = shifted
    assert "UNSUPPORTED" in {f.status for f in spans(subject)}
    subject.encode = cut_short
    assert [f.status for f in spans(subject)] == ["UNSUPPORTED"] * len(TEXTS)
    assert "no token carries" in next(iter(spans(subject))).reason

    def stray(texts):
        (e,) = encode(texts)
        word = [i for i, special in enumerate(e.special) if not special]
        turned = [e.offsets[i] for i in reversed(word)]
        return [Encoded(e.text, e.ids, (*e.offsets[: word[0]], *turned), e.special)]

    subject.encode = stray
    assert {f.status for f in spans(subject)} == {"WRONG"}


def test_what_the_vocabulary_lacks_is_said():
    subject = Subject(tiny.model("gpt2"), tiny.tokenizer())  # it knows w3 to w99 and nothing else
    found = list(round_trip(subject))
    assert {f.status for f in found} == {"UNSUPPORTED"}
    assert "the vocabulary has no such characters" in found[0].reason
    assert "100%" not in found[1].reason or found[1].measured == 1


@pytest.mark.real
@pytest.mark.parametrize("which", ["minilm_path", "smollm_path"])
def test_real_models_pass_the_quick_part(which, request):
    verdict = examine(load(request.getfixturevalue(which), dtype=torch.bfloat16), quick=True)
    assert verdict.wrong == []
