"""One scorer of changed rows: each distinct row once, shared beginnings once,
logits only where they are read.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...hooks.configuration import head_counts
from ..report.schema import Note
from ..subject import Subject
from ..subject.batches import Batch
from .lookups import stand_in, standing, tables
from .prefixes import cuts, run_shared
from .question import Part, Question, as_encoded, no_number
from .units import AttributionError

Made = TypeVar("Made")
SHARE_BELOW = 0.85
"""Beginnings are shared where that leaves less than this share of the tokens to compute."""
CHECKED = 2
"""How many rows, at most, the first shared run has in common with runs without sharing."""


@dataclass(frozen=True)
class Cost:
    """What an attribution cost.

    Args:
        asked: how many changed texts its values are of.
        forwards: texts that were run through the model, each distinct one once.
        backwards: texts for which a gradient was computed.
        tokens: tokens that the forwards computed, beginnings that are shared counted once.
    """

    asked: int = 0
    forwards: int = 0
    backwards: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            *(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__)
        )


PIECE = 256
"""Rows whose states are projected at a time."""
ROUNDING, HALF_ROUNDING = 1e-3, 5e-2
"""By how much of the value a cache may change it, in single and in half precision."""


@dataclass(frozen=True)
class Row:
    """A changed row: token ids, or -1 - k for the scorer's k-th vector; its reads,
    -1 for one that was deleted.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]


