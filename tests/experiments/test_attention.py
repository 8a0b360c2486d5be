"""Attention: statistics against loops over single texts, heads whose pattern is known,
contributions, paths, similarity.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import induction
import networkx
import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from jaxtyping import Float
from naive import subject
from torch import Tensor

import experiments
from experiments.attention.arcs import WordTotals
from experiments.attention.heads import (
    COLUMNS,
    GROUPS,
    HeadStatistics,
    HeadTotals,
    deal,
    punctuation,
)
from experiments.attention.norms import output_weights
from experiments.attention.passes import pass_over
from experiments.attention.repetition import repetition_scores
from experiments.attention.rollout_and_flow import flow, rollout
from experiments.attention.similarity import SimilarityTotals
from experiments.attention.text_patterns import shown_texts, text_patterns
from experiments.features.layout import Layout
from experiments.studies.attend.study import Attention, head_records, plain_sentence
from experiments.subject import Subject
from experiments.subject.word_spans import Encoded
from hooks import capture, edits, intervene

TEXTS = ["w3 w4 w5 w6 w7", "w3 w9", "w8 , w8 w9 w10 . w12", "w5", "w4 w4 w4 w4 w4"]


def statistics(one: Subject, texts: list[Encoded], tokens: int = 64) -> HeadStatistics:
    totals = HeadTotals(one, texts, deal(len(texts), 0))
    pass_over(one, texts, [totals], batch_tokens=tokens)
    return totals.result()


def patterns(one: Subject, text: Encoded) -> np.ndarray:
    with torch.no_grad(), capture(one.model, "blocks.*.attn.hook_pattern") as acts:
        one.model(torch.tensor([text.ids]))
    return torch.stack([acts[f"blocks.{n}.attn.hook_pattern"][0] for n in (0, 1)]).double().numpy()


def by_loops(one: Subject, texts: list[Encoded]) -> dict[str, np.ndarray]:
    """The definitions, token by token, each text run by itself."""
    sums: dict[str, list[np.ndarray]] = {}
    for text in texts:
        found, marks = patterns(one, text), np.array(punctuation(text))
        own = np.array([not s for s in text.special])
        after = np.array([s and i > 0 for i, s in enumerate(text.special)])
        for q in np.flatnonzero(own):
            sees = q + 1 if one.causal else len(text)
            if sees < 2:
                continue
            row = found[:, :, q]
            far = np.abs(np.arange(len(text)) - q) * own
            log = np.log(row, out=np.zeros_like(row), where=row > 0)
            beside = {"self": q, "previous": q - 1, "next": q + 1}
            for name, value in {
                "entropy": -(row * log).sum(-1) / math.log(sees),
                "confidence": (row * own).max(-1),
                "distance": (row * far).sum(-1),
                "text": (row * own).sum(-1),
                "first": row[..., 0],
                "end": (row * after).sum(-1),
                "punctuation": (row * marks).sum(-1),
                **{
                    n: row[..., k] if 0 <= k < len(text) else 0 * row[..., 0]
                    for n, k in beside.items()
                },
            }.items():
                sums.setdefault(name, []).append(value)
    means = {name: np.mean(rows, 0) for name, rows in sums.items()}
    means["distance"] /= means.pop("text")
    return means


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "gemma2", "neox"])
@pytest.mark.parametrize("tokens", [4, 64])
def test_statistics_are_those_of_loops_over_single_texts(name: str, tokens: int) -> None:
    one = subject(name)
    texts = one.encode(TEXTS)
    found = statistics(one, texts, tokens)
    for statistic, expected in by_loops(one, texts).items():
        np.testing.assert_allclose(found.value(statistic), expected, atol=2e-5, err_msg=statistic)
    own = sum(not s for t in texts for i, s in enumerate(t.special) if i > 0 or not one.causal)
    assert queries(found) == own


def queries(found: HeadStatistics) -> int:
    """How many tokens looked."""
    return int(found.sums[0, :, COLUMNS.index("queries"), 0].sum())


def put(one: Subject, site: str, pattern: object) -> object:
    """Intervene so that one head's pattern is a function of what it can see."""
    return intervene(one.model, {site: edits.function(pattern)})  # type: ignore[arg-type]


