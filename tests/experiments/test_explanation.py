"""Self-explanations on the embedded model: words that matter are told from words that do not,
against whole forwards.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from experiments import cli
from experiments.corpus.prompts import read_pairs
from experiments.demo import demo_paths
from experiments.report.schema import Interval
from experiments.studies.ask import study as explanation
from experiments.studies.ask.reasons import parse_words
from experiments.studies.ask.records import WordsRecord
from experiments.subject import Subject, load

N = 24


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load(demo_paths().model)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The words that two sentences share, and the two that go on differently."""
    path = tmp_path_factory.mktemp("ask") / "prompts.jsonl"
    lines = []
    for pair in read_pairs(demo_paths().pairs):
        good, bad = pair.good.split(), pair.bad.split()
        place = next(i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b)
        text = " ".join(good[:place])
        # each word once, so that a name is a place
        if len(set(text.lower().split())) == place >= 3:
            lines.append(
                json.dumps({"prompt": text, "answer": f" {good[place]}", "wrong": f" {bad[place]}"})
            )
    path.write_text("\n".join(lines[:N]), encoding="utf-8")
    return path


def preference(
    subject: Subject, text: str, answer: str, wrong: str, absent: int | None = None
) -> float:
    """log2 p(answer | text) - log2 p(wrong | text) from a forward of each whole text,
    a word's tokens left out.
    """
    starts = [found.start() for found in re.finditer(r"\S+", text)] + [len(text) + 1]
    start, bits = len(subject.encode([text])[0].ids), []
    for said in (answer, wrong):
        encoded = subject.encode([text + said])[0]
        gone = [
            absent is not None and not special and starts[absent] < end < starts[absent + 1]
            for (_, end), special in zip(encoded.offsets, encoded.special, strict=True)
        ]
        ids = torch.tensor(
            [[token for token, out in zip(encoded.ids, gone, strict=True) if not out]]
        )
        first = start - sum(gone)
        with torch.no_grad():
            logp = torch.log_softmax(subject.model(ids).logits[0].double(), -1)
        bits.append(float(logp[first - 1 : -1].gather(1, ids[0, first:, None]).sum()) / np.log(2))
    return bits[0] - bits[1]


def asked(prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch, says: Any) -> dict[str, Any]:
    """A run whose model says what ``says`` makes of the words of each text."""

    def canned(subject: Subject, text: str, length: int) -> list[str]:
        return [says(text.removeprefix("Text: ").splitlines()[0].split())]

    monkeypatch.setattr(explanation, "generate", canned)
    words = [
        "ask",
        "--model",
        demo_paths().model,
        "--prompts",
        prompts,
        "--null-draws",
        30,
        "--out",
        out,
    ]
    assert cli.main([str(word) for word in words]) == 0
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_words_that_matter_are_told_from_words_that_do_not(
    subject: Subject, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    best, costs = {}, []
    for line in lines:
        words, both = line["prompt"].split(), [line["answer"], line["wrong"]]
        clean = preference(subject, line["prompt"], *both)
        both = both if clean >= 0 else both[::-1]
        lost = [
            abs(clean) - preference(subject, line["prompt"], *both, absent=i)
            for i in range(len(words))
        ]
        best[line["prompt"]] = words[int(np.argmax(lost))]
        costs.append((max(lost), np.mean(lost)))

    results = asked(
        prompts, tmp_path / "best", monkeypatch, lambda words: f'"{best[" ".join(words)]}"'
    )
    named, drawn, attribution = results["records"]
    assert named["n"] == N
    assert named["effect"] == pytest.approx(np.mean([top for top, _ in costs]), abs=1e-3)
    assert drawn["effect"] == pytest.approx(np.mean([mean for _, mean in costs]), abs=0.3)
    assert attribution["effect"] == pytest.approx(named["effect"], abs=1e-6)
    assert named["over_random_interval"]["low"] > 0
    assert named["p"] < 0.01
    assert (
        "matter significantly more than random words. The difference is 100% of"
        in results["findings"][0]["text"]
    )

    rng = random.Random(1)
    results = asked(prompts, tmp_path / "any", monkeypatch, lambda words: rng.choice(words))
    named = results["records"][0]
    assert named["over_random_interval"]["low"] < 0
    assert "do not matter significantly more than random words" in results["findings"][0]["text"]
    assert "The attribution's top words do" in results["findings"][0]["text"]


def test_what_cannot_be_tested_is_counted(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["I cannot say", "zebra", ""] * 2 + ["{all}"] * 3 + ["{first}, zebra"] * (N - 9))

    def says(words: list[str]) -> str:
        return next(said).format(all=", ".join(words), first=words[0])

    results = asked(prompts, tmp_path / "run", monkeypatch, says)
    reasons = [row["reason"] for row in results["prompts"]]
    assert [reasons.count(r) for r in ("refused", "unparsable", "everything", "")] == [
        2,
        4,
        3,
        N - 9,
    ]
    assert results["records"][0]["n"] == N - 9
    text = " ".join(note["text"] for note in results["notes"])
    assert f"2 of {N} answers refused, such as 'I cannot say'" in text
    assert f"{N - 7} of {N} answers name words that are not in the text" in text
    assert results["prompts"][0]["named_effect"] is None


def record(
    words: str, over: float, low: float | None, high: float | None, p: float | None
) -> WordsRecord:
    ends = None if low is None else Interval(low, high)
    counts = {"n": 12, "n_clusters": 1 if low is None else 12}
    intervals = {"effect_interval": ends, "over_random_interval": ends}
    return WordsRecord(
        words=words,
        unit="bits",
        effect=1 + over,
        over_random=over,
        p=p,
        p_holm=p,
        **counts,
        **intervals,
    )


BEST = record("attribution", 4.0, 3.0, 5.0, 0.001)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (
            record("named", 2.0, 1.0, 3.0, 0.002),
            "matter significantly more than random words. The difference is 50% of",
        ),
        (record("named", 2.0, 1.0, 3.0, 0.5), "do not matter significantly more than random words"),
        (
            record("named", 2.0, -1.0, 3.0, 0.04),
            "do not matter significantly more than random words",
        ),
        (record("named", -2.0, -3.0, -1.0, 0.002), "matter significantly less than random words."),
        (
            record("named", 2.0, None, None, None),
            "cannot be tested: 1 group of prompts, and a test at 5% needs 6",
        ),
    ],
)
def test_a_finding_claims_no_more_than_its_interval_and_test(
    named: WordsRecord, sentence: str
) -> None:
    text = explanation.finding([named, record("random", 0.0, 0.0, 0.0, None), BEST], 12)
    assert sentence in text
    assert ("top words do: removing them" in text) == ("do not matter" in sentence)


