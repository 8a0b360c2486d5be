"""Lenses against closed forms, autograd, another library and conservation;
direct contributions against the logit.
"""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sklearn.pipeline import make_pipeline

from experiments.cli import main
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.lenses.contributions import contributions, exact_effects
from experiments.lenses.files import (
    export_jacobian,
    export_tuned,
    load_lens,
    load_lenses,
    save_lens,
)
from experiments.lenses.jacobian import jacobian, reliabilities_of, text_jacobian
from experiments.lenses.least_squares import least_squares
from experiments.lenses.lens import Lens
from experiments.lenses.streams import LensError, Streams, require_lens
from experiments.lenses.tuned import tuned
from experiments.subject import Subject, load
from hooks import Resume, edits, intervene
from probes import LogisticProbe

PATHS = demo_paths()


@pytest.fixture(scope="module")
def subject():
    return load(PATHS.model)


@pytest.fixture(scope="module")
def texts(subject):
    encoded = subject.encode([sentence.text for sentence in read_conllu(PATHS.dev, 40)])
    return [text for text in encoded if len(text) > 6]


def streams_of(subject, text):
    (batch,) = subject.batches([text])
    return Streams.of(subject, batch), batch.inputs(subject.device)


def test_the_logit_lens_is_hidden_states_through_the_head(subject, texts):
    streams, inputs = streams_of(subject, texts[0])
    with torch.no_grad():
        out = subject.model(**inputs, output_hidden_states=True)
        for layer in range(subject.n_layers):
            state = out.hidden_states[layer]  # in front of block `layer`
            want = subject.model.lm_head(subject.model.model.norm(state))
            torch.testing.assert_close(
                streams.logits(streams.stream(layer)), want, atol=1e-4, rtol=1e-4
            )
        torch.testing.assert_close(
            streams.logits(streams.stream(subject.n_layers)), out.logits, atol=1e-4, rtol=1e-4
        )


def test_least_squares_is_numpys(subject, texts):
    lens = least_squares(subject, texts[:20], 512)
    rows, goals = [], []
    for text in texts[:20]:
        streams, _ = streams_of(subject, text)
        rows.append(streams.stream(2)[0, 1:])
        goals.append(streams.stream(subject.n_layers)[0, 1:])
    x, y = torch.cat(rows).double().numpy(), torch.cat(goals).double().numpy()
    x1 = np.column_stack([x, np.ones(len(x))])
    best = np.linalg.lstsq(x1, y, rcond=None)[0]
    mine = np.column_stack([lens.weight[2].double().numpy(), lens.bias[2].double().numpy()]).T
    least, got = ((x1 @ b - y) ** 2 for b in (best, mine))
    assert got.sum() <= 1.001 * least.sum() + 1e-3 * (y**2).mean()


def test_a_texts_jacobian_is_autograds(subject, texts):
    text, first, layer = texts[0], 2, subject.n_layers - 2
    found = text_jacobian(subject, text, first)
    _, inputs = streams_of(subject, text)
    clean = Resume(subject.model, inputs)
    state = clean.residual(layer).detach()
    whole = torch.autograd.functional.jacobian(
        lambda x: clean.run(layer, x, until=subject.n_layers), state
    )[0][:, :, 0]
    used = range(first, len(text) - 1)
    want = sum(whole[after, :, at] for at in used for after in used if after >= at) / len(used)
    torch.testing.assert_close(found[layer], want, atol=1e-5, rtol=1e-4)


