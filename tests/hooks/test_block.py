"""A block's hooks stay with their block: copies, forwards from inside, repeats by checkpointing,
failed forwards.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle

import pytest
import tiny
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from hooks import EditError, Resume, SiteNeverFired, capture, edits, intervene, observe

IDS = tiny.ids()
OTHER = tiny.ids(seed=5)[:, :5]
POST = "blocks.1.hook_resid_post"


class Net(nn.Module):
    """Three blocks, checkpointed or not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(3)
        )
        self.kind = kind

    def forward(self, x):
        for block in self.blocks:
            x = (
                block(x)
                if self.kind == "plain"
                else checkpoint(block, x, use_reentrant=self.kind == "reentrant")
            )
        return x


def parameter_gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)


def late(kind):
    model = Net(kind)
    with intervene(
        model,
        {
            "module:blocks.*.0:output": edits.scale(0.3),
            "module:blocks.2:output": lambda z: z.mul_(2),
        },
    ):
        loss = model(X).sum()
        model(X * 2)
    loss.backward()
    return parameter_gradients(model)


def under_another_block(kind):
    model = Net(kind)
    loss = model(X).sum()
    with intervene(model, {"module:blocks.*.0:output": edits.scale(0.3)}):
        model(X)
        loss.backward()
    return parameter_gradients(model)


def nested(kind):
    model = Net(kind)
    with intervene(model, {"module:blocks.*.0:output": edits.scale(0.3)}):
        with intervene(model, {"module:blocks.*.0:output": edits.add(torch.ones(8))}):
            loss = model(X).sum()
        loss.backward()
    return parameter_gradients(model)


@pytest.mark.parametrize("way", [late, under_another_block, nested])
@pytest.mark.parametrize("kind", ["not reentrant", "reentrant"])
def test_a_checkpointed_part_is_repeated_with_the_hooks_that_its_forward_had(way, kind):
    torch.testing.assert_close(way(kind), way("plain"))


@pytest.mark.parametrize(
    "edit", ["attn.hook_z[2]", "attn.hook_pattern[1]", "hook_resid_mid", "copy"]
)
def test_gradients_behind_the_block_under_transformers_checkpointing(edit):
    what = {f"blocks.1.{edit}": edits.scale(0.5)}
    if edit == "copy":
        what = {"blocks.1.hook_mlp_out": edits.copy("blocks.0.hook_mlp_out")}

    def gradients(checkpointed):
        model = tiny.model("llama").train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with intervene(model, what):
            loss = model(IDS, use_cache=False).logits.square().sum()
        loss.backward()
        return parameter_gradients(model)

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-5, atol=1e-6)


def test_an_edit_that_reads_another_site_is_refused_where_the_repeat_would_lose_its_gradient():
    model = Net("reentrant")
    with pytest.raises(EditError, match="use_reentrant=False"):
        with intervene(model, {"module:blocks.1.0:output": edits.copy("module:blocks.0.0:output")}):
            model(X)


@pytest.mark.parametrize("grad", [False, True])
def test_a_capture_is_shown_a_forward_once_though_checkpointing_repeats_it(grad):
    sites, found = (POST, "blocks.0.attn.hook_pattern"), []
    for checkpointed in (True, False):
        model = tiny.model("llama").train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with capture(model, *sites, grad=grad) as acts:
            model(IDS, use_cache=False).logits.square().sum().backward()
        found.append(
            {site: acts[site] for site in sites}
            | {site + " gradient": g for site, g in acts.grad.items()}
        )
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-6)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, pickled, saved])
def test_a_copy_made_inside_a_block_is_plain_inside_and_after_it(way):
    model = tiny.model("llama")
    with torch.no_grad():
        expected = model(IDS).logits
        what = {
            "blocks.*.hook_resid_post": edits.scale(2.0),
            "blocks.1.attn.hook_pattern": edits.zero_weights(keys=[1]),
        }
        with intervene(model, what), capture(model, POST, "blocks.0.attn.hook_pattern") as acts:
            edited = model(IDS).logits
            twin = way(model)
            inside = twin(IDS).logits
        assert len(acts.all(POST)) == 1
        assert torch.equal(inside, expected)
        assert torch.equal(twin(IDS).logits, expected)
        with intervene(twin, what):
            assert torch.equal(twin(IDS).logits, edited)


@pytest.mark.parametrize(
    "site", ["attn.hook_z", "attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_q"]
)
def test_a_function_may_run_the_model_and_its_forward_is_plain(site):
    model, seen = tiny.model("llama"), []
    with torch.no_grad():
        plain = model(OTHER).logits

        def runs(value):
            with capture(model, "blocks.0.attn.hook_pattern") as inner:
                seen.append(model(OTHER).logits)
            assert inner["blocks.0.attn.hook_pattern"].shape[-1] == 5
            return value * 0.5

        found = []
        for edit in (runs, edits.scale(0.5)):
            with (
                intervene(model, {f"blocks.1.{site}": edit}),
                capture(model, "blocks.*.attn.hook_pattern") as acts,
            ):
                found.append((model(IDS).logits, acts["blocks.1.attn.hook_pattern"]))
    torch.testing.assert_close(found[0], found[1])
    assert len(seen) == 1
    assert torch.equal(seen[0], plain)
    assert _get_current_function_mode_stack() == []


