"""What the documentation says is true: links and commands are checked, and its Python runs on a
tiny model.

A block marked ``python`` runs in a folder where ``openai-community/gpt2`` is a small random GPT-2
and the corpora are a few sentences of the demo's; the blocks of a page share their names. ``python
captum``, ``python transformer_lens``, ``python nnsight`` and ``python sklearn`` are another
library's side of a comparison and run where it is installed; ``python peer`` is one that is not run, ``python other``
needs something that is not here.
"""

from __future__ import annotations

import importlib.util
import linecache
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from experiments import capture
from experiments.demo import demo_paths
from experiments.subject import load
from hooks import ActivationStore

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
assert spec is not None
assert spec.loader is not None
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

PEERS = ("transformer_lens", "captum", "nnsight", "sklearn")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"])
WITH_CODE = [
    p for p in PAGES if any(i.strip() == "python" for i, _ in build.FENCE.findall(p.read_text()))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the pages speak of."""
    folder, paths = tmp_path_factory.mktemp("docs"), demo_paths()
    tokenizer = hf.AutoTokenizer.from_pretrained(paths.model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = hf.GPT2Config(
            n_layer=8, n_embd=48, n_head=6, n_inner=1100, n_positions=64, vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        hf.GPT2LMHeadModel(config).save_pretrained(folder / "openai-community" / "gpt2")
    tokenizer.save_pretrained(folder / "openai-community" / "gpt2")
    for split, source in (("train", paths.train), ("dev", paths.dev), ("test", paths.test)):
        text = "\n\n".join(source.read_text().split("\n\n")[:15]) + "\n\n"
        (folder / f"en_ewt-ud-{split}.conllu").write_text(text)
    model, words = folder / "openai-community" / "gpt2", folder / "en_ewt-ud-dev.conllu"
    capture(model=model, corpus=words, site="hook_resid_post", out=folder / "runs" / "gpt2-ewt")
    return folder


@pytest.fixture
def names(place, monkeypatch) -> dict:
    """What a reader is taken to have: a model, a batch, features and labels."""
    monkeypatch.chdir(place)
    tokenizer = hf.AutoTokenizer.from_pretrained("openai-community/gpt2")
    model = hf.AutoModelForCausalLM.from_pretrained("openai-community/gpt2").eval()
    rng = np.random.default_rng(0)
    rows = ActivationStore("runs/gpt2-ewt/store").n_rows
    X, y = rng.normal(size=(300, 48)), rng.choice(["Sing", "Plur"], 300)
    X[y == "Sing", 0] += 2
    ids = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids}
    return {
        "model": model, "tokenizer": tokenizer, "batch": batch, "batches": [batch, batch], "target": 7,
        "subject": load("openai-community/gpt2"), "texts": [("The old teachers near the "
        "house smile.")] * 3, "torch": torch,
        "X": X, "y": y, "y0": rng.permutation(y), "y1": rng.permutation(y), "X_test": X[::2], "number": y,
        "number_test": y[::2], "sentence_of_row": np.arange(300) // 6, "labels": rng.choice(["Sing", "Plur"], rows),
    }  # fmt: skip


def close(ours, theirs) -> bool:
    return np.allclose(torch.as_tensor(ours).detach(), torch.as_tensor(theirs).detach(), atol=1e-4)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page, names):
    for number, (info, code) in enumerate(build.FENCE.findall(page.read_text())):
        kind, _, peer = info.strip().partition(" ")
        if kind != "python" or (peer and not (peer in PEERS and importlib.util.find_spec(peer))):
            continue
        with warnings.catch_warnings():
            if peer:
                warnings.simplefilter("ignore")
            place = f"{page.name}, block {number + 1}"
            # nnsight reads the source of the block that it traces
            linecache.cache[place] = (len(code), None, code.splitlines(keepends=True), place)
            exec(compile(code, place, "exec"), names)
        if {"ours", "theirs"} <= names.keys():
            ours, theirs = names.pop("ours"), names.pop("theirs")
            assert len(ours) == len(theirs) > 0
            assert all(map(close, ours, theirs))
        names.pop("ours", None)  # of a comparison whose other side is not installed


def test_links_commands_and_options_are_true():
    assert list(build.problems()) == []


def test_the_checks_can_fail(tmp_path):
    page = tmp_path / "page.md"
    text = (
        "# A b\n[x](none.md) [y](#a-b) [z](#c) `[q](r.md)`\n```\nlayerscope probe --modle "
        "M\nlayerscope probe ... --x\n```\n"
    )
    page.write_text(text)
    assert [p.split(":")[0] for p in build.broken_links(page, text)] == [
        "link to none.md",
        "link to #c",
    ]
    from experiments.cli import make_parser

    assert len(list(build.wrong_commands(text, make_parser()))) == 1


def test_headings_are_named_as_github_names_them():
    assert build.anchors("# Many parts: `--estimate`\n## A\n## A\n## [B c](d)\n") == {
        "many-parts---estimate", "a", "a-1", "b-c",
    }  # fmt: skip
