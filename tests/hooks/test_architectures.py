"""Every family against oracles that know nothing of layerscope;
what is left out of a map because it is not true.
"""

from __future__ import annotations

import copy
from pathlib import Path

import oracles
import pytest
import tiny
import torch
import zoo
from transformers import GroupViTConfig, GroupViTModel

from hooks import (
    Resume,
    Site,
    UnknownArchitecture,
    UnknownSite,
    anatomy,
    capture,
    edits,
    intervene,
    sites,
    verify,
)
from hooks.anatomy import copied
from hooks.edits import EditError
from hooks.verify.inputs import default_inputs
from layerscope.errors import InputError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BOUND = 2e-4
#: One of each kind of row; the others are slow only because they are many.
OFTEN = [
    "ApertusForCausalLM", "BioGptForCausalLM", "Cohere2ForCausalLM", "DiffLlamaForCausalLM", "Gemma4ForCausalLM",
    "GraniteForCausalLM", "NanoChatForCausalLM", "PersimmonForCausalLM", "Phi3ForCausalLM", "AfmoeForCausalLM",
    "DeepseekV3ForCausalLM", "GptOssForCausalLM", "GraniteMoeSharedForCausalLM", "Llama4ForCausalLM",
    "MixtralForCausalLM", "Qwen3MoeForCausalLM mixed", "JambaForCausalLM", "Lfm2MoeForCausalLM", "MambaForCausalLM",
    "NemotronHForCausalLM", "OlmoHybridForCausalLM", "Qwen3NextForCausalLM", "RecurrentGemmaForCausalLM",
    "ZambaForCausalLM", "DebertaV2ForMaskedLM", "DebertaForMaskedLM", "EsmForMaskedLM", "EuroBertForMaskedLM",
    "JinaEmbeddingsV3ForMaskedLM", "MPNetForMaskedLM", "XLNetLMHeadModel", "T5ForConditionalGeneration",
    "BartForConditionalGeneration", "PegasusForConditionalGeneration", "T5GemmaForConditionalGeneration",
    "ViTForImageClassification", "Dinov2Model", "DINOv3ViTModel", "SiglipVisionModel", "WavLMModel",
    "Wav2Vec2BertModel", "WhisperForConditionalGeneration", "CLIPModel", "Gemma3ForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration", "FlaubertWithLMHeadModel", "SqueezeBertForMaskedLM", "ConvNextModel",
    "MllamaForConditionalGeneration", "ViltModel",
]  # fmt: skip


def rows_of_the_docs() -> dict[str, list[str]]:
    lines = [
        line.split("|")
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    return {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for cells in lines
        if cells[1].strip() != "class"
    }


def test_the_docs_have_a_row_for_each_and_none_is_wrong():
    rows = rows_of_the_docs()
    assert set(rows) == set(zoo.FLAGS)
    assert len(rows) >= 140
    assert not [
        name for name, cells in rows.items() if any("**" in c or "WRONG" in c for c in cells)
    ]
    columns = dict(
        zip(("streams", "patterns", "heads", "qkv", "neurons", "experts"), range(3, 9), strict=True)
    )

    def count(*names: str) -> int:
        return sum(any(cells[columns[n]] == "ok" for n in names) for cells in rows.values())

    assert (count("streams"), count("heads"), count("neurons", "experts")) >= (120, 100, 90)


def hold(name: str) -> None:
    model = zoo.build(name)
    inputs = default_inputs(model)
    kept = {
        column: oracle
        for column, oracle in oracles.ORACLES.items()
        if column not in NOT_RETURNED.get(name, ())
    }
    for column, oracle in kept.items():
        for site, error in oracle(model, inputs).items():
            assert error <= BOUND, (name, column, site, error)


#: Models that return no weights of attention, or take no `output_attentions`.
NOT_RETURNED: dict[str, tuple[str, ...]] = {}


@pytest.mark.parametrize("name", OFTEN)
def test_sites_hold_what_the_oracles_say(name):
    hold(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, cells in rows_of_the_docs().items() if cells[1] != "none"]
)
def test_nothing_is_wrong(name):
    verdict = verify(zoo.build(name))
    assert verdict.wrong == []
    assert all(f.reason for f in verdict.unsupported)


