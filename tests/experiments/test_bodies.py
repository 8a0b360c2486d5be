"""Checkpoints of pairs and of half pairs read as a body, which is what probes and captures load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
import zoo
from layerscope.experiments.subject import load
from layerscope.hooks import capture, verify

from tools.command_grid import tokenizer

PAIRS = (
    "T5GemmaForConditionalGeneration",  # its encoder has a configuration of its own
    "MarianMTModel",  # its sinusoids are computed and never saved
    "UMT5ForConditionalGeneration",  # the class of its encoder does not say what it is
    "LongT5ForConditionalGeneration",
    "SwitchTransformersForConditionalGeneration",
    "FSMTForConditionalGeneration",  # its encoder has no configuration
)
HALVES = ("T5EncoderModel", "BartForCausalLM", "MarianForCausalLM")
SITE = "blocks.0.hook_resid_post"


@pytest.mark.parametrize("name", [*PAIRS, *HALVES])
def test_a_body_holds_the_whole_models_streams(name: str, tmp_path: Path) -> None:
    zoo.build(name).save_pretrained(tmp_path)
    # Read back, since sinusoids are not saved and the zoo's are drawn.
    model = getattr(hf, name).from_pretrained(tmp_path).eval()
    tokenizer().save_pretrained(tmp_path)
    subject = load(tmp_path, body_only=True, device="cpu", bos="never")
    (batch,) = subject.batches(subject.encode([" the old dog sees the birds"]))
    with capture(subject.model, SITE) as acts:
        subject.forward(batch)
    ids = batch.input_ids
    target = {"decoder_input_ids": ids[:, :2]} if name in PAIRS else {}
    with torch.no_grad():
        out = model(input_ids=ids, output_hidden_states=True, **target)
    states = out.encoder_hidden_states if name in PAIRS else out.hidden_states
    expected = states[1]
    torch.testing.assert_close(acts[SITE], expected, atol=1e-5, rtol=1e-5)
    pair = {"decoder_input_ids": ids[:, :2].repeat(2, 1)} if name.startswith("FSMT") else {}
    two_texts = torch.cat([ids, ids.flip(1)])
    assert verify(subject.model, {"input_ids": two_texts, **pair}, quick=True).status == "OK"
