r"""Statistics of every head over a corpus, from sums that are made while the patterns pass by.

For each token q of the text itself that sees n >= 2 keys, with attention :math:`A_{qk}`:

    entropy      -sum_k A log A / log n               1 for uniform attention, 0 for one place
    confidence   max A over tokens of the text        (Voita et al. 2019)
    distance     sum |q - k| A / sum A                over tokens of the text
    first, end   A on position 0, on special tokens after the text
    punctuation  A on tokens that are punctuation
    self, previous, next                              A on q, q - 1, q + 1
    norm_*       share of sum_k A |v_k W_O| that falls on first, end, punctuation (Kobayashi et al. 2020)
    output       |z W_O|, the size of what the head adds
    sink         what no token gets, in a model whose softmax has a learned sink; to the entropy it is one more key

Each is a ratio of sums over tokens; its interval resamples sentences. Above ``GROUPS`` sentences these are dealt at random
into as many groups and the groups resampled, so that what is held does not grow with the corpus.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerscope.errors import InputError

from ...probes.evaluation import ClusterBootstrap
from ..subject import Subject
from ..subject.batches import Batch
from ..subject.word_spans import Encoded
from .norms import OUTPUT, VALUE, grams_of, norms
from .passes import PATTERN, VISIBLE, layers_with_patterns, layers_with_sink, runs, sink_of

GROUPS = 200
BLOCK = 1 << 20
"""Entries of a pattern that are worked on at a time: what stays in a processor's cache."""
COLUMNS = (
    "entropy", "confidence", "distance", "first", "end", "punctuation", "self", "previous", "next", "sink",
    "norm_first", "norm_end", "norm_punctuation", "output", "queries", "text", "norm",
)  # fmt: skip
STATISTICS = COLUMNS[:-3]
OF_NORM = ("norm_first", "norm_end", "norm_punctuation")
_DENOMINATOR = {"distance": "text", **dict.fromkeys(OF_NORM, "norm")}


def deal(n: int, seed: int, groups: int = GROUPS) -> Int[np.ndarray, " n"]:
    """The group of each of n sentences: its own number, or one of ``groups`` at random, all of about one size."""
    return np.random.default_rng(seed).permutation(n) % min(n, groups)


def punctuation(text: Encoded) -> list[bool]:
    """Whether each token is nothing but punctuation."""
    pieces = [text.text[start:end].strip() for start, end in text.offsets]
    return [
        bool(piece) and all(unicodedata.category(c)[0] == "P" for c in piece) for piece in pieces
    ]


@dataclass(frozen=True)
class HeadStatistics:
    """Sums of every head by group of sentences; statistics and intervals are read off them.

    Args:
        layers: the block of each row.
        sums: in the order of ``COLUMNS``.
        uniform: the same sums of uniform attention.
        has_norms: whether contributions could be measured.
        has_sink: whether the softmax has a sink that is no token.
    """

    layers: list[int]
    sums: Float[np.ndarray, "layer group column head"]
    uniform: Float[np.ndarray, "layer column"]
    has_norms: bool
    has_sink: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics that there are."""
        absent = set() if self.has_norms else {*OF_NORM, "output"}
        absent |= set() if self.has_sink else {"sink"}
        return tuple(name for name in STATISTICS if name not in absent)

    def value(self, name: str) -> Float[np.ndarray, "layer head"]:
        """One statistic of every head."""
        total = self.sums.sum(1)
        return _divide(
            total[:, COLUMNS.index(name)],
            total[:, COLUMNS.index(_DENOMINATOR.get(name, "queries"))],
        )

    def intervals(self, seed: int = 0) -> dict[str, tuple[Float[np.ndarray, "layer head"], ...]]:
        """Low and high end of every statistic's interval."""
        boot = ClusterBootstrap(np.arange(self.sums.shape[1]), seed=seed)
        out: dict[str, tuple[np.ndarray, ...]] = {}
        for name in self.names:
            # A mean over all queries is a ratio of sums: texts of other lengths are other denominators.
            above, below = COLUMNS.index(name), COLUMNS.index(_DENOMINATOR.get(name, "queries"))
            ends = [boot.ratios(layer[:, above], layer[:, below]) for layer in self.sums]
            out[name] = tuple(np.stack(side) for side in zip(*ends, strict=True))
        return out

    def under_uniform(self) -> dict[str, Float[np.ndarray, " layer"]]:
        """What uniform attention would score: the value to compare a mass with."""
        return {
            name: _divide(
                self.uniform[:, COLUMNS.index(name)],
                self.uniform[:, COLUMNS.index(_DENOMINATOR.get(name, "queries"))],
            )
            for name in self.names
            if name not in OF_NORM and name != "output"
        }


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