def test_a_teacher_is_captured_though_an_edit_of_the_student_runs_it():
    student, teacher = tiny.model("llama"), tiny.model("gpt2")
    with torch.no_grad(), capture(teacher, POST) as acts:
        with intervene(student, {POST: lambda value: value + teacher(IDS).logits.mean()}):
            student(IDS)
    assert len(acts.all(POST)) == 1


def test_layers_that_share_a_block_are_told_apart_after_a_forward_that_ended_early():
    model = tiny.model("albert")
    with torch.no_grad():
        with capture(model, "blocks.*.hook_resid_post") as fresh:
            hidden = model(IDS, output_hidden_states=True).hidden_states
        assert torch.equal(fresh["blocks.0.hook_resid_post"], hidden[1])

        def fails(site, value):
            raise KeyError

        with capture(model, "blocks.*.hook_resid_post") as acts:
            with capture(model, "blocks.0.hook_resid_post", stop=True):
                model(IDS)
            with pytest.raises(KeyError), observe(model, "blocks.0.hook_mlp_out", see=fails):
                model(IDS)
            model(IDS)
    for layer in range(2):
        assert torch.equal(acts.all(f"blocks.{layer}.hook_resid_post")[-1], hidden[layer + 1])


def test_a_shared_block_that_is_resumed_is_edited_at_its_own_layer():
    torch.manual_seed(0)
    model = _albert()
    with torch.no_grad():
        clean = Resume(model.eval(), {"input_ids": IDS})
        with intervene(model, {"blocks.1.attn.hook_z[1]": edits.scale(4.0)}):
            whole = model(IDS).logits
            torch.testing.assert_close(clean.run(1, clean.residual(1)), whole)
    assert not torch.allclose(whole, clean.logits)


def _albert():
    import transformers as hf

    config = hf.AlbertConfig(
        vocab_size=tiny.VOCAB,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.5,
    )
    return hf.AlbertForMaskedLM(config)


def test_a_capture_that_stops_waits_for_all_sites_of_its_own_forward():
    model = tiny.model("llama")

    def fails(site, value):
        if value.shape[1] == 5:
            raise KeyError

    with (
        torch.no_grad(),
        capture(model, "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", stop=True) as acts,
    ):
        with pytest.raises(KeyError), observe(model, "blocks.0.hook_resid_post", see=fails):
            model(OTHER)
        model(IDS)
    assert [v.shape[1] for v in acts.all("blocks.0.hook_resid_pre")] == [5, 7]
    assert [v.shape[1] for v in acts.all("blocks.1.hook_resid_pre")] == [7]


def test_a_value_of_an_earlier_forward_is_not_copied_into_a_later_one():
    model, said = tiny.model("llama"), []
    block = intervene(model, {"blocks.0.hook_mlp_out": edits.copy("blocks.1.hook_mlp_out")})
    with torch.no_grad(), contextlib.suppress(SiteNeverFired), block:
        for _ in range(2):
            try:
                model(IDS)
            except EditError as error:
                said.append(str(error))
    assert len(said) == 2
    assert all("must come earlier" in message for message in said)


class Stack(torch.nn.Module):
    """Two linear blocks, one behind the other."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(3, 3, bias=False) for _ in range(2))

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_checkpointed_by_itself_repeats_its_edit_behind_a_forward_without_gradients(
    reentrant,
):
    """d(2 W x)/dx is 2 W: the repeat in backward has the edit, which asks for no positions."""
    stack, x = Stack(), torch.randn(1, 4, 3)
    start = x.clone().requires_grad_()
    with intervene(stack, {"module:blocks.*:output": edits.scale(2.0)}):
        with torch.no_grad():
            stack(x)
        out = checkpoint(stack.blocks[1], start, use_reentrant=reentrant)
    out.sum().backward()
    want = 2 * stack.blocks[1].weight.sum(0)
    torch.testing.assert_close(start.grad, want.detach().expand_as(x))


def test_a_block_called_by_itself_has_its_own_positions_where_an_edit_asks_for_them():
    """The second position of the block's own call, beside an edit that asks for none."""
    stack, x = Stack(), torch.randn(1, 4, 3)
    changes = {
        "module:blocks.0:output": edits.scale(2.0),
        "module:blocks.1:output": edits.zero().at(1),
    }
    with torch.no_grad(), intervene(stack, changes):
        first, second = stack.blocks[0](x), stack.blocks[1](x)
    with torch.no_grad():
        torch.testing.assert_close(first, 2 * stack.blocks[0](x))
        want = stack.blocks[1](x)
    want[:, 1] = 0
    torch.testing.assert_close(second, want)
