"""The capture command: rows are what single forwards give, kills change no byte,
text is not held.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from made import contents
from processes import PROCESSES, killed

from experiments import cli
from experiments.corpus import read_conllu
from experiments.demo import demo_paths
from experiments.subject import Subject, load
from experiments.subject.word_spans import word_spans
from hooks import ActivationStore, capture

SITES = ["blocks.0.hook_resid_pre", "blocks.4.hook_resid_post"]


def command(out: Path, *more: object) -> list[str]:
    given = ["capture", "--model", demo_paths().model, "--out", out, *more]
    given += [word for site in SITES for word in ("--site", site)]
    return [str(word) for word in given]


@functools.cache
def subject() -> Subject:
    return load(demo_paths().model)


def alone(text: str) -> dict[str, torch.Tensor]:
    one = subject()
    with torch.no_grad(), capture(one.model, *SITES) as acts:
        one.model(torch.tensor([one.encode([text])[0].ids]))
    return {site: acts[site][0] for site in SITES}


def test_words_of_two_corpora(tmp_path):
    paths = demo_paths()
    corpora = ("--corpus", paths.dev, "--corpus", paths.test)
    assert cli.main(command(tmp_path / "run", *corpora, "--limit", 30, "--batch-tokens", 128)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    store = ActivationStore(tmp_path / "run" / "store")
    sentences = [*read_conllu(paths.dev, 30), *read_conllu(paths.test, 30)]
    assert store.n_rows == sum(len(s.words) for s in sentences) == results["store"]["rows"]
    assert store.n_shards > 5
    for number in (0, 29, 30, 59):
        (encoded,) = subject().encode([sentences[number].text])
        spans = word_spans(encoded, [(w.start, w.end) for w in sentences[number].words])
        for site, states in alone(sentences[number].text).items():
            rows = store.rows(number)
            wanted = torch.stack([states[span].mean(0) for span in spans if span])
            torch.testing.assert_close(store.read(site)[rows], wanted, rtol=1e-4, atol=1e-4)
            assert store.index[rows, 2].tolist() == list(range(len(spans)))
    assert store.about["model_sha256"] == subject().sha256
    assert [r["site"] for r in results["records"]] == SITES
    assert results["records"][1]["largest"] == float(store.read(SITES[1]).abs().max())
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")
    # nothing to do
    assert cli.main(command(tmp_path / "run", *corpora, "--limit", 30, "--batch-tokens", 128)) == 0


def test_tokens_of_lines_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.studies.capture.study.WINDOW", 7)
    texts = [s.text for s in read_conllu(demo_paths().dev, 20)]
    (tmp_path / "lines.txt").write_text("\n\n".join(texts), encoding="utf-8")
    given = (
        "--lines",
        tmp_path / "lines.txt",
        "--store-as",
        "bfloat16",
        "--to",
        f"memory://{tmp_path.name}",
    )
    assert cli.main(command(tmp_path / "run", *given)) == 0
    store = ActivationStore(f"memory://{tmp_path.name}")
    assert store.n_shards == 3
    for number in (0, 6, 7, 19):
        states = alone(texts[number])[SITES[1]]
        rows = store.rows(number)
        assert store.index[rows, 3].tolist() == list(range(len(states)))
        torch.testing.assert_close(store.read(SITES[1], rows).float(), states, rtol=2e-2, atol=2e-2)


def test_a_token_knows_its_word(tmp_path):
    given = ("--corpus", demo_paths().dev, "--limit", 3, "--level", "token")
    assert cli.main(command(tmp_path / "run", *given)) == 0
    store = ActivationStore(tmp_path / "run" / "store")
    words = store.index[store.rows(0), 2].tolist()
    assert words[0] == -1  # the BOS
    assert sorted(set(words[1:])) == list(
        range(len(read_conllu(demo_paths().dev, 1).sentences[0].words))
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "expected one of --corpus, --lines, --images, --audio, got none"),
        (("--lines", "{}", "--images", "{}"), "got --lines and --images"),
        (("--lines", "{}", "--level", "word"), "expected token as a row of --lines"),
        (("--images", "{}", "--level", "token"), "expected item as a row of --images"),
        (("--lines", "{}", "--site", "attn.hook_pattern"), "one vector a token"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, more, message):
    (tmp_path / "x.txt").write_text("a\n")
    given = [str(word).replace("{}", str(tmp_path / "x.txt")) for word in more]
    assert cli.main(command(tmp_path / "run", *given)) == 2
    assert message in capsys.readouterr().err


def test_a_byte_order_mark_is_no_text_and_other_bytes_are_named(tmp_path, capsys):
    (tmp_path / "plain.txt").write_text("The cat sat.\n", encoding="utf-8")
    (tmp_path / "marked.txt").write_text("\ufeffThe cat sat.\n", encoding="utf-8")
    rows = []
    for name in ("plain", "marked"):
        assert cli.main(command(tmp_path / name, "--lines", tmp_path / f"{name}.txt")) == 0
        rows.append(ActivationStore(tmp_path / name / "store").n_rows)
    assert rows[0] == rows[1] > 3
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9\n")
    assert cli.main(command(tmp_path / "bad", "--lines", tmp_path / "bad.txt")) == 2
    assert "bad.txt: expected UTF-8 text" in capsys.readouterr().err


def test_a_finished_capture_is_not_taken_for_one_at_another_place(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("The cat sat.\n", encoding="utf-8")
    given = command(tmp_path / "run", "--lines", tmp_path / "x.txt")
    assert cli.main(given) == cli.main(given) == 0
    assert cli.main([*given, "--to", str(tmp_path / "elsewhere")]) == 2
    assert f"finished, but not at --to {tmp_path / 'elsewhere'}" in capsys.readouterr().err


def start(out: Path) -> int:
    return cli.main(command(out, "--corpus", demo_paths().dev, "--limit", 40, "--batch-tokens", 64))


def test_a_killed_capture_goes_on_to_the_same_bytes(tmp_path):
    assert start(tmp_path / "whole") == 0
    whole = contents(tmp_path / "whole" / "store")
    folder = killed(
        start, tmp_path, goals=[0, 5], whole=len(list((tmp_path / "whole").rglob("*.safetensors")))
    )
    assert len(contents(folder / "store")) < len(whole)
    assert start(folder) == 0
    assert contents(folder / "store") == whole


def test_two_processes_at_once_leave_one_whole_store(tmp_path):
    assert start(tmp_path / "whole") == 0
    both = [PROCESSES.Process(target=leave, args=(tmp_path / "both",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    codes = sorted(process.exitcode for process in both)
    # the later one waited for nothing: it was refused, or found all done
    assert codes in ([0, 0], [0, 2])
    assert contents(tmp_path / "both" / "store") == contents(tmp_path / "whole" / "store")
    assert start(tmp_path / "both") == 0


def leave(out: Path) -> None:
    raise SystemExit(start(out))
