"""capture: values against plain PyTorch, gradients against autograd, and nothing left behind."""

from __future__ import annotations

import threading

import pytest
import tiny
import torch
from torch import nn
from transformers import XLNetConfig, XLNetModel

from hooks import Site, SiteNeverFired, UnknownArchitecture, UnknownSite, anatomy, capture, sites
from hooks.verify.exam import attached
from layerscope.errors import InputError

ALL = sorted(tiny.BUILD)
FAST = ("gpt2", "llama", "neox", "gemma2", "opt", "bert", "albert", "t5-encoder")


@pytest.fixture(params=ALL)
def every(request):
    return tiny.model(request.param)


@pytest.fixture(params=FAST)
def fast(request):
    return tiny.model(request.param)


def test_outputs_are_the_same_bit_for_bit_and_no_hook_is_left(every):
    ids = tiny.ids()
    with torch.no_grad():
        before = every(input_ids=ids)[0]
        with capture(every, *sites(every), clone=True) as acts:
            during = every(input_ids=ids)[0]
        after = every(input_ids=ids)[0]
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert len(acts) == len(sites(every))
    assert attached(every) == 0


def test_residual_stream_equals_hidden_states(every):
    ids = tiny.ids()
    with torch.no_grad(), capture(every, "blocks.*.hook_resid_pre") as acts:
        hidden = every(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in range(anatomy(every).n_layers):
        assert torch.equal(acts["resid_pre", layer], hidden[layer])


def test_what_is_added_adds_up(every):
    """resid_mid = resid_pre + attn_out;
    and in pre-norm blocks resid_post = the sum of all parts.
    """
    with torch.no_grad(), capture(every, *sites(every), clone=True) as acts:
        every(input_ids=tiny.ids())
    for layer in range(anatomy(every).n_layers):
        names = [
            ("resid_pre", layer),
            ("attn_out", layer),
            ("mlp_out", layer),
            ("resid_post", layer),
        ]
        known = [f"blocks.{layer}.hook_{part}" for part, _ in names]
        if not all(name in acts for name in known):
            # scales inside its forward: not listed rather than wrong
            assert every.config.model_type == "granite"
            continue
        pre, attn, mlp, post = (acts[name] for name in known)
        if f"blocks.{layer}.hook_resid_mid" in acts:
            torch.testing.assert_close(acts["resid_mid", layer], pre + attn, atol=1e-5, rtol=1e-5)
        if every.config.model_type not in tiny.POST_NORM:
            torch.testing.assert_close(post, pre + attn + mlp, atol=1e-5, rtol=1e-5)


def test_parallel_blocks_have_no_resid_mid():
    assert not [s for s in sites(tiny.model("neox")) if "resid_mid" in s]
    assert [s for s in sites(tiny.model("neox-sequential")) if "resid_mid" in s]


def test_rows_of_patterns_sum_to_one_and_equal_the_softmax_of_the_scores(every):
    with (
        torch.no_grad(),
        capture(every, "blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores") as acts,
    ):
        every(input_ids=tiny.ids())
    for layer in range(anatomy(every).n_layers):
        pattern, scores = acts["pattern", layer], acts["attn_scores", layer]
        torch.testing.assert_close(
            pattern.sum(-1), torch.ones_like(pattern[..., 0]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(pattern, scores.softmax(-1), atol=1e-6, rtol=1e-5)


CAUSAL = ("gpt2", "llama", "neox", "opt", "olmo2")


@pytest.mark.parametrize("name", CAUSAL)
def test_sdpa_patterns_equal_eager_ones_and_the_setting_is_untouched(name):
    fused, eager = tiny.model(name), tiny.model(name)
    eager.set_attn_implementation("eager")
    ids = tiny.ids()
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    with torch.no_grad():
        with capture(fused, "blocks.*.attn.hook_pattern") as ours:
            fused(input_ids=ids, attention_mask=mask)
            assert fused.config._attn_implementation == "sdpa"
        theirs = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    for layer, expected in enumerate(theirs):
        torch.testing.assert_close(ours["pattern", layer], expected, atol=1e-6, rtol=1e-5)
        assert ours["pattern", layer].triu(1).abs().max() == 0
    assert fused.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5-encoder"])
def test_pattern_times_value_times_output_projection_is_the_attention_output(name):
    model = tiny.model(name)
    with torch.no_grad(), capture(model, "blocks.0.attn.*", "blocks.0.hook_attn_out") as acts:
        model(input_ids=tiny.ids())
    value = acts["v", 0]
    value = value.repeat_interleave(acts["z", 0].shape[2] // value.shape[2], dim=2)
    z = torch.einsum("bhqk,bkhd->bqhd", acts["pattern", 0], value)
    torch.testing.assert_close(z, acts["z", 0], atol=1e-5, rtol=1e-5)
    projection = {
        "gpt2": "transformer.h.0.attn.c_proj",
        "llama": "model.layers.0.self_attn.o_proj",
        "bert": "bert.encoder.layer.0.attention.output.dense",
        "t5-encoder": "encoder.block.0.layer.0.SelfAttention.o",
    }[name]
    with torch.no_grad():
        out = model.get_submodule(projection)(z.flatten(2))
    torch.testing.assert_close(out, acts["attn_out", 0], atol=1e-5, rtol=1e-5)


def test_gradients_equal_autograd_and_finite_differences(fast):
    ids, site = tiny.ids(), "blocks.1.hook_resid_pre"
    names = [
        s for s in sites(fast) if not Site(s).part.startswith("attn.hook_") or s.endswith("hook_z")
    ]
    with torch.no_grad():
        weights = torch.randn(
            fast(input_ids=ids)[0].shape, generator=torch.Generator().manual_seed(0)
        )
    with capture(fast, *names, grad=True) as acts:
        loss = (fast(input_ids=ids)[0] * weights).mean()
        by_autograd = acts.gradients(loss)
        loss.backward()
        for name in names:
            torch.testing.assert_close(acts.grad[name], by_autograd[name])

    # A central difference along one direction is an oracle outside autograd.
    double, place = fast.double(), anatomy(fast).places[site]
    direction = torch.randn(acts[site].shape, generator=torch.Generator().manual_seed(1)).double()
    values = []
    # a ReLU has kinks; rotary angles are float32
    step = 1e-7 if fast.config.model_type == "opt" else 1e-4
    for sign in (1, -1):
        calls = iter(range(place.calls))

        def shift(module, args, kwargs, sign=sign, calls=calls, step=step):
            here = next(calls) == place.call  # one module may be every layer
            return (args[0] + sign * step * direction * here, *args[1:]), kwargs

        handle = double.get_submodule(place.path).register_forward_pre_hook(shift, with_kwargs=True)
        with torch.no_grad():
            values.append((double(input_ids=ids)[0] * weights).mean())
        handle.remove()
    slope = (values[0] - values[1]) / (2 * step)
    expected = (acts.grad[site].double() * direction).sum()
    torch.testing.assert_close(slope, expected, atol=1e-6, rtol=2e-2)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_gradients_of_patterns_follow_from_those_of_z(name):
    """z = pattern @ v, so d loss / d pattern = (d loss / d z) v: a closed form."""
    model = tiny.model(name).requires_grad_(False)  # frozen: the graph must start at the sites
    with capture(
        model,
        "blocks.1.attn.hook_pattern",
        "blocks.1.attn.hook_v",
        "blocks.1.attn.hook_z",
        grad=True,
    ) as acts:
        model(input_ids=tiny.ids())[0].square().mean().backward()
    value = acts["v", 1].repeat_interleave(acts["z", 1].shape[2] // acts["v", 1].shape[2], dim=2)
    expected = torch.einsum("bqhd,bkhd->bhqk", acts.grad["z", 1], value)
    visible = acts["pattern", 1] > 0
    torch.testing.assert_close(
        acts.grad["pattern", 1][visible], expected[visible], atol=1e-7, rtol=1e-4
    )
    assert all(p.grad is None for p in model.parameters())


def test_several_losses_and_clear():
    model = tiny.model("gpt2")
    with capture(model, "blocks.0.hook_resid_post", grad=True) as acts:
        logits = model(tiny.ids()).logits
        first, second = logits[0].mean(), logits[1].mean()
        one, two = acts.gradients(first), acts.gradients(second)
        first.backward(retain_graph=True)
        summed_first = acts.grad["resid_post", 0].clone()
        second.backward()
        both = acts.grad["resid_post", 0].clone()
        acts.grad.clear()
        assert len(acts.grad) == 0
    site = "blocks.0.hook_resid_post"
    torch.testing.assert_close(summed_first, one[site])
    torch.testing.assert_close(both, one[site] + two[site])
    assert one[site][1].abs().max() == 0
    assert two[site][1].abs().max() > 0


def test_gradient_without_autograd_is_an_error():
    model = tiny.model("gpt2")
    with torch.no_grad(), pytest.raises(RuntimeError, match="grad=True needs autograd"):
        with capture(model, "blocks.0.hook_resid_post", grad=True):
            model(tiny.ids())
    assert attached(model) == 0


def test_stop_ends_the_forward_after_the_last_site():
    model, ran = tiny.model("gpt2"), []
    for i, block in enumerate(model.transformer.h):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    with torch.no_grad(), capture(model, "blocks.0.hook_resid_post", stop=True) as acts:
        model(tiny.ids())
        raise AssertionError("the body goes on after the forward was stopped")
    assert ran == [0]
    with torch.no_grad(), capture(model, "blocks.0.hook_resid_post") as whole:
        model(tiny.ids())
    assert torch.equal(acts["resid_post", 0], whole["resid_post", 0])


def test_stop_inside_another_capture_ends_only_its_own_forward():
    model = tiny.model("gpt2")
    with torch.no_grad(), capture(model, "blocks.0.hook_resid_pre") as outer:
        with capture(model, "blocks.0.hook_resid_post", stop=True) as inner:
            model(tiny.ids())
    assert "blocks.0.hook_resid_pre" in outer
    assert "blocks.0.hook_resid_post" in inner
    assert attached(model) == 0


def test_selections_are_slices_and_hold_nothing_else():
    model = tiny.model("llama")
    specs = (
        "blocks.0.attn.hook_z[1]",
        "blocks.0.mlp.hook_post[3,5]",
        "blocks.0.attn.hook_pattern[0:2]",
    )
    with torch.no_grad(), capture(model, *specs) as part:
        model(tiny.ids())
    with torch.no_grad(), capture(model, "blocks.0.attn.*", "blocks.0.mlp.hook_post") as whole:
        model(tiny.ids())
    assert torch.equal(part[specs[0]], whole["z", 0][:, :, 1])
    assert torch.equal(part[specs[1]], whole["post", 0][..., [3, 5]])
    assert torch.equal(part[specs[2]], whole["pattern", 0][:, :2])
    assert torch.equal(whole[specs[0]], part[specs[0]])
    assert part[specs[0]].untyped_storage().nbytes() == part[specs[0]].numel() * 4
    with (
        pytest.raises(UnknownSite, match="index below 4"),
        torch.no_grad(),
        capture(model, "blocks.0.attn.hook_z[9]"),
    ):
        model(tiny.ids())


def test_grouped_heads_come_as_they_are():
    model = tiny.model("llama")
    with torch.no_grad(), capture(model, ("q", 0), ("k", 0)) as acts:
        model(tiny.ids())
    assert acts["q", 0].shape[2:] == (4, 8)
    assert acts["k", 0].shape[2:] == (2, 8)


def test_dtype_and_device():
    model = tiny.model("gpt2")
    with capture(
        model, "blocks.0.hook_resid_post", grad=True, dtype=torch.float64, device="cpu"
    ) as acts:
        model(tiny.ids()).logits.mean().backward()
    assert acts["resid_post", 0].dtype == acts.grad["resid_post", 0].dtype == torch.float64


def test_whole_numbers_keep_their_type():
    model, ids = tiny.model("gpt2"), tiny.ids() + 2**12 + 1  # odd numbers that float16 rounds
    model.given = nn.Identity()
    model.register_forward_pre_hook(lambda module, args: (module.given(args[0]) - 2**12 - 1,))
    with capture(model, "module:given:output", "hook_embed", dtype=torch.float16) as acts:
        model(ids)
    assert acts["hook_embed"].dtype == torch.float16
    assert torch.equal(acts["module:given:output"], ids)
    with pytest.raises(InputError, match=r"expected a floating-point type, got torch\.int64"):
        capture(model, "hook_embed", dtype=torch.int64)


def test_embeddings_of_a_model_that_runs_position_by_position():
    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32)
    model, ids = XLNetModel(config).eval(), tiny.ids(batch=3) % 50
    with capture(model, "hook_embed") as acts:
        model(ids)
    assert torch.equal(acts["hook_embed"], model.word_embedding.weight[ids])


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_works_under(context):
    model = tiny.model("gpt2")
    with context():
        expected = model(tiny.ids(), output_hidden_states=True).hidden_states[1]
        with capture(model, "blocks.0.hook_resid_post", "blocks.0.attn.hook_pattern") as acts:
            model(tiny.ids())
    assert torch.equal(acts["resid_post", 0], expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_change_in_place_is_noticed(context):
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x).add_(1)

    model = Careless()
    with context(), capture(model, "module:layer:output") as acts:
        model(torch.ones(2, 4, 3))
    with pytest.raises(RuntimeError, match="in place"):
        acts["module:layer:output"]
    with context(), capture(model, "module:layer:output", clone=True) as acts:
        out = model(torch.ones(2, 4, 3))
    torch.testing.assert_close(acts["module:layer:output"] + 1, out.detach().clone())


def test_generate_has_one_tensor_a_forward():
    model = tiny.model("llama")
    with (
        torch.no_grad(),
        capture(model, "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern") as acts,
    ):
        out = model.generate(
            tiny.ids(), max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert [t.shape[1] for t in acts.all("blocks.1.hook_resid_post")] == [7, 1, 1]
    assert [t.shape[3] for t in acts.all(("pattern", 1))] == [7, 8, 9]
    with pytest.raises(LookupError, match="fired in 3 forwards"):
        acts["resid_post", 1]
    with torch.no_grad(), capture(model, "blocks.1.hook_resid_post") as uncached:
        model(out[:, :-1])
    joined = torch.cat(acts.all(("resid_post", 1)), dim=1)
    torch.testing.assert_close(joined, uncached["resid_post", 1], atol=1e-5, rtol=1e-4)


def test_other_peoples_hooks_stay():
    model, calls = tiny.model("gpt2"), []
    handle = model.transformer.h[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), capture(model, "blocks.*.hook_resid_post"):
        model(tiny.ids())
    assert (calls, attached(model)) == ([1], 1)
    handle.remove()


class _Raises(nn.Module):
    def forward(self, *_, **__):
        raise ZeroDivisionError("inside the model")


@pytest.mark.parametrize(
    "site", ["blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern", "blocks.*.mlp.hook_pre"]
)
def test_no_hook_and_no_mode_is_left_when_a_module_raises(site):
    model = tiny.model("gpt2")
    model.transformer.h[1].attn.c_proj = _Raises()
    with pytest.raises(ZeroDivisionError), torch.no_grad(), capture(model, site):
        model(tiny.ids())
    assert attached(model) == 0
    assert torch.overrides._get_current_function_mode_stack() == []


def test_no_hook_is_left_when_the_body_raises_or_a_site_is_wrong():
    model = tiny.model("gpt2")
    with pytest.raises(ZeroDivisionError), capture(model, "blocks.*.hook_resid_post"):
        raise ZeroDivisionError
    with pytest.raises(UnknownSite, match=r"nearest: blocks\.0\.hook_resid_post"):
        capture(model, "blocks.*.hook_resid_pre", "blocks.0.hook_resid_pots")
    assert attached(model) == 0


def test_a_site_that_never_fires_is_an_error():
    model = tiny.model("gpt2")
    model.unused = nn.Linear(2, 2)
    with pytest.raises(SiteNeverFired, match="module:unused:output"), torch.no_grad():
        with capture(model, "module:unused:output"):
            model(tiny.ids())
    with capture(model, "blocks.0.hook_resid_post") as acts:
        pass
    with pytest.raises(SiteNeverFired, match="no forward has run"):
        acts["resid_post", 0]


def test_any_module_by_path():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model, x = Encoder(), torch.randn(2, 3, 4)
    with capture(
        model, "module:rnn:output[0]", "module:rnn:input", "module:head:input", grad=True
    ) as acts:
        model(x).sum().backward()
    assert torch.equal(acts["module:rnn:output[0]"], model.rnn(x)[0])
    assert torch.equal(acts["module:rnn:input"], x)
    expected = model.head.weight.sum(0).expand(2, 3, 5)
    torch.testing.assert_close(acts.grad["module:rnn:output[0]"], expected)
    with pytest.raises(UnknownSite, match="nearest: rnn"):
        capture(model, "module:rn:output")
    with pytest.raises(UnknownArchitecture, match="raw paths"):
        sites(model.head)


def test_headless_bodies_have_the_same_sites():
    model = tiny.model("llama")
    assert sites(model.model) == sites(model)
    with (
        torch.no_grad(),
        capture(model.model, "blocks.*.hook_resid_post") as body,
        capture(model, "blocks.*.hook_resid_post") as whole,
    ):
        model(tiny.ids())
    assert torch.equal(body["resid_post", 1], whole["resid_post", 1])


def test_captures_in_two_threads_do_not_mix():
    models, results = {seed: tiny.model("gpt2", seed) for seed in (1, 2)}, {}

    def work(seed):
        with torch.no_grad(), capture(models[seed], "blocks.1.attn.hook_pattern") as acts:
            models[seed](tiny.ids(seed=seed))
        results[seed] = acts["pattern", 1]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, model in models.items():
        with torch.no_grad(), capture(model, "blocks.1.attn.hook_pattern") as acts:
            model(tiny.ids(seed=seed))
        assert torch.equal(acts["pattern", 1], results[seed])
        assert attached(model) == 0
