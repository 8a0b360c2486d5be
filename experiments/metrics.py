"""What a prompt or pair is measured by: which logits are read, and the number they make.

    logit_difference   l(answer) - l(wrong) at the last position, in logits (nats)
    log_probability    log2 p(answer | prompt), summed over the answer's tokens, in bits
    answer_difference  log2 p(answer | prompt) - log2 p(wrong | prompt), all their tokens, in bits
    answer_accuracy    1 where that is above 0, else 0: BLiMP's one-prefix method
    pair_difference    log2 p(good) - log2 p(bad), whole sentences, in bits
    pair_accuracy      1 where log2 p(good) > log2 p(bad), else 0
    loss               -log2 p of the text's own tokens, mean over them, in bits
    kl                 sum_v p_clean(v) (log2 p_clean(v) - log2 p(v)) at the last position, in bits
    rank               how many tokens are likelier than the answer's first

A masked model has no p of a sentence: there it is the pseudo-log-likelihood, the sum over tokens of log2 p(token | all the
others), each masked in turn (Salazar et al. 2020).

A tokenizer may join the end of a prompt and the beginning of an answer: the answer's tokens are those of the whole text
that reach past the prompt's end, and an answer whose first token begins before it is an error that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.config import TextsConfig
from experiments.prompts import Pair, Prompt, read_pairs, read_prompts
from experiments.subject import Subject
from experiments.words import Encoded

BITS = 1 / math.log(2)


class MetricError(ValueError):
    """A metric that these prompts, or this tokenizer, do not allow."""


@dataclass(frozen=True)
class Reads:
    """Where logits are read for some prompts.

    Args:
        texts: what the model is given.
        places: a row of text, position, target token and prompt for each read.
        weights: of each read in its prompt's value.
    """

    texts: list[Encoded]
    places: Int[Tensor, "reads 4"]
    weights: Float[Tensor, " reads"]

    @property
    def n_prompts(self) -> int:
        """How many prompts the reads belong to."""
        return int(self.places[:, 3].max()) + 1

    @cached_property
    def positions(self) -> Int[Tensor, "slots 2"]:
        """Text and position of all logits that are read, each once."""
        return torch.unique(self.places[:, :2], dim=0)

    @cached_property
    def slots(self) -> Int[Tensor, " reads"]:
        """Which of ``positions`` each read is at."""
        return torch.unique(self.places[:, :2], dim=0, return_inverse=True)[1]

    def at_targets(self, values: Float[Tensor, "copies slots vocab"]) -> Float[Tensor, "copies reads"]:
        """The values of each read's target token."""
        return values[:, self.slots.to(values.device), self.places[:, 2].to(values.device)]

    def sums(self, values: Float[Tensor, "copies reads"]) -> Float[Tensor, "copies prompts"]:
        """Weighted sums of values at the reads, by prompt."""
        out = values.new_zeros(len(values), self.n_prompts)
        return out.index_add_(1, self.places[:, 3].to(values.device), values * self.weights.to(values))


@dataclass(frozen=True)
class Metric:
    """A metric: its unit, whether it is of pairs, and its two halves.

    Args:
        reads: from a subject and prompts to the reads.
        value: from logits at the reads' positions ``copies slots vocab``, those of the clean run ``slots vocab`` and the
            reads to ``copies prompts``.
        of_answers: it needs the prompts' answers.
        baseline_is_zero: an unedited model has the value 0 by definition.
    """

    name: str
    unit: str
    reads: Callable[[Subject, Any], Reads]
    value: Callable[[Tensor, Tensor, Reads], Tensor]
    of_pairs: bool = False
    of_answers: bool = True
    baseline_is_zero: bool = False


