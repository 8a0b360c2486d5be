"""TransformerLens's bridge as the oracle: every site that both name holds the same tensor."""

from __future__ import annotations

import copy
import warnings

import pytest
import tiny
import torch

from hooks import capture, sites

# : Sites where the bridge's own cache contradicts itself; `test_where_the_bridge_is_not_an_oracle`
# shows how.
SCORES = {"blocks.0.attn.hook_attn_scores", "blocks.1.attn.hook_attn_scores"}
NOT_AN_ORACLE = {
    "opt": SCORES,
    "bert": SCORES
    | {f"blocks.{i}.{part}" for i in (0, 1) for part in ("hook_attn_out", "hook_resid_mid")}
    | {"hook_embed"},
    "gptj": SCORES,
}


def bridge_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge

        wrapped = copy.deepcopy(tiny.model(name))  # a bridge replaces the modules of what it wraps
        wrapped.config.architectures = [type(wrapped).__name__]
        return TransformerBridge.boot_transformers(
            f"tiny-{name}", hf_model=wrapped, tokenizer=tiny.tokenizer(), device="cpu"
        )


@pytest.fixture(
    params=["gpt2", "llama", "neox", "gemma2", "opt", "bert", "olmo2", "gptj", "falcon", "phi3"]
)
def both(request):
    model, ids = tiny.model(request.param), tiny.ids()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with capture(model, *sites(model), clone=True) as acts:
            model(input_ids=ids)
        _, cache = bridge_of(request.param).run_with_cache(ids)
    return request.param, acts, cache


def test_shared_sites_are_equal(both):
    name, acts, cache = both
    shared = [site for site in acts if site in cache and site not in NOT_AN_ORACLE.get(name, ())]
    assert len(shared) >= 18
    for site in shared:
        ours, theirs = acts[site], cache[site]
        if site == "hook_pos_embed":
            ours = ours.expand_as(theirs)
        assert ours.shape == theirs.shape, site
        # masked entries: -inf here, the mask's own value there
        if site.endswith("hook_attn_scores"):
            seen = ours.isfinite()
            ours, theirs = ours[seen], theirs[seen]
        torch.testing.assert_close(
            ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda m, s=site: f"{s}: {m}"
        )


def test_where_the_bridge_is_not_an_oracle(both):
    """Its scores do not give its pattern there, and BERT's attn_out is the normed stream;
    ours are consistent.
    """
    name, acts, cache = both
    if name not in NOT_AN_ORACLE:
        pytest.skip("the bridge agrees with itself on this architecture")
    theirs = (
        cache["blocks.0.attn.hook_attn_scores"].softmax(-1) - cache["blocks.0.attn.hook_pattern"]
    )
    ours = acts["attn_scores", 0].softmax(-1) - acts["pattern", 0]
    assert theirs.abs().max() > 1e-3
    assert ours.abs().max() < 1e-6
    if name == "bert":
        assert (
            cache["blocks.0.hook_resid_pre"]
            + cache["blocks.0.hook_attn_out"]
            - cache["blocks.0.hook_resid_mid"]
        ).abs().max() > 1e-2
        torch.testing.assert_close(acts["resid_pre", 0] + acts["attn_out", 0], acts["resid_mid", 0])


def test_a_bridge_is_a_model_too():
    ids, bridge = tiny.ids(), bridge_of("llama")
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
        with capture(bridge, "blocks.*.hook_resid_post", ("z", 1), ("k", 0)) as acts:
            bridge(ids)
    for site in acts:
        torch.testing.assert_close(acts[site], cache[site].reshape(acts[site].shape))
    assert acts["k", 0].shape[2] == 2
