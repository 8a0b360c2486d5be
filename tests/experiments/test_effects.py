"""What an effect is made from: which texts and positions, what few groups can show,
items that cannot be measured.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from naive import naive, subject
from scipy.stats import spearmanr

from experiments.corpus.prompts import Pair, Prompt, Unusable, read_pairs, read_prompts
from experiments.metrics.metrics import METRICS, get_metric
from experiments.metrics.reads import MetricError
from experiments.metrics.usable import NAMED, joined_notes, unusable_notes, usable
from experiments.runs import execute as execution
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.ablate.options import AblateOptions
from experiments.studies.patch.options import PatchOptions
from experiments.subject import Subject
from experiments.sweep.components import KINDS, components
from experiments.sweep.effects import effect_records, group_notes, mean_of
from experiments.sweep.estimate import weighted_spearman
from experiments.sweep.grid_picture import effect_grid
from experiments.sweep.measure import Measured
from experiments.sweep.reading import families, power_note, significance_text
from experiments.sweep.sweep import chunks
from hooks import Reference, Site, capture, edits, intervene
from hooks.edits import Where
from hooks.reference import partners
from probes.evaluation import ClusterBootstrap

# Two texts of one length, one that only the longest covers, and the longest.
PROMPTS = [
    Prompt("w3 w4 w5 w6", " w7", " w8"),
    Prompt("w9 w3 w12 w5", " w4", " w20"),
    Prompt("w30 w31 w32 w33 w34", " w36", " w37"),
    Prompt("w50 w51 w52 w53 w54 w55", " w51", " w52"),
]


@pytest.fixture(autouse=True)
def without_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checks are tested elsewhere, and take most of the time of a tiny run."""
    monkeypatch.setattr(execution, "_examined", lambda subject, force: {})


def loud(bos: str = "always") -> Subject:
    """A GPT-2 whose MLPs matter."""
    model = tiny.model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            for parameter in block.mlp.parameters():
                parameter.mul_(8)
    return Subject(model, tiny.tokenizer(), bos=bos)


def write(path: Path, items: list[Prompt] | list[Pair]) -> Path:
    lines = []
    for item in items:
        if isinstance(item, Pair):
            record = {"sentence_good": item.good, "sentence_bad": item.bad, "group": item.group}
        else:
            names = ("prompt", "answer", "wrong", "corrupted", "group")
            record = {name: getattr(item, name) for name in names}
        lines.append(
            json.dumps({name: value for name, value in record.items() if value is not None})
        )
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def ablate(
    one: Subject, folder: Path, items: list[Prompt] | list[Pair], **options: Any
) -> dict[str, Any]:
    """A run in a folder of its own."""
    kind = "pairs" if isinstance(items[0], Pair) else "prompts"
    number = sum(1 for _ in folder.glob("run-*"))
    asked = {kind: write(folder / f"{kind}-{number}.jsonl", items), "out": folder / f"run-{number}"}
    return execute(STUDIES["ablate"], AblateOptions(model=one, **{**asked, **options}))


# -- resampling


def test_a_text_is_never_its_own_partner_and_every_other_one_is_drawn() -> None:
    texts = [[1, 2, 3], [4, 5, 6], [7, 8], [1, 2, 3]]
    drawn = [partners(texts, texts, seed) for seed in range(200)]
    by_text = [{rows[i] for rows in drawn} for i in range(len(texts))]
    assert by_text == [{1}, {0, 3}, {0, 1, 3}, {1}]  # as long, and not the same tokens
    share = np.mean([rows[1] == 0 for rows in drawn])
    assert share == pytest.approx(1 / 2, abs=4 * (0.25 / 200) ** 0.5)
    assert partners([[1, 2, 3, 4]], texts) == [None]
    assert partners(texts, texts, related=lambda text, reference: True) == [None] * 4


