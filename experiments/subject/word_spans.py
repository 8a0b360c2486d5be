"""Words and the tokens that carry them: spans by character offsets, and pooling over spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from layerscope.errors import InputError

Pooling = Literal["first", "last", "mean"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model reads it.

    Attributes:
        text: the text itself.
        ids: token ids, special tokens included.
        offsets: (start, end) of each token in characters of `text`; (0, 0) for special tokens.
        special: whether a token was added around the text (BOS, CLS, SEP, </s>).
        cut: character at which truncation cut the text, or None if all of it is there.
        prefixes: places of tokens that only spell the space in front of the text, though their
            offsets hold its first character; no word owns them.
        unknown: places of the tokenizer's unknown token.
        picture: that the text is about (`experiments.subject.pictures.Picture`); its cells stand
            first.
        sound: whose positions the ids are (`experiments.subject.spoken.Sound`).
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    cut: int | None = None
    prefixes: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    picture: Any = None
    sound: Any = None

    def __len__(self) -> int:
        return len(self.ids)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The character range without the white space at its ends (GPT-2 counts it to its token)."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def word_spans(encoded: Encoded, words: Sequence[tuple[int, int]]) -> list[slice | None]:
    """The tokens of each word: from the first to the last that shares a visible character with it.

    A token shared by two words belongs to both; the lone token of the space that some tokenizers
    put in front of a text belongs to none. A word gets None, never a guess, when truncation cut it
    or dropped it, or when no token carries any of its characters (a tokenizer that deletes control
    characters).

    Args:
        encoded: a text from `Subject.encode`.
        words: (start, end) of each word in characters of `encoded.text`.

    Raises:
        ValueError: a word that does not lie inside the text.

    Example:
        >>> e = Encoded("ab cd", (7, 8, 9), ((0, 2), (2, 4), (4, 5)), (False,) * 3)
        >>> word_spans(e, [(0, 2), (3, 5)])
        [slice(0, 1, None), slice(1, 3, None)]
    """
    text, size = encoded.text, len(encoded.text)
    first, last = [-1] * size, [-1] * size
    for index, (start, end) in enumerate(encoded.offsets):
        if encoded.special[index] or index in encoded.prefixes:
            continue
        for place in range(start, end):
            if first[place] < 0:
                first[place] = index
            last[place] = max(last[place], index)
    spans: list[slice | None] = []
    for start, end in words:
        if not 0 <= start < end <= size:
            raise InputError(f"word ({start}, {end}) does not lie in a text of {size} characters")
        # A word of white space only (a lone no-break space) still owns the token that holds it.
        visible = [p for p in range(start, end) if not text[p].isspace()] or range(start, end)
        tokens = [p for p in visible if first[p] >= 0]
        whole = encoded.cut is None or max(visible) < encoded.cut
        if not tokens or not whole:
            spans.append(None)
        else:
            begin = min(first[p] for p in tokens)
            spans.append(slice(begin, max(last[p] for p in tokens) + 1))
    return spans


def is_unknown(encoded: Encoded, span: slice) -> bool:
    """Whether a word is the unknown token and nothing else:
    its vector would be that of any other such word.
    """
    return all(place in encoded.unknown for place in range(span.start, span.stop))


class Pooler:
    """One vector per word: that of its first or last token, or the mean over its tokens.

    Words come row by row in the order given; those whose span is None are left out. The indices are
    made once, and sent once to each device that values lie on.

    Args:
        spans: for each row of a batch, the token span of each word (`Batch.spans`).
        how: "first", "last" or "mean".

    Raises:
        ValueError: another `how`; when it is called, a row too many or too few, a span that is
            empty or past the end.
    """

    def __init__(self, spans: Sequence[Sequence[slice | None]], how: Pooling = "mean") -> None:
        if how not in ("first", "last", "mean"):
            raise InputError(f"how={how!r}: expected 'first', 'last' or 'mean'")
        self.how, self.n_rows = how, len(spans)
        flat = []
        for row, line in enumerate(spans):
            flat += [(row, span.start, span.stop) for span in line if span is not None]
        self._table = torch.tensor(flat, dtype=torch.long).view(-1, 3)
        self._made: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, hidden: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "words d_model"]:
        """The words' vectors; a mean is taken in float32 or wider and
        returned in the dtype of ``hidden``.
        """
        batch, length, width = hidden.shape
        if self.n_rows != batch:
            raise InputError(f"{self.n_rows} rows of spans for a batch of {batch}")
        if not len(self._table):
            return hidden.new_zeros((0, width))
        key = length, hidden.device
        if key not in self._made:
            at, counts = self._indices(length)
            self._made[key] = at.to(hidden.device), counts.to(hidden.device)
        at, counts = self._made[key]
        tokens = hidden.reshape(batch * length, width).index_select(0, at)
        if self.how != "mean":
            return tokens
        wide = tokens.to(torch.promote_types(hidden.dtype, torch.float32))
        # A segmented mean sums in a fixed order; index_add does not on a GPU.
        return torch.segment_reduce(wide, "mean", lengths=counts, axis=0).to(hidden.dtype)

    def _indices(self, length: int) -> tuple[Tensor, Tensor]:
        """Which rows of all positions are read, and how many of them for each word."""
        rows, starts, stops = self._table.unbind(1)
        if (
            bool((starts < 0).any())
            or bool((stops <= starts).any())
            or bool((stops > length).any())
        ):
            raise InputError(f"a word's span is empty or leaves the {length} positions of its row")
        counts = stops - starts
        if self.how != "mean":
            return rows * length + (starts if self.how == "first" else stops - 1), counts
        # Tokens of all words in one row of indices: word by word, then position by position.
        begin = torch.repeat_interleave(rows * length + starts, counts)
        before = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        return begin + torch.arange(int(counts.sum())) - before, counts


def pool_words(
    hidden: Float[Tensor, "batch pos d_model"],
    spans: Sequence[Sequence[slice | None]],
    how: Pooling = "mean",
) -> Float[Tensor, "words d_model"]:
    """One vector per word of a batch; see `Pooler`, which serves several sites of one batch."""
    return Pooler(spans, how)(hidden)
