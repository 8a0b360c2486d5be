"""The whole study on models and corpora small enough to know the answer."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tiny

from experiments import cli
from experiments.corpus.splits import read_splits
from experiments.pages import complete
from experiments.report.schema import SCHEMA
from experiments.runs.execute import execute
from experiments.runs.folder import RunFolder
from experiments.runs.options import add_options, as_command, from_arguments
from experiments.studies import STUDIES
from experiments.studies.probe import study
from experiments.studies.probe.options import ProbeOptions

FIELDS = [
    "site",
    "layer",
    "property",
    "metric",
    "score",
    "score_interval",
    "control",
    "selectivity",
    "majority",
    "type_majority",
    "random_model",
    "score_seen",
    "score_unseen",
    "macro_f1",
    "n_train",
    "n_test",
    "l2",
    "converged",
]


def conllu(n, seed, mark=""):
    """Sentences whose tag and relation are read off the word (w3..w11 NOUN, others VERB),
    depth and head off the place.
    """
    rng, lines = random.Random(seed), []
    for i in range(n):
        lines.append(f"# sent_id = {mark}{i}")
        words = [f"w{rng.randint(3, 22)}" for _ in range(rng.randint(4, 9))]
        lines.append(f"# text = {' '.join(words)}")
        for j, word in enumerate(words, 1):
            tag = "NOUN" if int(word[1:]) < 12 else "VERB"
            relation = "root" if j == 1 else "dep" if tag == "NOUN" else "obj"
            lines.append(
                f"{j}\t{word}\t{word}\t{tag}\tX\tNumber=Sing\t{min(j - 1, 1)}\t{relation}\t_\t_"
            )
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, and three corpora that share no sentence."""
    base = tmp_path_factory.mktemp("study")
    tiny.save(tiny.model("gpt2"), base / "model")
    for seed, (name, n) in enumerate((("train", 120), ("dev", 40), ("test", 60))):
        (base / f"{name}.conllu").write_text(conllu(n, seed, name), encoding="utf-8")
    return base


def config(folder, out, **more):
    return ProbeOptions(
        model=str(folder / "model"),
        corpus=folder / "train.conllu",
        out=out,
        **{
            "dev": folder / "dev.conllu",
            "test": folder / "test.conllu",
            "property": ("upos", "head_direction"),
            "l2": (1.0, 100.0),
            "control_seeds": 2,
            **more,
        },
    )


def run(options):
    """The results, with the page in the folder."""
    found = execute(STUDIES["probe"], options)
    assert complete(found, options.out) is None
    return found


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return run(config(folder, out)), out


def test_records_are_complete(results):
    found, out = results
    assert found == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["kind"]) == (SCHEMA, "probe")
    assert len(found["records"]) == 2 * 3  # properties x (embedding + 2 blocks)
    for record in found["records"]:
        assert set(FIELDS) <= set(record)
        ends = record["score_interval"]
        assert ends["low"] <= record["score"] <= ends["high"]
        assert record["converged"]
    assert [r["layer"] for r in found["records"][:3]] == [-1, 0, 1]
    score = {(r["property"], r["layer"]): r["score"] for r in found["records"]}
    assert len(found["comparisons"]) == 2 * 3
    for c in found["comparisons"]:
        less = score[c["property"], c["layer_b"]] - score[c["property"], c["layer_a"]]
        assert c["difference"] == pytest.approx(less)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "probes",
        "records.csv",
        "report.html",
        "results.json",
        "run.toml",
    ]


def test_a_property_of_the_word_is_known_in_the_embeddings_and_is_not_memory(results):
    by = {(r["property"], r["layer"]): r for r in results[0]["records"]}
    upos = by["upos", -1]
    assert upos["score"] > 0.95
    assert upos["type_majority"] > 0.95
    assert abs(upos["majority"] - 0.55) < 0.08  # 11 of 20 types
    # root at the first place, else left: the position embedding tells
    direction = by["head_direction", -1]
    assert direction["score"] > 0.99