@pytest.mark.parametrize("tokens", [6, 400])
def test_a_resampled_effect_is_that_of_another_text(tmp_path: Path, tokens: int) -> None:
    """Whatever the batches: the effect of each prompt is that of one
    of the other texts that are long enough.
    """
    one = loud()
    results = ablate(
        one,
        tmp_path,
        PROMPTS,
        component="mlps",
        value="resample",
        positions="all",
        batch_tokens=tokens,
    )
    assert results["records"][0]["n"] == 3  # the longest has no other
    assert (
        "1 of 4 items left out: no other reference text has the same length"
        in results["notes"][0]["text"]
    )
    ids = [torch.tensor([one.encode([prompt.prompt])[0].ids]) for prompt in PROMPTS]
    for record in results["records"]:
        with torch.no_grad(), capture(one.model, record["site"], clone=True) as first:
            one.model(ids[0])
        values = [first[record["site"]]]
        for text in ids[1:]:
            with torch.no_grad(), capture(one.model, record["site"], clone=True) as acts:
                one.model(text)
            values.append(acts[record["site"]])
        possible = []
        for i in range(3):
            length, effects = ids[i].shape[1], []
            for j in range(4):
                if j != i and ids[j].shape[1] >= length:
                    patch = edits.patch(values[j][:, :length])
                    with intervene(one.model, {record["site"]: patch}):
                        effects.append(naive(one, "logit_difference", PROMPTS[i]))
            clean = naive(one, "logit_difference", PROMPTS[i])
            possible.append([effect - clean for effect in effects])
        means = [np.mean(choice) for choice in itertools.product(*possible)]
        assert min(abs(mean - record["effect"]) for mean in means) < 2e-5


def test_the_draw_depends_on_no_batch(tmp_path: Path) -> None:
    one = loud()
    effects = [
        [
            record["effect"]
            for record in ablate(
                one, tmp_path, PROMPTS[:3], component="mlps", value="resample", batch_tokens=tokens
            )["records"]
        ]
        for tokens in (6, 400)
    ]
    assert effects[0] == pytest.approx(effects[1], abs=1e-5)


def test_sentences_of_a_pair_do_not_stand_for_each_other(tmp_path: Path) -> None:
    alone = [
        Pair("w3 w4 w5 w6 w7 w8", "w3 w4 w5 w9 w7 w8"),
        Pair("w1 w2 w3", "w1 w4 w3"),
        Pair("w5 w2 w3", "w5 w6 w3"),
    ]
    results = ablate(subject("gpt2"), tmp_path, alone, component="mlps", value="resample")
    assert results["records"][0]["n"] == 2


# -- positions


@pytest.mark.parametrize("positions", ["all", "not-first"])
@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
@pytest.mark.parametrize("bos", ["always", "never"])
def test_the_first_token_is_in_the_edit_if_it_is_in_the_mean(
    tmp_path: Path, value: str, positions: str, bos: str
) -> None:
    """Against plain PyTorch hooks on the module, on single texts."""
    one = loud(bos)
    prompts = [Prompt("w3 w4 w5 w6", " w7", " w8"), Prompt("w9 w3 w12 w5", " w4", " w20")]
    results = ablate(one, tmp_path, prompts, component="mlps", value=value, positions=positions)
    first = 0 if positions == "all" else 1
    for layer, record in enumerate(results["records"]):
        module = one.model.transformer.h[layer].mlp
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(
            lambda m, args, out, seen=seen: seen.append(out.detach()[0])
        )
        clean = [naive(one, "logit_difference", prompt) for prompt in prompts]
        handle.remove()
        outputs = seen[: len(prompts)]
        new = {
            "zero": [torch.zeros_like(output) for output in outputs],
            "mean": [
                torch.cat([output[first:] for output in outputs]).mean(0).expand_as(output)
                for output in outputs
            ],
            "resample": outputs[::-1],
        }[value]
        effects = []
        for prompt, own, values in zip(prompts, clean, new, strict=True):

            def put(
                m: Any, args: Any, out: torch.Tensor, values: torch.Tensor = values
            ) -> torch.Tensor:
                return torch.cat([out[:, :first], values[None, first : out.shape[1]]], 1)

            handle = module.register_forward_hook(put)
            effects.append(naive(one, "logit_difference", prompt) - own)
            handle.remove()
        assert record["effect"] == pytest.approx(np.mean(effects), abs=2e-5)
        assert abs(record["effect"]) > 1e-3


