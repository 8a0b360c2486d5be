"""Reading CoNLL-U, against hand-written files whose spans and errors are known."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import conllu
import pytest

from experiments.corpus import CorpusError, read_conllu
from experiments.corpus.senteval import read_senteval
from experiments.demo import demo_paths


def row(
    number: str, form: str, head: str = "0", deprel: str = "dep", misc: str = "_", feats: str = "_"
) -> str:
    columns = (number, form, form.lower(), "X", "_", feats, head, deprel, "_", misc)
    return "\t".join(columns)


def token(number: str, form: str, misc: str = "_") -> str:
    return "\t".join((number, form, *["_"] * 7, misc))


def write(folder: Path, *lines: str, end: str = "\n\n") -> Path:
    path = folder / "x.conllu"
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def spans(path: Path) -> list[tuple[str, int, int]]:
    return [(w.form, w.start, w.end) for s in read_conllu(path) for w in s.words]


def message(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        read_conllu(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ODD = [
    "# newdoc id = d1",
    "# sent_id = a",
    "# text = They don't, du\u00a0Pont!",
    row("1", "They", "2", "nsubj", feats="Case=Nom|Number=Plur"),
    token("2-3", "don't", "SpaceAfter=No"),
    row("2", "do", "0", "root"),
    row("3", "n't", "2"),
    row("3.1", "gone", "_"),
    row("4", ",", "2", "punct"),
    token("5-6", "du"),
    row("5", "de", "7"),
    row("6", "le", "7"),
    row("7", "Pont", "2", misc="SpaceAfter=No"),
    row("8", "!", "2", "punct"),
]


def test_every_oddity_of_the_format_at_once(tmp_path: Path) -> None:
    corpus = read_conllu(write(tmp_path, *ODD))
    (sentence,) = corpus.sentences
    assert (sentence.id, sentence.document, sentence.text) == (
        "a",
        "d1",
        "They don't, du\u00a0Pont!",
    )
    assert [(w.form, sentence.text[w.start : w.end]) for w in sentence.words] == [
        ("They", "They"), ("do", "do"), ("n't", "n't"), (",", ","),
        ("de", "du"), ("le", "du"), ("Pont", "Pont"), ("!", "!"),
    ]  # fmt: skip
    assert [w.id for w in sentence.words] == list(range(1, 9))
    assert [w.head for w in sentence.words] == [2, 0, 2, 2, 7, 7, 2, 2]
    assert sentence.words[0].feats == {"Case": "Nom", "Number": "Plur"}
    assert sentence.words[1].feats == {}
    # the words of two multiword tokens, without an empty node
    assert (corpus.n_words, len(corpus)) == (8, 1)


def test_digest_is_of_the_bytes_on_disk_whatever_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path, row("1", "a"), "", row("1", "b"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_conllu(path).sha256 == read_conllu(path, limit=1).sha256 == digest


def test_text_is_built_from_forms_where_it_is_missing(tmp_path: Path) -> None:
    lines = [line for line in ODD if not line.startswith("# text")]
    sentence = read_conllu(write(tmp_path, *lines)).sentences[0]
    assert sentence.text == "They don't, du Pont!"
    assert [sentence.text[w.start : w.end] for w in sentence.words[3:]] == [
        ",",
        "du",
        "du",
        "Pont",
        "!",
    ]


def test_a_last_form_that_ends_in_white_space_is_in_the_text_that_is_built(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, row("1", "so"), row("2", "! ", misc="SpaceAfter=No"))
    (sentence,) = read_conllu(path).sentences
    assert sentence.text == "so ! "
    assert spans(path) == [("so", 0, 2), ("! ", 3, 5)]


@pytest.mark.parametrize("blank", ["\u00a0", "  ", "\u2009", "\u200b", "\t", "\u3000 "])
def test_any_blank_in_the_text_separates_words(tmp_path: Path, blank: str) -> None:
    path = write(tmp_path, f"# text = ab{blank}cd", row("1", "ab", "2"), row("2", "cd"))
    assert spans(path) == [("ab", 0, 2), ("cd", 2 + len(blank), 4 + len(blank))]


def test_a_form_with_a_blank_matches_another_blank(tmp_path: Path) -> None:
    path = write(tmp_path, "# text = 10\u00a0000 Ω", row("1", "10 000", "2"), row("2", "Ω"))
    assert spans(path) == [("10 000", 0, 6), ("Ω", 7, 8)]


def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "dos.conllu"
    # nor does a missing last blank line
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(ODD).encode())
    assert len(read_conllu(path).sentences[0].words) == 8


def test_unicode_line_separators_stay_inside_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "# text = a\u2028b\x85", row("1", "a", "2"), row("2", "b"))
    assert spans(path) == [("a", 0, 1), ("b", 2, 3)]


def test_sentence_ids_are_unique_and_documents_carry_on(tmp_path: Path) -> None:
    head = ["# newdoc id = d", "# sent_id = s"]
    lines = [
        *head,
        row("1", "a"),
        "",
        head[1],
        row("1", "b"),
        "",
        row("1", "c"),
        "",
        "# newdoc",
        head[1],
        row("1", "d"),
    ]
    corpus = read_conllu(write(tmp_path, *lines))
    assert [s.id for s in corpus] == ["s", "s#2", "sentence-3", "s#3"]
    assert [s.document for s in corpus] == ["d", "d", "d", "document-2"]


def test_limit_stops_before_a_later_fault(tmp_path: Path) -> None:
    path = write(tmp_path, row("1", "a"), "", "1\tbroken")
    assert len(read_conllu(path, limit=1)) == 1
    assert message(path).startswith(f"{path}:3: ")
    with pytest.raises(CorpusError, match="limit to be at least 1, got 0"):
        read_conllu(path, limit=0)


def test_comments_alone_are_no_sentence(tmp_path: Path) -> None:
    assert len(read_conllu(write(tmp_path, "# a licence", "", row("1", "a"), "", "# the end"))) == 1


PLUS = ["# global.columns = ID FORM UPOS HEAD DEPREL FEATS NER", "# text = big rivers"]


def test_columns_of_conllu_plus_hold_for_all_sentences_that_follow(tmp_path: Path) -> None:
    """The words are those of the same sentences in ten columns;
    a column of its own goes into the last.
    """
    plus = ["1\tbig\tADJ\t2\tamod\tDegree=Pos\t_", "2\trivers\tNOUN\t0\troot\tNumber=Plur\tLOC"]
    ten = [
        "1\tbig\t_\tADJ\t_\tDegree=Pos\t2\tamod\t_\t_",
        "2\trivers\t_\tNOUN\t_\tNumber=Plur\t0\troot\t_\tNER=LOC",
    ]
    read = read_conllu(
        write(
            tmp_path,
            *PLUS,
            *plus,
            "",
            PLUS[1],
            *plus,
            "",
            "# global.columns = ID FORM HEAD",
            "1\ta\t0",
        )
    )
    expected = read_conllu(write(tmp_path, PLUS[1], *ten, "", PLUS[1], *ten, "", row("1", "a")))
    assert [s.words for s in read.sentences[:2]] == [s.words for s in expected.sentences[:2]]
    assert [(w.form, w.upos, w.head) for w in read.sentences[2].words] == [("a", "_", 0)]
    standard = "# global.columns = ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC"
    again = read_conllu(write(tmp_path, *PLUS, *plus, "", standard, PLUS[1], *ten))
    assert again.sentences[1].words == expected.sentences[0].words


def test_a_file_without_heads_has_words_and_no_tree(tmp_path: Path) -> None:
    corpus = read_conllu(
        write(
            tmp_path, row("1", "a", "_", "_"), row("2", "b", "_", "_"), "", row("1", "c", "_", "_")
        )
    )
    assert [(w.form, w.head, w.deprel) for s in corpus for w in s.words] == [
        ("a", 0, "_"),
        ("b", 0, "_"),
        ("c", 0, "_"),
    ]
    got = message(write(tmp_path, row("1", "a"), "", row("1", "b", "_")))
    assert got.endswith(
        ":3: expected heads in all sentences or in none (those before have heads), got the opposite"
    )


def test_features_with_spaces_or_repeats_are_those_of_the_format(tmp_path: Path) -> None:
    read = read_conllu(
        write(
            tmp_path,
            row("1", "a", "2", feats="Case= Acc|Number = Plur"),
            row("2", "b", feats="Case=Acc|Case=Nom"),
        )
    )
    assert [w.feats for w in read.sentences[0].words] == [
        {"Case": "Acc", "Number": "Plur"},
        {"Case": "Acc,Nom"},
    ]


def test_carriage_returns_and_marks_inside_joined_files(tmp_path: Path) -> None:
    path = tmp_path / "mac.conllu"
    path.write_bytes("\r".join([*ODD, "", row("1", "a"), ""]).encode())
    assert [len(s.words) for s in read_conllu(path)] == [8, 1]
    path.write_bytes(("\ufeff# text = a\n" + row("1", "a") + "\n\n").encode() * 2)
    assert [s.text for s in read_conllu(path)] == ["a", "a"]


def test_text_in_another_unicode_form_is_named_as_such(tmp_path: Path) -> None:
    for text, form, forms in (
        ("cafe\u0301", "caf\u00e9", "NFD, and NFC"),
        ("caf\u00e9", "cafe\u0301", "NFC, and NFD"),
    ):
        got = message(write(tmp_path, f"# text = {text} bar", row("1", form, "2"), row("2", "bar")))
        assert (
            f"in the text at character 0, got it in another Unicode form ({forms} in column form)"
            in got
        )


NINE = "\t".join(["1", "a", "a", "X", "_", "_", "0", "dep", "_"])


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        ([NINE], 1, "expected 10 tab-separated columns, got 9"),
        (["# c", row("1", "a"), "", "# c", row("1", "b"), NINE + "\t_\t_"], 6, ("10 "
        "tab-separated columns, got 11")),
        ([row("1", "a").replace("\t", "    ")], 1, "expected 10 tab-separated columns, got 1"),
        ([row("1", "")], 1, "column form to hold text or _, got nothing"),
        ([row("1", "a").removesuffix("_")], 1, "column misc to hold text or _, got nothing"),
        ([row("1", "a  b")], 1, "column form to hold text or _, got two spaces in a row"),
        ([row("1", "a"), row("3", "b", "1")], 2, "expected the word id 2, got 3"),
        ([row("1", "a"), row("1", "b", "1")], 2, "expected the word id 2, got 1"),
        ([row("one", "a")], 1, "expected an id such as 3, 3-4 or 3.1, got 'one'"),
        ([row("1", "a"), row("0.1", "b", "_")], 2, "expected an empty node 1.n, got 0.1"),
        ([token("2-3", "ab"), row("1", "a")], 1, ("a multiword token that begins at word 1, "
        "outside any other, got 2-3")),
        ([token("1-3", "ab"), row("1", "a"), row("2", "b", "1")], 3, ("words up to 3 in a multiword "
        "token, got 2")),
        ([row("1", "a"), row("2", "b", "x")], 2, "expected a head that is a word id or 0, got 'x'"),
        ([row("1", "a"), row("2", "b", "_")], 2, "expected a head that is a word id or 0, got '_'"),
        ([row("1", "a", "-1")], 1, "expected a head that is a word id or 0, got '-1'"),
        ([row("1", "a"), row("2", "b", "3")], 2, "expected a head from 0 to 2, got 3"),
        ([row("1", "a"), row("2", "b", "3"), row("3", "c", "2")], 2, ("a chain of heads that ends at "
        "0, got a cycle")),
        ([row("1", "a", "9" * 5000)], 1, "expected a head that is a word id or 0"),
        ([row("9" * 5000, "a")], 1, "expected an id such as 3, 3-4 or 3.1"),
        (["# global.columns = ID FORM", row("1", "a")], 2, ("expected 2 tab-separated columns "
        "(ID FORM), got 10")),
        (["# global.columns = ID LEMMA", row("1", "a")], 1, ("global.columns that differ, "
        "ID and FORM among them")),
        (["# global.columns = ID FORM FORM", "1\ta\tb"], 1, ("global.columns that differ, "
        "ID and FORM among them")),
        (["# global.columns = ID FORM LEMMA", "1\ta\t"], 2, ("column lemma to hold text or "
        "_, got nothing")),
        ([row("1", "a", "1")], 1, "a chain of heads that ends at 0, got a cycle from word 1"),
        ([row("1", "a", feats="Number")], 1, ("expected features as "
        "Name=Value|Name=Value or _, got 'Number'")),
        (["# text = a c", row("1", "a"), row("2", "b", "1")], 3, ("expected 'b' in the text at "
        "character 2, got 'c'")),
        (["# text = a b", row("1", "a")], 1, ("the text to end with the last "
        "token, got 'b' after it")),
        ([row("0.1", "a", "_")], 1, "expected a word in the sentence, got only empty nodes"),
        (["", ""], 1, "expected at least one sentence, got none"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_file_and_line_number(
    tmp_path: Path, lines: list[str], line: int, said: str
) -> None:
    path = write(tmp_path, *lines)
    got = message(path)
    assert got.startswith(f"{path}:{line}: expected ")
    assert said in got


def test_bytes_that_are_not_utf8_are_found_by_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.conllu"
    path.write_bytes(b"# c\n" + row("1", "caf").encode() + b"\n# \xe9\n")
    assert message(path) == f"{path}:3: expected UTF-8 text, got the byte 0xe9"
    path.write_bytes(gzip.compress(row("1", "cat").encode()))
    assert message(path) == f"{path}:1: expected UTF-8 text, got gzip: unpack it"


def test_what_is_not_a_file_is_named_with_what_is(tmp_path: Path) -> None:
    near = write(tmp_path, row("1", "a"))
    missing = tmp_path / "xx.conllu"
    assert (
        message(missing)
        == f"{missing}: expected a corpus file, got no such file; the nearest is {near}"
    )
    assert (
        message(tmp_path)
        == f"{tmp_path}: expected a corpus file, got a directory (it holds x.conllu)"
    )
    assert "no such file" in message(tmp_path / "nowhere" / "x.conllu")
    (tmp_path / "empty.conllu").touch()
    assert "expected at least one sentence, got none" in message(tmp_path / "empty.conllu")


# Sentences and words as the treebank's own statistics give them.
EWT = [
    pytest.param("test", 2_077, 25_094),
    pytest.param("dev", 2_001, 25_147, marks=pytest.mark.slow),
    pytest.param("train", 12_544, 204_577, marks=pytest.mark.slow),
]


def assert_as_conllu_reads(path: Path) -> None:
    """The package's tokens and comments are ours."""
    text = path.read_text(encoding="utf-8")
    theirs = [tokens for tokens in conllu.parse(text) if tokens]
    for sentence, tokens in zip(read_conllu(path), theirs, strict=True):
        words = [token for token in tokens if isinstance(token["id"], int)]
        assert sentence.id == tokens.metadata["sent_id"]
        assert sentence.text == tokens.metadata["text"]
        for word, token in zip(sentence.words, words, strict=True):
            assert (word.id, word.form, word.lemma) == (
                token["id"], token["form"], token["lemma"],
            )  # fmt: skip
            assert (word.upos, word.xpos) == (token["upos"], token["xpos"] or "_")
            assert word.feats == (token["feats"] or {})
            assert (word.head, word.deprel) == (token["head"], token["deprel"])