def visible(pattern: Tensor) -> Tensor:
    return (pattern > 0).float()


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_uniform_head_has_entropy_1_and_the_uniform_masses_and_a_self_head_entropy_0(
    name: str,
) -> None:
    one = subject(name)
    texts = one.encode(TEXTS)
    uniform = put(
        one,
        "blocks.0.attn.hook_pattern[2]",
        lambda p: visible(p) / visible(p).sum(-1, keepdim=True),
    )
    itself = put(
        one, "blocks.1.attn.hook_pattern[0]", lambda p: torch.eye(p.shape[-1]).expand_as(p)
    )
    with uniform, itself:  # type: ignore[attr-defined]
        found = statistics(one, texts)
    assert found.value("entropy")[0, 2] == pytest.approx(1, abs=1e-6)
    expected = found.under_uniform()
    for statistic in (
        "confidence",
        "distance",
        "first",
        "end",
        "punctuation",
        "self",
        "previous",
        "next",
    ):
        assert found.value(statistic)[0, 2] == pytest.approx(expected[statistic][0], abs=1e-6)
    told = {
        n: found.value(n)[1, 0] for n in ("entropy", "self", "confidence", "distance", "previous")
    }
    assert told == pytest.approx(
        {"entropy": 0, "self": 1, "confidence": 1, "distance": 0, "previous": 0}, abs=1e-6
    )
    low, high = found.intervals()["entropy"]
    assert low[0, 2] == pytest.approx(1, abs=1e-6) == high[0, 2]
    between = (low <= found.value("entropy")) & (found.value("entropy") <= high)
    assert between.all()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Ratios of sums over independent texts:
    95% intervals of 60 corpora cover the true ratio about 95% of the time.
    """
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(60):
        n = rng.integers(3, 20, 80).astype(float)
        sums = np.zeros((1, 80, len(COLUMNS), 1))
        sums[0, :, COLUMNS.index("queries"), 0] = n
        sums[0, :, COLUMNS.index("first"), 0] = n * (0.3 + 0.1 * rng.standard_normal(80))
        found = HeadStatistics([0], sums, np.zeros((1, len(COLUMNS))), False)
        low, high = found.intervals()["first"]
        covered.append(low[0, 0] <= 0.3 <= high[0, 0])
    assert 0.86 < np.mean(covered) <= 1


def test_what_is_held_does_not_grow_with_the_corpus() -> None:
    one = subject("llama")
    sizes = []
    for n in (GROUPS + 50, 2 * GROUPS):
        texts = one.encode([f"w{3 + i % 40} w{5 + i % 7} w9" for i in range(n)])
        found = statistics(one, texts, 512)
        sizes.append(found.sums.size)
        assert queries(found) == 3 * n
    assert sizes[0] == sizes[1]


def contributions(
    pattern: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "batch pos kv_head d_head"],
    weights: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "batch query d_model"]:
    r"""What all heads add, pattern x value x output projection: ``attn_out`` without its bias."""
    wide = values.transpose(1, 2)
    if wide.shape[1] != len(weights):
        wide = wide.repeat_interleave(len(weights) // wide.shape[1], dim=1)
    return torch.einsum("bhqk,bhkd,hdm->bqm", pattern, wide, weights)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "neox"])
def test_pattern_times_value_times_output_projection_is_what_attention_adds(
    name: str, side: str, implementation: str
) -> None:
    one = subject(name)
    if name == "gpt2" and implementation == "flex_attention":
        pytest.skip("transformers' GPT-2 has no flex attention")
    one.model.set_attn_implementation(implementation)
    texts = one.encode(TEXTS[:3])
    (batch,) = one.batches(texts, 512, side)  # type: ignore[arg-type]
    eager = torch.compiler.set_stance("force_eager")  # compiling flex attention takes half a minute
    with (
        torch.no_grad(),
        eager,
        capture(one.model, ("pattern", 1), ("v", 1), ("attn_out", 1)) as acts,
    ):
        one.forward(batch)
    weights = output_weights(one.model, 1)
    assert weights is not None
    made = contributions(acts[("pattern", 1)], acts[("v", 1)], weights)
    module = {
        "gpt2": "h.1.attn.c_proj",
        "llama": "layers.1.self_attn.o_proj",
        "bert": "encoder.layer.1.attention.output.dense",
        "neox": "layers.1.attention.dense",
    }[name]
    bias = getattr(one.body.get_submodule(module), "bias", None)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(
        made[real] + (0 if bias is None else bias),
        acts[("attn_out", 1)][real],
        atol=2e-6,
        rtol=1e-4,
    )
    sums = acts[("pattern", 1)].sum(-1).transpose(1, 2)[real]
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_shares_by_value_are_those_of_each_key_s_contribution() -> None:
    one = subject("llama")
    texts = one.encode(TEXTS)
    found = statistics(one, texts)
    above, below, size, count = 0.0, 0.0, 0.0, 0
    for text in texts:
        with torch.no_grad(), capture(one.model, ("pattern", 1), ("v", 1), ("z", 1)) as acts:
            one.model(torch.tensor([text.ids]))
        weights = output_weights(one.model, 1)
        assert weights is not None
        value = acts[("v", 1)][0, :, 3 // 2]  # two query heads read each key-value head
        norm = (value @ weights[3]).norm(dim=-1)
        for q in range(1, len(text)):
            each = acts[("pattern", 1)][0, 3, q] * norm
            above, below = above + float(each[0]), below + float(each.sum())
            size += float((acts[("z", 1)][0, q, 3] @ weights[3]).norm())
            count += 1
    assert found.value("norm_first")[1, 3] == pytest.approx(above / below, rel=1e-4)
    assert found.value("output")[1, 3] == pytest.approx(size / count, rel=1e-4)


def test_rollout_and_flow_of_identity_are_identity_and_rows_of_rollout_sum_to_1() -> None:
    alone = np.broadcast_to(np.eye(6), (3, 2, 6, 6))
    np.testing.assert_array_equal(rollout(alone), np.eye(6))
    np.testing.assert_allclose(flow(alone), np.eye(6))
    one = subject("gpt2")
    found = patterns(one, one.encode(TEXTS)[2])
    mixed = rollout(found)
    np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-6)
    assert np.triu(mixed, 1).max() == 0  # nothing from later tokens in a causal model


def test_flow_is_the_maximum_flow_of_networkx() -> None:
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(4), size=(3, 2, 4))
    found = flow(weights)
    graph = networkx.DiGraph()
    for layer, step in enumerate(0.5 * weights.mean(1) + 0.5 * np.eye(4), start=1):
        for query in range(4):
            for key in range(4):
                graph.add_edge((layer, query), (layer - 1, key), capacity=step[query, key])
    for query in range(4):
        for key in range(4):
            expected = networkx.maximum_flow_value(graph, (3, query), (0, key))
            assert found[query, key] == pytest.approx(expected, abs=1e-5)
    single = flow(weights[:1])
    np.testing.assert_allclose(single, 0.5 * weights[0].mean(0) + 0.5 * np.eye(4), atol=1e-6)


def test_heads_that_look_alike_have_similarity_1_and_heads_that_never_do_0() -> None:
    one = subject("llama")
    texts = one.encode(TEXTS[:3])

    def shifted(pattern: Tensor) -> Tensor:
        # each looks at the one before
        return torch.eye(pattern.shape[-1]).roll(-1, 1).expand_as(pattern)

    same = lambda p: torch.eye(p.shape[-1]).expand_as(p)  # noqa: E731
    totals = SimilarityTotals(one, texts)
    changes = {"blocks.0.attn.hook_pattern[1]": same, "blocks.1.attn.hook_pattern[2]": same}
    changes["blocks.1.attn.hook_pattern[0]"] = shifted
    with intervene(one.model, {k: edits.function(v) for k, v in changes.items()}):
        pass_over(one, texts, [totals])
        pair = [patterns(one, text)[:, 3, 2:] for text in texts]  # from the text's second token
    found = totals.result()
    assert found.heads.shape == (8, 8)
    np.testing.assert_allclose(np.diag(found.heads), 1, atol=1e-6)
    np.testing.assert_allclose(found.heads, found.heads.T)
    assert found.heads[1, 6] == pytest.approx(1)
    assert found.heads[1, 4] == pytest.approx(0, abs=1e-6)
    expected = np.mean(np.concatenate([np.sqrt(p[0] * p[1]).sum(-1) for p in pair]))
    assert found.heads[3, 7] == pytest.approx(expected, abs=1e-6)


def test_the_hand_built_heads_are_found_and_named() -> None:
    one = Subject(induction.model(), tiny.tokenizer(), bos="never")
    vocabulary = range(induction.FIRST, induction.FIRST + induction.TOKENS)
    sentences = [plain_sentence(p["prompt"], p["prompt"]) for p in induction.prompts()]
    layout = Layout.of(one, sentences)
    groups = deal(len(sentences), 0)
    heads, alike = HeadTotals(one, layout.encoded, groups), SimilarityTotals(one, layout.encoded)
    words = WordTotals(one, sentences, layout, groups)
    pass_over(one, layout.encoded, [heads, alike, words])
    repeats = repetition_scores(one, length=6, texts=40, vocabulary=vocabulary)
    records = head_records(Attention(heads.result(), words.result(), alike.result(), repeats))
    roles = {(r.layer, r.index): r.role for r in records}
    assert "previous token" in roles.pop(induction.PREVIOUS)
    assert "induction" in roles.pop(induction.INDUCTION)
    assert not any("induction" in role or "previous" in role for role in roles.values())


def test_a_head_by_itself_is_like_no_other() -> None:
    config = hf.GPT2Config(n_layer=1, n_embd=8, n_head=1, n_positions=64, **tiny._IDS)
    one = Subject(hf.GPT2LMHeadModel(config).eval(), tiny.tokenizer(), bos="always")
    sentences = [plain_sentence(text, text) for text in TEXTS[:3]]
    layout, groups = Layout.of(one, sentences), deal(3, 0)
    heads, alike = HeadTotals(one, layout.encoded, groups), SimilarityTotals(one, layout.encoded)
    words = WordTotals(one, sentences, layout, groups)
    pass_over(one, layout.encoded, [heads, alike, words])
    nothing = dict.fromkeys(("duplicate", "induction"), np.zeros((1, 1)))
    (record,) = head_records(Attention(heads.result(), words.result(), alike.result(), nothing))
    assert (record.nearest, record.nearest_similarity) == (None, None)


def test_a_softmax_with_a_sink_of_its_own(tmp_path: Path) -> None:
    """gpt-oss: the weights that transformers gives back do not sum to 1;
    what is missing went to the learned sink.
    """
    width = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = hf.GptOssConfig(
        **width, **experts, num_attention_heads=4, num_key_value_heads=2, **tiny._IDS
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.GptOssForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.sinks.data.normal_()
    one = Subject(model, tiny.tokenizer(), bos="always")
    texts = ["w3 w4 w5 w6 w7 w8", "w3 w9 w10"]
    path = tmp_path / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8"
    )
    results = experiments.attend(model=one, prompts=path, out=tmp_path / "run")
    sums = {name: np.zeros((2, 4)) for name in ("first", "sink", "entropy")}
    n = 0
    for encoded in one.encode(texts):
        with torch.no_grad():
            attentions = model(torch.tensor([encoded.ids]), output_attentions=True).attentions
        weights = torch.stack(attentions)[:, 0].double().numpy()
        for query in range(1, len(encoded)):
            row = weights[:, :, query, : query + 1]
            whole = np.concatenate([row, 1 - row.sum(-1, keepdims=True)], axis=-1)
            sums["first"] += row[..., 0]
            sums["sink"] += whole[..., -1]
            sums["entropy"] += -(whole * np.log(whole)).sum(-1) / np.log(query + 2)
            n += 1
    assert sums["sink"].min() / n > 0.02
    for record in results.records:
        for name, total in sums.items():
            assert record[name] == pytest.approx(
                total[record["layer"], record["index"]] / n, abs=1e-5
            )
    shown = results.raw["shown"]["texts"][0]
    size = len(shown["tokens"])
    assert len(base64.b64decode(shown["weights"])) == 2 * 4 * size * size


def from_bytes(text: str, *shape: int) -> np.ndarray:
    """The numbers that a page's base64 holds."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) / 255


