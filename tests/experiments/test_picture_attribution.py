"""Attribution of an answer about a picture, against pictures and texts that are changed by hand,
and a planted patch.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vision_language
import zoo
from layerscope.experiments import cli
from layerscope.experiments.attribution import AttributionError, attribute
from layerscope.experiments.subject import Subject, SubjectError
from layerscope.experiments.subject.pictures import Picture
from PIL import Image

from tools.command_grid import tokenizer as plain_tokenizer

TEXT = "<image> the old dog sees"
BITS = 1 / np.log(2)


@functools.cache
def made(name: str) -> tuple[Subject, Any]:
    model, processor = vision_language.build(name)
    return Subject(model, processor.tokenizer, name=name, bos="never"), processor


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    vision_language.noise_picture().save(path)
    return path


def log2p(model: Any, processor: Any, image: Any, text: str, answer: str) -> float:
    """log2 p of a one-token answer behind a text and its picture, by processor and model alone."""
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    (token,) = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    return float(BITS * logits.log_softmax(-1)[token])


def test_patches_and_words_by_hand(file: Path) -> None:
    subject, processor = made("llava")
    picture = Picture(file, processor, 2, 2)
    image = vision_language.noise_picture()
    value = log2p(subject.model, processor, image, TEXT, " the")
    losses = []
    grey = tuple(int(v) for v in np.asarray(image.resize((64, 64)), float).mean((0, 1)).round())
    for box in ((0, 0, 16, 16), (16, 0, 32, 16), (0, 16, 16, 32), (16, 16, 32, 32)):
        changed = image.copy()
        changed.paste(grey, box)
        losses.append(value - log2p(subject.model, processor, changed, TEXT, " the"))
    for word in ("the", "old", "dog", "sees"):
        text = TEXT.replace(f" {word}", "", 1)
        losses.append(value - log2p(subject.model, processor, image, text, " the"))
    found = attribute(subject, TEXT, target=" the", picture=picture, removal="delete")
    assert found.units[:4] == ("patch 1,1", "patch 1,2", "patch 2,1", "patch 2,2")
    assert found.units[4:] == ("the", "old", "dog", "sees")
    np.testing.assert_allclose(found.scores, losses, atol=2e-4)

    inputs = processor(images=[image], text=[TEXT], return_tensors="pt")
    pixels = inputs.pop("pixel_values").requires_grad_()
    (token,) = processor.tokenizer(" the")["input_ids"]
    logits = subject.model(**inputs, pixel_values=pixels).logits[0, -1]
    (BITS * logits.log_softmax(-1)[token]).backward()
    subject.model.zero_grad()
    changed = image.copy()
    changed.paste(grey, (16, 0, 32, 16))
    other = processor(images=[changed], text=[TEXT], return_tensors="pt")["pixel_values"]
    expected = float((pixels.grad * (pixels.detach() - other)).sum())
    found = attribute(subject, TEXT, target=" the", picture=picture, method="grad-input")
    assert found.scores[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", vision_language.BUILD)
def test_integrated_gradients_sum_to_the_change(name: str, file: Path) -> None:
    subject, processor = made(name)
    picture = Picture(file, processor, 2, 2)
    text = TEXT.replace("<image>", picture.placeholder)
    found = attribute(subject, text, picture=picture, method="ig", steps=16)
    assert len(found.units) == 8
    assert found.more["gap_share"] < 0.02
    assert found.scores.sum() == pytest.approx(found.value - found.baseline, rel=0.02)
    out = attribute(subject, text, picture=picture, method="leave-one-out", removal="mean")
    assert out.scores.all()
    assert out.value == pytest.approx(found.value, abs=1e-4)


def test_the_planted_patch_is_found(file: Path) -> None:
    model, processor = vision_language.one_patch_llava(6)
    subject = Subject(model, processor.tokenizer, name="planted", bos="never")
    picture = Picture(file, processor, 4, 4)  # a cell for each of the model's patches
    for method in ("leave-one-out", "grad-input", "saliency", "ig", "kernel-shap"):
        settings = {"samples": 200} if method == "kernel-shap" else {}
        found = attribute(
            subject, TEXT, target=" the", picture=picture, method=method, seed=0, **settings
        )
        patches = np.abs(found.scores[:16])
        assert patches.argmax() == 6
        others = np.delete(patches, 6).max()
        assert others <= (0.3 if method == "kernel-shap" else 1e-4) * patches[6], method


def saved(tmp_path: Path) -> Path:
    model, processor = vision_language.build("llava")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_shows_patches_and_shares(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "run"
    args = ["attribute", "--model", str(saved(tmp_path)), "--image", str(file), "--text", TEXT]
    args += ["--target", " the", "--patches", "2", "--method", "leave-one-out", "--method", "ig"]
    args += ["--steps", "8", "--null-draws", "1", "--bos", "never", "--device", "cpu"]
    assert cli.main([*args, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    (share,) = results["modalities"]
    change = share["value"] - share["without_both"]
    assert share["medium"] + share["words"] == pytest.approx(change, abs=1e-6)
    scored = [record for record in results["records"] if record["method"] == "ig"]
    assert scored[0]["patches"] == 4
    assert results["pictures"][0]["rows"] == 2
    page = (out / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "the picture adds" in page


def test_what_does_not_fit_is_one_line(tmp_path: Path, file: Path, capsys: Any) -> None:
    model = str(saved(tmp_path))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    base = ["attribute", "--model", model, "--text", TEXT, "--bos", "never", "--device", "cpu"]
    cases = {
        "no such picture": ["--image", str(tmp_path / "none.png")],
        "expected a picture": ["--image", str(broken)],
        "got 2": ["--image", str(file), "--image", str(file)],
        "reads text alone": ["--image", str(file), "--method", "lrp"],
        "without a picture": ["--image", str(file), "--generate", "2"],
    }
    for number, (line, more) in enumerate(cases.items()):
        assert cli.main([*base, *more, "--out", str(tmp_path / f"run{number}")]) == 2, line
        assert line in capsys.readouterr().err
    subject, processor = made("llava")
    with pytest.raises(SubjectError, match="one picture"):
        attribute(subject, TEXT * 2, picture=Picture(file, processor, 2, 2))
    with pytest.raises(AttributionError, match="classifiers of pairs"):
        attribute(subject, TEXT, picture=Picture(file, processor, 2, 2), pair="the dog")


def test_heads_are_out_on_pictures_and_texts(tmp_path: Path, file: Path) -> None:
    """A head's effect on an answer about a picture is that of its zeroed columns."""
    vision_language.noise_picture(1).save(tmp_path / "other.png")
    lines = [
        {"image": file.name, "prompt": TEXT, "answer": " the", "wrong": " old"},
        {"image": "other.png", "prompt": "<image> the cat", "answer": " sees", "wrong": " see"},
        {"image": "other.png", "prompt": TEXT, "answer": " birds", "wrong": " cats"},
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "run"
    args = ["ablate", "--model", str(saved(tmp_path)), "--prompts", str(prompts), "--bos", "never"]
    args += ["--metric", "answer_difference", "--component", "heads", "--value", "zero"]
    args += ["--positions", "all", "--device", "cpu", "--out", str(out)]
    assert cli.main(args) == 0
    records = json.loads((out / "results.json").read_text())["records"]
    assert len(records) == 8

    def difference(model: Any) -> float:
        total = 0.0
        for line in lines:
            with Image.open(tmp_path / line["image"]) as image:
                about = (model, processor, image.convert("RGB"), line["prompt"])
                total += log2p(*about, line["answer"]) - log2p(*about, line["wrong"])
        return total / len(lines)

    model, processor = vision_language.build("llava")
    clean = difference(model)
    assert records[0]["baseline"] == pytest.approx(clean, abs=2e-4)
    record = next(one for one in records if (one["layer"], one["index"]) == (1, 2))
    weight = model.model.language_model.layers[1].self_attn.o_proj.weight
    with torch.no_grad():
        weight[:, 16:24] = 0
    assert record["effect"] == pytest.approx(difference(model) - clean, abs=3e-4)


def test_a_model_of_text_is_shown_no_picture(tmp_path: Path, file: Path, capsys: Any) -> None:
    zoo.build("LlamaForCausalLM").save_pretrained(tmp_path / "llama")
    plain_tokenizer().save_pretrained(tmp_path / "llama")
    base = ["attribute", "--model", str(tmp_path / "llama"), "--text", "the dog"]
    assert cli.main([*base, "--image", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "reads text alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "ablate --component mlps --metric answer_difference --value zero --positions all",
        "attend",
        "attribute --method leave-one-out --patches 2 --null-draws 0 --seeds 0",
    ],
)
def test_a_picture_that_cannot_be_read_is_left_out(
    command: str, tmp_path: Path, file: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    names = (file.name, "text.png", file.name, "gone.png", file.name)
    prompts = tmp_path / "prompts.jsonl"
    line = {"prompt": TEXT, "answer": " the", "wrong": " old"}
    prompts.write_text("".join(json.dumps({**line, "image": name}) + "\n" for name in names))
    args = [*command.split(), "--prompts", str(prompts), "--skip", "0.4", "--bos", "never"]
    args += ["--model", str(saved(tmp_path)), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main(args) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (note,) = [n["text"] for n in results["notes"] if n["kind"] == "dropped"]
    assert note.startswith("2 of 5 items left out: ")
    assert "line 2: " in note
    assert "line 4: " in note


def test_attend_lays_attention_over_the_picture(tmp_path: Path, file: Path) -> None:
    """The last token's weights on the picture are those that eager attention returns."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"image": file.name, "prompt": TEXT}) + "\n")
    out = tmp_path / "run"
    args = ["attend", "--model", str(saved(tmp_path)), "--prompts", str(prompts), "--bos", "never"]
    assert cli.main([*args, "--device", "cpu", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    (shown,) = results["shown_pictures"]
    assert (shown["rows"], shown["columns"]) == (4, 4)

    model, processor = vision_language.build("llava")
    model.set_attn_implementation("eager")
    inputs = processor(images=[vision_language.noise_picture()], text=[TEXT], return_tensors="pt")
    with torch.no_grad():
        seen = model(**inputs, output_attentions=True).attentions
    is_picture = inputs["input_ids"][0] == processor.image_token_id
    expected = torch.stack([layer[0, :, -1][:, is_picture] for layer in seen])
    np.testing.assert_allclose(shown["mean"], expected.mean((0, 1)), atol=2e-4)
    for record in results["picture_heads"]:
        weight = float(expected[record["layer"], record["index"]].sum())
        assert record["picture"] == pytest.approx(weight, abs=2e-4)
    assert "Attention to pictures" in (out / "report.html").read_text()


def test_a_processor_whose_settings_do_not_fit_is_one_line(file: Path) -> None:
    processor = copy.deepcopy(vision_language.build("llava")[1])
    processor.image_processor.image_mean = [0.5] * 4
    with pytest.raises(SubjectError, match=r"cannot read .*noise.png: ValueError: mean must have"):
        Picture(file, processor, 2, 2).encode(TEXT)