@pytest.mark.parametrize(
    ("name", "part", "why"),
    [
        ("BitNetForCausalLM", "attn.hook_z", "norm over all heads"),
        ("XGLMForCausalLM", "attn.hook_pattern", r"\(batch head\)"),
        ("GraniteForCausalLM", "hook_attn_out", "scales it"),
        ("ConvNextModel", "attn.hook_z", "replaces attention"),
        ("DiffLlamaForCausalLM", "attn.hook_z", "difference"),
        ("Llama4ForCausalLM", "mlp.hook_expert_weights", "in custom code"),
        ("MllamaForConditionalGeneration", "cross_attn.hook_k", "picture tiles"),
        ("MambaForCausalLM", "mixer.hook_state", "one kernel"),
    ],
)
def test_a_part_that_cannot_be_read_is_left_out_and_the_reason_is_told(name, part, why):
    model = zoo.build(name)
    assert part not in {Site(site).part for site in sites(model)}
    with pytest.raises(UnknownSite, match=why):
        capture(model, f"blocks.0.{part}")


def without_a_row() -> GroupViTModel:
    """A family that no row and no proved adapter describes."""
    config = GroupViTConfig()
    for part in (config.text_config, config.vision_config):
        part.hidden_size, part.intermediate_size, part.num_attention_heads = 32, 64, 4
    config.text_config.num_hidden_layers = 1
    config.vision_config.depths = [1, 1, 1]
    return GroupViTModel(config)


def test_a_model_without_a_map_is_one_line_of_ours():
    with pytest.raises(UnknownArchitecture, match="use raw paths"):
        sites(without_a_row())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DeepseekV4ForCausalLM", "four parallel streams"),
        ("FlaubertWithLMHeadModel", "are no modules"),
    ],
)
def test_a_stream_that_no_block_is_given_is_not_continued(name, why):
    model = zoo.build(name)
    with pytest.raises(InputError, match=f"cannot be continued from a block: .*{why}"):
        Resume(model, {"input_ids": tiny.ids()})


def test_a_soft_cap_may_stand_in_the_texts_configuration():
    """Gemma 4 caps in its text's configuration; Aya names a scale there and does not use it."""
    for name in ("Gemma4ForConditionalGeneration", "AyaVisionForConditionalGeneration"):
        model = zoo.build(name)
        assert Resume(model, {"input_ids": tiny.ids()}).exact, name


@pytest.mark.parametrize("part", ["k", "v"])
def test_keys_and_values_from_latents_are_rows_of_their_projection(part):
    model = zoo.build("DeepseekV3ForCausalLM")
    twin = copy.deepcopy(model)
    for layer in twin.model.layers:
        attention = layer.self_attn
        own, value = attention.qk_nope_head_dim, attention.v_head_dim
        first = own + value  # head 1
        rows = slice(first, first + own) if part == "k" else slice(first + own, first + own + value)
        attention.kv_b_proj.weight.data[rows] = 0
    ids = tiny.ids(batch=2, pos=6)
    edit = {f"blocks.*.attn.hook_{part}[1]": edits.zero()}
    with torch.no_grad():
        with intervene(model, edit):
            found = model(ids).logits
        torch.testing.assert_close(found, twin(ids).logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found, model(ids).logits, atol=1e-4)
        # the cache holds latents: a step's keys and values are those of the whole text
        with intervene(model, edit):
            said = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        expected = twin.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(said, expected)


def test_hybrids_have_heads_where_they_have_attention():
    model = zoo.build("Qwen3NextForCausalLM")
    assert sites(model, "blocks.*.attn.hook_z") == ["blocks.3.attn.hook_z"]
    assert sites(model, "blocks.*.mixer.hook_out") == [
        f"blocks.{i}.mixer.hook_out" for i in (0, 1, 2)
    ]
    assert anatomy(model).missing["attn.hook_z"].startswith("not in blocks 0, 1, 2")


def test_heads_are_counted_layer_by_layer():
    """MiMo's layers with a window have other key-value heads than its global ones."""
    model = zoo.build("MiMoV2FlashForCausalLM")
    with torch.no_grad(), capture(model, "blocks.*.attn.hook_k") as acts:
        model(input_ids=tiny.ids())
    assert [acts["k", layer].shape[2:] for layer in (0, 1)] == [(2, 8), (4, 8)]
    assert anatomy(model).query_heads("blocks.0.attn.hook_k[1]") == [2, 3]
    assert anatomy(model).query_heads("blocks.1.attn.hook_k[1]") == [1]