def test_the_same_seed_gives_the_same_numbers_and_an_interrupted_run_continues(
    results, folder, tmp_path, monkeypatch
):
    whole, _ = results
    calls = []
    real = study.score_cell

    def breaks(site, *rest):
        calls.append(site)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(site, *rest)

    monkeypatch.setattr(study, "score_cell", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(config(folder, tmp_path / "b"))
    assert (tmp_path / "b" / "cells").exists()
    again = run(config(folder, tmp_path / "b"))
    # the first layer is not probed twice
    assert calls == [calls[0], calls[1], *calls[1:2], calls[3]]
    assert again["records"] == whole["records"]
    assert again["comparisons"] == whole["comparisons"]


def test_a_finished_run_is_not_computed_again_and_another_configuration_is_refused(
    results, folder, monkeypatch
):
    found, out = results
    monkeypatch.setattr(study, "_all_features", None)
    assert run(config(folder, out)) == found
    with pytest.raises(
        ValueError, match=r"another configuration \(seed differ; seed: 0 there, 1 here\)"
    ):
        run(config(folder, out, seed=1))


def test_skipping_controls_is_said(folder, tmp_path):
    found = run(
        config(folder, tmp_path / "c", control_seeds=0, random_models=0, property=("upos",))
    )
    record = found["records"][0]
    assert record["control"] is record["selectivity"] is record["random_model"] is None
    assert sum("not supported" in n["text"] for n in found["notes"]) == 2


def test_every_kind_of_property_runs(folder, tmp_path):
    names = (
        "head_distance",
        "depth",
        "arc:deprel",
        "sentence_length",
        "bigram_shift",
        "shape",
        "feats:Number",
    )
    usable = names[:5]
    found = run(config(folder, tmp_path / "d", property=usable, random_models=0))
    by = {(r["property"], r["layer"]): r for r in found["records"]}
    assert {p for p, _ in by} == set(usable)
    assert by["depth", -1]["metric"] == "r2"
    assert by["depth", -1]["score"] > 0.9  # depth is the place in these sentences
    assert by["bigram_shift", 1]["score"] < 0.7  # nothing to find in random words


def test_splits_share_no_sentence(tmp_path):
    path = tmp_path / "all.conllu"
    path.write_text(conllu(50, 0) + conllu(10, 0, "again"), encoding="utf-8")
    splits, notes = read_splits(path, None, None, limit=20, seed=0)
    texts = [{s.text for s in corpus.sentences} for corpus in splits.values()]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert len(splits["train"]) == 20
    assert [n["kind"] for n in notes] == ["info", "info", "dropped", "info"]
    assert "20 of" in notes[-1]["text"]


def run_cli(folder, tmp_path, capsys, *changes):
    base = {
        "--model": str(folder / "model"),
        "--corpus": str(folder / "train.conllu"),
        "--dev": str(folder / "dev.conllu"),
        "--test": str(folder / "test.conllu"),
        "--property": "upos",
        "--out": str(tmp_path / "run"),
    }
    base |= dict(changes)
    status = cli.main(["probe", *(word for pair in base.items() for word in pair)])
    return status, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"--model": "no/such-model"}, "no/such-model"),
        ({"--corpus": "nowhere.conllu"}, "nowhere.conllu"),
        ({"--property": "uppos"}, "upos"),
        ({"--property": "xpos"}, "2 classes"),
        ({"--site": "hook_resid_pots"}, "hook_resid_post"),
        ({"--site": "attn.hook_pattern"}, "one vector a token"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    folder, tmp_path, capsys, monkeypatch, changes, expected
):
    monkeypatch.chdir(tmp_path)  # where no such files are
    status, line = run_cli(folder, tmp_path, capsys, *changes.items())
    assert status == 2
    assert line.startswith("layerscope: ")
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\ta\ta\tX\tX\t_\t0\troot\t_\n\n", r":1: expected 10"),
        ("", "sentence"),
        ("# text = a\n1\ta\ta\tX\tX\t_\t7\troot\t_\t_\n\n", ":2: "),
    ],
)
def test_a_bad_corpus_is_named_with_its_line(folder, tmp_path, capsys, text, expected):
    (tmp_path / "bad.conllu").write_text(text, encoding="utf-8")
    status, line = run_cli(folder, tmp_path, capsys, ("--corpus", str(tmp_path / "bad.conllu")))
    assert status == 2
    assert "bad.conllu" in line
    assert expected in line


