"""Wrapped models: supported, or refused by one clear line; never quietly unhooked."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from hooks import (
    NothingChanged,
    SiteNeverFired,
    UnknownArchitecture,
    WrappedModel,
    capture,
    edits,
    intervene,
    sites,
    verify,
)
from layerscope.errors import UseError

IDS = tiny.ids()
QUICK = [
    "same outputs",
    "fires",
    "residual sums",
    "pattern x v",
    "projections",
    "norm and head",
    "hooks gone",
    "weights",
]


@pytest.fixture
def adapted():
    pytest.importorskip("peft")
    return tiny.adapted()


def test_a_model_with_adapters_is_read_as_it_runs(adapted):
    plain = tiny.model("llama")
    assert sites(adapted) == sites(plain)
    verdict = verify(adapted, only=[*QUICK, "head = columns"])
    assert not verdict.wrong
    assert (
        "adapters default on 8 modules (0 merged, 0 switched off)"
        in verdict.of("weights")[-1].reason
    )
    with torch.no_grad(), capture(adapted, ("q", 0)) as acts, capture(plain, ("q", 0)) as without:
        adapted(input_ids=IDS)
        plain(input_ids=IDS)
    layer = adapted.base_model.model.model.layers[0]
    x = layer.input_layernorm(plain.model.embed_tokens(IDS))
    lora = layer.self_attn.q_proj
    added = lora.lora_B["default"](lora.lora_A["default"](x)) * lora.scaling["default"]
    torch.testing.assert_close(
        acts["q", 0] - without["q", 0], added.unflatten(-1, (4, 8)), atol=1e-6, rtol=1e-5
    )
    with torch.no_grad(), adapted.disable_adapter(), capture(adapted, ("q", 0)) as off:
        adapted(input_ids=IDS)
    assert torch.equal(off["q", 0], without["q", 0])


def test_compiled_models_are_refused():
    model = tiny.model("gpt2")
    compiled = torch.compile(model)
    for use in (
        lambda: capture(compiled, "blocks.0.hook_resid_post"),
        lambda: sites(compiled),
        lambda: verify(compiled),
    ):
        with pytest.raises(
            WrappedModel,
            match=r"the model is compiled .* pass the original model, model\._orig_mod",
        ):
            use()
    with torch.no_grad(), capture(compiled._orig_mod, "blocks.0.hook_resid_post") as acts:
        compiled._orig_mod(IDS)
    assert len(acts) == 1
    model.transformer.h[0].compile()
    with pytest.raises(WrappedModel, match="compiled in place"):
        intervene(model, {"module:transformer.h.1:output": edits.zero()})


def test_replicated_models_are_refused():
    model = nn.DataParallel(tiny.model("gpt2"))
    with pytest.raises(
        WrappedModel, match=r"DataParallel runs copies .* pass the wrapped model, model\.module"
    ):
        capture(model, "module:module.transformer.wte:output")
    assert sites(model.module)


@pytest.mark.parametrize(
    "scripted", [torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(1, 4))]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_models_and_their_parts_are_refused(scripted):
    """TorchScript calls its parts without their Python hooks."""
    script = scripted(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    for model, path in ((script, "0"), (nn.Sequential(script), "0.0")):
        with pytest.raises(WrappedModel, match="TorchScript, whose code runs no hooks"):
            intervene(model, {f"module:{path}:output": edits.zero()}).__enter__()


class Tagger(nn.Module):
    """A model as people write it around one of transformers, which has no configuration itself."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Identity(), tiny.model("llama").model)
        self.head = nn.Linear(32, 3)

    def forward(self, ids):
        return self.head(self.encoder(ids).last_hidden_state)


