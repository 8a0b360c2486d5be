"""The doctor: no fault where there is none, and for each check a fault that it must find."""

from __future__ import annotations

import copy
import functools
import sys
import types
from dataclasses import replace

import pytest
import tiny
import torch
import zoo
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hooks import (
    UnsoundModel,
    anatomy,
    attention,
    capture,
    edit,
    edits,
    forwards,
    positions,
    resume,
)
from hooks import anatomy as anatomy_of
from hooks import verify as examine
from hooks.padding import Padding, Policy
from hooks.verify import CHECKS
from hooks.verify.running import Running, Trial
from layerscope.errors import UseError

QUICK = [check.name for check in CHECKS if check.quick]
FAULTS: dict[str, str] = {}  # of each check: the test whose fault it finds
NOTES = ("bfloat16", "float16", "weights")  # what these find is said, and is no fault of the map
seen: set[str] = set()


def verify(model, *args, **more):
    """The doctor; which checks found something is kept for `finds`."""
    verdict = examine(model, *args, **more)
    seen.update(f.check for f in verdict if f.status == "WRONG" or (f.check in NOTES and f.reason))
    return verdict


def finds(*checks):
    """Says of a test that its faults are found by these checks; at its end they must have been."""

    def of(test):
        FAULTS.update(dict.fromkeys(checks, test.__name__))

        @functools.wraps(test)
        def checked(*args, **kwargs):
            seen.clear()
            test(*args, **kwargs)
            assert set(checks) <= seen

        return checked

    return of


def wrong(model, check, **more):
    """The sites at which a check is WRONG."""
    return [f.site for f in verify(model, only=[check], **more).wrong]


def remap(model, **changed):
    """A model whose map is wrong: site -> another place (a function of its own place)."""
    import sys

    found = anatomy_of(model)
    places = dict(found.places)
    for name, change in changed.items():
        part = name.replace("__", ".")
        for layer in range(found.n_layers):
            site = f"blocks.{layer}.{part}" if not part.startswith("ln_final") else part
            places[site] = change(places, site, layer)
    sys.modules["hooks.anatomy"]._CACHE[model] = replace(found, places=places)
    return model


def flipped_heads(places, site, layer):
    place = places[site]
    return replace(place, view=lambda raw: place.view(raw).flip(2))


def test_nothing_is_wrong_with_a_model_that_is_mapped_right():
    model = tiny.model("llama")
    before = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        verdict = verify(model)
        assert torch.equal(torch.get_rng_state(), state)
    assert verdict.wrong == []
    assert verdict.require() is verdict
    assert all(f.reason for f in verdict.unsupported)
    assert {c.name for c in CHECKS} - {f.check for f in verdict} <= {
        "own neurons",
        "head = columns",
        "weights",
        "experts",
    }
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert model.config._attn_implementation == "sdpa"


def test_the_quick_part_is_those_checks():
    verdict = verify(tiny.model("gpt2"), quick=True)
    assert set(verdict.checks()) <= set(QUICK)
    assert verdict.status == "OK"
    with pytest.raises(ValueError, match="no check 'sums': expected one of evaluation mode"):
        verify(tiny.model("gpt2"), only=["sums"])


# -- a fault for each check


@finds("evaluation mode")
def test_dropout_and_noise():
    model = tiny.model("gpt2")
    with pytest.raises(
        UnsoundModel,
        match=r"dropout is on in \d+ modules \(the first: transformer.drop\): call model.eval",
    ):
        verify(model.train(), quick=True).require()
    model = tiny.model("gpt2")
    model.transformer.ln_f.register_forward_hook(
        lambda m, a, out: out + 0.01 * torch.randn_like(out)
    )
    assert wrong(model, "evaluation mode") == [""]


@finds("same outputs")
def test_a_model_that_behaves_otherwise_when_watched():
    class Shy(nn.Module):
        def forward(self, x):
            return x + 1e-4 * len(self._forward_hooks)

    model = tiny.model("gpt2")
    model.transformer.h[0].mlp.dropout = Shy()
    model.transformer.h[0].mlp.act.register_forward_hook(lambda m, a, out: None)
    assert wrong(model, "same outputs") == []
    remap(model, hook_mlp_out=lambda p, s, layer: replace(p[s], path="transformer.h.0.mlp.dropout"))
    assert wrong(model, "same outputs") == [""]


