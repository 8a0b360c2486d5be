"""What a study reads of words: scripts, tokenizers without a word's characters, columns,
forms as the model sees them.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from experiments.corpus import Sentence, Word, read_conllu
from experiments.corpus.characters import bare, is_word
from experiments.corpus.splits import read_splits
from experiments.features.layout import FeatureError, Layout
from experiments.features.sites import vector_sites
from experiments.subject import Subject
from experiments.subject.word_spans import word_spans
from experiments.tasks.properties import PROPERTIES, UnknownProperty, get_property
from experiments.tasks.task import MAX_CLASSES, rewritten
from experiments.tasks.views import build_views

NOUNS = ["நதி", "நீர்", "வீடு", "கல்", "மரம்", "பல"]
VERBS = ["ஓடும்", "விழும்", "நட"]


def conllu(lines: list[list[tuple[str, str]]], misc: str = "_") -> str:
    """Sentences of (form, part of speech), each word under the last one."""
    out = []
    for number, words in enumerate(lines):
        out += [f"# sent_id = s{number}", f"# text = {' '.join(form for form, _ in words)}"]
        last = len(words)
        for i, (form, upos) in enumerate(words, 1):
            head, relation = (0, "root") if i == last else (last, "dep")
            out.append(
                f"{i}\t{form}\t{form}\t{upos}\t_\t_\t{head}\t{relation}\t_\t{misc.format(i=i)}"
            )
        out.append("")
    return "\n".join(out) + "\n"


def written(path: Path, *given: object, **more: str) -> Path:
    path.write_text(conllu(*given, **more), encoding="utf-8")  # type: ignore[arg-type]
    return path


def uncased(known: list[str]) -> Subject:
    """A tiny encoder whose tokenizer makes small letters of all, and knows these words alone."""
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["[UNK]", *known])}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]")
    shape = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return Subject(BertModel(BertConfig(vocab_size=len(known) + 1, **shape)).eval(), fast)


def test_a_word_is_letters_and_their_marks_in_every_script() -> None:
    for form in (*NOUNS, *VERBS, "नदी", "naïve", "שָׁלוֹם", "水"):
        assert is_word(form), form
        assert {unicodedata.category(c)[0] for c in form} <= {"L", "M"}
    assert not any(map(is_word, ["3rd", "e-mail", "", "்", "A1"]))
    assert PROPERTIES["shape"].read(sentence_of("நீர்", "Ab1"), None) == ["cc", "Xxd"]  # type: ignore[arg-type]


def sentence_of(*forms: str) -> Sentence:
    words = [Word(i, f, f, "X", "_", {}, i - 1, "dep", 0, 1) for i, f in enumerate(forms, 1)]
    return Sentence("s", " ".join(forms), tuple(words))


def test_odd_words_are_drawn_from_all_words_of_a_script_with_vowel_signs(tmp_path: Path) -> None:
    lines = [
        [*((NOUNS[(i + j * (1 + i % 2)) % 6], "NOUN") for j in range(4)), (VERBS[i % 3], "VERB")]
        for i in range(240)
    ]
    corpus = read_conllu(written(tmp_path / "tamil.conllu", lines))
    before = {s.id: s for s in corpus}
    put, away = set(), set()
    for sentence in rewritten(corpus, PROPERTIES["senteval:odd"], 0):
        for old, new in zip(before[sentence.id].words, sentence.words, strict=True):
            if old.form != new.form:
                away.add(old.form)
                put.add(new.form)
    marked = {
        form for form in (*NOUNS, *VERBS) if any(unicodedata.category(c)[0] == "M" for c in form)
    }
    assert put & marked, "no word with a vowel sign is ever put in"
    assert put == away


def test_the_lone_prefix_token_is_of_no_word() -> None:
    """The first word's tokens are those of its own characters, as in the middle of the text."""
    characters = ["<s>", "</s>", "<unk>", "▁", "河", "山", "很", "高"]
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(characters)}, [], unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    subject = Subject(LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape)).eval(), fast)
    for text, words in (
        ("河很高", [(0, 1), (1, 3)]),
        ("山 河", [(0, 1), (2, 3)]),
        ("▁山", [(0, 1), (1, 2)]),
    ):
        (encoded,) = subject.encode([text])
        for (start, end), span in zip(words, word_spans(encoded, words), strict=True):
            assert span is not None
            assert "".join(
                subject.token(encoded.ids[i]) for i in range(span.start, span.stop)
            ).lstrip("▁") in (text[start:end].lstrip("▁"),)
            assert span.stop - span.start <= end - start + (text[start:end] == "▁")


def test_unknown_words_have_no_vector_and_are_counted(tmp_path: Path) -> None:
    lines = [
        [("Dog", "NOUN"), ("barks", "VERB")],
        [("qua", "NOUN"), ("the", "DET"), ("dog", "NOUN")],
    ] * 3
    path = written(tmp_path / "a.conllu", lines)
    corpus = read_conllu(path)
    layout = Layout.of(uncased(["dog", "barks", "the"]), corpus.sentences)
    assert layout.spans[1] == [None, slice(1, 2), slice(2, 3)]
    assert (layout.n_unknown, layout.n_rows) == (3, 12)  # qua, in each of three sentences
    splits = dict.fromkeys(("train", "dev", "test"), corpus)
    (view,) = build_views(
        uncased(["dog", "barks", "the"]), splits, [get_property("upos", corpus)], 0
    )
    assert any(
        "9 of 45 words are unknown to the tokenizer and have no vector" in note.text
        for note in view.notes
    )
    (task,) = view.tasks
    assert task.n_dropped == 9
    # Forms as the model sees them: one type for Dog and dog.
    assert Counter(task.parts["test"].types) == {"dog": 6, "barks": 3, "the": 3}


