"""Commands on saved models of classes that people load:
a sample of what ``tools/command_grid.py`` runs whole.
"""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from experiments.subject import load
from tools import command_grid

SAMPLE = (
    ("Gemma3ForConditionalGeneration", "ablate", "ok"),
    ("Qwen2_5_VLForConditionalGeneration", "capture", "ok"),
    ("Qwen2AudioForConditionalGeneration", "attribute", "ok"),
    ("M2M100ForConditionalGeneration", "capture", "ok"),
    ("GptOssForCausalLM", "attend", "ok"),
    ("ViTModel", "doctor", "ok"),
    ("CLIPModel", "doctor", "ok"),
    ("MarianMTModel", "probe", "ok"),
    ("T5GemmaForConditionalGeneration", "capture", "ok"),
    ("WhisperForConditionalGeneration", "capture", "refused"),
    ("MambaForCausalLM", "prune", "refused"),
)


@pytest.mark.parametrize(("name", "command", "status"), SAMPLE)
def test_a_command_ends_or_says_in_one_line_why_not(name: str, command: str, status: str):
    with command_grid.workplace(name):
        cell = command_grid.run(name, command, "run")
    assert cell.status == status, cell
    assert "Error" not in cell.line or "cannot be run on a short text alone" in cell.line


def test_a_model_of_pictures_and_text_reads_a_text_as_transformers_does():
    with command_grid.workplace("Gemma3ForConditionalGeneration"):
        subject = load("model", bos="never")
        plain = hf.Gemma3ForConditionalGeneration.from_pretrained("model", dtype=torch.float32)
    (batch,) = subject.batches(subject.encode(["the old dog sees the cat"]))
    logits = subject.forward(batch, logits=True).logits
    with torch.inference_mode():
        expected = plain.eval()(input_ids=batch.input_ids).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert (subject.vocabulary, subject.n_layers, subject.d_model) == (100, 2, 32)