def test_positions_of_a_patch_begin_where_they_are_asked_to(tmp_path: Path) -> None:
    one = subject("gpt2")
    items = [
        Prompt("w3 w4 w5", " w7", " w8", corrupted="w3 w6 w5"),
        Prompt("w9 w4 w5", " w7", " w8", corrupted="w2 w4 w5"),
    ]
    clean = write(tmp_path / "p.jsonl", items)
    indices = {}
    for positions in ("all", "not-first"):
        options = PatchOptions(
            model=one, clean=clean, by="position", positions=positions, out=tmp_path / positions
        )
        results = execute(STUDIES["patch"], options)
        indices[positions] = sorted({record["index"] for record in results["records"]})
    length = len(one.encode(["w3 w4 w5"])[0].ids)
    assert indices == {"all": list(range(length)), "not-first": list(range(1, length))}
    assert results["tokens"][-1].strip() == "w5"


# -- what few groups can show


def some_records(
    effects: np.ndarray,
    clusters: np.ndarray,
    whole: float | np.ndarray = 2.0,
    metric: str = "logit_difference",
    unchanged: np.ndarray | None = None,
) -> list[Any]:
    one = subject("gpt2")
    (chunk,) = chunks(one, get_metric("logit_difference").reads(one, PROMPTS[:1]), 100)
    parts = components(one.model, "heads", chunk.batch)[: len(effects)]
    tested = np.ones(len(effects), dtype=bool)
    measured = Measured(effects, np.zeros(effects.shape[1]), tested, unchanged=unchanged)
    clean = np.broadcast_to(whole, effects.shape[1]).astype(float)
    of = get_metric(metric)
    return effect_records(
        parts, measured, clean, clusters, of, whole_kind=of.value_kind, value="zero"
    )


def test_one_group_has_no_interval_and_no_test_and_keeps_its_recovery() -> None:
    for size in (1, 3):
        effects = np.array([[1.0] * size, [-0.5] * size])
        first, second = some_records(effects, np.zeros(size, dtype=int))
        assert (first.effect_interval, first.p, first.q, first.normalised_interval) == (None,) * 4
        assert (first.normalised, second.normalised) == (0.5, -0.25)
        (note,) = group_notes(np.zeros(size, dtype=int))
        assert "cannot be tested" in note.text
    grid = effect_grid([first, second], uid="g", title="t", names=["a", "b"])
    assert grid is not None
    assert "cannot be tested" in grid[2]
    assert grid[1][0][2] == "cannot be tested"


def test_a_share_leaves_0_out_where_its_effect_does() -> None:
    """The share is 0 where the effect is: what the effect's p says of 0 its interval says too."""
    rng = np.random.default_rng(1)
    n_apart = 0
    for n in (8, 12) * 20:
        whole = np.exp(1.5 * rng.normal(size=n))
        effects = 0.4 * rng.normal(size=(4, n)) + np.array([[-0.5], [-0.3], [0.3], [0.5]])
        for values, record in zip(effects, some_records(effects, np.arange(n), whole), strict=True):
            if record.normalised is None:
                continue
            share = record.normalised_interval
            assert share.excludes(0.0) == (record.p < 0.05)
            assert share.low <= record.normalised <= share.high
            assert record.normalised == pytest.approx(values.sum() / whole.sum())
            ratio = ClusterBootstrap(np.arange(n)).ratio(values, whole)
            n_apart += (ratio.low > 0 or ratio.high < 0) != (record.p < 0.05)
    assert n_apart > 0  # the ratio's own interval and p disagree on some of these


