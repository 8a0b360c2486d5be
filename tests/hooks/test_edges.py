"""What people hand to edits and models beside the usual: packed rows, odd positions and values,
edits of one place.
"""

from __future__ import annotations

import contextlib
import copy
import pickle

import numpy as np
import pytest
import running_modes as modes
import torch
import transformers as hf
import zoo
from running_modes import LONG, SHORT, VECTOR

from hooks import (
    EditError,
    PositionsUnknown,
    Reference,
    ReferenceMismatch,
    Resume,
    capture,
    edits,
    intervene,
    sites,
)
from layerscope.errors import InputError, UnknownName, UseError

SITE = "blocks.1.hook_resid_post"
LLAMA = modes.model("llama")
ROWS = torch.stack([LONG, LONG.flip(0)])


def logits(changes, rows=ROWS):
    with torch.no_grad(), intervene(LLAMA, changes):
        return LLAMA(input_ids=rows).logits


def packed():
    ids = torch.cat([LONG, SHORT])[None]
    at = torch.cat([torch.arange(len(LONG)), torch.arange(len(SHORT))])[None]
    with torch.no_grad():  # the model itself keeps the texts apart
        alone = LLAMA(input_ids=SHORT[None]).logits[0]
        together = LLAMA(input_ids=ids, position_ids=at, use_cache=False).logits[0]
    torch.testing.assert_close(together[len(LONG) :], alone)
    return {"input_ids": ids, "position_ids": at, "use_cache": False}


@pytest.mark.parametrize(
    "edit", [edits.scale(2.0).at(0), edits.scale(2.0).at(torch.ones(1, 11, dtype=torch.bool))]
)
def test_places_are_refused_where_a_row_packs_several_texts(edit):
    batch = packed()
    with pytest.raises(PositionsUnknown, match="packs several texts"), intervene(
        LLAMA, {SITE: edit}
    ):  # fmt: skip
        LLAMA(**batch)


def test_packed_rows_are_no_reference_and_take_edits_without_a_place():
    batch = packed()
    with pytest.raises(PositionsUnknown, match="packs several texts"):
        Reference.of(LLAMA, SITE, batches=[batch])
    with torch.no_grad(), intervene(LLAMA, {SITE: edits.scale(2.0)}):
        found = LLAMA(**batch).logits[:, len(LONG) :]
    torch.testing.assert_close(found, logits({SITE: edits.scale(2.0)}, SHORT[None]))


def test_position_ids_that_only_padding_repeats_pack_nothing():
    ids, mask, at = modes.TEXTS.batch("left")
    square = torch.ones(7, 7, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    with torch.no_grad(), intervene(LLAMA, {SITE: edits.add(VECTOR).at(0)}):
        found = LLAMA(input_ids=ids, attention_mask=square, position_ids=at).logits[1, 3:]
    expected = logits({SITE: edits.add(VECTOR).at(0)}, SHORT[None])[0]
    torch.testing.assert_close(found, expected, atol=modes.TOLERANCE, rtol=0)


def in_two_calls(batch, edit, whole=True):
    """The edited logits of the last column, behind a cache, of a windowed model that is given masks
    of queries and keys.

    Args:
        whole: whether the block sees the first call too.
    """
    model = modes.model("window")
    ids, mask, at = batch
    cache, end = hf.DynamicCache(), ids.shape[1]
    ahead = torch.ones(end, end, dtype=torch.bool).triu(1)
    window = model.config.sliding_window
    passed = torch.ones(end, end, dtype=torch.bool).tril(-window)
    seen = ~(ahead | passed) & mask.bool()[:, None, None, :]
    first, last = slice(0, end - 1), slice(end - 1, end)
    more = {"past_key_values": cache, "use_cache": True}
    with torch.no_grad(), contextlib.ExitStack() as stack:
        if whole:
            stack.enter_context(intervene(model, {SITE: edit}))
        shown = seen[..., first, first]
        model(input_ids=ids[:, first], attention_mask=shown, position_ids=at[:, first], **more)
        if not whole:
            stack.enter_context(intervene(model, {SITE: edit}))
        shown = seen[..., last, :]
        out = model(input_ids=ids[:, last], attention_mask=shown, position_ids=at[:, last], **more)
        return out.logits[:, -1]


def test_padding_that_an_earlier_call_told_is_known_behind_a_window_that_hides_it():
    edit = edits.add(VECTOR).at(len(SHORT) - 1)
    found = in_two_calls(modes.TEXTS.batch("left"), edit)
    for row, text in enumerate((LONG, SHORT)):
        with torch.no_grad(), intervene(modes.model("window"), {SITE: edit}):
            alone = modes.model("window")(input_ids=text[None]).logits[0, -1]
        torch.testing.assert_close(found[row], alone, atol=modes.TOLERANCE, rtol=0)


def test_padding_that_no_call_told_is_not_guessed_from_what_a_window_shows():
    with pytest.raises(PositionsUnknown, match="padding cannot be told"):
        in_two_calls(modes.TEXTS.batch("left"), edits.add(VECTOR).at(3), whole=False)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (np.int64(1), 1),
        (torch.tensor(1), 1),
        (np.array([0, 2]), [0, 2]),
        (range(3), [0, 1, 2]),
        ({0, 2}, [0, 2]),
        ([True, False, True, False, False, False, False], [0, 2]),
        (np.array([[False, True] + [False] * 5] * 2), 1),
    ],
)
def test_positions_may_be_of_any_whole_numbers(given, means):
    found, expected = (logits({SITE: edits.add(VECTOR).at(at)}) for at in (given, means))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "given",
    [True, 1.5, "a", None, [0.5], ["a"], slice(0, 4, -1), slice(0, 4, 0), slice(0.5, 2),
     torch.tensor([0.5]), torch.ones(1, 2, 3, dtype=torch.bool), {0: 1}],
)  # fmt: skip
def test_what_is_no_position_is_refused_when_the_edit_is_made(given):
    with pytest.raises(EditError, match="expected positions as an index"):
        edits.zero().at(given)
    if given is not None:
        with pytest.raises(EditError, match="expected positions as an index"):
            edits.knockout(keys=given)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: 0.0, "expected a tensor from function, got a float"),
        (lambda x: (x,), "got a tuple"),
        (lambda x: x.numpy(), "got a ndarray"),
        (lambda x: x.long(), "expected a tensor of torch.float32 from function, got torch.int64"),
        (lambda x: x > 0, "got torch.bool"),
        (lambda x: x.to(torch.complex64), "expected real values from an edit, got torch.complex64"),
    ],
)
def test_a_function_that_gives_no_value_of_the_site_is_refused(function, message):
    with pytest.raises(EditError, match=message):
        logits({SITE: function})


