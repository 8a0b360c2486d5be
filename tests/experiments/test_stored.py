"""Studies that read a store give what studies that run the model give;
a store that does not serve is refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import cli
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.features.layout import Layout, extract
from experiments.features.stored import stored
from experiments.subject import load
from hooks import ActivationStore

MODEL = demo_paths().model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few sentences of each kind."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name, path, count in (("train", demo_paths().dev, 60), ("test", demo_paths().test, 30)):
        found[name] = folder / f"{name}.conllu"
        found[name].write_text(
            "\n\n".join(path.read_text("utf-8").split("\n\n")[:count]) + "\n\n", encoding="utf-8"
        )
    return found


def capture(out: Path, *more: object) -> Path:
    given = ["capture", "--model", MODEL, "--out", out, "--site", "blocks.4.hook_resid_post"]
    given += ["--site", "blocks.0.hook_resid_pre", *more]
    assert cli.main([str(word) for word in given]) == 0
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Path:
    # In another order than the study's.
    corpora = ("--corpus", files["test"], "--corpus", files["train"])
    return capture(tmp_path_factory.mktemp("store") / "run", *corpora)


def study(files: dict[str, Path], out: Path, *more: object) -> list[str]:
    given = [
        "probe",
        "--model",
        MODEL,
        "--corpus",
        files["train"],
        "--test",
        files["test"],
        "--out",
        out,
    ]
    given += [
        "--property",
        "feats:Number",
        "--property",
        "bigram_shift",
        "--sample",
        40,
        "--l2",
        100,
    ]
    given += [
        "--site",
        "blocks.4.hook_resid_post",
        "--control-seeds",
        1,
        "--random-models",
        0,
        *more,
    ]
    return [str(word) for word in given]


def test_a_study_reads_what_was_captured(
    tmp_path: Path, files: dict[str, Path], store: Path
) -> None:
    assert cli.main(study(files, tmp_path / "live")) == 0
    assert cli.main(study(files, tmp_path / "stored", "--store", store, "--keep-features")) == 0
    live, read = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("live", "stored")
    )
    assert {r["property"] for r in live["records"]} == {"feats:Number", "bigram_shift"}
    for one, other in zip(live["records"], read["records"], strict=True):
        for key in ("property", "site", "n_test", "majority"):
            assert one[key] == other[key]
        # batches differ, and with them the rounding
        assert abs(one["score"] - other["score"]) < 0.02
    assert any("read from" in note["text"] for note in read["notes"])
    folders = [p.name for p in (tmp_path / "stored" / "features").iterdir()]
    assert folders == ["model-bigram_shift"]  # the model ran on the rewritten text alone


def test_stored_rows_are_the_rows_of_the_layout(
    files: dict[str, Path], store: Path, tmp_path: Path
) -> None:
    subject = load(MODEL)
    corpora = [read_conllu(files["train"]), read_conllu(files["test"])]
    layout = Layout.of(subject, [s for c in corpora for s in c])
    place = "blocks.4.hook_resid_post"
    live = ActivationStore(tmp_path / "live", {})
    extract(subject, layout, [place], live)
    found = stored(str(store), subject, corpora, layout, [place], "mean").read(place)
    torch.testing.assert_close(found, live.read(place), rtol=1e-4, atol=1e-4)
    # some of the sentences, as a draw leaves them
    few = Layout.of(subject, corpora[1].sentences[5:9])
    some = replace(corpora[1], sentences=corpora[1].sentences[5:9])
    first = sum(len(s.words) for c in (corpora[0], corpora[1].sentences[:5]) for s in c)
    found = stored(str(store / "store"), subject, [some], few, [place], "mean").read(place)
    torch.testing.assert_close(
        found, live.read(place)[first : first + few.n_rows], rtol=1e-4, atol=1e-4
    )


def test_a_store_that_does_not_serve_is_refused(
    tmp_path: Path, files: dict[str, Path], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, *more: object) -> str:
        assert cli.main(study(files, tmp_path / name, *more)) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "expected pooling last, it was made with mean" in said(
        "a", "--store", store, "--pooling", "last"
    )
    assert "expected weights bfloat16" in said("b", "--store", store, "--dtype", "bfloat16")
    assert "expected site blocks.0.attn.hook_z" in said(
        "c", "--store", store, "--site", "attn.hook_z"
    )
    assert "found no store.json" in said("d", "--store", tmp_path / "nowhere")
    some = capture(tmp_path / "some", "--corpus", files["train"])
    assert f"holds nothing of {files['test']}" in said("e", "--store", some)
    few = capture(
        tmp_path / "few", "--corpus", files["train"], "--corpus", files["test"], "--limit", 20
    )
    assert "words are not in it" in said("f", "--store", few)
    (tmp_path / "some" / "store" / "shard-000000.safetensors").unlink()
    with pytest.raises(ValueError, match="missing"):
        ActivationStore(tmp_path / "some" / "store").read("blocks.4.hook_resid_post")


def records(out: Path) -> list[dict[str, object]]:
    return json.loads((out / "results.json").read_text())["records"]


def test_maps_and_neurons_read_what_was_captured(
    tmp_path: Path, files: dict[str, Path], store: Path
) -> None:
    """What is said of layers and neurons is the same; the running model is still changed."""
    site = ("--site", "blocks.4.hook_resid_post")
    given = ("--model", MODEL, "--corpus", files["train"], *site)
    geometry = ("geometry", *given, "--sample", 60, "--method", "pca", "--lens-texts", 0)
    neurons = (
        "neurons",
        *given,
        "--test",
        files["test"],
        "--property",
        "feats:Number",
        "--ranking",
        "mean_difference",
    )
    for command in (geometry, (*neurons, "--k", 4, "--random", 1, "--rotations", 1)):
        for name, more in (("live", ()), ("stored", ("--store", store))):
            assert (
                cli.main(
                    [
                        str(word)
                        for word in (*command, "--out", tmp_path / f"{command[0]}-{name}", *more)
                    ]
                )
                == 0
            )
        live, read = (records(tmp_path / f"{command[0]}-{name}") for name in ("live", "stored"))
        assert len(live) == len(read) > 0
        for one, other in zip(live, read, strict=True):
            for key, value in one.items():
                assert other[key] == (
                    pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
                ), key
        assert not (tmp_path / f"{command[0]}-stored" / "features").exists()
