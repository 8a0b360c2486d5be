"""What capture and intervene hand out and take: copies, precision, gradients of each forward,
raw paths, transforms.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import warnings

import pytest
import tiny
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from hooks import (
    Edit,
    NothingChanged,
    Site,
    SiteNeverFired,
    UnknownSite,
    capture,
    edits,
    intervene,
    sites,
)
from hooks.capture import ValuesOverflowed
from hooks.edits import Where
from layerscope.errors import UseError

IDS = tiny.ids()
OTHER = tiny.ids(seed=5)[:, :5]
POST, Z = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"


def built(kind):
    """The tiny Llama with another attention."""
    model = tiny.model("llama")
    model.set_attn_implementation(kind)
    return model


def in_place(z):
    z[:, -1] = 0
    return z


def in_place_without_return(z):
    z[:, -1] = 0


def as_transformer_lens_calls(z, hook):
    assert hook.layer() == 1
    assert hook.name.startswith("blocks.1.")
    z[:, -1] = 0
    return z


def by_keyword(z, *, hook):
    z[:, -1] = 0


def with_more(z, position, hook):
    z[:, position] = 0


def by_itself(z, point):
    z[:, -1] = 0


FUNCTIONS = [
    in_place,
    in_place_without_return,
    as_transformer_lens_calls,
    by_keyword,
    functools.partial(with_more, position=-1),
    by_itself,
    Edit("own", lambda value, where: in_place_without_return(value)),
]


@pytest.mark.parametrize("site", ["hook_resid_mid", "hook_mlp_out", "hook_resid_pre"])
@pytest.mark.parametrize("given", FUNCTIONS, ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_functions_that_change_what_they_are_given_edit_the_site_alone(site, given):
    model = tiny.model("llama")
    with torch.no_grad():
        with intervene(model, {f"blocks.1.{site}": edits.zero().at(IDS.shape[1] - 1)}):
            expected = model(IDS).logits
        with intervene(model, {f"blocks.1.{site}": given}):
            torch.testing.assert_close(model(IDS).logits, expected)


@pytest.mark.parametrize("site", ["blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"])
def test_a_range_is_not_the_list_of_its_three_numbers(site):
    """``[0:3:1]`` means 0, 1 and 2, ``[0,3,1]`` means 0, 3 and 1: also one after the other."""
    model = tiny.model("llama")
    axis = 2 if site.endswith("hook_z") else 1
    listed, ranged = f"{site}[0,3,1]", f"{site}[0:3:1]"
    with torch.no_grad(), capture(model, site) as whole:
        model(IDS)
    expected = {
        name: whole[site].index_select(axis, torch.tensor(heads))
        for name, heads in ((listed, [0, 3, 1]), (ranged, [0, 1, 2]))
    }
    for asked in ((listed,), (ranged,), (listed, ranged)):
        with torch.no_grad(), capture(model, *asked) as acts:
            model(IDS)
        assert list(acts) == list(asked)
        for name in asked:
            torch.testing.assert_close(acts[name], expected[name])
    with torch.no_grad(), intervene(model, {listed: edits.zero(), ranged: edits.scale(2.0)}):
        with capture(model, site) as edited:
            model(IDS)
    factors = torch.tensor([0.0, 0.0, 2.0, 0.0])
    shape = [1] * 4
    shape[axis] = 4
    torch.testing.assert_close(edited[site], whole[site] * factors.view(shape))


def test_an_edit_of_a_norms_input_leaves_the_stream_beside_it():
    model = tiny.model("llama")
    path = "module:model.layers.1.input_layernorm:input"
    with torch.no_grad():
        found = []
        for function in (in_place, lambda z: in_place(z.clone())):
            with intervene(model, {path: function}):
                found.append(model(IDS).logits)
    assert torch.equal(*found)


class Adds(nn.Module):
    """A model that changes its own values in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x):
        first = self.first(x * 1)
        first += 10
        second = self.second(x * 1)
        second += 100
        return second


FRESH = [
    edits.zero(),
    edits.scale(2.0),
    edits.scale(1.0),
    edits.add(torch.zeros(3)),
    edits.erase(torch.zeros(1, 3)),
    edits.turned(edits.scale(1.0)),
    edits.constant(torch.ones(3)).at(0),
]