class Scorer:
    """Values of a question's parts on changed rows.

    Args:
        batch_tokens: tokens of the rows that share a batch.
        share: whether beginnings may be shared; that it changes nothing is measured once.

    Attributes:
        cost: what all calls so far have cost.
        notes: what a result should say.
    """

    def __init__(self, question: Question, batch_tokens: int = 2048, share: bool = True) -> None:
        self.question, self.subject = question, question.subject
        self.batch_tokens = batch_tokens
        self.cost = Cost()
        self.notes: list[Note] = []
        self._vectors: list[Float[Tensor, " d"]] = []
        self._ids: dict[bytes, int] = {}
        self._made: dict[Hashable, Any] = {}
        self._known: dict[tuple[Part, Row], float] = {}
        end = question.endpoint
        is_text = question.medium is None
        self._share = share and is_text and self.subject.causal and not end.whole
        self._checked = False
        self._run_plain: list[tuple[Part, Row]] = []  # whose values are right without a cache

    def vector(self, value: Float[Tensor, " d"]) -> int:
        """The id by which rows have this vector in a token's place; equal vectors have one."""
        key = value.detach().float().cpu().numpy().tobytes()
        if key not in self._ids:
            self._vectors.append(value.detach())
            self._ids[key] = -len(self._vectors)
        return self._ids[key]

    def own_vector(self, token: int) -> Float[Tensor, " d"]:
        """The vector of an id below 0."""
        return self._vectors[-1 - token]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def __call__(self, rows: Sequence[Row], part: Part) -> Float[np.ndarray, " rows"]:
        """The part's share of the value of each row."""
        self.cost += Cost(asked=len(rows))
        unknown = {row for row in rows if (part, row) not in self._known}
        # Sorted, so that rows that begin alike are neighbours.
        missing = sorted(unknown, key=lambda row: row.ids)
        if missing:
            with torch.inference_mode():
                values = self._shared(missing, part) if self._worth_sharing(missing) else None
                if values is None:
                    values = self._plain(missing, part)
                    if not self._checked:
                        self._run_plain += [(part, row) for row in missing[:CHECKED]]
            if not np.isfinite(values).all():
                raise AttributionError(no_number(self.question))
            for row, value in zip(missing, values, strict=True):
                self._known[part, row] = value
            self.cost += Cost(forwards=len(missing))
        return np.array([self._known[part, row] for row in rows])

    def _worth_sharing(self, rows: Sequence[Row]) -> bool:
        if not self._share or len(rows) < 2 * CHECKED:
            return False
        if any(read < 0 for row in rows for read in row.reads):
            return False
        ids = [row.ids for row in rows]
        _, n_computed = cuts(ids)
        return n_computed < SHARE_BELOW * sum(map(len, ids))

    # -- rows in batches

    def _plain(self, rows: Sequence[Row], part: Part) -> list[float]:
        values = [0.0] * len(rows)
        encoded = [as_encoded(row.ids) for row in rows]
        for batch in self.subject.batches(encoded, tokens=self.batch_tokens):
            with contextlib.ExitStack() as stack:
                ids = stack.enter_context(self._embedded(batch.input_ids))
                known = replace(batch, input_ids=ids)
                if batch.target is not None:
                    target_ids = self._embedded(batch.target.ids, in_target=True)
                    target = replace(batch.target, ids=stack.enter_context(target_ids))
                    known = replace(known, target=target)
                forward = partial(self.question.forward, known)
                states = self.question.endpoint.states(lambda whole, run=forward: run(logits=whole))
            wanted = self.question.read_at(batch, [rows[i].reads for i in batch.rows])
            of_batch = self._values(states, wanted, part)
            for i, value in zip(batch.rows, of_batch, strict=True):
                values[i] = value
            self.cost += Cost(tokens=int(batch.attention_mask.sum()))
        return values

    def _values(
        self, states: Float[Tensor, "rows pos d"], reads: Int[Tensor, "rows reads"], part: Part
    ) -> list[float]:
        wanted = reads.to(states.device)
        row = torch.arange(len(wanted), device=states.device)[:, None]
        hidden = states[row, wanted.clamp(min=0)]
        return self._of(hidden, wanted >= 0, part)

    def _of(self, hidden: Tensor, present: Bool[Tensor, "rows reads"], part: Part) -> list[float]:
        """Values from the states at the reads, projected a piece at a time."""
        values: list[float] = []
        pieces = zip(hidden.split(PIECE), present.split(PIECE), strict=True)
        for of_rows, is_present in pieces:
            logits = self.question.endpoint.of(of_rows, is_present)
            values += self.question.value(logits, part).double().tolist()
        return values

    @contextlib.contextmanager
    def _embedded(self, ids: Tensor, in_target: bool = False) -> Iterator[Tensor]:
        """The ids that the model can be given,
        the scorer's own vectors standing where these are looked up.
        """
        is_vector = ids < 0
        if not bool(is_vector.any()):
            yield ids
            return
        # Ids below 0 name the scorer's own vectors.
        used, numbers = torch.unique(-1 - ids[is_vector], return_inverse=True)
        vectors = torch.stack([self._vectors[k] for k in used.tolist()])
        names = torch.full_like(ids, -1)
        names[is_vector] = numbers
        lookups = tables(self.subject).of(in_target)
        token = self.once("stand-in", lambda: stand_in(self.subject))
        with standing(self.subject.model, lookups, names, vectors):
            yield ids.masked_fill(is_vector, token)

    # -- shared beginnings

    def _shared(self, rows: Sequence[Row], part: Part) -> list[float] | None:
        """The same, beginnings computed once; None where this model's cache does not keep to it."""
        # What is known without a cache runs with it once more: a row among others costs little.
        known = [] if self._checked else self._known_plain(part)
        together = sorted([*rows, *known], key=lambda row: row.ids)
        before = self.cost
        try:
            values = self._by_cache(together, part)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            self._share, self.cost = False, before
            return None
        if not self._checked and not self._agrees(together, values, part, known):
            self._share = False
            text = (
                "this model's outputs change when its cache is used, "
                "so shared beginnings are computed again"
            )
            self.notes.append(Note(kind="info", text=text))
            return None
        self._checked = True
        of_row = dict(zip(together, values, strict=True))
        return [of_row[row] for row in rows]

    def _by_cache(self, rows: Sequence[Row], part: Part) -> list[float]:
        """Values of sorted rows whose shared beginnings are computed once."""
        from transformers import DynamicCache

        reads = [row.reads for row in rows]
        new_cache: Callable[[], Any] = partial(DynamicCache, config=self.subject.config)
        states = run_shared(
            [row.ids for row in rows],
            reads,
            self._continued,
            new_cache,
            self.batch_tokens,
            _cache_bytes(self.subject),
        )
        present = torch.ones(len(rows), len(reads[0]), dtype=torch.bool)
        return self._of(torch.stack(states), present, part)

    def _known_plain(self, part: Part) -> list[Row]:
        """Rows of a part that were run without a cache, and whose reads are all there."""
        rows: list[Row] = []
        for of_part, row in self._run_plain:
            if of_part is part and all(read >= 0 for read in row.reads):
                rows.append(row)
        return rows[:CHECKED]

    def _agrees(
        self, rows: Sequence[Row], values: Sequence[float], part: Part, known: Sequence[Row]
    ) -> bool:
        """Whether the rows that are known, else the first and the last one, have the same value by
        themselves.
        """
        if known:
            expected = [self._known[part, row] for row in known]
        else:
            known = [rows[0], rows[-1]]
            expected = self._plain(known, part)
            self.cost += Cost(forwards=len(known))
        is_half = self.subject.dtype in (torch.float16, torch.bfloat16)
        rounding = HALF_ROUNDING if is_half else ROUNDING
        bound = rounding * max(1.0, *map(abs, expected))
        of_row = dict(zip(rows, values, strict=True))
        errors = [abs(of_row[row] - value) for row, value in zip(known, expected, strict=True)]
        return max(errors) <= bound

    def _continued(
        self,
        rows: Sequence[tuple[int, ...]],
        start: int,
        cache: Any,
        reads: Sequence[Sequence[int]],
    ) -> Float[Tensor, "rows pos d"]:
        """Hidden states, at the reads, of rows whose beginning a cache holds."""
        length = max(map(len, rows))
        # Padded on the right, where a causal model's earlier positions do not see it: no mask is
        # needed.
        ids = torch.tensor([[*row, *[self.subject.pad_id] * (length - len(row))] for row in rows])
        body, device = self.subject.body, self.subject.device
        arguments: dict[str, Any] = {}
        if "position_ids" in inspect.signature(body.forward).parameters:
            positions = torch.arange(start, start + length, device=device)
            arguments["position_ids"] = positions.expand(len(rows), -1)
        self.cost += Cost(tokens=sum(map(len, rows)))
        reads_few = 2 * max(map(len, reads)) <= length
        with self._embedded(ids) as known, grouped_keys(device):

            def run(whole: bool) -> Any:
                return body(
                    known.to(device),
                    past_key_values=cache,
                    use_cache=True,
                    return_dict=True,
                    **arguments,
                )

            # Where most positions are read, to pick them out costs more than it saves.
            only = [read or [0] for read in reads] if reads_few else None
            return self.question.endpoint.states(run, only)