@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("share", [0.02, 0.98])
def test_the_interval_of_an_accuracy_covers_also_where_all_answers_agree(
    n: int, share: float
) -> None:
    """Of prompts that are answered right with a known chance, and an edit that turns over each
    answer with chance .05.
    """
    rng = np.random.default_rng(n)
    metric = get_metric("answer_accuracy")
    true_change = 0.05 * (1 - 2 * share)
    covered, covered_change = [], []
    for _ in range(200):
        clean = (rng.random(n) < share).astype(float)
        edited = np.where(rng.random(n) < 0.05, 1 - clean, clean)
        base = mean_of(clean, np.arange(n), 0, metric.value_kind)
        covered.append(base.interval.low <= share <= base.interval.high)
        (record,) = some_records((edited - clean)[None], np.arange(n), clean, metric.name)
        change = record.effect_interval
        covered_change.append(change.low <= true_change <= change.high)
    # A rate of .95 of 200 has a standard error of .015.
    assert np.mean(covered) >= 0.92
    assert np.mean(covered_change) >= 0.92


def test_an_edit_that_changes_nothing_has_no_effect_and_one_that_turns_no_answer_may() -> None:
    clean, effects = np.ones(20), np.zeros((2, 20))
    unchanged = np.array([True, False])
    nothing, no_answer = some_records(
        effects, np.arange(20), clean, "answer_accuracy", unchanged=unchanged
    )
    low, high = nothing.effect_interval.low, nothing.effect_interval.high
    assert (low, high, nothing.p) == (0.0, 0.0, 1.0)
    # Newcombe's interval of 20 of 20 and 20 of 20, each share's reach z^2 / (n + z^2) by Student's t.
    reach = 2.093**2 / (20 + 2.093**2)
    assert no_answer.effect_interval.high == pytest.approx(reach, abs=1e-3)
    assert no_answer.effect_interval.low == pytest.approx(-reach, abs=1e-3)
    assert no_answer.p == 1.0
    (measured_as_0,) = some_records(effects[:1], np.arange(20), clean)
    assert measured_as_0.effect_interval.high == 0.0  # of a metric that is no answer


def test_six_prompts_are_no_finding_of_nothing() -> None:
    effects = np.random.default_rng(0).normal(size=(8, 6))
    note = power_note(some_records(effects, np.arange(6)), "heads")
    assert note == (
        "With 6 prompts, the smallest possible p is 0.031. For q < 0.05, "
        "at least 6 of 8 heads must reach it."
    )
    few = some_records(effects[:, :5], np.arange(5))
    assert {(r.p, r.q, r.effect_interval, r.normalised_interval) for r in few} == {(None,) * 4}
    text = significance_text(few, "heads", "Zero ablation changes it")
    assert text == "Effects of heads cannot be tested: 5 prompts, and a test at 5% needs 6."
    assert power_note(some_records(np.tile(effects, 4), np.arange(24)), "heads") == ""


def test_what_was_not_tested_is_said() -> None:
    """Of a race and of a screen: 1 of 8 heads has an effect, and 3 of them a test."""
    effects = np.random.default_rng(0).normal(size=(8, 24))
    effects[0] += 5
    records = some_records(effects, np.arange(24))
    some = [replace(r, p=None, q=None) if n > 2 else r for n, r in enumerate(records)]
    text = significance_text(some, "heads", "It changes it")
    assert text == (
        "It changes it significantly (FDR < 0.05) at 1 of 8 heads, of which 3 were tested."
    )
    text = significance_text(records, "heads", "It changes it")
    assert text == "It changes it significantly (FDR < 0.05) at 1 of 8 heads."


# -- the metric did not change, or the activation did not


def test_an_accuracy_that_stays_is_not_an_activation_that_stays(tmp_path: Path) -> None:
    one = subject("gpt2")
    with torch.no_grad():
        one.model.transformer.h[1].mlp.c_proj.weight.zero_()
        one.model.transformer.h[1].mlp.c_proj.bias.zero_()
    pairs = [Pair("w3 w4 w5 w6", "w3 w4 w7 w6"), Pair("w9 w8 w1", "w9 w3 w1")]
    results = ablate(one, tmp_path, pairs, component="mlps", metric="pair_accuracy")
    moved = ablate(one, tmp_path, pairs, component="mlps", metric="pair_difference")
    texts = " ".join(note["text"] for note in results["notes"])
    assert [record["effect"] == 0 for record in moved["records"]] == [False, True]
    assert "1 of 2 measured mlps changed no activation" in texts
    same = results["records"][0]["effect"] == 0
    assert ("1 of 2 measured mlps changed activations but not the pair_accuracy" in texts) == same


