"""Probes of pictures and sounds made by a script, where the answer is known."""

from __future__ import annotations

import csv
import json
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
from experiments.features.layout import FeatureError
from experiments.subject.errors import SubjectError
from experiments.subject.media import load_media, read_sound
from hooks import ActivationStore

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
    read = read_sound(str(tmp_path / "a.wav"), RATE)
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


def with_bad_lines(table: Path, bad: list[dict]) -> Path:
    """The table with lines of files that cannot be used between its own."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for place, row in enumerate(bad):
        rows.insert(7 * place + 3, {**rows[0], **row})
    return write_table(table.parent / f"{table.stem}-bad.csv", rows)


def test_pictures_that_cannot_be_used_are_left_out_counted_and_named(
    pictures, vision, tmp_path, capsys
):
    """The numbers are those of the table without them, of a run and of a store."""
    folder = pictures.parent
    (folder / "text.png").write_text("no picture")
    (folder / "half.png").write_bytes((folder / "0.png").read_bytes()[:90])
    table = with_bad_lines(
        pictures, [{"file": name} for name in ("missing.png", "text.png", "half.png")]
    )
    settings = {"model": vision, "l2": [0.1], "control_seeds": 1, "random_models": 0}
    settings |= {"property": ["colour"], "site": "hook_resid_post", "device": "cpu"}
    clean = probe(images=pictures, out=tmp_path / "clean", **settings)
    bad = probe(images=table, out=tmp_path / "bad", **settings)
    captured("images", table, vision, tmp_path / "acts")
    settings["site"] = "blocks.0.hook_resid_post"
    read = probe(images=table, out=tmp_path / "read", store=str(tmp_path / "acts"), **settings)
    columns = ["site", "score", "control", "majority"]
    for frame in (bad.frame, read.frame):
        rows = frame[columns].to_numpy().tolist()
        assert rows == clean.frame[columns].to_numpy().tolist()[: len(rows)]
    for run in ("bad", "read", "acts"):
        results = json.loads((tmp_path / run / "results.json").read_text())
        (note,) = [n["text"] for n in results["notes"] if n["kind"] == "dropped"]
        assert note.startswith("3 of 153 items of labels-bad.csv left out: line 5: no such file")
        assert "line 12: " in note
        assert "line 19: " in note
        assert note.count("expected a picture") == 2
    words = ["probe", "--model", vision, "--images", table, "--out", tmp_path / "few"]
    assert cli.main([*map(str, words), "--skip", "0.01"]) == 2
    assert "or leave them out with --skip 0.02" in capsys.readouterr().err


def test_sounds_that_cannot_be_used_are_left_out_counted_and_named(sounds, hearing, tmp_path):
    folder, rng = sounds.parent, np.random.default_rng(0)
    write_wav(folder / "empty.wav", np.zeros(0), RATE)
    write_wav(folder / "short.wav", 1000 * rng.normal(size=5), RATE)
    write_wav(folder / "cut.wav", 1000 * rng.normal(size=2000), RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:-1001])
    (folder / "text.wav").write_text("no sound")
    with wave.open(str(folder / "deep.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(3)
        sound.setframerate(RATE)
        sound.writeframes(bytes(3 * 2000))
    names = ("empty", "short", "cut", "text", "deep")
    table = with_bad_lines(sounds, [{"file": f"{name}.wav"} for name in names])
    store = captured("audio", table, hearing, tmp_path / "bad")
    expected = captured("audio", sounds, hearing, tmp_path / "clean")
    for site in BLOCK_SITES:
        torch.testing.assert_close(store.read(site), expected.read(site))
    results = json.loads((tmp_path / "bad" / "results.json").read_text())
    (note,) = [n["text"] for n in results["notes"] if n["kind"] == "dropped"]
    assert note.startswith("5 of 125 items of labels-bad.csv left out: line 5: ")
    with pytest.raises(PromptError, match=r"labels-bad.csv:5: .*without samples"):
        read_items(table, load_media(hearing, "audio").check_file)
    for name, why in (
        ("short", "the model refuses it"),
        ("cut", "expected 2000 samples, as its header says, got 1499"),
        ("text", "expected a WAV file|expected a sound"),
        ("deep", "expected 8, 16 or 32 bits"),
    ):
        with pytest.raises(SubjectError, match=why):
            load_media(hearing, "audio").check_file(str(folder / f"{name}.wav"))


BLOCK_SITES = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")
"""What transformers calls hidden_states[0] and hidden_states[1]."""


def captured(kind: str, table: Path, model: Path, out: Path, *more: object) -> ActivationStore:
    """What `capture` stores of a table at both sites."""
    given = ["capture", "--model", model, f"--{kind}", table, "--out", out, "--device", "cpu"]
    given += [word for site in BLOCK_SITES for word in ("--site", site)]
    assert cli.main([str(word) for word in (*given, *more)]) == 0
    return ActivationStore(out / "store")


def test_captured_pictures_are_hidden_states_pooled_by_hand(pictures, vision, tmp_path):
    store = captured("images", pictures, vision, tmp_path / "run", "--batch-tokens", 100)
    with pictures.open(newline="") as file:
        order = list(csv.DictReader(file))
    assert store.n_rows == len(order)
    assert store.n_shards > 2
    images = [Image.open(pictures.parent / row["file"]) for row in order]
    processor = hf.AutoImageProcessor.from_pretrained(vision)
    model = hf.ViTModel.from_pretrained(vision).eval()
    with torch.no_grad():
        out = model(**processor(images, return_tensors="pt"), output_hidden_states=True)
    for site, states in zip(BLOCK_SITES, out.hidden_states, strict=False):
        expected = states[:, 1:].mean(1)  # without CLS
        torch.testing.assert_close(store.read(site), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(store.read(BLOCK_SITES[0]), store.read(BLOCK_SITES[1]), atol=1e-2)


def test_captured_stretches_are_hidden_states_pooled_by_hand(sounds, hearing, tmp_path):
    store = captured("audio", sounds, hearing, tmp_path / "run")
    with sounds.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert store.n_rows == len(rows)
    extractor = hf.AutoFeatureExtractor.from_pretrained(hearing)
    model = hf.Wav2Vec2Model.from_pretrained(hearing).eval()
    for number in (0, 1, 40):
        first, second = rows[2 * number : 2 * number + 2]
        with wave.open(str(sounds.parent / first["file"])) as sound:
            raw = sound.readframes(sound.getnframes())
        samples = np.frombuffer(raw, "<i2").astype(np.float32) / 2**15
        inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            out = model(inputs["input_values"], output_hidden_states=True)
        length = len(samples) / RATE
        for site, states in zip(BLOCK_SITES, out.hidden_states, strict=False):
            n_frames = states.shape[1]
            edges = np.arange(n_frames + 1) * length / n_frames
            expected = []
            for row in (first, second):
                begins, ends = float(row["start"]), float(row["end"])
                covered = (edges[1:] > begins + 1e-6) & (edges[:-1] < ends - 1e-6)
                expected.append(states[0, torch.from_numpy(covered)].mean(0))
            stored = store.read(site, store.rows(number))
            torch.testing.assert_close(stored, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_a_probe_of_stored_pictures_is_that_of_a_run(pictures, vision, tmp_path):
    captured("images", pictures, vision, tmp_path / "acts")
    settings = {"l2": [0.1], "control_seeds": 1, "random_models": 0, "site": "hook_resid_post"}
    settings |= {"model": vision, "images": pictures, "device": "cpu", "property": ["colour"]}
    plain = probe(out=tmp_path / "plain", **settings).frame.query("layer <= 0")
    with pytest.raises(FeatureError, match=r"expected site blocks.1.hook_resid_post"):
        probe(out=tmp_path / "short", store=str(tmp_path / "acts"), **settings)
    settings["site"] = "blocks.0.hook_resid_post"
    read = probe(out=tmp_path / "read", store=str(tmp_path / "acts"), **settings).frame
    columns = ["site", "score", "control", "majority"]
    assert read[columns].to_numpy().tolist() == plain[columns].to_numpy().tolist()


def test_a_table_without_labels_can_be_captured_and_not_probed(pictures, vision, tmp_path):
    table = tmp_path / "files.csv"
    paths = [str(pictures.parent / f"{number}.png") for number in (3, 1, 2)]
    table.write_text("\n".join(["file", *paths]) + "\n")
    store = captured("images", table, vision, tmp_path / "run", "--limit", 2)
    assert store.n_rows == 2
    assert store.about["unit"] == "item"
    with pytest.raises(CorpusError, match="expected a column to read from the items"):
        read_items(table)


def test_pictures_that_are_left_as_they_are_have_the_models_size(vision, tmp_path, capsys):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    hf.ViTModel.from_pretrained(vision).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path / "vit")
    for name, size in (("fits", SIZE), ("large", 2 * SIZE)):
        Image.new("RGB", (size, size), (200, 30, 30)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.csv").write_text(f"file\n{name}.png\n")
    store = captured("images", tmp_path / "fits.csv", tmp_path / "vit", tmp_path / "fits")
    assert store.n_rows == 1
    given = ["capture", "--model", tmp_path / "vit", "--images", tmp_path / "large.csv"]
    given += ["--site", "hook_resid_post", "--out", tmp_path / "large"]
    assert cli.main([str(word) for word in given]) == cli.BAD_INPUT
    assert "large.png: the model refuses it: Input image size" in capsys.readouterr().err


def test_a_stretch_behind_the_extractors_window_has_no_vector(tmp_path, capsys):
    """Whisper hears so many seconds, whatever the file holds."""
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=50, vocab_size=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    hf.WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "whisper")
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(tmp_path / "whisper")
    write_tones(tmp_path / "long.wav", [LOW, HIGH], 0.8)
    rows = [(0.1, 0.5), (0.9, 1.2), (1.2, 1.5)]
    lines = [f"long.wav,{start},{end}" for start, end in rows]
    (tmp_path / "table.csv").write_text("\n".join(["file,start,end", *lines]) + "\n")
    store = captured("audio", tmp_path / "table.csv", tmp_path / "whisper", tmp_path / "run")
    assert store.index[:, 2].tolist() == [0, 1]
    text = (tmp_path / "run" / "results.json").read_text()
    assert "1 stretches start after the end" in text
    assert "1 files exceed" in text
    # The frames of 0.9 s to the end of the window, by a plain forward of the encoder.
    model = hf.WhisperModel.from_pretrained(tmp_path / "whisper").eval()
    extractor = hf.AutoFeatureExtractor.from_pretrained(tmp_path / "whisper")
    sound = read_sound(str(tmp_path / "long.wav"), RATE)
    heard = extractor(sound, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        states = model.encoder(heard, output_hidden_states=True).hidden_states[0][0]
    torch.testing.assert_close(store.read(BLOCK_SITES[0])[1], states[45:].mean(0))
