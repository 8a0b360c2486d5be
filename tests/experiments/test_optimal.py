"""Optimal ablation against what it must not exceed and a part whose best constant is known;
the null of random directions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import detector
import induction
import pytest
import tiny
import torch
from torch import nn

from experiments import cli
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from hooks import EditError, edits, intervene


def ablate(
    folder: Path, model: nn.Module, prompts: list[dict[str, str]], **more: Any
) -> list[dict[str, Any]]:
    tiny.save(model, folder / "model")
    (folder / "p.jsonl").write_text(
        "\n".join(json.dumps(item) for item in prompts), encoding="utf-8"
    )
    out = folder / "-".join(str(value) for value in more.values())
    config = AblateOptions(
        model=str(folder / "model"), prompts=folder / "p.jsonl", bos="never", out=out, **more
    )
    return execute(STUDIES["ablate"], config)["records"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_no_constant_disturbs_less(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = tiny.model(name)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    found = {
        value: ablate(
            tmp_path, model, induction.prompts(4), component="heads", metric="kl", value=value
        )
        for value in ("zero", "mean", "optimal")
    }
    gains = []
    for zero, mean, optimal in zip(*found.values(), strict=True):
        assert optimal["effect"] <= min(zero["effect"], mean["effect"]) + 1e-6
        gains.append(min(zero["effect"], mean["effect"]) - optimal["effect"])
    assert max(gains) > 1e-4


def test_what_never_varies_has_a_constant_without_loss(tmp_path: Path) -> None:
    """The detector fires alike at the position that is read: its value there disturbs nothing,
    mean and zero do.
    """
    loss = {
        value: ablate(
            tmp_path,
            detector.model(),
            detector.prompts(4),
            component="mlps",
            metric="kl",
            value=value,
        )
        for value in ("zero", "mean", "optimal")
    }
    assert loss["zero"][0]["effect"] > 1
    assert loss["mean"][0]["effect"] > 0.01
    assert loss["optimal"][0]["effect"] < 0.02 * loss["mean"][0]["effect"]


def test_a_turned_edit_goes_as_far_in_another_direction() -> None:
    value = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    moved = edits.turned(edits.zero(), 1)(value) - value
    torch.testing.assert_close(moved.norm(dim=-1), value.norm(dim=-1))
    # one rotation for all tokens
    torch.testing.assert_close(moved[0] @ moved[1].T, value[0] @ value[1].T)
    assert float(torch.cosine_similarity(moved, -value, dim=-1).abs().mean()) < 0.6
    assert not torch.equal(moved, edits.turned(edits.zero(), 2)(value) - value)
    model = tiny.model("gpt2")
    with (
        pytest.raises(EditError, match="a single neuron has no direction"),
        intervene(model, {"blocks.0.mlp.hook_post[3]": edits.turned(edits.zero())}),
    ):
        model(torch.tensor([[1, 2, 3]]))


def test_the_null_tells_the_copying_head_from_heads_that_do_nothing(tmp_path: Path) -> None:
    records = ablate(
        tmp_path,
        induction.model(),
        induction.prompts(),
        component="heads",
        value="zero",
        null_draws=19,
    )
    by_place = {(r["layer"], r["index"]): r for r in records}
    assert by_place[induction.INDUCTION]["null_p"] <= 0.1
    assert 0 < by_place[induction.INDUCTION]["null"] < -by_place[induction.INDUCTION]["effect"]
    still = [
        r for place, r in by_place.items() if place not in (induction.PREVIOUS, induction.INDUCTION)
    ]
    assert all(r["null"] == pytest.approx(0, abs=1e-5) for r in still)
    assert by_place[induction.INDUCTION]["induction"] is not None


def test_what_a_neuron_cannot_have_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "ablate",
        "--model",
        "m",
        "--prompts",
        "p",
        "--out",
        str(tmp_path / "r"),
        "--component",
        "neurons",
    ]
    assert cli.main([*command, "--value", "optimal"]) == 2
    assert cli.main([*command, "--null", "5"]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "a neuron has too many to descend for" in said
    assert "a single neuron has no direction" in said
