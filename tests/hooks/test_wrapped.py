"""Wrapped models: supported, or refused by one clear line; never quietly unhooked."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from hooks import WrappedModel, capture, edits, intervene, sites, verify

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
