"""Edits against algebra: what each must do to the output follows from the weights."""

import math

import pytest
import tiny
import torch
import vision_language
from torch import nn

from hooks import (
    Edit,
    EditError,
    NothingChanged,
    Reference,
    ReferenceMismatch,
    Site,
    SiteNeverFired,
    UnknownSite,
    capture,
    edits,
    intervene,
    sites,
)
from hooks.anatomy import anatomy

IDS = torch.randint(3, tiny.VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
CAUSAL = ["gpt2", "llama", "neox", "gemma2", "opt"]


def output(model, **more):
    with torch.no_grad():
        made = model(IDS, **more)
    return made.logits if hasattr(made, "logits") else made.last_hidden_state


def edited(model, what, **more):
    with intervene(model, what):
        return output(model, **more)


def editable(model, name):
    """What can be read but not edited must say so; single experts have tests of their own."""
    if ".mlp.experts." in name:
        return False
    if anatomy(model).places[name].read_only:
        with pytest.raises(EditError, match="only be read"):
            intervene(model, {name: edits.zero()})
        return False
    if "hook_resid_mid" not in name or name.replace("resid_mid", "attn_out") in sites(model):
        return True
    with pytest.raises(UnknownSite, match="cannot be edited"):
        intervene(model, {name: edits.zero()})
    return False


@pytest.fixture(params=sorted(tiny.BUILD))
def every(request):
    return tiny.model(request.param)


def test_an_edit_at_every_site_changes_the_output_and_writes_what_it_says(every):
    before = output(every)
    for name in sites(every):
        if not editable(every, name):
            continue
        value = {}

        def shift(x, value=value):
            value["new"] = x + 0.3 * torch.randn(
                x.shape, generator=torch.Generator().manual_seed(1)
            )
            return value["new"]

        edit = edits.knockout(keys=[2]).at(4) if "scores" in name else shift
        with intervene(every, {name: edit}), capture(every, name, clone=True) as acts:
            after = output(every)
        assert (after - before).abs().max() > 1e-6, name
        if value and "hook_resid_mid" not in name:
            torch.testing.assert_close(acts[name], value["new"], rtol=0, atol=1e-6, msg=name)
    assert torch.equal(output(every), before)
    assert not [m for m in every.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_an_edit_that_gives_back_the_value_changes_nothing_and_says_so(every):
    before = output(every)
    for name in filter(lambda name: editable(every, name), sites(every)):
        with pytest.warns(
            NothingChanged,
            match=name.replace("hook_resid_mid", "hook_attn_out").replace(".", r"\."),
        ):
            after = edited(every, {name: lambda x: x.clone()})
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("name", "path"),
    [("gpt2", "transformer.h.1.attn.c_proj"), ("llama", "model.layers.1.self_attn.o_proj")],
)
def test_a_zeroed_head_equals_zeroed_columns_of_the_output_projection(name, path):
    model = tiny.model(name)
    projection = model.get_submodule(path)
    weight = projection.weight if name == "llama" else projection.weight.T  # out, in
    width = weight.shape[1] // 4
    zeroed = edited(model, {"blocks.1.attn.hook_z[2]": edits.zero()})
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[:, 2 * width : 3 * width] = 0
        expected = output(model)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    torch.testing.assert_close(zeroed, expected, rtol=1e-5, atol=1e-6)


def test_all_heads_zeroed_leave_exactly_the_bias():
    model = tiny.model("gpt2")
    bias = model.transformer.h[0].attn.c_proj.bias
    with torch.no_grad():
        bias.uniform_(-1, 1)
    with (
        intervene(model, {"blocks.0.attn.hook_z": edits.zero()}),
        capture(model, "blocks.0.hook_attn_out") as acts,
    ):
        output(model)
    assert torch.equal(acts["blocks.0.hook_attn_out"], bias.detach().expand(3, 7, -1))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "opt", "bert", "distilbert"])
