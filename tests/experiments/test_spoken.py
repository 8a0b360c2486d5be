"""A model that writes what it hears: ablation against edited weights,
and one line from what takes no sounds.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech
import torch
import transformers as hf
from layerscope.experiments import ablate, cli
from layerscope.experiments.metrics.reads import BITS

from tools.command_grid import tokenizer

PROMPTS = (
    {"audio": "low.wav", "target_prefix": " the old dog", "answer": " sees", "wrong": " see"},
    {"audio": "high.wav", "answer": " the cats love", "wrong": " the cat loves"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper that hears one second, sounds, and prompts about them."""
    made = speech.whisper(tmp_path_factory.mktemp("whisper"))
    lines = "".join(json.dumps(prompt) + "\n" for prompt in PROMPTS)
    (made / "prompts.jsonl").write_text(lines, encoding="utf-8")
    return made


def features(folder: Path, name: str) -> torch.Tensor:
    """A sound as the extractor makes it, read by SciPy."""
    return speech.features(folder, speech.samples(folder, name))["input_features"]


def difference(folder: Path, model: Any, prompt: dict[str, str]) -> float:
    """log2 p(answer) - log2 p(wrong) of one sound, by the model's own forward."""
    words, heard = tokenizer(), features(folder, prompt["audio"])
    given = words(prompt.get("target_prefix", ""))["input_ids"]
    value = 0.0
    for field, sign in (("answer", 1), ("wrong", -1)):
        labels = [*given, *words(prompt[field])["input_ids"]]
        decoder = torch.tensor([[1, *labels[:-1]]])
        with torch.no_grad():
            logits = model(input_features=heard, decoder_input_ids=decoder).logits[0]
        of_tokens = logits.log_softmax(-1)[range(len(labels)), labels]
        value += sign * BITS * float(of_tokens[len(given) :].sum())
    return value


def output_projection(model: Any, site: str) -> torch.nn.Linear:
    """The projection behind a head's values."""
    stack = model.model.decoder if site.startswith("decoder") else model.model.encoder
    layer = stack.layers[int(site.split(".")[1])]
    return (layer.encoder_attn if "cross" in site else layer.self_attn).out_proj


def ablated(folder: Path, out: Path, value: str) -> tuple[Any, Any]:
    """The heads' effects, and the model to repeat them on."""
    results = ablate(
        model=folder / "model", prompts=folder / "prompts.jsonl", metric="answer_difference",
        value=value, positions="all", device="cpu", out=out,
    )  # fmt: skip
    model = hf.WhisperForConditionalGeneration.from_pretrained(folder / "model").eval()
    return results, model


def test_each_head_is_its_columns(folder: Path, tmp_path: Path) -> None:
    results, model = ablated(folder, tmp_path / "run", "zero")
    clean = [difference(folder, model, prompt) for prompt in PROMPTS]
    assert results.raw["baseline"]["value"] == pytest.approx(np.mean(clean), abs=2e-4)
    sites = {record["site"] for record in results.records}
    assert len(sites) == 3 * 2 * 4
    for record in results.records:
        name, _, index = record["site"].partition("[")
        cut, head = copy.deepcopy(model), int(index.rstrip("]"))
        with torch.no_grad():
            output_projection(cut, name).weight[:, 8 * head : 8 * head + 8] = 0
        effects = [difference(folder, cut, prompt) for prompt in PROMPTS]
        expected = np.mean(np.subtract(effects, clean))
        assert record["effect"] == pytest.approx(expected, abs=3e-4), record["site"]
    assert max(abs(record["effect"]) for record in results.records) > 0.01


