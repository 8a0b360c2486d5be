"""Sites put out inside the model, against edits made by hand; proposals of another model;
how far noise moves a gradient.
"""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest
import tiny
import torch
from fake_game import Fake
from torch import nn

from experiments.attribution import (
    Attribution,
    AttributionError,
    Game,
    Scorer,
    Target,
    ask,
    attribute,
)
from experiments.attribution.faithfulness import RADIUS, sensitivity
from experiments.studies.attribute.page import parts_table
from experiments.studies.attribute.records import MEASURED, MethodRecord
from experiments.subject import Subject
from hooks import Anatomy, capture, edits, intervene
from hooks.anatomy import Place

TEXT = "w5 w6 w7 w8 w9 w10"
TARGET = Target(" w20", measure="logit")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")


def logit(subject: Subject, changes: dict[str, Any] | None = None) -> float:
    """The target's logit with edits made by hand."""
    ids = torch.tensor([subject.encode([TEXT])[0].ids])
    with torch.no_grad():
        if not changes:
            return float(subject.model(ids).logits[0, -1, 20])
        with intervene(subject.model, changes):
            return float(subject.model(ids).logits[0, -1, 20])


# -- sites put out


def test_a_head_is_put_out_at_a_word_alone(subject: Subject) -> None:
    site = "blocks.1.attn.hook_z"
    found = attribute(subject, TEXT, target=TARGET, method="hidden-out", site=site)
    assert found.inner is not None
    assert found.inner.shape == (6, 4)
    whole = logit(subject)
    for word in (0, 5):
        expected = whole - logit(subject, {site: edits.zero().at(word + 1)})  # BOS stands in front
        assert found.scores[word] == pytest.approx(expected, abs=1e-5)
        expected = whole - logit(subject, {f"{site}[2]": edits.zero().at(word + 1)})
        assert found.inner[word, 2] == pytest.approx(expected, abs=1e-5)
    every = whole - logit(subject, {f"{site}[3]": edits.zero().at(slice(1, None))})
    assert found.more["whole"]["blocks.1.attn.hook_z[3]"] == pytest.approx(every, abs=1e-5)
    assert (
        np.abs(found.scores[:-1]).max() < 1e-6 < abs(found.scores[-1])
    )  # at the last block only the last position is read
    assert found.cost.forwards == 1 + 1 + 7 * 5


def record_of(found: Attribution) -> MethodRecord:
    """An attribution as a run writes it, without its measures."""
    measures: dict[str, Any] = {
        **dict.fromkeys(MEASURED, 0.0),
        "deleted": [],
        "inserted": [],
        "measured_by": "mask",
    }
    return MethodRecord(item=0, **found.to_json(), **measures, stability=None, sensitivity=None)


def test_the_page_has_a_column_for_each_head_and_a_row_for_all_at_once(subject: Subject) -> None:
    found = attribute(
        subject, TEXT, target=TARGET, method="hidden-out", site="blocks.1.attn.hook_z"
    )
    table = parts_table(record_of(found), 0)
    assert [column.name for column in table.columns] == ["unit", "0", "1", "2", "3"]
    assert [row[0].text for row in table.rows] == [*TEXT.split(), "all at once"]
    assert table.rows[-1][3].sort == found.more["whole"]["blocks.1.attn.hook_z[2]"]
    several = attribute(
        subject, TEXT, target=TARGET, method="hidden-out", site="blocks.*.hook_mlp_out"
    )
    assert parts_table(record_of(several), 0).columns[1].name == "blocks.0.hook_mlp_out"


def test_neurons_that_are_chosen_and_several_layers(subject: Subject) -> None:
    found = attribute(
        subject, TEXT, target=TARGET, method="hidden-out", site="blocks.0.mlp.hook_post[3,7]"
    )
    assert found.more["columns"] == ["blocks.0.mlp.hook_post[3]", "blocks.0.mlp.hook_post[7]"]
    expected = logit(subject) - logit(subject, {"blocks.0.mlp.hook_post[7]": edits.zero().at(3)})
    assert found.inner is not None
    assert found.inner[2, 1] == pytest.approx(expected, abs=1e-5)
    one = attribute(
        subject, TEXT, target=TARGET, method="hidden-out", site="blocks.0.mlp.hook_post[7]"
    )
    np.testing.assert_allclose(one.scores, found.inner[:, 1], atol=1e-5)
    deep = attribute(
        subject, TEXT, target=TARGET, method="hidden-out", site="blocks.*.hook_mlp_out"
    )
    assert deep.more["columns"] == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    both = {f"blocks.{i}.hook_mlp_out": edits.zero().at(6) for i in (0, 1)}
    assert deep.scores[5] == pytest.approx(logit(subject) - logit(subject, both), abs=1e-5)
    assert deep.inner is not None
    expected = logit(subject) - logit(subject, {"blocks.1.hook_mlp_out": edits.zero().at(6)})
    assert deep.inner[5, 1] == pytest.approx(expected, abs=1e-5)


