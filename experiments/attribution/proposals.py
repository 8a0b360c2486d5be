"""What else could stand there: a masked language model's own proposals, so that a changed text
stays a likely one.

A masked model proposes tokens in its own text. For a causal model, a classifier or a probed model
another masked model proposes words: each word of a unit becomes that model's mask, and what it
finds likeliest there is spelled in the model's own tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..subject import Subject
from .endpoint import language_end
from .question import Part, as_encoded
from .scorer import Cost, Scorer
from .units import AttributionError, Units, split_words

PROPOSALS = 10
"""What is drawn from: so many likeliest tokens other than the text's own."""
LOOKED_AT = 200
"""Likeliest tokens among which whole words are looked for."""


def can_propose(subject: Subject) -> bool:
    """Whether a model is a masked language model."""
    mask = getattr(subject.tokenizer, "mask_token_id", None)
    return not subject.causal and mask is not None and subject.gives_tokens


def own_tokens(scorer: Scorer, part: Part) -> dict[int, Tensor]:
    """For each of the units' positions,
    the tokens that the masked model finds likeliest beside the text's own.
    """
    subject = scorer.subject
    if not can_propose(subject):
        raise AttributionError(
            "removal 'propose' needs a masked language model, "
            f"got {type(subject.model).__name__}: name one (--proposals MODEL)"
        )
    positions = [at for places in part.tokens for at in places]
    mask, end = int(subject.tokenizer.mask_token_id), language_end(subject)
    rows = [as_encoded((*part.ids[:at], mask, *part.ids[at + 1 :])) for at in positions]
    proposals: dict[int, Tensor] = {}
    for batch in subject.batches(rows, tokens=scorer.batch_tokens):
        masked = [positions[row] for row in batch.rows]
        with torch.inference_mode():
            states = end.states(lambda whole, batch=batch: subject.forward(batch, logits=whole))
            hidden = states[range(len(batch)), masked][:, None]
            is_token = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            logits = end.of(hidden, is_token)[:, 0].float()
            # The text's own token is no proposal.
            present = torch.tensor([part.ids[at] for at in masked], device=logits.device)
            others = logits.scatter(1, present[:, None], -torch.inf)
            likeliest = others.topk(PROPOSALS).indices.cpu()
        proposals |= dict(zip(masked, likeliest, strict=True))
    scorer.cost += Cost(forwards=len(rows), tokens=len(rows) * len(part.ids))
    return proposals


def spelled(subject: Subject, text: str, before: str = "a ") -> tuple[int, ...]:
    """A text's tokens as they stand behind another one; where they join with it,
    as they are by themselves.
    """
    (encoded,) = subject.encode([before + text])
    tokens, starts = [], []
    for token, (start, end), special in zip(
        encoded.ids, encoded.offsets, encoded.special, strict=True
    ):
        if not special and end > len(before):
            tokens.append(token)
            starts.append(start)
    # A token that begins in the text before is no token of this one.
    joins = bool(starts) and starts[0] < len(before.rstrip())
    if tokens and not joins:
        return tuple(tokens)
    (alone,) = subject.encode([text])
    return tuple(t for t, special in zip(alone.ids, alone.special, strict=True) if not special)


class Proposer:
    """Another masked model's words for the units of a text.

    Args:
        masked: the model that proposes.
        subject: the model in whose tokens its words are spelled.

    Raises:
        AttributionError: a model that proposes nothing; units of single tokens, which are no words.
    """

    def __init__(self, masked: Subject, subject: Subject, text: str, units: Units) -> None:
        if not can_propose(masked):
            raise AttributionError(
                "proposals: expected a masked language model with its mask token, "
                f"got {masked.name} ({type(masked.model).__name__})"
            )
        if units.level == "token":
            raise AttributionError(
                "proposals of another model are words: choose --level word or span"
            )
        self._masked, self._subject, self._text, self._units = masked, subject, text, units
        self._choices = [self._of_unit(*span) for span in units.spans]

    def draw(self, unit: int, generator: torch.Generator) -> tuple[int, ...]:
        """Other words for a unit, in the subject's tokens as they stand in its place."""
        start, end = self._units.spans[unit]
        text, at = "", start
        for (word_start, word_end), words in self._choices[unit]:
            drawn = int(torch.randint(len(words), (1,), generator=generator))
            text += self._text[at:word_start] + words[drawn]
            at = word_end
        text += self._text[at:end]
        before = self._text[:start][-1:]  # a space, another sign, or nothing
        return spelled(self._subject, text, "a " if before.isspace() else before)

    def _of_unit(self, start: int, end: int) -> list[tuple[tuple[int, int], list[str]]]:
        """The unit's words and what may stand for each, the others of the unit masked too."""
        tokenizer = self._masked.tokenizer
        places = [(start + a, start + b) for a, b in split_words(self._text[start:end])]
        text, at = self._text[:start], start
        for a, b in places:
            text += self._text[at:a] + str(tokenizer.mask_token)
            at = b
        (encoded,) = self._masked.encode([text + self._text[at:]])
        # A masked model's text may have a mask of its own before or behind.
        masks = []
        for i, token in enumerate(encoded.ids):
            if token == int(tokenizer.mask_token_id) and encoded.offsets[i][1] > start:
                masks.append(i)
        # The unit's own masks come first; one of the text's own may follow.
        masks = masks[: len(places)]
        if len(masks) < len(places):
            raise AttributionError(
                f"{self._text[start:end]!r} lies beyond what {self._masked.name} reads"
            )
        (batch,) = self._masked.batches([encoded])
        logits = self._masked.forward(batch, logits=True).logits[0, masks].float().cpu()
        choices = []
        for (a, b), row in zip(places, logits, strict=True):
            choices.append(((a, b), self._words(row, self._text[a:b])))
        return choices

    def _words(self, logits: Float[Tensor, " vocab"], present_word: str) -> list[str]:
        """The likeliest whole words other than the text's own, capital where it has one."""
        words: list[str] = []
        tokenizer = self._masked.tokenizer
        for token in logits.topk(min(LOOKED_AT, len(logits))).indices.tolist():
            word = tokenizer.decode([token]).strip()
            written = word[:1].upper() + word[1:] if present_word[:1].isupper() else word
            # The likeliest word is most often the text's own, in another spelling too.
            if written.casefold() != present_word.casefold() and self._is_word(word, token):
                words.append(written)
            if len(words) == PROPOSALS:
                break
        if not words:
            raise AttributionError(
                f"{self._masked.name} proposes no whole word in the place of {present_word!r}"
            )
        return words

    def _is_word(self, word: str, token: int) -> bool:
        """Whether a token by itself is a word: encoded behind a space it is that token,
        and no special one.
        """
        if token in self._masked.tokenizer.all_special_ids or split_words(word) != [(0, len(word))]:
            return False
        # Behind another word, since tokenizers mark a word's beginning by the space before it.
        (encoded,) = self._masked.encode([f"a {word}"])
        tokens = [t for t, s in zip(encoded.ids, encoded.special, strict=True) if not s]
        return tokens[-1:] == [token]
