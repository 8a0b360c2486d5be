"""What a study asks of all layers together, on features whose answer is known by construction."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.corpus import SPLITS, read_conllu
from experiments.demo import demo_paths
from experiments.features.layout import Layout
from experiments.report.schema import as_json
from experiments.runs.folder import RunFolder
from experiments.studies.probe.across import across_layers
from experiments.studies.probe.mixes import mix_finding, mix_records
from experiments.studies.probe.options import ProbeOptions
from experiments.studies.probe.scoring import Cell
from experiments.studies.probe.summary import summarise
from experiments.studies.probe.trees import Trees, chain_scores, tree_scores_of
from experiments.subject.word_spans import Encoded
from experiments.tasks.properties import get_property
from experiments.tasks.task import TaskError, build_task
from experiments.tasks.views import View


@pytest.fixture(scope="module")
def corpora():
    """Three splits of the embedded corpus, laid out as if every word had one token."""
    paths = demo_paths()
    splits = {
        s: read_conllu(p, limit=60)
        for s, p in zip(SPLITS, (paths.train, paths.dev, paths.test), strict=True)
    }
    layouts = {s: _layout(corpus) for s, corpus in splits.items()}
    sizes = [layouts[s].n_rows for s in SPLITS]
    return (
        splits,
        layouts,
        dict(zip(SPLITS, (0, sizes[0], sum(sizes[:2])), strict=True)),
        sum(sizes),
    )


def _layout(corpus):
    encoded = [
        Encoded(s.text, (0,) * len(s.words), ((0, 0),) * len(s.words), (False,) * len(s.words))
        for s in corpus
    ]
    return Layout(encoded, [[slice(i, i + 1) for i in range(len(s.words))] for s in corpus])


def test_trees_written_into_the_vectors_are_recovered_and_noise_is_not(corpora):
    splits, layouts, offsets, n = corpora
    trees = {s: Trees.of(splits[s], layouts[s], offsets[s]) for s in SPLITS}
    code = torch.zeros(n, 40)  # every edge its own axis: squared distances are edges
    for split in trees.values():
        for rows, heads in zip(split.rows, split.heads, strict=True):
            for word in range(len(heads)):
                at = word
                while heads[at]:
                    code[rows[word], at] = 1.0
                    at = heads[at] - 1
    noise = torch.randn(n, 40, generator=torch.Generator().manual_seed(0))
    features = {"code": code, "noise": noise}
    found = {
        r["site"]: r
        for r in tree_scores_of(trees, features.__getitem__, list(features), rank=40, seed=0)
    }
    chain = chain_scores(trees["test"], seed=0)
    assert found["code"]["uuas"] > 0.95
    assert found["code"]["root_accuracy"] > 0.95
    assert found["code"]["uuas_interval"].low > chain["uuas_interval"].high
    assert found["noise"]["uuas"] < chain["uuas"]


def test_a_split_without_a_tree_is_said_and_the_rest_is_done(corpora, tmp_path):
    splits, layouts, _, _ = corpora
    single = {
        s: replace(part, sentences=tuple(replace(x, words=x.words[:1]) for x in part))
        for s, part in splits.items()
    }
    view = View("text", {**splits, "test": single["test"]}, layouts, layouts["train"], ())
    config = ProbeOptions(
        model="m", corpus=Path("c"), property=("upos",), structural=4, out=tmp_path
    )
    found = across_layers(config, [view], [], {}, RunFolder(tmp_path, {}))
    assert found.trees == []
    assert [note.kind for note in found.notes] == ["skipped"]
    assert "no sentence of test has two words" in found.notes[0].text


def test_the_mix_of_a_study_names_the_layer_and_refuses_where_nothing_is_gained(corpora):
    splits, layouts, offsets, n = corpora
    task = build_task(get_property("upos", splits["train"]), splits, layouts, offsets)
    tags = [word.upos for s in SPLITS for sentence in splits[s] for word in sentence.words]
    kinds = sorted(set(tags))
    told = torch.nn.functional.one_hot(
        torch.tensor([kinds.index(t) for t in tags]), len(kinds)
    ).float()
    generator = torch.Generator().manual_seed(0)
    blind = [torch.randn(n, len(kinds), generator=generator) for _ in range(3)]
    (late,) = mix_records([task], [blind[0], blind[1], told, blind[2]], list("abcd"), seed=0)
    assert np.argmax(late.mix) == 2
    assert late.expected_layer_interval is not None
    assert not late.expected_layer_interval.excludes(late.expected_layer)
    # the third of four: -1 is the embedding layer
    assert late.expected_layer == pytest.approx(1, abs=0.1)
    (early,) = mix_records([task], [told, *blind], list("abcd"), seed=0)
    assert early.expected_layer is None
    assert early.headroom_interval.low <= 0


def test_a_mix_that_is_weaker_than_one_of_its_layers_is_refused(corpora):
    """A perfect probe of one layer shows that a mix of noise was not trained to its end;
    one that is never right does not.
    """
    splits, layouts, offsets, n = corpora
    task = build_task(get_property("upos", splits["train"]), splits, layouts, offsets)
    tags = [word.upos for s in SPLITS for sentence in splits[s] for word in sentence.words]
    kinds = sorted(set(tags))
    told = torch.nn.functional.one_hot(
        torch.tensor([kinds.index(t) for t in tags]), len(kinds)
    ).float()
    noise = torch.randn(n, len(kinds), generator=torch.Generator().manual_seed(0))
    items = len(task.parts["test"])
    perfect, never = {"upos": np.ones(items)}, {"upos": np.zeros(items)}
    (weak,) = mix_records([task], [noise, noise + 0.1 * told], ["a", "b"], seed=0, single=perfect)
    assert weak.margin == pytest.approx(weak.cumulative[-1] - 1)
    assert weak.is_weaker()
    assert weak.expected_layer is None
    assert "its weights and the expected layer are not supported" in mix_finding(weak)
    (strong,) = mix_records([task], [noise, told], ["a", "b"], seed=0, single=never)
    assert strong.margin == pytest.approx(strong.cumulative[-1])
    assert strong.expected_layer is not None


def test_information_is_the_difference_of_the_surprisals(corpora):
    splits, layouts, offsets, _ = corpora
    task = build_task(get_property("upos", splits["train"]), splits, layouts, offsets)
    test = task.parts["test"]
    gold = [str(v) for v in test.labels]

    def cell(site, bits, beyond=()):
        more = {
            "control": [],
            "control_values": [],
            "control_converged": True,
            "random_model": None,
        }
        return Cell(
            "upos",
            site,
            gold,
            [1.0] * len(gold),
            1.0,
            True,
            0.0,
            **more,
            bits=bits,
            bits_beyond=list(beyond),
        )

    n = len(gold)
    cells = [
        cell("blocks.0.hook_resid_pre", [2.0] * n),
        cell("blocks.0.hook_resid_post", [1.5] * n, [1.0] * n),
        cell("blocks.1.hook_resid_post", [None, *[2.5] * (n - 1)], [None, *[2.0] * (n - 1)]),
    ]
    told = ProbeOptions(
        model="m",
        out=Path("o"),
        corpus=Path("c"),
        property=("upos",),
        control_seeds=0,
        random_models=0,
    )
    records = summarise(cells, [task], {"upos": splits}, told).records
    train = [str(v) for v in task.parts["train"].labels]
    prior = np.mean([-np.log2(train.count(g) / len(train)) for g in gold if g in train])
    assert records[0].information == pytest.approx(prior - 2.0, abs=1e-9)
    assert [r.gain for r in records] == pytest.approx([0.0, 0.5, -0.5])
    assert records[0].conditional is None
    assert [r.conditional for r in records[1:]] == pytest.approx([1.0, 0.0])
    assert astuple(records[1].conditional_interval) == pytest.approx((1.0, 1.0))


def _length_summary(corpora, n_sentences):
    """Two layers that miss the length of every word, by .5 and by .1; two words a sentence."""
    splits, layouts, offsets, _ = corpora
    task = build_task(get_property("length", splits["train"]), splits, layouts, offsets)
    seen = task.parts["train"].types[0]
    n = 2 * n_sentences
    labels = np.r_[1.0, 1, 2, 3, 4, 5, np.arange(n - 6) % 5]
    few = replace(
        task.parts["test"],
        rows=task.parts["test"].rows[:n],
        labels=labels,
        types=[seen, seen, *(f"?{i}" for i in range(n - 2))],
        clusters=np.repeat(np.arange(n_sentences), 2),
        words=np.arange(n),
    )
    task = replace(task, parts={**task.parts, "test": few})
    more = {"control": [], "control_values": [], "control_converged": True, "random_model": None}
    cells = [
        Cell(
            "length",
            f"blocks.{i}.hook_resid_pre",
            (few.labels + off).tolist(),
            [],
            1.0,
            True,
            0.0,
            **more,
        )
        for i, off in enumerate((0.5, 0.1))
    ]
    told = ProbeOptions(
        model="m", out=Path("o"), corpus=Path("c"), property=("length",), control_seeds=0
    )
    return labels, summarise(cells, [task], {"length": splits}, told)


def test_numbers_that_few_sentences_hold_are_summarised_without_the_resamples_of_one_number(
    corpora,
):
    _, found = _length_summary(corpora, 3)
    assert json.dumps(as_json([*found.records, *found.comparisons]), allow_nan=False)
    low = [r.score_interval.low for r in found.records]
    assert low == pytest.approx([1 - 0.25 / 0.25, 1 - 0.01 / 0.25])  # of the numbers 2 and 3 alone
    assert [r.score_seen for r in found.records] == [None, None]


@pytest.mark.parametrize("n_sentences", [3, 5, 6, 12])
def test_layers_of_few_sentences_differ_in_interval_and_test_or_in_neither(corpora, n_sentences):
    """One layer is better on every word: from six sentences on that is significant,
    below nothing can be.
    """
    labels, found = _length_summary(corpora, n_sentences)
    (pair,) = found.comparisons
    spread = ((labels - labels.mean()) ** 2).mean()
    assert pair.difference == pytest.approx((0.25 - 0.01) / spread)
    if n_sentences < 6:
        assert (pair.difference_interval, pair.p, pair.p_holm) == (None, None, None)
        assert [(r.best, r.p_worse) for r in found.records] == [(True, 1.0), (True, 1.0)]
        assert "cannot be tested" in " ".join(note.text for note in found.notes)
        return
    assert pair.difference_interval.low > 0
    assert pair.difference_interval.low <= pair.difference <= pair.difference_interval.high
    # All signs alike: two of 2^n assignments are as extreme.
    assert pair.p == pair.p_holm == pytest.approx(2 / 2**n_sentences)


def test_test_numbers_that_do_not_vary_are_refused(corpora):
    splits, layouts, offsets, _ = corpora
    last = {s.text for s in splits["test"]}
    constant = replace(
        get_property("length", splits["train"]),
        read=lambda s, train: [3.0 if s.text in last else float(len(w.form)) for w in s.words],
    )
    with pytest.raises(
        TaskError, match="'length': expected numbers that vary in test, got one value only"
    ):
        build_task(constant, splits, layouts, offsets)