def test_one_group_of_prompts_has_no_interval_and_no_test(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        json.loads(line) | {"group": "g"}
        for line in prompts.read_text(encoding="utf-8").splitlines()[:4]
    ]
    path = tmp_path / "group.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    results = asked(path, tmp_path / "run", monkeypatch, lambda words: words[0])
    for row in results["records"]:
        assert [row[name] for name in ("effect_interval", "over_random_interval", "p")] == [
            None
        ] * 3
        assert row["n_clusters"] == 1
    effects = [row["named_effect"] for row in results["prompts"]]
    assert results["records"][0]["effect"] == pytest.approx(np.mean(effects))
    assert "cannot be tested" in results["findings"][0]["text"]
    assert "cannot be tested" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_reasons_and_confidence_take_what_they_need(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (
            ["--reasons", "--confidence", "p_true", "--prompts", prompts],
            "expected one of --reasons and --confidence",
        ),
        (["--reasons"], "--reasons: expected --prompts FILE"),
        (
            ["--pairs", prompts],
            "--reasons: expected --prompts FILE, and neither --questions nor --pairs",
        ),
        (["--confidence", "p_true"], "expected one of --questions, --prompts, --pairs, got none"),
        (["--confidence", "surely", "--prompts", prompts], "invalid choice: 'surely'"),
    ):
        given = ["ask", "--model", demo_paths().model, *words, "--out", tmp_path / "run"]
        with contextlib.suppress(SystemExit):
            assert cli.main([str(word) for word in given]) == 2
        assert said in capsys.readouterr().err


def test_no_answer_that_can_be_tested_is_one_clear_line(
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(explanation, "generate", lambda *_: ["Sorry"])
    words = [
        "ask",
        "--model",
        demo_paths().model,
        "--prompts",
        prompts,
        "--limit",
        3,
        "--out",
        tmp_path / "run",
    ]
    assert cli.main([str(word) for word in words]) == 2
    assert "none of 3 answers names words that can be removed (3 refused" in capsys.readouterr().err


def test_in_a_chat_the_question_is_the_users_turn_and_the_answers_beginning_the_models(
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "ask",
        "--prompts",
        str(prompts),
        "--limit",
        "3",
        "--random",
        "2",
        "--chat",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main([*words, "--model", str(demo_paths().model)]) == 2
    assert "--chat: this tokenizer has no chat template" in capsys.readouterr().err
    chatty = tmp_path / "model"
    shutil.copytree(demo_paths().model, chatty)
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    turn = "[{{ message['role'] }}] {{ message['content'] }} "
    tokenizer.chat_template = f"{{% for message in messages %}}{turn}{{% endfor %}}[model] "
    tokenizer.save_pretrained(chatty)
    put: list[str] = []

    def canned(subject: Subject, text: str, length: int) -> list[str]:
        put.append(text)
        return [text.removeprefix("[user] Text: ").split()[0]]

    monkeypatch.setattr(explanation, "generate", canned)
    assert cli.main([*words, "--model", str(chatty)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    for row, text in zip(results["prompts"], put, strict=True):
        assert text.startswith(
            f"[user] Text: {row['text']}\nThe text goes on with: "
            f"{row['answer'].strip()}\nWhich words"
        )
        assert text.endswith("and nothing else. [model] Words:")
        assert row["named"] == row["text"].split()[:1]


def test_words_are_matched_wherever_they_stand() -> None:
    assert parse_words("the Dog's, and  barks.", ["the", "dog's", "bark", "barks"]).places == (
        0,
        1,
        3,
    )
    assert parse_words("dog dog", ["dog", "a", "Dog"]).places == (0, 2)