@finds("fires")
def test_a_hook_that_never_fires():
    model = tiny.model("gpt2")
    model.unused = nn.Linear(2, 2)
    remap(
        model, hook_mlp_out=lambda p, s, layer: replace(p[s], path="unused" if layer else p[s].path)
    )
    assert wrong(model, "fires") == ["blocks.1.hook_mlp_out"]


@finds("residual sums")
def test_the_wrong_side_of_a_norm():
    model = tiny.model("gemma2")
    remap(
        model,
        hook_attn_out=lambda p, s, layer: replace(p[s], path=f"model.layers.{layer}.self_attn"),
    )
    assert wrong(model, "residual sums") == ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"]
    model = tiny.model("bert")  # a norm stands behind the sum here: the sum must be found before it
    remap(
        model,
        hook_mlp_out=lambda p, s, layer: replace(p[s], path=f"bert.encoder.layer.{layer}.output"),
    )
    assert wrong(model, "residual sums") == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@finds("chain of blocks")
def test_something_between_the_blocks():
    model = tiny.model("gpt2")
    model.transformer.h[1].register_forward_pre_hook(lambda m, args: (args[0] * 1.1, *args[1:]))
    assert wrong(model, "chain of blocks") == ["blocks.1.hook_resid_pre"]


@finds("experts")
def test_neurons_of_another_expert():
    import sys

    model = tiny.model("mixtral")
    found = anatomy_of(model)
    first, second = (f"blocks.0.mlp.experts.{i}.hook_post" for i in (0, 1))
    swapped = {**found.places, first: found.places[second], second: found.places[first]}
    sys.modules["hooks.anatomy"]._CACHE[model] = replace(found, places=swapped)
    assert wrong(model, "experts") == [first]


@finds("attention rows")
def test_a_pattern_that_is_none():
    model = tiny.model("llama")
    remap(model, attn__hook_pattern=lambda p, s, layer: replace(p[s], end="scores"))
    assert len(wrong(model, "attention rows")) == 2


@finds("attention mask")
def test_a_missing_causal_mask():
    model = tiny.model("gpt2")
    model.transformer.h[1].attn.is_causal = False
    assert wrong(model, "attention mask") == ["", "blocks.1.attn.hook_pattern"]


@finds("pattern x v", "own heads", "head = columns")
def test_swapped_heads():
    """Of the values, by pattern x v; of queries and keys, by what they move; of z,
    by the output projection's columns.
    """
    assert len(wrong(remap(tiny.model("llama"), attn__hook_v=flipped_heads), "pattern x v")) == 2
    assert len(wrong(remap(tiny.model("llama"), attn__hook_q=flipped_heads), "own heads")) == 2
    assert len(wrong(remap(tiny.model("gpt2"), attn__hook_k=flipped_heads), "own heads")) == 2
    assert len(wrong(remap(tiny.model("gpt2"), attn__hook_z=flipped_heads), "head = columns")) == 2
    assert wrong(
        remap(tiny.model("gpt2"), attn__hook_q=lambda p, s, i: p[s.replace("_q", "_k")]),
        "own heads",
    )


@finds("projections")
def test_a_wrong_projection():
    model = tiny.model("llama")
    remap(model, hook_attn_out=lambda p, s, layer: p[s.replace("attn_out", "mlp_out")])
    assert wrong(model, "projections") == ["blocks.0.hook_attn_out", "blocks.1.hook_attn_out"]
    model = tiny.model("bert")
    remap(
        model,
        mlp__hook_post=lambda p, s, layer: replace(
            p[s], path=f"bert.encoder.layer.{1 - layer}.output.dense"
        ),
    )
    assert wrong(model, "projections") == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


@finds("norm and head")
def test_the_final_norm_on_its_wrong_side():
    model = tiny.model("llama")
    remap(model, ln_final__hook_normalized=lambda p, s, layer: replace(p[s], end="input"))
    assert wrong(model, "norm and head") == ["ln_final.hook_normalized"]


@finds("batched")
def test_texts_that_see_each_other():
    model = tiny.model("gpt2")
    model.transformer.h[0].mlp.register_forward_hook(
        lambda m, a, out: out - 0.1 * out.mean(0, keepdim=True)
    )
    assert "blocks.0.hook_mlp_out" in (found := wrong(model, "batched"))
    assert "blocks.0.attn.hook_z" not in found


