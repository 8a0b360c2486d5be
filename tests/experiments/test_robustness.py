"""Whatever a file or a text holds: a right answer or one clear line, never a traceback;
and nothing leaves the machine.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
import tiny
from browser import CHROMIUM, Browser
from filelock import UnixFileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.corpus import CorpusError, read_conllu
from experiments.demo import demo_paths
from experiments.report.schema import SCHEMA, ResultsError
from experiments.runs.folder import RunError, RunFolder
from experiments.subject import Subject, load
from experiments.subject.word_spans import word_spans
from layerscope.__main__ import interrupt_again

ROOT = Path(__file__).resolve().parents[2]
SEED_FILE = """# sent_id = a
# text = It's du pain, isn't it?
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=Yes
1\tIt\tit\tPRON\tPRP\tNumber=Sing\t4\tnsubj\t_\t_
2\t's\tbe\tAUX\tVBZ\tNumber=Sing|Tense=Pres\t4\tcop\t_\t_
3\tdu\tdu\tDET\tDT\t_\t4\tdet\t_\t_
4\tpain\tpain\tNOUN\tNN\t_\t0\troot\t_\tSpaceAfter=No
5\t,\t,\tPUNCT\t,\t_\t6\tpunct\t_\t_
6-7\tisn't\t_\t_\t_\t_\t_\t_\t_\t_
6\tis\tbe\tAUX\tVBZ\t_\t4\tparataxis\t_\t_
7\tn't\tnot\tPART\tRB\t_\t6\tadvmod\t_\t_
8\tit\tit\tPRON\tPRP\t_\t6\tnsubj\t_\tSpaceAfter=No
9\t?\t?\tPUNCT\t.\t_\t4\tpunct\t_\t_

