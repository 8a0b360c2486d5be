"""Records of data files: the same rows in every format, the field's own column names,
one clear line for anything else.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.calibration.questions import read_questions
from experiments.corpus.prompts import (
    Pair,
    PromptError,
    Unusable,
    read_labelled,
    read_pairs,
    read_prompts,
)
from experiments.corpus.records import read_records

ROWS = [
    {"prompt": 'He said, "go', "answer": " on", "wrong": " off"},
    {"prompt": "نعم, 2 + 2 =", "answer": " 4", "wrong": " 5"},
    {"prompt": "[sic] it\u2028is", "answer": " so", "wrong": " not"},
]


def written(folder: Path, form: str) -> Path:
    """The rows in a format, written by the standard library."""
    path = folder / f"rows.{form}"
    if form == "json":
        path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8-sig")
    else:
        with path.open("w", encoding="utf-8-sig" if form == "csv" else "utf-8", newline="") as file:
            quoting = csv.QUOTE_MINIMAL if form == "csv" else csv.QUOTE_NONE
            writer = csv.DictWriter(
                file,
                fieldnames=list(ROWS[0]),
                delimiter="," if form == "csv" else "\t",
                quoting=quoting,
                quotechar='"' if form == "csv" else None,
            )
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv"])
def test_the_same_rows_in_every_format(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form)
    assert [record for _, record in read_records(path)] == ROWS
    assert [(p.prompt, p.answer, p.wrong) for p in read_prompts(path)] == [
        tuple(row.values()) for row in ROWS
    ]
    assert len(read_prompts(path, limit=2)) == 2


PAIR = Pair("The dogs bark.", "The dogs barks.")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "blimp.jsonl",
            '{"sentence_good": "The dogs bark.", "sentence_bad": "The dogs barks.", "UID": "x"}',
        ),
        (
            "jblimp.jsonl",
            '{"good_sentence": "The dogs bark.", "bad_sentence": "The dogs barks.", "type": "x"}',
        ),
        ("crows.csv", ",sent_more,sent_less,bias_type\n0,The dogs bark.,The dogs barks.,x\n"),
        ("ours.tsv", "sentence_good\tsentence_bad\nThe dogs bark.\tThe dogs barks.\n"),
        ("multi.tsv", "sen\twrong_sen\tverb\nThe dogs bark.\tThe dogs barks.\tbark\n"),
        ("list.csv", 'sentences\n"[""The dogs bark."", ""The dogs barks.""]"\n'),
    ],
)
def test_pairs_by_the_names_of_the_field(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_pairs(tmp_path / name) == [PAIR]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("semicolons.csv", "sentence_good;sentence_bad\n{good};{bad}\n{good};{bad}\n"),
        ("excel.csv", "\ufeffsentence_good;sentence_bad\r\n{good};{bad}\r\n{good};{bad}\r\n"),
        ("tabs.csv", "sentence_good\tsentence_bad\n{good}\t{bad}\n{good}\t{bad}\n"),
        ("cr.tsv", "sentence_good\tsentence_bad\r{good}\t{bad}\r{good}\t{bad}\r"),
        (
            "joined.csv",
            "\ufeffsentence_good,sentence_bad\n{good},{bad}\n\ufeffsentence_good,sentence_bad\n{good},{bad}\n",
        ),
        (
            "joined.jsonl",
            (
                '\ufeff{{"sentences": ["{good}", "{bad}"]}}\n\ufeff{{"sentences": ["{good}", '
                '"{bad}"]}}\n'
            ),
        ),
    ],
)
def test_files_as_spreadsheets_and_joining_leave_them(tmp_path: Path, name: str, text: str) -> None:
    written = text.format(good=PAIR.good, bad=PAIR.bad)
    (tmp_path / name).write_bytes(written.encode())
    assert read_pairs(tmp_path / name) == [PAIR, PAIR]


def test_an_element_of_an_array_has_the_line_on_which_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": [1,\n 2]}, {"b": "]"}\n,\n\n{"c":\n3}]', encoding="utf-8")
    assert [number for number, _ in read_records(path)] == [1, 2, 5]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "expected UTF-8 text, got UTF-16: save it as UTF-8"),
        ("utf-16-le", "expected UTF-8 text, got a zero byte"),
        ("latin-1", "expected UTF-8 text, got the byte 0xe9"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, message: str) -> None:
    path = tmp_path / "prompts.csv"
    text = "un cafe" if encoding == "utf-16-le" else "un caf\xe9"
    path.write_bytes(f"prompt,answer\n{text}, noir\n".encode(encoding))
    with pytest.raises(PromptError, match=message):
        read_prompts(path)


def test_a_question_that_cannot_be_asked_does_not_end_a_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    rows = ["What is 2+2?,3,4,5,6,B", '"Twice?",a,a,b,c,A', "None?,1,2,3,4,F", "Two?,2,3,4,5,A"]
    path.write_text("question,A,B,C,D,answer\n" + "\n".join(rows) + "\n", encoding="utf-8")
    unusable: list[Unusable] = []
    questions = read_questions(path, unusable=unusable)
    assert [(q.question, q.answer, q.line) for q in questions] == [
        ("What is 2+2?", 1, 2),
        ("Two?", 0, 5),
    ]
    assert [one.line for one in unusable] == [3, 4]
    assert "expected choices that differ" in unusable[0].why
    assert "expected 'answer' to be a choice" in unusable[1].why
    with pytest.raises(PromptError, match=r"questions.csv:3: expected choices that differ"):
        read_questions(path)


def test_clams_lines_are_pairs(tmp_path: Path) -> None:
    path = tmp_path / "clams.txt"
    path.write_text(
        f"True\t{PAIR.good}\nFalse\t{PAIR.bad}\nFalse\tThe dog bark.\nTrue\tI go\nFalse\tI goes\n",
        "utf-8",
    )
    pairs = read_pairs(path)
    assert [(p.good, p.bad) for p in pairs] == [
        (PAIR.good, PAIR.bad),
        (PAIR.good, "The dog bark."),
        ("I go", "I goes"),
    ]
    assert pairs[0].group == pairs[1].group != pairs[2].group
    path.write_text("False\ta\nTrue\tb\n", "utf-8")
    with pytest.raises(
        PromptError, match=r"clams.txt:1: expected 'True' and a sentence, then 'False'"
    ):
        read_pairs(path)


def test_pairs_of_no_use_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "sentence_good,sentence_bad\na b,a b\nThe dogs bark.,The dogs barks.\n", encoding="utf-8"
    )
    unusable: list[Unusable] = []
    (pair,) = read_pairs(path, None, unusable)
    assert (pair, pair.line) == (PAIR, 3)
    assert [str(one) for one in unusable] == [
        "line 2: expected two sentences that differ, got 'a b' twice"
    ]
    with pytest.raises(PromptError, match=r"pairs.csv:2: expected two sentences that differ"):
        read_pairs(path)
    path.write_text("sentence_good,sentence_bad\na b,a b\n", encoding="utf-8")
    with pytest.raises(PromptError, match=r"pairs.csv: no line can be used; line 2: expected two"):
        read_pairs(path, None, unusable=[])


def test_sentences_of_cola_and_sst_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "cola.tsv").write_text(
        'gj04\t1\t\tThe "river froze.\ngj04\t0\t*\tThe river frozen.\n', "utf-8"
    )
    (tmp_path / "sst.tsv").write_text("sentence\tlabel\nit is good\t1\nit is bad\t0\n", "utf-8")
    assert [p.prompt for p in read_prompts(tmp_path / "cola.tsv", answers=False)] == [
        'The "river froze.',
        "The river frozen.",
    ]
    assert [p.prompt for p in read_prompts(tmp_path / "sst.tsv", answers=False)] == [
        "it is good",
        "it is bad",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[{"case_id": 0, "requested_rewrite": {"prompt": "{} speaks", "subject": "Ann", '
        '"target_new": {"str": "English", "id": "Q1"}, "target_true": {"str": "French"}}}]',
        '{"prompt": "Ann speaks", "target_true": " French", "target_false": " English"}',
    ],
)
def test_facts_of_counterfact_are_prompts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text, encoding="utf-8")
    (fact,) = read_prompts(path)
    assert (fact.prompt, fact.answer, fact.wrong) == ("Ann speaks", " French", " English")
    path.write_text('{"requested_rewrite": {"prompt": "{} speaks"}}', encoding="utf-8")
    with pytest.raises(PromptError, match="expected requested_rewrite with prompt, subject"):
        read_prompts(path)


@pytest.mark.parametrize(
    "names", [("sentence1", "sentence2", "gold_label"), ("premise", "hypothesis", "label")]
)
def test_labelled_pairs_by_the_names_of_the_field(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "pairs.jsonl"
    line = dict(zip(names, ("A man runs.", "A man moves.", "entailment"), strict=True))
    path.write_text(json.dumps(line), encoding="utf-8")
    (pair,) = read_labelled(path)
    assert (pair.prompt, pair.pair, pair.label) == ("A man runs.", "A man moves.", "entailment")


QUESTION = ("What is 2+2?", ("3", "4", "5", "6"), 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mmlu.csv", "What is 2+2?,3,4,5,6,B\n"),
        ("named.csv", "question,A,B,C,D,answer\nWhat is 2+2?,3,4,5,6,B\n"),
        (
            "letter.jsonl",
            '{"question": "What is 2+2?", "choices": ["3", "4", "5", "6"], "answer": "B"}',
        ),
        (
            "place.jsonl",
            '{"question": "What is 2+2?", "choices": ["3", "4", "5", "6"], "answer": 1}',
        ),
        (
            "text.jsonl",
            '{"question": "What is 2+2?", "choices": ["3", "4", "5", "6"], "answer": 4}',
        ),
        (
            "arc.jsonl",
            '{"question": "What is 2+2?", "choices": {"text": ["3", "4", "5", "6"], '
            '"label": ["A", "B", "C", "D"]}, "answerKey": "B"}',
        ),
        (
            "arc_numbers.jsonl",
            '{"question": "What is 2+2?", "choices": {"text": ["3", "4", "5", "6"], '
            '"label": ["1", "2", "3", "4"]}, "answerKey": "2"}',
        ),
        (
            "openbook.jsonl",
            '{"question_stem": "What is 2+2?", "choices": {"text": ["3", "4", "5", "6"], '
            '"label": ["A", "B", "C", "D"]}, "answerKey": "B"}',
        ),
        (
            "arc_raw.jsonl",
            '{"question": {"stem": "What is 2+2?", "choices": [{"text": "3", "label": "A"}, '
            '{"text": "4", "label": "B"}, {"text": "5", "label": "C"}, {"text": "6", '
            '"label": "D"}]}, "answerKey": "B"}',
        ),
    ],
)
def test_questions_by_the_names_of_the_field(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    (question,) = read_questions(tmp_path / name)
    assert (question.question, question.choices, question.answer) == QUESTION


def asked(folder: Path, rows: list[tuple[list[str], Any]]) -> list[int]:
    path = folder / "digits.jsonl"
    lines = [
        json.dumps({"question": "?", "choices": choices, "answer": answer})
        for choices, answer in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return [question.answer for question in read_questions(path)]


def test_a_whole_number_is_a_choice_where_all_of_the_file_are(tmp_path: Path) -> None:
    """After 0 comes 1: the choice, not the place;
    but a file with an answer that is no choice gives places.
    """
    assert asked(tmp_path, [(["1", "2", "3"], 1), (["1", "2", "3"], 2)]) == [0, 1]
    assert asked(tmp_path, [(["1", "2", "3"], 1), (["1", "2", "3"], 0)]) == [1, 0]
    assert asked(tmp_path, [(["1", "2"], 0), (["2", "3"], 1)]) == [0, 1]
    assert asked(tmp_path, [(["1", "2"], "2"), (["a", "b"], "b"), (["B", "A"], "A")]) == [1, 1, 1]
    with pytest.raises(PromptError, match=r"digits.jsonl:2: expected 'answer' to be a choice"):
        asked(tmp_path, [(["1", "2", "3"], 0), (["1", "2", "3"], 3)])


DEEP = "[" * 3000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            '{"prompt": "w\\ud80079", "answer": " a"}',
            "a.jsonl:1: expected text, got half a character (\\ud800",
        ),
        (
            "a.jsonl",
            '{"prompt": ["w\\ud80079"], "answer": " a"}',
            "a.jsonl:1: expected text, got half a character",
        ),
        (
            "a.jsonl",
            f'{{"prompt": {DEEP}',
            "a.jsonl:1: expected JSON, got brackets that are nested too deeply",
        ),
        (
            "a.jsonl",
            '{"prompt": ' + "[" * 900 + "]" * 900 + ', "answer": "a"}',
            "a.jsonl:1: expected 'prompt'",
        ),
        ("a.json", DEEP, "a.json: expected JSON, got brackets that are nested too deeply"),
        (
            "a.jsonl",
            f'{{"prompt": 1{"0" * 310}}}',
            "a.jsonl:1: expected numbers of at most 300 digits, got one of 311",
        ),
        (
            "a.jsonl",
            f'{{"prompt": 1{"0" * 5000}}}',
            "a.jsonl:1: expected numbers of at most 300 digits",
        ),
        (
            "a.jsonl",
            "The keys are here",
            "a.jsonl:1: expected a JSON object a line, a JSON array of objects, CSV",
        ),
        (
            "a.txt",
            "The keys are here",
            "a.txt:1: expected a JSON object a line, a JSON array of objects, CSV",
        ),
        (
            "a.jsonl",
            '{"prompt": "a"} {"prompt": "b"}',
            "a.jsonl:1: expected a JSON object: Extra data",
        ),
        ("a.json", "[1, 2]", "a.json:1: expected a JSON object, got 1"),
        ("a.json", '{\n"prompt": "a"}', "got a JSON object over several lines"),
        ("a.csv", "prompt,answer\na,b,c\n", "a.csv:2: expected 2 columns (prompt, answer), got 3"),
        ("a.csv", 'prompt,answer\n"a,b\n', "a.csv:2: expected CSV: unexpected end of data"),
        (
            "a.csv",
            "good,bad\na,b\n",
            "a.csv:2: expected 'prompt' or 'sentence' or 'text' to be a text, got None; the line",
        ),
        ("a.csv", "\n\n", "expected at least one line, got none"),
        (
            "a.jsonl",
            '{"prompt": "a", "answer": "b", "group": []}',
            "a.jsonl:1: expected 'group' to be a text or a number",
        ),
    ],
)
def test_anything_else_is_one_clear_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PromptError) as error:
        read_prompts(tmp_path / name)
    assert message in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 500
    assert "\n" not in str(error.value)