@finds("hooks gone")
def test_hooks_that_stay():
    class Sticky(nn.Linear):
        def register_forward_hook(self, hook, **more):
            handle = super().register_forward_hook(hook, **more)
            handle.remove = lambda: None
            return handle

    model = tiny.model("llama")
    projection = model.model.layers[0].self_attn.q_proj
    model.model.layers[0].self_attn.q_proj = Sticky(32, 32, bias=False)
    model.model.layers[0].self_attn.q_proj.load_state_dict(projection.state_dict())
    found = verify(model, only=["hooks gone"]).wrong
    assert "hooks or modes are left after a whole forward" in found[0].reason


@finds("padding")
def test_a_left_pad_bug():
    model = tiny.model("gpt2")
    # on the left GPT-2 needs position ids
    careless = Padding(Policy(True), Policy(True), causal=True)
    found = wrong(model, "padding", padding=careless)
    assert "" in found
    assert "blocks.0.hook_resid_pre" in found
    assert wrong(model, "padding") == []
    model.transformer.h[1].attn.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    (left,) = (f for f in verify(model, only=["padding"]).unsupported)
    assert "padding on the left changes this model's vectors" in left.reason


@finds("edits")
def test_an_edit_that_goes_nowhere():
    model = tiny.model("gpt2")
    model.side = nn.Identity()
    model.transformer.h[0].mlp.register_forward_hook(
        lambda m, a, out: model.side(out.clone()) * 0 + out
    )
    remap(
        model,
        hook_mlp_out=lambda p, s, layer: replace(p[s], path="side" if not layer else p[s].path),
    )
    assert wrong(model, "edits") == ["blocks.0.hook_mlp_out"]


@finds("own neurons")
def test_mixed_up_neurons():
    model = tiny.model("gpt2")
    remap(model, mlp__hook_pre=lambda p, s, layer: replace(p[s], view=lambda raw: raw.roll(3, -1)))
    assert len(wrong(model, "own neurons")) == 2


@finds("gradients")
def test_a_wrong_gradient():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    class Wrong(nn.Module):
        def forward(self, x):
            return Doubled.apply(x)

    model = tiny.model("gpt2")
    model.transformer.h[1].mlp.dropout = Wrong()
    found = wrong(model, "gradients")
    assert "blocks.1.mlp.hook_post" in found
    assert "blocks.1.hook_mlp_out" not in found
    assert "blocks.0.mlp.hook_post" not in found


def test_a_model_that_answers_otherwise_with_eager_attention_is_no_fault_of_the_map():
    """PaliGemma hides what follows a token of a text alone under sdpa,
    and nothing under eager attention.
    """
    model = zoo.build("PaliGemmaForConditionalGeneration")
    given = {"input_ids": tiny.ids(), "attention_mask": torch.ones_like(tiny.ids())}
    (found,) = verify(model, given, only=["eager attention"]).of("eager attention")
    assert found.status == "UNSUPPORTED"
    assert "without any hook" in found.reason


@finds("eager attention")
def test_eager_attention_that_is_read_otherwise(monkeypatch):
    whole = attention.AttentionWatch._softmax
    monkeypatch.setattr(
        attention.AttentionWatch,
        "_softmax",
        lambda watch, func, args, more: whole(watch, func, (1.5 * args[0], *args[1:]), more),
    )
    assert "blocks.0.attn.hook_attn_scores" in wrong(tiny.model("llama"), "eager attention")


def test_a_state_beside_a_static_cache_hides_no_padding():
    """The mask of a layer without keys is left out behind the first tokens:
    that says nothing of padding.
    """
    model = zoo.build("JambaForCausalLM")
    assert wrong(model, "generate") == []


# -- broken instruments: the model is right, and what reads or edits it is not


@finds("cached steps", "generate")
def test_edits_that_do_not_know_what_a_cache_holds(monkeypatch):
    monkeypatch.setattr(forwards, "cached_columns", lambda past, layer=0: 0)
    model = tiny.model("llama")
    assert "blocks.0.hook_resid_post" in wrong(model, "cached steps")
    assert "blocks.0.hook_resid_post" in wrong(model, "generate")
    assert wrong(model, "resumed") == []


