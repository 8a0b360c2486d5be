"""A saved probe as a metric:
against the probe's own predictions from features that are captured under the same edit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import cli
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.features.layout import Layout
from experiments.metrics.probe_metric import probed_words, save_probe
from experiments.metrics.reads import MetricError
from experiments.subject import Subject, load
from experiments.subject.word_spans import pool_words
from experiments.sweep.components import components
from experiments.sweep.estimate import estimates
from experiments.sweep.sweep import Sweep, chunks
from hooks import capture, edits, intervene
from layerscope.errors import LayerscopeError
from probes import LogisticProbe, fit_many

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load(demo_paths().model, body_only=True)


def vectors(one: Subject, layout: Layout, pooling: Any) -> list[torch.Tensor]:
    """The words' vectors of each sentence, from forwards of single texts."""
    out = []
    for encoded, spans in zip(layout.encoded, layout.spans, strict=True):
        with torch.no_grad(), capture(one.model, SITE) as acts:
            one.model(torch.tensor([encoded.ids]))
        out.append(pool_words(acts[SITE], [spans], pooling))
    return out


@pytest.fixture(scope="module", params=["mean", "last"])
def saved(
    request: pytest.FixtureRequest, subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A probe of the part of speech, as a study saves it."""
    corpus = read_conllu(demo_paths().train, limit=60)
    features = torch.cat(vectors(subject, Layout.of(subject, list(corpus)), request.param))
    labels = np.array([word.upos for sentence in corpus for word in sentence.words], dtype=object)
    fit = fit_many(features, {"upos": labels}, l2=10.0)["upos"]
    return save_probe(tmp_path_factory.mktemp("probes"), subject, SITE, request.param, "upos", fit)


def read(saved: Path, metric: str | None = None) -> Any:
    """The metric of the saved probe, on six sentences."""
    return probed_words(saved, read_conllu(demo_paths().test, 6), metric)


@pytest.mark.parametrize("name", ["probe_log_probability", "probe_accuracy"])
def test_the_score_is_that_of_the_probes_own_predictions(
    subject: Subject, saved: Path, name: str
) -> None:
    metric, items, notes = read(saved, name)
    probe, layout = LogisticProbe.load(saved), Layout.of(subject, [item.sentence for item in items])
    assert not notes
    assert any(
        span is not None and span.stop - span.start > 1 for line in layout.spans for span in line
    )

    def expected() -> list[float]:
        out = []
        for item, features in zip(
            items, vectors(subject, layout, probe.about_["pooling"]), strict=True
        ):
            if name == "probe_accuracy":
                out.append(
                    float(
                        np.mean(
                            probe.predict(features.numpy()) == np.array(item.labels, dtype=object)
                        )
                    )
                )
            else:
                logp = probe.predict_log_proba(features.numpy())
                index = [probe.classes_.tolist().index(label) for label in item.labels]
                out.append(float(np.mean(logp[np.arange(len(index)), index]) / np.log(2)))
        return out

    clean = expected()
    for chunk in chunks(subject, metric.reads(subject, items), 60):
        sweep = Sweep(subject, metric, chunk)
        np.testing.assert_allclose(sweep.clean, [clean[i] for i in chunk.prompts], atol=2e-5)
        parts = [p for p in components(subject.model, "heads", chunk.batch) if p.layer < 2]
        effects = sweep.effects([(part, edits.zero()) for part in parts])
        assert np.abs(effects).max() > 0.01
        for part, found in list(zip(parts, effects, strict=True))[::3]:
            with intervene(subject.model, {part.site: edits.zero()}):
                edited = expected()
            np.testing.assert_allclose(
                found, [edited[i] - clean[i] for i in chunk.prompts], atol=5e-5
            )


def test_gradient_estimates_go_through_the_probe(subject: Subject, saved: Path) -> None:
    metric, items, _ = read(saved)
    (chunk,) = chunks(subject, metric.reads(subject, items), 4096)
    parts = [p for p in components(subject.model, "mlps", chunk.batch) if p.layer < 2]
    step = 1e-3
    got = estimates(subject, metric, chunk, parts, lambda part: edits.scale(1 + step)).effects
    exact = Sweep(subject, metric, chunk).effects([(part, edits.scale(1 + step)) for part in parts])
    np.testing.assert_allclose(got, exact, atol=0.05 * np.abs(exact).max())


def test_a_studys_probe_is_ablated_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = demo_paths()
    probe = [
        "probe",
        "--model",
        str(paths.model),
        "--corpus",
        str(paths.train),
        "--dev",
        str(paths.dev),
    ]
    probe += [
        "--test",
        str(paths.test),
        "--property",
        "feats:Number",
        "--sample",
        "60",
        "--l2",
        "10",
    ]
    assert (
        cli.main(
            [
                *probe,
                "--control-seeds",
                "0",
                "--random-models",
                "0",
                "--out",
                str(tmp_path / "study"),
            ]
        )
        == 0
    )
    file = tmp_path / "study" / "probes" / "feats%3ANumber" / f"{SITE}.safetensors"
    capsys.readouterr()

    ablate = [
        "ablate",
        "--model",
        str(paths.model),
        "--corpus",
        str(paths.test),
        "--limit",
        "6",
        "--component",
        "mlps",
    ]
    assert cli.main([*ablate, "--probe", str(file), "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert [r["site"] for r in found["records"]] == [
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_mlp_out",
    ]
    assert {r["metric"] for r in found["records"]} == {"probe_log_probability"}
    capsys.readouterr()

    embedding = file.with_name("blocks.0.hook_resid_pre.safetensors")
    for more, message in (
        ([], "expected one of --prompts, --pairs, --labelled, --text"),
        (
            ["--probe", str(embedding)],
            "expected a probe of a block's hook_resid_post, got blocks.0.hook_resid_pre",
        ),
        (["--probe", str(file), "--metric", "loss"], "unknown metric 'loss' of a probe"),
        (["--probe", str(file), "--value", "optimal"], "not a probe's"),
        (
            ["--probe", str(file), "--limit", "12", "--race", "2"],
            "--race 2: expected fewer than the 2 mlps that are ablated",
        ),
        (["--probe", str(file), "--bos", "never"], "give --bos"),
        (["--probe", str(tmp_path / "none")], "found no file"),
    ):
        words = ablate if more else [w for w in ablate if w not in ("--corpus", str(paths.test))]
        assert cli.main([*words, *more, "--out", str(tmp_path / "b")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"property": None}, "about: property: Input should be a valid string, got None"),
        ({"site": 3}, "about: site: Input should be a valid string, got 3"),
        ({"site": "blocks." + "9" * 5000 + ".hook_resid_post"}, "expected a probe of a block's"),
        ({"bos": "x"}, "about: bos: Input should be a valid integer, got 'x'"),
        ({"pooling": "max"}, "about: pooling: Input should be 'mean', 'first' or 'last'"),
    ],
)
def test_what_a_probe_says_of_itself_is_checked(saved: Path, tmp_path: Path, facts, message):
    probe = LogisticProbe.load(saved)
    file = probe.save(tmp_path / "probe.safetensors", {**probe.about_, **facts})
    with pytest.raises(LayerscopeError, match=re.escape(message)):
        read(file)


def test_a_probe_of_another_model_is_refused(saved: Path, subject: Subject) -> None:
    metric, items, _ = read(saved)
    with pytest.raises(MetricError, match="trained on another model"):
        metric.reads(subject.random_twin(0), items)
