"""A forward continued from a block against the whole model with that block's input patched."""

import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode

from hooks import EditError, Resume, Site, UnknownSite, anatomy, capture, edits, intervene, sites

IDS = torch.randint(3, tiny.VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
LAST = MASK.sum(1) - 1
SHAPES = ["gpt2", "llama", "neox", "gemma2", "olmo2", "opt", "cohere", "granite", "bloom", "bert"]


@pytest.mark.parametrize("name", SHAPES)
def test_edited_copies_equal_the_naive_loop(name):
    model = tiny.model(name)
    clean = Resume(model, {"input_ids": IDS, "attention_mask": MASK}, positions=LAST)
    assert clean.exact, "the final norm and the head are the model's own tail here"
    rows = torch.arange(3)
    with torch.no_grad():
        torch.testing.assert_close(clean.logits, model(IDS, attention_mask=MASK).logits[rows, LAST])
        for layer in range(clean.n_layers):
            generator = torch.Generator().manual_seed(layer)
            moved = [
                clean.residual(layer) + 0.1 * torch.randn(3, 7, 32, generator=generator)
                for _ in range(3)
            ]
            together = clean.run(layer, torch.cat(moved)).view(3, 3, -1)
            for one, residual in zip(together, moved, strict=True):
                with intervene(model, {f"blocks.{layer}.hook_resid_pre": edits.patch(residual)}):
                    naive = model(IDS, attention_mask=MASK).logits[rows, LAST]
                torch.testing.assert_close(one, naive, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                clean.run(layer, clean.residual(layer)), clean.logits, rtol=1e-5, atol=1e-5
            )


def test_several_positions_of_a_text_are_read_for_every_copy():
    model = tiny.model("gpt2")
    reads = torch.tensor([[0, 2], [2, 6], [0, 5], [1, 4]])
    clean = Resume(model, {"input_ids": IDS, "attention_mask": MASK}, positions=reads)
    moved = [clean.residual(1) * factor for factor in (1.0, 1.1)]
    with torch.no_grad():
        together = clean.run(1, torch.cat(moved)).view(2, 4, -1)
        for one, residual in zip(together, moved, strict=True):
            with intervene(model, {"blocks.1.hook_resid_pre": edits.patch(residual + 1e-9)}):
                naive = model(IDS, attention_mask=MASK).logits[reads[:, 0], reads[:, 1]]
            torch.testing.assert_close(one, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "neox", "gemma2", "olmo2", "opt", "cohere", "bloom"]
)
def test_a_causal_model_continues_from_a_position(name, masked):
    """What stands before the disturbed positions is not run:
    the logits are those of the whole text.
    """
    model = tiny.model(name)
    inputs = {"input_ids": IDS} | ({"attention_mask": MASK} if masked else {})
    for reads in (None, torch.tensor([[0, 2], [2, 6], [0, 5], [1, 4]])):
        clean = Resume(model, inputs, positions=reads)
        assert clean.causal
        for layer, start in ((0, 5), (1, 3), (clean.n_layers - 1, 1)):
            moved = clean.residual(layer).repeat(2, 1, 1)
            moved[:, start:] += torch.randn(
                moved[:, start:].shape, generator=torch.Generator().manual_seed(layer)
            )
            with torch.no_grad():
                whole, part = (
                    clean.run(layer, moved),
                    clean.run(layer, moved[:, start:], start=start),
                )
            real = MASK.repeat(2, 1).bool() if masked and reads is None else ...
            torch.testing.assert_close(part[real], whole[real], rtol=1e-5, atol=1e-5)
            assert (
                float((whole - clean.logits.repeat(2, *[1] * (clean.logits.ndim - 1))).abs().max())
                > 1e-3
            )


def test_what_is_measured_of_the_blocks_is_not_measured_inside_an_intervention():
    model = tiny.model("gpt2")
    clean = Resume(model, {"input_ids": IDS}, positions=LAST)
    late = clean.residual(1)[:, 3:]
    with intervene(model, {"blocks.0.hook_mlp_out": edits.scale(2.0)}):
        model(IDS)
        for ask in (
            lambda: clean.causal,
            lambda: clean.run(1, late, start=3),
            lambda: clean.share(0, "hook_mlp_out"),
        ):
            with pytest.raises(
                RuntimeError, match="expected the blocks as they were recorded, got 1 more hooks"
            ):
                ask()
    assert clean.causal
    with torch.no_grad():
        torch.testing.assert_close(clean.run(1, late, start=3), clean.logits, rtol=1e-5, atol=1e-5)


def test_hooks_that_transformers_leaves_on_blocks_are_no_intervention():
    model = tiny.model("gpt2")
    model(IDS, output_hidden_states=True)
    assert Resume(model, {"input_ids": IDS}).causal