def test_edits_of_one_place_come_in_their_order():
    """A neuron that is zeroed between two edits of all neurons has the second one's value."""
    changes = {SITE: edits.scale(2.0), f"{SITE}[3]": edits.zero(), ("resid_post", 1): edits.add(VECTOR)}  # fmt: skip
    with torch.no_grad(), capture(LLAMA, SITE) as plain:
        LLAMA(ROWS)
    with torch.no_grad(), intervene(LLAMA, changes), capture(LLAMA, SITE) as edited:
        LLAMA(ROWS)
    expected = plain[SITE] * 2
    expected[..., 3] = 0
    torch.testing.assert_close(edited[SITE], expected + VECTOR)


def test_attention_is_edited_before_the_sum_with_it():
    """mid = 2 (pre + 0), whichever of the two edits is written first."""
    middle, added, pre = (f"blocks.1.hook_{name}" for name in ("resid_mid", "attn_out", "resid_pre"))  # fmt: skip
    changes = {middle: edits.scale(2.0), added: edits.zero()}
    with torch.no_grad(), intervene(LLAMA, changes), capture(LLAMA, middle, pre) as acts:
        LLAMA(ROWS)
    torch.testing.assert_close(acts[middle], 2 * acts[pre])


def test_blocks_that_run_position_first_are_read_text_first():
    model, ids = zoo.build("FSMTForConditionalGeneration"), torch.randint(3, 99, (3, 6))
    names = [name for name in sites(model) if "blocks." in name and "cross_attn.hook_" not in name]
    with torch.no_grad(), capture(model, *names) as acts:
        model(input_ids=ids, decoder_input_ids=ids[:, :5])
    assert {tuple(acts[n].shape[:2]) for n in names if n.startswith("blocks.")} == {(3, 6)}
    assert {tuple(acts[n].shape[:2]) for n in names if n.startswith("decoder")} == {(3, 5)}
    hidden = model.model.encoder(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(acts["blocks.0.hook_resid_post"], hidden)


def test_projections_that_are_clipped_behind_their_module_are_not_listed():
    sizes = {name: value for name, value in modes.SIZES.items() if name != "eos_token_id"}
    model = hf.OlmoForCausalLM(hf.OlmoConfig(**sizes, eos_token_id=2, clip_qkv=0.5))
    assert not sites(model, "blocks.*.attn.hook_z")[2:]
    assert "blocks.0.attn.hook_v" not in sites(model)


def test_an_export_is_refused():
    with pytest.raises(UseError, match=r"torch\.export"), torch.no_grad(), intervene(
        LLAMA, {SITE: edits.zero()}
    ):  # fmt: skip
        torch.export.export(LLAMA, (ROWS,), {"use_cache": False}, strict=False)


def test_a_text_that_goes_on_from_a_cache_is_not_resumed():
    cache = hf.DynamicCache(config=LLAMA.config)
    with torch.no_grad():
        LLAMA(input_ids=ROWS, past_key_values=cache)
    with pytest.raises(InputError, match="expected a text from its start, got past_key_values"):
        Resume(LLAMA, {"input_ids": ROWS, "past_key_values": cache})


def test_edits_of_a_resumed_prompt_tuned_model_count_the_text_alone():
    pytest.importorskip("peft")
    model = modes.model("prompt")
    ids, mask, _ = modes.TEXTS.batch("right")
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        clean = Resume(model, inputs)
        with intervene(model, {SITE: edits.add(VECTOR).at([0, -1])}):
            found, expected = clean.run(0, clean.residual(0)), model(**inputs).logits
    assert clean.exact
    torch.testing.assert_close(found, expected)


def test_a_mask_may_cover_the_room_of_a_static_cache():
    """The mask's columns behind this call's are of tokens to come."""
    ids, mask, at = modes.TEXTS.batch("left")
    room = torch.cat([mask, torch.ones(2, 9, dtype=torch.long)], dim=1)
    cache = hf.StaticCache(config=LLAMA.config, max_cache_len=16)
    changes = {SITE: edits.add(VECTOR).at([0, -1])}
    with torch.no_grad(), intervene(LLAMA, changes):
        found = LLAMA(ids, attention_mask=room, position_ids=at, past_key_values=cache).logits
    expected = logits(changes, SHORT[None])[0]
    torch.testing.assert_close(found[1, 3:], expected, atol=modes.TOLERANCE, rtol=0)


@pytest.mark.parametrize("site", ["module:model.layers.1:input", "blocks.1.attn.hook_z[1]"])
def test_a_function_that_changes_its_value_in_place_changes_nothing_else(site):
    def double(value):
        value.mul_(2)

    names = ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z")
    with torch.no_grad(), capture(LLAMA, *names) as before, intervene(LLAMA, {site: double}):
        found = LLAMA(ROWS).logits
    with torch.no_grad(), capture(LLAMA, *names) as plain:
        LLAMA(ROWS)
    torch.testing.assert_close(found, logits({site: edits.scale(2.0)}))
    assert torch.equal(before[names[0]], plain[names[0]])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda acts: pickle.loads(pickle.dumps(acts))])
