"""Ablation sweeps against the naive loop,
and on a model whose heads are known because they were written by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import induction
import numpy as np
import pytest
import tiny
import torch
from naive import alone, naive, subject

from experiments import cli
from experiments.calibration.predictions import read_predictions
from experiments.calibration.questions import read_questions
from experiments.corpus.prompts import Pair, Prompt, PromptError, read_pairs, read_prompts
from experiments.metrics.metrics import METRICS, get_metric
from experiments.metrics.reads import MetricError
from experiments.runs.execute import execute
from experiments.runs.options import add_options, as_command, from_arguments
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from experiments.subject import Subject, load
from experiments.sweep.components import components
from experiments.sweep.sweep import PACK, Sweep, chunks
from hooks import edits, intervene

FIELDS = {
    "site",
    "layer",
    "index",
    "value",
    "metric",
    "baseline",
    "effect",
    "effect_interval",
    "normalised",
    "p",
    "q",
    "n",
}
PROMPTS = [
    Prompt("w3 w4 w5 w6", " w7", " w8"),
    Prompt("w9 w3 w12", " w4", " w20"),
    Prompt("w30 w31 w32 w33 w34 w35", " w36", " w37"),
    Prompt("w50", " w51", " w52"),
]
PAIRS = [Pair("w3 w4 w5 w6", "w3 w4 w7 w6 w8"), Pair("w9 w8", "w9 w3")]


@pytest.fixture(autouse=True)
def several_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACK, "cpu", 60)


def items(name: str) -> list[Prompt] | list[Pair]:
    return PAIRS if METRICS[name].of_pairs else PROMPTS


def sweeps(one: Subject, name: str, tokens: int) -> list[tuple[Sweep, list[int]]]:
    metric = get_metric(name)
    found = chunks(one, metric.reads(one, items(name)), tokens)
    return [(Sweep(one, metric, chunk), chunk.prompts) for chunk in found]


@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "attentions", "layers"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_every_part_equals_the_naive_loop(name: str, kind: str) -> None:
    one = subject(name)
    metric = (
        "pair_difference"
        if kind == "mlps"
        else "loss"
        if kind == "attentions"
        else "logit_difference"
    )
    found = sweeps(one, metric, 20)
    assert len(found) > 1
    parts = components(one.model, kind, found[0][0].chunk.batch)
    assert len(parts) == {
        "heads": 8,
        "neurons": parts[-1].index is not None and 2 * (parts[-1].index + 1),
    }.get(kind, 2)
    if kind == "neurons":
        parts = parts[::13]
    zero = edits.zero() if kind != "layers" else None
    got = np.empty((len(parts), len(items(metric))))
    clean = np.empty(len(items(metric)))
    for sweep, which in found:
        edit_of = [(p, zero or edits.copy(f"blocks.{p.layer}.hook_resid_pre")) for p in parts]
        got[:, which], clean[which] = sweep.effects(edit_of), sweep.clean
    np.testing.assert_allclose(
        clean, [naive(one, metric, item) for item in items(metric)], atol=2e-5
    )
    for part, effects in zip(parts, got, strict=True):
        skip = {
            f"blocks.{part.layer}.hook_resid_post": edits.copy(
                f"blocks.{part.layer}.hook_resid_pre"
            )
        }
        for item, base, effect in zip(items(metric), clean, effects, strict=True):
            with intervene(one.model, {part.site: zero} if zero else skip):
                edited = naive(one, metric, item)
            assert edited - base == pytest.approx(effect, abs=5e-5), part
    assert np.abs(got).max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, metric in METRICS.items()
        if n not in ("kl", "pair_accuracy", "answer_accuracy") and not metric.of_classes
    ],
)
def test_metrics_equal_their_definition(name: str) -> None:
    one = subject("gpt2")
    for sweep, which in sweeps(one, name, 20):
        expected = [naive(one, name, items(name)[i]) for i in which]
        np.testing.assert_allclose(sweep.clean, expected, atol=2e-5)


def test_kl_and_accuracy() -> None:
    one = subject("llama")
    part = components(one.model, "mlps", sweeps(one, "kl", 500)[0][0].chunk.batch)[0]
    ((sweep, which),) = sweeps(one, "kl", 500)
    assert np.abs(sweep.clean).max() < 1e-6
    effects = sweep.effects([(part, edits.zero())])[0]
    for place, i in enumerate(which):
        before = alone(one, PROMPTS[i].prompt)[-1]
        with intervene(one.model, {part.site: edits.zero()}):
            after = alone(one, PROMPTS[i].prompt)[-1]
        assert effects[place] == pytest.approx(
            float((before.exp2() * (before - after)).sum()), abs=1e-5
        )
    ((sweep, which),) = sweeps(one, "pair_accuracy", 500)
    assert sweep.clean.tolist() == [
        float(naive(one, "pair_difference", PAIRS[i]) > 0) for i in which
    ]


def test_rows_do_not_meet() -> None:
    """Each component's effect is the same alone and packed with the others."""
    one = subject("gpt2")
    sweep = sweeps(one, "logit_difference", 500)[0][0]
    parts = [(p, edits.zero()) for p in components(one.model, "heads", sweep.chunk.batch)]
    together = sweep.effects(parts)
    for row, part in zip(together, parts, strict=True):
        np.testing.assert_allclose(sweep.effects([part])[0], row, atol=1e-5)


