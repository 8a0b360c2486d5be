"""A language model of any make, as a function from ids to logits, attributed;
against changes made by hand.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerscope.experiments.attribution import AttributionError, attribute
from layerscope.experiments.subject import SubjectError
from layerscope.experiments.subject.own_model import of_function
from torch import nn

VOCABULARY = {
    word: i for i, word in enumerate(("<s>", "<unk>", "the", "old", "dog", "cats", "see"))
}
TEXT = "the old dog the cats"


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), 8)
        self.cells = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, len(VOCABULARY))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.words(ids))[0])


@pytest.fixture(scope="module")
def lstm() -> Lstm:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Lstm().eval()


def log2p(lstm: Lstm, words: list[str]) -> float:
    ids = torch.tensor([[0, *(VOCABULARY[word] for word in words)]])
    with torch.no_grad():
        logits = lstm(ids)[0, -1].log_softmax(-1)
    return float(logits[VOCABULARY["see"]] / np.log(2))


def test_words_of_a_function_by_hand(lstm: Lstm) -> None:
    subject = of_function(lambda ids: lstm(ids), VOCABULARY, bos="<s>")
    assert subject.causal
    words = TEXT.split()
    without = [log2p(lstm, words[:i] + words[i + 1 :]) for i in range(len(words))]
    found = attribute(subject, TEXT, target=" see", removal="delete")
    np.testing.assert_allclose(found.scores, log2p(lstm, words) - np.array(without), atol=1e-5)
    with pytest.raises(AttributionError, match="embedding"):
        attribute(subject, TEXT, target=" see", removal="mean")


def test_gradients_of_a_module_by_hand(lstm: Lstm) -> None:
    subject = of_function(lstm, VOCABULARY, embedding="words", bos="<s>")
    ids = torch.tensor([[0, *(VOCABULARY[word] for word in TEXT.split())]])
    x = lstm.words(ids).detach().requires_grad_()
    logits = lstm.head(lstm.cells(x)[0])[0, -1].log_softmax(-1)
    (logits[VOCABULARY["see"]] / np.log(2)).backward()
    lstm.zero_grad()
    found = attribute(subject, TEXT, target=" see", method="grad-input")
    np.testing.assert_allclose(found.scores, (x * x.grad).sum(-1)[0, 1:].detach(), atol=1e-5)
    path = attribute(subject, TEXT, target=" see", method="ig")
    assert path.scores.sum() == pytest.approx(path.value - path.baseline, rel=0.01)


def test_what_does_not_fit_is_one_line(lstm: Lstm) -> None:
    with pytest.raises(SubjectError, match="embedding layer"):
        of_function(lstm, VOCABULARY, embedding="nothing")
    with pytest.raises(SubjectError, match="batch pos vocab"):
        of_function(lambda ids: lstm(ids)[:, -1], VOCABULARY)
    with pytest.raises(SubjectError, match="<unk>"):
        of_function(lstm, {"the": 0})