@finds("cached steps")
def test_positions_and_keys_that_count_padding(monkeypatch):
    monkeypatch.setattr(positions.Where, "_covering", lambda self, batch, end: None)
    found = wrong(tiny.model("llama"), "cached steps")
    assert found == ["blocks.0.hook_resid_post", "blocks.1.attn.hook_attn_scores"]


@finds("cached steps")
def test_a_knockout_that_ignores_padding(monkeypatch):
    """It hides columns, wherever the text begins."""

    def cut(queries, keys):
        def apply(scores, where):
            out = scores.clone()
            out[..., keys] = -torch.inf
            return torch.where(out.isneginf().all(-1, keepdim=True), scores, out)

        return apply

    real = edits.knockout

    def knockout(queries=None, keys=None):
        return replace(real(queries, keys), apply=cut(queries, keys))

    monkeypatch.setattr(edits, "knockout", knockout)
    assert wrong(tiny.model("llama"), "cached steps") == ["blocks.1.attn.hook_attn_scores"]


@finds("static cache")
def test_a_static_cache_that_is_taken_for_an_empty_one(monkeypatch):
    real = forwards.cached_columns

    def columns(past, layer=0):
        return 0 if type(past).__name__ == "StaticCache" else real(past, layer)

    monkeypatch.setattr(forwards, "cached_columns", columns)
    model = tiny.model("llama")
    assert wrong(model, "cached steps") == []
    assert "blocks.0.hook_resid_post" in wrong(model, "static cache")


@finds("positional", "PEFT")
def test_calls_that_are_read_off_the_keywords_of_the_outermost_module(monkeypatch):
    pytest.importorskip("peft")
    real = forwards.bound

    def read(module, args, kwargs):
        # position ids without their mask would be refused
        return real(module, (), {**kwargs, "position_ids": None})

    monkeypatch.setattr(forwards, "bound", read)
    monkeypatch.setattr(forwards, "_owners", lambda model, paths: ([""], []))
    model = tiny.model("llama")
    assert wrong(model, "cached steps") == []
    assert "blocks.0.hook_resid_post" in wrong(model, "positional")
    assert "blocks.0.hook_resid_post" in wrong(model, "PEFT")


@finds("autocast")
def test_an_erasure_that_autocast_rounds(monkeypatch):
    monkeypatch.setattr(edit, "_has_autocast", lambda device: False)
    assert wrong(tiny.model("llama"), "autocast") == ["blocks.1.hook_resid_post"]


@finds("score masks")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_edited_scores_that_lose_their_mask(monkeypatch, kernel):
    monkeypatch.setattr(attention, "_as_masked", lambda edited, given: edited)
    model = tiny.model("llama")
    model.set_attn_implementation(kernel)
    assert len(wrong(model, "score masks")) == 2


@finds("resumed")
def test_a_resumed_block_that_no_edit_reaches(monkeypatch):
    real = resume.Resume.run

    def unedited(self, layer, residual, *args, **more):
        handles = [(m, m._forward_hooks.copy()) for m in self.model.modules()]
        for module, _ in handles:
            module._forward_hooks.clear()
        try:
            return real(self, layer, residual, *args, **more)
        finally:
            for module, hooks in handles:
                module._forward_hooks.update(hooks)

    monkeypatch.setattr(resume.Resume, "run", unedited)
    assert wrong(tiny.model("llama"), "resumed") == ["blocks.0.hook_resid_pre"]


@finds("resumed")
def test_a_block_with_a_memory():
    """Between the first and the last block, which are run again before anything is resumed."""
    model, calls = (
        GPT2LMHeadModel(
            GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=100, n_positions=64)
        ).eval(),
        [],
    )
    model.transformer.h[1].register_forward_hook(
        lambda m, a, out: (calls.append(1), out * (1 + 0.1 * len(calls)))[1]
    )
    assert "blocks.1.hook_resid_pre" in wrong(model, "resumed")


def test_blocks_that_do_not_give_again_what_they_gave_are_run_whole_and_said_to_be():
    model, calls = tiny.model("gpt2"), []
    model.transformer.h[0].register_forward_hook(
        lambda m, a, out: (calls.append(1), out * (1 + 0.1 * len(calls)))[1]
    )
    (found,) = verify(model, only=["resumed"]).of("resumed")
    assert found.status == "UNSUPPORTED"
    assert "a block gives another output" in found.reason


