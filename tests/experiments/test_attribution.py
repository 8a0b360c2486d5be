"""Attribution's core: units, the scorer against plain forwards of single rows, the game,
a planted truth, bad input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import planted
import pytest
import tiny
import torch
import transformers as hf
import zoo

from experiments.attribution import (
    METHODS,
    AttributionError,
    Game,
    Scorer,
    Target,
    ask,
    attribute,
    find_units,
    method_named,
    prefixes,
)
from experiments.attribution.prefixes import cuts
from experiments.attribution.scorer import Row
from experiments.metrics.reads import MetricError
from experiments.subject import Subject

CAUSAL = ["gpt2", "llama", "gemma2", "neox", "opt"]
TEXT = "w5 w6 w7 w8 w9 w10"


def make(name: str, **more: Any) -> Subject:
    tokenizer = tiny.tokenizer()
    if name in tiny.POST_NORM:
        tokenizer.mask_token = "w4"
    return Subject(tiny.model(name), tokenizer, bos="always", **more)


def alone(subject: Subject, row: Row) -> torch.Tensor:
    """Log-probabilities at the row's one read, from a forward of the row by itself."""
    with torch.no_grad():
        return torch.log_softmax(
            subject.model(torch.tensor([row.ids])).logits[0, row.reads[0]].double(), -1
        ) / np.log(2)


# -- units


def test_words_keep_their_tokens() -> None:
    subject = make("gpt2")
    units = find_units(subject, subject.encode(["w5 w6, w7"])[0])
    assert units.texts == ("w5", "w6", ",", "w7")
    assert units.tokens == ((1,), (2,), (3,), (4,))


def test_chinese_words_are_characters_and_clauses_are_spans() -> None:
    subject = make("gpt2")
    text = "今天天气很好，我们走。"
    assert find_units(subject, subject.encode([text])[0], "span").texts == (
        "今天天气很好，",
        "我们走。",
    )
    # the tokenizer has one token for a run of letters
    joined = find_units(subject, subject.encode([text])[0])
    assert joined.texts == ("今天天气很好", "，", "我们走", "。")
    assert "share a token" in joined.notes[0].text


# -- the scorer


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
@pytest.mark.parametrize("removal", ["delete", "pad", "zero"])
def test_rows_in_shared_beginnings_are_the_rows_alone(
    name: str, removal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "CALL", 1)  # so few rows would otherwise not be worth more calls
    subject = make(name)
    text = " ".join(f"w{i}" for i in range(5, 17)) + (" w4" if name == "bert" else "")
    scorer = Scorer(ask(subject, text, " w20"), batch_tokens=40)
    game = Game(scorer, removal)
    masks = np.random.default_rng(0).random((40, game.n)) < 0.6
    values = game(masks)
    (part,) = scorer.question.parts
    for mask, value in zip(masks, values, strict=True):
        row = game._row(part, game._plans[0][0], game._plans[0][1][0], mask)
        if removal != "zero":
            expected = alone(subject, row)[20]
        else:
            ids = torch.tensor([[max(i, 0) for i in row.ids]])
            vectors = subject.model.get_input_embeddings()(ids).clone()
            vectors[0, [i < 0 for i in row.ids]] = 0
            with torch.no_grad():
                logits = subject.model(inputs_embeds=vectors).logits[0, row.reads[0]].double()
            expected = torch.log_softmax(logits, -1)[20] / np.log(2)
        assert value == pytest.approx(float(expected), abs=2e-4)
    assert scorer.cost.asked == 40
    assert scorer.cost.forwards < 45
    if name in CAUSAL and removal != "zero":
        assert scorer._checked  # beginnings were shared
        assert scorer.cost.tokens < 0.9 * sum(
            2 + mask.sum() if removal == "delete" else 13 for mask in masks
        )


def test_a_row_is_scored_once() -> None:
    scorer = Scorer(ask(make("gpt2"), TEXT, " w20"))
    game = Game(scorer, "pad")
    game(np.repeat(np.eye(6, dtype=bool), 50, 0))
    game(np.eye(6, dtype=bool))
    assert (scorer.cost.asked, scorer.cost.forwards) == (306, 6)


def test_a_model_whose_cache_does_not_keep_is_run_whole() -> None:
    subject = make("gpt2")
    scorer = Scorer(ask(subject, TEXT, " w20"))
    broken = subject.body.forward
    # forgets
    subject.body.forward = lambda *a, past_key_values=None, **k: broken(
        *a, past_key_values=None, **k
    )
    try:
        masks = np.random.default_rng(0).random((40, 6)) < 0.5
        game = Game(scorer, "pad")
        values = game(masks)
    finally:
        del subject.body.forward
    fresh = Game(Scorer(ask(subject, TEXT, " w20"), share=False), "pad")
    np.testing.assert_allclose(values, fresh(masks), atol=1e-5)
    assert not scorer._share


