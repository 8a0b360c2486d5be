"""layerscope attend: the command on the embedded model, with and without annotation,
beside an ablation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments import attend, cli
from experiments.demo import demo_paths
from experiments.report.schema import Interval
from experiments.studies.attend.effects import Ablation, disagreement
from experiments.studies.attend.records import HeadEffect, HeadRecord

PATHS = demo_paths()


def command(out: Path, **more: Any) -> list[str]:
    given = {"model": PATHS.model, "out": out, "limit": 120, **more}
    return [
        "attend",
        *(word for name, value in given.items() for word in (f"--{name}", str(value))),
    ]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablate") / "run"
    told = [
        "--model",
        str(PATHS.model),
        "--pairs",
        str(PATHS.pairs),
        "--limit",
        "12",
        "--out",
        str(out),
    ]
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
        for name in (
            "entropy",
            "confidence",
            "first",
            "norm_first",
            "previous",
            "distance",
            "output",
        ):
            ends = record[f"{name}_interval"]
            assert ends["low"] <= record[name] <= ends["high"]
        assert record["next"] == 0 == record["end"]  # a causal model, and no token after the text
        assert 0 < record["entropy"] < 1
    assert [layer["change"] is None for layer in found["layers"]] == [True] + [False] * 4
    assert len(found["shown"]["texts"]) == 6
    assert not any("flow" in text for text in found["shown"]["texts"])  # not asked for


def test_the_trained_model_follows_its_grammar(found: dict[str, Any]) -> None:
    """The corpus is generated from a grammar with agreement:
    some head looks from the verb's side to its subject.
    """
    by_kind = {(r["relation"], r["direction"]): r for r in found["relations"]}
    assert by_kind["nsubj", "to dependent"]["syntactic"]
    assert (
        by_kind["nsubj", "to dependent"]["score"]
        > by_kind["nsubj", "to dependent"]["baseline"] + 0.1
    )
    assert "dependencies" in [f["property"] for f in found["findings"]]


def test_effects_stand_beside_attention(found: dict[str, Any], ablated: Path) -> None:
    told = json.loads((ablated / "results.json").read_text(encoding="utf-8"))["records"]
    effects = {(r["layer"], r["index"]): r["effect"] for r in told}
    assert {(r["layer"], r["index"]): r["measured"]["effect"] for r in found["records"]} == effects
    apart = found["effects"]
    assert apart["n"] == 20
    ranks = [
        rankdata([size(r) for r in found["records"]])
        for size in (lambda r: abs(r["measured"]["effect"]), lambda r: r["confidence"])
    ]
    assert apart["spearman"]["confidence"] == pytest.approx(np.corrcoef(ranks)[0, 1])


REQUIRED = (
    "distance",
    "first",
    "end",
    "punctuation",
    "self",
    "previous",
    "next",
    "duplicate",
    "induction",
    "positional",
)
SPANNED = ("entropy", "confidence", *REQUIRED[:7])
WHERE: dict[str, Any] = {"layer": 0, "index": 0, "component": "heads", "offset": 1, "nearest": None}
ABOUT = {"metric": "loss", "unit": "bits", "value": "zero", "baseline": 1.0}


def head(place: int, effect: float | None, q: float | None, exact: bool = True) -> HeadRecord:
    """A head that looks the more sharply the higher its place, from 1 to 8."""
    looks = {"confidence": place / 10, "entropy": 1 - place / 10, "output": 1.0}
    ends = {f"{name}_interval": Interval(0.0, 0.0) for name in SPANNED}
    values = {**dict.fromkeys(REQUIRED, 0.0), **ends, **looks}
    measured = None
    if effect is not None:
        measured = HeadEffect(effect=float(effect), effect_interval=None, q=q, exact=exact)
    return HeadRecord(
        site=f"head {place}", **WHERE, **values, nearest_similarity=None, role="", measured=measured
    )


def apart_of(records: list[HeadRecord]) -> Any:
    return disagreement(records, Ablation({}, ABOUT))


def test_heads_where_attention_and_effect_part_ways_are_named() -> None:
    """The quarters of eight heads are two each; the middle ones are not named, whatever they do."""
    clear = {1: 0.01, 2: 0.2, 3: 0.01, 6: 0.5, 7: 0.01, 8: 0.5}
    apart = apart_of([head(i, (-1) ** i * i, clear.get(i, 0.3)) for i in range(1, 9)])
    assert apart.spearman == {
        "confidence": pytest.approx(1),
        "entropy": pytest.approx(-1),
        "output": None,
    }
    assert (apart.sharp_unneeded, apart.diffuse_needed) == (["head 8"], ["head 1"])
    # an estimate says nothing of chance
    estimated = [head(i, 9 - i, None, exact=False) for i in range(3, 9)]
    apart = apart_of([head(1, 8, 0.2), head(2, 7, 0.01), *estimated, head(0, None, None)])
    assert apart.n == 8
    assert apart.spearman["confidence"] == pytest.approx(-1)
    assert (apart.sharp_unneeded, apart.diffuse_needed) == ([], ["head 2"])


def test_texts_without_annotation(tmp_path: Path) -> None:
    prompts = tmp_path / "texts.jsonl"
    prompts.write_text(
        '{"prompt": "A dog sleeps, and the cat runs."}\n{"prompt": "The dogs are here."}\n',
        encoding="utf-8",
    )
    assert cli.main([*command(tmp_path / "run", prompts=prompts), "--flow"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert found["relations"] == []
    assert all("flow" in text for text in found["shown"]["texts"])
    assert any(n["kind"] == "skipped" and "dependencies" in n["text"] for n in found["notes"])


def test_bad_input_is_one_clear_line(
    tmp_path: Path, ablated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    told = json.loads((ablated / "results.json").read_text(encoding="utf-8"))
    told["provenance"]["model"]["sha256"] = "0" * 64
    (other / "results.json").write_text(json.dumps(told), encoding="utf-8")
    for more, message in (
        ({}, "expected one of --corpus FILE (annotated sentences), --prompts FILE and --text TEXT"),
        ({"corpus": PATHS.dev, "prompts": PATHS.dev}, "expected one of --corpus FILE"),
        ({"corpus": PATHS.dev, "effects": tmp_path}, "it has no results.json"),
        ({"corpus": PATHS.dev, "effects": other}, "expected effects of this model"),
    ):
        assert cli.main(command(tmp_path / "x", **more)) == 2
        assert message in capsys.readouterr().err


def test_a_token_whose_embedding_is_nan_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(PATHS.model)
    tokenizer = AutoTokenizer.from_pretrained(PATHS.model)
    (token,) = tokenizer(" are", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = tmp_path / "texts.jsonl"
    prompts.write_text(
        '{"prompt": "The cat runs."}\n{"prompt": "The dogs are here."}\n', encoding="utf-8"
    )
    given = {"model": tmp_path / "model", "prompts": prompts}
    assert cli.main([*command(tmp_path / "run", **given), "--force"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is NaN in the text 'The dogs are here.'" in error
    assert "Ġare" in error


def test_texts_on_the_command_line_are_those_of_a_file(tmp_path):
    texts = ("The guards near the garden", "The teacher read the books")
    given = attend(model=PATHS.model, text=texts, out=tmp_path / "given")
    prompts = [{"prompt": text} for text in texts]
    read = attend(model=PATHS.model, prompts=prompts, out=tmp_path / "read")
    assert given.records == read.records
