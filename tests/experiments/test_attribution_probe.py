"""A model and the probe that a study trained on it, explained as one module:
against the same put together by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from naive import bias_free

from experiments import cli
from experiments.attribution import METHODS, AttributionError, Target, attribute
from experiments.demo import demo_paths
from experiments.metrics.probe_metric import save_probe
from experiments.metrics.reads import MetricError
from experiments.subject import Subject, load
from hooks import capture
from probes import LogisticProbe, fit_many

TEXT = "w5 w6 w7 w8 w9 w10"
SITE = "blocks.0.hook_resid_post"
LABELS = np.array(["NOUN", "VERB", "ADJ"], dtype=object)


def probe_of(subject: Subject, folder: Path, site: str = SITE) -> Path:
    """A probe of three classes at the block, saved as a study saves it."""
    with torch.no_grad(), capture(subject.model, site) as acts:
        subject.model(torch.randint(5, 99, (12, 7), generator=torch.Generator().manual_seed(0)))
    features = acts[site].flatten(0, 1).float()
    labels = LABELS[np.arange(len(features)) % 3]
    return save_probe(
        folder, subject, site, "mean", "upos", fit_many(features, {"upos": labels}, l2=0.1)["upos"]
    )


@pytest.fixture(scope="module", params=["llama", "bert"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return bias_free(request.param)


@pytest.fixture(scope="module")
def saved(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_of(subject, tmp_path_factory.mktemp("probe"))


def by_hand(
    subject: Subject, saved: Path, vectors: torch.Tensor, read: list[int], label: str
) -> torch.Tensor:
    """The probe's logit for rows of embeddings,
    from a whole forward and the probe's own weights.
    """
    probe, states = LogisticProbe.load(saved), []
    block = subject.model.get_submodule(
        "model.layers.0" if subject.causal else "bert.encoder.layer.0"
    )
    handle = block.register_forward_hook(
        lambda m, a, out: states.append(out if torch.is_tensor(out) else out[0])
    )
    try:
        subject.model(inputs_embeds=vectors)
    finally:
        handle.remove()
    at = probe.classes_.tolist().index(label)
    weights = torch.from_numpy(probe.coef_[at]).double()
    return states[0][:, read].mean(1) @ weights + float(probe.intercept_[at])


@pytest.mark.parametrize("word", [None, 2])
def test_the_probes_answer_is_explained_end_to_end(
    subject: Subject, saved: Path, word: int | None
) -> None:
    ids = torch.tensor([subject.encode([TEXT])[0].ids])
    vectors = subject.model.get_input_embeddings()(ids).detach().requires_grad_()
    read = list(range(1, 7)) if word is None else [word + 1]
    value = by_hand(subject, saved, vectors, read, "VERB")
    (slope,) = torch.autograd.grad(value.sum(), vectors)
    value = value.detach()
    target = Target("VERB", probe=saved, word=word)
    found = attribute(subject, TEXT, target=target, method="grad-input")
    assert found.value == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(
        found.scores, (vectors * slope)[0, 1:7].sum(-1).detach().numpy(), atol=1e-6
    )
    assert "by the probe of upos" in found.target
    without = vectors.detach().clone()
    without[0, 3] = 0
    lost = float(value - by_hand(subject, saved, without, read, "VERB").detach())
    out = attribute(subject, TEXT, target=target, removal="zero")
    assert out.scores[2] == pytest.approx(lost, abs=1e-6)
    ig = attribute(subject, TEXT, target=target, method="ig")
    assert ig.baseline is not None
    assert ig.scores.sum() == pytest.approx(ig.value - ig.baseline, rel=0.01)


def test_relevance_goes_back_from_the_probe_through_the_blocks_that_it_reads(
    subject: Subject, saved: Path
) -> None:
    probe = LogisticProbe.load(saved)
    found = attribute(subject, TEXT, target=Target("NOUN", probe=saved, word=1), method="cp-lrp")
    bias = float(probe.intercept_[probe.classes_.tolist().index("NOUN")])
    assert found.scores.sum() + found.more["outside"] == pytest.approx(found.value - bias, rel=1e-3)
    assert list(found.more["conservation"]) == ["blocks.0.hook_resid_pre"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_explains_a_probe(subject: Subject, saved: Path, method: str) -> None:
    more: dict[str, Any] = (
        {"samples": 20} if method in ("lime", "tree", "kernel-shap", "smoothgrad") else {}
    )
    if method in ("conductance", "hidden-out"):
        more["site"] = (
            "blocks.0.mlp.hook_post[1,2]" if method == "hidden-out" else "blocks.0.mlp.hook_post"
        )
    found = attribute(
        subject, TEXT, target=Target("ADJ", probe=saved, word=3), method=method, **more
    )
    assert np.isfinite(found.scores).all()
    assert np.abs(found.scores).max() > 0


def test_what_cannot_be_asked_of_a_probe_is_one_line(
    subject: Subject, saved: Path, tmp_path: Path
) -> None:
    first = probe_of(subject, tmp_path / "first", "blocks.0.hook_resid_pre")
    for target, method, said in (
        (
            Target("ADV", probe=saved),
            "leave-one-out",
            "class 'ADV': expected one of ADJ, NOUN, VERB",
        ),
        (Target("NOUN", probe=saved, word=6), "leave-one-out", "word 6: the text has words 0 to 5"),
        (Target("NOUN", probe=first), "lrp", "blocks.0.hook_resid_pre comes before any"),
        (Target("NOUN", probe=saved), "conductance", "conductance is of a site"),
    ):
        with pytest.raises(AttributionError, match=said):
            attribute(subject, TEXT, target=target, method=method)
    with pytest.raises(MetricError, match="trained on another model"):
        attribute(
            Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always"),
            TEXT,
            target=Target(probe=saved),
        )
    with pytest.raises(MetricError, match="trained with BOS"):
        attribute(
            Subject(subject.model, subject.tokenizer, bos="never"), TEXT, target=Target(probe=saved)
        )


def test_a_studys_probe_is_explained_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(demo_paths().model)
    subject = load(model, body_only=True)
    features = torch.randn(60, subject.d_model, generator=torch.Generator().manual_seed(0))
    fit = fit_many(features, {"upos": LABELS[np.arange(60) % 3]}, l2=0.1)["upos"]
    file = save_probe(tmp_path / "probes", subject, SITE, "mean", "upos", fit)
    words = [
        "attribute",
        "--model",
        model,
        "--text",
        "The old teachers",
        "--probe",
        str(file),
        "--random",
        "0",
    ]
    done = [
        *words,
        "--word",
        "2",
        "--target",
        "NOUN",
        "--method",
        "ig",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main(done) == 0
    assert "by the probe of upos for word 2, 'teachers'" in " ".join(
        capsys.readouterr().out.split()
    )
    for more, said in (
        (["--word", "9"], "the text has words 0 to 2"),
        (["--target", "X"], "expected one of ADJ"),
    ):
        assert cli.main([*words, *more, "--out", str(tmp_path / more[1])]) == 2
        assert said in capsys.readouterr().err