def test_nan_activations_are_named(folder, tmp_path, capsys):
    import torch

    model = tiny.model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[0, 0] = float("nan")
    tiny.save(model, tmp_path / "nan")
    status, line = run_cli(folder, tmp_path, capsys, ("--model", str(tmp_path / "nan")))
    assert status == 2
    assert "NaN" in line or "finite" in line


def test_a_full_disk_is_said_before_the_model_runs(folder, tmp_path, capsys, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    status, line = run_cli(folder, tmp_path, capsys)
    assert status == 2
    assert "MiB on disk, 1000 B are free" in line or "KiB on disk, 1000 B are free" in line


def test_the_command_in_the_provenance_is_this_run(folder, tmp_path):
    import argparse
    import shlex

    wanted = config(folder, tmp_path / "x y", site="attn.hook_z", keep_features=True)
    words = shlex.split(as_command("probe", wanted))
    parser = argparse.ArgumentParser()
    add_options(parser, ProbeOptions)
    assert from_arguments(ProbeOptions, parser.parse_args(words[2:])) == wanted


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        RunFolder(tmp_path, {"a": 1})
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert cli.main([]) == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    assert stop.value.code == 0
    assert "--sample" in capsys.readouterr().out


def test_code_lengths_stand_beside_the_scores(folder, tmp_path, results):
    """On request; a tag that is a function of the word compresses
    more than random tags of the words.
    """
    found = run(config(folder, tmp_path / "a", property=("upos",), code_length=True, l2=(1.0,)))
    for record in found["records"]:
        assert record["compression"] > 1.5
        assert record["compression"] > record["control_compression"]
        assert record["code_bits"] == pytest.approx(
            record["n_train"] / record["compression"]
        )  # two classes: a bit each
    assert "compression" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert results[0]["records"][0]["compression"] is None  # not asked for


def test_a_study_with_everything_asked_of_all_layers(folder, tmp_path):
    more = {
        "information": True,
        "scalar_mix": True,
        "structural": 8,
        "control_seeds": 1,
        "property": ("upos",),
    }
    results = run(config(folder, tmp_path / "a", **more))
    assert [r["site"] for r in results["trees"]] == [r["site"] for r in results["records"]]
    assert all(0 <= r["uuas"] <= 1 and r["random_uuas"] is not None for r in results["trees"])
    assert results["mixes"][0]["sites"] == [r["site"] for r in results["records"]]
    assert results["records"][0]["gain"] == 0
    assert results["records"][1]["conditional"] is not None
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "All layers at once" in page
    assert "Syntax trees" in page


def test_other_seeds_are_runs_of_their_own(folder, tmp_path):
    small = {
        "control_seeds": 1,
        "random_models": 0,
        "property": ("upos",),
        "dev": None,
        "test": None,
    }
    found = run(config(folder, tmp_path / "several", seeds=3, **small))
    alone = [
        run(config(folder, tmp_path / f"one-{seed}", seed=seed, **small)) for seed in (0, 1, 2)
    ]
    for i, record in enumerate(found["records"]):
        assert record["score_seeds"] == [one["records"][i]["score"] for one in alone]
        assert record["selectivity_seeds"] == [one["records"][i]["selectivity"] for one in alone]
    (spread,) = found["seeds"]
    top = found["records"][[r["site"] for r in found["records"]].index(spread["best"][0])]
    assert spread["mean"] == pytest.approx(np.mean(top["score_seeds"]))
    assert spread["sd"] == pytest.approx(np.std(top["score_seeds"], ddof=1))
    assert 'id="seeds"' in (tmp_path / "several" / "report.html").read_text(encoding="utf-8")
