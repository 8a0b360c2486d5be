"""Which logits a metric reads: for each prompt the positions, the tokens that are looked for there, and their weights.

A causal model says of a token what its predecessor's position holds. A tokenizer may join the end of a prompt and the
beginning of an answer: the answer's tokens are those of the whole text that reach past the prompt's end, and an answer
whose first token begins before it is an error that says so.

A masked model is read at its mask: an answer takes the place of the prompt's one mask. Of several tokens there is no joint
probability: the sum over them of log2 p(token | all the others) stands for it, each masked in turn (Salazar et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from ..corpus.prompts import Pair, Prompt
from ..subject import Subject
from ..subject.word_spans import Encoded


class MetricError(LayerscopeError, ValueError):
    """A metric that these prompts, or this tokenizer, do not allow."""


@dataclass(frozen=True)
class Reads:
    """Where logits are read for some prompts.

    Args:
        texts: what the model is given.
        places: a row of text, position, target token and prompt for each read.
        weights: of each read in its prompt's value, or in its word's.
        words: which word each read belongs to, where several tokens are read as one.
    """

    texts: list[Encoded]
    places: Int[Tensor, "reads 4"]
    weights: Float[Tensor, " reads"]
    words: Int[Tensor, " reads"] | None = None

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

    def of_targets(self) -> tuple[Reads, Int[Tensor, " tokens"]]:
        """The same reads in logits of their target tokens alone, and those tokens."""
        tokens, which = torch.unique(self.places[:, 2], return_inverse=True)
        text, position, _, prompt = self.places.unbind(1)
        return replace(self, places=torch.stack([text, position, which, prompt], dim=1)), tokens

    def at_targets(self, values: Float[Tensor, "copies slots vocab"]) -> Float[Tensor, "copies reads"]:
        """The values of each read's target token."""
        return values[:, self.slots.to(values.device), self.places[:, 2].to(values.device)]

    def sums(self, values: Float[Tensor, "copies reads"]) -> Float[Tensor, "copies prompts"]:
        """Weighted sums of values at the reads, by prompt."""
        out = values.new_zeros(len(values), self.n_prompts)
        return out.index_add_(1, self.places[:, 3].to(values.device), values * self.weights.to(values))


def answer_reads(
    subject: Subject, prompts: Sequence[Prompt], what: Sequence[tuple[str, float]], name: str, several: bool
) -> Reads:
    """Reads of the answers' tokens, with a weight for each field of a prompt.

    Args:
        several: answers may have several tokens, and each answer then is in a text of its own; else the prompt's one text
            gives the logits of all.

    Raises:
        MetricError: an answer that is missing, has no token, more than one where one is expected, or joins the prompt.
    """
    texts: list[Encoded] = []
    places, weights = [], []
    for number, prompt in enumerate(prompts):
        alone = _whole(subject, prompt.prompt, f"prompt {number + 1}")
        if not several:
            texts.append(alone)
        for field, weight in what:
            answer = getattr(prompt, field)
            if answer is None:
                raise MetricError(f"metric {name}: prompt {number + 1} ({prompt.prompt[:40]!r}) has no {field!r}")
            where = _continued if subject.causal else _filled
            whole, start, stop = where(subject, alone, answer, f"metric {name}: prompt {number + 1}")
            tokens = whole.ids[start:stop]
            if not tokens:
                raise MetricError(f"metric {name}: the {field} {answer!r} of prompt {number + 1} has no token")
            if not several and len(tokens) > 1:
                pieces = ", ".join(repr(subject.token(t)) for t in tokens)
                raise MetricError(f"metric {name}: expected one token, {field} {answer!r} is {len(tokens)}: {pieces}")
            if several and subject.causal:
                texts.append(whole)
            for at, token in enumerate(tokens, start):
                if several and not subject.causal:
                    texts.append(_hidden(subject, whole, at))
                places.append((len(texts) - 1, at - 1 if subject.causal else at, token, number))
                weights.append(weight)
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _whole(subject: Subject, text: str, who: str) -> Encoded:
    """The text's tokens, all of them: a metric of a text that was cut would be another text's.

    Raises:
        MetricError: a text that is longer than the model takes.
    """
    encoded = subject.encode([text])[0]
    if encoded.cut is not None:
        raise MetricError(f"{who} is longer than the model's {subject.max_length} tokens: {text[:40]!r}")
    return encoded


def _continued(subject: Subject, alone: Encoded, answer: str, who: str) -> tuple[Encoded, int, int]:
    """The prompt with its answer behind it, and where the answer's tokens begin and end."""
    stop = _end(alone)
    whole = _whole(subject, alone.text + answer, f"{who}, with {answer[:40]!r},")
    if whole.ids[:stop] != alone.ids[:stop]:
        raise MetricError(
            f"{who}: the tokens of {alone.text[-20:]!r} change when {answer!r} follows: begin the answer where a token "
            "begins (often with its space)"
        )
    return whole, stop, _end(whole)