def test_another_layers_value_takes_its_place(subject: Subject) -> None:
    site, ids = "blocks.1.hook_mlp_out", torch.tensor([subject.encode([TEXT])[0].ids])
    found = attribute(subject, TEXT, target=TARGET, method="hidden-out", site=site, value="layer:0")
    with torch.no_grad(), capture(subject.model, "blocks.0.hook_mlp_out") as acts:
        subject.model(ids)
    other = edits.patch(acts["blocks.0.hook_mlp_out"])
    assert found.scores[5] == pytest.approx(
        logit(subject) - logit(subject, {site: other.at(6)}), abs=1e-5
    )
    every = logit(subject) - logit(subject, {site: other.at(slice(1, None))})
    assert found.more["whole"]["all"] == pytest.approx(every, abs=1e-5)
    with pytest.warns(UserWarning, match="changed nothing"):
        assert logit(subject, {"blocks.0.hook_mlp_out": other}) == logit(subject)
    same = attribute(subject, TEXT, target=TARGET, method="hidden-out", site=site, value="layer:-1")
    np.testing.assert_allclose(same.scores, 0, atol=1e-6)


def test_a_mean_is_that_of_the_texts_own_words_or_of_the_reference_texts(subject: Subject) -> None:
    site = "blocks.1.hook_mlp_out"

    def values(text: str) -> torch.Tensor:
        """What the site holds at each word; a BOS stands in front."""
        ids = torch.tensor([subject.encode([text])[0].ids])
        with torch.no_grad(), capture(subject.model, site) as acts:
            subject.model(ids)
        return acts[site][0, 1:]

    others = ["w1 w2 w3", "w7 w8"]
    pooled = torch.cat([values(text) for text in others])
    for reference, mean in (((), values(TEXT).mean(0)), (others, pooled.mean(0))):
        found = attribute(
            subject, TEXT, target=TARGET, method="hidden-out", site=site, value="mean", reference=reference
        )  # fmt: skip
        replaced = logit(subject, {site: edits.constant(mean).at(6)})
        assert found.scores[5] == pytest.approx(logit(subject) - replaced, abs=1e-5)