def test_disentangled_attention_reads_the_words_and_not_the_positions():
    """With shared keys DeBERTa's key projection runs twice; the site is the call on the words."""
    model = zoo.build("DebertaV2ForMaskedLM")
    calls: list[torch.Tensor] = []
    model.deberta.encoder.layer[0].attention.self.key_proj.register_forward_hook(
        lambda _, __, out: calls.append(out)
    )
    with torch.no_grad(), capture(model, "blocks.0.attn.hook_k") as acts:
        model(input_ids=tiny.ids(pos=5))
    assert len(calls) == 2
    assert calls[0].shape != calls[1].shape
    assert torch.equal(acts["k", 0].flatten(2), calls[0])


def test_router_and_experts_are_what_the_layer_is_given():
    model = zoo.build("Qwen2MoeForCausalLM")
    layer, seen = model.model.layers[0].mlp, {}
    layer.experts.register_forward_pre_hook(lambda _, args: seen.update(enumerate(args)))
    layer.gate.register_forward_pre_hook(lambda _, args: seen.update(router=args[0]))
    parts = ("router_logits", "expert_indices", "expert_weights")
    names = [f"blocks.0.mlp.hook_{part}" for part in parts]
    with torch.no_grad(), capture(model, *names, "blocks.0.mlp.experts.1.hook_post") as acts:
        model(input_ids=tiny.ids(batch=2, pos=5))
    logits, indices, weights = (acts[name] for name in names)
    assert (logits.shape, indices.shape, weights.shape) == ((2, 5, 4), (2, 5, 2), (2, 5, 2))
    torch.testing.assert_close(
        logits.flatten(0, 1), torch.nn.functional.linear(seen["router"], layer.gate.weight)
    )
    assert torch.equal(indices.flatten(0, 1), seen[1])
    assert torch.equal(weights.flatten(0, 1), seen[2])
    idle = ~(indices == 1).any(-1)
    assert not acts["blocks.0.mlp.experts.1.hook_post"][idle].any()
    with pytest.raises(EditError, match="edit hook_expert_weights"):
        intervene(model, {names[0]: edits.zero()})


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize(
    "name", ["MixtralForCausalLM", "GptOssForCausalLM", "NemotronHForCausalLM"]
)
def test_neurons_of_experts_under_each_implementation(name, implementation):
    model = zoo.build(name)
    model.set_experts_implementation(implementation)
    found = oracles.experts(model, default_inputs(model))
    assert found
    assert max(found.values()) <= BOUND


def test_gradients_reach_an_experts_neurons():
    model = zoo.build("MixtralForCausalLM").double()
    model.set_experts_implementation("eager")
    inputs, site = {"input_ids": tiny.ids(batch=1, pos=6)}, "blocks.0.mlp.experts.1.hook_post"
    with capture(model, site, grad=True) as acts:
        model(**inputs).logits.sum().backward()
    gradient, value = acts.grad[site], acts[site]
    where = int(value[0, :, 3].abs().argmax())
    ends = []
    for step in (1e-2, -1e-2):

        def moved(x: torch.Tensor, step: float = step) -> torch.Tensor:
            out = x.clone()
            out[0, where, 3] += step
            return out

        with torch.no_grad(), intervene(model, {site: moved}):
            ends.append(float(model(**inputs).logits.sum()))
    # norms run in float32
    assert float(gradient[0, where, 3]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-2)


def test_a_capture_inside_sees_an_experts_edited_neurons():
    """An edit before the activation is seen behind it: the equation of the expert's own weights."""
    model = zoo.build("MixtralForCausalLM")
    module, number = model.model.layers[0].mlp.experts, 1
    pre, post = (f"blocks.0.mlp.experts.{number}.hook_{end}" for end in ("pre", "post"))
    given: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, args: given.extend(args))
    with (
        torch.no_grad(),
        intervene(model, {pre: lambda x: x + 1.0}),
        capture(model, pre, post) as acts,
    ):
        model(input_ids=tiny.ids(batch=1, pos=6))
    rows, chosen = given[0], (given[1] == number).any(-1)
    gate, up = (rows @ module.gate_up_proj[number].T).chunk(2, dim=-1)
    expected = torch.where(chosen[:, None], torch.nn.functional.silu(gate + 1) * up, 0.0)
    torch.testing.assert_close(acts[post][0], expected)
    torch.testing.assert_close(acts[pre][0], torch.where(chosen[:, None], gate + 1, 0.0))