# -- the certificate's correlation


def test_a_weighted_rank_correlation_is_that_of_so_many_copies() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 12).astype(float), rng.normal(size=12)
    weights = rng.integers(1, 5, 12)
    copies: Any = spearmanr(np.repeat(a, weights), np.repeat(b, weights))
    assert weighted_spearman(a, b, weights.astype(float)) == pytest.approx(copies.statistic)
    plain: Any = spearmanr(a, b)
    assert weighted_spearman(a, b, np.ones(12)) == pytest.approx(plain.statistic)


# -- items that cannot be measured


def test_bad_items_are_left_out_counted_and_named(tmp_path: Path) -> None:
    one, metric = subject("gpt2"), get_metric("pair_difference")
    good = [Pair(f"w{i} w4 w5 w6", f"w{i} w4 w7 w6") for i in range(8, 28)]
    file = write(tmp_path / "p.jsonl", [*good, Pair("w1 w2", "w1 w2"), Pair("w1 w2", "w1 w2 ")])
    unusable: list[Unusable] = []
    pairs = read_pairs(file, unusable=unusable)
    kept, reads = usable(pairs, lambda some: metric.reads(one, some), unusable, 0.1)
    assert kept == good
    assert reads.n_prompts == len(good)
    (note,) = unusable_notes(unusable, len(kept))
    assert note.text.startswith(
        "2 of 22 items left out: line 21: expected two sentences that differ"
    )
    assert "line 22: expected sentences of other tokens" in note.text
    with pytest.raises(
        MetricError,
        match=r"2 of 22 items cannot be measured: correct them, or leave them out with --skip 0.1 ",
    ):
        usable(pairs, lambda some: metric.reads(one, some), [unusable[0]], 0.05)


def test_too_long_and_of_two_tokens(tmp_path: Path) -> None:
    one, metric = subject("gpt2"), get_metric("logit_difference")
    items = [Prompt("w3 w4", " w5", " w6")] * 17
    items += [
        Prompt("w3 " * 70, " w5", " w6"),
        Prompt("w3", " w4 w5", " w6"),
    ]
    path = write(tmp_path / "p.jsonl", items)
    with path.open("a") as file:
        file.write('\n{"prompt": "w3", "answer": " w4", "wrong": " w4"}\n')
    unusable: list[Unusable] = []
    prompts = read_prompts(path, unusable=unusable)
    kept, _ = usable(prompts, lambda some: metric.reads(one, some), unusable, 0.2)
    assert len(kept) == 17
    text = unusable_notes(unusable, len(kept))[0].text
    assert "line 18: longer than the model's 64 tokens" in text
    assert "line 19: expected one token, answer ' w4 w5' is 2" in text
    assert "--metric answer_difference" in text
    assert "line 20: expected an answer that differs" in text
    many = [Unusable(i, "bad") for i in range(9)]
    assert (
        unusable_notes(many, 91)[0].text
        == f"9 of 100 items left out: lines 0, 1, 2, and {9 - NAMED} more: bad"
    )


def test_a_space_that_may_be_missing_is_asked_about_once() -> None:
    joined = [Prompt("He said that", "she", "he"), Prompt("She said that", " he", " she")]
    (note,) = joined_notes(joined, subject("gpt2"))
    assert note.text == (
        "1 of 2 answers continue the last word of their prompt, such as 'that' + 'she': "
        "does the answer need a space in front?"
    )
    apart = [Prompt("2 + 2 =", "four"), Prompt("in 19", "th"), Prompt("河很", "高")]
    assert joined_notes([*apart, *joined[1:], Pair("a", "b")], subject("gpt2")) == []
    # a masked model's answer stands in the mask's place
    assert joined_notes(joined, subject("bert")) == []


