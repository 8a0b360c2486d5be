"""An encoder-decoder explained where the answer is known: a small BART that learned to translate
word by word, backwards.

Each target word is the translation of one source word, so its attribution must find that word, and
the heads that look at the source must carry it. The same model with random weights is the null:
there no source word is more than any other.

    python examples/translation.py     # train (seconds), attribute, ablate, print
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from layerscope.experiments.attribution import Target, attribute
from layerscope.experiments.subject import Subject
from tokenizers import Tokenizer, models, pre_tokenizers

from layerscope import ablate

DICTIONARY = {
    "dog": "hund",
    "cat": "katze",
    "bird": "vogel",
    "fish": "fisch",
    "house": "haus",
    "tree": "baum",
    "book": "buch",
    "road": "weg",
}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
LENGTH = 4
START = 2
"""The token that opens a target."""


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """A token for each word of both languages."""
    words = [*SPECIAL, *DICTIONARY, *DICTIONARY.values()]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def sentence(rng: random.Random) -> tuple[list[str], list[str]]:
    """A source, and its translation: the words in the opposite order."""
    source = rng.sample(list(DICTIONARY), LENGTH)
    return source, [DICTIONARY[word] for word in reversed(source)]


def trained(steps: int = 200, seed: int = 0) -> Subject:
    """A BART of one layer on each side that translates; with no steps one that knows nothing."""
    torch.manual_seed(seed)
    rng, words = random.Random(seed), tokenizer()
    config = hf.BartConfig(
        vocab_size=len(words),
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=16,
        dropout=0.0,
        init_std=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    model: Any = hf.BartForConditionalGeneration(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        pairs = [sentence(rng) for _ in range(32)]
        source = torch.tensor([words.convert_tokens_to_ids(s) for s, _ in pairs])
        target = torch.tensor([words.convert_tokens_to_ids(t) for _, t in pairs])
        loss = model(input_ids=source, labels=target).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Subject(model.eval(), words, name="bart-backwards", bos="never")


Asked = tuple[list[str], str, str]
"""A source, the target's beginning, and the word that follows."""


def asked(rng: random.Random, texts: int) -> list[Asked]:
    """Every word of some translations."""
    questions = []
    for _ in range(texts):
        source, target = sentence(rng)
        for place, word in enumerate(target):
            questions.append((source, " ".join(target[:place]), word))
    return questions


def hits(subject: Subject, questions: list[Asked], method: str) -> float:
    """How often the source word that is translated has the largest score;
    by chance below one in four.
    """
    count = 0
    translated = {german: english for english, german in DICTIONARY.items()}
    for source, before, word in questions:
        target = Target(f" {word}" if before else word, prefix=before or None)
        scores = attribute(subject, " ".join(source), target=target, method=method)
        count += scores.top(1)[0] == translated[word]
    return count / len(questions)


def prompts_of(questions: list[Asked], rng: random.Random) -> list[dict[str, str]]:
    """The same questions with a wrong answer each."""
    prompts = []
    for source, before, word in questions:
        wrong = rng.choice([other for other in DICTIONARY.values() if other != word])
        space = " " if before else ""
        prompt = {"prompt": " ".join(source), "answer": space + word, "wrong": space + wrong}
        prompts.append(prompt | ({"target_prefix": before} if before else {}))
    return prompts


def main(out: Path = Path("runs/translation"), texts: int = 8, steps: int = 200) -> dict[str, Any]:
    """Which source word each target word comes from, and which heads bring it."""
    rng = random.Random(1)
    subject, questions = trained(steps), asked(rng, texts)
    found = {}
    for name, model in (("trained", subject), ("random weights", trained(0))):
        for method in ("leave-one-out", "ig"):
            found[name, method] = hits(model, questions, method)
            print(f"{name}, {method}: the translated word first for {found[name, method]:.0%}")
    results = ablate(
        model=subject,
        prompts=prompts_of(questions, rng),
        metric="answer_difference",
        value="mean",
        positions="all",
        out=out,
    )
    frame = results.frame
    print(frame.nsmallest(4, "effect")[["site", "effect"]].to_string(index=False))
    return {"hits": found, "effects": frame}


if __name__ == "__main__":
    main()