def test_hooks_on_experts_stay_with_their_block():
    """A copy that is made inside is a plain model; behind the block nothing is left."""
    model, ids = zoo.build("MixtralForCausalLM"), tiny.ids(batch=1, pos=6)
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with intervene(model, {"blocks.0.mlp.experts.*.hook_post": edits.zero()}):
            copied = copy.deepcopy(model)
            assert not torch.equal(model(input_ids=ids).logits, plain)
        assert torch.equal(copied(input_ids=ids).logits, plain)
        assert torch.equal(model(input_ids=ids).logits, plain)
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_decoders_of_pairs_have_names():
    model, ids = zoo.build("BartForConditionalGeneration"), tiny.ids(batch=1, pos=4)
    names = (
        "decoder_blocks.0.hook_resid_post",
        "decoder_blocks.0.cross_attn.hook_pattern",
        "blocks.0.hook_resid_post",
    )
    with torch.no_grad(), capture(model, *names) as acts:
        plain = model(input_ids=ids, decoder_input_ids=ids[:, :2]).logits
    assert acts[names[0]].shape == (1, 2, 32)
    assert acts[names[1]].shape == (1, 4, 2, 4)
    assert acts[names[2]].shape == (1, 4, 32)
    with torch.no_grad(), intervene(model, {f"{names[0]}": edits.zero()}):
        assert not torch.equal(model(input_ids=ids, decoder_input_ids=ids[:, :2]).logits, plain)


def test_blocks_taken_out_of_any_stack_are_no_sites_of_the_model_or_of_its_copy():
    model = zoo.build("BartForConditionalGeneration")
    assert anatomy(model).stacks == {"blocks": 2, "decoder_blocks": 2}
    made = copied(model)
    del model.model.decoder.layers[1]
    assert anatomy(model).stacks == {"blocks": 2, "decoder_blocks": 1}
    assert anatomy(made).stacks == {"blocks": 2, "decoder_blocks": 2}
    del made.model.encoder.layers[1]
    assert anatomy(made).stacks == {"blocks": 1, "decoder_blocks": 2}


def test_the_middle_of_a_decoders_block_is_edited_by_what_its_attention_adds():
    model, ids = zoo.build("T5ForConditionalGeneration"), tiny.ids(batch=1, pos=4)
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :3]}
    shift = torch.linspace(-1, 1, 32)
    added = (
        model.decoder.block[0]
        .layer[0]
        .dropout.register_forward_hook(lambda _, __, out: out + shift)
    )
    with torch.no_grad():
        expected = model(**inputs).logits
        added.remove()
        with intervene(model, {"decoder_blocks.0.hook_resid_mid": lambda x: x + shift}):
            torch.testing.assert_close(model(**inputs).logits, expected)
    with pytest.raises(EditError, match="hook_cross_attn_out"):
        intervene(model, {"decoder_blocks.0.hook_resid_mid_cross": edits.zero()})


def test_the_middle_of_a_state_spaces_block_is_edited_by_what_it_adds():
    model, ids, shift = (
        zoo.build("Lfm2ForCausalLM"),
        tiny.ids(batch=1, pos=5),
        torch.linspace(-1, 1, 32),
    )
    added = model.model.layers[0].conv.register_forward_hook(lambda _, __, out: out + shift)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        added.remove()
        with intervene(model, {"blocks.0.hook_resid_mid": lambda x: x + shift}):
            torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_a_stream_that_is_halved_before_the_final_norm_is_not_wrong():
    model = zoo.build("RwkvForCausalLM")
    model.config.rescale_every = model.config.num_hidden_layers // 2
    assert verify(model, only=["chain of blocks", "norm and head", "resumed"]).wrong == []


def test_towers_have_stacks_of_their_own():
    stacks = anatomy(zoo.build("LlavaForConditionalGeneration")).stacks
    assert stacks == {"blocks": 2, "vision_blocks": 2}
    model = zoo.build("CLIPModel")
    with (
        torch.no_grad(),
        capture(model, "vision_blocks.1.hook_resid_post", "blocks.1.hook_resid_post") as acts,
    ):
        out = model(**default_inputs(model))
    assert torch.equal(
        acts["vision_blocks.1.hook_resid_post"], out.vision_model_output.last_hidden_state
    )
    normed = model.text_model.final_layer_norm(acts["blocks.1.hook_resid_post"])
    assert torch.equal(normed, out.text_model_output.last_hidden_state)
