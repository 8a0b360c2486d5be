"""Where a model looks its tokens' ids up, and what stands there in a token's place.

Most models have one table, the embedding. Some have more: Gemma 3n and Gemma 4 have a vector of
each token for every layer, and the decoder of a T5 or BART classifier reads the text once more. The
vector of a token is that of all tables, one behind the other (a table that is read twice counts
once): a token is absent where it is absent from each, and a gradient of the input is one of each.

The tables are found by the ids that modules are given. That the model reads ids nowhere else (as
hashes of several, or to choose an expert) is measured: with the vectors of one row in another's
place, it gives the numbers of the first.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...hooks import NothingChanged, UnknownArchitecture, anatomy, edits, intervene
from ...hooks.configuration import setting
from ...hooks.resume import TOLERANCE
from ...hooks.sites import Site, SiteLike
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded
from .units import AttributionError

EMBED, TARGET_EMBED = "hook_embed", "decoder_hook_embed"
TESTED = 6
"""Tokens of the rows by which the tables are found."""
LATEST = 1
"""Most positions by which a table may be given the text later: a decoder reads what stands before
each of its tokens.
"""
PIECE = 8192
"""Rows of a table that are read at a time."""

_TABLES: weakref.WeakKeyDictionary[nn.Module, Tables] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Lookup:
    """One table.

    Args:
        site: whose value its vectors are.
        layer: the module that holds it.
        columns: of a token's vector, those of this table; of tables that share weights the same.
        later: by how many positions it is given the text later.
    """

    site: Site
    layer: nn.Module
    columns: slice
    later: int = 0

    @property
    def rows(self) -> int:
        """Ids that it has a vector of."""
        return len(self.layer.weight)  # pyright: ignore[reportArgumentType]

    def vectors(self, ids: Int[Tensor, " *ids"]) -> Float[Tensor, "*ids d"]:
        """Those of some ids, as the layer gives them (Gemma 3's scales); an id beyond the table has
        the first one, as in Gemma 3n.
        """
        with torch.no_grad():
            # past its hooks: nothing that is put there for a while
            return self.layer.forward(torch.where(ids < self.rows, ids, 0))


@dataclass(frozen=True)
class Tables:
    """All tables of a model.

    Args:
        text: those of a text, or of the source of an encoder-decoder; the embedding is the first.
        target: those of what a decoder has written.
        are_all: whether ids are read nowhere else.
    """

    text: tuple[Lookup, ...]
    target: tuple[Lookup, ...] = ()
    are_all: bool = True

    def of(self, in_target: bool) -> tuple[Lookup, ...]:
        return self.target if in_target else self.text


@dataclass(frozen=True)
class Moments:
    """Of the vocabulary's vectors: the mean and the standard deviation of each number, and that of
    all numbers of its table.
    """

    mean: Float[Tensor, " d_token"]
    deviation: Float[Tensor, " d_token"]
    of_table: Float[Tensor, " d_token"]


def tables(subject: Subject) -> Tables:
    """The model's tables, found at the first call.

    Raises:
        AttributionError: a model whose embedding cannot be changed.
    """
    if subject.model not in _TABLES:
        _TABLES[subject.model] = _find_tables(subject)
    return _TABLES[subject.model]


def embedding(
    subject: Subject, ids: Int[Tensor, " *ids"] | None = None, in_target: bool = False
) -> Float[Tensor, "*ids d_token"]:
    """The vectors of some ids, by default of the vocabulary.

    Args:
        in_target: those of the decoder, in an encoder-decoder.
    """
    of_side = tables(subject).of(in_target)
    ids = torch.arange(of_side[0].rows) if ids is None else ids
    ids = ids.to(subject.device)
    return torch.cat([lookup.vectors(ids) for lookup in distinct(of_side)], dim=-1)


def distinct(lookups: Sequence[Lookup]) -> list[Lookup]:
    """The first of those that share columns."""
    firsts: dict[int, Lookup] = {}
    for lookup in lookups:
        firsts.setdefault(lookup.columns.start, lookup)
    return list(firsts.values())


def moments(subject: Subject, in_target: bool = False) -> Moments:
    """Those of every table over its own rows."""
    means, deviations, of_tables = [], [], []
    for lookup in distinct(tables(subject).of(in_target)):
        total = squares = torch.zeros((), dtype=torch.float64)
        for ids in torch.arange(lookup.rows, device=subject.device).split(PIECE):
            piece = lookup.vectors(ids).double()
            total = total.to(piece) + piece.sum(0)
            squares = squares.to(piece) + piece.square().sum(0)
        n = lookup.rows
        n_all = n * len(total)
        variance = (squares - total.square() / n) / max(n - 1, 1)
        of_all = (squares.sum() - total.sum().square() / n_all) / max(n_all - 1, 1)
        means.append(total / n)
        deviations.append(variance.clamp(min=0).sqrt())
        of_tables.append(of_all.clamp(min=0).sqrt().expand_as(total))
    return Moments(*(torch.cat(each).float() for each in (means, deviations, of_tables)))


@contextmanager
def standing(
    model: nn.Module,
    lookups: Sequence[Lookup],
    numbers: Int[Tensor, "rows pos"],
    vectors: Float[Tensor, "n d_token"],
) -> Iterator[None]:
    """Inside the block tokens have other vectors.

    Args:
        numbers: which of the vectors a token has, -1 for its own.
    """
    edit: dict[SiteLike, Any] = {}
    for lookup in lookups:
        put = partial(_put, lookup=lookup, numbers=numbers, vectors=vectors)
        edit[lookup.site] = edits.function(put, "absent")
    with warnings.catch_warnings(), intervene(model, edit):
        # a pad's embedding is often zero already
        warnings.simplefilter("ignore", NothingChanged)
        yield


def _put(
    value: Float[Tensor, "rows pos d"],
    lookup: Lookup,
    numbers: Int[Tensor, "rows length"],
    vectors: Float[Tensor, "n d_token"],
) -> Tensor:
    # A model may have padded the rows itself (Longformer).
    length = min(numbers.shape[1], value.shape[1] - lookup.later)
    which = torch.full(value.shape[:2], -1, device=value.device)
    which[:, lookup.later : lookup.later + length] = numbers[:, :length].to(value.device)
    new = value.clone()
    is_other = which >= 0
    new[is_other] = vectors.to(value)[which[is_other]][:, lookup.columns]
    return new


def read_off(
    lookups: Sequence[Lookup], values: Sequence[Tensor], length: int
) -> Float[Tensor, "length d_token"]:
    """The vectors of a row's tokens from the values of its sites; 0 where a table is not given the
    last one.
    """
    parts = []
    for lookup, value in zip(lookups, values, strict=True):
        part = value.new_zeros(length, value.shape[-1])
        of_row = value[lookup.later :][:length]
        part[: len(of_row)] = of_row
        parts.append(part)
    return torch.cat(parts, dim=-1)


# -- finding them


def _find_tables(subject: Subject) -> Tables:
    main = _main(subject, EMBED)
    if subject.has_decoder:
        # Of these no model with other tables is known.
        return Tables((main,), (_main(subject, TARGET_EMBED),))
    try:
        first, second = _test_batches(subject)
        calls = [_calls_of(subject, batch) for batch in (first, second)]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return Tables((main,))  # no text by itself is read, such as one without a sound
    lookups = [] if _layer_at(subject.model, EMBED) is None else [main]
    for path, call in calls[0].items():
        other = calls[1].get(path)
        layer = subject.model.get_submodule(path)
        is_main = bool(lookups) and layer is main.layer
        # What depends on positions alone may be given ids, too (BART).
        if other is None or is_main or call.later != other.later or call.is_like(other):
            continue
        columns = _columns(lookups, layer, call.vectors.shape[-1])
        lookups.append(Lookup(Site.parse(f"module:{path}:output"), layer, columns, call.later))
    if not lookups:
        return Tables((main,))
    return Tables(tuple(lookups), are_all=_are_all(subject, lookups, first, second))


def _main(subject: Subject, site: str) -> Lookup:
    """The embedding, of the text or of the decoder."""
    layer = _layer_at(subject.model, site)
    if layer is None:
        with suppress(NotImplementedError):  # such as CANINE, which has several
            layer = subject.model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise AttributionError(
            f"{subject.name} has no embedding whose vectors can be changed (is it quantised?)"
        )
    assert isinstance(layer, nn.Module)
    return Lookup(Site(site), layer, slice(0, _width(subject, layer)))


def _layer_at(model: nn.Module, site: str) -> nn.Module | None:
    """The module whose output is a site, where it is a table."""
    try:
        place = anatomy(model).places.get(site)
    except UnknownArchitecture:
        return None
    layer = None if place is None else model.get_submodule(place.path)
    return layer if _is_table(layer) else None


def _columns(lookups: Sequence[Lookup], layer: nn.Module, width: int) -> slice:
    """Those of a table behind others, or of the one that it shares its weights with."""
    for lookup in lookups:
        other = lookup.layer
        is_same = layer.weight is other.weight
        if is_same and getattr(layer, "embed_scale", 1.0) == getattr(other, "embed_scale", 1.0):
            return lookup.columns
    begin = max((lookup.columns.stop for lookup in lookups), default=0)
    return slice(begin, begin + width)


def _width(subject: Subject, layer: nn.Module) -> int:
    with torch.no_grad():
        return layer.forward(torch.zeros(1, dtype=torch.long, device=subject.device)).shape[-1]


def _is_table(module: nn.Module | None) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2


def _test_batches(subject: Subject) -> list[Batch]:
    """Two rows, without a token in common but the special ones of any text."""
    (text,) = subject.encode(["a"])
    words = [at for at, is_special in enumerate(text.special) if not is_special]
    begin, end = (words[0], words[-1] + 1) if words else (len(text), len(text))
    ordinary = ordinary_tokens(subject)
    length = min(TESTED, len(ordinary) // 2)
    batches: list[Batch] = []
    for tokens in (ordinary[:length], ordinary[length : 2 * length]):
        ids = (*text.ids[:begin], *tokens, *text.ids[end:])
        row = Encoded("", ids, ((0, 0),) * len(ids), (False,) * len(ids))
        batches += subject.batches([row])
    return batches


def _output(subject: Subject, batch: Batch) -> Tensor:
    """What the model says of a batch."""
    out = subject.forward(batch, logits=bool(subject.classes))
    return out.logits if subject.classes else out.last_hidden_state


@dataclass(frozen=True)
class _Call:
    """A table's call: by how much later it was given the ids, and the vectors that it gave."""

    later: int
    vectors: Tensor

    def is_like(self, other: _Call) -> bool:
        """Whether both gave the same vectors."""
        return torch.equal(self.vectors, other.vectors)


def _calls_of(subject: Subject, batch: Batch) -> dict[str, _Call]:
    """The tables that are given a batch's ids, once, in their order."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], out: Any, path: str) -> None:
        is_lookup = bool(args) and isinstance(args[0], Tensor) and isinstance(out, Tensor)
        if is_lookup and not args[0].is_floating_point():
            calls.setdefault(path, []).append((args[0].cpu(), out))

    with ExitStack() as stack:
        for path, module in subject.model.named_modules():
            if _is_table(module):
                hook = module.register_forward_hook(partial(keep, path=path))
                stack.callback(hook.remove)
        _output(subject, batch)
    ids, calls_by_path = batch.input_ids.cpu(), {}
    for path, of_path in calls.items():
        given, vectors = of_path[0]
        if len(of_path) == 1 and given.shape == ids.shape == vectors.shape[:-1]:
            for later in range(LATEST + 1):
                if torch.equal(given[:, later:], ids[:, : ids.shape[1] - later]):
                    calls_by_path[path] = _Call(later, vectors)
    return calls_by_path


def _are_all(subject: Subject, lookups: Sequence[Lookup], first: Batch, second: Batch) -> bool:
    """Whether a row with another one's vectors is that one to the model."""
    expected = _output(subject, first)
    ids = first.input_ids.to(subject.device)
    vectors = torch.cat([lookup.vectors(ids[0]) for lookup in distinct(lookups)], dim=-1)
    numbers = torch.arange(ids.shape[1])[None]
    with standing(subject.model, lookups, numbers, vectors):
        got = _output(subject, second)
    tolerance = max(TOLERANCE, 2 * torch.finfo(expected.dtype).eps) * float(expected.abs().max())
    return float((got - expected).abs().max()) <= tolerance


def ordinary_tokens(subject: Subject) -> list[int]:
    """The ids of tokens that are not special."""
    special = set(subject.tokenizer.all_special_ids)
    size = min(len(subject.tokenizer), _main(subject, EMBED).rows)
    return [token for token in range(size) if token not in special]


def stand_in(subject: Subject) -> int:
    """The id of a token that has another vector: an ordinary one, since models look for pads and
    ends of texts.
    """
    ends = setting(subject.config, "eos_token_id")
    others = {subject.pad_id, *(ends if isinstance(ends, (list, tuple)) else [ends])}
    return next(token for token in ordinary_tokens(subject) if token not in others)