def _log2p(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return reads.sums(BITS * reads.at_targets(torch.log_softmax(logits.float(), dim=-1)))


def _logits(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return reads.sums(reads.at_targets(logits.float()))


def _accuracy(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    return (_log2p(logits, clean, reads) > 0).float()


def _kl(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    before = torch.log_softmax(clean.float(), dim=-1)
    after = torch.log_softmax(logits.float(), dim=-1)
    return reads.sums(BITS * (before.exp() * (before - after)).sum(-1)[:, reads.slots.to(after.device)])


def _rank(logits: Tensor, clean: Tensor, reads: Reads) -> Float[Tensor, "copies prompts"]:
    there = logits[:, reads.slots.to(logits.device)]
    return reads.sums((there > reads.at_targets(logits).unsqueeze(2)).sum(-1).float())


def _answer_reads(
    subject: Subject, prompts: Sequence[Prompt], what: Sequence[tuple[str, float]], name: str, several: bool
) -> Reads:
    """Reads of the answers' tokens; one text for each prompt where a single token is read, else one for each answer."""
    texts: list[Encoded] = []
    places, weights = [], []
    for number, prompt in enumerate(prompts):
        alone = subject.encode([prompt.prompt])[0]
        stop = _end(alone)
        if alone.cut is not None:
            raise MetricError(f"prompt {number + 1} is longer than the model's {subject.max_length} tokens")
        if not several:
            texts.append(alone)
        for field, weight in what:
            answer = getattr(prompt, field)
            if answer is None:
                raise MetricError(f"metric {name}: prompt {number + 1} ({prompt.prompt[:40]!r}) has no {field!r}")
            whole = subject.encode([prompt.prompt + answer])[0]
            if whole.ids[:stop] != alone.ids[:stop]:
                raise MetricError(
                    f"metric {name}: the tokens of {prompt.prompt[-20:]!r} change when {answer!r} follows: begin the "
                    "answer where a token begins (often with its space)"
                )
            tokens = whole.ids[stop : _end(whole)]
            if not tokens:
                raise MetricError(f"metric {name}: the {field} {answer!r} of prompt {number + 1} has no token")
            if not several and len(tokens) > 1:
                pieces = ", ".join(repr(subject.token(t)) for t in tokens)
                raise MetricError(f"metric {name}: expected one token, {field} {answer!r} is {len(tokens)}: {pieces}")
            if several:
                texts.append(whole)
            for i, token in enumerate(tokens):
                places.append((len(texts) - 1, stop + i - 1, token, number))
                weights.append(weight)
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _end(encoded: Encoded) -> int:
    """The position after the last token of the text itself: a closing special token is not the text's."""
    stop = len(encoded.ids)
    while stop and encoded.special[stop - 1]:
        stop -= 1
    if not stop:
        raise MetricError(f"expected a text with tokens, got {encoded.text[:40]!r}")
    return stop


def _pair_reads(subject: Subject, pairs: Sequence[Pair]) -> Reads:
    """All tokens from the first in which the two sentences differ; before it an edit does the same to both."""
    if not subject.causal:
        return _masked_reads(subject, pairs)
    texts: list[Encoded] = []
    places, weights = [], []
    for number, pair in enumerate(pairs):
        both = subject.encode([pair.good, pair.bad])
        same = next((i for i, (a, b) in enumerate(zip(both[0].ids, both[1].ids, strict=False)) if a != b), None)
        start = min(len(e.ids) for e in both) if same is None else same
        if start == 0:
            raise MetricError(
                f"pair {number + 1} ({pair.good[:40]!r}) differs in its first token and nothing stands before it: "
                "choose a BOS (--bos)"
            )
        for encoded, weight in zip(both, (1.0, -1.0), strict=True):
            texts.append(encoded)
            for position in range(start, len(encoded.ids)):
                places.append((len(texts) - 1, position - 1, encoded.ids[position], number))
                weights.append(weight)
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _masked_reads(subject: Subject, pairs: Sequence[Pair]) -> Reads:
    """A text for each token of both sentences, in which this token is masked."""
    mask = subject.tokenizer.mask_token_id
    if mask is None:
        raise MetricError(f"{subject.name} sees what follows a token, and its tokenizer has no mask to hide one behind")
    texts: list[Encoded] = []
    places, weights = [], []
    for number, pair in enumerate(pairs):
        for encoded, weight in zip(subject.encode([pair.good, pair.bad]), (1.0, -1.0), strict=True):
            for position, token in enumerate(encoded.ids):
                if not encoded.special[position]:
                    places.append((len(texts), position, token, number))
                    weights.append(weight)
                    texts.append(replace(encoded, ids=(*encoded.ids[:position], mask, *encoded.ids[position + 1 :])))
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _loss_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    texts, places, weights = subject.encode([p.prompt for p in prompts]), [], []
    for number, encoded in enumerate(texts):
        n = len(encoded.ids) - 1
        if n < 1:
            raise MetricError(f"metric loss: expected at least 2 tokens, got {encoded.text[:40]!r}")
        places += [(number, i, encoded.ids[i + 1], number) for i in range(n)]
        weights += [-1 / n] * n
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _last_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    texts = subject.encode([p.prompt for p in prompts])
    places = [(i, _end(e) - 1, 0, i) for i, e in enumerate(texts)]
    return Reads(texts, torch.tensor(places), torch.ones(len(texts)))


BOTH = (("answer", 1.0), ("wrong", -1.0))
ANSWER = (("answer", 1.0),)


def _of_answers(
    name: str,
    unit: str,
    what: Sequence[tuple[str, float]],
    several: bool,
    value: Callable[[Tensor, Tensor, Reads], Tensor],
) -> Metric:
    """A metric of the prompts' answers, of one token or of ``several``."""

    def reads(subject: Subject, prompts: Any) -> Reads:
        return _answer_reads(subject, prompts, what, name, several)

    return Metric(name, unit, reads, value)


METRICS = {
    metric.name: metric
    for metric in (
        _of_answers("logit_difference", "nats", BOTH, False, _logits),
        _of_answers("log_probability", "bits", ANSWER, True, _log2p),
        _of_answers("answer_difference", "bits", BOTH, True, _log2p),
        _of_answers("answer_accuracy", "share", BOTH, True, _accuracy),
        _of_answers("rank", "tokens", ANSWER, False, _rank),
        Metric("pair_difference", "bits", _pair_reads, _log2p, of_pairs=True),
        Metric("pair_accuracy", "share", _pair_reads, _accuracy, of_pairs=True),
        Metric("loss", "bits a token", _loss_reads, _log2p, of_answers=False),
        Metric("kl", "bits", _last_reads, _kl, of_answers=False, baseline_is_zero=True),
    )
}


def get_metric(name: str) -> Metric:
    """A metric by its name; raises `MetricError` with the names there are."""
    if name not in METRICS:
        raise MetricError(f"unknown metric {name!r}: expected {', '.join(METRICS)}")
    return METRICS[name]


def metric_and_texts(config: TextsConfig, of_prompts: str) -> tuple[Metric, list[Prompt] | list[Pair]]:
    """What a run measures, and the prompts or pairs that it is measured on.

    Args:
        of_prompts: the metric of prompts where none is named; that of pairs is ``pair_difference``.

    Raises:
        MetricError: both or neither of prompts and pairs, or a metric of the other.
        PromptError: a file that cannot be read.
    """
    if (config.prompts is None) == (config.pairs is None):
        raise MetricError("expected one of --prompts FILE and --pairs FILE")
    metric = get_metric(config.metric or (of_prompts if config.pairs is None else "pair_difference"))
    if metric.of_pairs != (config.pairs is not None):
        raise MetricError(
            f"metric {metric.name} is of {'pairs' if metric.of_pairs else 'prompts'}: give --pairs or --prompts"
        )
    if config.pairs is not None:
        return metric, read_pairs(config.pairs, config.limit)
    return metric, read_prompts(config.source, config.limit, answers=metric.of_answers)