# -- every component with every value, metric and estimate

EVERY_VALUE = ("zero", "mean", "mean-position", "resample", "optimal")
SMALL = [Prompt("w3 w4 w5 w6", " w7", " w8"), Prompt("w9 w3 w12 w5", " w4", " w20")]
SMALL_PAIRS = [Pair("w3 w4 w5 w6", "w3 w4 w7 w6"), Pair("w9 w8 w1 w2", "w9 w3 w1 w2")]


@pytest.mark.parametrize("component", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_single_index_of_every_site_can_be_replaced(name: str, component: str) -> None:
    """The edit of one index is the whole site's edit, cut to it."""
    one = subject(name)
    (chunk,) = chunks(one, get_metric("loss").reads(one, SMALL), 400)
    inputs = chunk.batch.inputs()
    part = components(one.model, component, chunk.batch)[-1]
    whole = Site(part.site.name)
    reference = Reference.of(one.model, whole, batches=[inputs])
    with torch.no_grad(), capture(one.model, whole, clone=True) as acts:
        one.model(**inputs)
    value = acts[whole]
    index = (..., part.index) if component == "neurons" else (slice(None), slice(None), part.index)
    for edit in (
        edits.zero(),
        edits.mean(reference),
        edits.mean(reference, per="position"),
        edits.resample(reference, rows=[1, 0]),
        edits.constant(value[0, 0]),
    ):
        expected = edit(value, Where(whole))
        if part.index is not None:
            expected = torch.where(
                torch.zeros_like(value).index_put_(_grid(value, index), torch.tensor(1.0)) > 0,
                expected,
                value,
            )
        with (
            torch.no_grad(),
            intervene(one.model, {part.site: edit}),
            capture(one.model, whole, clone=True) as after,
        ):
            one.model(**inputs)
        torch.testing.assert_close(after[whole], expected, atol=1e-6, rtol=1e-5)


def _grid(value: torch.Tensor, index: Any) -> tuple[torch.Tensor, ...]:
    """The places of a selection."""
    marked = torch.zeros_like(value)
    marked[index] = 1
    return tuple(marked.nonzero().T)


OF_TOKENS = [name for name, metric in METRICS.items() if not metric.of_classes]
"""Metrics of language models."""


@pytest.mark.slow
@pytest.mark.parametrize("component", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_value_metric_and_estimate_runs(tmp_path: Path, name: str, component: str) -> None:
    check_combinations(
        tmp_path,
        name,
        component,
        list(itertools.product(EVERY_VALUE, OF_TOKENS, ("none", "gradient", "graddrop"))),
    )


@pytest.mark.parametrize("component", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_value_and_every_metric_runs_once(tmp_path: Path, name: str, component: str) -> None:
    some = [
        (EVERY_VALUE[i % 5], metric, ("none", "gradient")[i % 2])
        for i, metric in enumerate(OF_TOKENS)
    ]
    check_combinations(tmp_path, name, component, some)


NO_GRADIENT = ("rank", "answer_accuracy", "pair_accuracy")


def check_combinations(
    folder: Path, name: str, component: str, wanted: list[tuple[str, str, str]]
) -> None:
    """Every combination that is no contradiction gives numbers."""
    one = subject(name)
    for value, metric, estimate in wanted:
        if (value, component) == ("optimal", "neurons") or (
            estimate != "none" and metric in NO_GRADIENT
        ):
            continue
        items = SMALL_PAIRS if METRICS[metric].of_pairs else SMALL
        results = ablate(
            one,
            folder,
            items,
            component=component,
            value=value,
            metric=metric,
            estimate=estimate,
            verify=2,
            verify_drawn=2,
            steps=1,
        )
        assert results["records"], (value, metric, estimate)
        assert np.isfinite([record["effect"] for record in results["records"]]).all()
        assert (metric, component) == (
            results["records"][0]["metric"],
            next(iter(families_of(results))),
        )


def families_of(results: dict[str, Any]) -> list[str]:
    typed = STUDIES["ablate"].read(results)
    return [component for _, component in families(typed.records)]
