"""Head roles on repeated tokens, on heads that were written by hand."""

from __future__ import annotations

import induction
import numpy as np
import tiny
import torch
from naive import subject

from experiments.attention.repetition import repeated_tokens, repetition_scores
from experiments.subject import Subject


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


def test_special_tokens_stand_around() -> None:
    ids = repeated_tokens(subject("gpt2"), 5, 2)
    assert ids.shape == (2, 11)
    assert (ids[:, 0] == 1).all()
    assert not (ids[:, 1:] < 3).any()
