"""Attribution of classifiers: labels that do not exclude each other, pairs of texts,
what the model answers, NaN.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import experiments
from experiments import cli
from experiments.attribution import METHODS, AttributionError, Target, ask, attribute
from experiments.attribution.predictions import predictions
from experiments.calibration.labelled import class_probabilities
from experiments.corpus.prompts import Prompt
from experiments.demo import demo_paths
from experiments.subject import Subject

TEXT, PAIR = "w5 w6 w7", "w8 w9"
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


def tokenizer() -> Any:
    """Words of one token, joined in pairs as BERT's are."""
    vocabulary = {
        **{token: i for i, token in enumerate(SPECIAL)},
        **{f"w{i}": i for i in range(4, 40)},
    }
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[MASK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=fast, **names, model_input_names=["input_ids", "token_type_ids"]
    )


def classifier(**more: Any) -> Subject:
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    labels = {
        "id2label": {0: "rude", 1: "loud", 2: "kind"},
        "label2id": {"rude": 0, "loud": 1, "kind": 2},
    }
    config = hf.BertConfig(
        **size, **labels, vocab_size=40, initializer_range=0.3, pad_token_id=0, **more
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.BertForSequenceClassification(config).eval()
    return Subject(model, tokenizer())


def logits(subject: Subject, ids: list[int], types: list[int]) -> torch.Tensor:
    """transformers' own answer to a row."""
    with torch.no_grad():
        rows = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        return subject.model(**rows).logits[0].double()


def test_the_probability_of_one_of_many_labels_is_its_own_sigmoid() -> None:
    many, one = classifier(problem_type="multi_label_classification"), classifier()
    row = tokenizer()(TEXT)["input_ids"]
    answer = logits(many, row, [0] * len(row))
    target = Target("loud", measure="log-probability")
    assert attribute(many, TEXT, target=target).value == pytest.approx(
        float(torch.nn.functional.logsigmoid(answer)[1]) / math.log(2), abs=1e-5
    )
    assert attribute(one, TEXT, target=target).value == pytest.approx(
        float(answer.log_softmax(-1)[1]) / math.log(2), abs=1e-5
    )
    found = {p.answer: p.probability for p in predictions(ask(many, TEXT))}
    expected = dict(zip(("rude", "loud", "kind"), answer.sigmoid().tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    found = predictions(ask(one, TEXT))
    assert [p.probability for p in found] == pytest.approx(
        sorted(answer.softmax(-1).tolist(), reverse=True), abs=1e-5
    )


def test_a_model_of_one_number_has_no_probability() -> None:
    single = classifier(num_labels=1)
    single.config.id2label = {0: "score"}
    assert predictions(ask(single, TEXT)) == []
    with pytest.raises(AttributionError, match="one number and no probabilities"):
        attribute(single, TEXT, target=Target("score", measure="log-probability"))


@pytest.mark.parametrize("removal", ["mask", "delete"])
def test_a_pair_is_given_with_its_token_types_whatever_is_removed(removal: str) -> None:
    subject = classifier()
    both = tokenizer()(TEXT, PAIR)
    ids, types = both["input_ids"], both["token_type_ids"]
    assert 1 in types
    whole = logits(subject, ids, types)[1]
    assert abs(whole - logits(subject, ids, [0] * len(ids))[1]) > 1e-3  # the types matter
    scores = attribute(subject, TEXT, target="loud", pair=PAIR, removal=removal)
    assert scores.units == ("w5", "w6", "w7", "w8", "w9")
    assert scores.text == f"{TEXT}\n{PAIR}"
    assert [scores.text[a:b] for a, b in scores.spans] == list(scores.units)
    assert scores.value == pytest.approx(float(whole), abs=1e-5)
    for unit, place in enumerate((1, 2, 3, 5, 6)):
        if removal == "mask":
            changed, its_types = [*ids[:place], 3, *ids[place + 1 :]], types
        else:
            changed, its_types = ids[:place] + ids[place + 1 :], types[:place] + types[place + 1 :]
        assert scores.scores[unit] == pytest.approx(
            float(whole - logits(subject, changed, its_types)[1]), abs=1e-5
        )


def test_gradients_of_a_pair_are_those_of_the_pair() -> None:
    subject = classifier()
    both = tokenizer()(TEXT, PAIR)
    embedded = (
        subject.model.get_input_embeddings()(torch.tensor([both["input_ids"]]))
        .detach()
        .requires_grad_()
    )
    out = subject.model(
        inputs_embeds=embedded, token_type_ids=torch.tensor([both["token_type_ids"]])
    ).logits[0, 1]
    (gradient,) = torch.autograd.grad(out, embedded)
    expected = (gradient * embedded).sum(-1)[0, [1, 2, 3, 5, 6]].tolist()
    found = attribute(subject, TEXT, target="loud", pair=PAIR, method="grad-input")
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_pairs_and_gold_labels_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = classifier()
    lines = [{"prompt": TEXT, "text_pair": PAIR, "label": "kind"}, {"prompt": "w9 w8"}]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    results = experiments.attribute(model=subject, prompts=path, null_draws=1, out=tmp_path / "run")
    both = tokenizer()(TEXT, PAIR)
    expected = logits(subject, both["input_ids"], both["token_type_ids"]).softmax(-1)
    first, second = results.raw["predictions"]
    assert first["answers"][0]["answer"] == ("rude", "loud", "kind")[int(expected.argmax())]
    assert first["answers"][0]["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
    assert (first["gold"], "gold" in second) == ("kind", False)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "The gold label is &#39;kind&#39;" in page
    command = [
        "attribute",
        "--model",
        str(demo_paths().model),
        "--text",
        "The dog",
        "--out",
        str(tmp_path / "x"),
    ]
    assert cli.main([*command, "--text-pair", "The cat"]) == 2
    assert "a second text is for classifiers of pairs" in capsys.readouterr().err
    assert cli.main([*command, "--text-pair", "a", "--text-pair", "b"]) == 2
    assert "expected a --text-pair for each of 1 --text, got 2" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["leave-one-out", "grad-input", "ig"])
def test_a_token_whose_embedding_is_nan_is_one_line(method: str) -> None:
    subject = classifier()
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[6] = float("nan")
    with pytest.raises(AttributionError, match="gives NaN or infinity for 'w5 w6 w7'"):
        attribute(subject, TEXT, method=method)
    with pytest.raises(AttributionError, match="NaN or infinity"):
        attribute(subject, TEXT, target="loud", method=method)


def test_the_table_of_methods_is_the_help_and_says_what_is_drawn() -> None:
    """A method draws where two seeds give two results with settings that draw nothing else."""
    options = next(action for action in cli.make_parser()._subparsers._group_actions[0].choices["attribute"]._actions
                   if action.dest == "method")  # fmt: skip
    names = ", ".join(METHODS)
    assert f"method: {names} (" in str(options.help)
    subject = classifier()
    for name, method in METHODS.items():
        if method.module not in (
            "surrogates",
            "shapley",
            "leverage",
            "perturbation",
        ) and name not in (
            "saliency",
            "smoothgrad",
        ):
            continue
        samples = {"kernel-shap": 12, "leverage-shap": 12, "permutation-shap": 2}.get(name, 20)
        text = "w5 w6 w7 w8 w9 w10" if name in ("kernel-shap", "leverage-shap") else TEXT
        scores = [
            attribute(subject, text, method=name, seed=seed, samples=samples).scores
            for seed in (0, 1, 2)
        ]
        differs = any(np.abs(scores[0] - other).max() > 1e-9 for other in scores[1:])
        assert differs == method.draws, name


def test_probabilities_of_pairs_are_those_of_their_token_types() -> None:
    one = classifier()
    both = tokenizer()(TEXT, PAIR)
    expected = logits(one, both["input_ids"], both["token_type_ids"]).softmax(0)
    (found,) = class_probabilities(one, [Prompt(TEXT, "", pair=PAIR)], 100)
    np.testing.assert_allclose(found, expected, atol=1e-6)
