"""Which logits a metric reads: for each prompt the positions, the tokens that are looked for there,
and their weights.

A causal model says of a token what its predecessor's position holds. A tokenizer may join the end
of a prompt and the beginning of an answer: the answer's tokens are those of the whole text that
reach past the prompt's end, and an answer whose first token begins before it is an error that says
so.

An encoder-decoder reads the prompt as its source; the answer follows the target's beginning
(``target_prefix``), which the decoder is given with the answer's earlier tokens (teacher forcing).
Positions are those of a row: the source's tokens, then the decoder's
(`experiments.subject.targets`).

A masked model is read at its mask: an answer takes the place of the prompt's one mask. Of several
tokens there is no joint probability: the sum over them of log2 p(token | all the others) stands for
it, each masked in turn (Salazar et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from ..corpus.prompts import Pair, Prompt
from ..subject import Subject
from ..subject.errors import SubjectError
from ..subject.pictures import Picture
from ..subject.targets import plain
from ..subject.word_spans import Encoded

BITS = 1 / math.log(2)


class MetricError(LayerscopeError, ValueError):
    """A metric that these prompts, or this tokenizer, do not allow."""


class ItemError(MetricError):
    """One prompt or pair that cannot be measured, although others can.

    Args:
        why: in a line.
        item: what the item is called.
    """

    def __init__(self, why: str, item: str = "") -> None:
        super().__init__(f"{item}: {why}" if item else why)
        self.why = why


@contextmanager
def naming(item: object, number: int, kind: str) -> Iterator[None]:
    """Errors of an item name it: by its line in the file, or by its number."""
    line = getattr(item, "line", None)
    try:
        yield
    except ItemError as error:
        place = f"{kind} {number + 1}" if line is None else f"{kind} {number + 1} (line {line})"
        raise ItemError(error.why, place) from None


@dataclass(frozen=True)
class Reads:
    """Where logits are read for some prompts.

    Args:
        texts: what the model is given.
        places: a row of text, position, target token and prompt for each read.
        weights: of each read in its prompt's value, or in its word's.
        words: which word each read belongs to, where several tokens are read as one.
    """

    texts: Sequence[Encoded]
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

    def of_logits(
        self,
        logits: Float[Tensor, "texts pos vocab"] | Float[Tensor, "texts classes"],
        kept: Int[Tensor, " kept"] | None = None,
    ) -> Float[Tensor, "slots vocab"]:
        """A forward's logits at the positions that are read; a classifier's are of whole texts.

        Args:
            kept: the positions that the model was asked for; it may give all nevertheless.
        """
        texts, positions = self.positions.to(logits.device).unbind(1)
        if logits.ndim == 2:
            return logits[texts]
        if kept is not None and logits.shape[1] == len(kept):
            positions = torch.searchsorted(kept.to(positions), positions.contiguous())
        return logits[texts, positions]

    def of_targets(self) -> tuple[Reads, Int[Tensor, " tokens"]]:
        """The same reads in logits of their target tokens alone, and those tokens."""
        tokens, which = torch.unique(self.places[:, 2], return_inverse=True)
        text, position, _, prompt = self.places.unbind(1)
        return replace(self, places=torch.stack([text, position, which, prompt], dim=1)), tokens

    def at_targets(
        self, values: Float[Tensor, "copies slots vocab"]
    ) -> Float[Tensor, "copies reads"]:
        """The values of each read's target token."""
        return values[:, self.slots.to(values.device), self.places[:, 2].to(values.device)]

    def sums(self, values: Float[Tensor, "copies reads"]) -> Float[Tensor, "copies prompts"]:
        """Weighted sums of values at the reads, by prompt."""
        of_prompts = values.new_zeros(len(values), self.n_prompts)
        prompts = self.places[:, 3].to(values.device)
        return of_prompts.index_add_(1, prompts, values * self.weights.to(values))


