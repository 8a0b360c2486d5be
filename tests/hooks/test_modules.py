"""Any module by its paths: a text classifier of convolutions, whose filters are known."""

from __future__ import annotations

import torch
from torch import nn

from hooks import capture, intervene, verify


class Classifier(nn.Module):
    """Embedding, convolution over time, ReLU, maximum over time, two classes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 12)
        self.filters = nn.Conv1d(12, 3, kernel_size=2)
        self.head = nn.Linear(3, 2)

    def forward(self, ids):
        seen = self.filters(self.embed(ids).transpose(1, 2)).relu()
        return self.head(seen.amax(-1))


def by_hand():
    """Filter 0 answers the word 5 after the word 4, filter 1 the word 7, filter 2 nothing;
    class 1 is filter 0.
    """
    model = Classifier().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.weight.copy_(torch.eye(12))
        model.filters.weight[0, 4, 0] = model.filters.weight[0, 5, 1] = 1.0
        model.filters.bias[0] = -1.0
        model.filters.weight[1, 7, 0] = 1.0
        model.head.weight[1, 0] = model.head.weight[0, 1] = 2.0
    return model


def test_a_classifier_of_convolutions_is_read_edited_and_attributed():
    model, ids = by_hand(), torch.tensor([[1, 4, 5, 2], [1, 7, 5, 4]])
    with torch.no_grad(), capture(model, "module:filters:output") as acts:
        clean = model(ids)
    assert acts["module:filters:output"][:, 0].argmax(-1).tolist() == [1, 1]
    assert acts["module:filters:output"][0, 0].tolist() == [-1, 1, -1]
    assert clean.tolist() == [[0, 2], [2, 0]]

    def off(value):
        value = value.clone()
        value[:, 0] = 0
        return value

    with torch.no_grad(), intervene(model, {"module:filters:output": off}):
        assert model(ids).tolist() == [[0, 0], [2, 0]]
    with capture(model, "module:embed:output", grad=True) as acts:
        model(ids)[0, 1].backward()
        given = (acts["module:embed:output"] * acts.grad["module:embed:output"]).sum(-1)
    assert given.tolist() == [[0, 2, 2, 0], [0, 0, 0, 0]]


def test_the_doctor_examines_it():
    torch.manual_seed(0)
    verdict = verify(
        Classifier().eval(),
        {"ids": torch.arange(12).view(3, 4)},
        sites=["module:filters:output", "module:head:input"],
    )
    assert not verdict.wrong
    assert {f.site for f in verdict.of("gradients")} == {
        "module:filters:output",
        "module:head:input",
    }
    assert all(f.status == "OK" for f in verdict.of("edits"))
