"""Sentence-level look-alikes, labelled files and pairs of words, against sentences read by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import cli
from experiments.corpus import Corpus, CorpusError, read_conllu
from experiments.corpus.senteval import read_senteval
from experiments.corpus.splits import read_splits
from experiments.demo import demo_paths
from experiments.features.layout import extract
from experiments.runs.execute import execute
from experiments.studies import STUDIES
from experiments.studies.probe import study
from experiments.studies.probe.options import ProbeOptions
from experiments.subject import load
from experiments.subject.packed import Ragged
from experiments.tasks.properties import PROPERTIES, get_property
from experiments.tasks.task import Part, TaskError, balanced, rewritten
from experiments.tasks.views import build_views
from hooks import ActivationStore, capture

COORDINATED = """# text = The dog sleeps, but she reads a book.
1\tThe\tthe\tDET\tDT\t_\t2\tdet\t_\t_
2\tdog\tdog\tNOUN\tNN\tNumber=Sing\t3\tnsubj\t_\t_
3\tsleeps\tsleep\tVERB\tVBZ\tTense=Pres|VerbForm=Fin\t0\troot\t_\tSpaceAfter=No
4\t,\t,\tPUNCT\t,\t_\t7\tpunct\t_\t_
5\tbut\tbut\tCCONJ\tCC\t_\t7\tcc\t_\t_
6\tshe\tshe\tPRON\tPRP\tNumber=Sing\t7\tnsubj\t_\t_
7\treads\tread\tVERB\tVBZ\tTense=Pres|VerbForm=Fin\t3\tconj\t_\t_
8\ta\ta\tDET\tDT\t_\t9\tdet\t_\t_
9\tbook\tbook\tNOUN\tNN\tNumber=Sing\t7\tobj\t_\tSpaceAfter=No
10\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

# text = The cat sleeps.
1\tThe\tthe\tDET\tDT\t_\t2\tdet\t_\t_
2\tcat\tcat\tNOUN\tNN\tNumber=Sing\t3\tnsubj\t_\t_
3\tsleeps\tsleep\tVERB\tVBZ\tTense=Pres|VerbForm=Fin\t0\troot\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "c.conllu"
    path.write_text(COORDINATED, encoding="utf-8")
    return read_conllu(path)


def consistent(sentence) -> bool:
    return [w.id for w in sentence.words] == list(range(1, len(sentence.words) + 1)) and all(
        sentence.text[w.start : w.end] == w.form for w in sentence.words
    )


def test_clauses_change_places_with_their_capitals_and_heads(corpus):
    rewrite = PROPERTIES["senteval:coordination"].rewrite
    found = [
        rewrite(corpus.sentences[0], np.random.default_rng(seed), corpus) for seed in range(20)
    ]
    assert {s.text: s.label for s in found} == {
        "The dog sleeps, but she reads a book.": "original",
        "She reads a book, but the dog sleeps.": "inverted",
    }
    assert all(consistent(s) for s in found)
    new = next(s for s in found if s.label == "inverted")
    heads = {(w.form, new.words[w.head - 1].form if w.head else None) for w in new.words}
    assert ("dog", "sleeps") in heads
    assert ("book", "reads") in heads
    assert ("sleeps", None) in heads
    assert rewrite(corpus.sentences[1], np.random.default_rng(0), corpus) is None


def test_a_noun_or_verb_is_replaced_by_one_of_its_own_kind(corpus):
    rewrite = PROPERTIES["senteval:odd"].rewrite
    odd = [
        s
        for seed in range(60)
        if (s := rewrite(corpus.sentences[0], np.random.default_rng(seed), corpus))
    ]
    texts = {s.text for s in odd if s.label == "odd"}
    assert "The cat sleeps, but she reads a book." in texts
    assert "The dog sleeps, but she sleeps a book." in texts
    assert not any("the" in t.split() for t in texts)
    assert {s.text for s in odd if s.label == "original"} == {corpus.sentences[0].text}
    assert all(consistent(s) for s in odd)


