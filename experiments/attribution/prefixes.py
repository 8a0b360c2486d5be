"""Rows of token ids that begin alike, run through a causal model with each beginning computed once.

Sorted, the rows are cut at a few positions; between two cuts every distinct beginning is one row of a batch, continued from
the keys and values of the beginning that it shares. The cuts are those of least work. What a causal model says of a position
does not depend on what comes behind it, so this is exact; that this model's cache keeps to it is measured by the caller.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Ids = tuple[int, ...]

CALL = 32
"""What one forward costs beside its tokens, in tokens."""
HELD = 512_000_000
"""Bytes of keys and values that are held at a time."""

# (ids, first position, cache, positions that are read of each) -> hidden states of those tokens, right at least where they
# are read; the cache then holds them too.
Forward = Callable[[Sequence[Ids], int, Any, Sequence[Sequence[int]]], Float[Tensor, "rows pos d"]]


def cuts(rows: Sequence[Ids]) -> tuple[list[int], int]:
    """Positions at which to cut sorted, distinct rows, with the last one's end, and the tokens that are then computed.

    >>> cuts([(1, 2, 3, 4), (1, 2, 3, 5)])[0]  # a call costs more than these three tokens
    [4]
    """
    longest = max(map(len, rows))
    alike = np.array([0] + [_shared(a, b) for a, b in pairwise(rows)])
    lengths = np.array([len(row) for row in rows])
    cost = [0.0] + [float("inf")] * longest
    tokens, before = [0] * (longest + 1), [0] * (longest + 1)
    for start in range(longest):
        alive = alike[lengths > start]
        for stop in range(start + 1, longest + 1):
            made = max(1, int((alive < stop).sum())) * (stop - start)
            if cost[start] + made + CALL < cost[stop]:
                cost[stop], tokens[stop], before[stop] = cost[start] + made + CALL, tokens[start] + made, start
    found, at = [], longest
    while at:
        found.append(at)
        at = before[at]
    return found[::-1], tokens[longest]


def run_shared(
    rows: Sequence[Ids],
    reads: Sequence[Sequence[int]],
    forward: Forward,
    new_cache: Callable[[], Any],
    batch_tokens: int,
    token_bytes: int,
) -> list[Float[Tensor, "reads d"]]:
    """The hidden states at each row's reads; rows are sorted and distinct.

    Args:
        token_bytes: of one token's keys and values in all layers.
    """
    size = max(1, HELD // token_bytes // max(map(len, rows)))
    out: list[Tensor] = []
    for first in range(0, len(rows), size):
        out += _chunk(rows[first : first + size], reads[first : first + size], forward, new_cache, batch_tokens)
    return out


def _chunk(
    rows: Sequence[Ids],
    reads: Sequence[Sequence[int]],
    forward: Forward,
    new_cache: Callable[[], Any],
    batch_tokens: int,
) -> list[Tensor]:
    found: list[dict[int, Tensor]] = [{} for _ in rows]
    node = [0] * len(rows)  # which row of the cache holds each row's beginning
    cache: Any = None
    start = 0
    for stop in cuts(rows)[0]:
        alive = [i for i, row in enumerate(rows) if len(row) > start]
        starts: dict[Ids, int] = {}
        children = {i: starts.setdefault(rows[i][:stop], len(starts)) for i in alive}
        owner = {child: i for i, child in children.items()}
        wanted: list[set[int]] = [set() for _ in owner]
        for i, child in children.items():
            wanted[child].update(read - start for read in reads[i] if start <= read < stop)
        per = max(1, batch_tokens // (stop - start))
        pieces, hidden = [], []
        for at in range(0, len(owner), per):
            some = range(at, min(at + per, len(owner)))
            chosen = [owner[child] for child in some]
            piece = new_cache() if cache is None else _selected(cache, [node[i] for i in chosen])
            read = [sorted(wanted[child]) for child in some]
            hidden.append(forward([rows[i][start:stop] for i in chosen], start, piece, read))
            pieces.append(piece)
        states = torch.cat(hidden)
        for i, child in children.items():
            for read in reads[i]:
                if start <= read < stop:
                    found[i][read] = states[child, read - start]
        if any(len(row) > stop for row in rows):
            cache = pieces[0] if len(pieces) == 1 else _joined(pieces)
        node = [children.get(i, 0) for i in range(len(rows))]
        start = stop
    return [torch.stack([own[read] for read in wanted]) for own, wanted in zip(found, reads, strict=True)]


def _selected(cache: Any, parents: Sequence[int]) -> Any:
    """A cache with a row for each parent; the one given stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        if layer.get_seq_length():
            wanted = torch.tensor(parents, device=layer.keys.device)
            layer.keys, layer.values = layer.keys.index_select(0, wanted), layer.values.index_select(0, wanted)
    return new


def _joined(caches: Sequence[Any]) -> Any:
    """One cache of the rows of several."""
    new = copy.copy(caches[0])
    new.layers = [copy.copy(layer) for layer in caches[0].layers]
    for at, layer in enumerate(new.layers):
        if caches[0].layers[at].get_seq_length():
            layer.keys = torch.cat([cache.layers[at].keys for cache in caches])
            layer.values = torch.cat([cache.layers[at].values for cache in caches])
    return new


def _shared(a: Ids, b: Ids) -> int:
    """How many tokens two rows begin alike."""
    for at, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return at
    return min(len(a), len(b))