@pytest.mark.parametrize("edit", FRESH, ids=lambda edit: edit.name)
def test_an_edits_own_tensor_goes_on_without_a_copy_and_is_held_nowhere_else(edit):
    model, x = Adds(), torch.ones(1, 2, 3)
    with torch.no_grad():
        plain = edit(x, Where(Site("module:second:output")))
        expected = plain + 100
        assert edit.is_fresh
        assert plain.untyped_storage()._cdata != x.untyped_storage()._cdata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingChanged)
            with intervene(model, {"module:second:output": edit}):
                assert torch.equal(model(x), expected)
                assert torch.equal(model(x), expected)
    # Behind an edit that hands on what is held elsewhere one that is used nowhere still copies.
    held = torch.full((1, 2, 3), 5.0)
    nowhere = edits.scale(3.0).at(torch.zeros(1, 2, dtype=torch.bool))
    name = "module:second:output"
    with intervene(model, {name: lambda value: held, Site(name): nowhere}):
        assert (model(x) == 105).all()
    assert (held == 5).all()


def test_a_copied_value_and_a_patch_are_not_the_models_to_change():
    model, x, source = Adds(), torch.ones(1, 2, 3), torch.full((1, 2, 3), 5.0)
    with (
        pytest.warns(NothingChanged, match="did not run"),
        intervene(model, {"module:second:output": edits.copy("module:first:output")}),
    ):
        pass
    with intervene(
        model,
        {
            "module:second:output": edits.copy("module:first:output"),
            "module:first:output": lambda z: z + 1,
        },
    ):
        assert (model(x) == 102).all()
    for edit in (edits.patch(source), edits.constant(source[0, 0]), lambda value: source):
        with intervene(model, {"module:second:output": edit}):
            assert (model(x) == 105).all()
        assert (source == 5).all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_arithmetic_in_half_precision_is_rounded_once(kind, autocast):
    generator = torch.Generator().manual_seed(0)
    value, rows, vector = (
        torch.randn(s, generator=generator) for s in ((1, 50, 64), (3, 64), (64,))
    )
    value = value.to(kind)
    exact, basis = value.double(), torch.linalg.svd(rows.double(), full_matrices=False)[2]
    expected = {
        edits.erase(rows): exact - exact @ basis.T @ basis,
        edits.add(vector, 0.3): exact + 0.3 * vector.double(),
        edits.scale(0.3): 0.3 * exact,
    }
    model = nn.Sequential(nn.Identity())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for edit, ideal in expected.items():
            assert (edit(value) != ideal.to(kind)).double().mean() < 2e-3
        with intervene(
            model, {"module:*:output": edits.scale(0.3), "module:0:output": edits.add(vector)}
        ):
            twice = model(value)
    assert twice.dtype == kind
    assert (twice != (0.3 * exact + vector.double()).to(kind)).double().mean() < 2e-3


def test_what_is_erased_under_autocast_is_gone():
    direction = torch.nn.functional.normalize(
        torch.randn(32, generator=torch.Generator().manual_seed(2)), dim=0
    )
    model = tiny.model("llama")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with intervene(model, {POST: edits.erase(direction[None])}), capture(model, POST) as acts:
            model(IDS)
    assert acts[POST].dtype == torch.float32
    assert (acts[POST] @ direction).abs().max() < 1e-5