def hand_built(tmp_path: Path) -> Path:
    tiny.save(induction.model(), tmp_path / "model")
    lines = [json.dumps(p) for p in induction.prompts()]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_the_sweep_names_the_heads_that_are_there_and_nothing_else(
    tmp_path: Path, value: str
) -> None:
    base = hand_built(tmp_path)
    config = AblateOptions(
        model=str(base / "model"),
        prompts=base / "prompts.jsonl",
        value=value,
        bos="never",
        out=base / "run",
    )
    results = execute(STUDIES["ablate"], config)
    named = {(r["layer"], r["index"]) for r in results["records"] if r["p"] < 0.05}
    assert named == {induction.PREVIOUS, induction.INDUCTION}
    others = [r for r in results["records"] if (r["layer"], r["index"]) not in named]
    assert all(r["effect"] == pytest.approx(0, abs=1e-5) for r in others)
    assert results["baseline"]["interval"]["low"] > 1
    if value == "zero":  # without the copying head all tokens are equally likely
        record = next(
            r for r in results["records"] if (r["layer"], r["index"]) == induction.INDUCTION
        )
        assert record["normalised"] == pytest.approx(-1, abs=1e-4)


def written(one: Subject, text: str) -> torch.Tensor:
    """What each head writes before the output projection (layer pos head d),
    from a forward with plain hooks.
    """
    seen: list[torch.Tensor] = []
    handles = [
        block.attn.c_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
        for block in one.model.transformer.h
    ]
    alone(one, text)
    for handle in handles:
        handle.remove()
    return torch.stack(seen).unflatten(-1, (induction.HEADS, induction.D))


def put(one: Subject, item: Prompt, layer: int, head: int, new: torch.Tensor) -> float:
    """The logit difference of one prompt while a head writes `new`, a vector for each position,
    in place of its own.
    """
    width = slice(head * induction.D, (head + 1) * induction.D)

    def replaced(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        out = args[0].clone()
        out[0, :, width] = new[: out.shape[1]]
        return (out,)

    handle = one.model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(replaced)
    value = naive(one, "logit_difference", item)
    handle.remove()
    return value


REFERENCE = ["w3 w9 w4 w12 w7 w5 w14 w8 w10 w6 w11", "w5 w6 w4", "w13 w3 w8"]
"""One text is as long as the prompts: what is resampled can come from nowhere else."""


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("mean", True),
        ("mean", False),
        ("mean-position", True),
        ("mean-position", False),
        ("resample", True),
    ],
)
def test_values_of_reference_texts_are_those_of_single_forwards(
    tmp_path: Path, value: str, reference: bool
) -> None:
    base, more = hand_built(tmp_path), {}
    if reference:
        more["reference"] = base / "texts.jsonl"
        more["reference"].write_text(
            "".join(json.dumps({"prompt": t, "answer": " w3"}) + "\n" for t in REFERENCE)
        )
    given = {
        "model": str(base / "model"),
        "prompts": base / "prompts.jsonl",
        "bos": "always",
        "batch_tokens": 40,
    }
    results = execute(
        STUDIES["ablate"], AblateOptions(value=value, out=base / "run", **given, **more)
    )
    one, prompts = load(base / "model", bos="always"), read_prompts(base / "prompts.jsonl")
    texts = [
        written(one, text) for text in (REFERENCE if reference else [p.prompt for p in prompts])
    ]
    moved = []
    for record in results["records"]:
        layer, head = record["layer"], record["index"]
        own = [text[layer, :, head] for text in texts]
        if value == "mean":
            # not the BOS
            new = torch.cat([text[1:] for text in own]).mean(0).expand(induction.POSITIONS, -1)
        elif value == "resample":
            new = own[0]
        else:
            longest = max(map(len, own))
            new = torch.stack(
                [torch.stack([t[at] for t in own if len(t) > at]).mean(0) for at in range(longest)]
            )
        effects = [
            put(one, p, layer, head, new) - naive(one, "logit_difference", p) for p in prompts
        ]
        assert record["effect"] == pytest.approx(np.mean(effects), abs=1e-4)
        moved.append(abs(record["effect"]))
    assert sorted(moved)[-2] > 0.1  # the two heads that write