def test_the_jacobian_of_a_linear_network_is_its_product(subject, texts):
    """With attention and MLP outputs at zero every block is the identity,
    and so is each Jacobian.
    """
    silent = {
        f"blocks.{n}.{s}": edits.zero()
        for n in range(subject.n_layers)
        for s in ("hook_attn_out", "hook_mlp_out")
    }
    with intervene(subject.model, silent):
        found = text_jacobian(subject, texts[0], 2)
    torch.testing.assert_close(
        found, torch.eye(subject.d_model).expand_as(found), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def theirs(subject, texts):
    """TransformerLens's lens of the same model on two texts."""
    pytest.importorskip("transformer_lens.tools.analysis")
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens

    model = copy.deepcopy(subject.model)
    bridge = TransformerBridge.boot_transformers(
        str(PATHS.model), device="cpu", hf_model=model, tokenizer=subject.tokenizer
    )
    lines = [text.text for text in texts[:2]]
    return JacobianLens.fit(
        bridge, lines, corpus="demo", skip_first_positions=2, show_progress=False
    )


def test_the_jacobian_lens_is_transformerlenss(subject, texts, theirs):
    found = jacobian(subject, texts[:2], first=2)
    assert set(theirs.jacobians) == set(range(subject.n_layers - 1))
    for block, matrix in theirs.jacobians.items():
        torch.testing.assert_close(found.weight[block + 1], matrix, atol=1e-5, rtol=1e-4)
    above = jacobian(subject, texts[:2], first=2, lowest=2)
    assert above.missing == {0, 1}
    torch.testing.assert_close(above.weight[2:], found.weight[2:], atol=1e-6, rtol=1e-5)


def test_the_tuned_lens_is_nowhere_worse_than_its_start(subject, texts):
    from experiments.lenses.tuned import _divergences

    start = least_squares(subject, texts[:20], 512)
    found = tuned(subject, start, texts[:20], texts[20:26], 512, steps=4)
    before, after = (_divergences(subject, lens, texts[20:26], 512) for lens in (start, found))
    assert bool((after <= before + 1e-5).all())
    assert bool((after < before).any())


def test_a_saved_lens_comes_back_and_is_refused_for_another_model(subject, texts, tmp_path):
    lens = least_squares(subject, texts[:10], 512)
    lens = Lens(
        lens.kind, lens.weight, lens.bias, {"model": subject.name, "model_sha256": subject.sha256}
    )
    save_lens(lens, tmp_path / "x.safetensors")
    again = load_lens(tmp_path / "x.safetensors", subject)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    with pytest.raises(LensError, match="expected a lens of"):
        load_lens(tmp_path / "x.safetensors", subject.random_twin(1))


def test_lenses_of_one_kind_and_lenses_of_an_encoder_are_refused(subject, texts, tmp_path):
    """Neither is dropped in silence, in ``lens`` and in ``explore``."""
    about = {"model": subject.name, "model_sha256": subject.sha256}
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, path in enumerate(files):
        weight = torch.eye(subject.d_model).repeat(subject.n_layers, 1, 1) * (1 + number)
        save_lens(Lens("tuned", weight, None, about), path)
    assert [float(lens.weight[0, 0, 0]) for lens in load_lenses(files[1:], subject)] == [2.0]
    with pytest.raises(LensError, match=r"expected one tuned lens, got .*a.safe.* and .*b.safe"):
        load_lenses(files, subject)
    with pytest.raises(LensError, match="causal language model"):
        load_lenses(files, Subject(tiny.model("bert"), tiny.tokenizer(), bos="always"))


def test_a_published_jacobian_lens_reads_as_transformerlens_reads_it(
    subject, texts, theirs, tmp_path
):
    """Their matrices by their names, in safetensors: the same transport,
    and nothing for the embedding.
    """
    path = tmp_path / "lens.safetensors"
    tensors = {f"J.{block}": matrix for block, matrix in theirs.jacobians.items()}
    header = {"n_prompts": "2", "d_model": str(theirs.d_model)}
    save_file(tensors, path, header)
    lens = load_lens(path, subject)
    streams, _ = streams_of(subject, texts[3])
    for block in theirs.source_layers:
        want = theirs.transport(streams.stream(block + 1), block)
        torch.testing.assert_close(lens(block + 1, streams.stream(block + 1)), want)
    assert lens.missing == {0}
    with pytest.raises(LensError, match="no matrix for layer 0"):
        lens(0, streams.stream(0))
    found = jacobian(subject, texts[:2], first=2)
    export_jacobian(found, tmp_path / "ours.safetensors")
    again = load_lens(tmp_path / "ours.safetensors", subject)
    assert torch.equal(again.weight[1:], found.weight[1:])


def test_a_published_tuned_lens_adds_its_translator(subject, texts, tmp_path):
    """tuned-lens computes h + Linear_n(h): its state dict in safetensors gives the same,
    and ours is written so.
    """
    torch.manual_seed(0)
    width, n_layers = subject.d_model, subject.n_layers
    translators = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(n_layers)])
    config = {"base_model_name_or_path": "x", "d_model": width, "num_hidden_layers": n_layers}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(translators.state_dict(), tmp_path / "params.safetensors")
    lens = load_lens(tmp_path, subject)
    streams, _ = streams_of(subject, texts[0])
    with torch.no_grad():
        for layer, translator in enumerate(translators):
            stream = streams.stream(layer)
            want = stream + translator(stream)
            torch.testing.assert_close(lens(layer, stream), want, atol=1e-4, rtol=1e-4)
    words = [
        "lens",
        "--model",
        str(PATHS.model),
        "--text",
        "The dog",
        "--lens",
        str(tmp_path),
        "--quiet",
    ]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "config.json").write_text(json.dumps({**config, "bias": True, "more": 1}))
    assert (
        main([*words, "--out", str(tmp_path / "run")]) == 2
    )  # another lens than the run was made with
    export_tuned(lens, tmp_path / "ours", subject)
    state = load_file(tmp_path / "ours" / "params.safetensors")
    for name, value in translators.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 77}, "width 128; it is of other, width 77"),
        ({"num_hidden_layers": 99}, "it is of other, 99 layers"),
        ({"unembed_hash": "0" * 64}, "it is of other: the hash of its head differs"),
    ],
)
def test_a_published_lens_of_another_model_is_refused(change, message, subject, tmp_path):
    config = {
        "base_model_name_or_path": "other",
        "d_model": subject.d_model,
        "num_hidden_layers": subject.n_layers,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    save_file({"0.weight": torch.zeros(2, 2)}, tmp_path / "params.safetensors")
    with pytest.raises(LensError, match=message):
        load_lens(tmp_path, subject)


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"J.x": (4, 4)}, {}, "expected matrices J.0, J.1, ..., got J.x"),
        ({"J.-1": (4, 4)}, {}, "got J.-1"),
        ({"J.0": ()}, {}, "expected J.0 of shape"),
        ({"J.0": (7, 7)}, {}, "width 7"),
        ({"J.0": None}, {"n_prompts": "many"}, "expected n_prompts to be a number, got 'many'"),
        ({"J.0": None}, {"metadata": "{"}, "expected a JSON object, got '{'"),
        ({"J.0": None}, {"metadata": "[1]"}, "expected a JSON object"),
        ({"J.0": None}, {"metadata": '{"target_layer": "x"}'}, "it leads to block x"),
        ({"weight": (1, 2, 2)}, {"layerscope_lens": "not JSON"}, "expected a JSON object"),
        ({"weight": (1, 2, 2)}, {"layerscope_lens": "OWN"}, "expected weight of shape"),
        ({"other": (1,)}, {"layerscope_lens": "OWN"}, "expected the tensors weight and bias"),
        ({"weight": "layers"}, {"layerscope_lens": "KIND"}, "expected a lens of kind logit"),
        ({"weight": "layers"}, {"layerscope_lens": "GONE"}, "expected missing to list layers"),
        ({"weight": "nan"}, {"layerscope_lens": "OWN"}, "expected numbers in weight, got NaN"),
        ({"weight": "int"}, {"layerscope_lens": "OWN"}, "expected weight in floating point"),
    ],
)
def test_a_file_that_is_no_lens_is_one_line(tensors, header, message, subject, tmp_path):
    width, own = subject.d_model, {"model_sha256": subject.sha256, "kind": "tuned"}
    known = {"OWN": own, "KIND": own | {"kind": "odd"}, "GONE": own | {"missing": [99]}}
    made = {}
    for name, shape in tensors.items():
        whole = torch.zeros(subject.n_layers, width, width)
        special = {"layers": whole, "nan": whole + float("nan"), "int": whole.int()}
        if shape is None:
            made[name] = torch.eye(width)
        else:
            made[name] = special[shape] if isinstance(shape, str) else torch.zeros(shape)
    written = {
        key: json.dumps(known[value]) if value in known else value for key, value in header.items()
    }
    save_file(made, tmp_path / "lens.safetensors", written or None)
    with pytest.raises(LensError, match=re.escape(message)):
        load_lens(tmp_path / "lens.safetensors", subject)


