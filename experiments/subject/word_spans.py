"""Words and the tokens that carry them: spans by character offsets, and pooling over spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
        prefixes: places of tokens that only spell the space in front of the text, though their offsets hold its first
            character; no word owns them.
        unknown: places of the tokenizer's unknown token.
    """

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    special: tuple[bool, ...]
    cut: int | None = None
    prefixes: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

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

    A token shared by two words belongs to both; the lone token of the space that some tokenizers put in front of a text
    belongs to none. A word gets None, never a guess, when truncation
    cut it or dropped it, or when no token carries any of its characters (a tokenizer that deletes
    control characters).

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
            spans.append(slice(min(first[p] for p in tokens), max(last[p] for p in tokens) + 1))
    return spans


def is_unknown(encoded: Encoded, span: slice) -> bool:
    """Whether a word is the unknown token and nothing else: its vector would be that of any other such word."""
    return all(place in encoded.unknown for place in range(span.start, span.stop))


def pool_words(
    hidden: Float[Tensor, "batch pos d_model"],
    spans: Sequence[Sequence[slice | None]],
    how: Pooling = "mean",
) -> Float[Tensor, "words d_model"]:
    """One vector per word: that of its first or last token, or the mean over its tokens.

    Words come row by row in the order given; those whose span is None are left out.

    Args:
        hidden: activations of a batch, in any floating dtype; the mean is taken in float32 or
            wider and returned in the dtype of `hidden`.
        spans: for each row of `hidden`, the token span of each word (`Batch.spans`).
        how: "first", "last" or "mean".

    Raises:
        ValueError: another `how`, a row too many or too few, a span that is empty or past the end.
    """
    batch, length, width = hidden.shape
    if how not in ("first", "last", "mean"):
        raise InputError(f"how={how!r}: expected 'first', 'last' or 'mean'")
    if len(spans) != batch:
        raise InputError(f"{len(spans)} rows of spans for a batch of {batch}")
    flat = [(row, s.start, s.stop) for row, line in enumerate(spans) for s in line if s is not None]
    if not flat:
        return hidden.new_zeros((0, width))
    table = torch.tensor(flat, dtype=torch.long)
    rows, starts, stops = table.unbind(1)
    if bool((starts < 0).any()) or bool((stops <= starts).any()) or bool((stops > length).any()):
        raise InputError(f"a word's span is empty or leaves the {length} positions of its row")
    states = hidden.reshape(batch * length, width)
    if how != "mean":
        at = rows * length + (starts if how == "first" else stops - 1)
        return states.index_select(0, at.to(hidden.device))
    counts = stops - starts
    # Tokens of all words in one row of indices: word by word, then position by position.
    begin = torch.repeat_interleave(rows * length + starts, counts)
    before = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    at = begin + torch.arange(int(counts.sum())) - before
    tokens = states.index_select(0, at.to(hidden.device))
    wide = tokens.to(torch.promote_types(hidden.dtype, torch.float32))
    # A segmented mean sums in a fixed order; index_add does not on a GPU.
    mean = torch.segment_reduce(wide, "mean", lengths=counts.to(hidden.device), axis=0)
    return mean.to(hidden.dtype)
