"""Decodable and used, on the embedded model: number carries its agreement, and the run says so."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import cli
from experiments.corpus import read_conllu
from experiments.corpus.prompts import Pair, read_pairs
from experiments.corpus.splits import read_splits
from experiments.demo import demo_paths
from experiments.features.layout import Layout
from experiments.metrics.metrics import get_metric
from experiments.metrics.probe_metric import save_probe
from experiments.subject import Subject, load
from experiments.subject.word_spans import pool_words
from experiments.sweep.components import Component
from experiments.sweep.sweep import Sweep, chunks
from hooks import Site, capture, edits, intervene
from probes import Inlp, Leace, LogisticProbe, fit_many
from probes.erasure import erased


def command(out: Path, **more: Any) -> list[str]:
    paths = demo_paths()
    given = {
        "model": paths.model,
        "corpus": paths.train,
        "dev": paths.dev,
        "test": paths.test,
        "property": "feats:Number",
        "pairs": demo_paths().pairs,
        "limit-sentences": 150,
        "limit": 30,
        "l2": 10,
        "null-draws": 3,
        "push": 1,
        "out": out,
        **more,
    }
    return ["usage", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("usage") / "run"
    assert cli.main(command(out)) == 0
    return json.loads((out / "results.json").read_text(encoding="utf-8")), out


def test_number_is_decodable_erased_and_missed(found: tuple[dict[str, Any], Path]) -> None:
    results, out = found
    erase = [r for r in results["records"] if r["value"] == "erase"]
    assert [r["layer"] for r in erase] == [0, 1, 2, 3, 4]
    for record in erase:
        assert record["decodable"] > record["majority"] + 0.1
        assert record["erased_linear"] < record["majority"] + 0.03
        assert record["erased_rank"] == 1
    strong = min(erase, key=lambda r: r["effect"])
    assert strong["effect"] < -1
    assert strong["effect_interval"]["high"] < 0
    assert strong["q"] < 0.05
    assert abs(strong["effect"]) > 3 * strong["null"]
    assert {r["value"] for r in results["records"]} == {"erase", "push Plur", "push Sing"}
    assert "feats:Number is decoded best at layer" in results["findings"][0]["text"]
    assert not (out / "features").exists()
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def difference(one: Subject, pair: Pair, changes: dict[Any, edits.Edit]) -> float:
    """log2 p(good) - log2 p(bad) from whole forwards of single texts."""
    out = []
    for text in (pair.good, pair.bad):
        ids = torch.tensor([one.encode([text])[0].ids])
        with torch.no_grad(), intervene(one.model, changes) if changes else nullcontext():
            logp = torch.log_softmax(one.model(ids).logits[0].double(), -1)
        out.append(float(logp[:-1].gather(1, ids[0, 1:, None]).sum() / np.log(2)))
    return out[0] - out[1]


def test_effects_are_those_of_whole_forwards_and_pushes_go_both_ways(
    found: tuple[dict[str, Any], Path],
) -> None:
    results, out = found
    one, site = load(demo_paths().model), "blocks.1.hook_resid_post"
    eraser, skip = (
        Leace.load(out / "erasers" / f"{site}.safetensors"),
        1 if one.has_sink_position else 0,
    )
    pairs = read_pairs(demo_paths().pairs, 30)
    effects = []
    for pair in pairs:
        edit = edits.function(eraser.erase).at(slice(skip, None))
        effects.append(difference(one, pair, {site: edit}) - difference(one, pair, {}))
    (record,) = [r for r in results["records"] if (r["site"], r["value"]) == (site, "erase")]
    assert record["effect"] == pytest.approx(np.mean(effects), abs=1e-3)

    metric, part = get_metric("pair_difference"), Component("layers", 1, None, Site(site))
    towards: dict[str, np.ndarray] = {}
    for label in ("Sing", "Plur"):
        edit = edits.function(lambda x, label=label: eraser.push(x, label, 1.0)).at(
            slice(skip, None)
        )
        towards[label] = np.empty(len(pairs))
        for chunk in chunks(one, metric.reads(one, pairs), 512):
            towards[label][chunk.prompts] = Sweep(one, metric, chunk).effects([(part, edit)])[0]
    longer = np.array([len(p.good) > len(p.bad) for p in pairs])  # the singular verb has the s
    assert 5 < longer.sum() < 25
    gain = towards["Sing"] - towards["Plur"]
    assert gain[longer].mean() > 1
    assert gain[~longer].mean() < -1


def test_the_null_is_that_of_turned_erasures_in_whole_forwards(
    found: tuple[dict[str, Any], Path],
) -> None:
    results, out = found
    one, site = load(demo_paths().model), "blocks.1.hook_resid_post"
    eraser, skip = (
        Leace.load(out / "erasers" / f"{site}.safetensors"),
        1 if one.has_sink_position else 0,
    )
    erase, pairs, means = (
        edits.function(eraser.erase).at(slice(skip, None)),
        read_pairs(demo_paths().pairs, 30),
        [],
    )
    clean = [difference(one, pair, {}) for pair in pairs]
    for draw in range(3):
        turned = [difference(one, pair, {site: edits.turned(erase, draw)}) for pair in pairs]
        means.append(abs(np.mean(np.subtract(turned, clean))))
    (record,) = [r for r in results["records"] if (r["site"], r["value"]) == (site, "erase")]
    assert record["null"] == pytest.approx(np.mean(means), abs=1e-3)
    for r in results["records"]:
        assert r["null_p"] in (0.25, 0.5, 0.75, 1)
    assert record["null_p"] == (1 + sum(mean >= abs(record["effect"]) for mean in means)) / 4


def test_what_is_left_is_what_fresh_probes_read_of_vectors_captured_one_by_one(
    found: tuple[dict[str, Any], Path],
) -> None:
    results, out = found
    one, site, paths = load(demo_paths().model), "blocks.1.hook_resid_post", demo_paths()
    splits, _ = read_splits(paths.train, paths.dev, paths.test, 150, 0)
    rows = {}
    for split in ("train", "test"):
        some = list(splits[split])
        layout, number = (
            Layout.of(one, some),
            [w.feats.get("Number") for s in some for w in s.words],
        )
        X = torch.cat([words(one, layout, text, site) for text in range(len(some))]).numpy()
        mine = [i for i, value in enumerate(number) if value]
        rows[split] = X[mine], np.array(number, dtype=object)[mine].astype(str)
    (X, y), (X_test, y_test) = rows["train"], rows["test"]
    order = np.random.default_rng(0).permutation(len(X))[:4000]
    (record,) = [r for r in results["records"] if (r["site"], r["value"]) == (site, "erase")]
    assert (record["n_train"], record["n_test"]) == (len(X), len(X_test))
    eraser = Leace.load(out / "erasers" / f"{site}.safetensors")
    left = erased(eraser, X[order], y[order], X_test, y_test, record["l2"])
    for name, part in (
        ("erased_linear", "linear"),
        ("erased_mlp", "mlp"),
        ("majority", "majority"),
    ):
        assert record[name] == pytest.approx(left[part], abs=0.01), name
    assert record["erased_change"] == pytest.approx(left["change"], rel=1e-3)
    # what the network reads is told apart from what the probe does
    assert left["mlp"] > left["linear"] + 0.02


def test_inlp_erases_what_a_linear_probe_reads_and_is_what_the_run_puts_in(tmp_path: Path) -> None:
    out, site = tmp_path / "run", "blocks.2.hook_resid_post"
    assert (
        cli.main(command(out, eraser="inlp", push=0, limit=6, **{"null-draws": 0, "sample": 50}))
        == 0
    )
    records = json.loads((out / "results.json").read_text(encoding="utf-8"))["records"]
    assert all(r["erased_linear"] < r["decodable"] - 0.1 for r in records)
    one, eraser = load(demo_paths().model), Inlp.load(out / "erasers" / f"{site}.safetensors")
    edit = edits.function(eraser.erase).at(slice(1 if one.has_sink_position else 0, None))
    pairs = read_pairs(demo_paths().pairs, 6)
    effects = [difference(one, pair, {site: edit}) - difference(one, pair, {}) for pair in pairs]
    (record,) = [r for r in records if r["site"] == site]
    assert record["effect"] == pytest.approx(np.mean(effects), abs=1e-3)
    assert record["erased_rank"] == eraser.left_.shape[1]
    assert abs(record["effect"]) > 0.1


def test_what_a_later_layer_still_reads_is_that_of_whole_forwards(tmp_path: Path) -> None:
    """A probe of layer 3, with number erased at layers 0 to 3:
    its log-probabilities of captured vectors.
    """
    one, last = load(demo_paths().model, body_only=True), "blocks.3.hook_resid_post"
    corpus = read_conllu(demo_paths().train, 80)
    layout, number = (
        Layout.of(one, list(corpus)),
        [w.feats.get("Number") for s in corpus for w in s.words],
    )
    rows = [i for i, value in enumerate(number) if value]
    X = torch.cat([words(one, layout, text, last) for text in range(len(corpus))])[rows]
    probe = fit_many(X, {"y": np.array(number, dtype=object)[rows]}, l2=10.0)["y"]
    path = save_probe(tmp_path, one, last, "mean", "feats:Number", probe)
    out, given = tmp_path / "run", command(tmp_path / "run", probe=path, limit=5, push=0)
    at = given.index("--pairs")
    assert cli.main(given[:at] + given[at + 2 :]) == 0
    records = json.loads((out / "results.json").read_text(encoding="utf-8"))["records"]
    assert [(r["layer"], r["metric"]) for r in records] == [
        (n, "probe_log_probability") for n in range(4)
    ]
    assert records[3]["effect"] < -0.3

    some = list(read_conllu(demo_paths().test, 5))
    layout, skip = Layout.of(one, some), 1 if one.has_sink_position else 0
    reader = LogisticProbe.load(path)
    for record in records[1::2]:
        eraser = Leace.load(out / "erasers" / f"{record['site']}.safetensors")
        edit, effects = edits.function(eraser.erase).at(slice(skip, None)), []
        for text, sentence in enumerate(some):
            mine = [i for i, w in enumerate(sentence.words) if "Number" in w.feats]
            if not mine:
                continue
            index = [
                reader.classes_.tolist().index(sentence.words[i].feats["Number"]) for i in mine
            ]
            logp = [
                reader.predict_log_proba(words(one, layout, text, last, changes)[mine].numpy())[
                    range(len(mine)), index
                ]
                for changes in ({record["site"]: edit}, {})
            ]
            effects.append((logp[0] - logp[1]).mean() / np.log(2))
        assert record["effect"] == pytest.approx(np.mean(effects), abs=1e-3)


def words(
    one: Subject, layout: Layout, text: int, site: str, changes: dict[Any, edits.Edit] | None = None
) -> Any:
    """A sentence's word vectors at a site, from a forward of its own."""
    with (
        torch.no_grad(),
        intervene(one.model, changes) if changes else nullcontext(),
        capture(one.model, site) as acts,
    ):
        one.model(torch.tensor([layout.encoded[text].ids]))
    return pool_words(acts[site], [layout.spans[text]], "mean")


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        ({"property": "depth"}, "--property depth: expected one with a class for each word"),
        ({"property": "sentence_length"}, "expected one with a class for each word"),
        (
            {"metric": "loss"},
            (
                "metric loss is of prompts: expected --prompts FILE, "
                "or for --pairs one of pair_difference, pair_accuracy"
            ),
        ),
        ({"probe": "x"}, "expected --probe FILE alone, got --pairs too"),
    ):
        assert cli.main(command(tmp_path / "x", **more)) == 2
        assert message in capsys.readouterr().err