@pytest.mark.parametrize("config", ["{", "[]", "\x00"])
def test_a_tuned_lens_without_a_configuration_is_one_line(config, subject, tmp_path):
    (tmp_path / "config.json").write_text(config)
    save_file({"0.weight": torch.zeros(2, 2)}, tmp_path / "params.safetensors")
    with pytest.raises(LensError, match="expected"):
        load_lens(tmp_path, subject)


def test_a_pickle_is_refused_in_one_line(subject, tmp_path, capsys):
    torch.save({"J": {0: torch.eye(2)}, "n_prompts": 1, "d_model": 2}, tmp_path / "lens.pt")
    words = [
        "lens",
        "--model",
        str(PATHS.model),
        "--text",
        "x",
        "--lens",
        str(tmp_path / "lens.pt"),
    ]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "expected safetensors, got a pickle" in message
    assert len(message.strip().splitlines()) == 1
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "lens.pt").rename(tmp_path / "params.pt")
    with pytest.raises(LensError, match="got a pickle"):
        load_lens(tmp_path, subject)


def test_a_lens_is_a_transform_in_front_of_a_probe(subject, texts):
    """What the transformer gives is what the lens gives, inside a scikit-learn pipeline."""
    lens = least_squares(subject, texts[:10], 512)
    streams, _ = streams_of(subject, texts[0])
    X = streams.stream(2)[0].numpy()
    y = np.arange(len(X)) % 2
    pipeline = make_pipeline(lens.transformer(2), LogisticProbe(l2=1.0)).fit(X, y)
    direct = LogisticProbe(l2=1.0).fit(lens(2, streams.stream(2))[0].numpy(), y)
    np.testing.assert_allclose(
        pipeline.decision_function(X),
        direct.decision_function(lens(2, streams.stream(2))[0].numpy()),
        atol=1e-5,
    )