def test_beginnings_are_shared_where_the_body_has_another_name_than_the_prefix() -> None:
    """Llama 4 alone has its body at ``model``, its configuration's prefix is ``language_model``."""
    subject = Subject(zoo.build("Llama4ForCausalLM"), tiny.tokenizer(), bos="always")
    scorer = Scorer(ask(subject, TEXT, " w20"))
    masks = np.random.default_rng(0).random((40, 6)) < 0.5
    values = Game(scorer, "pad")(masks)
    assert scorer._share
    assert scorer._checked
    (part,) = scorer.question.parts
    for row, kept in enumerate(masks[:5]):
        ids = [token if k else 0 for token, k in zip(part.ids[1:], kept, strict=True)]
        only = Row((part.ids[0], *ids), part.reads)
        assert values[row] == pytest.approx(float(alone(subject, only)[20]), abs=1e-4)


def test_cuts_are_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = sorted({tuple(rng.integers(0, 2, 12).tolist()) for _ in range(400)})
    at, tokens = cuts(rows)
    starts = [0, *at[:-1]]
    assert tokens == sum(
        len({r[:b] for r in rows}) * (b - a) for a, b in zip(starts, at, strict=True)
    )
    assert tokens < 0.7 * sum(map(len, rows))
    assert at[-1] == 12


def test_equal_vectors_of_two_games_are_one_row() -> None:
    scorer = Scorer(ask(make("gpt2"), TEXT, " w20"))
    masks = np.random.default_rng(0).random((20, 6)) < 0.5
    values = Game(scorer, "mean")(masks)
    before = scorer.cost.forwards
    np.testing.assert_array_equal(Game(scorer, "mean")(masks), values)
    assert scorer.cost.forwards == before
    assert not np.allclose(Game(scorer, "zero")(masks), values)


def test_an_absent_word_is_as_long_as_the_embedding_layer_makes_its_words() -> None:
    """Gemma 3's layer gives sqrt(d) times its table."""
    config = hf.Gemma3TextConfig(**tiny._WIDE, **tiny._IDS, num_key_value_heads=2, head_dim=8)
    torch.manual_seed(0)
    model: Any = hf.Gemma3ForCausalLM(config).eval()
    subject = Subject(model, tiny.tokenizer(), bos="always")
    ids = torch.tensor([subject.encode([TEXT])[0].ids])
    table = model.get_input_embeddings().weight.detach() * 32**0.5
    vectors = table[ids].clone()
    vectors[0, 3] = table.mean(0)
    with torch.no_grad():
        logp = torch.log_softmax(model(inputs_embeds=vectors).logits[0, -1].double(), -1) / np.log(
            2
        )
    game = Game(Scorer(ask(subject, TEXT, " w20")), "mean")
    assert game(np.arange(6)[None] != 2)[0] == pytest.approx(float(logp[20]), abs=1e-5)


def test_a_masked_model_proposes_in_batches_once_and_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = make("bert")
    scorer = Scorer(ask(subject, f"{TEXT} w4", " w20"), batch_tokens=16)
    (part,) = scorer.question.parts
    sizes: list[int] = []
    forward = subject.forward

    def counted(batch: Any, **more: Any) -> Any:
        sizes.append(batch.input_ids.numel())
        return forward(batch, **more)

    monkeypatch.setattr(subject, "forward", counted)
    game = Game(scorer, "propose", draws=8)
    assert (scorer.cost.forwards, max(sizes)) == (6, 16)
    Game(scorer, "propose", seed=1)
    assert scorer.cost.forwards == 6
    for unit in range(6):
        (at,) = part.tokens[unit]
        ids = torch.tensor([part.ids])
        ids[0, at] = 4
        with torch.no_grad():
            logits = subject.model(ids).logits[0, at]
        logits[part.ids[at]] = -torch.inf
        assert {fill[at][0] for fill in game._plans[0][1]} <= set(logits.topk(10).indices.tolist())


# -- targets


def test_an_answer_of_several_tokens_is_the_sum_of_its_tokens() -> None:
    subject = make("llama")
    found = attribute(subject, TEXT, target=" w20 w21 w22")
    ids = torch.tensor([subject.encode([TEXT + " w20 w21 w22"])[0].ids])
    with torch.no_grad():
        logp = torch.log_softmax(subject.model(ids).logits[0].double(), -1) / np.log(2)
    assert found.value == pytest.approx(float(logp[[6, 7, 8], [20, 21, 22]].sum()), abs=1e-4)
    assert found.unit == "bits"
    several = attribute(subject, TEXT, target=Target(" w20 w21", " w30"))
    parts = [attribute(subject, TEXT, target=answer) for answer in (" w20 w21", " w30")]
    np.testing.assert_allclose(several.scores, parts[0].scores - parts[1].scores, atol=1e-4)


