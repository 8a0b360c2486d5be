"""observe: values are those of capture, the model's outputs are untouched, and nothing is kept."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny
import torch

from hooks import SiteNeverFired, UnknownSite, capture, observe


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_what_is_seen_is_what_capture_holds_and_the_output_is_the_same(name: str) -> None:
    model, ids = tiny.model(name), tiny.ids()
    seen = {}
    sites = (
        "blocks.*.attn.hook_pattern",
        "blocks.*.attn.hook_attn_scores[0]",
        "blocks.1.hook_resid_post",
    )
    with torch.no_grad():
        before = model(ids)[0]
        with observe(
            model, *sites, see=lambda site, value: seen.__setitem__(str(site), value.clone())
        ):
            during = model(ids)[0]
        with capture(model, *sites) as acts:
            model(ids)
    assert torch.equal(before, during)
    assert set(seen) == set(acts)
    for site, value in acts.items():
        assert torch.equal(seen[site], value)


def test_nothing_is_kept() -> None:
    model = tiny.model("llama")
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def see(site: object, value: torch.Tensor) -> None:
        nonlocal most
        gc.collect()
        alive.append(weakref.ref(value.untyped_storage()))
        most = max(most, sum(ref() is not None for ref in alive))

    with torch.no_grad(), observe(model, "blocks.*.attn.hook_pattern", see=see):
        model(tiny.ids())
    assert len(alive) == 2
    assert most == 1


def test_hooks_are_gone_after_an_exception_and_a_silent_site_is_named() -> None:
    model = tiny.model("gpt2")

    def fails(*_: object) -> None:
        raise RuntimeError("no")

    with (
        pytest.raises(RuntimeError, match="no"),
        observe(model, "blocks.*.hook_resid_post", see=fails),
    ):
        model(tiny.ids())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    watched = observe(model, "blocks.1.hook_resid_post", see=lambda *_: None)
    watched.__enter__()
    model.transformer.h = model.transformer.h[:1]
    model(tiny.ids())
    with pytest.raises(SiteNeverFired, match=r"blocks\.1\.hook_resid_post"):
        watched.__exit__(None, None, None)
    with pytest.raises(UnknownSite), observe(model, "blocks.7.hook_resid_post", see=fails):
        pass