def test_reliability_is_that_of_known_noise(subject, texts, monkeypatch):
    """Matrices of signal s and noise n: halves of k texts have cosine s / (s + n / k),
    and .95 takes 19 n / s texts.
    """
    torch.manual_seed(0)
    signal = torch.randn(1, subject.d_model, subject.d_model)
    noisy = lambda *_: signal + 2 * torch.randn_like(signal)  # noqa: E731
    monkeypatch.setattr("layerscope.experiments.lenses.jacobian.text_jacobian", noisy)
    lens = jacobian(subject, list(texts[:24]), first=1)
    (found,) = reliabilities_of(lens)
    assert found.cosine == pytest.approx(1 / (1 + 4 / 12), abs=0.02)
    assert found.texts_needed == pytest.approx(76, rel=0.1)
    assert found.curve[-1][0] == 24
    assert found.curve[-1][1] == pytest.approx(1 / (1 + 4 / 24), abs=0.02)
    stopped = jacobian(subject, list(texts[:24]), first=1, stop_at=0.7)
    assert stopped.about["texts"] == 10  # 1 / (1 + 4 / n) passes .7 between 9 and 10


def test_halves_of_equal_texts_read_alike(subject, texts):
    """The same text in both halves: the readings have all ten tokens in common,
    and one half's are not another text's.
    """
    lens = jacobian(subject, [texts[0], texts[0]], first=2, others=texts[4:5])
    assert all(row.overlap == pytest.approx(1.0) for row in reliabilities_of(lens))
    lens = jacobian(subject, [texts[0], texts[1]], first=2, others=texts[4:5])
    assert min(row.overlap for row in reliabilities_of(lens)) < 1