class Pair(nn.Module):
    """Two models of transformers, of which neither is the main one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Identity(), tiny.model("llama").model)
        self.second = tiny.model("gpt2").transformer

    def forward(self, ids):
        return self.first(ids).last_hidden_state + self.second(ids).last_hidden_state


@pytest.mark.parametrize("whole", [True, False])
def test_an_edit_of_a_wrapper_and_one_of_its_part_are_the_same(whole):
    tagger = Tagger()
    part = tagger.get_submodule("encoder.1")
    edited = tagger if whole else part
    with torch.no_grad(), intervene(edited, {"blocks.1.hook_resid_post[3]": edits.zero().at(2)}):
        found = tagger(IDS)

    def by_hand(module, args, output):
        output[:, 2, 3] = 0

    handle = part.layers[1].register_forward_hook(by_hand)
    with torch.no_grad():
        expected = tagger(IDS)
    handle.remove()
    torch.testing.assert_close(found, expected)


def test_a_wrapper_of_two_models_names_its_parts():
    advice = (
        r"pass its part model\.get_submodule\('first\.1'\) \(LlamaModel\) or "
        r"model\.get_submodule\('second'\) \(GPT2Model\)"
    )
    with pytest.raises(UnknownArchitecture, match=advice):
        sites(Pair())


def test_a_part_that_is_replaced_within_a_block_is_not_quietly_left_unedited():
    model = tiny.model("llama")

    def run_with_another_projection():
        with torch.no_grad(), intervene(model, {"blocks.1.attn.hook_z[2]": edits.zero()}):
            model(IDS)
            model.model.layers[1].self_attn.o_proj = nn.Linear(32, 32, bias=False)
            model(IDS)

    def run_with_a_layer_less():
        with torch.no_grad(), capture(model, "blocks.1.hook_resid_post"):
            model(IDS)
            model.model.layers = model.model.layers[:1]
            model(IDS)

    replaced = r"replaced in this block: model\.layers"
    with pytest.raises(SiteNeverFired, match=replaced + r"\.1\.self_attn\.o_proj"):
        run_with_another_projection()
    with pytest.raises(SiteNeverFired, match=replaced):
        run_with_a_layer_less()


def test_a_function_that_was_compiled_before_the_block_is_not_quietly_left_unedited():
    model = tiny.model("llama")
    compiled = torch.compile(lambda ids: model(ids, use_cache=False).logits, backend="eager")
    with torch.no_grad():
        before = compiled(IDS)
        changes = {"blocks.1.attn.hook_z[2]": edits.zero()}
        with pytest.warns(NothingChanged, match="compiled before it"), intervene(model, changes):
            found = compiled(IDS)
    assert torch.equal(found, before)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_gradients_that_stop_at_quantised_layers_of_pytorch_are_refused():
    model = tiny.model("llama")
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UseError, match=r"gradients stop at quantised layers of torch\.ao"):
        capture(quantised, "blocks.0.hook_resid_post", grad=True)
    with torch.no_grad(), capture(quantised, "blocks.1.attn.hook_q") as acts:
        quantised(IDS)
    seen = []
    projection = quantised.model.layers[1].self_attn.q_proj
    projection.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        quantised(IDS)
    assert torch.equal(acts["blocks.1.attn.hook_q"].flatten(-2), seen[0])


def test_a_dispatched_model_is_read_like_any_other():
    accelerate = pytest.importorskip("accelerate")
    model = tiny.model("llama")
    with torch.no_grad():
        expected = model(IDS).logits
    spread = accelerate.dispatch_model(model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    assert spread.hf_device_map
    assert not verify(spread, only=QUICK).wrong
    with torch.no_grad(), intervene(spread, {"blocks.0.attn.hook_z[1]": edits.zero()}):
        assert not torch.equal(spread(IDS).logits, expected)


def test_an_offloaded_model_can_be_read_and_examined():
    accelerate = pytest.importorskip("accelerate")
    model = tiny.model("gpt2")
    with torch.no_grad(), capture(model, "blocks.*.hook_resid_post") as plain:
        model(IDS)
    away = accelerate.cpu_offload(model, execution_device="cpu")
    with torch.no_grad(), capture(away, "blocks.*.hook_resid_post") as acts:
        away(IDS)
    assert all(torch.equal(acts[site], plain[site]) for site in plain)
    assert not verify(away, only=QUICK).wrong


def test_no_adapter_is_put_around_offloaded_weights():
    """PEFT would put the adapter's weights where accelerate keeps none:
    they are memory that nobody has written.
    """
    accelerate = pytest.importorskip("accelerate")
    away = accelerate.cpu_offload(tiny.model("llama"), execution_device="cpu")
    (found,) = verify(away, only=["PEFT"]).findings
    assert found.status == "UNSUPPORTED"
    assert "no copy is made for an adapter" in found.reason


class Bits(nn.Module):
    """A linear layer with its weight in 8 bits, as quantising libraries make them."""

    def __init__(self, dense):
        super().__init__()
        weight = dense.weight.detach()
        self.scale = float(weight.abs().max() / 127)
        self.weight = nn.Parameter(
            (weight / self.scale).round().to(torch.int8), requires_grad=False
        )

    def forward(self, x):
        return x @ (self.weight.to(x) * self.scale).T


def test_quantised_layers_are_read_as_they_run():
    model = tiny.model("llama")
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Bits(getattr(layer.self_attn, name)))
    verdict = verify(model, only=[*QUICK, "head = columns"])
    assert not verdict.wrong
    assert "quantised layers: 8 Bits" in " ".join(f.reason for f in verdict.of("weights"))
    assert "a Bits is no plain matrix" in verdict.of("head = columns")[0].reason
