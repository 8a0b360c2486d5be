"""Confidence that a model is asked for: tokens, letters, words and drawn answers,
against single forwards.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from calibrated import run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments.calibration import asked
from experiments.calibration.asked import Answer, Asking
from experiments.calibration.generating import generate
from experiments.calibration.predictions import (
    read_predictions,
)
from experiments.calibration.questions import (
    Question,
    QuestionError,
    Templates,
    token_probabilities,
)
from experiments.calibration.reliability import Judged, compare, judge
from experiments.runs.folder import RunFolder
from experiments.subject import Subject

WORDS = """Question : Answer is the answer true or false ? A B . a b c d
0.9 True False Proposed Probability of it A. B. Question: Answer:"""


@pytest.fixture(scope="module")
def small() -> Subject:
    """A random model with a vocabulary of words and letters."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    for word in dict.fromkeys(WORDS.split()):
        vocabulary.setdefault(word, len(vocabulary))
    vocabulary |= {f"x{i}": i for i in range(len(vocabulary), tiny.VOCAB)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    told = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    return Subject(
        tiny.model("llama"), PreTrainedTokenizerFast(tokenizer_object=fast, **told), bos="always"
    )


QUESTIONS = [
    Question("a b ?", ("c", "d"), 0),
    Question("b a ?", ("d c", "b"), 1),
    Question("c ?", ("a", "b", "d"), 2),
]


def next_logits(subject: Subject, text: str) -> torch.Tensor:
    ids = torch.tensor([subject.encode([text])[0].ids])
    with torch.no_grad():
        return subject.model(ids).logits[0, -1].double()


def test_choices_and_p_true_are_read_where_their_tokens_stand(
    small: Subject, tmp_path: Path
) -> None:
    templates = Templates(small)
    found = token_probabilities(small, QUESTIONS, templates, False, 64)
    last = torch.softmax(next_logits(small, templates.ask("answer", question="c ?")), -1)
    ids = [small.tokenizer.convert_tokens_to_ids(c) for c in "abd"]
    assert found[2] == pytest.approx((last[ids] / last[ids].sum()).numpy(), abs=1e-5)
    assert [len(p) for p in found] == [2, 2, 3]
    asking = Asking(small, templates, QUESTIONS, [1, 0, 2], 4, 64, 0)
    said = asked.p_true(asking, "p_true", RunFolder(tmp_path / "run", {}))
    text = templates.ask("p_true", question="a b ?", answer="d")
    assert text.endswith("Answer:")
    p = torch.softmax(next_logits(small, text), -1)
    a, b = (float(p[small.tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB")
    assert said[0].confidence == pytest.approx(a / (a + b), abs=1e-5)
    assert float(said[0].text) == pytest.approx(a + b, abs=1e-3)


@pytest.mark.parametrize("wording", ["plain", "templates", "chat"])
def test_letters_and_p_true_of_a_run_are_those_of_single_forwards(
    small: Subject, tmp_path: Path, wording: str
) -> None:
    """The texts are written out: where the letters stand,
    what a template or a chat puts around them, what comes last.
    """
    asked_for = "Answer with the letter of the right choice.\nAnswer:"
    judged = "Is the proposed answer true or false?\nA. True\nB. False\nAnswer:"
    more: list[object] = []
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizer.save_pretrained(tmp_path / "model")
    if wording == "chat":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.chat_template = "{% for turn in messages %}a {{ turn['content'] }} {% endfor %}b "
        tokenizer.save_pretrained(tmp_path / "model")
        asked_for, judged = (
            text.replace("\nAnswer:", " b Answer:") for text in (asked_for, judged)
        )
        more = ["--chat"]
    before, asks = (
        "a " if wording == "chat" else "",
        "Question: {question}\n{choices}\n" + asked_for,
    )
    if wording == "templates":
        (tmp_path / "words").mkdir()
        asks = "x50 {choices} x51 {question} A"
        (tmp_path / "words" / "choose.txt").write_text(asks, encoding="utf-8")
        more = ["--templates", tmp_path / "words"]
    questions = [
        Question(f"{w} b ?", ("c", "d") if i % 2 else ("x60", "b"), i % 2)
        for i, w in enumerate("abcd")
    ]
    questions += [Question(f"x{i} a ?", ("d", f"x{i + 9}"), int(i > 42)) for i in range(40, 46)]
    for name, rows in (("test", questions[:6]), ("held", questions[6:])):
        lines = [
            json.dumps({"question": q.question, "choices": q.choices, "answer": q.answer})
            for q in rows
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def two(text: str) -> np.ndarray:
        """p(A) and p(B) behind a text."""
        logits = next_logits(small, text)
        return torch.softmax(logits, -1)[
            [small.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
        ].numpy()

    expected = []
    for q in questions:
        listed = f"A. {q.choices[0]}\nB. {q.choices[1]}"
        expected.append(two(before + asks.format(question=q.question, choices=listed)))
    P = np.array([p / p.sum() for p in expected])
    told = [
        "--model",
        tmp_path / "model",
        "--questions",
        tmp_path / "test.jsonl",
        "--bos",
        "always",
        "--bins",
        2,
    ]
    told += [
        "--choices",
        "letter",
        "--confidence",
        "p_true",
        "--validation",
        tmp_path / "held.jsonl",
        *more,
    ]
    results = run(tmp_path / "run", *told, command="ask")
    kept = read_predictions(tmp_path / "run" / "predictions.npz")
    assert kept.probabilities == pytest.approx(P, abs=1e-6)
    assert np.abs(P[:, 0] - P[:, 1]).min() > 1e-4  # the letters are told apart
    assert kept.labels.tolist() == [q.answer for q in questions]
    assert kept.validation.tolist() == [False] * 6 + [True] * 4
    sure = []
    for q, p in zip(questions[:6], P, strict=False):
        answer = q.choices[int(p.argmax())]
        a, b = two(f"{before}Question: {q.question}\nProposed answer: {answer}\n{judged}")
        sure.append(a / (a + b))
    by = {r["method"]: r for r in results["records"]}
    assert by["token probabilities"]["confidence"] == pytest.approx(P[:6].max(1).mean(), abs=1e-6)
    assert by["p_true"]["confidence"] == pytest.approx(np.mean(sure), abs=1e-6)
    assert "temperature scaling" in by  # fitted on the other file
    assert by["p_true"]["n"] == 6


def test_ask_confidence_is_calibrate_with_its_old_option(small: Subject, tmp_path: Path) -> None:
    """The same records by the new command, the new option of calibrate, and the name it had."""
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"question": f"x{i} a ?", "choices": ["d", f"x{i + 9}"], "answer": i % 2}
        for i in range(40, 46)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [
        "--model",
        tmp_path / "model",
        "--questions",
        tmp_path / "rows.jsonl",
        "--bos",
        "always",
        "--bins",
        2,
    ]
    new = run(tmp_path / "new", *words, "--confidence", "p_true", command="ask")
    old = run(tmp_path / "old", *words, "--ask", "p_true")
    assert new["records"] == old["records"]
    assert [record["method"] for record in new["records"]] == ["token probabilities", "p_true"]
    assert new["provenance"]["config"]["confidence"] == ["p_true"]
    assert "prompts" not in new
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "Reliability diagram of p_true" in page
    assert "as many random words" not in page  # a control of reasons


def test_generation_is_the_most_probable_token_each_time_or_drawn(small: Subject) -> None:
    text = "Question : a b ? Answer :"
    words, so_far = [], text
    for _ in range(6):
        token = int(next_logits(small, so_far).argmax())
        if token in (0, 1, 2):
            break
        words.append(small.tokenizer.convert_ids_to_tokens(token))
        so_far += f" {words[-1]}"
    assert generate(small, text, 6) == [" ".join(words)]
    drawn = generate(small, text, 1, copies=3000, temperature=1.0, seed=1)
    p = torch.softmax(next_logits(small, text), -1)
    for word in ("a", "A", "true"):
        expected = float(p[small.tokenizer.convert_tokens_to_ids(word)])
        assert np.mean([d == word for d in drawn]) == pytest.approx(expected, abs=0.012)
    assert drawn == generate(small, text, 1, copies=3000, temperature=1.0, seed=1)
    with pytest.raises(QuestionError, match="are longer than the model's"):
        generate(small, text, 10**7)


def test_written_answers_are_parsed_or_counted(
    small: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "a b ?": ["c", "A.", "d", "I cannot say"],
        "b a ?": ["zzz"] * 4,
        "c ?": ["Sorry, I cannot answer that"] * 4,
    }
    numbers = {"a b ?": "90%", "b a ?": "quite", "c ?": "I don't know"}

    def canned(subject: Subject, text: str, length: int, copies: int = 1, *_: object) -> list[str]:
        key = next(q for q in said if f"Question: {q}" in text)
        return said[key] if copies > 1 else [numbers[key]]

    monkeypatch.setattr(asked, "generate", canned)
    asking = Asking(small, Templates(small), QUESTIONS, [0, 0, 2], 4, 64, 0)
    folder = RunFolder(tmp_path / "run", {})
    assert [(s.confidence, s.reason) for s in asked.verbalised(asking, "verbalised", folder)] == [
        (0.9, ""),
        (None, "unparsable"),
        (None, "refused"),
    ]
    assert [(s.confidence, s.reason) for s in asked.sampled(asking, "sampled", folder)] == [
        (0.5, ""),
        (None, "unparsable"),
        (None, "refused"),
    ]
    monkeypatch.setattr(asked, "generate", lambda *_: pytest.fail("answered already"))
    assert asked.verbalised(asking, "verbalised", folder)[0] == Answer(0.9, "", "90%")


def test_unanswered_rows_are_counted_and_do_not_pay() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random(40) < 0.5
    own = Judged("own", np.where(correct, 0.9, 0.6), correct, np.arange(40))
    silent = Judged(
        "silent",
        np.where(np.arange(40) < 30, 0.9, np.nan),
        correct,
        np.arange(40),
        counts={"refused": 10},
    )
    record = judge(silent, 10, 0)
    assert (record.n, record.n_answered, record.n_refused) == (40, 30, 10)
    assert record.auroc == 0.5
    assert record.squared_error_all == pytest.approx(
        (((0.9 - correct[:30]) ** 2).sum() + 10 * 0.25) / 40
    )
    assert record.accuracy == pytest.approx(correct.mean())
    (row,) = compare([own, silent], 0)
    assert row.n == 30
    assert row.difference == pytest.approx(
        ((0.9 - correct[:30]) ** 2 - (own.confidence[:30] - correct[:30]) ** 2).mean()
    )
    few = judge(
        Judged("few", np.where(np.arange(40) < 3, 0.9, np.nan), correct, np.arange(40)), 10, 0
    )
    assert few.measured is False
    assert few.n_answered == 3


def test_templates_are_replaced_by_name_and_their_fields_checked(tmp_path: Path) -> None:
    (tmp_path / "p_true.txt").write_text("{question} {wrong}\nAnswer:\n", encoding="utf-8")
    templates = Templates(folder=tmp_path)
    assert templates.fill("answer", question="q") == "Question: q\nAnswer:"
    with pytest.raises(
        QuestionError, match=r"template p_true.txt: expected fields answer, question, got \{wrong\}"
    ):
        templates.ask("p_true", question="q", answer="a")
    for text in ("{question} }", "{", "{0}", "{question!x}"):
        (tmp_path / "p_true.txt").write_text(text, encoding="utf-8")
        with pytest.raises(
            QuestionError, match=r"template p_true.txt: expected fields answer, question"
        ):
            Templates(folder=tmp_path).ask("p_true", question="q", answer="a")
    (tmp_path / "p_true.txt").write_bytes(b"\xff")
    with pytest.raises(QuestionError, match=r"p_true.txt: expected UTF-8 text"):
        Templates(folder=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(QuestionError, match="expected a file named"):
        Templates(folder=tmp_path / "none")
