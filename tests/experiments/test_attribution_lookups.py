"""Models that look their tokens up more than once: an absent token is absent from every table.

The oracle is a copy of the model whose vocabulary has one token more, with the absent token's
vector in each table, run on plain ids.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
import zoo
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from zoo.sizes import small

from experiments.attribution import AttributionError, Game, Scorer, Target, ask, attribute
from experiments.attribution.examples import flip
from experiments.attribution.lookups import tables
from experiments.subject import Subject
from experiments.subject.own_model import of_function

TEXT = "w5 w6 w7 w8"
NEW = tiny.VOCAB
LAYERED = ["Gemma3nForCausalLM", "Gemma4ForCausalLM"]
READ_TWICE = [
    "BartForSequenceClassification",
    "T5ForSequenceClassification",
    "T5GemmaForSequenceClassification",
    "T5Gemma2ForSequenceClassification",
]


def subject_of(name: str) -> Subject:
    tokenizer = tiny.tokenizer()
    if name in LAYERED or name == "LlamaForCausalLM":
        return Subject(zoo.build(name), tokenizer, bos="always")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    kind = getattr(hf, name)
    config = small(kind.config_class, {})
    config.decoder_start_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.3)
    return Subject(model, tokenizer, bos="never")


def target_of(subject: Subject) -> Target:
    return Target(None if subject.classes else " w20", measure="logit")


def with_absent_token(model: nn.Module, removal: str) -> Any:
    """A copy with one token more, which every table has the absent token's vector of."""
    grown: Any = copy.deepcopy(model)
    done = set()
    for module in grown.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding) and len(module.weight) == NEW:
            if id(weight) not in done:
                row = module.weight.data.mean(0) if removal == "mean" else 0 * module.weight.data[0]
                module.weight.data = torch.cat([module.weight.data, row[None]])
                done.add(id(weight))
            module.num_embeddings = NEW + 1
    if hasattr(grown.config, "vocab_size_per_layer_input"):
        grown.config.vocab_size_per_layer_input = NEW + 1
    return grown


def expected(scorer: Scorer, removal: str, masks: np.ndarray) -> np.ndarray:
    """The logit of each set of words, from ids alone."""
    (part,) = scorer.question.parts
    model = with_absent_token(scorer.subject.model, removal)
    values = []
    for kept in masks:
        ids = list(part.ids)
        for unit, places in enumerate(part.tokens):
            for place in places:
                ids[place] = ids[place] if kept[unit] else NEW
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        values.append(logits[part.reads[0]] if part.reads else logits)
    return torch.stack(values)[:, part.classes[0]].numpy()


def all_sets(n: int) -> np.ndarray:
    return np.array(list(itertools.product([False, True], repeat=n)))


@pytest.mark.parametrize("removal", ["mean", "zero"])
@pytest.mark.parametrize("name", [*LAYERED, *READ_TWICE, "LlamaForCausalLM"])
def test_an_absent_word_is_absent_from_every_table(name: str, removal: str) -> None:
    scorer = Scorer(ask(subject := subject_of(name), TEXT, target_of(subject)))
    assert len(tables(subject).text) == 1 + (name != "LlamaForCausalLM")
    masks = all_sets(4)
    wanted = expected(scorer, removal, masks)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(Game(scorer, removal)(masks), wanted, atol=2e-5)


@pytest.mark.parametrize("name", ["Gemma3nForCausalLM", *READ_TWICE])
def test_integrated_gradients_go_from_all_tables_absent(name: str) -> None:
    """They sum to the change from the text without its words, which plain ids give."""
    scorer = Scorer(ask(subject := subject_of(name), TEXT, target_of(subject)))
    none, whole = expected(scorer, "mean", all_sets(4))[[0, -1]]
    found = attribute(subject, TEXT, target=target_of(subject), method="ig")
    assert found.baseline == pytest.approx(none, abs=1e-4)
    assert found.scores.sum() == pytest.approx(whole - none, abs=0.03 * abs(float(whole - none)))


