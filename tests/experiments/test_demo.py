"""The embedded demo: its corpus is what its grammar writes, its trees are sound,
its model loads and knows agreement.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from experiments.corpus import Corpus, read_conllu
from experiments.demo import demo_paths
from tools.demo.generate import training_text
from tools.demo.grammar import Grammar
from tools.demo.lexicon import held_out_lemmas
from tools.demo.tree import Chooser, surface

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def corpora() -> dict[str, Corpus]:
    paths = demo_paths()
    return {split: read_conllu(getattr(paths, split)) for split in SPLITS}


def test_the_generator_reproduces_the_shipped_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.demo.make", "--corpus-only", "--out", str(tmp_path)]
    subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    paths = demo_paths()
    shipped = (paths.train, paths.dev, paths.test, paths.pairs)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in shipped)
    for path in shipped:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_another_seed_is_another_language_sample() -> None:
    a, b, c = (Grammar(Chooser(seed)) for seed in (1, 1, 2))
    texts = [[surface(g.sentence())[0] for _ in range(20)] for g in (a, b, c)]
    assert texts[0] == texts[1] != texts[2]


def test_no_sentence_is_in_two_splits_nor_in_the_training_text(corpora: dict[str, Corpus]) -> None:
    texts = {split: {s.text for s in corpus} for split, corpus in corpora.items()}
    assert {split: len(t) for split, t in texts.items()} == {"train": 1200, "dev": 300, "test": 400}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    everything = texts["train"] | texts["dev"] | texts["test"]
    # A text that would come is left out when it is annotated.
    text, _ = training_text(12, everything)
    again, _ = training_text(11, {*everything, text[5]})
    assert again == text[:5] + text[6:]


def test_some_word_types_are_missing_from_train_only(corpora: dict[str, Corpus]) -> None:
    lemmas = {split: {w.lemma for s in c for w in s.words} for split, c in corpora.items()}
    assert not lemmas["train"] & held_out_lemmas()
    assert len(lemmas["test"] & held_out_lemmas()) > 20
    seen = corpora["train"].type_counts
    unseen = [w for s in corpora["test"] for w in s.words if w.form.lower() not in seen]
    assert 0.02 < len(unseen) / corpora["test"].n_words < 0.15


def test_trees_are_projective_with_one_root_and_final_punctuation(
    corpora: dict[str, Corpus],
) -> None:
    for sentence in corpora["dev"]:
        words = sentence.words
        assert [w.deprel for w in words if w.head == 0] == ["root"]
        assert words[-1].upos == "PUNCT"
        assert sentence.text[0].isupper()
        arcs = [tuple(sorted((w.id, w.head))) for w in words if w.head]
        assert not any(a < c < b < d for a, b in arcs for c, d in arcs)


# Oracle for agreement: which subjects a present form accepts, by Universal Dependencies' features.
def test_every_present_verb_agrees_with_its_subject(corpora: dict[str, Corpus]) -> None:
    checked = across = 0
    for sentence in corpora["train"]:
        for subject in sentence.words:
            if subject.deprel not in ("nsubj", "nsubj:pass") or subject.feats.get("PronType") in (
                "Rel",
                "Int",
            ):
                continue
            verb = sentence.words[subject.head - 1]
            group = [
                w
                for w in sentence.words
                if w.head == verb.id and w.deprel in ("aux", "aux:pass", "cop")
            ]
            finite = next((w for w in [*group, verb] if w.feats.get("VerbForm") == "Fin"), None)
            if (
                finite is None
                or finite.feats.get("Tense") != "Pres"
                or "Number" not in finite.feats
            ):
                continue
            joined = [w for w in sentence.words if w.head == subject.id and w.deprel == "conj"]
            # "a cook and a guard": plural; "a cook or guards": as the nearer one.
            if joined:
                cc = next(w for w in sentence.words if w.head == joined[0].id and w.deprel == "cc")
                number = "Plur" if cc.form == "and" else joined[0].feats["Number"]
            else:
                number = subject.feats["Number"]
            assert finite.feats["Number"] == number, sentence.text
            between = sentence.words[subject.id : finite.id - 1]
            across += any(w.upos == "NOUN" and w.feats["Number"] != number for w in between)
            checked += 1
    assert checked > 400
    assert across > 30


def test_many_words_change_their_part_of_speech(corpora: dict[str, Corpus]) -> None:
    tags: dict[str, set[str]] = defaultdict(set)
    for corpus in corpora.values():
        for sentence in corpus:
            for word in sentence.words:
                tags[word.form.lower()].add(word.upos)
    assert tags["that"] >= {"DET", "SCONJ", "PRON"}
    assert tags["to"] == {"ADP", "PART"}
    assert tags["'s"] >= {"PART", "AUX"}
    for word in ("watch", "watches", "plan", "plans", "guards", "cook"):
        assert tags[word] >= {"NOUN", "VERB"}, word
    ambiguous = sum(len(t) > 1 for t in tags.values())
    assert ambiguous > 200


def test_pairs_differ_in_one_verb_and_share_all_before_it() -> None:
    pairs = [
        json.loads(line) for line in demo_paths().pairs.read_text(encoding="utf-8").splitlines()
    ]
    assert len(pairs) == 240
    for pair in pairs:
        good, bad = pair["sentence_good"].split(), pair["sentence_bad"].split()
        different = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert len(different) == 1
        assert " ".join(good[: different[0]]) == pair["one_prefix_prefix"]
        assert good[different[0]] == pair["one_prefix_word_good"]
        assert bad[different[0]] == pair["one_prefix_word_bad"]


def test_model_and_tokenizer_load_offline_and_prefer_agreement() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    paths = demo_paths()
    tokenizer = AutoTokenizer.from_pretrained(paths.model)
    model = AutoModelForCausalLM.from_pretrained(paths.model).eval()
    text = "The guards near the old cook watch Anna's plans."
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded["input_ids"][0] == tokenizer.bos_token_id
    assert encoded["offset_mapping"][0] == (0, 0)
    pieces = [text[a:b] for a, b in encoded["offset_mapping"][1:]]
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text
    right: dict[str, list[bool]] = defaultdict(list)
    for line in paths.pairs.read_text(encoding="utf-8").splitlines()[::4]:
        pair = json.loads(line)
        losses = []
        for key in ("sentence_good", "sentence_bad"):
            ids = torch.tensor([tokenizer(pair[key])["input_ids"]])
            with torch.no_grad():
                losses.append(float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1))
        right[pair["UID"]].append(losses[0] < losses[1])
    # Chance is one half: 27 of 40 across a noun of the other number has p = 0.02.
    assert sum(right["demo_agreement_none"]) / 20 >= 0.9
    assert sum(right["demo_agreement_pp"] + right["demo_agreement_relative"]) / 40 >= 27 / 40


def test_the_demo_is_a_few_megabytes() -> None:
    folder = demo_paths().train.parent
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 7e6
    assert sum(p.stat().st_size for p in demo_paths().model.iterdir()) < 5e6


def test_finding_the_demo_imports_neither_torch_nor_the_parser() -> None:
    code = (
        "import sys, experiments.demo as d; d.demo_paths(); print({'torch', 'conllu', "
        "'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "set()"