# gptj has a bias at the head, olmo2 norms behind attention and MLP.
FAMILIES = ("gpt2", "llama", "gemma2", "neox", "falcon", "gptj", "olmo2")


def tiny_subject(family):
    """A random model whose norms and biases are not trivial, and a text."""
    torch.manual_seed(0)
    model = tiny.model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    subject = Subject(model, tiny.tokenizer(), bos="always")
    (text,) = subject.encode(["the cat sat on the mat"])
    (batch,) = subject.batches([text])
    return subject, text, batch.inputs(subject.device)


@pytest.mark.parametrize("by", ["head", "layer", "neuron", "position"])
@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_sum_to_the_logit(family, by):
    subject, text, inputs = tiny_subject(family)
    found = contributions(subject, text, 4, 6, by)
    with torch.no_grad():
        logits = subject.model(**inputs).logits[0, -1].double()
    cap = getattr(subject.config, "final_logit_softcapping", None)
    plain = cap * torch.atanh(logits / cap) if cap else logits
    assert sum(part.logit for part in found.parts) == pytest.approx(
        float(plain[4] - plain[6]), abs=1e-4
    )


def test_exact_effects_are_edited_weights():
    subject, text, inputs = tiny_subject("llama")
    found = contributions(subject, text, 4, None, "head")
    heads = [part for part in found.parts if part.component == "head"]
    effects = exact_effects(subject, text, heads, 4)
    width = subject.d_model // subject.config.num_attention_heads
    with torch.no_grad():
        clean = subject.model(**inputs).logits[0, -1, 4].item()
        for part, effect in zip(heads, effects, strict=True):
            weight = subject.model.model.layers[part.layer].self_attn.o_proj.weight
            kept = weight.clone()
            weight[:, width * part.index : width * (part.index + 1)] = 0
            assert clean - subject.model(**inputs).logits[0, -1, 4].item() == pytest.approx(
                effect, abs=1e-5
            )
            weight.copy_(kept)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "lens"
    words = [
        "lens",
        "--model",
        str(PATHS.model),
        "--corpus",
        str(PATHS.dev),
        "--limit",
        "80",
        "--out",
        str(out),
    ]
    words += [
        "--kind",
        "logit",
        "--kind",
        "least-squares",
        "--text",
        "The old dog barks",
        "--target",
        " and",
    ]
    assert main([*words, "--quiet"]) == 0
    results = json.loads((out / "results.json").read_text())
    last = [
        r
        for r in results["records"]
        if r["kind"] == "model" and r["position"] == len(results["texts"][0]["tokens"]) - 1
    ]
    assert sum(c["probability"] for c in last[0]["top"]) <= 1
    by_kind = {(r["kind"], r["layer"]): r["kl"] for r in results["layers"]}
    assert by_kind["least-squares", 0] < by_kind["logit", 0] < by_kind["logit", -1]
    assert by_kind["least-squares", 0] < by_kind["least-squares, layers shuffled", 0]
    total = sum(c["logit"] for c in results["contributions"])
    assert total == pytest.approx(results["texts"][0]["logit"], abs=1e-3)
    page = (out / "report.html").read_text()
    assert "Direct logit attribution" in page
    assert "How well each layer&#39;s reading agrees with the model" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --text, --prompts or --corpus"),
        (["--text", "x", "--wrong", " y"], "--wrong needs --target"),
        (["--text", "x", "--kind", "tuned"], "expected --corpus to fit it on"),
        (["--text", "a " * 600], "expected a text of at most"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    assert main(["lens", "--model", str(PATHS.model), *words, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err


def test_encoders_are_refused():
    with pytest.raises(LensError, match="causal language model"):
        require_lens(Subject(tiny.model("bert"), tiny.tokenizer(), bos="always"))