def test_the_mean_is_over_both_sounds(folder: Path, tmp_path: Path) -> None:
    """One head of the encoder at its mean, by a plain hook."""
    results, model = ablated(folder, tmp_path / "run", "mean")
    projection, seen = output_projection(model, "blocks.1"), []
    handle = projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for prompt in PROMPTS:
            model.model.encoder(features(folder, prompt["audio"]))
    handle.remove()
    # The answer's texts are both of one prompt: each sound counts as often as the other.
    mean = torch.cat(seen).mean((0, 1))[8:16]

    def at_mean(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        value = args[0].clone()
        value[..., 8:16] = mean
        return (value,)

    clean = [difference(folder, model, prompt) for prompt in PROMPTS]
    handle = projection.register_forward_pre_hook(at_mean)
    edited = [difference(folder, model, prompt) for prompt in PROMPTS]
    handle.remove()
    record = next(r for r in results.records if r["site"] == "blocks.1.attn.hook_z[1]")
    assert record["effect"] == pytest.approx(np.mean(np.subtract(edited, clean)), abs=3e-4)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("attend --text {}/low.wav", "'probe --audio' and 'capture --audio'"),
        ("ablate --text word --target word", "that has a column audio"),
        ("lens --prompts {}/prompts.jsonl", "'layerscope ablate', 'attend' and 'attribute' alone"),
        ("ablate --prompts {}/long.jsonl", "at most 1 s, got 1.5 s"),
        ("ablate --prompts {}/missing.jsonl", "no such sound"),
        ("ablate --prompts {}/both.jsonl", "expected a prompt or audio, got both"),
    ],
)
def test_what_takes_no_sounds_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    line = {"answer": " sees", "wrong": " see"}
    for name, more in (
        ("long", {"audio": "long.wav"}),
        ("missing", {"audio": "none.wav"}),
        ("both", {"audio": "low.wav", "prompt": "the"}),
    ):
        (folder / f"{name}.jsonl").write_text(json.dumps({**line, **more}) + "\n")
    given = command.format(folder).split()
    given += ["--model", str(folder / "model"), "--out", str(tmp_path / "run")]
    assert cli.main(given) == cli.BAD_INPUT
    assert message in capsys.readouterr().err


def test_a_sound_that_cannot_be_read_is_left_out(folder: Path, tmp_path: Path) -> None:
    """Of prompts and of references; the others' numbers are those without it."""
    (folder / "text.wav").write_text("no sound")
    bad = {"audio": "text.wav", "answer": " sees", "wrong": " see"}
    long = {"audio": "long.wav", "answer": " sees", "wrong": " see"}
    lines = "".join(json.dumps(prompt) + "\n" for prompt in (PROMPTS[0], bad, long, PROMPTS[1]))
    (folder / "some.jsonl").write_text(lines, encoding="utf-8")
    settings = {
        "model": folder / "model", "component": "mlps", "metric": "answer_difference",
        "value": "mean", "positions": "all", "device": "cpu",
    }  # fmt: skip
    results = ablate(
        **settings, prompts=folder / "some.jsonl", reference=folder / "some.jsonl", skip=0.5,
        out=tmp_path / "bad",
    )  # fmt: skip
    few = folder / "prompts.jsonl"
    clean = ablate(**settings, prompts=few, reference=few, out=tmp_path / "clean")
    effects = [[record["effect"] for record in one.records] for one in (results, clean)]
    assert effects[0] == pytest.approx(effects[1], abs=1e-6)
    notes = [note["text"] for note in results.notes if note["kind"] == "dropped"]
    for what in ("items", "reference texts"):
        (note,) = [text for text in notes if f" {what} left out" in text]
        assert note.startswith("2 of 4 ")
        assert "line 2: " in note
        assert "line 3: " in note


def test_a_model_of_text_is_given_no_sounds(folder: Path, tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "gpt2"
    config = hf.GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    hf.GPT2LMHeadModel(config).save_pretrained(text)
    tokenizer().save_pretrained(text)
    given = ["ablate", "--model", str(text), "--prompts", str(folder / "prompts.jsonl")]
    assert cli.main([*given, "--out", str(tmp_path / "run")]) == cli.BAD_INPUT
    assert "prompts with audio need a speech recognition model" in capsys.readouterr().err
