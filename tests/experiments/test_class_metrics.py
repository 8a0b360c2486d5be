"""Metrics of classifiers, and ablation, usage and pruning by them,
against transformers' own forward.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

import experiments
from experiments import cli
from experiments.corpus.prompts import Prompt
from experiments.demo import demo_paths
from experiments.metrics.metrics import get_metric
from experiments.subject import Subject
from experiments.sweep.components import components
from experiments.sweep.estimate import estimates
from experiments.sweep.sweep import Sweep, chunks
from hooks import edits, intervene

IDS: dict[str, Any] = {**tiny._IDS, "num_labels": 3}
WIDE: dict[str, Any] = {**tiny._WIDE, "initializer_range": 0.3}
BUILD: dict[str, Any] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**WIDE, **IDS)),
    "gpt2": lambda: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=64, **IDS)
    ),
    # its head has an activation between its parts: the model runs whole
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(
            dim=32,
            n_heads=4,
            n_layers=2,
            hidden_dim=64,
            vocab_size=100,
            num_labels=3,
            initializer_range=0.3,
        )
    ),
}
TEXTS = [
    Prompt("w3 w4 w5", "", label="LABEL_1"),
    Prompt("w9 w8 w7 w6 w5", "", label="2"),
    Prompt("w30", "", label="LABEL_0"),
]
VALUES = {
    "class_logit": lambda row, k: float(row[k]),
    "class_log_odds": lambda row, k: float(torch.log2(row.softmax(0)[k] / (1 - row.softmax(0)[k]))),
    "class_accuracy": lambda row, k: float(row.argmax() == k),
}


def subject(name: str) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILD[name]().eval()
    return Subject(model, tiny.tokenizer(), bos="always")


def naive(one: Subject, metric: str) -> list[float]:
    """The metric of each text, by a forward of the text alone."""
    out = []
    for text, label in zip(TEXTS, (1, 2, 0), strict=True):
        ids = torch.tensor([one.encode([text.prompt])[0].ids])
        with torch.no_grad():
            out.append(VALUES[metric](one.model(input_ids=ids).logits[0].double(), label))
    return out


@pytest.mark.parametrize("metric", VALUES)
@pytest.mark.parametrize("name", BUILD)
def test_every_head_equals_a_forward_with_the_head_at_zero(name: str, metric: str) -> None:
    one = subject(name)
    made = get_metric(metric)
    (chunk,) = chunks(one, made.reads(one, TEXTS), 100)
    sweep = Sweep(one, made, chunk)
    assert sweep.resume.exact == (name != "distilbert")
    order = np.argsort(chunk.prompts)
    np.testing.assert_allclose(sweep.clean[order], naive(one, metric), atol=1e-5)
    parts = components(one.model, "heads", chunk.batch)
    effects = sweep.effects([(part, edits.zero()) for part in parts])
    for part, effect in zip(parts, effects, strict=True):
        with intervene(one.model, {part.site: edits.zero()}):
            edited = naive(one, metric)
        np.testing.assert_allclose(effect[order] + sweep.clean[order], edited, atol=2e-5)
    if metric != "class_accuracy":
        assert np.abs(effects).max() > 1e-3


def test_the_gradient_of_the_log_odds_is_that_of_a_small_change() -> None:
    one = subject("bert")
    made = get_metric("class_log_odds")
    (chunk,) = chunks(one, made.reads(one, TEXTS), 100)
    (part, *_) = components(one.model, "heads", chunk.batch)
    step = 1e-3
    less = edits.function(lambda z: z * (1 - step), "less")
    sweep = Sweep(one, made, chunk)
    slope = sweep.effects([(part, less)])[0] / step
    found = estimates(one, made, chunk, [part], lambda _: edits.zero()).effects[0]
    np.testing.assert_allclose(found, slope, atol=0.02 * np.abs(slope).max() + 1e-3)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's architecture and tokenizer with a random head that classifies."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = hf.AutoTokenizer.from_pretrained(demo_paths().model)
    # three of its four heads still divide its width, as transformers asks
    tiny.save_classifier(folder, tokenizer, hidden_size=48)
    return folder


def labelled(folder: Path, count: int = 12) -> Path:
    path = folder / "labelled.jsonl"
    words = ("The guards smile", "A dog sees the house", "The teacher reads")
    lines = [
        {"text": f"{words[i % 3]} .", "label": ("good", "bad")[i % 2], "group": f"g{i % 4}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_ablate_usage_and_prune_take_labelled_texts(classifier: Path, tmp_path: Path) -> None:
    file = labelled(tmp_path)
    found = experiments.ablate(model=classifier, labelled=file, out=tmp_path / "heads")
    assert {record["metric"] for record in found.records} == {"class_log_odds"}
    assert len(found.records) == 8
    model = hf.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(classifier)
    odds = []
    for line in map(json.loads, file.read_text().splitlines()):
        with torch.no_grad():
            ids = torch.tensor([Subject(model, tokenizer).encode([line["text"]])[0].ids])
            good, bad = model(input_ids=ids).logits[0].tolist()
        odds.append((good - bad if line["label"] == "good" else bad - good) / math.log(2))
    assert found.raw["baseline"]["value"] == pytest.approx(np.mean(odds), abs=1e-5)
    used = experiments.usage(
        model=classifier,
        labelled=file,
        corpus=demo_paths().train,
        sample=60,
        property="upos",
        l2=10.0,
        null_draws=0,
        out=tmp_path / "usage",
    )
    assert len(used.records) == 2
    pruned = experiments.prune(
        model=classifier,
        labelled=file,
        metric="class_accuracy",
        steps=1,
        null_draws=0,
        out=tmp_path / "prune",
    )
    smaller = tmp_path / "prune" / "models" / "step-1"
    assert pruned.records[1]["heads"] == 3
    assert hf.AutoModelForSequenceClassification.from_pretrained(smaller).config.num_labels == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--prompts {file}", ("classifies texts "
        "(LlamaForSequenceClassification): "
        "expected --labelled FILE")),
        ("--labelled {file} --metric loss", "metric loss is of prompts: expected --prompts FILE"),
        ("--labelled {file} --prompts {file}", ("expected one of --prompts, --pairs, --labelled, "
        "--text, got --prompts and")),
        ("--labelled {odd}", "expected a label of good, bad, got 'ugly'"),
        ("--labelled {bare}", ("bare.jsonl: no line can be used; line 1: expected 'label', the text's class; "
        "the line has text")),
        ("", "expected one of --prompts, --pairs, --labelled, --text, got none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    options: str, expected: str, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    names = {"file": labelled(tmp_path), "odd": tmp_path / "odd.jsonl", "bare": tmp_path / "bare.jsonl"}  # fmt: skip
    names["odd"].write_text('{"text": "The guards smile .", "label": "ugly"}\n')
    names["bare"].write_text('{"text": "The guards smile ."}\n')
    if options.startswith("--prompts"):
        options += " --metric loss"
    line = f"ablate --model {classifier} {options.format(**names)} --out {tmp_path / 'run'}"
    assert cli.main(line.split()) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_language_model_is_not_asked_for_classes(tmp_path: Path, capsys: Any) -> None:
    line = (
        f"ablate --model {demo_paths().model} --labelled {labelled(tmp_path)} --out "
        f"{tmp_path / 'run'}"
    )
    assert cli.main(line.split()) == 2
    assert "expected a model that classifies texts" in capsys.readouterr().err


def test_a_text_of_the_command_line_is_a_prompt(tmp_path: Path) -> None:
    demo, text = demo_paths().model, "The guards near the garden"
    found = experiments.ablate(
        model=demo,
        text=text,
        target=" answer",
        wrong=" answers",
        component="layers",
        out=tmp_path / "a",
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        json.dumps({"prompt": text, "answer": " answer", "wrong": " answers"}) + "\n"
    )
    filed = experiments.ablate(model=demo, prompts=prompts, component="layers", out=tmp_path / "b")
    assert [r["effect"] for r in found.records] == [r["effect"] for r in filed.records]
    moved = experiments.ablate(model=demo, text=text, component="layers", out=tmp_path / "c")
    assert {record["metric"] for record in moved.records} == {"kl"}


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_encoder_is_ablated_where_its_head_reads(name: str, tmp_path: Path) -> None:
    """By default the first token is edited in encoders, whose head reads it,
    and left in decoders.
    """
    one = subject(name)
    texts = [
        {"text": text.prompt, "label": f"LABEL_{k}"}
        for text, k in zip(TEXTS, (1, 2, 0), strict=True)
    ]
    found = experiments.ablate(
        model=one, labelled=texts, component="heads", metric="class_logit", out=tmp_path / "run"
    )
    first = 0 if name == "bert" else 1
    site = "blocks.1.attn.hook_z[2]"
    effects = []
    for text, label in zip(TEXTS, (1, 2, 0), strict=True):
        ids = torch.tensor([one.encode([text.prompt])[0].ids])
        with torch.no_grad():
            clean = one.model(input_ids=ids).logits[0, label]
            with intervene(one.model, {site: edits.zero().at(slice(first, None))}):
                effects.append(float(one.model(input_ids=ids).logits[0, label] - clean))
    record = next(record for record in found.records if record["site"] == site)
    assert record["effect"] == pytest.approx(np.mean(effects), abs=1e-5)
    assert found.raw.get("positions", "all") == ("all" if name == "bert" else "not-first")