@contextlib.contextmanager
def grouped_keys(device: torch.device) -> Iterator[None]:
    """While this lasts, heads that share keys read them where they are, in fused attention with a
    mask on a CPU.

    transformers copies the keys for each head there, which took a tenth of the time; the numbers
    are the same.
    """
    name = "TRANSFORMERS_SDPA_FORCE_GQA"
    before = os.environ.get(name)
    if device.type != "cpu" or before is not None:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _cache_bytes(subject: Subject) -> int:
    """Bytes of one token's keys and values,
    where the configuration says less than that of heads that share nothing.
    """
    heads, shared = head_counts(subject.config)
    size = subject.dtype.itemsize
    return max(1, 2 * subject.n_layers * subject.d_model * size * shared // heads)


def row_batch(question: Question, part: Part, rows: int) -> Batch:
    """A part's row several times in one batch."""
    (batch,) = question.subject.batches([part.encoded] * rows, tokens=rows * len(part.ids))
    return batch


def part_values(
    question: Question, part: Part, batch: Batch, grad: bool = False, few: bool = False
) -> Float[Tensor, " rows"]:
    """The part's value on each copy of its row, in their graph if ``grad``;
    ``few`` leaves out what nobody reads.
    """
    end, reads = question.endpoint, list(part.reads) or [0]
    # Picking positions costs a little: it is worth it where half of them or more are not read.
    is_worth_it = few and 2 * len(reads) <= len(part.ids)
    only = [reads] * len(batch.input_ids) if is_worth_it else None

    def run(whole: bool) -> Any:
        return question.forward(batch, logits=whole, grad=grad)

    states = end.states(run, only)
    places = question.read_at(batch, [reads] * len(batch))[0].tolist()
    with torch.set_grad_enabled(grad):
        hidden = states[:, places]
        present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return question.value(end.of(hidden, present), part)
