"""Every edit at every place under every way of running equals the same edit on the text alone, or is refused in one line."""

from __future__ import annotations

import pytest
from running_modes import EDITS, PLACES, TOLERANCE, WAYS, Case, difference, is_comparable, is_refused

from hooks import EditError

pytestmark = pytest.mark.filterwarnings("ignore::layerscope.hooks.intervene.NothingChanged")


def check(case: Case, way: str) -> float:
    """How far the edit moves the oracle, where it is right; what is refused moves nothing."""
    if is_refused(case, way):
        with pytest.raises(EditError) as refused:
            difference(case, way)
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith("blocks.1.")
        return 0.0
    wrong, effect = difference(case, way)
    assert wrong < TOLERANCE, f"{case.edit} at {case.place}, {way}: logits differ by {wrong:.2g}"
    return effect


def grid(way: str) -> list[Case]:
    """Every edit once, the places taken in turn: over all ways every two of edit, place and way meet."""
    first = list(WAYS).index(way)
    cases = []
    for number, edit in enumerate(EDITS):
        turns = (PLACES[(first + number + more) % len(PLACES)] for more in range(len(PLACES)))
        cases += [case for place in turns if is_comparable(case := Case(edit, place), way)][:1]
    return cases


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_is_what_it_is_on_the_text_alone(way):
    if WAYS[way][0] in ("lora", "prompt", "prefix"):
        pytest.importorskip("peft")
    moved = [check(case, way) for case in grid(way)]
    assert sum(effect > 100 * TOLERANCE for effect in moved) > len(moved) / 2