def test_a_run_has_its_fields_resumes_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = hand_built(tmp_path)
    command = [
        "ablate",
        "--model",
        str(base / "model"),
        "--prompts",
        str(base / "prompts.jsonl"),
        "--bos",
        "never",
    ]
    command += ["--batch-tokens", "40"]
    assert cli.main([*command, "--out", str(base / "whole")]) == 0
    whole = json.loads((base / "whole" / "results.json").read_text())
    assert set(whole["records"][0]) >= FIELDS
    assert (whole["schema"], whole["kind"]) == (2, "ablate")
    assert "L1H2" in whole["findings"][0]["text"]
    assert (base / "whole" / "report.html").exists()

    effects, calls = Sweep.effects, []

    def second_fails(self: Sweep, *given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return effects(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Sweep, "effects", second_fails)
    assert cli.main([*command, "--out", str(base / "cut")]) == 130
    assert len(list((base / "cut" / "cells").iterdir())) == 1
    assert cli.main([*command, "--out", str(base / "cut")]) == 0
    again = json.loads((base / "cut" / "results.json").read_text())
    assert again["records"] == whole["records"]
    monkeypatch.setattr(Sweep, "effects", None)
    assert cli.main([*command, "--out", str(base / "cut")]) == 0


def test_the_command_comes_back() -> None:
    import argparse

    config = AblateOptions(
        model="m", prompts=Path("p.jsonl"), component="mlps", value="mean", limit=3, out=Path("o")
    )
    parser = argparse.ArgumentParser()
    add_options(parser, AblateOptions)
    words = as_command("ablate", config).split()[2:]
    assert from_arguments(AblateOptions, parser.parse_args(words)) == config


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        (
            '{"prompt": "w3"}',
            [],
            "p.jsonl: no line can be used; line 1: expected 'answer' to be a text, got None",
        ),
        ("[1]", [], "p.jsonl:1: expected a JSON object, got 1"),
        ("{", [], "p.jsonl:1: expected a JSON object: "),
        ("", [], "p.jsonl: expected at least one line, got none"),
        (
            '{"prompt": "w3", "answer": " w4", "wrong": " w4"}',
            [],
            "expected an answer that differs from the wrong one",
        ),
        (
            '{"prompt": "w3", "answer": " w4"}',
            [],
            "metric logit_difference: prompt 1 ('w3') has no 'wrong'",
        ),
        (
            '{"prompt": "w3", "answer": " w4 w5", "wrong": " w6"}',
            [],
            "expected one token, answer ' w4 w5' is 2: 'w4', 'w5'",
        ),
        (
            '{"prompt": "w3", "answer": " w4"}',
            ["--metric", "nonsense"],
            "unknown metric 'nonsense': expected logit_d",
        ),
        (
            '{"prompt": "w3", "answer": " w4"}',
            ["--metric", "pair_difference"],
            "metric pair_difference is of pairs",
        ),
        (
            '{"prompt": "w3", "answer": " w4"}',
            ["--pairs", "x"],
            "expected one of --prompts, --pairs, --labelled, --text",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, more: list[str], message: str
) -> None:
    base = hand_built(tmp_path)
    (base / "p.jsonl").write_text(lines, encoding="utf-8")
    command = [
        "ablate",
        "--model",
        str(base / "model"),
        "--prompts",
        str(base / "p.jsonl"),
        "--out",
        str(base / "r"),
    ]
    assert cli.main([*command, *more]) == 2
    said = capsys.readouterr().err.replace("\r", "\n").strip()
    assert message in said
    assert said.splitlines()[-1].startswith("layerscope: ")


def test_a_pair_that_differs_at_once_needs_a_bos() -> None:
    one = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="never")
    with pytest.raises(MetricError, match="differs in its first token and nothing comes before it"):
        get_metric("pair_difference").reads(one, [Pair("w3 w4", "w5 w4")])


