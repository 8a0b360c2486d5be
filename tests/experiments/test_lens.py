"""Lenses against closed forms, autograd, another library and conservation; direct contributions against the logit."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from experiments.cli import main
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.lenses.contributions import contributions, exact_effects
from experiments.lenses.streams import LensError, Streams, require_lens
from experiments.lenses.translators import Lens, _text_jacobian, jacobian, least_squares, tuned
from experiments.subject import Subject, load
from hooks import Resume, edits, intervene

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
    import numpy as np

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
    found = _text_jacobian(subject, text, first)
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
    """With attention and MLP outputs at zero every block is the identity, and so is each Jacobian."""
    silent = {
        f"blocks.{n}.{s}": edits.zero()
        for n in range(subject.n_layers)
        for s in ("hook_attn_out", "hook_mlp_out")
    }
    with intervene(subject.model, silent):
        found = _text_jacobian(subject, texts[0], 2)
    torch.testing.assert_close(
        found, torch.eye(subject.d_model).expand_as(found), atol=1e-5, rtol=0
    )


def test_the_jacobian_lens_is_transformerlenss(texts):
    pytest.importorskip("transformer_lens.tools.analysis")
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens

    torch.manual_seed(0)
    subject = load(PATHS.model)
    try:
        bridge = TransformerBridge.boot_transformers(
            str(PATHS.model), device="cpu", hf_model=subject.model, tokenizer=subject.tokenizer
        )
    except Exception as error:
        pytest.skip(f"TransformerLens cannot wrap the demo model: {error}")
    lines = [text.text for text in texts[:2]]
    theirs = JacobianLens.fit(
        bridge, lines, corpus="demo", skip_first_positions=2, show_progress=False
    )
    mine, _ = jacobian(subject, texts[:2], first=2)
    for layer, matrix in (
        theirs.transport_matrices.items() if hasattr(theirs, "transport_matrices") else ()
    ):
        torch.testing.assert_close(mine.weight[layer + 1], matrix.float(), atol=1e-4, rtol=1e-3)


def test_the_tuned_lens_is_nowhere_worse_than_its_start(subject, texts):
    from experiments.lenses.translators import _divergences

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
    lens.save(tmp_path / "x.safetensors")
    again = Lens.load(tmp_path / "x.safetensors", subject)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    with pytest.raises(LensError, match="expected a lens of"):
        Lens.load(tmp_path / "x.safetensors", subject.random_twin(1))


FAMILIES = ("gpt2", "llama", "gemma2", "neox")


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
    assert "How far each layer can be believed" in page


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
