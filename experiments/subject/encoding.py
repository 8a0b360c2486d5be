"""Texts as the tokens that a model reads: the recorded tokens in front, cut at the end,
offsets into the text.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

from .errors import SubjectError, reading
from .word_spans import Encoded, trimmed

_SPACES = ("\u2581", "\u0120")
"""A space and nothing else, in SentencePiece's spelling and in that of bytes."""
TEXTS_TOGETHER = 1024
"""Texts that are tokenized in one call."""


def own_copy(tokenizer: Any) -> Any:
    """A copy that neither cuts nor pads:
    calling a fast tokenizer resets what it was set up with.
    """
    copied = copy.deepcopy(tokenizer)
    copied.backend_tokenizer.no_truncation()
    copied.backend_tokenizer.no_padding()
    return copied


def read_with(tokenizer: Any, *texts: Any, **how: Any) -> Any:
    """What a tokenizer gives for texts.

    Raises:
        SubjectError: its own refusal, such as of a word that has no token where none is for unknown
            ones.
    """
    with reading(tokenizer, "the text"):
        return tokenizer(*texts, **how)


class TextEncoder:
    """Cuts texts into tokens with a private tokenizer.

    Args:
        tokenizer: fast, neither cutting nor padding; see `own_copy`.
        prefix: the tokens in front of every text; None leaves those of the tokenizer.
        max_length: longest row in tokens.
        n_embeddings: of the model, where it is known.
    """

    def __init__(
        self,
        tokenizer: Any,
        prefix: tuple[int, ...] | None,
        max_length: int,
        n_embeddings: int | None = None,
    ) -> None:
        self._n_embeddings = n_embeddings
        self._tokenizer, self._prefix, self._max_length = tokenizer, prefix, max_length

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize, with the recorded tokens in front and cut at the end of the text."""
        if isinstance(texts, str):
            raise SubjectError("encode takes a list of texts, got one string")
        _require_characters(texts)
        encoded: list[Encoded] = []
        # What a tokenizer gives of a text takes many times what is kept of it: some texts at a
        # time.
        for start in range(0, len(texts), TEXTS_TOGETHER):
            encoded += self._encoded_together(texts[start : start + TEXTS_TOGETHER])
        return encoded

    def _encoded_together(self, texts: Sequence[str]) -> list[Encoded]:
        out = read_with(
            self._tokenizer,
            list(texts),
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        return [
            self._encoded(text, ids, offsets, special)
            for text, ids, offsets, special in zip(
                texts,
                out["input_ids"],
                out["offset_mapping"],
                out["special_tokens_mask"],
                strict=True,
            )
        ]

    def encode_pair(self, first: str, second: str) -> tuple[Encoded, list[int]]:
        """Two texts as the tokenizer joins them, and the type of each token; offsets are in both
        texts, a line each.

        Nothing is cut: ``cut`` is set where the two are too long.
        """
        out = read_with(
            self._tokenizer,
            first,
            second,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_token_type_ids=True,
            truncation=False,
            verbose=False,
        )
        shift = len(first) + 1
        offsets = [
            (start + shift, end + shift) if number == 1 else (start, end)
            for (start, end), number in zip(out["offset_mapping"], out.sequence_ids(0), strict=True)
        ]
        ids, special = out["input_ids"], out["special_tokens_mask"]
        encoded = self._encoded(f"{first}\n{second}", ids, offsets, special)
        return encoded, list(out.get("token_type_ids") or [0] * len(ids))

    def target(self, target: str, start: int) -> Encoded:
        """What a decoder reads: its start token, what the tokenizer puts in front of every target,
        and the target.
        """
        front, n_back = self._target_frame
        # Whisper's tokenizer opens every target itself.
        opening = front if front[:1] == (start,) else (start, *front)
        ids, offsets = list(opening), [(0, 0)] * len(opening)
        special = [True] * len(ids)
        if target:
            _require_characters([target])
            out = read_with(
                self._tokenizer,
                text_target=target,
                return_offsets_mapping=True,
                truncation=False,
                verbose=False,
            )
            inside = slice(len(front), len(out["input_ids"]) - n_back)
            ids += out["input_ids"][inside]
            offsets += out["offset_mapping"][inside]
            special += [False] * (len(ids) - len(special))
        return Encoded(target, tuple(ids), tuple(offsets), tuple(special))

    @functools.cached_property
    def _target_frame(self) -> tuple[tuple[int, ...], int]:
        """The special tokens that the tokenizer puts in front of every target, such as its
        language, and how many behind.
        """
        out = read_with(self._tokenizer, text_target="a", return_special_tokens_mask=True)
        special = out["special_tokens_mask"]
        front = next((i for i, s in enumerate(special) if not s), 0)
        back = next((i for i, s in enumerate(reversed(special)) if not s), 0)
        return tuple(out["input_ids"][:front]), back

    def _require_embeddings(self, ids: tuple[int, ...]) -> None:
        largest = max(ids, default=0)
        if self._n_embeddings is not None and largest >= self._n_embeddings:
            token = self._tokenizer.convert_ids_to_tokens(largest)
            raise SubjectError(
                f"the tokenizer gives token {token!r} the id {largest}, the model has "
                f"{self._n_embeddings:,} embeddings: expected a model and its own tokenizer"
            )

    def _encoded(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]], special: list[int]
    ) -> Encoded:
        front = next((i for i, s in enumerate(special) if not s), 0)
        back = next((i for i, s in enumerate(reversed(special)) if not s), len(special) - front)
        stop = len(ids) - back
        prefix = list(ids[:front]) if self._prefix is None else list(self._prefix)
        if prefix and front < stop and ids[front] == prefix[-1] and prefix[-1] in self._special_ids:
            front += 1  # the text spells its own BOS, as chat templates do: one is enough
        room = max(self._max_length - len(prefix) - back, 0)
        cut = None
        if stop - front > room:
            dropped = (trimmed(text, *pair) for pair in offsets[front + room : stop])
            cut = next((start for start, end in dropped if end > start), None)
            stop = front + room
        whole = (*prefix, *ids[front:stop], *ids[len(ids) - back :])
        self._require_embeddings(whole)
        nowhere = [(0, 0)]
        places = (*nowhere * len(prefix), *offsets[front:stop], *nowhere * back)
        is_special = (
            *[True] * len(prefix),
            *map(bool, special[front:stop]),
            *[True] * back,
        )
        of_text = range(len(prefix), len(prefix) + stop - front)
        lone = [i for i in of_text if whole[i] in self._spaces]
        # A space that the text has is no lone prefix.
        spaces = tuple(i for i in lone if text[slice(*places[i])].strip() not in ("", _SPACES[0]))
        unknown = tuple(i for i in of_text if whole[i] == self._unknown)
        return Encoded(text, whole, places, is_special, cut, spaces, unknown)

    @functools.cached_property
    def _spaces(self) -> frozenset[int]:
        """Ids of tokens that spell a space and nothing else."""
        known = self._tokenizer.get_vocab()
        return frozenset(known[token] for token in _SPACES if token in known)

    @functools.cached_property
    def _unknown(self) -> int | None:
        """Id of the unknown token; None for a tokenizer that can spell everything."""
        return self._tokenizer.unk_token_id

    def form(self, word: str) -> str:
        """A word as the model sees it:
        an uncased tokenizer makes no difference between ``The`` and ``the``.
        """
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        return word if normalizer is None else normalizer.normalize_str(word)

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        """Tokens that no ordinary text makes."""
        added = self._tokenizer.added_tokens_decoder
        special = (token for token, content in added.items() if content.special)
        return frozenset((*special, *self._tokenizer.all_special_ids))


def _require_characters(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise SubjectError(
                f"text {number} ({text[:40]!a}): expected characters, "
                f"got half of one ({half}, a lone surrogate)"
            ) from None
