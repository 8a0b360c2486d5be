"""layerscope attend: the command on the embedded model, with and without annotation, beside an ablation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.demo import demo_paths

PATHS = demo_paths()


def command(out: Path, **more: Any) -> list[str]:
    given = {"model": PATHS.model, "out": out, "limit": 120, **more}
    return ["attend", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablate") / "run"
    told = ["--model", str(PATHS.model), "--pairs", str(PATHS.pairs), "--limit", "12", "--out", str(out)]
    assert cli.main(["ablate", *told]) == 0
    return out


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, ablated: Path) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("attend") / "run"
    assert cli.main(command(out, corpus=PATHS.dev, effects=ablated)) == 0
    assert "data-attention" in (out / "report.html").read_text(encoding="utf-8")
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_every_head_has_its_numbers_between_their_ends(found: dict[str, Any]) -> None:
    records = found["records"]
    assert len(records) == 20
    for record in records:
        for name in ("entropy", "confidence", "first", "norm_first", "previous", "distance", "output"):
            assert record[f"{name}_low"] <= record[name] <= record[f"{name}_high"]
        assert record["next"] == 0 == record["end"]  # a causal model, and no token after the text
        assert 0 < record["entropy"] < 1
    assert [layer["change"] is None for layer in found["layers"]] == [True] + [False] * 4
    assert len(found["shown"]["texts"]) == 6


def test_the_trained_model_follows_its_grammar(found: dict[str, Any]) -> None:
    """The corpus is generated from a grammar with agreement: some head looks from the verb's side to its subject."""
    by_kind = {(r["relation"], r["direction"]): r for r in found["relations"]}
    assert by_kind["nsubj", "to dependent"]["syntactic"]
    assert by_kind["nsubj", "to dependent"]["score"] > by_kind["nsubj", "to dependent"]["baseline"] + 0.1
    assert "dependencies" in [f["property"] for f in found["findings"]]


def test_effects_stand_beside_attention(found: dict[str, Any], ablated: Path) -> None:
    told = json.loads((ablated / "results.json").read_text(encoding="utf-8"))["records"]
    effects = {(r["layer"], r["index"]): r["effect"] for r in told}
    assert {(r["layer"], r["index"]): r["effect"] for r in found["records"]} == effects
    apart = found["effects"]
    assert apart["n"] == 20
    assert -1 <= apart["spearman"]["confidence"] <= 1
    confident = sorted((r["confidence"] for r in found["records"]), reverse=True)[:5]
    for site in apart["sharp_unneeded"]:
        assert next(r["confidence"] for r in found["records"] if r["site"] == site) >= confident[-1]


def test_texts_without_annotation(tmp_path: Path) -> None:
    prompts = tmp_path / "texts.jsonl"
    prompts.write_text('{"prompt": "A dog sleeps, and the cat runs."}\n{"prompt": "The dogs run."}\n', encoding="utf-8")
    assert cli.main(command(tmp_path / "run", prompts=prompts)) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert found["relations"] == []
    assert any(n["kind"] == "skipped" and "dependencies" in n["text"] for n in found["notes"])


def test_bad_input_is_one_clear_line(tmp_path: Path, ablated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    told = json.loads((ablated / "results.json").read_text(encoding="utf-8"))
    told["provenance"]["model"]["sha256"] = "0" * 64
    (other / "results.json").write_text(json.dumps(told), encoding="utf-8")
    for more, message in (
        ({}, "expected one of --corpus FILE (annotated sentences) and --prompts FILE"),
        ({"corpus": PATHS.dev, "prompts": PATHS.dev}, "expected one of --corpus FILE"),
        ({"corpus": PATHS.dev, "effects": tmp_path}, "it has no results.json"),
        ({"corpus": PATHS.dev, "effects": other}, "expected effects of this model"),
    ):
        assert cli.main(command(tmp_path / "x", **more)) == 2
        assert message in capsys.readouterr().err
