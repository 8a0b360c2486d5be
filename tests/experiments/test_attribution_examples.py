"""Paths between words, word flips and nearest texts, on models whose answer is known."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import tiny
import torch

from experiments.attribution import AttributionError, Scorer, Target, ask, attribute
from experiments.attribution.discretised import word_path
from experiments.attribution.examples import flip, nearest
from experiments.subject import Subject
from hooks import capture

TEXT = "w5 w6 w7 w8 w9 w10"


def test_a_path_between_words_is_monotone_and_near_them() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(400, 6, generator=generator)
    start, end = table[3], table[200]
    path = word_path(start, end, table, 10)
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)
    assert path.shape == (11, 6)
    assert (path.diff(dim=0) * (end - start) >= -1e-6).all()  # every coordinate goes one way
    straight = start + torch.linspace(0, 1, 11)[:, None] * (end - start)

    def away(points: torch.Tensor) -> float:
        return float(torch.cdist(points[1:-1], table).min(1).values.mean())

    assert away(path) < 0.7 * away(straight)


def test_the_discretised_path_says_how_far_it_is_from_complete() -> None:
    subject = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="always")
    target = Target(" w20", measure="logit")
    dig = attribute(subject, TEXT, target=target, method="dig", steps=60, baseline="pad")
    assert dig.more["gap"] == pytest.approx(dig.scores.sum() - (dig.value - dig.baseline), abs=1e-4)
    assert (dig.notes[-1].kind == "warning") == (
        abs(dig.more["gap"]) > 0.01 * abs(dig.value - dig.baseline)
    )
    ig = attribute(subject, TEXT, target=target, method="ig", baseline="pad")
    assert dig.baseline == pytest.approx(ig.baseline, abs=1e-5)
    assert np.corrcoef(dig.scores, ig.scores)[0, 1] > 0.5


def test_flipping_one_of_the_two_words_is_enough() -> None:
    subject = planted.subject()
    question = ask(subject, planted.TEXT, Target(" w50", " w60", measure="logit"))
    found = flip(Scorer(question), most=3)
    assert not found.flipped  # w60's logit is 0, and the answer's never below it
    assert {text for _, text, _ in found.changes} <= {"w40", "w41"}
    assert found.values[1] < 0.4 * found.values[0]
    assert found.values == tuple(sorted(found.values, reverse=True))


def test_a_flip_is_what_the_model_says_of_the_changed_text() -> None:
    subject = Subject(tiny.model("llama"), tiny.tokenizer(), bos="always")
    found = flip(Scorer(ask(subject, TEXT)))
    words = TEXT.split()
    for unit, before, after in found.changes:
        assert words[unit] == before
        words[unit] = after
    with torch.no_grad():
        logits = subject.model(torch.tensor([subject.encode([" ".join(words)])[0].ids])).logits[
            0, -1
        ]
        clean = subject.model(torch.tensor([subject.encode([TEXT])[0].ids])).logits[0, -1]
    answer = int(clean.argmax())
    assert found.values[0] == pytest.approx(float(clean[answer] - clean[found.other]), abs=1e-4)
    assert found.values[-1] == pytest.approx(float(logits[answer] - logits[found.other]), abs=1e-4)
    assert found.flipped == (found.values[-1] < 0)
    assert found.flipped


@pytest.mark.parametrize("target", [Target(" w20 w21"), Target(" w20", " w21 w22")])
def test_a_flip_of_several_tokens_is_refused(target: Target) -> None:
    subject = Subject(tiny.model("llama"), tiny.tokenizer(), bos="always")
    with pytest.raises(AttributionError, match="expected answers of one token"):
        flip(Scorer(ask(subject, TEXT, target)))


def test_the_nearest_text_is_the_text_itself() -> None:
    subject = Subject(tiny.model("bert"), tiny.tokenizer(), bos="always")
    known = [(f"w{i} w{i + 1} w{2 * i + 3}", str(i)) for i in range(5, 25)]
    site = "blocks.0.hook_resid_post"
    found = nearest(subject, known[7][0], known, site, n=3)
    assert (found[0].text, found[0].label) == (known[7][0], known[7][1])
    assert found[0].cosine == pytest.approx(1, abs=1e-5)
    vectors = []
    for text, _ in known:
        encoded = subject.encode([text])[0]
        own = [i for i, special in enumerate(encoded.special) if not special]
        with torch.no_grad(), capture(subject.model, site) as acts:
            subject.model(torch.tensor([encoded.ids]))
        vectors.append(acts[site][0, own].mean(0))
    table = torch.stack(vectors) - torch.stack(vectors).mean(0)
    cosines = torch.nn.functional.cosine_similarity(table, table[7:8])
    assert found[1].cosine == pytest.approx(
        float(cosines.sort(descending=True).values[1]), abs=1e-5
    )
    with pytest.raises(AttributionError, match="at least 2 known texts"):
        nearest(subject, TEXT, known[:1], site)