"""
JUNK = (
    "\t",
    "\n",
    "\n\n",
    "_",
    "-",
    "1",
    "0",
    "99",
    "8.1",
    "#",
    "# text = x",
    "é",
    "\ufeff",
    "\u202e",
    "\x00",
    "|",
    "=",
    "𝒳",
)


def mutated(draw: random.Random) -> str:
    """The file with a few characters, fields or lines lost, doubled, swapped or replaced."""
    text = SEED_FILE
    for _ in range(draw.randint(1, 4)):
        at, to = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
        to = min(to, at + draw.choice((0, 1, 3, 40)))
        middle = draw.choice((draw.choice(JUNK), "", text[at:to] * 2, text[at:to][::-1]))
        text = text[:at] + middle + text[to:]
    return text


@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_corpora_are_read_or_refused_in_one_line(tmp_path, count):
    """What is read holds together: spans lie in the text and hold the forms,
    heads are words of the sentence.
    """
    path, draw, read, refused, unclear = tmp_path / "m.conllu", random.Random(count), 0, 0, 0
    for _ in range(count):
        path.write_text(mutated(draw), encoding="utf-8")
        try:
            corpus = read_conllu(path)
        except CorpusError as error:
            refused += 1
            unclear += "\n" in str(error) or str(path) not in str(error)
            continue
        read += 1
        for sentence in corpus:
            ids = [word.id for word in sentence.words]
            assert ids == list(range(1, len(ids) + 1))
            for word in sentence.words:
                assert 0 <= word.start < word.end <= len(sentence.text)
                assert 0 <= word.head <= len(ids)
    assert unclear == 0
    assert min(read, refused) > count / 10


@pytest.fixture(scope="module")
def whole_words():
    return Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")


@pytest.fixture(scope="module")
def pieces():
    return load(demo_paths().model)


@pytest.fixture(params=["whole_words", "pieces"])
def subject(request):
    """A tokenizer of words that it knows, and one of pieces of any text."""
    return request.getfixturevalue(request.param)


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=40))
def test_any_text_is_aligned(subject, text):
    """Spans are in order, inside the text,
    and a word with a visible character that a token carries has one.
    """
    (encoded,) = subject.encode([text])
    assert len(encoded.ids) == len(encoded.offsets) == len(encoded.special)
    words = [(i, i + 1) for i in range(len(text))]
    spans = word_spans(encoded, words)
    carried = [
        any(
            a <= i < b
            for (a, b), special in zip(encoded.offsets, encoded.special, strict=True)
            if not special
        )
        for i in range(len(text))
    ]
    for (at, _), span, there in zip(words, spans, carried, strict=True):
        cut = encoded.cut is not None and at >= encoded.cut
        assert (span is not None) == (there and not cut), unicodedata.name(text[at], repr(text[at]))
        if span is not None:
            assert 0 < span.start < span.stop <= len(encoded)
    kept = [s for s in spans if s is not None]
    assert [s.start for s in kept] == sorted(s.start for s in kept)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_results_come_back_as_they_were_written(tmp_path_factory, results):
    folder = RunFolder(tmp_path_factory.mktemp("r") / "run", {"model": "m"})
    results = {**results, "schema": SCHEMA}
    written = folder.finish(results)
    assert {**written, "sha256": ""} == {**results, "sha256": ""}
    assert folder.results == written
    assert RunFolder(folder.path, {"model": "m"}).results == written
    with pytest.raises(RunError, match="another configuration"):
        RunFolder(folder.path, {"model": "n"})


def test_cells_of_other_names_are_other_cells(tmp_path):
    names = ["push a:b-0", "push a_b-0", "push a/b-0", "push-a_b-0", "push a%3Ab-0", "push é-0"]
    folder = RunFolder(tmp_path / "run", {})
    for value, name in enumerate(names):
        assert folder.cell(name) is None
        folder.save_cell(name, value)
    assert [folder.cell(name) for name in names] == list(range(len(names)))
    folder.save_cell("blocks.0.hook_resid_pre", 0)
    assert (folder.path / "cells" / "blocks.0.hook_resid_pre.json").exists()


def test_a_folder_where_nothing_was_computed_may_be_taken_once(tmp_path):
    first = RunFolder(tmp_path / "run", {"model": "m", "property": "upso"})
    (tmp_path / "run" / "run.toml").write_text("")
    second = RunFolder(tmp_path / "run", {"model": "m", "property": "upos"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["property"] == "upos"
    with pytest.raises(RunError, match="another configuration"):
        first.save_cell("a", 1)
    with pytest.raises(RunError, match="another configuration"):
        first.finish({"records": []})
    second.save_cell("a", 1)
    with pytest.raises(RunError, match="another configuration"):
        RunFolder(tmp_path / "run", {"model": "m", "property": "upso"})


def test_a_lock_is_not_taken_from_the_process_that_has_it_next(tmp_path, monkeypatch):
    released = UnixFileLock._release
    is_there: list[bool] = []

    def release(lock):
        is_there.append(Path(lock.lock_file).exists())  # its name may be another's from here on
        released(lock)

    monkeypatch.setattr(UnixFileLock, "_release", release)
    with RunFolder(tmp_path, {}).locked():
        assert (tmp_path / ".lock").exists()
    assert is_there == [False]


def test_an_interrupt_that_meets_a_finaliser_is_not_lost(monkeypatch):
    class Closing:
        def __del__(self):
            raise KeyboardInterrupt

    def work():
        Closing()
        for _ in range(1000):  # Python looks for signals at the end of each turn
            time.sleep(0.01)

    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("name", ["config.json.partial", "run.toml.partial"])
def test_what_a_process_left_that_died_at_its_first_write_is_no_other_run(tmp_path, name):
    (tmp_path / name).write_text('{"mod')
    RunFolder(tmp_path, {"model": "m"}).save_cell("a", 1)
    (tmp_path / "other.json.partial").write_text("")
    with pytest.raises(RunError, match="another configuration"):
        RunFolder(tmp_path, {"model": "n"})


@settings(max_examples=100)
@given(st.data())
def test_a_runs_file_that_was_cut_or_changed_is_read_or_named_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("r") / "run"
    RunFolder(path, {"model": "m", "seed": 3}).finish(
        {"schema": SCHEMA, "records": [{"site": "é", "score": 0.5}]}
    )
    file = path / data.draw(st.sampled_from(["config.json", "results.json"]))
    whole = file.read_bytes()
    at, to = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    file.write_bytes(
        data.draw(
            st.sampled_from(
                [whole[:at], whole[:at] + whole[to:], whole[:at] + b"\xff{" + whole[at:], b"3"]
            )
        )
    )
    try:
        results, said = RunFolder(path, {"model": "m", "seed": 3}).results, ""
    except (RunError, ResultsError) as error:
        results, said = {}, str(error)
    assert len(said.splitlines()) <= 1
    assert isinstance(results, dict)
    assert not said or str(path) in said


HOSTILE = (
    '</script><script>document.title="OWNED"</script><img src=x onerror="document.title=\'OWNED\'">'
)


@pytest.mark.browser
def test_html_in_names_and_words_does_not_run(tmp_path):
    """A model, a property and a finding that are HTML: the browser shows them and runs nothing."""
    from experiments.pages import render_report

    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    record = {
        "check": HOSTILE,
        "site": "",
        "status": "UNSUPPORTED",
        "measured": 1.0,
        "bound": 0.0,
        "reason": HOSTILE,
    }
    results = {
        "schema": SCHEMA,
        "kind": "doctor",
        "status": "WRONG",
        "records": [record, {**record, "status": "WRONG"}],
        "checks": {HOSTILE: HOSTILE},
        "findings": [{"property": HOSTILE, "text": HOSTILE}],
        "notes": [{"kind": HOSTILE, "text": HOSTILE}],
        "provenance": {
            "model": {"name": HOSTILE},
            "command": HOSTILE,
            "doctor": {"wrong": [HOSTILE]},
        },
    }
    page = tmp_path / "page.html"
    page.write_text(render_report(results), encoding="utf-8")
    control = tmp_path / "control.html"  # the browser would run it where it is not escaped
    control.write_text(f"<!doctype html><title>safe</title>{HOSTILE}")
    browser = Browser()
    try:
        browser.open(control)
        assert browser.evaluate("document.title") == "OWNED"
        browser.open(page)
        assert browser.evaluate("document.title") not in ("", "OWNED")
        assert "</script>" in browser.evaluate("document.body.textContent")
    finally:
        browser.close()


def test_a_local_model_is_used_without_a_network(tmp_path):
    """A whole command in a process that may open no connection and look up no name."""
    rows = demo_paths().pairs.read_text().splitlines()[:2]
    (tmp_path / "p.jsonl").write_text("\n".join(rows) + "\n")
    command = [
        "ablate", "--model", str(demo_paths().model), "--pairs", str(tmp_path / "p.jsonl"), "--component", "mlps",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    code = (
        "import json, socket, sys\ndef closed(*_, **__): raise AssertionError('a "
        "connection was opened')\nsocket.socket.connect = socket.socket.connect_ex = "
        "socket.create_connection = socket.getaddrinfo = closed\nfrom experiments.cli "
        f"import main\nsys.exit(main(json.loads({json.dumps(json.dumps(command))})))\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "report.html").exists()