def test_a_model_that_looks_ahead_starts_at_the_text_s_start():
    clean = Resume(tiny.model("bert"), {"input_ids": IDS}, positions=LAST)
    assert not clean.causal
    with pytest.raises(ValueError, match="cannot start at position 3 here"):
        clean.run(1, clean.residual(1)[:, 3:], start=3)


def test_a_model_whose_tail_is_not_known_is_run_whole():
    model = tiny.model("llama")
    forward = model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 3 + 1
        return out

    model.forward = scaled
    clean = Resume(model, {"input_ids": IDS}, positions=LAST)
    assert not clean.exact
    with torch.no_grad():
        again = clean.run(1, torch.cat([clean.residual(1), clean.residual(1)]))
    torch.testing.assert_close(again, clean.logits.repeat(2, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [[1, 0], [0, 0, 1], [1], [0, 1, 1]])
@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_blocks_in_another_order_are_a_model_with_its_blocks_so(name, order):
    model = tiny.model(name)
    clean = Resume(model, {"input_ids": IDS})
    other = tiny.model(name)
    body, blocks = (other.transformer, "h") if name == "gpt2" else (other.gpt_neox, "layers")
    setattr(body, blocks, torch.nn.ModuleList([getattr(body, blocks)[at] for at in order]))
    with torch.no_grad():
        expected = other(IDS, use_cache=False).logits
        torch.testing.assert_close(
            clean.run(0, clean.residual(0), order), expected, rtol=1e-5, atol=1e-5
        )


def test_bad_use_is_one_clear_line():
    clean = Resume(tiny.model("gpt2"), {"input_ids": IDS})
    with pytest.raises(ValueError, match="expected copies of 3 texts, got 4 rows"):
        clean.run(0, torch.zeros(4, 7, 32))
    with pytest.raises(ValueError, match=r"expected blocks below 2, got \[0, 2\]"):
        clean.run(0, clean.residual(0), order=[0, 2])
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"expected a layer of 0 to 2, got {layer}"):
            clean.residual(layer)
        with pytest.raises(ValueError, match=f"expected layers of 0 to 2 in order, got {layer}"):
            clean.run(layer, clean.residual(0))
        with pytest.raises(ValueError, match=f"expected a block below 2, got {layer}"):
            clean.block(layer, clean.residual(0))
    with pytest.raises(ValueError, match="in order, got 2 and 1"):
        clean.run(2, clean.residual(2), until=1)
    with pytest.raises(
        UnknownSite, match=r"blocks\.0\.hook_mlp.*nearest: .*blocks\.0\.hook_mlp_out"
    ):
        clean.share(0, "hook_mlp")
    with pytest.raises(UnknownSite, match=r"blocks\.2\.hook_mlp_out"):
        clean.share(2, "hook_mlp_out")
    with pytest.raises(
        ValueError, match="gives no logits: expected a language model with its head"
    ):
        Resume(tiny.model("gpt2").transformer, {"input_ids": IDS})


def test_what_a_capture_lacks_is_not_denied_to_the_model():
    model = tiny.model("gpt2")
    with capture(model, "blocks.0.hook_resid_post") as acts:
        model(IDS)
    for name in ("blocks.0.attn.hook_z", "blocks.1.hook_resid_post"):
        assert sites(model, name) == [name]
        with pytest.raises(UnknownSite, match=f"no site '{name}' in this capture"):
            acts[name]
        with (
            pytest.raises(EditError, match="the source of the patch has no value"),
            intervene(model, {name: edits.patch(acts)}),
        ):
            model(IDS)
    with pytest.raises(UnknownSite, match="expected an index below 4, got 9"):
        anatomy(model).query_heads("blocks.0.attn.hook_z[9]")


def work(run):
    """Floating-point operations, and the result."""
    with torch.no_grad(), FlopCounterMode(display=False) as count:
        result = run()
    return count.get_total_flops(), result


