"""A model's own continuation, whose tokens are explained: against a greedy loop over ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.attribution import AttributionError, Target, ask
from experiments.corpus.prompts import Prompt
from experiments.studies.attribute.reading import steps_of
from experiments.subject import Subject

TEXTS = ["The old keys", "naïve café", "你好 世界", "🙂 emoji  here", "a\nb c", "don't stop!"]


def byte_level(has_space_in_front: bool) -> Any:
    """A tokenizer of bytes and some words, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore[assignment]
        add_prefix_space=has_space_in_front
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 10, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def subject_of(has_space_in_front: bool, seed: int) -> Subject:
    tokenizer = byte_level(has_space_in_front)
    config = hf.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, n_positions=64, vocab_size=len(tokenizer), bos_token_id=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.GPT2LMHeadModel(config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.2)
    return Subject(model, tokenizer, bos="always")


@pytest.mark.parametrize("has_space_in_front", [False, True])
def test_what_is_explained_is_what_the_model_writes(has_space_in_front: bool) -> None:
    """Each step asks for the greedy token, or for all the tokens of one character; texts whose next
    token would join them are refused.
    """
    n_steps = n_of_several = 0
    for seed in range(4):
        subject = subject_of(has_space_in_front, seed)
        for text in TEXTS:
            try:
                steps = steps_of(subject, Prompt(text, ""), 3)
            except AttributionError:
                continue
            ids = list(subject.encode([text])[0].ids)
            for step in steps:
                question = ask(subject, step.prompt, Target(step.answer))
                (part,) = question.parts
                for token in part.classes:
                    with torch.no_grad():
                        logits = subject.model(torch.tensor([ids])).logits[0, -1]
                    assert token == int(logits.argmax())
                    ids.append(token)
                assert "\ufffd" not in step.answer
                n_steps += 1
                n_of_several += len(part.classes) > 1
    assert n_steps > 20
    assert n_of_several > 0