def _filled(subject: Subject, alone: Encoded, answer: str, who: str) -> tuple[Encoded, int, int]:
    """The prompt with its answer in the mask's place, and where the answer's tokens begin and end."""
    start = _mask_position(subject, alone, who)
    filled = alone.text.replace(subject.tokenizer.mask_token, answer.strip())
    whole = _whole(subject, filled, f"{who}, with {answer[:40]!r},")
    stop = len(whole.ids) - (len(alone.ids) - start - 1)
    if whole.ids[:start] != alone.ids[:start] or whole.ids[stop:] != alone.ids[start + 1 :]:
        raise MetricError(f"{who}: the tokens around the mask change when {answer!r} takes its place")
    return whole, start, stop


def _mask_position(subject: Subject, encoded: Encoded, who: str) -> int:
    """Where the text's one mask is."""
    found = [i for i, token in enumerate(encoded.ids) if token == _mask(subject)]
    if len(found) != 1:
        raise MetricError(
            f"{who}: {subject.name} sees what follows a token, so its answer takes the place of a mask: expected one "
            f"{subject.tokenizer.mask_token} in the text, got {len(found)} in {encoded.text[:60]!r}"
        )
    return found[0]


def _mask(subject: Subject) -> int:
    mask = subject.tokenizer.mask_token_id
    if mask is None:
        raise MetricError(f"{subject.name} sees what follows a token, and its tokenizer has no mask to hide one behind")
    return int(mask)


def _hidden(subject: Subject, encoded: Encoded, position: int) -> Encoded:
    """The text with one token masked."""
    return replace(encoded, ids=(*encoded.ids[:position], _mask(subject), *encoded.ids[position + 1 :]))


def _end(encoded: Encoded) -> int:
    """The position after the last token of the text itself: a closing special token is not the text's."""
    stop = len(encoded.ids)
    while stop and encoded.special[stop - 1]:
        stop -= 1
    if not stop:
        raise MetricError(f"expected a text with tokens, got {encoded.text[:40]!r}")
    return stop


def pair_reads(subject: Subject, pairs: Sequence[Pair]) -> Reads:
    """All tokens from the first in which the two sentences differ: before it an edit does the same to both. In a masked
    model all tokens, each masked in turn.

    Raises:
        MetricError: a pair whose sentences are longer than the model takes, have the same tokens, or differ in the first where
            nothing stands before it.
    """
    texts: list[Encoded] = []
    places, weights = [], []
    for number, pair in enumerate(pairs):
        both = [_whole(subject, text, f"a sentence of pair {number + 1}") for text in (pair.good, pair.bad)]
        if both[0].ids == both[1].ids:
            raise MetricError(
                f"pair {number + 1} ({pair.good[:40]!r}): expected sentences of other tokens, got the same"
            )
        same = next((i for i, (a, b) in enumerate(zip(both[0].ids, both[1].ids, strict=False)) if a != b), None)
        start = min(len(e.ids) for e in both) if same is None else same
        if subject.causal and start == 0:
            raise MetricError(
                f"pair {number + 1} ({pair.good[:40]!r}) differs in its first token and nothing stands before it: "
                "choose a BOS (--bos)"
            )
        for encoded, weight in zip(both, (1.0, -1.0), strict=True):
            more, read = _in_turn(subject, encoded, start if subject.causal else 0)
            places += [(len(texts) + text, position, token, number) for text, position, token in read]
            weights += [weight] * len(read)
            texts += more
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _in_turn(subject: Subject, encoded: Encoded, start: int) -> tuple[list[Encoded], list[tuple[int, int, int]]]:
    """Texts, and text, position and token of reads, that give the log-probability of a text's tokens from ``start`` on."""
    if subject.causal:
        return [encoded], [(0, i - 1, encoded.ids[i]) for i in range(start, len(encoded.ids))]
    own = [i for i in range(start, len(encoded.ids)) if not encoded.special[i]]
    return [_hidden(subject, encoded, i) for i in own], [(text, i, encoded.ids[i]) for text, i in enumerate(own)]


def loss_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    """All tokens that something stands before; in a masked model all."""
    texts: list[Encoded] = []
    places, weights = [], []
    for number, prompt in enumerate(prompts):
        encoded = _whole(subject, prompt.prompt, f"metric loss: prompt {number + 1}")
        more, read = _in_turn(subject, encoded, 1 if subject.causal else 0)
        if not read:
            raise MetricError(f"metric loss: expected at least 2 tokens, got {encoded.text[:40]!r}")
        places += [(len(texts) + text, position, token, number) for text, position, token in read]
        weights += [-1 / len(read)] * len(read)
        texts += more
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def prediction_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    """Where the model says what comes: the last position, in a masked model the mask."""
    texts = [_whole(subject, p.prompt, f"prompt {i}") for i, p in enumerate(prompts, 1)]
    places = [
        (i, _end(e) - 1 if subject.causal else _mask_position(subject, e, f"prompt {i + 1}"), 0, i)
        for i, e in enumerate(texts)
    ]
    return Reads(texts, torch.tensor(places), torch.ones(len(texts)))