def answer_reads(
    subject: Subject,
    prompts: Sequence[Prompt],
    what: Sequence[tuple[str, float]],
    name: str,
    several: bool,
) -> Reads:
    """Reads of the answers' tokens, with a weight for each field of a prompt.

    Args:
        several: answers may have several tokens, and each answer then is in a text of its own; else
            the prompt's one text gives the logits of all.

    Raises:
        MetricError: an answer that is missing, has no token, more than one where one is expected,
            or joins the prompt.
    """
    texts: list[Encoded] = []
    places: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for number, prompt in enumerate(prompts):
        with naming(prompt, number, "prompt"):
            alone = text_of(subject, prompt)
            if not several:
                texts.append(alone)
            for field, weight in what:
                answer = getattr(prompt, field)
                if answer is None:
                    raise MetricError(
                        f"metric {name}: prompt {number + 1} ({prompt.prompt[:40]!r}) "
                        f"has no {field!r}"
                    )
                whole, start, stop = _with_answer(subject, prompt, alone, answer, field, several)
                continues = subject.continues or alone.picture is not None
                if several and continues:
                    texts.append(whole)
                for at in range(start, stop):
                    if several and not continues:  # a text for each masked token
                        texts.append(_hidden(subject, whole, at))
                    position = at - 1 if continues else at
                    places.append((len(texts) - 1, position, plain(whole.ids[at]), number))
                    weights.append(weight)
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _with_answer(
    subject: Subject, prompt: Prompt, alone: Encoded, answer: str, field: str, several: bool
) -> tuple[Encoded, int, int]:
    """The text with an answer, and where the answer's tokens begin and end.

    Raises:
        ItemError: an answer without a token, or with more than one where one is expected.
    """
    # The answer is encoded with its text: by itself it may have other tokens than behind a word.
    if alone.picture is not None:
        ids = alone.picture.answer(alone, prompt.prompt, answer)
        start, stop = len(alone), len(alone) + len(ids)
        whole = replace(alone, ids=(*alone.ids, *ids))
    elif subject.has_decoder:
        whole, start, stop = _in_target(subject, prompt, alone, answer)
    else:
        where = _continued if subject.causal else _filled
        whole, start, stop = where(subject, alone, answer)
    tokens = [plain(token) for token in whole.ids[start:stop]]
    if not tokens:
        raise ItemError(f"the {field} {answer!r} has no token")
    if not several and len(tokens) > 1:
        pieces = ", ".join(repr(subject.token(token)) for token in tokens)
        raise ItemError(
            f"expected one token, {field} {answer!r} is {len(tokens)}: "
            f"{pieces} (--metric answer_difference takes answers of several tokens)"
        )
    return whole, start, stop


def text_of(subject: Subject, prompt: Prompt, answer: str = "") -> Encoded:
    """What the model reads of a prompt; with an encoder-decoder the source, and the target up to
    the end of the answer.

    Raises:
        ItemError: a text that is longer than the model takes, a picture or a sound that cannot be
            read, a beginning of a target for a model without a decoder.
    """
    try:
        return _text_of(subject, prompt, answer)
    except SubjectError as error:
        raise ItemError(str(error)) from None


def _text_of(subject: Subject, prompt: Prompt, answer: str) -> Encoded:
    if prompt.image is not None:
        if subject.processor is None:
            raise ItemError(
                f"image {prompt.image}: pictures are read by 'layerscope attribute' and "
                "'layerscope ablate' alone"
            )
        picture = Picture(prompt.image, subject.processor, dtype=subject.dtype)
        return picture.encode(prompt.prompt)
    if subject.has_decoder:
        row = subject.encode_row(prompt.prompt, (prompt.target_prefix or "") + answer)
        if row.cut is not None:
            raise ItemError(
                f"source or target longer than the model's {subject.max_length} tokens: "
                f"{prompt.prompt[:40]!r}"
            )
        return row
    if prompt.target_prefix:
        raise ItemError(
            f"target_prefix {prompt.target_prefix[:40]!r} is for encoder-decoders, "
            f"{subject.name} is none: write it at the prompt's end"
        )
    return whole_text(subject, prompt.prompt)


