"""Heads over a training run: a head whose queries are 0 looks everywhere alike, and movement is
what two plain forwards differ by.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from experiments import cli
from experiments.attention.passes import pass_over
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.studies.attend import checkpoints
from experiments.subject import Subject, load
from hooks import capture

PATHS = demo_paths()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 1: the head L1H2 asks nothing; step 2 the demo model; step 3 the same again."""
    folder = tmp_path_factory.mktemp("steps")
    model = AutoModelForCausalLM.from_pretrained(PATHS.model)
    width = model.model.layers[1].self_attn.head_dim
    for step in (2, 3):
        model.save_pretrained(folder / f"step-{step}")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[2 * width : 3 * width] = 0
    model.save_pretrained(folder / "step-1")
    return folder


def command(out: Path, folder: Path) -> list[str]:
    given = [
        "attend",
        "--model",
        PATHS.model,
        "--corpus",
        PATHS.dev,
        "--limit",
        30,
        "--checkpoints",
        folder,
        "--out",
        out,
    ]
    return [str(word) for word in given]


def patterns(folder: Path) -> list[torch.Tensor]:
    """L1H2's attention over each sentence, by transformers' own eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    subject = load(PATHS.model)
    texts = [s.text for s in read_conllu(PATHS.dev, limit=30).sentences]
    with torch.no_grad():
        return [
            model(torch.tensor([e.ids]), output_attentions=True).attentions[1][0, 2]
            for e in subject.encode(texts)
        ]


def test_a_head_that_asks_nothing_is_uniform_and_moves_when_it_does(
    tmp_path: Path, steps: Path
) -> None:
    assert cli.main(command(tmp_path / "run", steps)) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    of = {(r["step"], r["layer"], r["index"]): r for r in found["checkpoints"]}
    assert of[1, 1, 2]["entropy"] == pytest.approx(1, abs=1e-6)
    assert of[2, 1, 2]["entropy"] < 0.9
    assert of[1, 1, 2]["change"] is None
    # a layer before the one that differs
    assert of[2, 0, 0]["change"] == pytest.approx(0, abs=1e-6)
    assert all(
        of[3, layer, head]["change"] == pytest.approx(0, abs=1e-6)
        for layer in range(5)
        for head in range(4)
    )
    before, after = patterns(steps / "step-1"), patterns(steps / "step-2")
    moved = torch.cat(
        [1 - (a.sqrt() * b.sqrt()).sum(-1)[1:] for a, b in zip(before, after, strict=True)]
    )  # BOS is left out
    assert of[2, 1, 2]["change"] == pytest.approx(float(moved.mean()), rel=1e-4)
    assert "L1H2" not in found["findings"][-1]["text"].partition("first")[0]
    text = next(f["text"] for f in found["findings"] if f["property"] == "checkpoints")
    assert "1 at step 1, 0 at step 2, 0 at step 3" in text
    assert 'id="checkpoints"' in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_full_memory_leaves_out_whole_batches_in_every_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "KEPT_BYTES", 1)
    before, after = (
        Subject(tiny.model("gpt2", seed), tiny.tokenizer(), bos="always") for seed in (0, 1)
    )
    texts = before.encode(["w3 w4", "w5 w6 w7 w8 w9"])
    first = checkpoints.Kept(texts, None, [False, False])
    pass_over(before, texts, [first], batch_tokens=1)
    second = checkpoints.Kept(texts, first.roots, [False, False])
    pass_over(after, texts, [second], batch_tokens=1)
    ids, seen = torch.tensor([texts[1].ids]), []  # the longest text is the first batch
    for one in (before, after):
        with torch.no_grad(), capture(one.model, "blocks.*.attn.hook_pattern") as acts:
            one.model(ids)
        seen.append(torch.stack([acts[f"blocks.{n}.attn.hook_pattern"][0] for n in (0, 1)]))
    moved = (1 - (seen[0] * seen[1]).sqrt().sum(-1))[..., 1:].mean(-1)
    np.testing.assert_allclose(second.change(), moved.numpy(), atol=1e-5)


def test_an_interrupted_run_goes_on(
    tmp_path: Path, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = checkpoints.load, []

    def third_stops(path: Path, **more: object) -> object:
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "load", third_stops)
    assert cli.main(command(tmp_path / "cut", steps)) == 130
    assert cli.main(command(tmp_path / "cut", steps)) == 0
    # step 2 again, for step 3 to be compared with
    assert calls == ["step-1", "step-2", "step-3", "step-2", "step-3"]
    assert cli.main(command(tmp_path / "whole", steps)) == 0
    cut, whole = (
        json.loads((tmp_path / n / "results.json").read_text())["checkpoints"]
        for n in ("cut", "whole")
    )
    assert cut == whole


def test_bad_folders_are_one_line(
    tmp_path: Path, steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command(tmp_path / "run", tmp_path)) == 2
    assert "expected at least two folders with a model" in capsys.readouterr().err


def test_a_checkpoint_of_another_configuration_is_another_run(
    tmp_path: Path, steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(steps, tmp_path / "steps")
    assert cli.main(command(tmp_path / "run", tmp_path / "steps")) == 0
    path = tmp_path / "steps" / "step-2" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "rms_norm_eps": 0.5}), encoding="utf-8")
    assert cli.main(command(tmp_path / "run", tmp_path / "steps")) == 2
    assert "data: " in capsys.readouterr().err