@finds("KV cache")
def test_a_cache_that_forgets_where_it_is():
    model = tiny.model("gpt2")
    model.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: (
            args,
            {**kwargs, "position_ids": torch.arange(args[0].shape[1])[None]},
        ),
        with_kwargs=True,
    )
    assert wrong(model, "KV cache") == ["blocks.1.hook_resid_post", ""]


@finds("float16")
def test_half_precision_that_overflows():
    model = tiny.model("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight.mul_(3e6)
    found = verify(model, only=["float16", "bfloat16"])
    assert not found.wrong
    assert any("unreliable in float16" in f.reason for f in found.unsupported)
    assert {f.status for f in found.of("bfloat16") if f.site == "blocks.0.hook_resid_pre"} == {"OK"}


@finds("bfloat16")
def test_another_way_in_half_precision():
    model = tiny.model("gpt2")
    model.transformer.h[1].mlp.register_forward_hook(
        lambda m, a, out: -out if out.dtype == torch.bfloat16 else out
    )
    found = {f.site: f.status for f in verify(model, only=["bfloat16"])}
    assert found["blocks.0.hook_mlp_out"] == "OK"
    assert found["blocks.1.hook_mlp_out"] == "UNSUPPORTED"


class Int8(nn.Module):
    """A layer whose weights are held in 8 bits."""

    def __init__(self, dense):
        super().__init__()
        weight = dense.weight.detach()
        self.scale = weight.abs().max() / 127
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return x @ (self.weight.to(x) * self.scale).T


@finds("weights")
def test_tied_and_quantised_weights_are_noticed():
    model = tiny.model("gpt2")
    notes = [f.reason for f in verify(model, only=["weights"])]
    assert notes == [
        (
            "transformer.wte.weight and lm_head.weight are one tensor: "
            "changing one changes the others"
        )
    ]

    model = tiny.model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = Int8(layer.mlp.down_proj)
        layer.self_attn.o_proj = Int8(layer.self_attn.o_proj)
    verdict = verify(
        model, only=["residual sums", "projections", "gradients", "head = columns", "weights"]
    )
    assert not verdict.wrong
    assert any(
        "quantised layers: 2 Int8" in f.reason or "4 Int8" in f.reason
        for f in verdict.of("weights")
    )
    assert "is no plain matrix" in verdict.of("head = columns")[0].reason


class RoundedTogether(Int8):
    """One that rounds its inputs, too, by the largest of the whole batch."""

    def forward(self, x):
        step = x.abs().max() / 100
        return (x / step).round() * step @ (self.weight.to(x) * self.scale).T


def test_a_models_own_batch_noise_is_no_fault():
    """Bounds allow for what plain hooks see; a fault beyond that is still one."""
    model = tiny.model("llama")
    model.model.layers[0].mlp.down_proj = RoundedTogether(model.model.layers[0].mlp.down_proj)
    ids = torch.tensor([[5, 9, 11, 3, 7, 2], [8, 4, 6, 12, 10, 30], [21, 22, 23, 24, 25, 26]])
    blocks = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda m, a, out: blocks.append(out))
    with torch.no_grad():
        model(ids), model(ids[2:])
    n = len(model.model.layers)
    errors = [
        float(((b[0] - a[2]).norm(dim=-1) / a[2].norm(dim=-1)).max())
        for a, b in zip(blocks[:n], blocks[n:], strict=True)
    ]
    assert max(errors) > 1e-3  # the bound without it
    for layer in model.model.layers:
        layer._forward_hooks.clear()
    only = ["attention mask", "batched", "padding", "weights"]
    verdict = verify(model, {"input_ids": ids}, only=only)
    assert not verdict.wrong, verdict.wrong
    assert any("bounds allow for it" in f.reason for f in verdict.of("weights"))


