"""Metrics of one prompt at a time, from forwards of single texts: what sweeps are held against."""

from __future__ import annotations

import numpy as np
import tiny
import torch

from experiments.corpus.prompts import Pair, Prompt
from experiments.subject import Subject


def subject(name: str, **more: object) -> Subject:
    return Subject(tiny.model(name), tiny.tokenizer(), bos="always", **more)  # type: ignore[arg-type]


def bias_free(name: str) -> Subject:
    """In float64, and with nothing that relevance could go to but the input."""
    model = tiny.model(name).double()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("bias"):
                parameter.zero_()
            elif "norm" not in path.lower() and "ln_" not in path:
                parameter.mul_(3)  # so that attention and nonlinearities are far from linear
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "w4"
    return Subject(model, tokenizer, bos="always")


def alone(one: Subject, text: str) -> torch.Tensor:
    """log2 p at every position of one text, run by itself."""
    ids = torch.tensor([one.encode([text])[0].ids])
    with torch.no_grad():
        return torch.log_softmax(one.model(ids).logits[0].double(), -1) / np.log(2)


def naive(one: Subject, name: str, item: Prompt | Pair) -> float:
    """The metric of one prompt, from forwards of single texts."""
    if isinstance(item, Pair):
        both = []
        for text in (item.good, item.bad):
            ids, logp = one.encode([text])[0].ids, alone(one, text)
            both.append(sum(float(logp[i - 1, ids[i]]) for i in range(1, len(ids))))
        return both[0] - both[1]
    logp = alone(one, item.prompt)
    answer = one.encode([item.prompt + item.answer])[0].ids[-1]
    if name == "loss":
        ids = one.encode([item.prompt])[0].ids
        return -float(np.mean([float(logp[i - 1, ids[i]]) for i in range(1, len(ids))]))
    if name == "rank":
        return float((logp[-1] > logp[-1, answer]).sum())
    if name == "confidence":
        return float(logp[-1].max().exp2())
    wrong = one.encode([item.prompt + (item.wrong or "")])[0].ids[-1]
    difference = float(logp[-1, answer] - logp[-1, wrong])
    named = {"logit_difference": difference * np.log(2), "answer_difference": difference}
    return named.get(name, float(logp[-1, answer]))