def test_sentences_read_by_hand(corpus):
    first, second = corpus.sentences

    def read(name, sentence):
        return PROPERTIES[f"senteval:{name}"].read(sentence, corpus)

    assert (read("length", first), read("length", second)) == ("9-12", None)
    assert (read("depth", first), read("depth", second)) == ("3", "2")
    assert (read("top", first), read("top", second)) == ("nsubj ROOT conj", "nsubj ROOT")
    assert (read("tense", first), read("subject", first), read("object", first)) == (
        "Pres",
        "Sing",
        None,
    )


def test_every_word_meets_its_head_and_a_word_without_an_arc():
    corpus = read_conllu(demo_paths().dev, limit=50)
    balance = Counter()
    for sentence in corpus:
        heads = [w.head - 1 for w in sentence.words]
        for i, j, label in PROPERTIES["arc:exists"].read(sentence, corpus):
            assert (heads[i] == j) == (label == "arc")
            assert i != j
            assert label == "arc" or heads[j] != i
            balance[label, abs(i - j)] += 1
    assert sum(n for (label, _), n in balance.items() if label == "arc") * 2 == sum(
        balance.values()
    )
    near = balance["arc", 1], balance["none", 1]
    assert near[1] > 0.4 * near[0]  # adjacency alone does not tell


def test_classes_are_as_frequent_within_each_band_of_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 29, 600)
    labels = np.where(rng.random(600) < lengths / 40, "long", "short").astype(object)
    labels[0] = "stray"
    rows = Ragged(range(n) for n in lengths)
    part = Part(rows, labels, ["w"] * 600, np.arange(600), np.full(600, -1))
    kept = balanced(part, lengths.tolist())
    for low, high in ((5, 8), (9, 12), (13, 16), (17, 20), (21, 25), (26, 28)):
        there = [y for r, y in zip(kept.rows, kept.labels, strict=True) if low <= len(r) <= high]
        assert there.count("long") == there.count("short") > 0
    assert "stray" not in kept.labels
    assert len(kept) > 200