def test_masked_models_are_measured_by_pseudo_log_likelihood() -> None:
    one = Subject(tiny.model("bert"), masking(), bos="auto")
    metric = get_metric("pair_difference")
    expected = []
    for pair in PAIRS:
        sums = []
        for text in (pair.good, pair.bad):
            encoded, total = one.encode([text])[0], 0.0
            for i, token in enumerate(encoded.ids):
                if not encoded.special[i]:
                    ids = torch.tensor([[*encoded.ids[:i], MASK, *encoded.ids[i + 1 :]]])
                    with torch.no_grad():
                        logits = one.model(ids).logits[0, i].double()
                    total += float(torch.log_softmax(logits, -1)[token] / np.log(2))
            sums.append(total)
        expected.append(sums[0] - sums[1])
    got = np.empty(len(PAIRS))
    for chunk in chunks(one, metric.reads(one, PAIRS), 40):
        got[chunk.prompts] = Sweep(one, metric, chunk).clean
    np.testing.assert_allclose(got, expected, atol=2e-5)
    with pytest.raises(MetricError, match="its tokenizer has no mask to hide one behind"):
        metric.reads(subject("bert"), PAIRS)


MASKED = [
    Prompt("w3 w4 w5", "w6", "w7"),
    Prompt("w8 w5 w4 w9", " w10", " w11"),
    Prompt("w12 w5", "w13", "w14"),
]
"""Prompts in which w4 is the mask."""


def at_mask(one: Subject, prompt: Prompt) -> torch.Tensor:
    """log2 p at the mask of one text, run by itself."""
    ids = list(one.encode([prompt.prompt])[0].ids)
    with torch.no_grad():
        return torch.log_softmax(
            one.model(torch.tensor([ids])).logits[0, ids.index(MASK)].double(), -1
        ) / np.log(2)


@pytest.mark.parametrize("kind", ["heads", "neurons", "mlps", "attentions", "layers"])
def test_masked_models_answer_at_the_mask(kind: str) -> None:
    """BERT's shape: the metric and every part's effect, against forwards of single texts."""
    one, metric = Subject(tiny.model("bert"), masking(), bos="auto"), get_metric("logit_difference")
    prompts = MASKED[:2]
    (chunk,) = chunks(one, metric.reads(one, prompts), 500)
    sweep = Sweep(one, metric, chunk)
    order = [prompts[i] for i in chunk.prompts]

    def value(prompt: Prompt) -> float:
        logp = at_mask(one, prompt)
        right, wrong = (int((text or "").strip()[1:]) for text in (prompt.answer, prompt.wrong))
        return float(logp[right] - logp[wrong]) * float(np.log(2))

    np.testing.assert_allclose(sweep.clean, [value(prompt) for prompt in order], atol=2e-5)
    parts = components(one.model, kind, chunk.batch)[:: 13 if kind == "neurons" else 1]
    skip = kind == "layers"
    effects = sweep.effects(
        [
            (p, edits.copy(f"blocks.{p.layer}.hook_resid_pre") if skip else edits.zero())
            for p in parts
        ]
    )
    assert np.abs(effects).max() > 2e-4
    for part, found in zip(parts, effects, strict=True):
        edit = edits.copy(f"blocks.{part.layer}.hook_resid_pre") if skip else edits.zero()
        with intervene(one.model, {part.site: edit}):
            edited = [value(prompt) for prompt in order]
        np.testing.assert_allclose(found, np.array(edited) - sweep.clean, atol=2e-5)


def test_other_metrics_of_masked_models() -> None:
    one = Subject(tiny.model("bert"), masking(), bos="auto")
    logp = at_mask(one, MASKED[0])

    def clean(name: str, prompts: list[Prompt]) -> np.ndarray:
        metric = get_metric(name)
        (chunk,) = chunks(one, metric.reads(one, prompts), 500)
        return Sweep(one, metric, chunk).clean[np.argsort(chunk.prompts)]

    assert clean("log_probability", MASKED[:1]) == pytest.approx(float(logp[6]), abs=2e-5)
    assert clean("rank", MASKED[:1]) == pytest.approx(float((logp > logp[6]).sum()))
    assert np.abs(clean("kl", MASKED[:2])).max() < 1e-6
    # The loss and the difference of pairs are sums of the same log-probabilities.
    good, bad = ("w3 w6 w5", "w3 w7 w5 w8")
    losses = clean("loss", [Prompt(good, ""), Prompt(bad, "")])
    assert clean("pair_difference", [Pair(good, bad)])[0] == pytest.approx(
        -3 * losses[0] + 4 * losses[1], abs=2e-5
    )
    with pytest.raises(MetricError, match="expected one w4 in the text, got 0 in 'w12 w5'"):
        get_metric("logit_difference").reads(one, MASKED)


MASK = 4


def masking() -> Any:
    """The tiny tokenizer with a mask."""
    made = tiny.tokenizer()
    made.mask_token = made.convert_ids_to_tokens(MASK)
    return made