@pytest.mark.parametrize("way", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("selection", ["", "[5]"])
def test_a_zeroed_stream_is_exactly_zero(way, selection):
    model, site = tiny.model("llama"), "blocks.1.hook_resid_mid" + selection
    model = model if way == "autocast" else copy.deepcopy(model).to(getattr(torch, way))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        with intervene(model, {site: edits.zero()}), capture(model, site) as acts:
            model(IDS)
    assert (acts[site] == 0).all()


def test_values_that_float16_cannot_hold_are_reported():
    model = nn.Sequential(nn.Identity())
    for largest, kind, warns in (
        (7e4, torch.float16, True),
        (6e4, torch.float16, False),
        (7e4, torch.bfloat16, False),
    ):
        x = torch.full((1, 2, 3), largest)
        if warns:
            with (
                pytest.warns(ValuesOverflowed, match="module:0:output became infinite"),
                capture(model, "module:0:output", dtype=kind),
            ):
                model(x)
        else:
            with capture(model, "module:0:output", dtype=kind) as acts:
                model(x)
            assert acts["module:0:output"].isfinite().all()


def alone(model, ids, site):
    """The gradient by autograd, on the module itself."""
    kept = []
    layer, part = (
        (model.model.layers[1], "output")
        if site == POST
        else (model.model.layers[0].self_attn.o_proj, "input")
    )
    if part == "output":
        handle = layer.register_forward_hook(lambda m, a, out: kept.append(out))
    else:
        handle = layer.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    loss = model(ids).logits[0, -1, 3]
    handle.remove()
    return torch.autograd.grad(loss, kept[0])[0]


@pytest.mark.parametrize("site", [POST, Z])
def test_each_forwards_loss_has_its_own_gradient(site):
    model = tiny.model("llama")
    texts = [IDS, OTHER, tiny.ids(seed=6)]
    with capture(model, site, grad=True) as acts:
        losses = [model(ids).logits[0, -1, 3] for ids in texts]
        found = [acts.gradients(loss)[site] for loss in losses]
        together = acts.gradients(losses[0] + losses[2])[site]
        with pytest.raises(UseError, match="different shapes"):
            acts.gradients(losses[0] + losses[1])
        (losses[0] + losses[1]).backward()
        with pytest.raises(UseError, match=r"acts\.grad\.all"):
            acts.grad[site]
        summed = acts.grad.all(site)
    expected = [alone(model, ids, site).view(found[i].shape) for i, ids in enumerate(texts)]
    for own, by_autograd in zip(found, expected, strict=True):
        torch.testing.assert_close(own, by_autograd)
    torch.testing.assert_close(together, expected[0] + expected[2])
    torch.testing.assert_close(summed, [expected[0], expected[1], torch.zeros_like(expected[2])])


def test_a_selection_of_a_gradient_and_a_loss_without_a_graph():
    model = tiny.model("llama")
    with capture(model, Z, grad=True) as acts:
        model(IDS).logits.sum().backward()
        with pytest.raises(UseError, match="no graph"):
            acts.gradients(torch.tensor(1.0))
    assert torch.equal(acts.grad[f"{Z}[1]"], acts.grad[Z][:, :, 1])


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda acts: pickle.loads(pickle.dumps(acts))]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_copied_activations_are_read_and_still_watched(way, mode):
    model = tiny.model("llama")
    with mode(), capture(model, POST) as acts:
        expected = model(IDS, output_hidden_states=True).hidden_states
    twin = way(acts)
    assert torch.equal(twin[POST], acts[POST])
    assert list(twin) == list(acts)
    assert len(expected) == 3
    if mode is torch.no_grad:
        twin[POST].add_(1)
        with pytest.raises(UseError, match="modified in place"):
            twin[POST]


@dataclasses.dataclass(frozen=True)
class Pair:
    first: torch.Tensor
    second: torch.Tensor
    number: int = dataclasses.field(default=3, init=False)


class Makes(nn.Module):
    def forward(self, x, *, factor=None):
        return Pair(x + 1, x + 2)


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.makes = Makes()

    def forward(self, x):
        pair = self.makes(x, factor=x * 3)
        return pair.first + 10 * pair.second


def test_values_of_a_dataclass_and_arguments_are_read_and_edited_by_name_and_number():
    model, x = Paired(), torch.ones(1, 2, 3)
    wanted = {
        "output": 2,
        "output[second]": 3,
        "output[1]": 3,
        "input[x]": 1,
        "input[0]": 1,
        "input[factor]": 3,
    }
    with capture(model, *(f"module:makes:{end}" for end in wanted)) as acts:
        model(x)
    assert {end: acts[f"module:makes:{end}"].unique().item() for end in wanted} == wanted
    for end, expected in (
        ("output[second]", [42.0] * 3),
        ("output[second][0:1]", [42.0, 32, 32]),
        ("input[x]", [43.0] * 3),
    ):
        with intervene(model, {f"module:makes:{end}": lambda value: value + 1}):
            assert model(x)[0, 0].tolist() == expected
    for end in ("output[third]", "output[7]", "input[y]", "input[7]"):
        with pytest.raises(SiteNeverFired, match="expected"), capture(model, f"module:makes:{end}"):
            model(x)


def test_a_lone_tensor_has_no_second_value():
    model = tiny.model("llama")
    with (
        torch.no_grad(),
        capture(model, "module:model.layers.1:output[0]", "module:model.layers.1:output") as acts,
    ):
        model(IDS)
    assert torch.equal(*acts.values())
    for item in ("1", "7", "name"):
        with (
            pytest.raises(SiteNeverFired, match="got one tensor"),
            capture(model, f"module:model.layers.1:output[{item}]"),
        ):
            model(IDS)


def test_raw_paths_take_globs_braces_and_selections():
    model = tiny.model("llama")
    first, last = (f"module:model.layers.{i}.mlp:output" for i in (0, 1))
    for pattern, expected in (("*", [first, last]), ("{1,0}", [last, first]), ("-1", [last])):
        with torch.no_grad(), capture(model, f"module:model.layers.{pattern}.mlp:output") as acts:
            model(IDS)
        assert list(acts) == expected
    with (
        torch.no_grad(),
        capture(model, first, f"{first}[0][5]", f"{first}[0:4]", f"{first}[1,3]") as acts,
    ):
        model(IDS)
    whole = acts[first]
    assert torch.equal(acts[f"{first}[0][5]"], whole[..., 5])
    assert torch.equal(acts[f"{first}[0:4]"], whole[..., :4])
    assert torch.equal(acts[f"{first}[1,3]"], whole[..., [1, 3]])
    with pytest.raises(UnknownSite, match="nearest"):
        capture(model, "module:model.layers.*.nope:output")


