"""The swap test: words are swapped as written, effects are those of transformers' own forward,
a planted bias is found.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import experiments
from experiments import cli
from experiments.demo import demo_paths
from experiments.studies.swap.built_in import LISTS
from experiments.studies.swap.word_lists import WordList, random_swap

SOME_WORDS = "in the garden near an old house with his her him man woman clerk nurse saw says reads"
PLACES = SOME_WORDS.split()
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "he", "she", "him", "the", *PLACES]
VOCABULARY = list(dict.fromkeys(VOCABULARY))


def tokenizer() -> Any:
    fast = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=fast, **names)


def classifier(folder: Path, biased: bool) -> Path:
    """A random BERT: near to linear, so that a pronoun moves every text alike,
    or with one embedding for both pronouns.
    """
    config = hf.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.05 if biased else 0.3,
        id2label={0: "clerk", 1: "boss"},
        label2id={"clerk": 0, "boss": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = hf.BertForSequenceClassification(config).eval()
    if not biased:
        with torch.no_grad():
            weight = model.bert.embeddings.word_embeddings.weight
            weight[VOCABULARY.index("she")] = weight[VOCABULARY.index("he")]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def texts(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(24):
        words = rng.choice(PLACES[:9], 4, replace=False)
        lines.append({"text": f"{('He', 'She')[i % 2]} reads {' '.join(words)} .", "label": "boss"})
    lines.append({"text": "He sees she .", "label": "clerk"})
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@functools.cache
def loaded(folder: Path) -> Any:
    return hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()


def log_odds(folder: Path, text: str) -> float:
    model = loaded(folder)
    with torch.no_grad():
        clerk, boss = model(**tokenizer()(text, return_tensors="pt")).logits[0].double().tolist()
    return (boss - clerk) / np.log(2)


def test_the_effect_is_that_of_the_changed_texts(tmp_path: Path) -> None:
    model, file = classifier(tmp_path / "model", biased=True), texts(tmp_path)
    found = experiments.swap(
        model=model, labelled=file, swap="he:she", null_draws=2, out=tmp_path / "run"
    )
    lines = [json.loads(line)["text"] for line in file.read_text().splitlines()][:24]
    expected = []
    for text in lines:
        as_he, as_she = text.replace("She", "He"), text.replace("He ", "She ")
        expected.append(log_odds(model, as_she) - log_odds(model, as_he))
    swap = next(record for record in found.records if record["kind"] == "swap")
    assert swap["n"] == 24
    assert swap["effect"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert swap["size"] == pytest.approx(np.abs(expected).mean(), abs=1e-5)
    assert swap["p_holm"] < 0.01
    assert "1 texts left out because they contain words of both sides" in json.dumps(found.notes)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Texts with the largest change" in page


def test_no_bias_is_no_effect_beyond_random_swaps(tmp_path: Path) -> None:
    model, file = classifier(tmp_path / "model", biased=False), texts(tmp_path)
    found = experiments.swap(model=model, labelled=file, swap="he:she", out=tmp_path / "run")
    swap, random = found.records
    assert random["kind"] == "random"
    assert swap["effect"] == pytest.approx(0, abs=1e-6)
    assert swap["flips"] == 0
    assert random["size"] > 0.1
    assert swap["beyond_interval"]["high"] < 0


def test_words_are_swapped_as_they_are_written() -> None:
    pronouns, names = (WordList(name, LISTS[name]) for name in ("pronouns", "names"))
    changed = {
        "He said HE lost his hat .": "She said SHE lost her hat .",
        "She saw her dog and fed her .": "He saw his dog and fed him .",
        "Herself !": "Himself !",
        "He met her .": None,
        "The others left .": None,
    }
    for text, expected in changed.items():
        change = pronouns.change(text)
        assert (None if change is None else change.text) == expected
    change = names.change("John gave John's book away .")
    assert change is not None
    assert change.text == "Patricia gave John's book away ."
    rng = np.random.default_rng(0)
    assert "John" not in (names.of_same_side("John left .", names.change("John left ."), rng) or "")  # type: ignore[arg-type]
    other = random_swap("John left .", names.change("John left ."), ["stone"], rng)  # type: ignore[arg-type]
    assert other == "John stone ."


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--labelled {file} --swap he", "--swap he: expected two words with a colon between"),
        ("--labelled {file} --swap he:he", "expected two words that differ"),
        ("--labelled {file} --list names", ("names: no text contains words of "
        "exactly one side of the list")),
        ("--labelled {file} --positive judge", "--positive judge: expected one of clerk, boss"),
        ("--text x --metric kl", "metric kl: expected one of --labelled texts or --prompts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    options: str, expected: str, tmp_path: Path, capsys: Any
) -> None:
    model = classifier(tmp_path / "model", biased=True)
    line = f"swap --model {model} {options.format(file=texts(tmp_path))} --out {tmp_path / 'run'}"
    assert cli.main(line.split()) == 2
    assert expected in capsys.readouterr().err


def test_two_lists_of_one_name_are_refused(tmp_path: Path, capsys: Any) -> None:
    model, words = classifier(tmp_path / "model", biased=True), tmp_path / "pronouns.jsonl"
    words.write_text(json.dumps({"a": "nurse", "b": "clerk"}), encoding="utf-8")
    line = f"swap --model {model} --labelled {texts(tmp_path)} --out {tmp_path / 'run'}"
    assert cli.main([*line.split(), "--list", "pronouns", "--words", str(words)]) == 2
    assert "two lists are called pronouns: expected another name" in capsys.readouterr().err


def test_a_language_model_is_measured_on_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": f"The {noun} near the garden", "answer": " answer", "wrong": " answers"}
        for noun in ("guard", "guards", "teacher", "teachers")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = experiments.swap(
        model=demo_paths().model,
        prompts=path,
        swap=["guard:guards", "teacher:teachers"],
        out=tmp_path / "run",
    )
    # the plural subject asks for the verb without s
    assert found.records[0]["effect"] > 2