PARTS = ("attn.hook_z", "hook_attn_out", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")


@pytest.mark.parametrize("name", SHAPES)
def test_copies_share_what_stands_before_the_edit(name):
    model = tiny.model(name)
    clean = Resume(model, {"input_ids": IDS, "attention_mask": MASK}, positions=LAST)
    shared = set()
    for site in (f"blocks.{layer}.{part}" for layer in range(clean.n_layers) for part in PARTS):
        if site in sites(model):
            shared |= (
                {site.partition(".")[2].partition(".")[2]}
                if _is_shared(model, clean, Site(site))
                else set()
            )
    # Bloom adds the residual stream within its attention and its MLP, where all copies of it are
    # needed.
    assert shared >= ({"mlp.hook_pre"} if name == "bloom" else {"attn.hook_z", "mlp.hook_post"})


def _is_shared(model, clean, site):
    """Whether less work gave the same logits, with an edit that differs from copy to copy."""
    clean.share(site.layer, site.part)
    noise = torch.randn(4 * 3, generator=torch.Generator().manual_seed(site.layer))
    copies = clean.residual(site.layer).repeat(4, 1, 1)
    with intervene(model, {site: lambda value: value + noise.view(-1, *[1] * (value.ndim - 1))}):
        whole, expected = work(lambda: clean.run(site.layer, copies))
        less, found = work(lambda: clean.run(site.layer, copies, edited=site.part))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert less <= whole
    return less < whole


def test_positions_that_nobody_reads_are_left_out_of_the_last_block_but_where_somebody_looks():
    model = tiny.model("llama")
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    few, all_of_them = Resume(model, inputs, positions=LAST), Resume(model, inputs)
    last = few.n_layers - 1
    less, found = work(lambda: few.run(last, few.residual(last)))
    whole, expected = work(lambda: all_of_them.run(last, few.residual(last)))
    torch.testing.assert_close(found, expected[torch.arange(3), LAST])
    assert less < 0.6 * whole
    with capture(model, f"blocks.{last}.mlp.hook_post") as acts:
        more, _ = work(lambda: few.run(last, few.residual(last)))
    assert more > less
    assert bool((acts[f"blocks.{last}.mlp.hook_post"] != 0).any(-1).all())


def test_a_model_whose_text_configuration_says_that_it_caches_runs_its_blocks_without_the_cache():
    """Vision-language classes; an edited head through parts against the whole model."""
    import transformers as hf

    text = {
        "vocab_size": tiny.VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision |= {"image_size": 8, "patch_size": 4}
    tokens = {
        "image_token_index": 99,
        "boi_token_index": 98,
        "eoi_token_index": 97,
        "mm_tokens_per_image": 4,
    }
    torch.manual_seed(0)
    model = hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(text_config=text, vision_config=vision, **tokens)
    ).eval()
    ids = IDS.clamp(max=90)
    with torch.no_grad():
        clean = Resume(model, {"input_ids": ids, "attention_mask": MASK})
        assert clean.exact
        for layer in range(2):
            with intervene(model, {f"blocks.{layer}.attn.hook_z[1]": edits.scale(4.0)}):
                whole = model(input_ids=ids, attention_mask=MASK).logits
                parts = clean.run(layer, clean.residual(layer).repeat(2, 1, 1))
            for copy in parts.chunk(2):
                torch.testing.assert_close(
                    copy[MASK.bool()], whole[MASK.bool()], rtol=1e-5, atol=1e-5
                )


def test_a_block_that_gives_something_else_when_it_is_run_again_is_not_resumed():
    model = tiny.model("llama")
    calls = []

    def drifts(module, args, output):
        calls.append(1)
        return output + 0.1 * len(calls)

    model.model.layers[0].mlp.register_forward_hook(drifts)
    assert not Resume(model, {"input_ids": IDS}).exact


def test_chosen_tokens_of_a_head_that_is_kept_elsewhere():
    accelerate = pytest.importorskip("accelerate")
    tokens, logits = torch.tensor([3, 5]), []
    for offload in (False, True):
        model = tiny.model("llama")
        if offload:
            accelerate.cpu_offload(model, execution_device="cpu")
        clean = Resume(model, {"input_ids": IDS}, positions=LAST)
        with torch.no_grad():
            logits.append(clean.finish(clean.run(0, clean.residual(0), finish=False), tokens))
    torch.testing.assert_close(*logits)
    torch.testing.assert_close(
        logits[0], tiny.model("llama")(IDS).logits[torch.arange(3), LAST][:, tokens]
    )


def test_a_model_of_zeros_is_resumed():
    model = tiny.model("llama")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    clean = Resume(model, {"input_ids": torch.tensor([[5, 6, 7]])})
    assert clean.error == 0.0
    assert not clean.run(1, clean.residual(1)).any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral"])
def test_logits_that_nobody_reads_are_not_computed(name):
    model = tiny.model(name)
    with torch.no_grad():
        whole = model(input_ids=IDS).logits
    rows = []
    handle = model.lm_head.register_forward_hook(
        lambda module, args, output: rows.append(output.shape[:-1].numel())
    )
    reads = torch.tensor([[0, 1], [2, 4], [1, 1], [2, 0], [0, 4]])
    clean = Resume(model, {"input_ids": IDS}, positions=reads)
    handle.remove()
    # three different positions of three texts in the model's own forward, then the five reads by
    # the parts
    assert rows == [9, 5]
    torch.testing.assert_close(clean.logits, whole[reads[:, 0], reads[:, 1]])
    last = Resume(model, {"input_ids": IDS}, positions=torch.tensor([-1, 2, 1]))
    torch.testing.assert_close(last.logits, whole[torch.arange(3), torch.tensor([-1, 2, 1])])


def test_behind_the_last_block_stands_its_output():
    model = tiny.model("gpt2")
    clean = Resume(model, {"input_ids": IDS}, positions=LAST)
    with torch.no_grad(), capture(model, "blocks.1.hook_resid_post") as acts:
        model(input_ids=IDS)
    assert torch.equal(clean.residual(clean.n_layers), acts["blocks.1.hook_resid_post"])
