"""Pruning: the smaller model against the whole one with those heads at zero,
and a model whose needless heads are known.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from naive import subject
from transformers.utils.quantization_config import GgufConfig

from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.metrics.metrics import get_metric
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.prune import study as pruning
from experiments.studies.prune.cut_heads import HeadError, heads_of, with_heads
from experiments.studies.prune.options import PruneOptions
from hooks import edits, intervene

IDS = torch.randint(3, tiny.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
TEXTS = ("w3 w4 w5 w6", "w9 w3 w12 w40 w7", "w8 w8 w21", "w30 w31 w32 w33")


def wide(kv_heads: int = 2, seed: int = 0) -> hf.LlamaForCausalLM:
    """Six heads that share key-value heads."""
    size = {
        "hidden_size": 48,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "vocab_size": tiny.VOCAB,
    }
    config = hf.LlamaConfig(
        **size,
        num_attention_heads=6,
        num_key_value_heads=kv_heads,
        attention_bias=True,
        bos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return hf.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere", "granite", "starcoder2", "wide"])
def test_a_model_with_fewer_heads_is_the_model_with_the_others_at_zero(name: str) -> None:
    model = wide() if name == "wide" else tiny.model(name)
    heads = heads_of(model)
    group = heads.n_heads // heads.n_kv_heads
    fewer = [
        [members[: max(1, group - 1)][::-1] for members in groups][-1:] for groups in heads.all
    ]
    smaller = with_heads(model, fewer)
    gone = [h for h in range(heads.n_heads) if h not in fewer[0][0]]
    sites = {f"blocks.{layer}.attn.hook_z[{h}]": edits.zero() for layer in range(2) for h in gone}
    with torch.no_grad():
        with intervene(model, sites):  # type: ignore[arg-type]
            expected = model(IDS).logits
        torch.testing.assert_close(smaller(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        assert (smaller(IDS).logits - model(IDS).logits).abs().max() > 1e-4
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


def test_half_precision_keeps_its_rotary_tables() -> None:
    model = wide().to(torch.bfloat16)
    model.model.rotary_emb.inv_freq = wide().model.rotary_emb.inv_freq  # as a loaded model has it
    smaller = with_heads(model, [[[0, 1], [4, 5]]] * 2)
    table = smaller.get_submodule("model.rotary_emb").inv_freq
    assert table.dtype == torch.float32
    assert next(smaller.parameters()).dtype == torch.bfloat16
    assert smaller.config._attn_implementation == model.config._attn_implementation


@pytest.mark.parametrize("name", ["gpt2", "neox", "bert", "phi3"])
def test_joined_projections_are_refused(name: str) -> None:
    with pytest.raises(
        HeadError, match="a linear q_proj, k_proj, v_proj, o_proj each, as in Llama"
    ):
        heads_of(tiny.model(name))


@pytest.mark.parametrize(
    ("name", "weight"), [("olmo2", "_norm.weight"), ("stablelm", "q_proj.weight")]
)
def test_weights_that_do_not_follow_the_configuration_are_refused(name: str, weight: str) -> None:
    """A norm over all heads; a width of heads that is always d_model / number."""
    model = tiny.model(name)
    with pytest.raises(
        HeadError, match=f"{weight} does not follow the configuration's num_attention_heads"
    ):
        with_heads(model, [[groups[0][:1]] for groups in heads_of(model).all])


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ([[[0], [3]]], "expected the heads of 2 layers, got 1"),
        ([[[0], [3]], [[0]]], "as many heads in every layer"),
        ([[[0, 1], [3]], [[0, 1], [3]]], "as many heads in every layer and group"),
        ([[[0], [6]], [[0], [3]]], "layer 0: expected different heads below 6, got \\[0, 6\\]"),
        ([[[0, 3]], [[0, 1]]], "layer 0: expected groups of heads that read one key-value head"),
    ],
)
def test_heads_that_do_not_fit_are_one_clear_line(kept: list[list[list[int]]], said: str) -> None:
    with pytest.raises(HeadError, match=said):
        with_heads(wide(), kept)


def test_the_least_important_leave_first_queries_then_groups() -> None:
    kept = heads_of(wide()).all
    kept = pruning.without_least(kept, np.array([[3.0, 1, 2, 9, 8, 7], [1, 2, 3, 7, 9, 8]]))
    assert kept == [[[0, 2], [3, 4]], [[1, 2], [4, 5]]]
    kept = pruning.without_least(kept, np.array([[1.0, 2, 3, 4], [2, 1, 4, 3]]))
    assert kept == [[[2], [4]], [[1], [4]]]
    assert pruning.without_least(kept, np.array([[1.0, 2], [5, 2]])) == [[[4]], [[1]]]
    drawn = pruning.random_heads(heads_of(wide()), [[[0, 1], [3, 4]]] * 2, 0)
    assert all(
        len(members) == 2 and {h // 3 for h in members} == {g}
        for groups in drawn
        for g, members in enumerate(groups)
    )


def test_gates_are_0_for_heads_that_write_nothing() -> None:
    one = subject("llama")
    heads = heads_of(one.model)
    for layer, path in enumerate(heads.paths):
        # head 0 of layer 0, head 1 of layer 1
        at = slice(layer * heads.width, (layer + 1) * heads.width)
        one.model.get_submodule(f"{path}.o_proj").weight.data[:, at] = 0
    found = pruning.head_gates(one, get_metric("loss"), [Prompt(text, "") for text in TEXTS], 100)
    assert found.shape == (2, heads.n_heads)
    for layer in range(2):
        assert found[layer, layer] == 0
        assert np.delete(found[layer], layer).min() > 1e-6


def prepared(folder: Path) -> list[str]:
    """A model folder, its texts, and the beginning of a command."""
    model = wide()
    # two heads a layer, one of each group, write nothing
    for layer, path in enumerate(heads_of(model).paths):
        for h in (layer, 4):
            model.get_submodule(f"{path}.o_proj").weight.data[:, 8 * h : 8 * h + 8] = 0
    tiny.save(model, folder / "model")
    (folder / "texts.jsonl").write_text(
        "\n".join(json.dumps({"prompt": text}) for text in TEXTS), encoding="utf-8"
    )
    return [
        "prune",
        "--model",
        str(folder / "model"),
        "--prompts",
        str(folder / "texts.jsonl"),
        "--random",
        "1",
    ]


def test_a_run_cuts_needless_heads_first_and_writes_models_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = prepared(tmp_path)
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    records = results["records"]
    assert [(r["heads"], r["kv_heads"]) for r in records] == [(6, 2), (4, 2), (2, 2), (1, 1)]
    assert sorted(records[1]["removed"]) == [[0, 0], [0, 4], [1, 1], [1, 4]]
    assert records[1]["change"] == pytest.approx(0, abs=1e-5)
    assert abs(records[1]["random"] - records[0]["value"]) > 1e-4, (
        "the positive control: random heads are needed"
    )
    assert all(r["difference"] < 1e-5 for r in records[1:])
    loaded = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole" / "models" / "step-2"
    ).eval()
    whole = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    gone = {tuple(pair) for r in records[:3] for pair in r["removed"]}
    with (
        torch.no_grad(),
        intervene(whole, {f"blocks.{a}.attn.hook_z[{b}]": edits.zero() for a, b in gone}),
    ):
        torch.testing.assert_close(loaded(IDS).logits, whole(IDS).logits, rtol=1e-5, atol=1e-5)
    assert loaded.config.num_attention_heads == 2

    step, calls = pruning._step, []

    def second_stops(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(pruning, "_step", second_stops)
    assert cli.main([*command, "--out", str(tmp_path / "again")]) == 130
    assert cli.main([*command, "--out", str(tmp_path / "again")]) == 0
    assert len(calls) == 4
    again = json.loads((tmp_path / "again" / "results.json").read_text())["records"]
    assert again == records


def test_weights_of_a_gguf_file_are_cut_and_those_in_eight_bits_are_not() -> None:
    model = wide()
    model.config.quantization_config = GgufConfig()  # as reading a GGUF file leaves it
    smaller = with_heads(model, [[[0], [3]]] * 2)
    assert not hasattr(smaller.config, "quantization_config")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(HeadError, match="offloaded or quantised"):
        heads_of(model)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--steps", "9"],
            "expected 1 to 3, got 9: with fewer than the 6 heads per layer, transfo",
        ),
        (["--metric", "kl"], "metric kl is a distance from the same model"),
        (["--metric", "pair_difference"], "metric pair_difference is of pairs"),
        (["--metric", "log_probability"], "expected 'answer' to be a text, got None"),
    ],
)
def test_bad_input_is_one_clear_line(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = prepared(tmp_path)
    capsys.readouterr()
    assert cli.main([*command, *more, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_configuration_that_names_no_texts_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of --prompts, --pairs, --labelled, --text"):
        execute(STUDIES["prune"], PruneOptions(model="x", out=tmp_path))