def test_blimps_one_prefix_lines_are_prompts(tmp_path: Path) -> None:
    line = {
        "one_prefix_prefix": "w3 w4",
        "one_prefix_word_good": "w5",
        "one_prefix_word_bad": "w6",
        "UID": "agreement",
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert read_prompts(tmp_path / "b.jsonl") == [Prompt("w3 w4", " w5", " w6")]
    (tmp_path / "b.jsonl").write_text(json.dumps({**line, "group": "g"}), encoding="utf-8")
    assert read_prompts(tmp_path / "b.jsonl") == [Prompt("w3 w4", " w5", " w6", group="g")]
    del line["one_prefix_word_good"]
    (tmp_path / "b.jsonl").write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(
        PromptError, match=r"b.jsonl:1: expected 'one_prefix_word_good' to be a text, got None"
    ):
        read_prompts(tmp_path / "b.jsonl")


def test_a_group_is_read_alike_from_every_kind_of_line(tmp_path: Path) -> None:
    """No field and null are no group, a number is its text,
    anything else is refused with its line.
    """
    readers = {
        "prompts": (read_prompts, {"prompt": "a", "answer": "b"}),
        "pairs": (read_pairs, {"sentence_good": "a", "sentence_bad": "b"}),
        "questions": (read_questions, {"question": "a", "choices": ["b", "c"], "answer": 0}),
    }
    values = [{}, {"group": None}, {"group": 3}, {"group": "x"}, {"group": "x"}]
    path = tmp_path / "lines.jsonl"
    for read, line in readers.values():
        path.write_text(
            "\n".join(json.dumps({**line, **value}) for value in values), encoding="utf-8"
        )
        assert [item.group for item in read(path)] == [None, None, "3", "x", "x"]
    row = {"probabilities": [0.5, 0.5], "label": 0}
    path.write_text("\n".join(json.dumps({**row, **value}) for value in values), encoding="utf-8")
    clusters = read_predictions(path).clusters.tolist()
    assert len(set(clusters)) == 4
    assert clusters[3] == clusters[4]
    for read, line in [*readers.values(), (read_predictions, row)]:
        for bad in ("", [1], {}):
            path.write_text(json.dumps({**line, "group": bad}), encoding="utf-8")
            with pytest.raises(
                ValueError, match=r"lines.jsonl:1: expected 'group' to be a text or a number, got "
            ):
                read(path)


@pytest.mark.parametrize(
    ("name", "item", "said"),
    [
        (
            "log_probability",
            Prompt("w3 " * 59 + "w3", " w4 w5 w6 w7"),
            "prompt 1: with ' w4 w5 w6 w7' longer than",
        ),
        (
            "answer_difference",
            Prompt("w3 " * 59 + "w3", " w4", " w4 w5 w6 w7"),
            "prompt 1: with ' w4 w5 w6 w7' long",
        ),
        (
            "log_probability",
            Prompt("w3 " * 70, " w4"),
            "prompt 1: longer than the model's 64 tokens",
        ),
        ("pair_difference", Pair("w3 " * 70 + "w4", "w3 " * 70 + "w5"), "pair 1: longer than"),
        (
            "pair_difference",
            Pair("w3 w4", "w3  w4"),
            "pair 1: expected sentences of other tokens, got the same ('w3 w4')",
        ),
        ("loss", Prompt("w3 " * 70, ""), "prompt 1: longer than"),
        ("kl", Prompt("w3 " * 70, ""), "prompt 1: longer than"),
        ("confidence", Prompt("w3 " * 70, ""), "prompt 1: longer than"),
    ],
)
def test_a_text_that_the_model_would_be_shown_cut_is_refused(
    name: str, item: Prompt | Pair, said: str
) -> None:
    with pytest.raises(MetricError, match=re.escape(said)):
        get_metric(name).reads(subject("gpt2"), [item])


@pytest.mark.parametrize("name", ["rank", "pair_accuracy", "answer_accuracy", "logit_difference"])
def test_logits_that_are_no_numbers_are_refused_with_the_part_that_made_them(name: str) -> None:
    one, metric = subject("gpt2"), get_metric(name)
    (chunk,) = chunks(one, metric.reads(one, items(name)), 1000)
    parts = components(one.model, "mlps", chunk.batch)
    broken = [
        (parts[0], edits.zero()),
        (parts[1], edits.function(lambda value: value * float("nan"))),
    ]
    with pytest.raises(MetricError, match=r"got NaN or infinity with blocks.1.hook_mlp_out edited"):
        Sweep(one, metric, chunk).effects(broken)
    one.model.transformer.ln_f.weight.data.fill_(float("nan"))
    with pytest.raises(MetricError, match="got NaN or infinity without edits"):
        Sweep(one, metric, chunk)
