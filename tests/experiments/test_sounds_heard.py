"""Attribution and attention of models that write what they hear: against sounds that are silenced
by hand, autograd on the features, and the model's own eager patterns.
"""

from __future__ import annotations

import json
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech
import torch
import transformers as hf
from layerscope.experiments import cli
from layerscope.experiments.attribution import attribute
from layerscope.experiments.attribution.question import Target
from layerscope.experiments.subject import load
from layerscope.experiments.subject.heard import HeardSound
from layerscope.experiments.subject.media import seconds_of
from layerscope.experiments.subject.spoken import SpokenSubject

from tools.command_grid import tokenizer

BITS = 1 / np.log(2)
PREFIX = " the old"
MAKE = {
    "whisper": (speech.whisper, "WhisperForConditionalGeneration"),
    "moonshine": (speech.moonshine, "MoonshineForConditionalGeneration"),
}


@pytest.fixture(scope="module", params=MAKE)
def heard(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a model with its sounds, and the model as transformers loads it."""
    make, name = MAKE[request.param]
    folder = make(tmp_path_factory.mktemp(request.param))
    model = getattr(hf, name).from_pretrained(folder / "model", attn_implementation="eager")
    return folder, model.eval()


def subject_of(folder: Path) -> SpokenSubject:
    subject = load(folder / "model", device="cpu", speech=True)
    assert isinstance(subject, SpokenSubject)
    return subject


def log2p(folder: Path, model: Any, values: np.ndarray, prefix: str, answer: str) -> float:
    """log2 p of an answer behind a prefix, by extractor and model alone."""
    words = tokenizer()
    given, labels = words(prefix)["input_ids"], words(answer)["input_ids"]
    decoder = torch.tensor([[1, *given, *labels[:-1]]])
    with torch.no_grad():
        out = model(**speech.features(folder, values), decoder_input_ids=decoder).logits[0]
    of_tokens = out[len(given) :].log_softmax(-1)
    return float(BITS * of_tokens[range(len(labels)), labels].sum())


def test_spans_and_words_by_hand(heard: tuple[Path, Any]) -> None:
    folder, model = heard
    subject = subject_of(folder)
    sound = HeardSound(folder / "low.wav", subject, 0.1)
    assert sound.cell_names() == ["0.00-0.10 s", "0.10-0.20 s", "0.20-0.30 s", "0.30-0.40 s"]
    whole = speech.samples(folder, "low.wav")
    value = log2p(folder, model, whole, PREFIX, " dog sees")
    losses = []
    for start in range(0, len(whole), 1600):
        silenced = whole.copy()
        silenced[start : start + 1600] = 0
        losses.append(value - log2p(folder, model, silenced, PREFIX, " dog sees"))
    target = Target(" dog sees", prefix=PREFIX)
    found = attribute(subject, sound.path, target=target, sound=sound, removal="mean")
    assert found.units[4:] == ("the", "old")
    assert found.value == pytest.approx(value, abs=2e-4)
    np.testing.assert_allclose(found.scores[:4], losses, atol=3e-4)
    assert np.abs(losses).max() > 0.01

    # A word is out where its token has the mean embedding.
    table = model.get_decoder().embed_tokens
    (word,) = tokenizer()(" old")["input_ids"]

    def without(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((args[0] == word)[..., None], table.weight.mean(0), output)

    with torch.no_grad():
        handle = table.register_forward_hook(without)
        loss = value - log2p(folder, model, whole, PREFIX, " dog sees")
        handle.remove()
    assert found.scores[5] == pytest.approx(loss, abs=3e-4)


def test_gradient_times_what_silence_changes(heard: tuple[Path, Any]) -> None:
    folder, model = heard
    subject = subject_of(folder)
    sound = HeardSound(folder / "high.wav", subject, 0.1)
    whole = speech.samples(folder, "high.wav")
    ((name, values),) = speech.features(folder, whole).items()
    values.requires_grad_()
    words = tokenizer()
    decoder = torch.tensor([[1, *words(PREFIX)["input_ids"]]])
    (label,) = words(" dog")["input_ids"]
    logits = model(**{name: values}, decoder_input_ids=decoder).logits[0, -1]
    (slope,) = torch.autograd.grad(BITS * logits.log_softmax(-1)[label], values)
    silenced = whole.copy()
    silenced[3200:4800] = 0
    change = values.detach() - speech.features(folder, silenced)[name]
    target = Target(" dog", prefix=PREFIX)
    found = attribute(subject, sound.path, target=target, sound=sound, method="grad-input")
    assert found.scores[2] == pytest.approx(float((slope * change).sum()), abs=1e-3)

    settings: dict[str, Any] = {"target": target, "sound": sound}
    if name == "input_features":  # Moonshine divides by the size of a sound, here of silence
        path = attribute(subject, sound.path, method="ig", steps=32, **settings)
        assert path.scores.sum() == pytest.approx(path.value - path.baseline, rel=0.02)

    # Leave-one-out with few exact units begins with the same first-order estimates.
    fine = HeardSound(folder / "high.wav", subject, 0.05)
    settings = {"target": target, "sound": fine}
    slopes = attribute(subject, fine.path, method="grad-input", **settings)
    estimated = attribute(subject, fine.path, verify=1, **settings)
    np.testing.assert_allclose(estimated.more["estimates"][:14], slopes.scores[:14], atol=1e-6)
    exact = attribute(subject, fine.path, **settings)
    chosen = estimated.more["exact"]
    np.testing.assert_allclose(estimated.scores[chosen], exact.scores[chosen], atol=1e-6)


def run(folder: Path, command: str, out: Path) -> dict[str, Any]:
    args = [*command.split(), "--model", str(folder / "model"), "--device", "cpu"]
    assert cli.main([*args, "--out", str(out)]) == 0
    return json.loads((out / "results.json").read_text())


def write_prompts(folder: Path) -> Path:
    lines = [
        {"audio": "low.wav", "target_prefix": PREFIX, "answer": " dog", "wrong": " dogs"},
        {"audio": "high.wav", "answer": " the cats love"},
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "lines.jsonl"


def test_the_commands_on_sounds(heard: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = heard
    file = write_prompts(folder)
    command = f"attribute --prompts {file} --seconds 0.2 --method leave-one-out --null-draws 1"
    results = run(folder, command, tmp_path / "attribute")
    share = results["modalities"][0]
    change = share["value"] - share["without_both"]
    assert share["kind"] == "sound"
    assert share["medium"] + share["words"] == pytest.approx(change, abs=1e-6)
    # The first prompt's number is a difference of logits: of log-probabilities, in nats.
    silence = np.zeros(round(0.4 * speech.RATE), np.float32)
    bits = [log2p(folder, model, silence, PREFIX, answer) for answer in (" dog", " dogs")]
    assert share["without_medium"] == pytest.approx((bits[0] - bits[1]) / BITS, abs=3e-4)
    assert results["records"][0]["patches"] == 2
    assert results["sounds"][0]["spans"] == [[0.0, 0.2], [0.2, 0.4]]
    page = (tmp_path / "attribute" / "report.html").read_text()
    assert "spans of low.wav" in page
    assert "the sound adds" in page

    if "moonshine" in str(folder):  # the random Whisper ends at once
        command = f"attribute --audio {folder}/low.wav --generate 2 --null-draws 0"
        written = run(folder, command, tmp_path / "own")
        assert len({record["item"] for record in written["records"]}) == 2


def test_attend_has_the_eager_patterns(heard: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = heard
    results = run(folder, f"attend --prompts {write_prompts(folder)}", tmp_path / "attend")
    ((name, values),) = speech.features(folder, speech.samples(folder, "high.wav")).items()
    decoder = torch.tensor([[1, *tokenizer()(" the cats love")["input_ids"]]])
    with torch.no_grad():
        seen = model(**{name: values}, decoder_input_ids=decoder, output_attentions=True)
    encoder, cross = (
        torch.cat(layers).numpy() for layers in (seen.encoder_attentions, seen.cross_attentions)
    )
    n_frames = encoder.shape[-1]
    own = round(n_frames * 0.7) if name == "input_features" else n_frames
    shown = {(one.get("stack", "X"), i // 2): one for i, one in enumerate(results["shown_targets"])}
    drawn = np.array(shown["X", 1]["heads"])
    np.testing.assert_allclose(drawn.sum(-1), 1, atol=0.02)
    assert drawn.shape[:3] == cross.shape[:3]
    # Seven spans of a tenth of a second; of Whisper a last column is the padding.
    edges = [*np.linspace(0, own, 8).round().astype(int), n_frames]
    for column in range(7 + (own < n_frames)):
        frames = cross[..., edges[column] : edges[column + 1]]
        np.testing.assert_allclose(drawn[..., column], frames.sum(-1), atol=6e-4)
    heads = {(one["stack"], one["layer"], one["index"]): one for one in results["records"]}
    assert len(heads) == 3 * 2 * 4

    file = folder / "one.jsonl"
    file.write_text(json.dumps({"audio": "high.wav", "answer": " the cats love"}) + "\n")
    results = run(folder, f"attend --prompts {file}", tmp_path / "one")
    heads = {(one["stack"], one["layer"], one["index"]): one for one in results["records"]}
    rows = encoder[1, 2, :own].astype(float)
    entropy = -(rows * np.log(rows.clip(1e-30))).sum(-1).mean() / np.log(n_frames)
    assert heads["E", 1, 2]["entropy"] == pytest.approx(entropy, abs=1e-4)
    assert heads["E", 1, 2]["end"] == pytest.approx(rows[:, own:].sum(-1).mean(), abs=1e-4)
    within = rows[:, :own] / rows[:, :own].sum(-1, keepdims=True)
    steps = np.abs(np.subtract.outer(np.arange(own), np.arange(own))) * 0.7 / own
    distance = (within * steps).sum(-1).mean()
    assert heads["E", 1, 2]["distance"] == pytest.approx(distance, abs=1e-4)
    confidence = cross[0, 1].max(-1).mean()
    assert heads["X", 0, 1]["confidence"] == pytest.approx(confidence, abs=1e-4)
    assert "Sound and transcript" in (tmp_path / "one" / "report.html").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("attribute --audio {}/none.wav", "no such sound"),
        ("attribute --audio {}/low.wav --text word", "expected one of --text"),
        (
            "attribute --audio {}/low.wav --seconds 0",
            "--seconds: expected a number above 0, got 0.0",
        ),
        ("attribute --audio {}/low.wav --method lrp", "one stack of blocks"),
        ("attribute --audio {}/low.wav --method smoothgrad", "with a sound expected one of"),
        ("attribute --audio {}/low.wav --target dog --flips 1", "without a sound"),
        ("attend --prompts {}/lines.jsonl --flow", "--flow: expected texts, got sounds"),
    ],
)
def test_what_does_not_fit_a_sound_is_one_line(
    heard: tuple[Path, Any], tmp_path: Path, capsys: Any, command: str, message: str
) -> None:
    folder, _ = heard
    write_prompts(folder)
    args = command.format(folder).split()
    args += ["--model", str(folder / "model"), "--out", str(tmp_path / "run")]
    assert cli.main(args) == cli.BAD_INPUT
    assert message in capsys.readouterr().err


def test_a_sound_that_was_written_again_is_as_long_as_it_is_now(tmp_path):
    path = tmp_path / "a.wav"
    for seconds in (1, 2):
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(2 * 8000 * seconds))
        os.utime(path, (seconds, seconds))
        assert seconds_of(str(path)) == seconds
