"""What a position means: text positions, read where the cache is, or refused in one line."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
import transformers as hf
from torch import nn

from hooks import ActivationStore, EditError, Reference, capture, edits, intervene

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
TEXT, NEXT = (
    torch.randint(3, 50, (1, 7), generator=torch.Generator().manual_seed(0)),
    torch.tensor([[11]]),
)
VECTOR = 3 * torch.randn(32, generator=torch.Generator().manual_seed(1))
WITH_PADDING = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])


def wide(model: nn.Module, std: float = 0.2):
    """Weights large enough that edits move the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.normal_(0, std, generator=generator)
    return model.eval()


STATES = {
    "mamba": (
        lambda: hf.MambaForCausalLM(hf.MambaConfig(**SMALL, state_size=4, time_step_rank=2)),
        "module:backbone.layers.1:output",
        "cache_params",
    ),
    "rwkv": (
        lambda: hf.RwkvForCausalLM(
            hf.RwkvConfig(**SMALL, attention_hidden_size=32, intermediate_size=48)
        ),
        "module:rwkv.blocks.1:output",
        "state",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_does_not_tell_its_length_is_counted_or_refused(name):
    build, site, state = STATES[name]
    model = wide(build(), 0.1)
    what = {site: edits.add(VECTOR).at([1, 7])}
    with torch.no_grad():
        with intervene(model, what):
            past = model(TEXT, use_cache=True)[state]
            found = model(NEXT, **{state: past}).logits[:, -1]
            expected = model(torch.cat([TEXT, NEXT], 1), use_cache=False).logits[:, -1]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        past = model(TEXT, use_cache=True)[state]
        with (
            pytest.raises(EditError, match="positions are not known: the model was given a state"),
            intervene(model, what),
        ):
            model(NEXT, **{state: past})
        with intervene(model, {site: edits.add(VECTOR)}):  # everywhere needs no position
            model(NEXT, **{state: past})


def test_the_encoder_of_a_pair_is_read_inside_generate():
    config = hf.T5Config(
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_heads=4,
        num_layers=2,
        vocab_size=50,
        decoder_start_token_id=0,
    )
    model = wide(hf.T5ForConditionalGeneration(config))
    rows = torch.cat([TEXT, TEXT.flip(1)]) * WITH_PADDING
    with torch.no_grad(), intervene(model, {"blocks.1.hook_resid_post": edits.add(VECTOR).at(-1)}):
        out = model.generate(
            rows, attention_mask=WITH_PADDING, max_new_tokens=3, do_sample=False, eos_token_id=None,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        for row, mask, text, found in zip(
            rows, WITH_PADDING, out.sequences, torch.stack(out.logits, 1), strict=True
        ):
            alone = model(
                input_ids=row[mask.bool()][None], decoder_input_ids=text[None, :-1]
            ).logits[0]
            torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def test_a_raw_site_of_a_decoder_counts_the_decoder_s_tokens():
    config = hf.BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=50, decoder_start_token_id=1, max_position_embeddings=32,
        forced_eos_token_id=None,
    )  # fmt: skip
    model = wide(hf.BartForConditionalGeneration(config))
    rows = torch.cat([TEXT, TEXT.flip(1)]) * WITH_PADDING
    with (
        torch.no_grad(),
        intervene(model, {"module:model.decoder.layers.0:output": edits.add(VECTOR).at(1)}),
    ):
        out = model.generate(
            rows, attention_mask=WITH_PADDING, max_new_tokens=3, do_sample=False, eos_token_id=None, num_beams=1,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        whole = model(
            input_ids=rows, attention_mask=WITH_PADDING, decoder_input_ids=out.sequences[:, :-1]
        ).logits
    torch.testing.assert_close(torch.stack(out.logits, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_store_holds_a_row_for_each_token_of_the_text_however_the_model_is_called(tmp_path, side):
    model = tiny.model("llama")
    mask = WITH_PADDING if side == "right" else WITH_PADDING.flip(1)
    rows = tiny.ids(2, 7) * mask
    with torch.no_grad(), ActivationStore(tmp_path / "store") as store:
        for call in (
            lambda: model(rows, mask),
            lambda: model.forward(rows, mask),
            lambda: model(rows, attention_mask=mask),
        ):
            with capture(model, "blocks.1.hook_resid_post", to=store):
                call()
        store.flush()
        assert store.n_rows == 3 * 11
        assert store.index[:11, 3].tolist() == [*range(7), *range(4)]


def test_virtual_tokens_are_no_tokens_of_the_text(tmp_path):
    peft = pytest.importorskip("peft")
    site, mask = "blocks.1.hook_resid_post", WITH_PADDING.flip(1)
    rows = tiny.ids(2, 7) * mask
    for kind in (peft.PromptTuningConfig, peft.PrefixTuningConfig):
        model = peft.get_peft_model(
            tiny.model("llama"), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
        ).eval()
        reference = Reference.of(model, site, batches=[{"input_ids": rows, "attention_mask": mask}])
        assert reference.n_tokens == 11
        with torch.no_grad(), ActivationStore(tmp_path / kind.__name__) as store:
            with capture(model, site, to=store):
                model(input_ids=rows, attention_mask=mask)
            store.flush()
            assert store.n_rows == 11
            with capture(model, site) as plain:
                model(input_ids=TEXT)
            with intervene(model, {site: edits.add(VECTOR).at(0)}), capture(model, site) as acts:
                model(input_ids=TEXT)
        moved = (acts[site] - plain[site]).abs().amax((0, 2)).nonzero().flatten().tolist()
        assert moved == [plain[site].shape[1] - 7]


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_a_patch_of_the_last_stream_gives_the_other_texts_logits_under_virtual_tokens(kind):
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(tiny.model("llama"), config).eval()
    site, other = "blocks.1.hook_resid_post", TEXT.flip(1)
    with torch.no_grad():
        with capture(model, site) as acts:
            expected = model(input_ids=other).logits
        with intervene(model, {site: edits.patch(acts)}):
            found = model(input_ids=TEXT).logits
        assert not torch.allclose(found, model(input_ids=TEXT).logits)
    torch.testing.assert_close(found, expected)


def test_padding_is_told_from_a_mask_of_queries_and_keys():
    """Left padding in a mask ``batch 1 query key``, as `generate` makes it for a static cache;
    the text alone is the oracle.
    """
    model = wide(
        hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, intermediate_size=48, num_attention_heads=4))
    )
    rows = torch.cat([torch.zeros(1, 3, dtype=torch.long), TEXT], 1)
    seen = torch.ones(10, 10, dtype=torch.bool).tril()[None, None] & (torch.arange(10) >= 3)
    at = (torch.arange(10) - 3).clamp(min=0)[None]
    with (
        torch.no_grad(),
        intervene(model, {"blocks.1.hook_resid_post": edits.add(VECTOR).at([0, -2])}),
    ):
        found = model(input_ids=rows, attention_mask=seen, position_ids=at).logits[:, 3:]
        torch.testing.assert_close(found, model(TEXT).logits, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_placed_is_refused_in_one_line():
    model, rows = tiny.model("llama"), tiny.ids(2, 7)
    site = "blocks.1.hook_resid_post"
    with torch.no_grad():
        with pytest.raises(EditError, match="expected an attention mask of \\[2, 7\\]"), intervene(
            model, {site: edits.zero().at(0)}
        ):  # fmt: skip
            model(rows, attention_mask=torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
        for wrong, message in (
            (
                edits.zero().at(torch.ones(2, 9, dtype=torch.bool)),
                "expected a mask over 7 positions, got 9",
            ),
            (edits.patch(torch.zeros(2, 9, 32)), "expected a patch of 7 positions, got 9"),
            (edits.zero().at(-8), "expected positions below 7, got -8"),
        ):
            with pytest.raises(EditError, match=message), intervene(model, {site: wrong}):
                model(rows)


def test_what_comes_later_is_no_error_and_what_never_comes_is_said():
    model, site = tiny.model("llama"), "blocks.1.hook_resid_post"
    options = {
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(TEXT),
    }
    with intervene(model, {site: edits.zero().at(9)}), capture(model, site) as acts:
        model.generate(TEXT, max_new_tokens=5, **options)
    assert [bool(value.eq(0).all()) for value in acts.all(site)[1:]] == [False, False, True, False]
    with (
        pytest.warns(UserWarning, match="edits changed nothing"),
        intervene(model, {site: edits.zero().at(9)}),
    ):
        model.generate(TEXT, max_new_tokens=2, **options)


def test_an_edit_without_a_place_in_a_forward_is_not_computed():
    model, site, calls = tiny.model("llama"), "blocks.1.attn.hook_pattern", []

    def count(x):
        calls.append(x.shape[2])
        return x * 0.5

    options = {
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(TEXT),
    }
    with intervene(model, {site: edits.function(count).at(2)}):
        model.generate(TEXT, max_new_tokens=4, **options)
    assert calls == [7]


def test_beams_share_the_mask_and_the_draw_of_their_text():
    """Two texts, three beams each: rows 0 to 2 are the first text's."""
    model, site = tiny.model("llama"), "blocks.1.hook_mlp_out"
    rows = tiny.ids(2, 7)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0, 2] = mask[1, 5] = True
    reference = Reference.of(model, site, batches=[{"input_ids": tiny.ids(4, 16, seed=3)}])
    with capture(model, site) as own:
        model(tiny.ids(4, 16, seed=3))
    for cached in (True, False):
        options = {
            "num_beams": 3,
            "max_new_tokens": 3,
            "pad_token_id": 0,
            "eos_token_id": None,
            "use_cache": cached,
        }
        with intervene(model, {site: edits.zero().at(mask)}), capture(model, site) as acts:
            model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=False, **options)
        for value in acts.all(site)[:: 1 if not cached else 9]:
            assert torch.equal(value[:, :7].eq(0).all(-1), mask.repeat_interleave(3, 0))
        with intervene(model, {site: edits.resample(reference)}), capture(model, site) as acts:
            model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=False, **options)
        first = [
            (own[site][:, 0] == row).all(-1).nonzero().item() for row in acts.all(site)[0][:, 0]
        ]
        assert first[0] == first[1] == first[2]
        assert first[3] == first[4] == first[5]


def test_resampling_behind_a_cache_needs_texts_that_keep_their_draw():
    model, site = tiny.model("llama"), "blocks.1.hook_mlp_out"
    mixed = {
        "input_ids": tiny.ids(2, 9),
        "attention_mask": torch.tensor([[1] * 9, [1] * 7 + [0] * 2]),
    }
    reference = Reference.of(model, site, batches=[mixed])
    with pytest.raises(ValueError, match="expected reference texts of "
    "at least 8 tokens"), intervene(
        model, {site: edits.resample(reference)}
    ):  # fmt: skip
        model.generate(
            TEXT,
            max_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
            attention_mask=torch.ones_like(TEXT),
        )


# ---------------------------------------------------------------- attention

SCORES, PATTERN = "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"
CAUSAL = {
    "gpt2": lambda: tiny.model("gpt2"),
    "openai-gpt": lambda: hf.OpenAIGPTLMHeadModel(
        hf.OpenAIGPTConfig(n_layer=2, n_embd=32, n_head=4, vocab_size=100)
    ),
    "llama": lambda: tiny.model("llama"),
    "neox": lambda: tiny.model("neox"),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_looks_back_only_whatever_is_done_to_its_scores(name, attention):
    model = wide(CAUSAL[name]())
    if name != "openai-gpt":  # it has one attention, which adds -10,000
        model.set_attn_implementation(attention)
    other = torch.cat([TEXT[:, :-1], (TEXT[:, -1:] + 1) % 50], 1)
    for edit in (
        edits.zero(),
        edits.scale(0.0),
        edits.scale(-1.0),
        edits.function(torch.ones_like),
    ):
        with torch.no_grad(), intervene(model, {SCORES: edit}), capture(model, SCORES) as acts:
            logits = [model(ids).logits[:, :-1] for ids in (TEXT, other)]
        torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
        hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
        assert all((value == -math.inf)[..., hidden].all() for value in acts.all(SCORES))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_stays_hidden_from_an_encoder_whose_scores_are_edited(attention):
    model = wide(tiny.model("bert"))
    model.set_attn_implementation(attention)
    rows = torch.cat([TEXT, TEXT.flip(1)])
    with torch.no_grad(), intervene(model, {SCORES: edits.zero()}):
        found = model(rows, attention_mask=WITH_PADDING).logits[1, :4]
        torch.testing.assert_close(found, model(rows[1:, :4]).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", [SCORES, PATTERN])
@pytest.mark.parametrize("masked", [False, True])
def test_one_new_token_of_grouped_heads_has_the_patterns_of_eager_attention(site, masked):
    model, found = tiny.model("llama"), {}
    rows, mask = tiny.ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    if masked:
        mask[1, :3] = 0
    what = {SCORES + "[1]": edits.knockout(keys=[1]), PATTERN + "[2]": edits.scale(0.5)}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with (
            torch.no_grad(),
            intervene(model, what),
            capture(model, site, "blocks.1.attn.hook_z") as acts,
        ):
            past = model(rows[:, :8], attention_mask=mask[:, :8]).past_key_values
            model(rows[:, 8:], attention_mask=mask, past_key_values=past)
        found[attention] = acts.all(site)[-1], acts.all("blocks.1.attn.hook_z")[-1]
    for one, two in zip(found["sdpa"], found["eager"], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert found["sdpa"][0].shape == (2, 4, 1, 9)


def test_a_sink_is_no_key():
    """GPT-OSS: its own attentions, and a softmax over the scores and the learned sinks,
    are the oracles.
    """
    config = hf.GptOssConfig(
        **SMALL, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        num_experts_per_tok=1, sliding_window=64,
    )  # fmt: skip
    model = wide(hf.GptOssForCausalLM(config))
    sinks = torch.tensor([1.0, -1.0, 0.5, 2.0])
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.copy_(sinks)
        with capture(model, PATTERN, SCORES) as acts:
            attentions = model(TEXT, output_attentions=True).attentions
        torch.testing.assert_close(acts[PATTERN], attentions[1])
        both = torch.cat([acts[SCORES], sinks.view(1, 4, 1, 1).expand(1, 4, 7, 1)], -1)
        torch.testing.assert_close(both.softmax(-1)[..., :-1], attentions[1], atol=1e-6, rtol=1e-4)
        with (
            intervene(model, {SCORES: edits.knockout(keys=[-1], queries=[-1])}),
            capture(model, PATTERN) as cut,
        ):
            model(TEXT)
    expected = acts[PATTERN][:, :, -1].clone()
    last = expected[..., -1:].clone()
    expected[..., -1] = 0
    torch.testing.assert_close(cut[PATTERN][:, :, -1], expected / (1 - last), atol=1e-6, rtol=1e-4)