def test_copied_activations_are_read_as_they_were(copied):
    with torch.no_grad(), capture(LLAMA, SITE) as acts:
        LLAMA(ROWS)
    found = copied(acts)
    assert torch.equal(found[SITE], acts[SITE])
    found[SITE].zero_()
    with pytest.raises(UseError, match="modified in place"):
        _ = found[SITE]


class Blocked(torch.autograd.Function):
    """The identity, through which no gradient passes."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *_):
        return None


def test_a_function_without_a_gradient_leaves_a_site_none():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Identity(), torch.nn.Linear(3, 3))
    model[1].forward = Blocked.apply
    with capture(model, "module:0:output", "module:2:output", grad=True) as acts:
        model(torch.ones(2, 3)).sum().backward()
    assert torch.equal(acts.grad["module:2:output"], torch.ones(2, 3))
    with pytest.raises(UnknownName, match="no gradient at module:0:output"):
        _ = acts.grad["module:0:output"]


def _reference_of_two():
    """Texts of 9 and of 4 tokens, and what the MLP gives for them."""
    texts = [modes.tokens(9, 11), modes.tokens(4, 12)]
    site, values = "blocks.1.hook_mlp_out", []
    handle = LLAMA.model.layers[1].mlp.register_forward_hook(
        lambda module, args, output: values.append(output[0])
    )
    with torch.no_grad():
        for text in texts:
            LLAMA(text[None])
    handle.remove()
    return site, Reference.of(LLAMA, site, batches=[{"input_ids": t[None]} for t in texts]), values


def test_chosen_reference_texts_are_those_of_samples_too():
    site, reference, values = _reference_of_two()
    given = {
        "do_sample": True,
        "num_return_sequences": 3,
        "max_new_tokens": 2,
        "eos_token_id": None,
    }
    with intervene(LLAMA, {site: edits.resample(reference, rows=[0, 0])}), capture(
        LLAMA, site
    ) as acts:  # fmt: skip
        LLAMA.generate(ROWS, attention_mask=torch.ones_like(ROWS), **given)
    for row in range(6):
        found = torch.cat([step[row] for step in acts.all(site)])
        torch.testing.assert_close(found, values[0][: len(found)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1], "a reference text of at least 7 tokens, got text 1 of 4"),
        ([0, 2], "indices of reference texts from 0 to 1, got 2"),
        ([0, -1], "indices of reference texts from 0 to 1, got -1"),
        ([0, 1, 0], "a reference text for each of 2 texts, got 3"),
    ],
)
def test_chosen_reference_texts_that_cannot_be_used_are_refused(rows, message):
    site, reference, values = _reference_of_two()
    with pytest.raises(ReferenceMismatch, match=message):
        logits({site: edits.resample(reference, rows=rows)})
    first = edits.resample(reference, rows=[0, 1]).at(slice(0, 4))  # where both have a token
    with torch.no_grad(), intervene(LLAMA, {site: first}), capture(LLAMA, site) as acts:
        LLAMA(ROWS)
    torch.testing.assert_close(acts[site][1, :4], values[1])