def test_a_shuffled_layer_keeps_what_does_not_depend_on_order() -> None:
    """The planted model counts two words, wherever they are: all exchanged loses nothing,
    one replaced loses that word.
    """
    target = Target(" w50", measure="logit")
    more: dict[str, Any] = {
        "target": target,
        "method": "hidden-out",
        "site": "blocks.0.hook_resid_pre",
    }
    found = attribute(planted.subject(), planted.TEXT, value="shuffle", **more)
    zero = attribute(planted.subject(), planted.TEXT, **more)
    assert abs(found.more["whole"]["all"]) < 1e-4 * abs(zero.more["whole"]["all"])
    rest = [i for i in range(8) if i not in (1, 4)]
    assert found.scores[[1, 4]].min() > 1
    assert found.errors is not None
    assert found.scores[rest].max() < 1e-4  # at most a second one comes in, which only adds
    again = attribute(planted.subject(), planted.TEXT, value="shuffle", **more)
    assert np.array_equal(found.scores, again.scores)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "hidden-out is of a site: give one"),
        ({"site": "blocks.0.attn.hook_pattern"}, "expected a value of each position"),
        (
            {"site": "blocks.0.hook_mlp_out", "value": "noise"},
            "expected zero, mean, shuffle, layer:N",
        ),
        (
            {"site": "blocks.0.hook_mlp_out", "reference": ["w1 w2"]},
            "takes nothing from other texts",
        ),
        ({"site": "hook_embed", "value": "layer:0"}, "is in no block"),
    ],
)
def test_what_cannot_be_put_out_is_one_line(
    subject: Subject, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(AttributionError, match=said):
        attribute(subject, TEXT, target=TARGET, method="hidden-out", **more)


# -- proposals of another model


@pytest.fixture(scope="module")
def masked() -> Subject:
    """Whatever it is asked, its likeliest words are w30 to w41,
    and it has words that are no words of its own.
    """
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "w4"
    found = Subject(tiny.model("bert"), tokenizer)
    with torch.no_grad():
        head = found.model.get_output_embeddings()
        head.bias[30:42] = torch.arange(12) + 100.0
        head.bias[2] = 300.0  # a special token
    return found


def test_words_are_replaced_by_what_a_masked_model_proposes(
    subject: Subject, masked: Subject
) -> None:
    text = "w5 w41 w7"
    game = Game(Scorer(ask(subject, text, TARGET)), seed=0, draws=40, proposals=masked)
    assert game.removal == "propose"
    (part,) = game.question.parts
    drawn = {fill[2] for _, fills in game._plans for fill in fills}
    assert drawn == {(i,) for i in range(31, 41)}  # the ten likeliest that are not w41 itself
    runs, fills = game._plans[0]
    row = game._row(part, runs, fills[0], np.array([True, False, True]))
    assert (row.ids[1], row.ids[3]) == (part.ids[1], part.ids[3])
    assert row.ids[2] in range(31, 41)
    found = attribute(subject, text, target=TARGET, proposals=masked)
    assert found.more["removal"] == "propose"
    assert found.errors is not None
    assert found.errors.min() > 0


def test_a_span_gets_a_word_for_each_of_its_words(subject: Subject, masked: Subject) -> None:
    question = ask(subject, "w5 w6 w7", TARGET, "span", spans=[(0, 2), (3, 8)])
    game = Game(Scorer(question), draws=3, proposals=masked)
    fills = [fill[2] for fill in game._plans[0][1]]
    assert all(len(fill) == 2 and set(fill) <= set(range(32, 42)) for fill in fills)


def test_a_model_that_proposed_is_let_go_with_its_scorer(subject: Subject) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "w4"
    other = Subject(tiny.model("bert"), tokenizer, bos="always")
    game = Game(Scorer(ask(subject, TEXT, TARGET)), proposals=other)
    assert game.removal == "propose"
    kept = weakref.ref(other)
    del game, other
    gc.collect()
    assert kept() is None


def test_what_proposes_nothing_is_one_line(subject: Subject, masked: Subject) -> None:
    for more, said in (
        ({"proposals": subject}, "expected a masked language model"),
        ({"proposals": masked, "level": "token"}, "choose --level word or span"),
        ({"removal": "propose"}, "name one"),
    ):
        with pytest.raises(AttributionError, match=said):
            attribute(subject, TEXT, target=TARGET, **more)


# -- sensitivity


class Curved(nn.Module):
    """F = w.x + x'Ax / 2, x all embeddings in a row: its gradient is w + Ax."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wte = nn.Embedding(9, 3)
        root = torch.randn(12, 12, generator=generator)
        self.A, self.w = curvature * (root + root.T), torch.randn(12, generator=generator)

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids).flatten()
        return self.w @ x + x @ self.A @ x / 2


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_the_sensitivity_of_a_gradient_is_its_closed_form(curvature: float) -> None:
    model, ids = Curved(curvature), torch.tensor([[1, 2, 3, 4]])
    sys.modules["hooks.anatomy"]._CACHE[model] = Anatomy(
        {"hook_embed": Place("wte", "output")}, 0, 1, 1, "by hand"
    )
    parts = [SimpleNamespace(ids=(1, 2, 3, 4))]
    game = Fake(4, lambda mask: 0.0)
    game.question = SimpleNamespace(
        subject=SimpleNamespace(
            model=model, name="curved", device=torch.device("cpu"), has_decoder=False
        ),
        parts=parts,
    )

    def gradient() -> np.ndarray:
        with capture(model, "hook_embed", grad=True) as acts:
            model(ids).backward()
        return acts.grad["hook_embed"].flatten().numpy()

    found = sensitivity(game, gradient, draws=4, seed=5)
    if curvature == 0:
        assert found == 0
        return
    x, table = model.wte(ids).flatten().detach(), model.wte.weight.detach()
    clean = model.w + model.A @ x
    moves = [
        float(table.std())
        * RADIUS
        * torch.randn(4, 3, generator=torch.Generator().manual_seed(5 + i)).flatten()
        for i in range(4)
    ]
    expected = max(float((model.A @ r).norm() / clean.norm()) for r in moves)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found > 0.01