def _in_target(
    subject: Subject, prompt: Prompt, alone: Encoded, answer: str
) -> tuple[Encoded, int, int]:
    """The row with an answer behind the target's beginning,
    and where the answer's tokens begin and end.
    """
    start = len(alone)
    whole = text_of(subject, prompt, answer)
    if whole.ids[:start] != alone.ids:
        raise ItemError(
            f"the tokens of {(prompt.target_prefix or '')[-20:]!r} change when {answer!r} "
            "follows: begin the answer where a token begins (often with its space)"
        )
    return whole, start, len(whole)


def whole_text(subject: Subject, text: str, answer: str = "") -> Encoded:
    """The text's tokens, all of them: a metric of a text that was cut would be another text's.

    Args:
        answer: that is in the text, for the message.

    Raises:
        ItemError: a text that is longer than the model takes.
    """
    encoded = subject.encode([text])[0]
    if encoded.cut is not None:
        given = f"with {answer[:40]!r} " if answer else ""
        raise ItemError(
            f"{given}longer than the model's {subject.max_length} tokens: {text[:40]!r}"
        )
    return encoded


def _continued(subject: Subject, alone: Encoded, answer: str) -> tuple[Encoded, int, int]:
    """The prompt with its answer behind it, and where the answer's tokens begin and end."""
    stop = _end(alone)
    whole = whole_text(subject, alone.text + answer, answer)
    if whole.ids[:stop] != alone.ids[:stop]:
        raise ItemError(
            f"the tokens of {alone.text[-20:]!r} change when {answer!r} follows: "
            "begin the answer where a token begins (often with its space)"
        )
    return whole, stop, _end(whole)


def _filled(subject: Subject, alone: Encoded, answer: str) -> tuple[Encoded, int, int]:
    """The prompt with its answer in the mask's place,
    and where the answer's tokens begin and end.
    """
    start = _mask_position(subject, alone)
    filled = alone.text.replace(subject.tokenizer.mask_token, answer.strip())
    whole = whole_text(subject, filled, answer)
    # What stands behind the mask stands behind the answer too.
    stop = len(whole.ids) - (len(alone.ids) - start - 1)
    if whole.ids[:start] != alone.ids[:start] or whole.ids[stop:] != alone.ids[start + 1 :]:
        raise ItemError(f"the tokens around the mask change when {answer!r} takes its place")
    return whole, start, stop


def _mask_position(subject: Subject, encoded: Encoded) -> int:
    """Where the text's one mask is."""
    masks = [i for i, token in enumerate(encoded.ids) if token == _mask(subject)]
    if len(masks) != 1:
        raise ItemError(
            f"{subject.name} sees what follows a token, so its answer takes the place of a "
            f"mask: expected one {subject.tokenizer.mask_token} in the text, "
            f"got {len(masks)} in {encoded.text[:60]!r}"
        )
    return masks[0]


def _mask(subject: Subject) -> int:
    mask = subject.tokenizer.mask_token_id
    if mask is None:
        raise MetricError(
            f"{subject.name} sees what follows a token, and its tokenizer has no mask to "
            "hide one behind"
        )
    return int(mask)


def _hidden(subject: Subject, encoded: Encoded, position: int) -> Encoded:
    """The text with one token masked."""
    return replace(
        encoded, ids=(*encoded.ids[:position], _mask(subject), *encoded.ids[position + 1 :])
    )


def _end(encoded: Encoded) -> int:
    """The position after the last token of the text itself:
    a closing special token is not the text's.
    """
    stop = len(encoded.ids)
    # A tokenizer may close a text with SEP or EOS.
    while stop and encoded.special[stop - 1]:
        stop -= 1
    if not stop:
        raise ItemError(f"expected a text with tokens, got {encoded.text[:40]!r}")
    return stop


