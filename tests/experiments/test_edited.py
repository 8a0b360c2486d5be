"""Studies inside an intervention measure the edited model, and no such run is taken for another."""

from __future__ import annotations

import math

import pytest
import torch
from layerscope.experiments import attribute
from layerscope.hooks.intervene import edits_on

from layerscope import edits, intervene
from layerscope.errors import LayerscopeError

from .. import tiny


def test_a_study_measures_the_edited_model_and_says_so(tmp_path):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    options = {"model": (model, tokenizer), "text": "w3 w4 w5", "target": " w6"}
    plain = attribute(**options, out=tmp_path / "plain")
    with intervene(model, {"blocks.*.hook_mlp_out": edits.zero()}):
        assert len(edits_on(model)) == 1
        edited = attribute(**options, out=tmp_path / "edited")
        ids = [tokenizer.bos_token_id, *tokenizer("w3 w4 w5")["input_ids"]]
        oracle = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        with pytest.raises(LayerscopeError, match="edits"):
            attribute(**options, out=tmp_path / "plain")
    assert edits_on(model) == {}
    assert plain.notes != edited.notes
    assert "under edits: blocks.0.hook_mlp_out zero" in edited.notes[0]["text"]
    target = tokenizer.convert_tokens_to_ids("w6")
    value = edited.records[0]["value"] * math.log(2)  # bits
    assert value == pytest.approx(oracle[target].item(), abs=1e-4)
    assert value != pytest.approx(plain.records[0]["value"] * math.log(2), abs=1e-4)
    # the same edits are the same run, others of the same name are not
    with intervene(model, {"blocks.*.hook_mlp_out": edits.zero()}):
        again = attribute(**options, out=tmp_path / "edited")
    assert again.raw == edited.raw
    for factor in (2.0, 3.0):
        with intervene(model, {"blocks.1.hook_mlp_out": edits.scale(factor)}):
            attribute(**options, out=tmp_path / str(factor))
    with (
        intervene(model, {"blocks.1.hook_mlp_out": edits.scale(2.0)}),
        pytest.raises(LayerscopeError, match="edits"),
    ):
        attribute(**options, out=tmp_path / "3.0")
