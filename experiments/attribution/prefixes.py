"""Rows of token ids that begin alike, run through a causal model with each beginning computed once.

Sorted, the rows are cut at a few positions; between two cuts every distinct beginning is one row of
a batch, continued from the keys and values of the beginning that it shares. The cuts are those of
least work. What a causal model says of a position does not depend on what comes behind it, so this
is exact; that this model's cache keeps to it is measured by the caller.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Ids = tuple[int, ...]

CALL = 32
"""What one forward costs beside its tokens, in tokens."""
CACHE_BYTES = 512_000_000
"""Most bytes of keys and values in memory at a time."""

# (ids, first position, cache, positions that are read of each) -> hidden states of those tokens,
# right at least where they are read; the cache then holds them too.
Forward = Callable[[Sequence[Ids], int, Any, Sequence[Sequence[int]]], Float[Tensor, "rows pos d"]]


def cuts(rows: Sequence[Ids]) -> tuple[list[int], int]:
    """Positions at which to cut sorted, distinct rows, with the last one's end, and the tokens that
    are then computed.

    >>> cuts([(1, 2, 3, 4), (1, 2, 3, 5)])[0]  # a call costs more than these three tokens
    [4]
    """
    longest = max(map(len, rows))
    # In sorted rows each shares most with its neighbour.
    shared = np.array([0] + [_shared(a, b) for a, b in pairwise(rows)])
    lengths = np.array([len(row) for row in rows])
    # The least cost of everything in front of each position, the tokens of that way, and its last
    # cut: a shortest path.
    cost = [0.0] + [float("inf")] * longest
    tokens, last_cut = [0] * (longest + 1), [0] * (longest + 1)
    for start in range(longest):
        reaching = shared[lengths > start]
        for stop in range(start + 1, longest + 1):
            # A row that shares less than ``stop`` tokens with the one before begins a beginning of
            # its own.
            computed = max(1, int((reaching < stop).sum())) * (stop - start)
            total = cost[start] + computed + CALL
            if total < cost[stop]:
                cost[stop], tokens[stop], last_cut[stop] = total, tokens[start] + computed, start
    positions, position = [], longest
    while position:
        # Back along the cheapest way, from its end.
        positions.append(position)
        position = last_cut[position]
    return positions[::-1], tokens[longest]


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
    # As many rows as their keys and values fit in memory.
    size = max(1, CACHE_BYTES // token_bytes // max(map(len, rows)))
    out: list[Tensor] = []
    for first in range(0, len(rows), size):
        out += _chunk(
            rows[first : first + size],
            reads[first : first + size],
            forward,
            new_cache,
            batch_tokens,
        )
    return out


def _chunk(
    rows: Sequence[Ids],
    reads: Sequence[Sequence[int]],
    forward: Forward,
    new_cache: Callable[[], Any],
    batch_tokens: int,
) -> list[Tensor]:
    """The states of as many rows as fit in memory: from cut to cut,
    each distinct beginning once.
    """
    states: list[dict[int, Tensor]] = [{} for _ in rows]
    cache: Any = None
    parents = [0] * len(rows)  # which row of the cache holds each row's beginning
    start = 0
    for stop in cuts(rows)[0]:
        level = _Level.between(rows, reads, start, stop)
        caches, hidden = [], []
        for nodes in level.batches(batch_tokens):
            # A node stands for all rows that begin like this; one of them, its owner, is run.
            owners = [level.owners[node] for node in nodes]
            if cache is None:
                of_batch = new_cache()
            else:
                of_batch = _selected(cache, [parents[owner] for owner in owners])
            ids = [rows[owner][start:stop] for owner in owners]
            wanted = [level.reads[node] for node in nodes]
            hidden.append(forward(ids, start, of_batch, wanted))
            caches.append(of_batch)
        level.keep(torch.cat(hidden), reads, states)
        is_continued = any(len(row) > stop for row in rows)
        if is_continued:  # joining copies every key and value: not for the last level
            cache = caches[0] if len(caches) == 1 else _joined(caches)
        parents = [level.nodes.get(row, 0) for row in range(len(rows))]
        start = stop
    return [_stacked(of_row, wanted) for of_row, wanted in zip(states, reads, strict=True)]


def _stacked(states: dict[int, Tensor], reads: Sequence[int]) -> Tensor:
    return torch.stack([states[read] for read in reads])


@dataclass(frozen=True)
class _Level:
    """What is computed between two cuts: a node for each distinct beginning of the rows that reach
    beyond the first cut.

    Args:
        start, stop: the cuts.
        nodes: the node of each such row.
        owners: of each node the last of its rows, whose tokens are run for all of them.
        reads: of each node the positions behind ``start`` that one of its rows reads.
    """

    start: int
    stop: int
    nodes: dict[int, int]
    owners: list[int]
    reads: list[list[int]]

    @classmethod
    def between(
        cls, rows: Sequence[Ids], reads: Sequence[Sequence[int]], start: int, stop: int
    ) -> _Level:
        """The nodes between two cuts; sorted rows that begin alike are neighbours."""
        numbers: dict[Ids, int] = {}
        nodes: dict[int, int] = {}
        for row, ids in enumerate(rows):
            if len(ids) > start:
                # All rows that agree up to here share one computation.
                nodes[row] = numbers.setdefault(ids[:stop], len(numbers))
        owners = [0] * len(numbers)
        wanted: list[set[int]] = [set() for _ in numbers]
        for row, node in nodes.items():
            owners[node] = row
            for read in reads[row]:
                if start <= read < stop:
                    wanted[node].add(read - start)
        return cls(start, stop, nodes, owners, [sorted(places) for places in wanted])

    def batches(self, tokens: int) -> Iterator[range]:
        """The nodes, as many at a time as have so many tokens between the cuts; at least one."""
        size = max(1, tokens // (self.stop - self.start))
        for first in range(0, len(self.owners), size):
            yield range(first, min(first + size, len(self.owners)))

    def keep(
        self,
        hidden: Float[Tensor, "nodes pos d"],
        reads: Sequence[Sequence[int]],
        states: list[dict[int, Tensor]],
    ) -> None:
        """Take each row's states at its reads between the cuts from its node's."""
        for row, node in self.nodes.items():
            for read in reads[row]:
                if self.start <= read < self.stop:
                    states[row][read] = hidden[node, read - self.start]


def _selected(cache: Any, parents: Sequence[int]) -> Any:
    """A cache with a row for each parent; the one given stays as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        if layer.get_seq_length():
            index = torch.tensor(parents, device=layer.keys.device)
            layer.keys = layer.keys.index_select(0, index)
            layer.values = layer.values.index_select(0, index)
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
