"""Relevance propagation: conserved where nothing can absorb it, Captum's on a plain network,
closed forms of its rules.
"""

from __future__ import annotations

from typing import Any

import induction
import numpy as np
import planted
import pytest
import tiny
import torch
import transformers as hf
from naive import bias_free
from torch import nn

from experiments.attribution import AttributionError, Target, attribute, relevance
from experiments.attribution.relevance import half, propagating
from experiments.subject import Subject

TEXT = "w5 w6 w7 w8 w9 w10"
TARGET = Target(" w20", measure="logit")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox", "bert", "phi3", "cohere"])
def test_relevance_is_conserved_at_every_block(name: str) -> None:
    subject = bias_free(name)
    text = TEXT if subject.causal else f"{TEXT} w4"
    found = attribute(subject, text, target=TARGET, method="cp-lrp", rule="0")
    sums = found.more["conservation"]
    assert list(sums) == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    tolerance = 0.03 if name == "gemma2" else 1e-3  # its soft caps are no linear map
    for total in sums.values():
        assert total == pytest.approx(found.value, rel=tolerance)
    plain = attribute(
        subject, text, target=TARGET, method="grad-input", site="blocks.0.hook_resid_pre"
    )
    kept = plain.scores.sum() + plain.more["outside"]
    # which the plain gradient does not keep
    assert abs(kept - found.value) > 0.05 * abs(found.value)


def test_what_is_lost_without_a_bias_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = bias_free("phi3")
    assert "absorbed by" in attribute(subject, TEXT, target=TARGET, method="cp-lrp").notes[0].text
    monkeypatch.setattr(relevance, "FUSED", ("no layer",))
    assert attribute(subject, TEXT, target=TARGET, method="cp-lrp").notes[0].kind == "warning"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["lrp", "cp-lrp", "deep-taylor", "chefer"])
