"""Head roles on heads that were written by hand, and on patterns that are put in a head's place."""

from __future__ import annotations

import base64
from pathlib import Path

import induction
import numpy as np
import pytest
import tiny
import torch
from naive import subject
from torch import Tensor

from experiments.corpus import read_conllu
from experiments.roles import OFFSETS, repeated_tokens, repetition_scores, sentence_roles, text_patterns
from experiments.subject import Subject
from hooks import edits, intervene

SENTENCES = """# text = w3 w4 w5 w6
1	w3	_	X	_	_	2	det	_	_
2	w4	_	X	_	_	0	root	_	_
3	w5	_	X	_	_	4	det	_	_
4	w6	_	X	_	_	2	obj	_	_

# text = w7 w8 w9 w10 w11
1	w7	_	X	_	_	3	obj	_	_
2	w8	_	X	_	_	3	det	_	_
3	w9	_	X	_	_	0	root	_	_
4	w10	_	X	_	_	3	det	_	_
5	w11	_	X	_	_	1	det	_	_
"""


def test_the_induction_model_has_its_two_heads() -> None:
    one = Subject(induction.model(), tiny.tokenizer(), bos="never")
    vocabulary = range(induction.FIRST, induction.FIRST + induction.TOKENS)
    ids = repeated_tokens(one, 8, 3, vocabulary=vocabulary)
    assert ids.shape == (3, 16)
    assert torch.equal(ids[:, :8], ids[:, 8:])
    scores = repetition_scores(one, length=6, texts=40, vocabulary=vocabulary)
    previous, copying = scores["previous"], scores["induction"]
    assert previous[induction.PREVIOUS] > 0.95
    # A token can stand twice among six: then the head looks at both places that it followed.
    assert copying[induction.INDUCTION] > 0.6
    for name, own in (("previous", induction.PREVIOUS), ("induction", induction.INDUCTION)):
        others = np.delete(scores[name].flatten(), own[0] * induction.HEADS + own[1])
        assert others.max() < 0.4


def test_special_tokens_stand_around(tmp_path: Path) -> None:
    ids = repeated_tokens(subject("gpt2"), 5, 2)
    assert ids.shape == (2, 11)
    assert (ids[:, 0] == 1).all()
    assert not (ids[:, 1:] < 3).any()


def looks(targets: list[list[int]]) -> edits.Edit:
    """A pattern in which token i of text t looks at token targets[t][i] alone, where one is named."""

    def apply(pattern: Tensor) -> Tensor:
        out = pattern.clone()
        for text, row in enumerate(targets):
            for query, key in enumerate(row):
                if key >= 0:
                    out[text, ..., query, :] = 0
                    out[text, ..., query, key] = 1
        return out

    return edits.function(apply)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_heads_that_look_at_governors_and_at_fixed_places_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.conllu").write_text(SENTENCES, encoding="utf-8")
    sentences = list(read_conllu(tmp_path / "s.conllu"))
    one = subject(name)
    lead = 1 if one.encode(["w3"])[0].special[0] else 0
    longest = max(len(s.words) for s in sentences)
    order = sorted(range(2), key=lambda i: -len(sentences[i].words))
    batch = next(one.batches(one.encode([s.text for s in sentences])))
    governors, previous = [], []
    for row in batch.rows:
        words = sentences[row].words
        blank = [-1] * (longest - len(words) + 3)
        governors.append([-1] * lead + [w.head - 1 + lead if w.head else -1 for w in words] + blank)
        previous.append([-1] * lead + [max(i - 1 + lead, 0) for i in range(len(words))] + blank)
    assert sorted(batch.rows) == sorted(order)
    sites = {"blocks.1.attn.hook_pattern[2]": looks(governors), "blocks.0.attn.hook_pattern[3]": looks(previous)}
    with intervene(one.model, sites):
        found = sentence_roles(one, sentences, least=1)
    det = next(r for r in found.relations if (r.relation, r.direction) == ("det", "to governor"))
    assert (det.layer, det.head) == (1, 2)
    assert det.score == 1
    # Dependents whose governor is visible: in a causal model only those that stand after it.
    expected = [-1, -4] if name == "gpt2" else [1, 1, 1, -1, -4]
    assert det.n == len(expected)
    best = max(OFFSETS, key=lambda offset: expected.count(offset))
    assert det.baseline == pytest.approx(expected.count(best) / len(expected))
    assert det.offset == best
    assert det.gain == pytest.approx(1 - det.baseline)
    assert found.offset[0, 3] == -1
    # The first word has no previous one; a causal model's is not counted.
    assert found.positional[0, 3] >= (1 if name == "gpt2" else 7 / 9) - 1e-9
    assert found.positional.max() == found.positional[0, 3]


def test_the_patterns_of_a_report_are_the_model_s() -> None:
    one = subject("llama")
    texts = one.encode(["w3 w4 w5 w6 w7", "w3 w9"])
    found = text_patterns(one, texts)
    assert found is not None
    n = len(texts[1])
    weights = np.frombuffer(base64.b64decode(found["weights"]), np.uint8).reshape(2, found["heads"], n, n) / 255
    assert (len(found["tokens"]), found["layers"]) == (n, [0, 1])
    model = one.model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(torch.tensor([texts[1].ids]), output_attentions=True).attentions
    np.testing.assert_allclose(weights, torch.stack(attentions)[:, 0].numpy(), atol=0.5 / 255 + 1e-6)
    assert text_patterns(one, texts, most=10) is None
