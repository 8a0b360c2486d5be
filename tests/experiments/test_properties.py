"""Properties, against a sentence annotated and answered by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.corpus import Corpus, Sentence, read_conllu
from experiments.tasks.properties import (
    PROPERTIES,
    Property,
    UnknownProperty,
    get_property,
)

TREE = """\
# sent_id = one
# text = The old guards don't watch 12 USA films, Don!
1	The	the	DET	DT	Definite=Def	3	det	_	_
2	old	old	ADJ	JJ	_	3	amod	_	_
3	guards	guard	NOUN	NNS	Number=Plur	6	nsubj	_	_
4-5	don't	_	_	_	_	_	_	_	_
4	do	do	AUX	VBP	Number=Plur|Tense=Pres|VerbForm=Fin	6	aux	_	_
5	n't	not	PART	_	_	6	advmod	_	_
6	watch	watch	VERB	VB	VerbForm=Inf	0	root	_	_
7	12	12	NUM	CD	_	9	nummod	_	_
8	USA	USA	PROPN	NNP	Number=Sing	9	compound	_	_
9	films	film	NOUN	NNS	Number=Plur	6	obj	_	SpaceAfter=No
10	,	,	PUNCT	,	_	11	punct	_	_
11	Don	Don	PROPN	NNP	Number=Sing	6	vocative:x	_	SpaceAfter=No
12	!	!	PUNCT	.	_	6	punct	_	_

# sent_id = two
# text = Watch the guards and the guards.
1	Watch	watch	VERB	VB	Mood=Imp|VerbForm=Fin	0	root	_	_
2	the	the	DET	DT	Definite=Def	3	det	_	_
3	guards	guard	NOUN	NNS	Number=Plur	1	obj	_	_
4	and	and	CCONJ	CC	_	6	cc	_	_
5	the	the	DET	DT	Definite=Def	6	det	_	_
6	guards	guard	NOUN	NNS	Number=Plur	3	conj	_	SpaceAfter=No
7	.	.	PUNCT	.	_	1	punct	_	_

