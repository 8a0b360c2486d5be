"""A GPT-2 built by hand whose answer depends on two words and their interaction,
and on nothing else.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf
from tiny import VOCAB, tokenizer

from experiments.subject import Subject

WIDTH = 16
FIRST, SECOND, ANSWER = 40, 41, 50
TEXT = "w5 w40 w6 w7 w41 w8 w9 w10"
"""Words 1 and 4 are the two that matter."""


@functools.cache
def subject(main: float = 0.5, both: float = 5.0) -> Subject:
    """logit(w50) is a function of whether w40 and w41 are in the text: `main` for each, `both` for
    the two together.

    Every other word has the same vector, and the one head looks at all positions alike: with texts
    of one length the answer depends on how many of the two there are, exactly. The two words'
    directions stay orthogonal to all others; the MLP's one neuron fires only where both were seen.
    """
    config = hf.GPT2Config(
        n_layer=1, n_embd=WIDTH, n_head=1, n_inner=1, n_positions=64, vocab_size=VOCAB, activation_function="relu",
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = hf.GPT2LMHeadModel(config).eval()
    # Orthonormal directions that a layer norm leaves in place: their entries sum to 0.
    place = torch.arange(WIDTH) + 0.5
    h = (
        torch.stack([torch.cos(torch.pi * k * place / WIDTH) for k in range(WIDTH)])
        * (2 / WIDTH) ** 0.5
    )
    plain, first, second, saw_first, saw_second, saw_both = h[1], h[2], h[3], h[4], h[5], h[6]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        body, block = model.transformer, model.transformer.h[0]
        for norm in (block.ln_1, block.ln_2, body.ln_f):
            norm.weight.fill_(1.0)
        body.wte.weight[:] = plain
        body.wte.weight[FIRST], body.wte.weight[SECOND] = first, second
        # Queries and keys are 0: every position looks at all before it alike. A word among 9
        # positions is seen as 1.
        value = torch.outer(first, saw_first) + torch.outer(second, saw_second)
        block.attn.c_attn.weight[:, 2 * WIDTH :] = value
        block.attn.c_proj.weight[:] = torch.eye(WIDTH) * 9 / WIDTH**0.5
        block.mlp.c_fc.weight[:, 0] = saw_first + saw_second
        block.mlp.c_fc.bias[0] = -3.5  # one word gives 2.83, both 4.62
        block.mlp.c_proj.weight[0] = both * saw_both
        model.lm_head.weight[ANSWER] = main * (saw_first + saw_second) + saw_both
    return Subject(model, tokenizer(), bos="always")
