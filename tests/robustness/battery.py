"""Every command with hostile options and files, through ``main([...])``: success, or one line and a status that is neither 0
nor that of a bug.

    python tests/robustness/battery.py --cases 20000 [--seed 0]     # by hand; prints the counts and every case that failed

A case is a command line of a seed; what it runs is the plan (``--dry-run``): options, files, model and sites are read as in
a run, and nothing is computed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

LONGEST = 500
"""Characters of a message."""
SECONDS = 30.0
"""Bound of one case."""

STRANGE = (
    "", " ", "-1", "0", "1", "3", "nan", "inf", "-inf", "1e999", "9" * 310, "-" + "9" * 310, "0x10", "1_000", "１２", "½",
    "true", "None", "[]", "{}", "../..", "/", "/dev/null", "/nonexistent/x", ".", "~", "a\x00b", "\ud800", "é", "e\u0301",
    "😀" * 50, "x" * 5000, "'; drop", "<script>", "%s", "{0}", "\\", "\n", "2GB", "-3GB", "1e999GB", "blocks.*.hook_z",
    "hook_resid_post[0]", "module:x:output", "blocks.99.hook_resid_post", "upos", "feats:", "misc:x", "all",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 5, 1.5, 1e308, 10**400, "", " ", "a", "\ud800", "\x00", "e\u0301", "x" * 10_000, [], {}, [[]],
    ["a"], ["a", "a"], [1, 2], {"a": 1}, [[[[]]]], "NaN",
)  # fmt: skip
FIELDS = (
    "prompt", "answer", "wrong", "corrupted", "group", "sentence_good", "sentence_bad", "question", "choices", "probabilities",
    "logits", "label", "text", "sentences", "validation", "positions",
)  # fmt: skip


class Files:
    """Seed files and their mutations, in a folder of their own.

    Args:
        folder: where they are written.
        paths: the demo's files.
    """

    def __init__(self, folder: Path, paths: Any) -> None:
        self.folder, self.number = folder, 0
        rows = {
            "prompts": [
                {
                    "prompt": "The old dog",
                    "answer": " barks",
                    "wrong": " bark",
                    "corrupted": "The old dogs",
                }
            ]
            * 4,
            "pairs": [json.loads(line) for line in paths.pairs.read_text().splitlines()[:4]],
            "questions": [
                {"question": f"Is {i} even?", "choices": ["yes", "no"], "answer": i % 2}
                for i in range(16)
            ],
            "predictions": [
                {"probabilities": [0.2 + i / 50, 0.8 - i / 50], "label": i % 2} for i in range(16)
            ],
        }
        self.rows: dict[str, list[dict[str, Any]]] = rows
        self.corpus = "\n\n".join(paths.dev.read_text(encoding="utf-8").split("\n\n")[:12]) + "\n\n"

    def write(self, data: bytes, suffix: str) -> Path:
        """A new file."""
        self.number += 1
        path = self.folder / f"file-{self.number}{suffix}"
        path.write_bytes(data)
        return path

    def rows_of(self, kind: str, rng: random.Random) -> Path:
        """A JSONL file, perhaps mutated."""
        rows = [dict(row) for row in self.rows[kind]]
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            row = rng.choice(rows)
            name = rng.choice([*row, *FIELDS]) if rng.random() < 0.7 else rng.choice(FIELDS)
            if rng.random() < 0.25:
                row.pop(name, None)
            else:
                row[name] = rng.choice(VALUES)
        text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows) + "\n"
        return self.write(
            damaged(text.encode("utf-8", "surrogatepass"), rng),
            rng.choice((".jsonl", ".jsonl", ".csv", ".tsv", ".json")),
        )

    def corpus_of(self, rng: random.Random) -> Path:
        """A CoNLL-U file, perhaps mutated."""
        lines = self.corpus.split("\n")
        for _ in range(rng.choice((0, 1, 1, 3))):
            at = rng.randrange(len(lines))
            cells = lines[at].split("\t")
            cells[rng.randrange(len(cells))] = rng.choice(
                ("", "_", "0", "-1", "99", "1-2", "1.1", "a=b|c", "x\ud800", "\x00", "9" * 30)
            )
            lines[at] = rng.choice(
                (
                    "\t".join(cells),
                    "",
                    "# text = x",
                    "# global.columns = ID FORM",
                    lines[at] + "\t_",
                )
            )
        return self.write(
            damaged("\n".join(lines).encode("utf-8", "surrogatepass"), rng),
            rng.choice((".conllu", ".conllu", ".txt")),
        )


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes, mostly as they are: cut, doubled, with a byte changed, with another end of line, with a mark in the middle."""
    way = rng.random()
    if way < 0.7 or not data:
        return data
    at = rng.randrange(len(data))
    if way < 0.75:
        return data[:at]
    if way < 0.8:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if way < 0.85:
        return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
    if way < 0.9:
        return data[:at] + b"\xef\xbb\xbf" + data[at:]
    if way < 0.95:
        return data + b"[" * 3000
    return b""


