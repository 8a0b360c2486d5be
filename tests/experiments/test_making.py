"""``layerscope make``: files that the commands read,
with answers that are one token of the model.
"""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerscope
from experiments import cli
from experiments.corpus.prompts import read_pairs, read_prompts
from experiments.demo import demo_paths
from experiments.making.options import DATASETS

MODEL = str(demo_paths().model)


def made(name, folder, *more):
    path = folder / f"{name}.jsonl"
    assert cli.main(["make", name, "--model", MODEL, "--out", str(path), *more]) == 0
    return path, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "questions"])
def test_a_seed_gives_a_file_again_and_never_overwrites(name, tmp_path, capsys):
    (tmp_path / "again").mkdir()
    path, rows = made(name, tmp_path, "--n", "8", "--seed", "3")
    again, _ = made(name, tmp_path / "again", "--n", "8", "--seed", "3")
    assert again.read_bytes() == path.read_bytes()
    assert 0 < len(rows) <= 8
    assert f"{len(rows)} items" in capsys.readouterr().out
    assert cli.main(["make", name, "--model", MODEL, "--out", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_answers_are_one_token_behind_their_prompt(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    path, _ = made("names", tmp_path, "--n", "10")
    for prompt in read_prompts(path):
        for answer in (prompt.answer, prompt.wrong):
            with_it, without = (
                tokenizer(text)["input_ids"] for text in (prompt.prompt + answer, prompt.prompt)
            )
            assert len(with_it) == len(without) + 1


def test_positions_of_indirect_objects_align(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    path, _ = made("ioi", tmp_path, "--n", "3", "--seed", "1")
    prompts = read_prompts(path)
    texts = [text for prompt in prompts for text in (prompt.prompt, prompt.corrupted)]
    assert len({len(tokenizer(text)["input_ids"]) for text in texts}) == 1
    for prompt in prompts:
        assert prompt.prompt.count(prompt.answer) == 1
        assert f"{prompt.corrupted} ".count(f"{prompt.answer} ") == 2


def test_pairs_differ_in_one_token_and_agree_as_they_say(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    path, rows = made("agreement", tmp_path, "--n", "30")
    for pair, row in zip(read_pairs(path), rows, strict=True):
        good, bad = (tokenizer(text)["input_ids"] for text in (pair.good, pair.bad))
        assert len(good) == len(bad)
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        noun, verb = pair.good.split()[1], pair.good.split()[-1]
        assert (noun == row["group"]) == (verb in ("is", "was", "has", "does"))
    assert {row["attractor"] for row in rows} == {"same number", "other number"}


def test_a_model_that_no_words_suit_is_one_line(tmp_path, capsys):
    """The embedded model's vocabulary has no names of continents, cities or colours."""
    path = tmp_path / "questions.jsonl"
    assert cli.main(["make", "questions", "--model", MODEL, "--out", str(path)]) == 2
    assert "no item of questions is suitable" in capsys.readouterr().err
    assert not path.exists()


def test_the_function_gives_the_records_of_the_command(tmp_path):
    """From a folder and from memory; the records are prompts that a study takes as they are."""
    _, rows = made("ioi", tmp_path, "--n", "2", "--seed", "2")
    assert layerscope.make_dataset("ioi", model=MODEL, n=2, seed=2) == rows
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    out = tmp_path / "written.jsonl"
    records = layerscope.make_dataset("ioi", model=(model, tokenizer), n=2, seed=2, out=out)
    assert records == rows
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == rows
    with pytest.raises(layerscope.LayerscopeError, match="exists already"):
        layerscope.make_dataset("ioi", model=MODEL, out=out)
    with pytest.raises(layerscope.LayerscopeError, match="no data set 'ioy': expected one of ioi"):
        layerscope.make_dataset("ioy", model=MODEL)
    with pytest.warns(UserWarning, match="the word lists give only"):
        assert layerscope.make_dataset("ioi", model=MODEL, n=4, seed=2) == rows