def test_a_senteval_file_brings_its_splits_and_reads_as_people_write(tmp_path):
    path = tmp_path / "past_present.txt"
    lines = [
        "tr\tPAST\tShe did n't go ( yet ) , he said .",
        "tr\tPRES\tThey 're here !",
        "va\tPAST\tIt fell .",
    ]
    path.write_text("\n".join([*lines, "te\tPRES\tIt stays ."]) + "\n", encoding="utf-8")
    splits, notes = read_splits(path, None, None, None, seed=0)
    assert [s.text for s in splits["train"]] == ["She didn't go (yet), he said.", "They're here!"]
    assert all(consistent(s) for part in splits.values() for s in part)
    assert [PROPERTIES["label"].read(s, splits["train"]) for s in splits["test"]] == ["PRES"]
    assert notes == []
    # U+0085 ends no line, and a byte order mark is no text
    lines[0] = "tr\tPAST\tOne\u0085two three ."
    path.write_text("\ufeff" + "\r\n".join([*lines, "te\tPRES\tIt stays ."]), encoding="utf-8")
    assert {s: len(part) for s, part in read_senteval(path).items()} == {
        "train": 2,
        "dev": 1,
        "test": 1,
    }
    path.write_bytes("tr\tPAST\tC\xe9.\n".encode("latin-1"))
    with pytest.raises(
        CorpusError, match=r"past_present.txt:1: expected UTF-8 text, got the byte 0xe9"
    ):
        read_senteval(path)
    path.write_text("tr\tPAST She fell .\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=":1: expected tr, va or te"):
        read_senteval(path)


def test_a_sentences_rewriting_does_not_depend_on_the_others():
    corpus = read_conllu(demo_paths().dev, limit=60)
    fewer = Corpus(corpus.sentences[1::2], corpus.path, corpus.sha256)
    for name in ("bigram_shift", "senteval:odd"):
        prop = replace(
            PROPERTIES[name],
            rewrite=lambda s, rng, _, name=name: PROPERTIES[name].rewrite(s, rng, corpus),
        )
        whole = {s.id: s.text for s in rewritten(corpus, prop, seed=0)}
        some = {s.id: s.text for s in rewritten(fewer, prop, seed=0)}
        assert len(some) > 10
        assert some == {key: text for key, text in whole.items() if key in {s.id for s in fewer}}
        assert some != {s.id: s.text for s in rewritten(fewer, prop, seed=1)}


def test_a_file_without_annotation_has_no_trees_to_probe(tmp_path):
    path = tmp_path / "labelled.txt"
    forms = [
        "the dog sees a cat",
        "a cat runs",
        "the old man reads the green book",
        "a dog sleeps here",
    ]
    lines = [
        f"{part}\t{'AB'[i % 2]}\t{form} {part}"
        for part in ("tr", "va", "te")
        for i, form in enumerate(forms)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits, _ = read_splits(path, None, None, None, seed=0)
    subject = load(demo_paths().model, body_only=True)
    for name in ("depth", "tree_depth", "head_direction", "head_distance", "arity", "is_root", "arc:exists", "arc:deprel",
                 "senteval:depth", "senteval:top"):  # fmt: skip
        with pytest.raises(
            TaskError,
            match=f"property '{name}': expected (items|numbers that vary|at least 2 classes)",
        ):
            build_views(subject, splits, [get_property(name, splits["train"])], 0)
    asked = {"property": ("label",), "structural": 4, "control_seeds": 0, "random_models": 0}
    out = execute(
        STUDIES["probe"],
        ProbeOptions(model=str(demo_paths().model), corpus=path, out=tmp_path / "run", **asked),
    )
    assert out["trees"] == []
    assert any(
        "no sentence of train, dev, test has two words with vectors and exactly one root"
        in n["text"]
        for n in out["notes"]
    )


@pytest.mark.real
def test_rewritten_sentences_of_a_real_treebank_stay_whole(ud):
    corpus = read_conllu(ud / "en_ewt-ud-dev.conllu")
    for name in ("senteval:coordination", "senteval:odd", "senteval:shift"):
        new = rewritten(corpus, PROPERTIES[name], seed=0)
        shares = Counter(s.label for s in new)
        assert 0.35 < shares["original"] / len(new) < 0.65
        assert all(
            s.text[w.start : w.end] == w.form
            for s in new
            for w in s.words
            if len(w.form) == w.end - w.start
        )


@pytest.mark.parametrize("pooling", ["first", "last"])
def test_a_study_is_told_how_sentences_are_pooled(tmp_path, monkeypatch, pooling):
    paths, seen = demo_paths(), []

    def stop(subject, splits, properties, seed, sentence_pooling):
        seen.append(sentence_pooling)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "build_views", stop)
    words = [
        "probe",
        "--model",
        paths.model,
        "--corpus",
        paths.train,
        "--sample",
        30,
        "--property",
        "tree_depth",
    ]
    assert (
        cli.main([*map(str, words), "--sentence-pooling", pooling, "--out", str(tmp_path / "run")])
        == 130
    )
    assert seen == [pooling]


def test_a_sentences_vector_may_be_that_of_its_first_or_last_token(tmp_path):
    paths = demo_paths()
    subject = load(paths.model, body_only=True)
    whole = read_conllu(paths.dev, limit=60)
    splits = {name: Corpus(whole.sentences[at : at + 20], whole.path, whole.sha256)
              for at, name in ((0, "train"), (20, "dev"), (40, "test"))}  # fmt: skip
    depth, shift = (get_property(name, splits["train"]) for name in ("tree_depth", "bigram_shift"))
    site = "blocks.1.hook_resid_post"
    for pooling, place in (("first", 0), ("last", -1)):
        views = build_views(
            subject, splits, [depth, shift, get_property("upos", splits["train"])], 0, pooling
        )
        assert [view.name for view in views] == ["sentences", "bigram_shift", "text"]
        for number, view in enumerate(views[:2]):
            store = ActivationStore(tmp_path / f"{pooling}-{number}", {})
            extract(subject, view.layout, [site], store, batch_tokens=64)
            found = view.tasks[0].vectors(store.read(site), "test")
            for vector, sentence in zip(found, view.splits["test"], strict=True):
                ids = torch.tensor([subject.encode([sentence.text])[0].ids])
                with torch.no_grad(), capture(subject.model, site) as acts:
                    subject.model(ids)
                torch.testing.assert_close(vector, acts[site][0, place], rtol=1e-4, atol=1e-5)
    assert build_views(subject, splits, [depth], 0)[0].layout.n_rows == sum(
        len(s.words) for s in whole.sentences
    )