def test_a_logit_difference_is_one_forward() -> None:
    subject = make("gpt2")
    found = attribute(subject, TEXT, target=Target(" w20", " w21"))
    with torch.no_grad():
        logits = subject.model(torch.tensor([subject.encode([TEXT])[0].ids])).logits[0, -1]
    assert found.value == pytest.approx(float(logits[20] - logits[21]), abs=1e-5)
    assert (found.unit, found.cost.forwards) == ("nats", 7)


def test_a_classifier_answers_for_its_class() -> None:
    config = hf.BertConfig(**tiny._BERT, num_labels=3, id2label={0: "bad", 1: "so", 2: "good"})
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "w4"
    subject = Subject(hf.BertForSequenceClassification(config).eval(), tokenizer)
    found = attribute(subject, TEXT, target="good")
    with torch.no_grad():
        logits = subject.model(torch.tensor([subject.encode([TEXT])[0].ids])).logits[0]
    assert found.value == pytest.approx(float(logits[2]), abs=1e-5)
    assert (
        attribute(subject, TEXT).target
        == f"logit of {['bad', 'so', 'good'][int(logits.argmax())]!r} (the predicted class)"
    )
    with pytest.raises(AttributionError, match="expected one of bad, so, good"):
        attribute(subject, TEXT, target="fine")


@pytest.mark.filterwarnings("ignore:.*will not detect padding tokens")
def test_a_causal_classifier_reads_the_last_position_whatever_stands_there() -> None:
    config = hf.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, n_positions=64, num_labels=3, **tiny._IDS
    )
    torch.manual_seed(0)
    model: Any = hf.GPT2ForSequenceClassification(config).eval()
    subject = Subject(model, tiny.tokenizer(), bos="never")
    question = ask(subject, TEXT, "LABEL_1")
    table = model.get_input_embeddings().weight.detach()
    vectors = table[torch.tensor([question.parts[0].ids])].clone()
    vectors[0, -1] = table.mean(0)
    with torch.no_grad():
        expected = model(inputs_embeds=vectors).logits[0, 1]
    game = Game(Scorer(question), "mean")
    assert game(np.arange(6)[None] != 5)[0] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(AttributionError, match="reads the last token that is no pad"):
        Game(Scorer(question), "pad")


# -- a planted truth

LOCAL = ("saliency", "grad-input", "smoothgrad")
SEES = [m for m in METHODS if m not in (*LOCAL, "conductance", "hidden-out", "windows", "chefer")]


@pytest.mark.parametrize("method", SEES)
def test_the_two_words_that_matter_are_found(method: str) -> None:
    more = {"samples": 300} if method in ("lime", "tree", "kernel-shap") else {}
    found = attribute(
        planted.subject(),
        planted.TEXT,
        target=Target(" w50", measure="logit"),
        method=method,
        removal="word:w5",
        **more,
    )
    assert set(found.top(2)) == {"w40", "w41"}
    rest = [i for i in range(8) if i not in (1, 4)]
    if method in ("leave-one-out", "shapley", "kernel-shap", "permutation-shap"):
        np.testing.assert_allclose(found.scores[rest], 0, atol=1e-4)  # dummies
        assert found.scores[1] == pytest.approx(found.scores[4], abs=1e-4)  # and the two are alike
    # each word alone takes the interaction with it: the two are counted together twice
    if method == "leave-one-out":
        one, both = (planted_value(words) for words in (1, 2))
        assert found.scores[1] == pytest.approx(both - one, abs=1e-3)
    if method in ("shapley", "kernel-shap", "permutation-shap"):
        assert found.scores.sum() == pytest.approx(planted_value(2) - planted_value(0), abs=1e-3)


def test_local_gradients_see_where_a_word_could_matter_not_which_does() -> None:
    """The model would answer to w40 at any place,
    so moving any word's vector towards it changes as much.
    """
    found = attribute(
        planted.subject(), planted.TEXT, target=Target(" w50", measure="logit"), method="saliency"
    )
    assert found.scores[0] > 0.5 * found.scores[1]
    assert "no sign" in found.notes[-1].text


def planted_value(words: int) -> float:
    """The planted logit in closed form, with so many of the two words there."""
    norm = (1 + words) ** 0.5
    fires = max(0.0, words * 4 / norm - 3.5)
    end = (1 + words + (5 * fires) ** 2) ** 0.5
    return 4 * (0.5 * words + 5 * fires) / end


def test_without_them_nothing_is_found() -> None:
    text = planted.TEXT.replace("w40", "w11").replace("w41", "w12")
    found = attribute(
        planted.subject(), text, target=Target(" w50", measure="logit"), removal="word:w5"
    )
    np.testing.assert_allclose(found.scores, 0, atol=1e-6)


