"""Every edit at every place under every way of running equals the same edit on the text alone,
or is refused in one line.
"""

from __future__ import annotations

import copy
import functools

import pytest
import running_modes as modes
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running_modes import EDITS, PLACES, TOLERANCE, WAYS, Case

from hooks import EditError, WrappedModel, edits, intervene

pytestmark = [
    pytest.mark.filterwarnings("ignore::layerscope.hooks.intervene.NothingChanged"),
    # peft's generate
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]


def check(case: Case, way: str) -> float:
    """How far the edit moves the oracle, where it is right; what is refused moves nothing."""
    if modes.is_refused(case, way):
        with pytest.raises(EditError) as refused:
            modes.difference(case, way)
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith("blocks.1.")
        return 0.0
    wrong, effect = modes.difference(case, way)
    assert wrong < TOLERANCE, f"{case.edit} at {case.place}, {way}: logits differ by {wrong:.2g}"
    return effect


@functools.cache
def grid() -> dict[str, list[Case]]:
    """Cases in which every two of edit, place and way meet, where they can."""
    cases: dict[str, list[Case]] = {}
    for first, way in enumerate(WAYS):
        cases[way] = []
        for number, edit in enumerate(EDITS):
            turns = (PLACES[(first + number + more) % len(PLACES)] for more in range(len(PLACES)))
            cases[way] += [
                case for place in turns if modes.is_comparable(case := Case(edit, place), way)
            ][:1]
    for case in (Case(edit, place) for place in PLACES for edit in EDITS):
        ways = [way for way in WAYS if modes.is_comparable(case, way)]
        if ways and not any(case in of for of in cases.values()):
            cases[min(ways, key=lambda way: (len(cases[way]), way != "right"))].append(case)
    return cases


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_is_what_it_is_on_the_text_alone(way):
    if WAYS[way][0] in ("lora", "prompt", "prefix"):
        pytest.importorskip("peft")
    moved = [check(case, way) for case in grid()[way]]
    assert sum(effect > 100 * TOLERANCE for effect in moved) > len(moved) / 2


@settings(max_examples=12)
@given(
    edit=st.sampled_from(sorted(EDITS)),
    place=st.sampled_from(PLACES),
    way=st.sampled_from(sorted(WAYS)),
)
def test_any_edit_at_any_place_under_any_way(edit, place, way):
    case = Case(edit, place)
    assume(WAYS[way][0] not in ("lora", "prompt", "prefix"))
    assume(modes.is_comparable(case, way))
    check(case, way)


def test_the_grid_meets_every_pair():
    met = [(case.edit, case.place, way) for way, cases in grid().items() for case in cases]
    possible = [
        (e, p, w) for e in EDITS for p in PLACES for w in WAYS if modes.is_comparable(Case(e, p), w)
    ]
    for one, two in ((0, 1), (0, 2)):
        assert {(row[one], row[two]) for row in met} == {(row[one], row[two]) for row in possible}


def test_compiled_models_are_refused():
    case = Case("add", "index")
    compiled = torch.compile(modes.model("llama"))
    with pytest.raises(WrappedModel, match="the model is compiled"):
        intervene(compiled, case.edits("llama", modes.LONG[None]))


@pytest.mark.parametrize("edit", ["zero", "mean per position", "add", "knockout", "zero scores"])
def test_under_autocast_padding_shifts_nothing(edit):
    """In bfloat16 a forward of two texts differs from that of one by rounding,
    which is small beside what the edit does.
    """
    case = Case(edit, "several")
    ids, mask, at = modes.TEXTS.batch("left")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with intervene(modes.model("llama"), case.edits("llama", ids)):
            found = (
                modes.model("llama")(input_ids=ids, attention_mask=mask, position_ids=at)
                .logits[1, 3:]
                .float()
            )
        with intervene(modes.model("llama"), case.edits("llama", modes.SHORT[None])):
            expected = modes.model("llama")(input_ids=modes.SHORT[None]).logits[0].float()
        plain = modes.model("llama")(input_ids=modes.SHORT[None]).logits[0].float()
    assert (found - expected).abs().max() < 0.1 * (expected - plain).abs().max()


def test_a_copy_made_inside_a_block_is_not_edited_behind_it():
    model = modes.model("llama")
    with intervene(model, Case("add", "all").edits("llama", modes.LONG[None])):
        twin = copy.deepcopy(model)
        model(input_ids=modes.LONG[None])
    with torch.no_grad():
        found = twin(input_ids=modes.LONG[None]).logits[0]
    torch.testing.assert_close(found, modes.unedited("llama", tuple(modes.LONG.tolist())))


def test_gradients_under_checkpointing_are_those_without_when_backward_comes_behind_the_block():
    found = []
    for checkpoints in (False, True):
        model = copy.deepcopy(modes.model("llama")).train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with intervene(model, Case("scale", "several").edits("llama", modes.LONG[None])):
            loss = model(input_ids=modes.LONG[None]).logits.square().sum()
        loss.backward()
        found.append(model.model.layers[1].self_attn.k_proj.weight.grad)
    torch.testing.assert_close(found[1], found[0])


def test_an_erased_direction_is_gone_under_autocast():
    from hooks import capture

    direction, site = modes.VECTOR / modes.VECTOR.norm(), "blocks.1.hook_resid_post"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), intervene(
        modes.model("llama"), {site: edits.erase(direction[None])}
    ), capture(modes.model("llama"), site) as acts:  # fmt: skip
        modes.model("llama")(input_ids=modes.LONG[None])
    assert acts[site].dtype == torch.float32
    assert (acts[site] @ direction).abs().max() < 1e-5