def test_gradients_that_stop_at_packed_layers_are_refused(monkeypatch):
    """bitsandbytes packs 4-bit layers on some CPUs; their product is then outside autograd."""
    model = tiny.model("llama")
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    weight = model.model.layers[0].mlp.down_proj.weight
    weight.quant_state = types.SimpleNamespace(packing_format_for_cpu=True)
    with pytest.raises(UseError, match="gradients stop at 1 4-bit layers"):
        capture(model, "blocks.0.hook_resid_post", grad=True)
    verdict = verify(model, only=["gradients", "weights"])
    assert not verdict.wrong
    assert "gradients stop" in verdict.of("gradients")[0].reason


def test_parts_of_which_a_process_has_some_are_not_listed():
    """Under tensor parallelism heads and neurons are split; the stream is whole on every rank."""
    model = tiny.model("llama")
    model.model.layers[0].mlp.down_proj.weight.device_mesh = "of two"  # as DTensors have
    known = anatomy(model)
    assert {name.split(".")[2] for name in known.places if name.startswith("blocks.")} == {
        "hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
    }  # fmt: skip
    assert "split over processes" in known.missing["attn.hook_z"]
    assert not verify(model, only=["PEFT"]).wrong


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_a_learned_prompt_is_no_fault(kind):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny.model("llama"), getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()
    verdict = verify(model, only=["attention mask", "pattern x v", "padding", "KV cache"])
    assert verdict.wrong == []
    assert "learned prompt" in verdict.of("KV cache")[0].reason


def test_every_check_has_a_fault_that_it_finds():
    assert {check.name for check in CHECKS} == set(FAULTS)
    assert all(check.about.endswith(".") for check in CHECKS)


# -- what is not a transformer, and bad use


def test_any_module_with_its_inputs():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, ids):
            return self.head(self.rnn(self.embed(ids))[0])

    model, ids = Tagger().eval(), torch.arange(12).view(3, 4)
    verdict = verify(model, {"ids": ids}, sites=["module:rnn:output[0]", "module:head:input"])
    assert not verdict.wrong
    assert {f.site for f in verdict.of("gradients")} == {
        "module:rnn:output[0]",
        "module:head:input",
    }
    named = verify(model, {"ids": ids})
    assert not named.wrong
    assert "blocks.0.rnn.hook_cell" in {f.site for f in named.of("fires")}
    with pytest.raises(ValueError, match="Tagger does not say what it takes"):
        verify(model)


def test_multi_query_heads_reach_every_query_head():
    assert anatomy(tiny.model("falcon")).query_heads("blocks.0.attn.hook_k[0]") == [0, 1, 2, 3]


def test_inputs_that_a_model_does_not_take_are_no_fault_of_its_sites():
    model = zoo.build("IdeficsForVisionText2Text")  # it wants a picture beside every text
    with pytest.raises(ValueError, match="cannot be run on random input_ids made from its conf"):
        verify(model, quick=True)


def test_blocks_that_text_alone_does_not_run_are_no_fault():
    """Mllama's cross-attention blocks run only with a picture."""
    assert verify(zoo.build("MllamaForConditionalGeneration"), quick=True).status == "OK"


@pytest.mark.parametrize(
    ("effect", "local", "itself", "bound"),
    [
        (1.6, 0.05, 0.0, 0.16),  # a tenth of the edit
        (1.6, 0.05, 0.1, 0.2),  # twice what a cache in half precision is off without an edit ...
        (1.6, 0.05, 0.2, 0.25),  # ... up to where the model itself counts as another
        (0.3, 0.01, 0.2, 0.15),  # a missing edit is off by its whole effect
    ],
)
def test_an_edit_may_be_off_by_more_where_the_way_is_off_without_one(
    effect: float, local: float, itself: float, bound: float
) -> None:
    compared = object.__new__(Running)
    compared.exam = types.SimpleNamespace(far=0.25, local=local)  # type: ignore[assignment]
    compared.trials = [Trial("blocks.0.hook_resid_post", lambda rows: edits.zero(), effect)]
    assert compared._bound(itself) == pytest.approx(bound)


def test_the_doctor_draws_the_same_samples_again_and_leaves_the_global_generator_alone() -> None:
    model = tiny.model("gpt2")
    measured = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        findings = verify(model, only=["generate"]).findings
        assert torch.equal(torch.get_rng_state(), before)
        measured.append([(f.check, f.site, f.reason, f.measured) for f in findings])
    assert measured[0] == measured[1]
    assert any(number for *_, number in measured[0])
