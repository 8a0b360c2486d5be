"""Patching against the naive loop, a conservation law,
and a model whose heads were written by hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import induction
import numpy as np
import pytest
import tiny
import torch
from naive import naive, subject

from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.metrics.metrics import get_metric
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.patch.options import PatchOptions
from experiments.studies.patch.study import aligned_reads
from experiments.sweep.components import components, places
from experiments.sweep.sweep import PACK, Sweep, chunks
from hooks import capture, edits, intervene

PROMPTS = [
    Prompt("w3 w4 w5 w6", " w7", " w8", "w3 w9 w5 w2"),
    Prompt("w9 w3 w12 w40", " w4", " w20", "w9 w3 w13 w40"),
]


@pytest.mark.filterwarnings("ignore::hooks.NothingChanged")  # a token that both texts share
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_every_patch_equals_the_naive_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, metric = subject(name), get_metric("logit_difference")
    clean, corrupted = aligned_reads(one, metric, PROMPTS)
    (base,), (source,) = list(chunks(one, corrupted, 100)), list(chunks(one, clean, 100))
    length = base.batch.input_ids.shape[1]
    heads = components(one.model, "heads", base.batch)
    at = places(one.model, "hook_resid_pre", length)
    monkeypatch.setitem(PACK, "cpu", 60)  # several packs
    sweep = Sweep(one, metric, base)
    with (
        torch.no_grad(),
        capture(one.model, *(p.site.name for p in heads), "blocks.*.hook_resid_pre") as acts,
    ):
        one.model(**source.batch.inputs())
    patch = edits.patch(acts)
    parts = [(p, patch) for p in heads] + [(p, patch.at(p.index or 0)) for p in at]
    got = sweep.effects(parts)
    # every position starts where it is
    monkeypatch.setattr("experiments.sweep.sweep.SMALL_PACK", 1)
    assert np.abs(sweep.effects(parts) - got).max() < 5e-5
    assert np.abs(got).max() > 1e-3
    for part, effects in zip([*heads, *at], got, strict=True):
        for place, prompt in enumerate(base.prompts):
            item = PROMPTS[prompt]
            ids = torch.tensor([one.encode([item.prompt])[0].ids])
            with torch.no_grad(), capture(one.model, part.site) as mine:
                one.model(ids)
            edit = edits.patch(mine)
            broken = replace(item, prompt=item.corrupted or "")
            with intervene(
                one.model, {part.site: edit if part.kind == "heads" else edit.at(part.index or 0)}
            ):
                edited = naive(one, metric.name, broken)
            assert edited - naive(one, metric.name, broken) == pytest.approx(
                effects[place], abs=5e-5
            ), part


def lines(path: Path, items: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items), encoding="utf-8")
    return path


def command(model: Path, clean: Path) -> list[str]:
    """Patch this model on these prompts, which bring their own beginning."""
    return ["patch", "--model", str(model), "--clean", str(clean), "--bos", "never"]


def hand_built(folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """Prompts whose last token is exchanged for the one before the wrong answer:
    the model then says the wrong answer.
    """
    tiny.save(induction.model(), folder / "model")
    items = []
    for item in induction.prompts():
        words = item["prompt"].split()
        items.append({**item, "corrupted": " ".join([*words[:-1], words[5]])})
    return folder / "model", [item for item in items if len(item["prompt"].split()) == 8]


@pytest.mark.parametrize("by", ["head", "position", "layer"])
def test_the_copying_head_moves_all_the_way_and_nothing_else_does(tmp_path: Path, by: str) -> None:
    """The texts differ in the last token alone,
    and only the induction head writes to the output.
    """
    model, items = hand_built(tmp_path)
    config = PatchOptions(
        model=str(model),
        clean=lines(tmp_path / "p.jsonl", items),
        by=by,
        bos="never",
        out=tmp_path / "run",
    )
    results = execute(STUDIES["patch"], config)
    last = len(items[0]["prompt"].split()) - 1
    assert results["baseline"]["clean"]["interval"]["low"] > 1
    assert results["baseline"]["corrupted"]["interval"]["high"] < -1
    for record in results["records"]:
        place = record["component"], record["layer"], record["index"]
        moves = place in {
            ("heads", *induction.INDUCTION),
            ("positions", 0, last),
            ("positions", 1, last),
        }
        moves |= place == ("attentions", induction.INDUCTION[0], None)
        assert record["normalised"] == pytest.approx(1 if moves else 0, abs=1e-4), place
    values = [r["value"] for r in results["records"]]
    assert values.count("denoising") == values.count("noising") == len(values) / 2


@pytest.mark.parametrize(("direction", "sign"), [("denoising", 1), ("noising", -1)])
def test_one_direction_alone_is_asked_for(tmp_path: Path, direction: str, sign: int) -> None:
    model, items = hand_built(tmp_path)
    clean = lines(tmp_path / "p.jsonl", items)
    results = execute(
        STUDIES["patch"],
        PatchOptions(
            model=str(model), clean=clean, direction=direction, bos="never", out=tmp_path / "r"
        ),
    )
    assert {r["value"] for r in results["records"]} == {direction}
    head = next(r for r in results["records"] if (r["layer"], r["index"]) == induction.INDUCTION)
    gap = results["baseline"]["clean"]["value"] - results["baseline"]["corrupted"]["value"]
    assert head["effect"] == pytest.approx(sign * gap, rel=1e-4)
    assert gap > 2


def test_a_run_from_two_files_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = hand_built(tmp_path)
    clean = lines(
        tmp_path / "clean.jsonl",
        [{k: v for k, v in item.items() if k != "corrupted"} for item in items],
    )
    corrupted = lines(
        tmp_path / "corrupted.jsonl", [{"prompt": item["corrupted"]} for item in items]
    )
    words = [*command(model, clean), "--corrupted", str(corrupted)]
    words += ["--by", "position", "--batch-tokens", "16"]
    assert cli.main([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert (whole["schema"], whole["kind"]) == (2, "patch")
    effects, calls = Sweep.effects, []

    def second_fails(self: Sweep, *given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return effects(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Sweep, "effects", second_fails)
    assert cli.main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert len(list((tmp_path / "cut" / "cells").iterdir())) == 1
    assert cli.main([*words, "--out", str(tmp_path / "cut")]) == 0
    assert (
        json.loads((tmp_path / "cut" / "results.json").read_text())["records"] == whole["records"]
    )


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (
            {"corrupted": "w3 w4"},
            [],
            "line 1: expected a corrupted text of 8 tokens, as the clean one has, got 2",
        ),
        ({"corrupted": None}, [], "expected 'corrupted', or --corrupted FILE"),
        ({}, ["--metric", "kl"], "metric kl has no value of a clean and a corrupted prompt"),
        ({}, ["--by", "position", "--site", "hook_nonsense"], "hook_nonsense"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str | None],
    more: list[str],
    message: str,
) -> None:
    model, items = hand_built(tmp_path)
    clean = lines(tmp_path / "p.jsonl", [{**items[0], **change}])  # type: ignore[dict-item]
    assert cli.main([*command(model, clean), "--out", str(tmp_path / "run"), *more]) == 2
    said = capsys.readouterr().err.replace("\r", "\n").strip()
    assert message in said
    assert said.splitlines()[-1].startswith("layerscope: ")


def test_positions_must_align(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, items = hand_built(tmp_path)
    longer = {"prompt": "w3 w4 w5", "corrupted": "w3 w4 w6", "answer": " w7", "wrong": " w8"}
    clean = lines(tmp_path / "p.jsonl", [items[0], longer])
    words = [*command(model, clean), "--by", "position"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert (
        "expected prompts of one length, so that positions align, got 3 to 8 tokens"
        in capsys.readouterr().err.replace("\n", " ")
    )