def replaced(subject: Subject, at: int, new: torch.Tensor) -> float:
    """The logit of w20 with another vector at one place of the text, from a forward of its own."""
    vectors = (
        subject.model.get_input_embeddings()(torch.tensor([subject.encode([TEXT])[0].ids]))
        .detach()
        .clone()
    )
    vectors[0, at] = new
    with torch.no_grad():
        return float(subject.model(inputs_embeds=vectors).logits[0, -1, 20])


@pytest.mark.parametrize("removal", ["resample", "random", "noise"])
def test_removals_that_are_drawn_are_those_of_rows_made_by_hand(removal: str) -> None:
    subject, generator = make("llama"), torch.Generator().manual_seed(5)
    table = subject.model.get_input_embeddings().weight.detach()
    value = replaced(subject, 0, table[1])  # the BOS as it is
    lost = np.zeros((3, 6))
    for draw in range(3):
        for unit, token in enumerate(range(5, 11)):
            if removal == "resample":
                # all but <pad>, <s> and </s>
                new = table[3 + int(torch.randint(97, (1,), generator=generator))]
            else:
                noise = torch.randn(1, 32, generator=generator)[0]
                near = table[token] + 3 * table.std() * noise
                new = near if removal == "noise" else table.mean(0) + table.std(0) * noise
            lost[draw, unit] = value - replaced(subject, unit + 1, new)
    found = attribute(
        subject, TEXT, target=Target(" w20", measure="logit"), removal=removal, draws=3, seed=5
    )
    np.testing.assert_allclose(found.scores, lost.mean(0), atol=1e-5)
    assert found.errors is not None
    np.testing.assert_allclose(found.errors, lost.std(0, ddof=1) / 3**0.5, atol=1e-5)
    assert np.abs(found.scores).max() > 1e-3


# -- bad input


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", {}, "expected a text with words"),
        (" \n", {}, "expected a text with words"),
        ("w5", {"method": "lime"}, "expected at least 2, got 1"),
        (TEXT, {"method": "shap"}, "expected one of leave-one-out"),
        (TEXT, {"level": "letter"}, "expected word, token, span"),
        (TEXT, {"removal": "burn"}, "expected delete, mask"),
        (TEXT, {"removal": "mask"}, "has no mask token"),
        (TEXT, {"removal": "propose"}, "needs a masked language model"),
        (TEXT, {"step": 3}, "setting 'step'"),
        (TEXT, {"target": Target(" w7 w8", measure="logit")}, "expected one token"),
        (TEXT, {"target": Target(wrong=" w7")}, "needs the answer"),
        (TEXT, {"target": Target(word=1)}, "read by a probe"),
        (" ".join(["w5"] * 80), {}, "longer than the model's 64 tokens"),
        (TEXT, {"steps": 0}, "steps 0: expected at least 1"),
        (TEXT, {"draws": 0}, "draws 0: expected at least 1"),
        (TEXT, {"samples": 0}, "samples 0: expected at least 1"),
        (TEXT, {"features": -1}, "features -1: expected at least 0"),
        (TEXT, {"window": 0}, "window 0: expected at least 1"),
        (TEXT, {"method": "smoothgrad", "samples": 1}, "at least 2 samples, got 1"),
        (
            TEXT,
            {"method": "conductance", "site": "blocks.0.attn.hook_z", "baseline": "sampled"},
            "along one path",
        ),
        (" ".join(["w5"] * 13), {"method": "shapley"}, "8,192 texts: expected at most 12 units"),
    ],
)
def test_bad_input_is_one_line(text: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises((AttributionError, MetricError), match=said) as caught:
        attribute(make("gpt2"), text, **more)
    assert "\n" not in str(caught.value)


def test_deleting_everything_needs_something_that_stays() -> None:
    subject = Subject(tiny.model("gpt2"), tiny.tokenizer(), bos="never")
    with pytest.raises(AttributionError, match="leaves nothing that can be read"):
        attribute(subject, TEXT, method="shapley", removal="delete")
    # before the answer's first token
    with pytest.raises(AttributionError, match="leaves nothing that can be read"):
        attribute(subject, TEXT, target=" w20 w21", method="shapley", removal="delete")
    assert attribute(subject, TEXT, method="shapley").more["removal"] == "mean"


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("integrated_gradients", "ig"),  # inseq
        ("IntegratedGradients", "ig"),  # Captum
        ("input_x_gradient", "grad-input"),
        ("Occlusion", "leave-one-out"),
        ("feature ablation", "leave-one-out"),
        ("KernelShap", "kernel-shap"),
        ("ShapleyValueSampling", "permutation-shap"),
    ],
)
def test_a_name_from_another_library_leads_to_the_method(elsewhere, here):
    with pytest.raises(AttributionError, match=rf"did you mean {here}\?"):
        method_named(elsewhere)
