"""Models whose weights are no numbers to compute with: one line that names the weight,
whatever fails because of it.
"""

from __future__ import annotations

import json
import shutil

import pytest
import tokenizers
import torch
import transformers as hf
from recorded import make
from safetensors.torch import load_file, save_file

from experiments import cli
from experiments.subject import SubjectError, load
from experiments.subject.soundness import blaming_model, fault_of


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Model name -> folder: a small model, and copies of it with other weights."""
    base = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        make.write_inputs()
        for name, change in CHANGES.items():
            shutil.copytree("small", name)
            weights = load_file("small/model.safetensors")
            save_file({k: change(w) for k, w in weights.items()}, f"{name}/model.safetensors", {"format": "pt"})  # fmt: skip
    return base


def with_first(weight, value):
    changed = weight.clone()
    changed.view(-1)[0] = value
    return changed


CHANGES = {
    "nan": lambda weight: with_first(weight, torch.nan),
    "inf": lambda weight: with_first(weight, torch.inf),
    "huge": lambda weight: weight * 1e30,
    "zero": lambda weight: weight * 0,
}
REASONS = {
    "nan": "embed_tokens.weight holds nan",
    "inf": "embed_tokens.weight holds inf",
    "huge": "e+",
    "zero": "all its weights are 0",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_fault_of_the_weights_is_named_and_a_sound_model_has_none(places, name):
    reason = fault_of(load(str(places / name)))
    assert reason is not None
    assert REASONS[name] in reason
    assert fault_of(load(str(places / "small"))) is None
    assert fault_of(None) is None


def test_a_bug_stays_a_bug_where_the_model_is_sound(places):
    sound, broken = load(str(places / "small")), load(str(places / "nan"))
    with pytest.raises(KeyError), blaming_model(lambda: sound):
        raise KeyError("effects")
    with pytest.raises(SubjectError, match=r"holds nan \(this ends in a KeyError\)"):
        with blaming_model(lambda: broken):
            raise KeyError("effects")
    with pytest.raises(SubjectError, match="no such word"), blaming_model(lambda: broken):
        raise SubjectError("no such word")  # a line of its own stays as it is


COMMANDS = (
    "attend --model {} --corpus test.conllu --limit 3 --show 1",
    "geometry --model {} --corpus test.conllu --property upos --method pca --sample 20",
    "lens --model {} --prompts prompts.jsonl --kind logit --circuits --head 1.2",
)


@pytest.mark.parametrize("name", ["nan", "huge", "zero"])
def test_no_command_ends_in_a_traceback(places, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(places)
    for line in COMMANDS:
        words = [*line.format(name).split(), "--force", "--quiet", "--device", "cpu"]
        status = cli.main([*words, "--out", str(tmp_path / words[0])])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert status in (0, 2)
        assert len(said.splitlines()) == (1 if status else 0)


def test_a_model_of_nan_is_still_told_to_look_backwards(places):
    assert load(str(places / "nan")).causal == load(str(places / "small")).causal


def test_a_tokenizer_that_cannot_read_a_word_is_one_line(places, tmp_path):
    """A word-level vocabulary whose unknown token is named and not there."""
    shutil.copytree(places / "small", tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    known = tokenizers.models.WordLevel(vocab={"the": 0, "dog": 1}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(known)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(tmp_path / "model")
    with pytest.raises(SubjectError, match=r"cannot read the text: .*Missing .UNK. token"):
        load(str(tmp_path / "model"), bos="never").encode(["the cat"])


def test_tokenizer_settings_of_the_wrong_type_are_one_line(places, tmp_path):
    shutil.copytree(places / "small", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": [8]}))
    with pytest.raises(SubjectError, match=r"cannot read the text: TypeError"):
        load(str(tmp_path / "model"), bos="never").encode(["the cat"])
