"""Gradient estimates against finite differences, gates of autograd's own,
and models where they are exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import detector
import numpy as np
import pytest
import tiny
import torch
from naive import subject
from torch import nn

from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.metrics.metrics import get_metric
from experiments.metrics.reads import MetricError
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from experiments.subject import Subject
from experiments.sweep import measure
from experiments.sweep.components import Component, components, edit_at, places
from experiments.sweep.effects import differs_from_0, group_notes, mean_of
from experiments.sweep.estimate import Estimates, certificate, estimates, grad_drop, to_verify
from experiments.sweep.sweep import Chunk, Sweep, chunks
from hooks import capture, edits, intervene
from probes.resampling import WARNED

PROMPTS = [
    Prompt("w3 w4 w5 w6", " w7", " w8"),
    Prompt("w9 w3 w12", " w4", " w20"),
    Prompt("w30 w31 w32 w33 w34 w35", " w36", " w37"),
]
OTHERS = [
    Prompt(p, " w1", " w2") for p in ("w13 w4 w15 w6", "w9 w13 w1", "w40 w31 w42 w33 w44 w35")
]


def one_chunk(one: Subject, prompts: list[Prompt], metric: str = "logit_difference") -> Chunk:
    (chunk,) = chunks(one, get_metric(metric).reads(one, prompts), 1000)
    return chunk


@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "attentions", "positions"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_estimates_are_the_derivative(name: str, kind: str) -> None:
    """For an edit that moves values by a small share,
    the estimate is the exact effect to first order.
    """
    one = subject(name)
    one.model.double()
    metric, chunk = get_metric("log_probability"), one_chunk(one, PROMPTS, "log_probability")
    parts = (
        places(one.model, "hook_resid_pre", 4)
        if kind == "positions"
        else components(one.model, kind, chunk.batch)[:: 7 if kind == "neurons" else 1]
    )
    # norms compute in float32, whatever the model's type: shorter steps drown in rounding
    step = 1e-2
    got = estimates(one, metric, chunk, parts, lambda part: edits.scale(1 + step)).effects
    reads, model = chunk.reads, one.model
    assert np.abs(got).max() > 1e-5
    for part, row in zip(parts, got, strict=True):
        values = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad(), intervene(model, {part.site: edit_at(part, edits.scale(factor))}):
                logits = model(**chunk.batch.inputs()).logits[
                    reads.places[:, 0], reads.places[:, 1]
                ]
            at_targets = torch.log2(torch.softmax(logits, -1)).gather(1, reads.places[:, 2:3])[:, 0]
            out = torch.zeros(len(chunk.prompts), dtype=torch.float64)
            values.append(out.index_add_(0, reads.places[:, 3], at_targets * reads.weights))
        np.testing.assert_allclose(row, ((values[0] - values[1]) / 2).numpy(), rtol=5e-3, atol=2e-7)


def test_the_estimate_is_exact_where_the_metric_is_linear() -> None:
    one = subject("gpt2")
    one.model.transformer.ln_f = nn.Identity()  # the last MLP now adds to the logits
    chunk = one_chunk(one, PROMPTS)
    parts = [p for p in components(one.model, "neurons", chunk.batch) if p.layer == 1]
    got = estimates(
        one, get_metric("logit_difference"), chunk, parts, lambda part: edits.zero()
    ).effects
    exact = Sweep(one, get_metric("logit_difference"), chunk).effects(
        [(p, edits.zero()) for p in parts]
    )
    np.testing.assert_allclose(got, exact, atol=1e-5)
    assert np.abs(exact).max() > 5e-4


@pytest.mark.parametrize(
    ("name", "part"), [("gpt2", "q"), ("gpt2", "k"), ("llama", "q"), ("llama", "k")]
)
def test_queries_and_keys_go_through_the_softmax_exactly(name: str, part: str) -> None:
    """One attention layer that adds to the logits: exact for the corrected estimate,
    which a plain gradient is not.
    """
    one = subject(name)
    model = one.model
    body = model.transformer if name == "gpt2" else model.model
    blocks = body.h if name == "gpt2" else body.layers
    for block in blocks[:1]:
        (block.mlp.c_proj if name == "gpt2" else block.mlp.down_proj).weight.data.zero_()
    # make the second block nothing, and the final norm too; the first attends sharply
    with torch.no_grad():
        for weight in blocks[1].parameters():
            weight.zero_()
        for module in (blocks[0].attn if name == "gpt2" else blocks[0].self_attn).parameters():
            module.mul_(12)
    if name == "gpt2":
        body.ln_f = nn.Identity()
    else:
        body.norm = nn.Identity()
    chunk, source = one_chunk(one, PROMPTS), one_chunk(one, OTHERS)
    parts = [
        p for p in components(model, "heads", chunk.batch, f"attn.hook_{part}") if p.layer == 0
    ]
    site, metric = parts[0].site.name, get_metric("logit_difference")
    with torch.no_grad(), capture(model, site, clone=True) as acts:
        model(**source.batch.inputs())
    patch = edits.patch(acts)
    got = estimates(one, metric, chunk, parts, lambda _: patch).effects
    exact = Sweep(one, metric, chunk).effects([(p, patch) for p in parts])
    np.testing.assert_allclose(got, exact, atol=1e-4)
    assert np.abs(exact).max() > 1e-2
    with capture(model, site, grad=True) as here:
        logits = model(**chunk.batch.inputs()).logits[tuple(chunk.reads.positions.T)]
        gradient = here.gradients(metric.value(logits[None], logits, chunk.reads).sum())[site]
    plain = ((acts[site] - here[site]) * gradient).sum((1, 3)).T
    order = [dict(chunk.reads.places[:, [3, 0]].tolist())[prompt] for prompt in range(len(PROMPTS))]
    assert np.abs(plain[:, order].numpy() - exact).max() > 1e-2


def test_head_gates_are_the_gradients_of_gates() -> None:
    """Michel et al. 2019: |d metric / d gate| per example,
    with a gate on each head that autograd sees.
    """
    one = subject("llama")
    chunk, metric = one_chunk(one, PROMPTS), get_metric("logit_difference")
    parts = components(one.model, "heads", chunk.batch)
    gates = {
        name: torch.ones(len(PROMPTS), 1, 4, 1, requires_grad=True)
        for name in {p.site.name for p in parts}
    }
    gated = {name: edits.function(lambda z, g=gate: z * g) for name, gate in gates.items()}
    with pytest.warns(UserWarning, match="changed nothing"), intervene(one.model, gated):  # type: ignore[arg-type]
        logits = one.model(**chunk.batch.inputs()).logits[tuple(chunk.reads.positions.T)]
    metric.value(logits[None], logits, chunk.reads).sum().backward()
    got, apart = estimates(one, metric, chunk, parts, lambda part: edits.zero())
    prompt_of = dict(chunk.reads.places[:, [0, 3]].tolist())
    for part, row in zip(parts, got, strict=True):
        grad = gates[part.site.name].grad
        assert grad is not None
        for text, prompt in prompt_of.items():
            assert -row[prompt] == pytest.approx(float(grad[text, 0, part.index, 0]), abs=1e-5)
    assert (apart >= np.abs(got) - 1e-9).all()
    assert (apart > np.abs(got) + 1e-6).any()


def test_grad_drop_passes_by_one_layer_at_a_time() -> None:
    one = subject("gpt2")
    chunk, metric = one_chunk(one, PROMPTS), get_metric("logit_difference")
    parts = components(one.model, "heads", chunk.batch)

    def zero(part: Component) -> edits.Edit:
        return edits.zero()

    plain = estimates(one, metric, chunk, parts, zero).effects
    own = [estimates(one, metric, chunk, parts, zero, dropped=layer).effects for layer in range(2)]
    for part, *rows in zip(parts, plain, *own, strict=True):
        # its own layer is passed by: no path is left
        assert np.abs(rows[1 + part.layer]).max() == 0
        if part.layer == 1:  # nothing follows it but the residual stream
            np.testing.assert_allclose(rows[1], rows[0], atol=1e-7)
        else:
            assert np.abs(rows[2] - rows[0]).max() > 1e-5
    both = grad_drop(one, metric, chunk, parts, zero, 2)
    np.testing.assert_allclose(both, np.abs(own[0]) + np.abs(own[1]), atol=1e-9)


def test_a_run_by_grad_drop_measures_what_it_ranks_first(tmp_path: Path) -> None:
    one = subject("gpt2")
    one.model.save_pretrained(tmp_path / "model")
    one.tokenizer.save_pretrained(tmp_path / "model")
    lines = [
        json.dumps({"prompt": p.prompt, "answer": p.answer, "wrong": p.wrong}) for p in PROMPTS
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = [
        "ablate",
        "--model",
        str(tmp_path / "model"),
        "--prompts",
        str(tmp_path / "p.jsonl"),
        "--bos",
        "always",
    ]
    command += [
        "--estimate",
        "graddrop",
        "--verify",
        "3",
        "--verify-drawn",
        "0",
        "--positions",
        "all",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main(command) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    records, chunk, metric = (
        results["records"],
        one_chunk(one, PROMPTS),
        get_metric("logit_difference"),
    )
    parts = components(one.model, "heads", chunk.batch)
    drop = grad_drop(one, metric, chunk, parts, lambda _: edits.zero(), 2).mean(1)
    plain = estimates(one, metric, chunk, parts, lambda _: edits.zero()).effects.mean(1)
    np.testing.assert_allclose([r["graddrop"] for r in records], drop, rtol=1e-3)
    np.testing.assert_allclose([r["estimate"] for r in records], plain, rtol=1e-3, atol=1e-8)
    first = set(np.argsort(-drop)[:3].tolist())
    assert {i for i, r in enumerate(records) if r["exact"]} == first
    assert first != set(np.argsort(-np.abs(plain))[:3].tolist())
    assert results["certificates"]["heads"]["method"] == "graddrop"


def test_a_metric_of_steps_has_no_gradient() -> None:
    one = subject("gpt2")
    chunk = one_chunk(one, PROMPTS, "rank")
    with pytest.raises(MetricError, match="rank has no gradient"):
        estimates(
            one,
            get_metric("rank"),
            chunk,
            components(one.model, "mlps", chunk.batch),
            lambda _: edits.zero(),
        )


def test_keys_by_position_have_no_estimate_but_values_do() -> None:
    one = subject("gpt2")
    metric, chunk = get_metric("logit_difference"), one_chunk(one, PROMPTS[:1])
    half = edits.scale(0.5)
    with pytest.raises(MetricError, match="keys by position have no estimate"):
        estimates(one, metric, chunk, places(one.model, "attn.hook_k", 5), lambda _: half)
    parts = places(one.model, "attn.hook_v", 5)
    exact = Sweep(one, metric, chunk).effects([(p, edit_at(p, half)) for p in parts])
    assert (
        np.corrcoef(
            estimates(one, metric, chunk, parts, lambda _: half).effects[:, 0], exact[:, 0]
        )[0, 1]
        > 0.99
    )


def test_signs_of_rounding_do_not_count() -> None:
    exact, estimate = (
        np.array([2.0, -1.0, 1e-7, -1e-7, 0.5]),
        np.array([1.8, -1.1, -1e-9, 0.0, 0.4]),
    )
    found = certificate("gradient", estimate, exact, range(5), ())
    assert found.same_sign == 1
    assert not any("other sign" in reason for reason in found.misleads)
    assert certificate("gradient", np.zeros(3), np.zeros(3), range(3), ()).same_sign is None


def test_a_certificate_tells_good_from_bad() -> None:
    exact = np.random.default_rng(0).normal(size=200) ** 3
    top, sample = to_verify(np.abs(exact), 20, 30, seed=1)
    assert not set(top) & set(sample)
    good = certificate("gradient", 0.5 * exact, exact, top, sample)
    assert (good.spearman, good.overlap, good.same_sign, good.misleads) == (
        pytest.approx(1),
        1,
        1,
        [],
    )
    assert good.slope == pytest.approx(2)
    noise = np.random.default_rng(1).normal(size=200)
    bad = certificate("gradient", noise, exact, *to_verify(np.abs(noise), 20, 30, seed=1))
    assert len(bad.misleads) >= 2


def test_the_screen_finds_the_neuron_that_is_there_and_nothing_else(tmp_path: Path) -> None:
    tiny.save(detector.model(), tmp_path / "model")
    lines = [json.dumps(item) for item in detector.prompts()]
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = [
        "ablate",
        "--model",
        str(tmp_path / "model"),
        "--prompts",
        str(tmp_path / "p.jsonl"),
        "--bos",
        "never",
    ]
    command += [
        "--component",
        "neurons",
        "--estimate",
        "gradient",
        "--verify",
        "4",
        "--verify-drawn",
        "3",
    ]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["index"] for r in results["records"] if r["q"] is not None and r["q"] < 0.05] == [
        detector.NEURON
    ]
    record = results["records"][detector.NEURON]
    assert record["exact"]
    assert record["normalised"] == pytest.approx(-1, abs=1e-5)
    others = [r for r in results["records"] if r["index"] != detector.NEURON]
    assert all(r["effect"] == pytest.approx(0, abs=1e-5) for r in others)
    assert sum(r["exact"] for r in results["records"]) == 7
    assert results["certificates"]["neurons"]["n_top"] == 4
    assert "Certificate" in (tmp_path / "run" / "report.html").read_text()


def test_few_prompts_are_said_and_one_says_nothing() -> None:
    one, few, many = np.zeros(1, int), np.arange(WARNED - 1), np.arange(WARNED)
    assert [len(group_notes(clusters)) for clusters in (one, few, many)] == [1, 1, 0]
    assert f"only {WARNED - 1} items" in group_notes(few)[0].text
    assert f"only 2 groups of {WARNED} items" in group_notes(many % 2)[0].text
    assert not differs_from_0(mean_of(np.array([4.0]), one))
    assert differs_from_0(mean_of(np.array([4.0, 4.1]), np.arange(2)))


def test_a_continued_run_keeps_its_choice_of_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients made again may rank the parts otherwise;
    exact effects must stay with the parts that they are of.
    """
    one = subject("gpt2")
    (tmp_path / "p.jsonl").write_text(
        "\n".join(json.dumps(vars(p)) for p in PROMPTS), encoding="utf-8"
    )
    asked: dict[str, Any] = {
        "model": one,
        "prompts": tmp_path / "p.jsonl",
        "metric": "logit_difference",
    }
    asked |= {"component": "heads", "out": tmp_path / "run"}
    exact = execute(STUDIES["ablate"], AblateOptions(**{**asked, "out": tmp_path / "exact"}))[
        "records"
    ]
    config = AblateOptions(**asked, estimate="gradient", verify=2, verify_drawn=0)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "certificate", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(STUDIES["ablate"], config)
    monkeypatch.undo()

    def turned(*args: Any, **kwargs: Any) -> Estimates:
        found = estimates(*args, **kwargs)
        return Estimates(found.effects[::-1], found.per_position[::-1])

    monkeypatch.setattr(measure, "estimates", turned)
    records = execute(STUDIES["ablate"], config)["records"]
    assert sum(record["exact"] for record in records) == 2
    for record, expected in zip(records, exact, strict=True):
        if record["exact"]:
            assert record["effect"] == pytest.approx(expected["effect"], abs=1e-6)
