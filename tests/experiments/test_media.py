"""Probes of pictures and sounds made by a script, where the answer is known."""

from __future__ import annotations

import csv
import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image, ImageDraw

from experiments import cli, probe
from experiments.corpus import CorpusError
from experiments.corpus.items import read_items
from experiments.corpus.records import PromptError
from experiments.subject.media import _read_sound, load_media

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230)}
SIZE = 24
RATE = 16_000
LOW, HIGH = 300, 2400


def write_table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Coloured shapes at drawn places, with a label that nothing shows."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(150):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(["circle", "square"])
        image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
        draw = getattr(ImageDraw.Draw(image), "ellipse" if shape == "circle" else "rectangle")
        left, top = rng.integers(1, SIZE - 13, size=2)
        draw((left, top, left + 11, top + 11), fill=COLOURS[colour])
        image.save(folder / f"{number}.png")
        rows.append(
            {
                "file": f"{number}.png",
                "colour": colour,
                "coin": rng.choice(["heads", "tails"]),
                "split": ("train", "train", "train", "dev", "test")[number % 5],
            }
        )
    return write_table(folder / "labels.csv", rows)


@pytest.fixture(scope="module")
def vision(tmp_path_factory) -> Path:
    """A tiny ViT with random weights and its processor."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = hf.ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    hf.ViTModel(config).save_pretrained(folder)
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def test_colour_is_read_from_the_embedding_and_a_coin_from_nowhere(pictures, vision, tmp_path):
    """Patches are linear in pixels, so their mean holds the mean colour."""
    results = probe(
        model=vision,
        images=pictures,
        out=tmp_path / "run",
        l2=[0.1],
        control_seeds=1,
        random_models=1,
    )
    scores = {(r["property"], r["site"]): r["score"] for r in results.records}
    assert scores["colour", "blocks.0.hook_resid_pre"] > 0.95
    for (name, site), score in scores.items():
        if name == "coin":
            assert 0.2 < score < 0.8, site
    assert results.frame.query("property == 'colour'").control.max() < 0.75


def test_the_vector_of_a_picture_is_the_mean_of_its_patches(pictures, vision):
    """Against the model's own hidden states; the CLS token is left out."""
    from experiments.features.layout import Layout, vectors

    subject = load_media(vision, "images")
    corpus = read_items(pictures)["test"]
    layout = Layout.of(subject, corpus.sentences)
    (batch,) = subject.batches(layout.encoded, tokens=10**6)
    site = "blocks.1.hook_resid_post"
    mine = vectors(subject, layout, batch, [site], "mean")[site]
    paths = [corpus.sentences[row].text for row in batch.rows]
    pixels = subject.tokenizer([Image.open(path) for path in paths], return_tensors="pt")
    with torch.no_grad():
        out = subject.model(**pixels, output_hidden_states=True)
    patches = out.hidden_states[-1][:, 1:]
    assert patches.shape[1] == (SIZE // 8) ** 2
    expected = (
        patches.mean(1) if torch.allclose(out.hidden_states[-1], _last(subject, pixels)) else None
    )
    assert expected is not None
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def _last(subject, pixels) -> torch.Tensor:
    """The last block's output, by a plain hook."""
    kept = []
    layers = [m for m in subject.model.modules() if type(m).__name__ == "ViTLayer"]
    handle = layers[-1].register_forward_hook(
        lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        subject.model(**pixels)
    handle.remove()
    return kept[0]


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """One channel of 16 bits."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())


def write_tones(path: Path, tones: list[int], seconds: float) -> None:
    time = np.arange(round(RATE * seconds)) / RATE
    samples = np.concatenate([np.sin(2 * math.pi * tone * time) for tone in tones])
    write_wav(path, samples * 2**14, RATE)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """Two tones a file, each a labelled stretch."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        seconds = float(rng.choice([0.1, 0.15]))
        pitches = [str(rng.choice(["low", "high"])) for _ in range(2)]
        tones = []
        for pitch in pitches:
            tones.append(int((LOW if pitch == "low" else HIGH) * rng.uniform(0.8, 1.2)))
        write_tones(folder / f"{number}.wav", tones, seconds)
        for place, pitch in enumerate(pitches):
            start = place * seconds
            rows.append(
                {"file": f"{number}.wav", "start": start, "end": start + seconds, "pitch": pitch}
            )
    return write_table(folder / "labels.csv", rows)


@pytest.fixture(scope="module")
def hearing(tmp_path_factory) -> Path:
    """A tiny wav2vec 2.0 with random weights and its extractor."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        conv_dim=(16, 16, 16), conv_stride=(5, 4, 2), conv_kernel=(10, 8, 4), num_feat_extract_layers=3,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )  # fmt: skip
    hf.Wav2Vec2Model(config).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def test_pitch_is_read_from_its_own_stretch(sounds, hearing, tmp_path):
    results = probe(
        model=hearing,
        audio=sounds,
        out=tmp_path / "run",
        l2=[0.1],
        control_seeds=0,
        random_models=0,
    )
    best = max(record["score"] for record in results.records)
    assert best > 0.9


def test_a_sound_is_read_at_the_rate_of_the_model(tmp_path):
    """A sine of 100 Hz written at 8 kHz is the same sine at 16 kHz."""
    time = np.arange(8000) / 8000
    write_wav(tmp_path / "a.wav", np.sin(2 * math.pi * 100 * time) * 2**15 * 0.9, 8000)
    read = _read_sound(str(tmp_path / "a.wav"), RATE)
    expected = 0.9 * np.sin(2 * math.pi * 100 * np.arange(RATE) / RATE)
    assert len(read) == RATE
    assert np.abs(read - expected)[100:-100].max() < 0.01


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\nno.png,a\n", r"labels.csv:2: no such file"),
        ("label\na\n", r"labels.csv:2: expected a column 'file'"),
        ("file\nx.png\n", r"expected a column to read from the items"),
        ("file,start,end,label\nx.png,2,1,a\n", r"expected start and end in seconds"),
        ("file,label,split\nx.png,a,train\n", r"expected items of train, dev and test"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, table, message):
    (tmp_path / "x.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises((CorpusError, PromptError), match=message):
        read_items(tmp_path / "labels.csv")


def test_a_file_that_is_no_picture_is_one_line(tmp_path, vision, capsys):
    rows = []
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
        rows.append({"file": f"{number}.png", "label": "ab"[number % 2]})
    table = write_table(tmp_path / "labels.csv", rows)
    words = [
        "probe",
        "--model",
        str(vision),
        "--images",
        str(table),
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main(words) == 2
    assert "expected a picture" in capsys.readouterr().err