def case(number: int, seed: int, files: Files, studies: Any, model: str) -> list[str]:
    """The command line of a number."""
    rng = random.Random(f"{seed}-{number}")
    name = rng.choice(list(studies))
    fields = {item.name: item for item in dataclasses.fields(studies[name].options)}
    words = [name]
    needed = [item for item in fields.values() if item.default is dataclasses.MISSING]
    chosen = {item.name for item in needed if rng.random() < 0.95}
    sources = [
        n
        for n in ("prompts", "pairs", "questions", "predictions", "text", "clean", "corpus")
        if n in fields
    ]
    if sources:
        chosen |= {rng.choice(sources)}
    chosen |= set(rng.sample(list(fields), min(len(fields), rng.choice((0, 1, 1, 2, 3)))))
    for option in sorted(
        chosen - {"out", "force", "trust_remote_code", "engine", "address", "workers"}
    ):
        words += _option(option, fields[option], rng, files, model)
    return [*words, "--out", str(files.folder / f"out-{number}"), "--dry-run", "--quiet"]


def _option(name: str, item: Any, rng: random.Random, files: Files, model: str) -> list[str]:
    """One option with a sound value or a strange one."""
    flag = "--" + name.replace("_", "-")
    if "bool" in str(item.type):
        return [flag]
    if rng.random() < 0.35 and name != "model":
        return [f"{flag}={rng.choice(STRANGE)}"]
    if name == "model":
        return [flag, model if rng.random() < 0.97 else rng.choice(STRANGE)]
    if name in ("prompts", "clean", "reference", "corrupted", "known"):
        return [flag, str(files.rows_of("prompts", rng))]
    if name in files.rows:
        return [flag, str(files.rows_of(name, rng))]
    if name in ("corpus", "dev", "test"):
        return [flag, str(files.corpus_of(rng))]
    if item.metadata.get("choices"):
        return [flag, rng.choice(item.metadata["choices"])]
    if "Path" in str(item.type):
        return [flag, str(files.rows_of(rng.choice(list(files.rows)), rng))]
    known = {
        "property": "upos",
        "site": "hook_resid_post",
        "metric": "loss",
        "text": "The old dog",
        "target": " barks",
    }
    if name in known:
        return [flag, known[name]]
    if "int" in str(item.type) or "float" in str(item.type):
        return [flag, rng.choice(("1", "2", "4", "0"))]
    return [flag, rng.choice(STRANGE)]


@dataclasses.dataclass
class Outcome:
    """What became of a case: its status, what it printed to standard error, and what is wrong with it, if anything."""

    words: list[str]
    status: int
    message: str
    wrong: str


def run(words: list[str]) -> Outcome:
    """One case."""
    from layerscope.experiments.cli import BUG, main

    said, start = io.StringIO(), time.perf_counter()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            status = main(words)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        except BaseException as error:  # whatever gets out is a failure of the case
            return Outcome(words, -1, repr(error)[:300], "an exception got out")
    message = said.getvalue()
    lines = [line for line in message.splitlines() if line.startswith("layerscope")]
    wrong = ""
    if status == BUG or "Traceback" in message:
        wrong = "a traceback"
    elif status and len(lines) != 1 and "usage:" not in message:
        wrong = f"{len(lines)} lines"
    elif status and lines and len(lines[0]) > LONGEST:
        wrong = f"a message of {len(lines[0])} characters"
    elif time.perf_counter() - start > SECONDS:
        wrong = f"{time.perf_counter() - start:.0f} s"
    return Outcome(words, status, message[-600:], wrong)


@contextlib.contextmanager
def one_model(path: Path):
    """The demo model, loaded once for all cases."""
    from layerscope.experiments.runs import execute
    from layerscope.experiments.subject import load

    known = load(path)
    before = execute.load_subject

    def load_subject(options: Any, **more: Any) -> Any:
        return known if str(options.model) == str(path) else before(options, **more)

    execute.load_subject = load_subject
    try:
        yield
    finally:
        execute.load_subject = before


def battery(cases: int, seed: int) -> tuple[Counter[str], list[Outcome]]:
    """Run so many cases; returns counts by command and status, and what failed."""
    from layerscope.experiments.demo import demo_paths
    from layerscope.experiments.studies import STUDIES

    paths, counts, failed = demo_paths(), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder, one_model(paths.model):
        files = Files(Path(folder), paths)
        for number in range(cases):
            words = case(number, seed, files, STUDIES, str(paths.model))
            outcome = run(words)
            counts[f"status {outcome.status}"] += 1
            if outcome.wrong:
                failed.append(outcome)
            for old in Path(folder).iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return counts, failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    torch.set_num_threads(1)
    found, wrong = battery(given.cases, given.seed)
    for one in wrong[:200]:
        print(
            f"{one.wrong}: {' '.join(repr(w)[:60] for w in one.words)}\n    {one.message[-400:]}\n"
        )
    print(f"{given.cases:,} cases: {dict(found)}; {len(wrong)} failed")
    sys.exit(bool(wrong))
