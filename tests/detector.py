"""A one-layer GPT-2 whose MLP is written by hand: one neuron sees one token and says what follows
it.

The other neurons read at random and write nothing; attention writes nothing.
"""

from __future__ import annotations

import torch
import transformers as hf

NEURON, NEURONS, WIDTH, SEEN, SAID = 11, 24, 64, 5, 9
FIRST, TOKENS, POSITIONS = 3, 12, 16
TOKEN, OUT, PLACE = slice(0, 12), slice(12, 24), slice(24, 40)


def model(vocabulary: int = 100) -> hf.GPT2LMHeadModel:
    """The model; after token ``SEEN`` it says token ``SAID`` (ids)."""
    config = hf.GPT2Config(
        n_layer=1, n_embd=WIDTH, n_head=4, n_positions=POSITIONS, n_inner=NEURONS, vocab_size=vocabulary,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    made = hf.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        eye, mlp = torch.eye(TOKENS), made.transformer.h[0].mlp
        made.transformer.wte.weight[FIRST : FIRST + TOKENS, TOKEN] = eye
        made.transformer.wpe.weight[:, PLACE] = torch.eye(POSITIONS)
        made.lm_head.weight[FIRST : FIRST + TOKENS, OUT] = eye
        mlp.c_fc.weight.copy_(
            torch.randn(WIDTH, NEURONS, generator=torch.Generator().manual_seed(0))
        )
        mlp.c_fc.weight[:, NEURON] = 0
        mlp.c_fc.weight[TOKEN][SEEN - FIRST, NEURON] = 1.0
        # silent for every other token: the normalised embedding is 5.6 at its token
        mlp.c_fc.bias[NEURON] = -3.0
        mlp.c_proj.weight[NEURON, OUT] = 2 * eye[SAID - FIRST]
    return made


def prompts(count: int = 16) -> list[dict[str, str]]:
    """Different texts that end in the token that is seen."""
    out = []
    for seed in range(count):
        before = torch.randint(
            0, TOKENS, (3 + seed % 3,), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        words = [f"w{FIRST + t}" for t in before] + [f"w{SEEN}"]
        out.append({"prompt": " ".join(words), "answer": f" w{SAID}", "wrong": f" w{SAID + 1}"})
    return out