def test_resid_mid_is_edited_for_the_mlp_and_for_the_sum(name):
    """The block's output must be that of a block whose attention had given mid' - pre."""
    model = tiny.model(name)
    factor = 1.7
    with (
        intervene(model, {"blocks.0.hook_resid_mid": edits.scale(factor)}),
        capture(
            model,
            "blocks.0.hook_resid_pre",
            "blocks.0.hook_attn_out",
            "blocks.0.hook_resid_mid",
            "blocks.0.hook_mlp_out",
            "blocks.0.hook_resid_post",
        ) as acts,
    ):
        output(model)
    with capture(model, "blocks.0.hook_resid_mid") as plain:
        output(model)
    torch.testing.assert_close(
        acts["blocks.0.hook_resid_mid"], factor * plain["blocks.0.hook_resid_mid"]
    )
    if name not in ("bert", "distilbert"):  # a norm stands behind their sums
        total = acts["blocks.0.hook_resid_mid"] + acts["blocks.0.hook_mlp_out"]
        torch.testing.assert_close(acts["blocks.0.hook_resid_post"], total)


def test_resid_mid_is_edited_as_an_edited_resid_pre_leaves_it():
    """Both ends of a layer's attention edited at once: the middle is what its own edit says."""
    model = tiny.model("llama")
    what = {"blocks.0.hook_resid_pre": edits.scale(2.0), "blocks.0.hook_resid_mid": edits.zero()}
    with intervene(model, what), capture(model, "blocks.0.hook_resid_mid") as acts:
        output(model)
    assert acts["blocks.0.hook_resid_mid"].abs().max() < 1e-6


def test_a_layer_that_copies_its_input_is_skipped():
    model = tiny.model("llama")
    skipped = edited(model, {"blocks.0.hook_resid_post": edits.copy("blocks.0.hook_resid_pre")})
    nothing_added = {"blocks.0.hook_attn_out": edits.zero(), "blocks.0.hook_mlp_out": edits.zero()}
    torch.testing.assert_close(skipped, edited(model, nothing_added))


def test_one_head_becomes_a_copy_of_another_however_it_is_spelled():
    model = tiny.model("gpt2")
    first, second = "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"
    for source in (f"{first}[1]", "blocks.-2.attn.hook_z[1]"):
        with (
            intervene(model, {f"{second}[0]": edits.copy(source)}),
            capture(model, first, second, clone=True) as acts,
        ):
            output(model)
        torch.testing.assert_close(acts[second][:, :, 0], acts[first][:, :, 1], rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CAUSAL)