"""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    path = tmp_path / "x.conllu"
    path.write_text(TREE, encoding="utf-8")
    return read_conllu(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upos", "DET ADJ NOUN AUX PART VERB NUM PROPN NOUN PUNCT PROPN PUNCT"),
        ("xpos", "DT JJ NNS VBP None VB CD NNP NNS , NNP ."),
        ("feats:Number", "None None Plur Plur None None None Sing Plur None Sing None"),
        ("feats:VerbForm", "None None None Fin None Inf None None None None None None"),
        # the x3 guards x3 watch x2, all others once
        ("frequency", "2-3 1 2-3 1 1 2-3 1 1 1 1 1 1"),
        ("length", "3.0 3.0 6.0 2.0 3.0 5.0 2.0 3.0 5.0 1.0 3.0 1.0"),
        ("shape", "Xxx xx xx xx x.x xx dd XX xx . Xxx ."),
        ("deprel", "det amod nsubj aux advmod root nummod compound obj punct vocative:x punct"),
        ("arc:deprel", "det amod nsubj aux advmod None nummod compound obj punct vocative:x punct"),
        ("head_direction", "right right right right right root right right left right left left"),
        ("head_distance", "2.0 1.0 3.0 2.0 1.0 None 2.0 1.0 3.0 1.0 5.0 6.0"),
        ("depth", "2.0 2.0 1.0 1.0 1.0 0.0 2.0 2.0 1.0 2.0 1.0 1.0"),
        ("is_root", "no no no no no yes no no no no no no"),
        ("arity", "0.0 0.0 2.0 0.0 0.0 6.0 0.0 0.0 2.0 0.0 1.0 0.0"),
    ],
)
def test_word_properties_of_a_sentence_read_by_hand(
    corpus: Corpus, name: str, expected: str
) -> None:
    prop = get_property(name, corpus)
    values = prop.read(corpus.sentences[0], corpus)
    assert isinstance(values, list)
    assert " ".join(map(str, values)) == expected
    assert prop.level == ("arc" if name.startswith("arc:") else "word")
    kinds = {type(v) for v in values if v is not None}
    assert kinds == {str if prop.kind == "class" else float}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sentence_length", [12.0, 7.0]),
        ("tree_depth", [2.0, 3.0]),
        # the auxiliary is the finite verb; an imperative has no tense
        ("main_tense", ["Pres", None]),
        ("subject_number", ["Plur", None]),
        ("bigram_shift", [None, None]),  # nothing was rewritten
    ],
)
def test_sentence_properties_read_by_hand(
    corpus: Corpus, name: str, expected: list[object]
) -> None:
    prop = get_property(name, corpus)
    assert [prop.read(s, corpus) for s in corpus] == expected
    assert prop.level == "sentence"


def test_counts_come_from_the_training_corpus_and_unseen_types_have_no_band(
    tmp_path: Path, corpus: Corpus
) -> None:
    path = tmp_path / "other.conllu"
    line = "\t{0}\tx\tX\t_\t_\t0\troot\t_\t_\n"
    path.write_text(
        "".join(f"1{line.format(form)}\n" for form in ["GUARDS", "new"]), encoding="utf-8"
    )
    other = read_conllu(path)
    read = PROPERTIES["frequency"].read
    assert [read(s, corpus) for s in other] == [["2-3"], [None]]


def test_coordinated_subjects_have_no_number_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.conllu"
    rows = [
        "1\tA\ta\tNOUN\t_\tNumber=Sing\t4\tnsubj\t_\t_",
        "2\tand\tand\tCCONJ\t_\t_\t3\tcc\t_\t_",
    ]
    rows += [
        "3\tb\tb\tNOUN\t_\tNumber=Sing\t1\tconj\t_\t_",
        "4\tran\trun\tVERB\t_\tTense=Past\t0\troot\t_\t_",
    ]
    path.write_text("\n".join(rows) + "\n\n", encoding="utf-8")
    corpus = read_conllu(path)
    assert PROPERTIES["subject_number"].read(corpus.sentences[0], corpus) is None
    assert PROPERTIES["main_tense"].read(corpus.sentences[0], corpus) == "Past"


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list(corpus: Corpus) -> None:
    for wrong, right in {
        "upso": "upos",
        "feats:number": "feats:Number",
        "Tense": "feats:Tense",
    }.items():
        with pytest.raises(UnknownProperty, match="expected a property") as caught:
            get_property(wrong, corpus)
        text = str(caught.value)
        assert f"got {wrong!r}; the nearest is {right!r}" in text
        assert "\n" not in text
        assert "head_direction" in text
        assert "feats:Definite" in text


def test_the_list_holds_the_table_and_this_corpus_features(corpus: Corpus) -> None:
    with pytest.raises(UnknownProperty) as caught:
        get_property("", corpus)
    names = str(caught.value).partition("there are: ")[2].split(", ")
    features = [f"feats:{name}" for name in ("Definite", "Mood", "Number", "Tense", "VerbForm")]
    columns = [
        f"column:{name}" for name in ("form", "lemma", "upos", "xpos", "deprel", "deps", "misc")
    ]
    assert names == [*PROPERTIES, *features, "misc:SpaceAfter", *columns]
    assert all(p.doc and "\n" not in p.doc for p in (get_property(name, corpus) for name in names))


def test_a_property_is_added_by_a_function_and_a_row(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vowels(sentence: Sentence, train: Corpus) -> list[float]:
        return [float(sum(c in "aeiou" for c in w.form.lower())) for w in sentence.words]

    monkeypatch.setitem(
        PROPERTIES, "vowels", Property("vowels", "word", "number", vowels, "vowels")
    )
    assert get_property("vowels", corpus).read(corpus.sentences[1], corpus) == [1, 1, 2, 1, 1, 2, 0]


def shifted(sentence: Sentence, seeds: int) -> list[Sentence | None]:
    rewrite = PROPERTIES["bigram_shift"].rewrite
    assert rewrite is not None
    return [rewrite(sentence, np.random.default_rng(seed), corpus) for seed in range(seeds)]


def test_bigram_shift_swaps_two_whole_words_and_keeps_the_tree(corpus: Corpus) -> None:
    original = corpus.sentences[0]
    texts = set()
    for new in shifted(original, 60):
        assert new is not None
        label = PROPERTIES["bigram_shift"].read(new, corpus)
        if label == "original":
            assert (new.text, new.words) == (original.text, original.words)
            continue
        assert label == "shifted"
        # Offsets still say where the words are, and what is not a word has not moved.
        assert all(new.text[w.start : w.end] == w.form for w in new.words)
        assert [w.id for w in new.words] == list(range(1, 13))
        forms = [w.form for w in new.words]
        moved = [i for i, w in enumerate(original.words) if forms[i] != w.form]
        assert len(moved) == 2
        assert moved[1] == moved[0] + 1
        # The same arcs, between the same words.
        for tree in (original, new):
            arcs = {
                (w.form, w.deprel, tree.words[w.head - 1].form if w.head else "")
                for w in tree.words
            }
            assert arcs == {
                (w.form, w.deprel, original.words[w.head - 1].form if w.head else "")
                for w in original.words
            }
        texts.add(new.text)
    # Not the first word, not do or n't, not punctuation; what was glued (a comma) keeps its place.
    assert texts == {
        "The guards old don't watch 12 USA films, Don!",
        "The old guards don't 12 watch USA films, Don!",
        "The old guards don't watch USA 12 films, Don!",
        "The old guards don't watch 12 films USA, Don!",
    }


def test_bigram_shift_is_half_and_reproducible_and_leaves_short_sentences_out(
    tmp_path: Path, corpus: Corpus
) -> None:
    twice = [shifted(corpus.sentences[0], 400) for _ in range(2)]
    assert twice[0] == twice[1]
    share = sum(s is not None and s.label == "shifted" for s in twice[0]) / 400
    assert 0.43 < share < 0.57
    path = tmp_path / "short.conllu"
    rows = [f"{i}\tw{i}\t_\tX\t_\t_\t{i - 1}\tdep\t_\t_" for i in range(1, 5)]
    path.write_text("\n".join(rows) + "\n\n", encoding="utf-8")
    assert set(shifted(read_conllu(path).sentences[0], 5)) == {None}


@pytest.mark.real
def test_every_property_reads_english_ewt(ud: Path) -> None:
    corpus = read_conllu(ud / "en_ewt-ud-test.conllu", limit=300)
    features = sorted(
        {f"feats:{name}" for sentence in corpus for word in sentence.words for name in word.feats}
    )
    for prop in (get_property(name, corpus) for name in (*PROPERTIES, *features)):
        for sentence in corpus.sentences[:60]:
            shown = (
                prop.rewrite(sentence, np.random.default_rng(0), corpus)
                if prop.rewrite
                else sentence
            )
            if shown is None:
                continue
            values = prop.read(shown, corpus)
            if prop.level == "sentence":
                assert not isinstance(values, list)
            else:
                assert isinstance(values, list)
                assert prop.level == "pair" or len(values) == len(sentence.words)
    upos = [v for s in corpus for v in _values("upos", s, corpus)]
    assert 15 <= len(set(upos)) <= 17
    assert len(upos) == corpus.n_words
    roots = [v for s in corpus for v in _values("is_root", s, corpus)]
    assert roots.count("yes") == len(corpus)


def _values(name: str, sentence: Sentence, corpus: Corpus) -> list[object]:
    values = get_property(name, corpus).read(sentence, corpus)
    assert isinstance(values, list)
    return list(values)
