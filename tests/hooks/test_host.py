"""Asking for values in main memory: on a GPU each such call waits for all that was given to it,
so none may be asked a site.
"""

import pytest
import tiny
import torch
from torch.overrides import TorchFunctionMode

from hooks import Reference, Resume, capture, edits, intervene

IDS = torch.randint(3, tiny.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
ASKS = {"cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "nonzero", "equal"}


class Asked(TorchFunctionMode):
    """Counts the calls that need a tensor's values in main memory."""

    def __init__(self, names=frozenset(ASKS)):
        super().__init__()
        self.names, self.calls = names, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.names:
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [False, True])
def test_capture_asks_for_nothing_however_many_sites(grad):
    model = tiny.model("llama")
    names = ("blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "blocks.*.mlp.hook_post")
    asked = {}
    for chosen in (names[:1], names):
        with capture(model, *chosen, grad=grad), Asked() as mode:
            model(IDS, attention_mask=MASK)
        asked[chosen] = len(mode.calls)
    with Asked() as mode:
        model(IDS, attention_mask=MASK)
    assert set(asked.values()) == {len(mode.calls)}


def test_edits_at_positions_bring_the_mask_over_once_a_forward():
    model = tiny.model("llama")
    for positions in (-1, [1, 2], slice(1, 3)):
        copies = set()
        for places in (["blocks.0"], ["blocks.0", "blocks.1"]):
            edit = edits.zero().at(positions)
            chosen = {f"{place}.hook_resid_post": edit for place in places}
            with torch.no_grad(), intervene(model, chosen), Asked({"cpu"}) as mode:
                model(IDS, attention_mask=MASK)
            copies.add(len(mode.calls))
        assert copies == {1}, positions


def test_a_resampled_forward_brings_its_text_over_once():
    """All sites of a forward draw the same texts: what decides the draw is asked for once."""
    model = tiny.model("llama")
    others = {"input_ids": IDS + 1, "attention_mask": MASK}
    reference = Reference.of(model, "blocks.*.hook_resid_post", batches=[others])
    asked = {}
    for places in (("blocks.0",), ("blocks.0", "blocks.1")):
        chosen = {f"{place}.hook_resid_post": edits.resample(reference) for place in places}
        with torch.no_grad(), intervene(model, chosen), Asked({"cpu"}) as mode:
            model(IDS, attention_mask=MASK)
        asked[len(places)] = len(mode.calls)
    assert asked[1] == asked[2]


def test_only_what_is_read_is_projected_to_the_vocabulary():
    """The recorded forward's head sees the columns that some text is read at;
    the logits are the whole model's.
    """
    model = tiny.model("llama")
    seen = []
    handle = model.lm_head.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    reads = torch.tensor([[0, 6], [1, 4], [0, 4]])
    try:
        clean = Resume(model, {"input_ids": IDS, "attention_mask": MASK}, positions=reads)
        with torch.no_grad():
            whole = model(IDS, attention_mask=MASK).logits
    finally:
        handle.remove()
    assert clean.exact
    assert seen[0] == (2, 2, tiny.VOCAB)
    torch.testing.assert_close(clean.logits, whole[reads[:, 0], reads[:, 1]])
