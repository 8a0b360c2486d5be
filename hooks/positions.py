"""Positions: which tokens an edit's place means, the same for queries and keys however the model is
run.

Position p is the p-th token of a text, from 0. Padding and an adapter's virtual tokens have none.
-1 is the last token of the text as far as the forward goes. A mask ``batch column`` marks tokens of
the rows as they were given, padding included.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from layerscope.errors import LayerscopeError

from .forwards import Forward
from .sites import HEAD_AXIS, Site

Positions: TypeAlias = "int | Sequence[int] | slice | Bool[Tensor, 'text column']"


class EditError(LayerscopeError, ValueError):
    """An edit that does not fit the site or the text it is used on."""


class PositionsUnknown(EditError):
    """The positions of the tokens in a forward pass cannot be determined, but an edit, a mean per
    position or a store needs them.
    """


def checked_positions(positions: Any) -> Positions:
    """An index, several, a slice or a mask, of whatever types they are given in.

    Raises:
        EditError: it is none of these.
    """
    wrong = EditError(
        f"expected positions as an index, several, a slice or a mask 'batch pos', got {positions!r}"
    )
    if isinstance(positions, slice):
        if positions.step is not None and _index(positions.step, wrong) < 1:
            raise wrong
        for bound in (positions.start, positions.stop):
            if bound is not None:
                _index(bound, wrong)
        return positions
    if hasattr(positions, "tolist"):  # a tensor or an array
        values = torch.as_tensor(positions)
        if values.dtype == torch.bool and values.ndim in (1, 2):
            # To main memory here once, and not at every site of every forward.
            return torch.atleast_2d(values).cpu()
        positions = values.tolist()
    if not isinstance(positions, Iterable):
        return _index(positions, wrong)
    if isinstance(positions, str | Mapping):
        raise wrong
    numbers = list(positions)
    if numbers and all(isinstance(number, bool) for number in numbers):
        return torch.tensor([numbers])
    return [_index(number, wrong) for number in numbers]


def _index(number: Any, wrong: EditError) -> int:
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise wrong
    try:
        return operator.index(number)
    except TypeError:
        raise wrong from None


class Seen:
    """What the forwards of one block have shown so far.

    Attributes:
        ends: column at which a forward ended -> its tokens, where they are known.
        longest: tokens of the longest text.
        grown: whether a forward went on with a text.
    """

    def __init__(self) -> None:
        self.ends: dict[int, Tensor | None] = {}
        self.longest = 0
        self.grown = False
        self._copies: dict[int, int] = {}
        self._awaited: dict[tuple[str, int], str] = {}

    def note(self, forward: Where, batch: int, end: int, longest: int) -> None:
        """One more forward, before its edits."""
        # A forward behind a cache sees a part of its rows only.
        is_whole = forward.start <= forward.virtual
        tokens = forward.tokens
        if not is_whole or tokens is None or len(tokens) != batch:
            tokens = None
        if not is_whole or self._goes_on_from_any(end, tokens):
            self.grown = True
        if tokens is not None:
            # Beams part when they have grown: what repeats is the text as the first forward had it.
            width = tokens.shape[1]
            first = min((e for e in self.ends if e <= width), default=width)
            self._copies[batch] = _copies(tokens[:, :first])
        self.ends.setdefault(end, tokens)
        self.longest = max(self.longest, longest)

    def _goes_on_from_any(self, end: int, tokens: Tensor | None) -> bool:
        """Whether rows begin as those of some earlier forward that ended before them."""
        earlier = [e for e in self.ends if e < end]
        return any(self._goes_on(e, tokens) for e in earlier)

    def _goes_on(self, end: int, tokens: Tensor | None) -> bool:
        before = self.ends[end]
        if before is None or tokens is None or before.ndim != tokens.ndim:
            return before is None and tokens is None
        if len(before) != len(tokens):
            return False
        start = tokens[:, : before.shape[1]].to(before.device)
        return torch.equal(before, start)

    def has_grown_from(self, end: int, tokens: Tensor | None) -> bool:
        """Whether this forward's rows began as those of an earlier
        forward that ended at that column.
        """
        return end in self.ends and self._goes_on(end, tokens)

    def copies(self, batch: int) -> int:
        """How many neighbouring rows repeat each text: beams, several samples."""
        return self._copies.get(batch, 1)

    def wait(self, position: int, message: str) -> None:
        """A position is asked for that no forward has reached yet."""
        self._awaited[message, position] = message

    def require(self) -> None:
        """Raise `EditError` for a position that never came though the texts did not grow."""
        for (message, position), _ in self._awaited.items():
            if position >= self.longest and not self.grown:
                raise EditError(message.format(longest=self.longest))


def _copies(tokens: Tensor) -> int:
    rows = len(tokens)
    for each in range(rows, 1, -1):
        if rows % each:
            continue
        if torch.equal(tokens, tokens[::each].repeat_interleave(each, 0)):
            return each
    return 1


@dataclass(frozen=True)
class Where:
    """Where an edit is at work.

    Args:
        site: the site, with its selection.
        start: columns before this forward's first one; not 0 behind a cache.
        mask: the forward's attention mask ``batch column``, where one was given.
        live: values of this forward that the edit asked for (`Edit.needs`).
        virtual: columns at the start of each row that hold no text (prompt and prefix tuning).
        prefix: how many of these only a cache holds (prefix tuning).
        unknown: why positions are not known; empty where they are.
        tokens: this forward's ids or embeddings, where they are known.
        step: which of so many steps of this forward a value is of; None where it is of all of them.
        position_ids: this forward's, where they may pack several texts into a row.
        chosen: ``rows pos``, where the edit's value is used; None everywhere.
        seen: what the block's forwards have shown.
        forward: the call that all sites of a forward share.
    """

    site: Site = field(default_factory=lambda: Site(""))
    start: int = 0
    mask: Tensor | None = None
    live: Mapping[str, Tensor] = field(default_factory=dict)
    virtual: int = 0
    prefix: int = 0
    unknown: str = ""
    tokens: Tensor | None = None
    step: tuple[int, int] | None = None
    position_ids: Tensor | None = None
    chosen: Tensor | None = None
    seen: Seen = field(default_factory=Seen)
    forward: Forward | None = None

    @classmethod
    def of(cls, forward: Forward, site: Site, live: Mapping[str, Tensor], seen: Seen) -> Where:
        """A site in a forward."""
        # made at every site of every forward: a frozen dataclass sets its fields slowly
        where = object.__new__(cls)
        values = where.__dict__
        values.update(forward.columns)
        values["site"], values["live"], values["seen"] = site, live, seen
        values["chosen"], values["forward"] = None, forward
        return where

    def query_axis(self, value: Tensor) -> int:
        """The axis of ``pos``, or of ``query`` inside attention."""
        return value.ndim - 2 if HEAD_AXIS.get(self.site.part) == 1 else min(1, value.ndim - 1)

    def positions(self, value: Tensor) -> Int[Tensor, "rows pos"]:
        """The text position of every row and column of a value (of its queries, inside attention);
        -1 where no token stands.

        Raises:
            PositionsUnknown: the forward does not tell.
        """
        size = self._columns(value)
        return self._of_value(self._along(value, self.start, size)[0])

    def text(self, batch: int) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]] | None:
        """The ids of the text, as its first forward had them, and which of them are no padding;
        None where they are not known.
        """
        tokens = self.tokens
        if self.start > self.virtual or self.seen.grown:
            # Behind a cache a forward has the last tokens only, without one also those that were
            # added.
            tokens = self.seen.ends[min(self.seen.ends)] if self.seen.ends else None
        if tokens is None or tokens.ndim != 2 or tokens.is_floating_point() or len(tokens) != batch:
            return None
        is_token = torch.ones(tokens.shape, dtype=torch.bool)
        forward = self.forward or Forward()
        mask = self.mask
        if mask is not None and mask is forward.mask:
            mask = forward.mask_on_host  # copied once for all sites
        if mask is not None and mask.ndim == 2:
            columns = mask[:, self.virtual : self.virtual + tokens.shape[1]]
            if columns.shape != tokens.shape:
                return None
            is_token = columns.cpu() != 0 if mask is self.mask else columns
        host_tokens = forward.tokens_on_host if tokens is forward.tokens else None
        return tokens.cpu() if host_tokens is None else host_tokens, is_token

    @property
    def first(self) -> int:
        """The column of a value's first position."""
        return self.start if self.step is None else self.start + self.step[0]

    def _columns(self, value: Tensor) -> int:
        """Columns of this forward."""
        return value.shape[self.query_axis(value)] if self.step is None else self.step[1]

    def _of_value(self, columns: Tensor) -> Tensor:
        """Of something that is known of each column, the value's own."""
        if self.step is None:
            return columns
        at, _ = self.step
        return columns[:, at : at + 1]

    def used(self, value: Tensor) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """`positions`, 0 where no token stands, and where the edit's value is used on a token."""
        at = self.positions(value).expand(len(value), -1)
        is_used = at >= 0
        if self.chosen is not None:
            is_used = is_used & self.chosen
        return at.clamp(min=0), is_used

    def choose(
        self, positions: Positions, value: Tensor, keys: bool = False
    ) -> Bool[Tensor, "rows pos"]:
        """Where positions are in a value: on its position (or query) axis, or on its keys."""
        axis = value.ndim - 1 if keys else self.query_axis(value)
        end = self.start + self._columns(value)
        size = value.shape[axis] if keys else self._columns(value)
        # a window's cache has dropped the earliest keys
        first = max(0, end - size) if keys else self.start
        if isinstance(positions, slice) and positions == slice(None):
            return torch.ones(1, value.shape[axis], dtype=torch.bool)
        at, lengths = self._along(value, first, size)
        if isinstance(positions, Tensor) and positions.dtype == torch.bool:
            return self._of_value(self._marked(positions, len(value), first, size, end))
        if isinstance(positions, slice):
            return self._of_value(self._in_slice(positions, at, lengths, end))
        numbers = positions.tolist() if isinstance(positions, Tensor) else positions
        return self._of_value(self._at(numbers, at, lengths, end))

    def _in_slice(self, positions: slice, at: Tensor, lengths: Tensor, end: int) -> Tensor:
        """Rows and columns whose text position is in a slice,
        which counts from each text's own end.
        """
        bounds = [p for p in (positions.start, positions.stop) if p is not None]
        self._refuse_pieces(bounds, end)
        chosen = torch.zeros_like(at, dtype=torch.bool)
        for length in lengths.unique().tolist():
            inside = torch.arange(length)[positions.start : positions.stop : positions.step or 1]
            chosen |= torch.isin(at, inside) & (lengths == length)
        return chosen

    def _at(self, positions: int | Sequence[int], at: Tensor, lengths: Tensor, end: int) -> Tensor:
        """Rows and columns whose text position is among these."""
        assert not isinstance(positions, slice)
        wanted = [positions] if isinstance(positions, int) else [int(p) for p in positions]
        self._refuse_pieces(wanted, end)
        # A row without tokens has length 0, and no position is asked of it.
        has_tokens = lengths > 0
        shortest = int(lengths[has_tokens].min()) if bool(has_tokens.any()) else 0
        longest = int(lengths.max())
        chosen = torch.zeros_like(at, dtype=torch.bool)
        for p in wanted:
            message = f"{self.site}: expected positions below {{longest}}, got {p}"
            if p < 0 and -p > shortest:
                raise EditError(message.format(longest=shortest))
            # A position that is still to come is not wrong yet: `require` decides when all forwards
            # have run.
            if p >= longest:
                self.seen.wait(p, message)
            chosen |= at == (p if p >= 0 else lengths + p)
        return chosen & (at >= 0)

    def _refuse_pieces(self, positions: Sequence[int], end: int) -> None:
        """Positions from the end mean the last token of the text, not of each of its pieces."""
        in_cache = self.start > self.virtual
        goes_on = end - self.start > 1 and any(self.start <= e < end for e in self.seen.ends)
        if in_cache and goes_on and any(p < 0 for p in positions):
            raise EditError(
                f"{self.site}: expected positions from the start of the text, "
                f"got {min(positions)}: the text came in pieces, "
                "and the end of a piece is not its end"
            )

    def _marked(self, mask: Tensor, batch: int, first: int, size: int, end: int) -> Tensor:
        """A token mask's part in these columns; tokens that `generate` has added are not marked."""
        length = mask.shape[-1]
        text = torch.arange(first, first + size) - self.virtual
        begin, stop = max(0, self.start - self.virtual), end - self.virtual
        message = f"{self.site}: expected a mask over {stop} positions, got {length}"
        ends_within = begin < length < stop
        if ends_within and not self.seen.has_grown_from(length + self.virtual, self.tokens):
            raise EditError(message)
        if length > stop:
            self.seen.wait(length - 1, message)
        is_covered = (text >= 0) & (text < min(length, stop))
        rows = self.by_row(torch.atleast_2d(mask).cpu(), batch)
        if len(rows) not in (1, batch):
            raise EditError(f"{self.site}: expected a mask of {batch} texts, got {len(rows)}")
        return rows[:, text.clamp(0, length - 1)] & is_covered

    def by_row(self, texts: Tensor, batch: int) -> Tensor:
        """What is given for each text, for each of the rows that repeat it (beams)."""
        copies = self.seen.copies(batch)
        is_repeated = copies > 1 and len(texts) * copies == batch
        return texts.repeat_interleave(copies, 0) if is_repeated else texts

    def _along(
        self, value: Tensor, first: int, size: int
    ) -> tuple[Int[Tensor, "rows pos"], Int[Tensor, "rows 1"]]:
        """Text positions of some columns,
        and the length of each text as far as this forward goes.
        """
        if self.unknown:
            raise PositionsUnknown(f"{self.site}: positions are not known: {self.unknown}")
        end = self.start + self._columns(value)
        columns = torch.arange(first, first + size)
        mask = self._covering(len(value), end)
        if self.position_ids is not None and _begins_again(
            self.position_ids, mask, self.start, end
        ):
            raise PositionsUnknown(
                f"{self.site}: positions are not known: the position ids begin again within "
                "a row, which packs several texts: give each text a row of its own"
            )
        if mask is None:
            at = (columns - self.virtual)[None]
            lengths = torch.tensor([[end - self.virtual]])
        else:
            # A token's position is the number of tokens before it.
            counts = mask.long().cumsum(1) - self.virtual
            at = torch.where(mask, counts - 1, -1)[:, columns.clamp(max=end - 1)]
            lengths = counts[:, -1:]
        self.seen.note(self, len(value), end, int(lengths.max()))
        is_outside = (columns >= end) | (at < 0)
        return at.masked_fill(is_outside, -1), lengths

    def _covering(self, batch: int, end: int) -> Bool[Tensor, "batch column"] | None:
        """The mask, of every row and column up to this forward's end;
        None where it hides nothing.
        """
        size = end - self.start
        if self.tokens is not None and self.tokens.shape[1] != size:
            raise PositionsUnknown(
                f"{self.site}: positions are not known: expected {self.tokens.shape[1]} of "
                f"them, as the model was given, got {size}"
            )
        if self.mask is None:
            return None
        on_host = None
        if self.forward is not None and self.forward.mask is self.mask:
            on_host = self.forward.mask_on_host  # copied once for all sites
        mask = self.mask.bool().cpu() if on_host is None else on_host
        mask = mask.expand(batch, -1) if len(mask) == 1 else mask
        # A mask that hides nothing is none; edits are then spared the look at each column.
        if bool(mask.all()):
            return None
        if mask.shape != (batch, end):
            raise PositionsUnknown(
                f"{self.site}: positions are not known: expected an attention mask of "
                f"{[batch, end]} texts and positions, got {list(mask.shape)}"
            )
        return mask


def _begins_again(position_ids: Tensor, mask: Tensor | None, start: int, end: int) -> bool:
    """Whether some token's position id is not above those before it in its row."""
    if position_ids.ndim != 2 or position_ids.shape[1] != end - start:
        return False  # of pictures, or with an adapter's columns in front
    numbers = position_ids.cpu()
    is_token = torch.ones_like(numbers, dtype=torch.bool) if mask is None else mask[:, start:end]
    numbers, is_token = torch.broadcast_tensors(numbers, is_token)
    # Padding has whatever number.
    numbers = numbers.masked_fill(~is_token, torch.iinfo(numbers.dtype).min)
    highest = numbers.cummax(1).values
    is_above = numbers[:, 1:] > highest[:, :-1]
    return bool((is_token[:, 1:] & ~is_above).any())