@pytest.mark.parametrize("name", ["Gemma3nForCausalLM", "BartForSequenceClassification"])
def test_gradient_times_input_is_the_slope_of_all_tables(name: str) -> None:
    """A step of each word's rows in every table, by a difference quotient."""
    subject = subject_of(name)
    model: Any = copy.deepcopy(subject.model).double()
    found = attribute(subject, TEXT, target=target_of(subject), method="grad-input")
    scorer = Scorer(ask(subject, TEXT, target_of(subject)))
    (part,) = scorer.question.parts

    def value(scale: float, token: int) -> float:
        other = copy.deepcopy(model)
        done = set()
        for module in other.modules():
            if isinstance(module, nn.Embedding) and len(module.weight) == NEW:
                if id(module.weight) not in done:
                    module.weight.data[token] *= scale
                done.add(id(module.weight))
        # The head may share the table: it reads nothing of these rows but their own logits.
        with torch.no_grad():
            logits = other(input_ids=torch.tensor([part.ids])).logits[0]
        return float((logits[part.reads[0]] if part.reads else logits)[part.classes[0]])

    step = 1e-3  # norms are computed in single precision
    for unit, (place,) in enumerate(part.tokens):
        token = part.ids[place]
        slope = (value(1 + step, token) - value(1 - step, token)) / (2 * step)
        assert found.scores[unit] == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize("name", ["Gemma4ForCausalLM", "T5ForSequenceClassification"])
def test_noise_is_drawn_for_every_table(name: str) -> None:
    """The value of one draw is that of a copy whose new token has the vectors that were drawn; a
    table that encoder and decoder share is drawn once.
    """
    subject = subject_of(name)
    scorer = Scorer(ask(subject, TEXT, target_of(subject)))
    game = Game(scorer, "noise", draws=1)
    (part,) = scorer.question.parts
    ((place,), *_) = part.tokens
    (vector,) = dict(game.fills(part))[place]
    drawn = scorer.own_vector(vector)
    grown = with_absent_token(subject.model, "zero")
    copies = dict(grown.named_modules(remove_duplicate=False))
    for path, module in subject.model.named_modules():
        for lookup in tables(subject).text:
            if module is lookup.layer:
                noise = drawn[lookup.columns] - module(torch.tensor(part.ids[place])).detach()
                deviation = float(module(torch.arange(NEW)).detach().std())
                assert float(noise.std()) == pytest.approx(3 * deviation, rel=0.4)
                scale = float(getattr(module, "embed_scale", 1.0))
                copies[path].weight.data[NEW] = drawn[lookup.columns] / scale
    ids = list(part.ids)
    ids[place] = NEW
    with torch.no_grad():
        logits = grown(input_ids=torch.tensor([ids])).logits[0]
    wanted = (logits[part.reads[0]] if part.reads else logits)[part.classes[0]]
    assert game(np.arange(4)[None] != 0)[0] == pytest.approx(float(wanted), abs=2e-5)


def test_a_flip_is_proposed_by_the_gradient_of_every_table() -> None:
    found = flip(Scorer(ask(subject_of("Gemma3nForCausalLM"), TEXT)), most=2)
    assert found.changes
    assert found.values[-1] < found.values[0]


class Bigrams(nn.Module):
    """A causal model that reads each token alone, and a hash of it and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pairs = nn.Embedding(NEW, 16), nn.Embedding(31, 16)
        self.out = nn.Linear(16, NEW)

    def forward(self, ids: Tensor) -> Tensor:
        before = nn.functional.pad(ids[:, :-1], (1, 0))
        hidden = self.embed(ids) + self.pairs((7 * before + ids) % 31)
        mean = hidden.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return self.out(mean.tanh())


def test_ids_that_are_read_as_hashes_have_no_vector_that_is_absent() -> None:
    torch.manual_seed(0)
    subject = of_function(Bigrams(), tiny.tokenizer(), embedding="embed")
    assert not tables(subject).are_all
    scorer = Scorer(ask(subject, TEXT, Target(" w20", measure="logit")))
    with pytest.raises(AttributionError, match=r"removal 'mean': Bigrams also reads the ids"):
        Game(scorer, "mean")
    assert Game(scorer).removal == "pad"
    found = attribute(subject, TEXT, target=Target(" w20", measure="logit"), method="ig")
    assert any("is in no gradient" in note.text for note in found.notes)
    found = attribute(subject, TEXT, target=Target(" w20", measure="logit"))
    assert not any("gradient" in note.text for note in found.notes)


@pytest.mark.parametrize("method", ["lrp", "cp-lrp", "chefer"])
def test_relevance_says_which_tables_it_leaves_out(method: str) -> None:
    told = {}
    for name in ("Gemma4ForCausalLM", "LlamaForCausalLM"):
        target = Target(" w20", measure="logit")
        found = attribute(subject_of(name), TEXT, target=target, method=method)
        told[name] = [note.text for note in found.notes if "embed_tokens_per_layer" in note.text]
    assert [len(notes) for notes in told.values()] == [1, 0]
