"""A two-layer, attention-only GPT-2 whose weights are written by hand: it continues what it has
seen before.

Layer 0, head 1 looks at the previous token and notes it; layer 1, head 2 looks for the place whose
previous token is the current one and copies the token there to the output. The other heads look at
random places and write nothing.
"""

from __future__ import annotations

import torch
import transformers as hf

PREVIOUS, INDUCTION = (0, 1), (1, 2)
FIRST, TOKENS, POSITIONS, HEADS, WIDTH = 3, 12, 16, 4, 64
D = WIDTH // HEADS
TOKEN, NOTE, OUT, PLACE = (slice(0, 12), slice(12, 24), slice(24, 36), slice(36, 52))
SHARP = 8.0


def model(vocabulary: int = 100) -> hf.GPT2LMHeadModel:
    """The model; tokens are ids ``FIRST`` to ``FIRST + TOKENS - 1``."""
    config = hf.GPT2Config(
        n_layer=2, n_embd=WIDTH, n_head=HEADS, n_positions=POSITIONS, n_inner=4, vocab_size=vocabulary,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    made = hf.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.copy_(
                torch.ones_like(weight)
                if "ln_" in name and name.endswith("weight")
                else torch.zeros_like(weight)
            )
        eye = torch.eye(TOKENS)
        body = made.transformer
        body.wte.weight[FIRST : FIRST + TOKENS, TOKEN] = eye
        body.wpe.weight[:, PLACE] = torch.eye(POSITIONS)
        made.lm_head.weight[FIRST : FIRST + TOKENS, OUT] = eye
        for layer, block in enumerate(body.h):
            for head in range(HEADS):
                if (layer, head) not in (PREVIOUS, INDUCTION):
                    for part in range(3):  # it reads something and writes nothing
                        at = slice(part * WIDTH + head * D, part * WIDTH + (head + 1) * D)
                        block.attn.c_attn.weight[:, at] = torch.randn(WIDTH, D, generator=generator)
        q, k, v, o = _parts(body.h[PREVIOUS[0]].attn, PREVIOUS[1])
        # the query at place i is the key of place i - 1
        q[PLACE][1:, : D - 1] = SHARP * torch.eye(POSITIONS - 1)
        k[PLACE] = torch.eye(POSITIONS)
        v[TOKEN, :TOKENS], o[:TOKENS, NOTE] = eye, eye
        q, k, v, o = _parts(body.h[INDUCTION[0]].attn, INDUCTION[1])
        q[TOKEN, :TOKENS], k[NOTE, :TOKENS] = SHARP * eye, eye
        v[TOKEN, :TOKENS], o[:TOKENS, OUT] = eye, 3 * eye
    return made


def _parts(attention, head: int):
    """Views of one head's query, key and value columns and of its output rows."""
    columns = attention.c_attn.weight
    q, k, v = (
        columns[:, part * WIDTH + head * D : part * WIDTH + (head + 1) * D] for part in range(3)
    )
    return q, k, v, attention.c_proj.weight[head * D : (head + 1) * D]


def prompts(count: int = 12) -> list[dict[str, str]]:
    """Seven tokens, then the first few again: the answer is the one that followed,
    the wrong one stood elsewhere.
    """
    out = []
    for seed in range(count):
        order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(seed)).tolist()[:7]
        again = 1 + seed % 4
        words = [f"w{FIRST + t}" for t in order]
        out.append(
            {
                "prompt": " ".join(words + words[:again]),
                "answer": f" {words[again]}",
                "wrong": f" {words[6]}",
            }
        )
    return out