def test_the_patterns_of_a_report_are_the_model_s() -> None:
    one = subject("llama")
    texts = one.encode(["w3 w4 w5 w6 w7", "w3 w9"])
    found = text_patterns(one, texts)
    assert found is not None
    n = len(texts[1])
    weights = from_bytes(found["weights"], 2, found["heads"], n, n)
    assert (found["tokens"], found["layers"]) == (["<s>", "w3", " w9"], [0, 1])
    one.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = one.model(torch.tensor([texts[1].ids]), output_attentions=True).attentions
    np.testing.assert_allclose(
        weights, torch.stack(attentions)[:, 0].numpy(), atol=0.5 / 255 + 1e-6
    )
    assert text_patterns(one, texts, most=10) is None
    shown = shown_texts(one, texts, 5, with_flow=True)
    (text,) = shown.texts  # the shorter one is too short to be pleasant
    n = len(texts[0])
    weights = from_bytes(text.weights, 2, 4, n, n)
    np.testing.assert_allclose(weights, patterns(one, texts[0]), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(
        from_bytes(text.rollout, n, n), rollout(patterns(one, texts[0])), atol=0.003
    )
    assert from_bytes(text.norms, 2, 4, n).max(-1) == pytest.approx(np.ones((2, 4)))
    np.testing.assert_allclose(
        from_bytes(text.flow, n, n), flow(patterns(one, texts[0])), atol=0.003
    )