def test_half_precision_gives_the_relevance_of_the_whole(method: str, dtype: torch.dtype) -> None:
    narrow, wide = (
        Subject(tiny.model("llama").to(kind), tiny.tokenizer(), bos="always")
        for kind in (dtype, torch.float32)
    )
    found, expected = (
        attribute(one, TEXT, target=TARGET, method=method).scores for one in (narrow, wide)
    )
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_a_classifiers_rollout_is_that_of_the_language_model_whose_head_it_has() -> None:
    config: dict[str, Any] = {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "n_positions": 64,
        **tiny._IDS,
    }
    torch.manual_seed(0)
    classifier: Any = hf.GPT2ForSequenceClassification(hf.GPT2Config(**config, num_labels=3)).eval()
    model: Any = hf.GPT2LMHeadModel(hf.GPT2Config(**config, tie_word_embeddings=False)).eval()
    model.transformer.load_state_dict(classifier.transformer.state_dict())
    with torch.no_grad():
        model.lm_head.weight[20] = classifier.score.weight[1]
    ours, theirs = (Subject(one, tiny.tokenizer(), bos="never") for one in (classifier, model))
    found = attribute(ours, TEXT, target="LABEL_1", method="chefer")
    expected = attribute(theirs, TEXT, target=TARGET, method="chefer")
    assert found.value == pytest.approx(expected.value, abs=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_values_stay_and_nothing_is_left_behind() -> None:
    model = tiny.model("llama")
    ids = tiny.ids()
    with torch.no_grad():
        before = model(ids).logits
        for rule in ("0", "epsilon", "gamma", "zplus"):
            with propagating(model, rule):
                torch.testing.assert_close(model(ids).logits, before, atol=2e-4, rtol=1e-4)
        assert torch.equal(model(ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
def test_a_plain_network_is_captums(rule: str) -> None:
    captum = pytest.importorskip("captum.attr")
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    ).double()
    x = torch.rand(4, 6, dtype=torch.float64)
    if rule == "gamma":  # the two are one rule where all terms are positive
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
    leaf = x.clone().requires_grad_()
    with propagating(model, rule, "none"):
        (slope,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    for layer in (model[0], model[2]):
        layer.rule = (
            rules.EpsilonRule(epsilon=1e-6) if rule == "epsilon" else rules.GammaRule(gamma=0.25)
        )
    expected = captum.LRP(model).attribute(x.clone().requires_grad_(), target=1)
    torch.testing.assert_close(x * slope, expected.detach(), atol=1e-5, rtol=1e-5)


def taylor(
    first: str | None, x: np.ndarray, weights: list[np.ndarray], bounds: tuple[float, float]
) -> np.ndarray:
    """Deep Taylor's closed form on a ReLU network without biases,
    one sum at a time (Montavon et al. 2017, table 1).
    """
    layers = [x]
    for at, weight in enumerate(weights):
        out = weight @ layers[-1]
        layers.append(np.maximum(out, 0) if at < len(weights) - 1 else out)
    relevance = layers[-1]
    for at in reversed(range(len(weights))):
        a, weight = layers[at], weights[at]
        if at or first is None:
            terms = np.maximum(weight * a, 0)
        elif first == "w2":
            terms = weight**2
        else:
            terms = (
                weight * a - bounds[0] * np.maximum(weight, 0) - bounds[1] * np.minimum(weight, 0)
            )
        total = terms.sum(1, keepdims=True)
        relevance = (
            np.divide(terms, total, out=np.zeros_like(terms), where=total != 0) * relevance[:, None]
        ).sum(0)
    return relevance


@pytest.mark.parametrize("first", [None, "w2", "box"])
def test_deep_taylor_is_its_closed_form_on_a_network_of_relus(first: str | None) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(6, 12, bias=False),
        nn.ReLU(),
        nn.Linear(12, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 1, bias=False),
    ).double()
    weights = [model[i].weight.detach().numpy() for i in (0, 2, 4)]
    bounds = (-3.0, 2.0)
    for x in torch.randn(5, 6, dtype=torch.float64).clamp(*bounds):
        leaf = x.clone().requires_grad_()
        with propagating(model, "zplus", "none", first, bounds):
            value = model(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        value = value.detach()
        torch.testing.assert_close(value, model(x).detach())
        found, expected = (x * slope).numpy(), taylor(first, x.numpy(), weights, bounds)
        # epsilon in the denominators
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)
        assert found.sum() == pytest.approx(float(value), rel=1e-3)  # nothing is lost
        if float(value) > 0:
            # deep Taylor is consistent: no negative relevance of a positive value
            assert found.min() >= -1e-12


def test_deep_taylor_loses_nothing_to_biases() -> None:
    subject = Subject(tiny.model("gpt2").double(), tiny.tokenizer(), bos="always")
    with torch.no_grad():
        for module in subject.model.modules():
            if isinstance(module, nn.LayerNorm):  # whose biases no rule of linear layers knows
                module.bias.zero_()
    found = attribute(subject, TEXT, target=TARGET, method="deep-taylor")
    assert found.more["rule"] == "zplus"
    for total in found.more["conservation"].values():
        assert total == pytest.approx(found.value, rel=1e-3)


def test_bad_rules_are_one_line() -> None:
    model = nn.Linear(2, 2)
    for more, said in (
        ({"first": "w3"}, "expected w2, box"),
        ({"first": "box", "bounds": (1.0, 0.0)}, "lower one first"),
    ):
        with (
            pytest.raises(AttributionError, match=said),
            propagating(model, "zplus", "none", **more),
        ):
            pass


def test_the_softmax_rule_is_its_gradient_and_a_product_is_halved() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    out = torch.softmax(x, 0)
    given = torch.randn(5, dtype=torch.float64)
    (slope,) = torch.autograd.grad(out, x, given / out.detach())  # relevance `given` at the output
    expected = x * (given - out * given.sum())
    torch.testing.assert_close(x * slope, expected)
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    both = torch.autograd.grad((half(a) * half(b)).sum(), (a, b))
    torch.testing.assert_close(a * both[0], a * b / 2)
    torch.testing.assert_close(b * both[1], a * b / 2)


def test_relevance_of_heads_is_theirs() -> None:
    subject = bias_free("llama")
    found = attribute(
        subject, TEXT, target=TARGET, method="lrp", site="blocks.1.attn.hook_z", rule="0"
    )
    assert found.inner is not None
    assert found.inner.shape == (6, 4)
    # What a head's relevance is depends on nothing but its output: a head without one has none.
    with torch.no_grad():
        subject.model.model.layers[1].self_attn.v_proj.weight.zero_()
    none = attribute(
        subject, TEXT, target=TARGET, method="lrp", site="blocks.1.attn.hook_z", rule="0"
    )
    np.testing.assert_allclose(none.scores, 0, atol=1e-12)
    assert np.abs(found.scores).max() > 1e-4


def attending(model: Any, ids: torch.Tensor, relevance: bool) -> list[torch.Tensor]:
    """The attention patterns of a GPT-2 whose MLPs write nothing, and its logit, from the weights
    alone.

    For relevance a norm's size is a constant, and either factor of a product takes half of the
    gradient.
    """

    def factor(value: torch.Tensor) -> torch.Tensor:
        return (value + value.detach()) / 2 if relevance else value

    def norm(value: torch.Tensor, module: Any) -> torch.Tensor:
        value = value - value.mean(-1, keepdim=True)
        size = (value.square().mean(-1, keepdim=True) + module.eps).sqrt()
        return value / (size.detach() if relevance else size) * module.weight + module.bias

    body, patterns = model.transformer, []
    x = body.wte(ids) + body.wpe.weight[: len(ids)]
    for block in body.h:
        linear = norm(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
        # head pos d
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(0, 1) for part in linear.chunk(3, -1))
        scores = factor(q @ k.mT) / q.shape[-1] ** 0.5
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        patterns.append(scores.masked_fill(later, -torch.inf).softmax(-1))
        read = (factor(patterns[-1]) @ factor(v)).transpose(0, 1).flatten(1)
        x = x + read @ block.attn.c_proj.weight + block.attn.c_proj.bias
    return [*patterns, (norm(x, body.ln_f) @ model.lm_head.weight[20])[-1]]


def test_chefer_is_its_rule_written_out() -> None:
    """R <- R + E_h (grad A * relevance of A)^+ R, layer by layer, and the row that is read."""
    subject = bias_free("gpt2")
    ids = torch.tensor(subject.encode([TEXT])[0].ids)
    with torch.no_grad():
        for block in subject.model.transformer.h:
            block.mlp.c_proj.weight.zero_()
        torch.testing.assert_close(
            attending(subject.model, ids, False)[-1],
            subject.model(ids[None]).logits[0, -1, 20],
            atol=1e-9,
            rtol=0,
        )
    slopes, relevance = [], []
    for kept, as_relevance in ((slopes, False), (relevance, True)):
        *patterns, logit = attending(subject.model, ids, as_relevance)
        for pattern, slope in zip(patterns, torch.autograd.grad(logit, patterns), strict=True):
            kept.append((slope * pattern if as_relevance else slope).detach().numpy())
    rollout = np.eye(len(ids))
    for slope, share in zip(slopes, relevance, strict=True):
        rollout = rollout + np.maximum(slope * share, 0).mean(0) @ rollout
    found = attribute(subject, TEXT, target=TARGET, method="chefer", rule="0")
    np.testing.assert_allclose(found.scores, rollout[-1, 1:], rtol=1e-9)
    assert "no sign" in found.notes[0].text


def test_chefer_finds_what_the_induction_head_copies() -> None:
    subject = Subject(induction.model(), tiny.tokenizer(), bos="never")
    item = next(one for one in induction.prompts() if len(one["prompt"].split()) == 9)
    found = attribute(
        subject, item["prompt"], target=Target(item["answer"], measure="logit"), method="chefer"
    )
    assert found.units[int(np.argmax(found.scores))] == item["answer"].strip()


@pytest.mark.parametrize("method", ["lrp", "cp-lrp", "deep-taylor"])
def test_the_two_words_that_matter_are_found(method: str) -> None:
    found = attribute(
        planted.subject(), planted.TEXT, target=Target(" w50", measure="logit"), method=method
    )
    rest = [i for i in range(7) if i not in (1, 4)]
    assert min(abs(found.scores[[1, 4]])) > 10 * np.abs(found.scores[rest]).max()


def test_a_log_probability_has_no_relevance() -> None:
    with pytest.raises(AttributionError, match="relevance is of logits"):
        attribute(planted.subject(), planted.TEXT, method="lrp")
    with pytest.raises(AttributionError, match="expected 0, epsilon, gamma, zplus"):
        attribute(planted.subject(), planted.TEXT, target=TARGET, method="lrp", rule="alpha")
