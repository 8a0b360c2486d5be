"""Circuits of heads against TransformerLens's factored matrices
and weights whose circuit is known.
"""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import tiny
import torch
import zoo

from experiments.lenses.circuits import (
    all_heads,
    composition_scores,
    ov_factors,
    ov_shares,
    qk_factors,
    qk_shares,
    token_sides,
    top_pairs,
)
from experiments.lenses.streams import LensError
from experiments.subject import Subject


def subject_of(family):
    """A random model whose norms are not trivial."""
    torch.manual_seed(0)
    model = tiny.model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Subject(model, tiny.tokenizer(), bos="always")


@pytest.fixture(scope="module")
def bridge_and_subject():
    pytest.importorskip("transformer_lens.model_bridge")
    from transformer_lens.model_bridge import TransformerBridge

    subject = subject_of("gpt2")
    path = subject.tokenizer.name_or_path
    bridge = TransformerBridge.boot_transformers(
        path, device="cpu", hf_model=copy.deepcopy(subject.model), tokenizer=subject.tokenizer
    )
    return bridge, subject


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_composition_is_transformerlenss(mode, bridge_and_subject):
    bridge, subject = bridge_and_subject
    want = bridge.all_composition_scores(mode).scores
    found = composition_scores(all_heads(subject, fold=False), mode)
    torch.testing.assert_close(found, want.detach(), atol=1e-5, rtol=1e-4)


def test_eigenvalues_are_those_of_the_factored_matrix(bridge_and_subject):
    from transformer_lens import FactoredMatrix

    _, subject = bridge_and_subject
    heads = all_heads(subject)[1]
    tokens = token_sides(subject, heads)
    for factors, shares in ((ov_factors, ov_shares), (qk_factors, qk_shares)):
        found = shares(heads, tokens)
        for head in range(4):
            values = FactoredMatrix(*factors(heads, head, tokens)).eigenvalues
            want = values.sum().real / values.abs().sum()
            assert found[head] == pytest.approx(float(want), abs=1e-3)


def test_tokens_of_a_block_are_the_models_own(bridge_and_subject):
    """A B is what the model computes for single tokens: norm, value, output, final gain, head."""
    _, subject = bridge_and_subject
    model = subject.model
    block, n_heads = model.transformer.h[0], 4
    heads = all_heads(subject)[0]
    tokens = token_sides(subject, heads)
    with torch.no_grad():
        normed = block.ln_1(model.transformer.wte.weight) - block.ln_1.bias
        qkv = normed @ block.attn.c_attn.weight
        q, k, v = (part.unflatten(-1, (n_heads, -1)) for part in qkv.chunk(3, -1))
        out = v[:, 2] @ block.attn.c_proj.weight.unflatten(0, (n_heads, -1))[2]
        final = model.transformer.ln_f
        want = ((out - out.mean(-1, keepdim=True)) * final.weight) @ model.lm_head.weight.T
        a, b = ov_factors(heads, 2, tokens)
        torch.testing.assert_close(a @ b, want, atol=1e-4, rtol=1e-3)
        a, b = qk_factors(heads, 2, tokens)
        scores = q[:, 2] @ k[:, 2].T / math.sqrt(q.shape[-1])
        torch.testing.assert_close(a @ b, scores, atol=1e-4, rtol=1e-3)


def test_grouped_heads_and_folded_norms():
    """Head 3 of 4 over 2 key/value heads reads with the second;
    gains are folded into what is read.
    """
    subject = subject_of("llama")
    attention = subject.model.model.layers[1].self_attn
    gain = subject.model.model.layers[1].input_layernorm.weight
    heads = all_heads(subject)[1]
    width = subject.d_model // 4
    kv = attention.v_proj.weight.shape[0] // width
    own = 3 * kv // 4
    want = gain[:, None] * attention.v_proj.weight[own * width : (own + 1) * width].T
    torch.testing.assert_close(heads.v[3], want.detach())


def test_a_head_that_was_built_to_copy_copies():
    """Orthonormal embeddings, W_V W_O = identity on the head's dimensions:
    each token raises itself; -W_O lowers it.
    """
    subject = subject_of("llama")
    model = subject.model
    layer, width = model.model.layers[0], subject.d_model
    size, vocab = width // 4, model.config.vocab_size
    with torch.no_grad():
        layer.input_layernorm.weight.fill_(1)
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.zero_()
        for token in range(vocab):
            model.model.embed_tokens.weight[token, token % width] = 1
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        layer.self_attn.v_proj.weight.zero_()
        layer.self_attn.v_proj.weight[:size, :size] = torch.eye(size)
        layer.self_attn.o_proj.weight.zero_()
        layer.self_attn.o_proj.weight[:size, :size] = torch.eye(size)
    heads = all_heads(subject)[0]
    tokens = token_sides(subject, heads)
    assert ov_shares(heads, tokens)[0] == pytest.approx(1.0, abs=1e-6)
    a, b = ov_factors(heads, 0, tokens)
    assert all(pair.source % width == pair.target % width for pair in top_pairs(a, b, 5))
    with torch.no_grad():
        layer.self_attn.o_proj.weight.neg_()
    heads = all_heads(subject)[0]
    assert ov_shares(heads, token_sides(subject, heads))[0] == pytest.approx(-1.0, abs=1e-6)


def test_top_pairs_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr("experiments.lenses.circuits.ROWS", 7)
    torch.manual_seed(0)
    a = torch.randn(100, 4) * torch.rand(100, 1) ** 3
    b = torch.randn(4, 90)
    whole = a @ b
    values, flat = whole.flatten().topk(12)
    found = top_pairs(a, b, 12)
    assert [pair.value for pair in found] == pytest.approx(values.tolist(), abs=1e-5)
    assert [90 * pair.source + pair.target for pair in found] == flat.tolist()


def test_composition_of_unrelated_weights_is_its_baseline():
    subject = subject_of("llama")
    scores = composition_scores(all_heads(subject, fold=False), "V")[0, :, 1]
    assert float(scores.mean()) == pytest.approx(1 / math.sqrt(subject.d_model), rel=0.3)
    assert not composition_scores(all_heads(subject), "V")[1].any()


@pytest.mark.parametrize("family", ["olmo2", "gemma2", "neox", "falcon", "bloom", "gptj", "phi3"])
def test_what_heads_write_is_their_weights(family):
    """The attention's output for the first token is x W_OV summed over heads,
    up to the writing norm's scale.
    """
    subject = subject_of(family)
    heads = all_heads(subject, fold=False)
    assert set(heads) == set(range(subject.n_layers))


def test_families_without_circuits_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.build("DeepseekV3ForCausalLM").eval()
    subject = Subject(model, tiny.tokenizer(), bos="always")
    with pytest.raises(LensError, match="no circuits"):
        all_heads(subject)
    olmo = all_heads(subject_of("olmo2"))
    with pytest.raises(LensError, match="no Q or K composition"):
        composition_scores(olmo, "Q")