def pair_reads(subject: Subject, pairs: Sequence[Pair]) -> Reads:
    """All tokens from the first in which the two sentences differ: before it an edit does the same
    to both. In a masked model all tokens, each masked in turn.

    Raises:
        MetricError: a pair whose sentences are longer than the model takes, have the same tokens,
            or differ in the first where nothing stands before it.
    """
    if subject.has_decoder:
        raise MetricError(
            f"{subject.name} is an encoder-decoder, whose targets follow a source: "
            "expected --prompts FILE with prompt (the source), "
            "answer and wrong (--metric answer_difference)"
        )
    texts: list[Encoded] = []
    places: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for number, pair in enumerate(pairs):
        with naming(pair, number, "pair"):
            good, bad = whole_text(subject, pair.good), whole_text(subject, pair.bad)
            # Up to here both sentences are one, and a causal model gives them the same
            # probabilities.
            start = _first_difference(good.ids, bad.ids)
            if start is None:
                raise ItemError(
                    f"expected sentences of other tokens, got the same ({pair.good[:40]!r})"
                )
            if subject.causal and start == 0:
                raise ItemError(
                    f"{pair.good[:40]!r} differs in its first token and nothing comes "
                    "before it: choose a BOS (--bos)"
                )
            # A masked model sees what comes later, so that even the shared beginning differs.
            first = start if subject.causal else 0
            for encoded, weight in ((good, 1.0), (bad, -1.0)):
                versions, read = _in_turn(subject, encoded, first)
                for version, at, token in read:
                    places.append((len(texts) + version, at, token, number))
                weights += [weight] * len(read)
                texts += versions
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first position at which two texts' tokens differ, or one of them ends;
    None for equal ones.
    """
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def _in_turn(
    subject: Subject, encoded: Encoded, start: int
) -> tuple[list[Encoded], list[tuple[int, int, int]]]:
    """Texts, and text, position and token of reads,
    that give the log-probability of a text's tokens from ``start`` on.
    """
    positions = range(start, len(encoded.ids))
    if subject.causal:
        return [encoded], [(0, i - 1, encoded.ids[i]) for i in positions]
    words = [i for i in positions if not encoded.special[i]]
    texts = [_hidden(subject, encoded, i) for i in words]
    return texts, [(text, i, encoded.ids[i]) for text, i in enumerate(words)]


def loss_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    """All tokens that something stands before; in a masked model all;
    of an encoder-decoder the answer's, given its source.
    """
    if subject.has_decoder:
        return _target_loss(subject, prompts)
    texts: list[Encoded] = []
    places: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for number, prompt in enumerate(prompts):
        with naming(prompt, number, "prompt"):
            if prompt.image is not None:
                raise ItemError(
                    "metric loss is of a text alone: with a picture choose "
                    "answer_difference or log_probability"
                )
            encoded = whole_text(subject, prompt.prompt)
            versions, read = _in_turn(subject, encoded, 1 if subject.causal else 0)
            if not read:
                raise ItemError(
                    f"metric loss: expected at least 2 tokens, got {encoded.text[:40]!r}"
                )
        places += [(len(texts) + text, at, token, number) for text, at, token in read]
        # The loss is the mean of -log p over the tokens that are read.
        weights += [-1 / len(read)] * len(read)
        texts += versions
    return Reads(texts, torch.tensor(places), torch.tensor(weights))


def _target_loss(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    """The answers' tokens, weighted so that they sum to the mean of -log p."""
    for number, prompt in enumerate(prompts):
        with naming(prompt, number, "prompt"):
            if not prompt.answer:
                raise ItemError(
                    "metric loss of an encoder-decoder needs the target of "
                    f"{prompt.prompt[:40]!r}: expected an 'answer' (--target beside --text)"
                )
    reads = answer_reads(subject, prompts, (("answer", 1.0),), "loss", True)
    of_prompt = reads.places[:, 3]
    return replace(reads, weights=-1 / torch.bincount(of_prompt)[of_prompt].float())


def prediction_reads(subject: Subject, prompts: Sequence[Prompt]) -> Reads:
    """Where the model predicts what comes: the last position, in a masked model the mask."""
    texts, places = [], []
    for number, prompt in enumerate(prompts):
        with naming(prompt, number, "prompt"):
            encoded = text_of(subject, prompt)
            if subject.has_decoder or encoded.picture is not None:
                position = len(encoded) - 1
            elif subject.causal:
                position = _end(encoded) - 1
            else:
                position = _mask_position(subject, encoded)
        texts.append(encoded)
        places.append((number, position, 0, number))
    return Reads(texts, torch.tensor(places), torch.ones(len(texts)))