class HeadTotals:
    """Makes the sums of `HeadStatistics` in one pass."""

    def __init__(
        self, subject: Subject, encoded: Sequence[Encoded], groups: Int[np.ndarray, " n"]
    ) -> None:
        self.layers = layers_with_patterns(subject.model)
        self.grams = grams_of(subject.model, self.layers)
        self.parts = (PATTERN, VISIBLE, *((VALUE, OUTPUT) if self.grams else ()))
        self._encoded, self._groups = encoded, torch.from_numpy(groups)
        self._marks = [torch.tensor(punctuation(text)) for text in encoded]
        self._sums: Tensor | None = None
        self._uniform = torch.zeros(len(self.layers), len(COLUMNS), dtype=torch.float64)
        self._n_groups = int(groups.max()) + 1
        self._has_sink = any(layers_with_sink(subject.model))

    def begin(self, batch: Batch) -> None:
        """Find the runs of the batch, and forget the last one's."""
        self._batch = batch
        self._visible: Tensor | None = None
        # what the last layer's queries saw, and its uniform sums
        self._alike: tuple[Tensor, Tensor] | None = None

    def see(self, layer: int, part: str, value: Tensor) -> None:
        """Add one layer's batch."""
        if part == VALUE and self.grams:
            self._value_norms = norms(value, self.grams[layer])
        elif part == VISIBLE:
            self._visible = value.isfinite()
        elif part == PATTERN:
            self._add_pattern(layer, value)
        elif part == OUTPUT and self.grams:
            self._add_output(layer, norms(value, self.grams[layer]))

    def end(self) -> None:
        """Nothing is left of the batch."""
        self._visible = self._alike = None

    def _table(self, n_heads: int) -> Tensor:
        if self._sums is None:
            shape = (len(self.layers), self._n_groups, len(COLUMNS), n_heads)
            self._sums = torch.zeros(shape, dtype=torch.float64)
        return self._sums

    def _add_pattern(self, layer: int, pattern: Float[Tensor, "batch head query key"]) -> None:
        assert self._visible is not None
        table = self._table(pattern.shape[1])
        most = max(1, BLOCK // max(pattern[0].numel(), 1))
        sinks = sink_of(pattern) if self._has_sink else None
        # Layers that see the same keys have the same uniform attention. Sliding and full layers alternate in some
        # models, so equality is looked at.
        is_known = self._alike is not None and torch.equal(self._alike[0], self._visible)
        if self._alike is not None and is_known:
            uniform = self._alike[1]
        else:
            uniform = torch.zeros(len(COLUMNS), dtype=torch.float64)
        for run in runs(self._batch, self._encoded, most):
            part = pattern[run.rows, :, run.queries, run.keys]
            visible = self._visible[run.rows, run.queries, run.keys]
            weights = self._value_norms[run.rows, :, run.keys] if self.grams else None
            marks = torch.stack([self._marks[i] for i in run.texts]).to(part.device, torch.float32)
            sink = None if sinks is None else sinks[run.rows, :, run.queries].float()
            sums = pattern_sums(part, visible, run.words, marks, weights, sink)
            table[layer].index_add_(0, self._groups[run.texts], sums.double().cpu())
            if not is_known:
                uniform += _uniform_sums(visible, run.words, marks, sink is not None)
        self._uniform[layer] += uniform
        self._alike = (self._visible, uniform)

    def _add_output(self, layer: int, sizes: Float[Tensor, "batch head pos"]) -> None:
        assert self._visible is not None
        table = self._table(sizes.shape[1])
        for run in runs(self._batch, self._encoded):
            seen = (self._visible[run.rows, run.queries, run.keys].sum(-1) > 1).float()
            total = (sizes[run.rows, :, run.queries] * seen[:, None]).sum(-1)
            column = table[layer, :, COLUMNS.index("output")]
            column.index_add_(0, self._groups[run.texts], total.double().cpu())

    def result(self) -> HeadStatistics:
        """The sums of all batches that went by."""
        if self._sums is None:
            raise InputError("expected texts with tokens of their own, got none")
        return HeadStatistics(
            self.layers,
            self._sums.numpy(),
            self._uniform.numpy(),
            self.grams is not None,
            self._has_sink,
        )


def _uniform_sums(
    visible: Bool[Tensor, "batch query key"],
    words: slice,
    marks: Float[Tensor, "batch key"],
    has_sink: bool,
) -> Float[Tensor, " column"]:
    """The sums of a head that looks alike at all that its queries see, and at the sink where there is one."""
    n_seen = visible.sum(-1, keepdim=True).clamp(min=1) + has_sink
    places = n_seen[:, None].float()
    pattern = visible[:, None].float() / places
    sink = 1 / places[..., 0] if has_sink else None
    sums = pattern_sums(pattern, visible, words, marks, None, sink)
    return sums.double().sum((0, 2)).cpu()


def pattern_sums(
    pattern: Float[Tensor, "batch head query key"],
    visible: Bool[Tensor, "batch query key"],
    words: slice,
    marks: Float[Tensor, "batch key"],
    value_norms: Float[Tensor, "batch head key"] | None,
    sink: Float[Tensor, "batch head query"] | None = None,
) -> Float[Tensor, "batch column head"]:
    """The sums of one pattern, in the order of ``COLUMNS``.

    Args:
        pattern: queries are the text's own tokens, keys all tokens.
        words: which keys are the text's own tokens; query i is key ``words.start + i``.
        marks: 1 at keys that are punctuation.
        value_norms: ‖v W_O‖ of each key.
        sink: what goes to no token, in a model that has a sink.
    """
    attention = pattern.float().contiguous()
    batch, heads, _, n_key = attention.shape
    n = visible.sum(-1)
    counted = (n > 1).float()  # a query with one key to see has no choice
    out = attention.new_zeros(batch, len(COLUMNS), heads)
    column = (counted[:, None, None] @ attention)[:, :, 0]  # how much each key gets
    text = column[:, :, words]
    lead = words.start
    for name, value in {
        "first": column[:, :, 0],
        "end": column[:, :, words.stop :].sum(-1),
        "punctuation": (column * marks[:, None]).sum(-1),
        "text": text.sum(-1),
        "queries": counted.sum(-1, keepdim=True).expand(batch, heads),
        "self": _diagonal(attention, counted, lead),
        "previous": _diagonal(attention, counted, lead - 1),
        "next": _diagonal(attention, counted, lead + 1),
    }.items():
        out[:, COLUMNS.index(name)] = value
    if value_norms is not None:
        moved = column * value_norms
        out[:, COLUMNS.index("norm")] = moved.sum(-1)
        out[:, COLUMNS.index("norm_first")] = moved[:, :, 0]
        out[:, COLUMNS.index("norm_end")] = moved[:, :, words.stop :].sum(-1)
        out[:, COLUMNS.index("norm_punctuation")] = (moved * marks[:, None]).sum(-1)
    most = attention[..., words].amax(-1)
    out[:, COLUMNS.index("confidence")] = (most @ counted[..., None])[..., 0]
    places = torch.arange(n_key, device=attention.device)
    reach = (places[words, None] - places).abs().float()
    reach[:, : words.start], reach[:, words.stop :] = 0.0, 0.0
    far = (counted[..., None] * reach).flatten(1)
    out[:, COLUMNS.index("distance")] = (attention.flatten(2) @ far[..., None])[..., 0]
    tiny = torch.finfo(torch.float32).tiny
    surprise = attention.clamp(min=tiny).log_().mul_(attention).sum(-1)
    if sink is not None:
        n = n + 1
        surprise = surprise + sink.clamp(min=tiny).log() * sink
        out[:, COLUMNS.index("sink")] = (sink * counted[:, None]).sum(-1)
    share = counted / n.clamp(min=2).float().log()
    out[:, COLUMNS.index("entropy")] = -(surprise @ share[..., None])[..., 0]
    return out


def _diagonal(
    attention: Float[Tensor, "batch head query key"],
    counted: Float[Tensor, "batch query"],
    offset: int,
) -> Float[Tensor, "batch head"]:
    """Attention on the key at a fixed place from the query, summed over queries that have one."""
    line = attention.diagonal(offset, -2, -1)
    start = max(0, -offset)
    return (line * counted[:, None, start : start + line.shape[-1]]).sum(-1)