def test_a_column_or_a_key_of_the_last_one_is_a_property(tmp_path: Path) -> None:
    lines = [[("a", "NOUN"), ("b", "VERB"), ("c", "NOUN")]] * 2
    corpus = read_conllu(
        written(tmp_path / "ner.conllu", lines, misc="NER=B{i}|SpaceAfter=Yes|odd")
    )
    read = [
        get_property(name, corpus).read(corpus.sentences[0], corpus)
        for name in ("misc:NER", "column:lemma")
    ]
    assert read == [["B1", "B2", "B3"], ["a", "b", "c"]]
    assert get_property("column:misc", corpus).read(corpus.sentences[0], corpus) == [
        f"NER=B{i}|SpaceAfter=Yes|odd" for i in (1, 2, 3)
    ]
    with pytest.raises(UnknownProperty, match="the nearest is 'misc:NER'"):
        get_property("misc:NERR", corpus)


def test_nearly_equal_sentences_of_two_splits_are_reported(tmp_path: Path) -> None:
    train = written(
        tmp_path / "train.conllu",
        [[("Do", "AUX"), ("n't", "PART")], [("So", "ADV"), ("what", "X")]],
    )
    dev = written(tmp_path / "dev.conllu", [[("Other", "ADJ"), ("words", "NOUN")]])
    test = written(
        tmp_path / "test.conllu", [[("so", "ADV"), ("what", "X"), ("?", "PUNCT")], [("New", "ADJ")]]
    )
    notes = read_splits(train, dev, test, None, 0)[1]
    assert [n["text"] for n in notes] == [
        "1 of 2 test sentences equal a training sentence except for case and punctuation"
    ]
    assert bare("So what?!") == "sowhat"


def test_the_most_frequent_classes_are_probed_where_there_are_too_many(tmp_path: Path) -> None:
    """Class k stands 1 + k % 3 times in training, so that the order by frequency is known."""
    count = MAX_CLASSES + 60
    names = [f"c{k}" for k in range(count)]
    tokens = [name for k, name in enumerate(names) for _ in range(1 + k % 3)]
    lines = [[(token, "NOUN"), ("x", "VERB")] for token in tokens]
    corpus = read_conllu(written(tmp_path / "many.conllu", lines))
    splits = dict.fromkeys(("train", "dev", "test"), corpus)
    subject = uncased([*names, "x"])
    (view,) = build_views(subject, splits, [get_property("column:form", corpus)], 0)
    (task,) = view.tasks
    kept = {name for name, _ in Counter(tokens + ["x"] * len(tokens)).most_common(MAX_CLASSES)}
    frequent = {name for k, name in enumerate(names) if k % 3 == 2} | {"x"}
    labels = set(task.parts["train"].labels)
    assert len(labels) == len(kept) == MAX_CLASSES
    assert frequent <= labels
    assert task.n_classes == count + 1
    assert (
        f"{count + 1} classes in training: the {MAX_CLASSES} most frequent are probed"
        in view.notes[-1].text
    )
    assert task.n_rare["test"] == len(lines) * 2 - len(task.parts["test"])


def test_sentences_that_cannot_be_rewritten_are_counted(tmp_path: Path) -> None:
    short, long = [("a", "X"), ("b", "X")], [(f"w{i}", "X") for i in range(6)]
    corpus = read_conllu(written(tmp_path / "short.conllu", [short] * 5 + [long] * 40))
    splits = dict.fromkeys(("train", "dev", "test"), corpus)
    (view,) = build_views(
        uncased([f"w{i}" for i in range(6)]), splits, [get_property("bigram_shift", corpus)], 0
    )
    assert view.n_left_out == {"train": 5, "dev": 5, "test": 5}
    assert (
        view.notes[0].text
        == "bigram_shift: 5 train, 5 dev, 5 test sentences cannot be rewritten and are left out"
    )


def test_depths_of_a_long_chain_are_its_places() -> None:
    length = 40_000
    words = tuple(Word(i, "w", "w", "X", "_", {}, i - 1, "dep", 0, 1) for i in range(1, length + 1))
    assert Sentence("s", "w", words).depths == list(range(length))
    back = tuple(
        Word(i, "w", "w", "X", "_", {}, i + 1 if i < length else 0, "dep", 0, 1)
        for i in range(1, length + 1)
    )
    assert Sentence("s", "w", back).depths == list(range(length))[::-1]


def test_a_site_with_an_index_is_refused_with_the_site_to_give() -> None:
    subject = uncased(["a"])
    for given in ("hook_resid_post[0]", "blocks.0.hook_resid_post[0]"):
        with pytest.raises(
            FeatureError, match=r"expected a whole site, without an index: .*hook_resid_post$"
        ):
            vector_sites(subject, [given])
