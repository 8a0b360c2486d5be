"""An encoder-decoder explained where the answer is known: a small BART that learned to translate word by word, backwards.

Each target word is the translation of one source word, so its attribution must find that word, and cross-attention must look
there.

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


def trained(steps: int = 500, seed: int = 0) -> Subject:
    """A BART of one layer on each side that translates."""
    torch.manual_seed(seed)
    rng, words = random.Random(seed), tokenizer()
    config = hf.BartConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=16,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    model: Any = hf.BartForConditionalGeneration(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        pairs = [sentence(rng) for _ in range(32)]
        source = torch.tensor([words.convert_tokens_to_ids(s) for s, _ in pairs])
        target = torch.tensor([words.convert_tokens_to_ids(t) for _, t in pairs])
        loss = model(input_ids=source, labels=target).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"trained: {float(loss.detach()):.3f} nats a word")
    return Subject(model.eval(), words, name="bart-backwards", bos="never")


def main(out: Path = Path("runs/translation"), texts: int = 8) -> dict[str, Any]:
    """Which source word each target word comes from, and which heads bring it."""
    subject, rng = trained(), random.Random(1)
    prompts, hits, count = [], {"leave-one-out": 0, "ig": 0}, 0
    for _ in range(texts):
        source, target = sentence(rng)
        for place, word in enumerate(target):
            before = " ".join(target[:place])
            answer = f" {word}" if before else word
            wrong = rng.choice([w for w in DICTIONARY.values() if w != word])
            prompt = {"prompt": " ".join(source), "answer": answer}
            prompt["wrong"] = f" {wrong}" if before else wrong
            prompts.append(prompt | ({"target_prefix": before} if before else {}))
            count += 1
            for method in hits:
                asked = Target(answer, prefix=before or None)
                scores = attribute(subject, " ".join(source), target=asked, method=method)
                hits[method] += scores.top(1)[0] == source[LENGTH - 1 - place]
    for method, found in hits.items():
        print(
            f"{method}: the word that is translated has the largest score for {found} of {count} target words"
        )
    results = ablate(
        model=subject, prompts=prompts, metric="answer_difference", value="mean", out=out
    )
    print(results.frame.nsmallest(4, "effect")[["site", "effect"]].to_string(index=False))
    return {"hits": hits, "count": count, "effects": results.frame}


if __name__ == "__main__":
    main()