def test_capture_and_intervene_within_torch_func():
    model = built("eager")
    embedded = model.get_input_embeddings()(IDS).detach()
    parameters = dict(model.named_parameters())
    with torch.no_grad(), capture(model, Z) as plain:
        model(inputs_embeds=embedded)
    with capture(model, Z) as acts:
        grad(lambda p: functional_call(model, p, (), {"inputs_embeds": embedded}).logits.sum())(
            parameters
        )
    assert torch.equal(acts[Z], plain[Z])
    with capture(model, Z) as acts:
        vmap(lambda row: model(inputs_embeds=row[None]).logits)(embedded)
    torch.testing.assert_close(acts[Z][:, 0], plain[Z])
    assert torch.equal(acts[f"{Z}[1]"], acts[Z][..., 1, :])
    with pytest.raises(UseError, match=r"torch\.func"), capture(model, Z, grad=True):
        grad(lambda e: model(inputs_embeds=e).logits.sum())(embedded)

    def read(e):
        return model(inputs_embeds=e).logits[0, -1, :2]

    for site, edit in (
        (f"{Z}[1]", edits.scale(0.3)),
        ("blocks.1.hook_resid_mid", edits.scale(0.3)),
    ):
        x = embedded.clone().requires_grad_()
        with intervene(model, {site: edit}):
            found, out = jacrev(read)(embedded), read(x)
        expected = torch.stack(
            [torch.autograd.grad(out[i], x, retain_graph=True)[0] for i in range(2)]
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def steered(vector):
        with intervene(model, {f"{Z}[1]": edits.add(vector)}):
            return model(IDS).logits

    vectors = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        vmap(steered)(vectors), torch.stack([steered(v) for v in vectors]), rtol=1e-4, atol=1e-5
    )


def test_the_sites_of_a_model_that_was_changed_are_looked_for_again():
    model = copy.deepcopy(tiny.model("llama"))
    assert len(sites(model, "blocks.*.hook_resid_post")) == 2
    layers = model.model.layers
    model.model.layers = layers[:1]
    with torch.no_grad(), capture(model, "blocks.*.hook_resid_post") as acts:
        hidden = model.model(IDS)
    assert list(acts) == ["blocks.0.hook_resid_post"]
    assert torch.equal(model.model.norm(acts["blocks.0.hook_resid_post"]), hidden.last_hidden_state)
    model.model.layers.append(layers[1])
    assert len(sites(model, "blocks.*.hook_resid_post")) == 2
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.1\.mlp\.hook_post'"):
        capture(model, "blocks.1.mlp.hook_post")


def kept(module, end):
    """What a module is given or gives, by a plain hook."""
    values = []
    if end == "input":
        module.register_forward_pre_hook(lambda _, args: values.append(args[0]))
    else:
        module.register_forward_hook(lambda _, args, output: values.append(output))
    return values


@pytest.mark.parametrize("selection", [2, -1, [3, 0], slice(1, 3)])
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_some_heads_patterns_alone_against_transformers_own(selection, kind):
    model, mask = built("eager"), torch.ones_like(IDS)
    mask[1, :3] = 0
    shown = (
        f"{selection.start}:{selection.stop}"
        if isinstance(selection, slice)
        else str(selection).strip("[]")
    )
    site = f"blocks.1.attn.hook_pattern[{shown}]"
    values, given = (
        kept(model.model.layers[1].self_attn.v_proj, "output"),
        kept(model.model.layers[1].self_attn.o_proj, "input"),
    )
    with torch.no_grad():
        out = model(IDS, attention_mask=mask, output_attentions=True)
        model.set_attn_implementation(kind)
        with capture(model, site) as acts:
            logits = model(IDS, attention_mask=mask).logits
        with intervene(model, {site: edits.zero_weights(keys=[3])}):
            model(IDS, attention_mask=mask)
    seen = (
        mask.bool()[:, None, :, None]
        if isinstance(selection, list | slice)
        else mask.bool()[:, :, None]
    )
    expected = out.attentions[1][:, selection]
    torch.testing.assert_close(acts[site] * seen, expected * seen)
    torch.testing.assert_close(logits[mask.bool()], out.logits[mask.bool()])
    pattern = out.attentions[1].clone()
    at = 3  # no padding before it in the first text
    pattern[0, selection, :, at] = 0
    v = values[0].unflatten(-1, (-1, 8)).transpose(1, 2).repeat_interleave(2, dim=1)
    torch.testing.assert_close(given[-1][0], (pattern @ v).transpose(1, 2).flatten(2)[0])