def test_sentences_are_those_of_the_conllu_package(tmp_path: Path) -> None:
    assert_as_conllu_reads(demo_paths().dev)
    assert_as_conllu_reads(write(tmp_path, *ODD))


@pytest.mark.real
def test_a_treebank_is_that_of_the_conllu_package(ud: Path) -> None:
    assert_as_conllu_reads(ud / "en_ewt-ud-test.conllu")


def test_a_last_column_of_white_space_alone_holds_nothing(tmp_path: Path) -> None:
    blank = row("2", "b", "1").removesuffix("_") + "\u00a0"
    got = message(write(tmp_path, row("1", "a"), blank))
    assert got.endswith(":2: expected column misc to hold text or _, got nothing")


@pytest.mark.real
@pytest.mark.parametrize(("split", "sentences", "words"), EWT)
def test_english_ewt_whole(ud: Path, split: str, sentences: int, words: int) -> None:
    corpus = read_conllu(ud / f"en_ewt-ud-{split}.conllu")
    assert (len(corpus), corpus.n_words) == (sentences, words)
    assert len({s.id for s in corpus}) == len(corpus)
    for s in corpus:
        shown = [s.text[w.start : w.end] for w in s.words]
        # All its multiword tokens are made of their parts, so every span is its word's form,
        assert shown == [w.form for w in s.words]
        # and the spans tile the text: nothing is between them but white space.
        assert "".join("".join(shown).split()) == "".join(s.text.split())


def test_a_senteval_file_may_have_empty_lines_and_no_empty_label(tmp_path: Path) -> None:
    path = tmp_path / "labelled.txt"
    path.write_bytes(b"tr\tA\tx\n\nva\tA\ty\r\n\r\nte\tB\tz\n\n")
    assert {split: [s.text for s in part] for split, part in read_senteval(path).items()} == {
        "train": ["x"],
        "dev": ["y"],
        "test": ["z"],
    }
    path.write_bytes(b"tr\tA\tx\nva\t\ty\nte\tB\tz\n")
    with pytest.raises(
        CorpusError, match=r"labelled.txt:2: expected tr, va or te, a label and a sentence"
    ):
        read_senteval(path)