def test_knockout_renormalises_and_zeroing_does_not(name, attention):
    model = tiny.model(name)
    was = model.config._attn_implementation
    if (name, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no sdpa for Gemma2's capped scores")
    model.set_attn_implementation(attention)
    try:
        part = "blocks.0.attn.hook_pattern"
        with capture(model, part) as plain:
            output(model)
        with (
            intervene(
                model, {"blocks.0.attn.hook_attn_scores": edits.knockout(queries=[5], keys=[2, 3])}
            ),
            capture(model, part) as cut,
        ):
            output(model)
        with (
            intervene(model, {part: edits.zero_weights(queries=[5], keys=[2, 3])}),
            capture(model, part) as zeroed,
        ):
            output(model)
    finally:
        model.set_attn_implementation(was)
    before = plain[part]
    rest = before.clone()
    rest[:, :, 5, 2:4] = 0
    torch.testing.assert_close(zeroed[part], rest)
    rest[:, :, 5] /= rest[:, :, 5].sum(-1, keepdim=True)
    torch.testing.assert_close(cut[part], rest)


def test_sdpa_and_eager_agree_after_an_edit_of_the_pattern():
    model = tiny.model("llama")
    uniform = {
        "blocks.1.attn.hook_pattern[1]": lambda p: (
            torch.ones_like(p).tril() / torch.arange(1, 8).view(1, 7, 1)
        )
    }
    one = edited(model, uniform)
    model.set_attn_implementation("eager")
    try:
        two = edited(model, uniform)
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_query_whose_keys_are_all_cut_attends_nowhere():
    model = tiny.model("gpt2")
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with (
            intervene(model, {"blocks.0.attn.hook_attn_scores": edits.knockout(queries=[3])}),
            capture(model, "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_z") as acts,
        ):
            output(model)
        assert acts["blocks.0.attn.hook_pattern"][:, :, 3].eq(0).all()
        assert acts["blocks.0.attn.hook_z"][:, 3].eq(0).all()
    model.set_attn_implementation("sdpa")


def test_frozen_patterns_are_those_of_the_other_run():
    model = tiny.model("gpt2")
    pattern = "blocks.*.attn.hook_pattern"
    other = IDS.flip(0)
    with torch.no_grad(), capture(model, pattern) as clean:
        model(other)
    with intervene(model, {pattern: edits.patch(clean)}), capture(model, pattern) as acts:
        output(model)
    for name in sites(model, pattern):
        assert torch.equal(acts[name], clean[name])


def test_patching_everything_a_layer_reads_gives_the_other_run():
    model = tiny.model("neox")
    with torch.no_grad(), capture(model, "blocks.1.hook_resid_pre") as other:
        expected = model(IDS.flip(1)).logits
    assert torch.equal(edited(model, {"blocks.1.hook_resid_pre": edits.patch(other)}), expected)


def test_heads_neurons_and_positions_are_edited_alone():
    model = tiny.model("gpt2")
    what = {
        "blocks.0.attn.hook_z[1,3]": edits.zero(),
        "blocks.1.mlp.hook_post[5]": edits.add(torch.tensor(2.0)),
        "blocks.1.hook_resid_pre": edits.zero().at([0, -1]),
    }
    with capture(
        model, "blocks.*.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.1.hook_resid_pre"
    ) as plain:
        output(model)
    with (
        intervene(model, what),
        capture(model, "blocks.0.attn.hook_z", "blocks.1.hook_resid_pre") as acts,
    ):
        output(model)
    assert acts["blocks.0.attn.hook_z"][:, :, [1, 3]].eq(0).all()
    assert torch.equal(
        acts["blocks.0.attn.hook_z"][:, :, [0, 2]], plain["blocks.0.attn.hook_z"][:, :, [0, 2]]
    )
    assert acts["blocks.1.hook_resid_pre"][:, [0, 6]].eq(0).all()
    assert acts["blocks.1.hook_resid_pre"][:, 1:6].ne(0).any()
    neuron = "blocks.1.mlp.hook_post"
    with (
        intervene(model, {neuron + "[5]": edits.add(torch.tensor(2.0))}),
        capture(model, neuron) as acts,
    ):
        output(model)
    less = acts[neuron] - plain[neuron]
    torch.testing.assert_close(less[..., 5], torch.full((3, 7), 2.0))
    assert less[..., :5].eq(0).all()


def test_a_token_predicate_chooses_positions_text_by_text():
    model = tiny.model("llama")
    mask = torch.zeros_like(IDS, dtype=torch.bool)
    mask[0, 2] = mask[2, 5] = True
    site = "blocks.0.hook_mlp_out"
    with intervene(model, {site: edits.zero().at(mask)}), capture(model, site) as acts:
        output(model)
    assert torch.equal(acts[site].eq(0).all(-1), mask)


def test_erase_removes_the_subspace_and_nothing_else():
    model = tiny.model("gpt2")
    site = "blocks.0.hook_resid_post"
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(3, 32, generator=generator)
    # dependent: the span has three dimensions
    directions = torch.cat([directions, directions[:1] * 2])
    with capture(model, site) as plain:
        output(model)
    with intervene(model, {site: edits.erase(directions)}), capture(model, site) as acts:
        output(model)
    assert (acts[site] @ directions.T).abs().max() < 1e-4
    less = (plain[site] - acts[site]).flatten(0, 1)
    assert torch.linalg.matrix_rank(torch.cat([less, directions]), atol=1e-3) == 3
    again = edits.erase(directions)(acts[site])
    torch.testing.assert_close(again, acts[site], rtol=0, atol=1e-5)


def test_ablation_values_have_their_closed_form_losses():
    """y = w a, squared loss against the clean run: zero w^2 (var + mu^2), mean w^2 var,
    resample 2 w^2 var.
    """

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.w = nn.Identity(), 1.3

        def forward(self, a):
            return self.w * self.inner(a)

    model, site = Line(), "module:inner:output"
    a = (
        torch.randn(4000, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * 0.8
        + 0.9
    )
    reference = Reference({site: a}, torch.ones(4000, 5, dtype=torch.bool))
    clean = model(a)

    def loss(edit):
        with intervene(model, {site: edit}):
            return float((model(a) - clean).square().mean())

    w2, mu, var = 1.3**2, float(a.mean()), float(a.var(unbiased=False))
    assert loss(edits.zero()) == pytest.approx(w2 * (var + mu**2))
    assert loss(edits.mean(reference)) == pytest.approx(w2 * var)
    assert loss(edits.resample(reference)) == pytest.approx(2 * w2 * var, rel=0.03)
    assert loss(edits.mean(reference)) < loss(edits.zero())


def padded(left):
    """The three texts with two tokens less in the second, padded."""
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    if left:
        ids[1] = torch.cat([torch.zeros(2, dtype=torch.long), IDS[1, :5]])
        mask[1, :2] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    ids[1, 5:], mask[1, 5:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def test_means_are_over_words_alone_on_either_side_of_the_padding():
    model = tiny.model("gpt2")
    site = "blocks.1.attn.hook_z"
    references = [Reference.of(model, site, batches=[padded(left)]) for left in (False, True)]
    alone = []
    for text in (IDS[0], IDS[1, :5], IDS[2]):
        with torch.no_grad(), capture(model, site) as acts:
            model(text[None])
        alone.append(acts[site][0])
    value = torch.zeros(1, 7, 4, 8)
    everywhere = torch.cat(alone).mean(0)
    at_six = torch.stack([alone[0][6], alone[2][6]]).mean(0)
    for reference in references:
        assert (reference.n_texts, reference.n_tokens) == (3, 19)
        where = edits.Where(edits.Site(site))
        torch.testing.assert_close(
            edits.mean(reference)(value, where)[0, 3], everywhere, rtol=1e-4, atol=1e-6
        )
        found = edits.mean(reference, per="position")(value, where)
        torch.testing.assert_close(found[0, 6], at_six, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "edit", [lambda r: edits.mean(r, per="position"), lambda r: edits.resample(r, seed=2)]
)
def test_padding_on_the_left_shifts_no_position_with_a_cache_and_without(edit):
    """The padded text's positions are those of the text alone,
    also of the tokens that `generate` adds.
    """
    model = tiny.model("gpt2")
    # The reference text is another one: a text's own values are never drawn.
    site, text = "blocks.0.hook_mlp_out", IDS[1:2, :5]
    reference = Reference.of(model, site, batches=[{"input_ids": tiny.ids(1, 12)}])
    left = torch.cat([torch.zeros(1, 2, dtype=torch.long), text], dim=1)
    with torch.no_grad(), capture(model, site) as own:
        model(tiny.ids(1, 12))
    for ids, cached in ((text, True), (left, True), (left, False)):
        with intervene(model, {site: edit(reference)}), capture(model, site) as acts:
            model.generate(
                ids,
                attention_mask=(ids > 0).long(),
                max_new_tokens=4,
                do_sample=False,
                use_cache=cached,
            )
        seen = torch.cat(acts.all(site), dim=1) if cached else acts.all(site)[-1]
        torch.testing.assert_close(seen[:, ids.shape[1] - 5 :], own[site][:, :8])


def test_resampling_never_draws_the_text_itself():
    """Padded and not, at two sites of one forward:
    each text has the values of one other text that is long enough.
    """
    model, sites = tiny.model("llama"), ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_z")
    ids, lengths = tiny.ids(5, 8), [8, 6, 5, 8, 4]
    mask = torch.tensor([[0] * (8 - n) + [1] * n for n in lengths])
    batch = {"input_ids": ids, "attention_mask": mask}
    reference = Reference.of(model, *sites, batches=[batch])
    with torch.no_grad(), capture(model, *sites, clone=True) as own:
        model(**batch)
    for seed in range(12):
        edit = edits.resample(reference, seed)
        put = intervene(model, dict.fromkeys(sites, edit))
        with torch.no_grad(), put, capture(model, *sites, clone=True) as acts:
            model(**batch)
        for text, n in enumerate(lengths):
            sources = []
            for site in sites:
                now = acts[site][text, 8 - n :]
                same = []
                for other, m in enumerate(lengths):
                    first = own[site][other, 8 - m :][:n]
                    if m >= n and torch.allclose(first, now, atol=1e-6):
                        same.append(other)
                sources.append(same)
            assert sources[0] == sources[1]
            assert len(sources[0]) == 1
            assert sources[0] != [text]
    alone = Reference.of(model, sites[0], batches=[{"input_ids": ids[:1]}])
    put = intervene(model, {sites[0]: edits.resample(alone)})
    with pytest.raises(ValueError, match="for text 0, got only the text itself"), put:
        model(ids[:1, :5])


def test_a_mean_of_no_tokens_is_refused():
    model, site = tiny.model("gpt2"), "blocks.0.hook_mlp_out"
    reference = Reference.of(model, site, batches=[{"input_ids": IDS}], skip=7)
    with pytest.raises(
        ReferenceMismatch,
        match=r"hook_mlp_out: expected reference texts of more than 7 tokens.*got 3 t",
    ):
        edited(model, {site: edits.mean(reference)})
    with pytest.raises(ReferenceMismatch, match="of more than 7 tokens"):
        reference.moments(Site(site))


def seen_by_edits(model):
    """An edit, and what it was told of each forward: the first token's position and the mask."""
    told = []

    def look(value, where):
        told.append((where.start, where.mask))
        return value * 2

    return told, {"blocks.0.hook_attn_out": Edit("look", look)}


def test_a_body_that_is_called_by_itself_has_no_mask_of_an_earlier_forward():
    model = tiny.model("gpt2")
    mask = torch.ones_like(IDS)
    told, what = seen_by_edits(model)
    with torch.no_grad(), intervene(model, what):
        past = model(IDS, attention_mask=mask).past_key_values
        model(IDS[:, :1], attention_mask=torch.ones(3, 8), past_key_values=past)
        model.transformer(IDS[:, :3])
        with pytest.raises(IndexError):  # a forward that fails has ended too
            model(IDS + 10**6, attention_mask=mask)
        model.transformer(IDS[:, :3])
    assert [start for start, _ in told] == [0, 7, 0, 0]
    assert told[0][1] is mask
    assert told[2][1] is told[3][1] is None


def test_a_forward_that_checkpointing_repeats_has_the_mask_of_its_forward():
    model = tiny.model("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    mask = torch.ones_like(IDS)
    told, what = seen_by_edits(model)
    with intervene(model, what):
        model(IDS, attention_mask=mask).logits.sum().backward()
    assert len(told) == 2
    assert all(seen is mask for _, seen in told)


def test_mean_ablation_commutes_with_the_output_projection():
    model = tiny.model("llama")
    batch = [{"input_ids": IDS}]
    z = Reference.of(model, "blocks.1.attn.hook_z", batches=batch)
    out = Reference.of(model, "blocks.1.hook_attn_out", batches=batch)
    torch.testing.assert_close(
        edited(model, {"blocks.1.attn.hook_z": edits.mean(z)}),
        edited(model, {"blocks.1.hook_attn_out": edits.mean(out)}),
        rtol=1e-4,
        atol=1e-5,
    )


def test_resampling_draws_whole_texts_by_the_seed_and_the_same_at_every_site():
    model = tiny.model("gpt2")
    names = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z[2]"]
    reference = Reference.of(model, *names, batches=[{"input_ids": IDS}])
    with torch.no_grad(), capture(model, *names) as clean:
        model(IDS)
    drawn = {}
    for name in names:
        with (
            intervene(model, {name: edits.resample(reference, seed=4)}),
            capture(model, name) as acts,
        ):
            output(model)
        matches = (acts[name][:, None] == clean[name][None]).flatten(2).all(-1)
        assert matches.sum(1).tolist() == [1, 1, 1]
        drawn[name] = matches.int().argmax(1).tolist()
    assert drawn[names[0]] == drawn[names[1]]


def test_templates_have_means_of_their_own():
    model = tiny.model("gpt2")
    site = "blocks.0.hook_mlp_out"
    reference = Reference.of(model, site, batches=[{"input_ids": IDS}], templates=["a", "b", "a"])
    with torch.no_grad(), capture(model, site) as acts:
        model(IDS)
    found = edits.mean(reference, per="template:a")(
        torch.zeros(1, 7, 32), edits.Where(edits.Site(site))
    )
    torch.testing.assert_close(found[0], acts[site][[0, 2]].mean(0))
    with pytest.raises(
        ValueError, match=r"no reference text has the template 'c'; templates: \['a', 'b'\]"
    ):
        edits.mean(reference, per="template:c")(
            torch.zeros(1, 7, 32), edits.Where(edits.Site(site))
        )


def test_generation_with_a_cache_equals_generation_without():
    model = tiny.model("llama")
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(IDS),
    }
    for what in (
        {"blocks.0.attn.hook_z[1]": edits.zero()},
        {"blocks.1.hook_resid_pre": edits.scale(1.5).at([2])},
        {"blocks.0.attn.hook_attn_scores": edits.knockout(keys=[1, 2])},
    ):
        with intervene(model, what):
            one = model.generate(IDS, use_cache=True, **options)
            two = model.generate(IDS, use_cache=False, **options)
        assert torch.equal(one, two)
        assert one.shape == (3, 13)


def test_gradients_flow_through_edits():
    model = tiny.model("gpt2").double()
    site, direction = (
        "blocks.0.hook_resid_post",
        torch.randn(32, generator=torch.Generator().manual_seed(0)).double(),
    )
    vector = torch.full((32,), 0.01, dtype=torch.float64, requires_grad=True)
    with intervene(model, {site: lambda x: x + vector}):
        model(IDS).logits[0, -1, 3].backward()
    ends = [
        edited(model, {site: edits.add(vector.detach() + f * direction)})[0, -1, 3]
        for f in (1e-6, -1e-6)
    ]
    assert float(vector.grad @ direction) == pytest.approx(
        float(ends[0] - ends[1]) / 2e-6, rel=1e-5
    )


def test_interventions_nest_in_order_and_leave_nothing_on_an_exception():
    model = tiny.model("gpt2")
    before, site = output(model), "blocks.0.hook_mlp_out"
    with capture(model, site) as outside, intervene(model, {site: edits.scale(2.0)}):
        with intervene(model, {site: edits.add(torch.tensor(1.0))}), capture(model, site) as inside:
            output(model)
    torch.testing.assert_close(inside[site], 2 * outside[site] + 1)

    def fails(x):
        raise RuntimeError("mine")

    def stopped(x):
        raise KeyboardInterrupt

    # PyTorch calls no hook, not even those that are always called, on a Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        edited(model, {"blocks.0.attn.hook_pattern": stopped})
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.equal(output(model), before)

    for what in (
        {site: fails},
        {"blocks.0.attn.hook_pattern": fails},
        {site: edits.scale(2.0), "blocks.1.attn.hook_z": fails},
    ):
        with pytest.raises(RuntimeError, match="mine"):
            edited(model, what)
        assert torch.equal(output(model), before)
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_two_parties_at_one_attention_see_it_once_each_in_order():
    model = tiny.model("llama")
    part = "blocks.0.attn.hook_pattern"
    with (
        capture(model, part) as outside,
        intervene(model, {part: edits.scale(0.5)}),
        capture(model, part) as inside,
    ):
        output(model)
    assert len(outside.all(part)) == len(inside.all(part)) == 1
    torch.testing.assert_close(inside[part], 0.5 * outside[part])


def test_an_edited_key_head_names_the_query_heads_it_reaches():
    found = anatomy(tiny.model("llama"))
    assert found.query_heads("blocks.0.attn.hook_k[1]") == [2, 3]
    assert found.query_heads("blocks.0.attn.hook_v") == [0, 1, 2, 3]
    assert anatomy(tiny.model("gpt2")).query_heads("blocks.0.attn.hook_k[1]") == [1]
    model = tiny.model("llama")
    with capture(model, "blocks.0.attn.hook_z") as plain:
        output(model)
    with (
        intervene(model, {"blocks.0.attn.hook_v[1]": edits.zero()}),
        capture(model, "blocks.0.attn.hook_z") as acts,
    ):
        output(model)
    moved = (acts["blocks.0.attn.hook_z"] != plain["blocks.0.attn.hook_z"]).any(-1).any(0).any(0)
    assert moved.nonzero().flatten().tolist() == [2, 3]


def test_bad_edits_are_one_clear_line():
    model = tiny.model("gpt2")
    with pytest.raises(
        UnknownSite, match=r"blocks\.0\.attn\.hook_z\[9\]: expected an index below 4, got 9"
    ):
        edited(model, {"blocks.0.attn.hook_z[9]": edits.zero()})
    with pytest.raises(UnknownSite, match="model has blocks 0 to 1"):
        intervene(model, {"blocks.7.attn.hook_z": edits.zero()})
    with pytest.raises(
        EditError, match=r"expected a patch of shape \[3, 7, 32\], got \[3, 6, 32\]"
    ):
        edited(model, {"blocks.0.hook_mlp_out": edits.patch(torch.zeros(3, 6, 32))})
    with pytest.raises(EditError, match="expected positions below 7, got 7"):
        edited(model, {"blocks.0.hook_mlp_out": edits.zero().at(7)})
    with pytest.raises(EditError, match=r"expected a value of shape \[3, 7, 32\], got \[3, 7\]"):
        edited(model, {"blocks.0.hook_mlp_out": lambda x: x.sum(-1)})
    with pytest.raises(EditError, match=r"this edit is for attn\.hook_pattern"):
        edited(model, {"blocks.0.attn.hook_attn_scores": edits.zero_weights(keys=[1])})
    with pytest.raises(
        EditError,
        match=r"0\.hook_mlp_out: blocks\.1\.hook_mlp_out has no value yet: it must come earlier",
    ):
        edited(model, {"blocks.0.hook_mlp_out": edits.copy("blocks.1.hook_mlp_out")})
    short = Reference.of(model, "blocks.0.attn.hook_z", batches=[{"input_ids": IDS[:, :4]}])
    with pytest.raises(ValueError, match="at most 4 tokens, position 6 is asked for"):
        edited(model, {"blocks.0.attn.hook_z": edits.mean(short, per="position")})
    with pytest.raises(ValueError, match=r"the reference holds no blocks\.1\.attn\.hook_z"):
        edited(model, {"blocks.1.attn.hook_z": edits.mean(short)})
    model.unused = nn.Linear(2, 2)
    try:
        with pytest.raises(SiteNeverFired, match=r"1 of 1 sites did not fire"):
            edited(model, {"module:unused:output": edits.zero()})
    finally:
        del model.unused
    assert math.isfinite(float(output(model).sum()))


def _patched(layer, vector, run):
    """The oracle: what runs where the layer's own forward adds the vector."""
    own = layer.forward

    def forward(*args, **kwargs):
        out = own(*args, **kwargs)
        return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

    layer.forward = forward
    with torch.no_grad():
        result = run()
    del layer.forward
    return result


@pytest.mark.parametrize("ran_before", [False, True])
def test_hidden_states_are_those_of_the_edited_model(ran_before):
    """transformers keeps them in hooks of its own, which it adds at the first forward."""
    model, vector = tiny.model("llama"), torch.ones(32)

    def run():
        return torch.stack(model(IDS, output_hidden_states=True).hidden_states)

    if ran_before:
        run()
    with torch.no_grad(), intervene(model, {"blocks.0.hook_resid_post": edits.add(vector)}):
        found = run()
    torch.testing.assert_close(found, _patched(model.model.layers[0], vector, run))


def test_an_edit_reaches_a_model_that_reads_the_hidden_states_of_its_tower():
    """LLaVA reads the picture from the last layer but one, as transformers has kept it."""
    model, _ = vision_language.build("llava")
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 3, 32, 32, generator=generator)
    vector = torch.randn(32, generator=generator)
    ids = torch.tensor([[5, *[model.config.image_token_id] * 16, 6, 7]])
    tower = model.model.vision_tower
    layer = next(m for path, m in tower.named_modules() if path.endswith("layers.0"))

    def run():
        return model(input_ids=ids, pixel_values=picture).logits

    with torch.no_grad():
        before = run()
    expected = _patched(layer, vector, run)
    assert float((expected - before).abs().max()) > 0.1
    handle = layer.register_forward_hook(lambda *_: None)  # a user's, behind transformers' own
    order = list(layer._forward_hooks)
    with torch.no_grad(), intervene(model, {"vision_blocks.0.hook_resid_post": edits.add(vector)}):
        found = run()
    torch.testing.assert_close(found, expected)
    assert list(layer._forward_hooks) == order
    handle.remove()
    assert torch.equal(run(), before)
