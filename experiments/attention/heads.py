r"""Statistics of every head over a corpus, from sums that are made while the patterns pass by.

For each token q of the text itself that sees n >= 2 keys, with attention :math:`A_{qk}`:

    entropy      -sum_k A log A / log n               1 for uniform attention, 0 for one place
    confidence   max A over tokens of the text        (Voita et al. 2019)
    distance     sum |q - k| A / sum A                over tokens of the text
    first, end   A on position 0, on special tokens after the text
    punctuation  A on tokens that are punctuation
    self, previous, next                              A on q, q - 1, q + 1
    norm_*       share of sum_k A |v_k W_O| that falls on first, end, punctuation (Kobayashi et al.
                 2020)
    output       |z W_O|, the size of what the head adds
    sink         what no token gets, in a model whose softmax has a learned sink; to the entropy it
                 is one more key

Each is a ratio of sums over tokens; its interval resamples sentences. Above ``GROUPS`` sentences
these are dealt at random into as many groups and the groups resampled, so that what is held does
not grow with the corpus.
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
    "entropy", "confidence", "distance", "first", "end", "punctuation", "self", "previous",
    "next", "sink",
    "norm_first", "norm_end", "norm_punctuation", "output", "queries", "text", "norm",
)  # fmt: skip
PLACE = {name: place for place, name in enumerate(COLUMNS)}
"""Column -> its place among ``COLUMNS``."""
STATISTICS = COLUMNS[:-3]
OF_NORM = ("norm_first", "norm_end", "norm_punctuation")
UNBOUNDED = ("distance", "output")
"""Statistics that may be above 1; none is below 0."""
_DENOMINATOR = {"distance": "text", **dict.fromkeys(OF_NORM, "norm")}
TINY = torch.finfo(torch.float32).tiny
"""Put in the place of 0 in front of a logarithm: 0 log 0 is 0."""


def _ratio_of(name: str) -> tuple[int, int]:
    """The columns that a statistic is the ratio of."""
    return PLACE[name], PLACE[_DENOMINATOR.get(name, "queries")]


def deal(n: int, seed: int, groups: int = GROUPS) -> Int[np.ndarray, " n"]:
    """The group of each of n sentences: its own number, or one of ``groups`` at random,
    all of about one size.
    """
    return np.random.default_rng(seed).permutation(n) % min(n, groups)


def punctuation(text: Encoded) -> list[bool]:
    """Whether each token is nothing but punctuation."""
    marks = []
    for start, end in text.offsets:
        piece = text.text[start:end].strip()
        kinds = {unicodedata.category(character)[0] for character in piece}
        marks.append(kinds == {"P"})
    return marks


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
        absent: set[str] = set()
        if not self.has_norms:
            absent |= {*OF_NORM, "output"}
        if not self.has_sink:
            absent.add("sink")
        return tuple(name for name in STATISTICS if name not in absent)

    def value(self, name: str) -> Float[np.ndarray, "layer head"]:
        """One statistic of every head."""
        total = self.sums.sum(1)
        above, below = _ratio_of(name)
        return _divide(total[:, above], total[:, below])

    def intervals(self, seed: int = 0) -> dict[str, tuple[Float[np.ndarray, "layer head"], ...]]:
        """Low and high end of every statistic's interval."""
        boot = ClusterBootstrap(np.arange(self.sums.shape[1]), seed=seed)
        out: dict[str, tuple[np.ndarray, ...]] = {}
        for name in self.names:
            # A mean over all queries is a ratio of sums: texts of other lengths are other
            # denominators.
            above, below = _ratio_of(name)
            lows, highs = [], []
            for of_layer in self.sums:
                low, high = boot.ratio_ends(of_layer[:, above], of_layer[:, below])
                lows.append(low)
                highs.append(high)
            # Shares end at 0 and 1, or at a value that rounding has put beyond.
            value = self.value(name)
            least = np.minimum(value, 0.0)
            most = np.inf if name in UNBOUNDED else np.maximum(value, 1.0)
            out[name] = np.clip(np.stack(lows), least, most), np.clip(np.stack(highs), least, most)
        return out

    def under_uniform(self) -> dict[str, Float[np.ndarray, " layer"]]:
        """What uniform attention would score: the value to compare a mass with."""
        uniform = {}
        for name in self.names:
            # Norms depend on the values, which uniform attention does not decide.
            if name in OF_NORM or name == "output":
                continue
            above, below = _ratio_of(name)
            uniform[name] = _divide(self.uniform[:, above], self.uniform[:, below])
        return uniform


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
        self._marks = [torch.tensor(punctuation(text), dtype=torch.float32) for text in encoded]
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
        size = max(pattern[0].numel(), 1)
        most_rows = max(1, BLOCK // size)
        sinks = sink_of(pattern) if self._has_sink else None
        uniform = self._known_uniform()
        is_known = uniform is not None
        if uniform is None:
            uniform = torch.zeros(len(COLUMNS), dtype=torch.float64)
        for run in runs(self._batch, self._encoded, most_rows):
            part = pattern[run.rows, :, run.queries, run.keys]
            visible = self._visible[run.rows, run.queries, run.keys]
            weights = self._value_norms[run.rows, :, run.keys] if self.grams else None
            marks = torch.stack([self._marks[i] for i in run.texts]).to(part.device)
            sink = None if sinks is None else sinks[run.rows, :, run.queries].float()
            sums = pattern_sums(part, visible, run.words, marks, weights, sink)
            groups = self._groups[run.texts]
            table[layer].index_add_(0, groups, sums.double().cpu())
            if not is_known:
                uniform += _uniform_sums(visible, run.words, marks, sink is not None)
        self._uniform[layer] += uniform
        self._alike = (self._visible, uniform)

    def _known_uniform(self) -> Tensor | None:
        """The sums of uniform attention, where the last layer's queries saw the same keys.

        Sliding and full layers alternate in some models, so equality is looked at.
        """
        if self._alike is None or self._visible is None:
            return None
        visible, uniform = self._alike
        return uniform if torch.equal(visible, self._visible) else None

    def _add_output(self, layer: int, sizes: Float[Tensor, "batch head pos"]) -> None:
        assert self._visible is not None
        table = self._table(sizes.shape[1])
        column = table[layer, :, PLACE["output"]]
        for run in runs(self._batch, self._encoded):
            n_seen = self._visible[run.rows, run.queries, run.keys].sum(-1)
            counted = (n_seen > 1).float()
            of_queries = sizes[run.rows, :, run.queries] * counted[:, None]
            total = of_queries.sum(-1)
            column.index_add_(0, self._groups[run.texts], total.double().cpu())

    def result(self) -> HeadStatistics:
        """The sums of all batches that went by."""
        if self._sums is None:
            raise InputError("expected texts with at least one token that is not special, got none")
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
    """The sums of a head that looks alike at all that its queries see,
    and at the sink where there is one.
    """
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
    batch, heads, _, n_keys = attention.shape
    n_seen = visible.sum(-1)
    # A query with one key to see has no choice.
    counted = (n_seen > 1).float()
    received = (counted[:, None, None] @ attention)[:, :, 0]  # how much each key gets
    named = {
        "queries": counted.sum(-1, keepdim=True).expand(batch, heads),
        "text": received[:, :, words].sum(-1),
        **_by_place(received, words, marks),
        # Query i is key words.start + i.
        "self": _diagonal(attention, counted, words.start),
        "previous": _diagonal(attention, counted, words.start - 1),
        "next": _diagonal(attention, counted, words.start + 1),
        "confidence": _confidence(attention[..., words], counted),
        "distance": _distance(attention, counted, words, n_keys),
        "entropy": _entropy(attention, n_seen, counted, sink),
    }
    if value_norms is not None:
        moved = received * value_norms
        named["norm"] = moved.sum(-1)
        for name, value in _by_place(moved, words, marks).items():
            named[f"norm_{name}"] = value
    if sink is not None:
        named["sink"] = (sink * counted[:, None]).sum(-1)
    sums = attention.new_zeros(batch, len(COLUMNS), heads)
    for name, value in named.items():
        sums[:, PLACE[name]] = value
    return sums


def _by_place(
    received: Float[Tensor, "batch head key"], words: slice, marks: Float[Tensor, "batch key"]
) -> dict[str, Float[Tensor, "batch head"]]:
    """What falls on the first token, on special tokens after the text, and on punctuation."""
    return {
        "first": received[:, :, 0],
        "end": received[:, :, words.stop :].sum(-1),
        "punctuation": (received * marks[:, None]).sum(-1),
    }


def _confidence(
    to_text: Float[Tensor, "batch head query key"], counted: Float[Tensor, "batch query"]
) -> Float[Tensor, "batch head"]:
    """The largest weight on a token of the text, summed over queries."""
    largest = to_text.amax(-1)
    return (largest @ counted[..., None])[..., 0]


def _distance(
    attention: Float[Tensor, "batch head query key"],
    counted: Float[Tensor, "batch query"],
    words: slice,
    n_keys: int,
) -> Float[Tensor, "batch head"]:
    """sum |q - k| A over tokens of the text."""
    places = torch.arange(n_keys, device=attention.device)
    reach = (places[words, None] - places).abs().float()
    # Special tokens are at no distance that says anything.
    reach[:, : words.start] = 0.0
    reach[:, words.stop :] = 0.0
    weights = (counted[..., None] * reach).flatten(1)
    return (attention.flatten(2) @ weights[..., None])[..., 0]


def _entropy(
    attention: Float[Tensor, "batch head query key"],
    n_seen: Int[Tensor, "batch query"],
    counted: Float[Tensor, "batch query"],
    sink: Float[Tensor, "batch head query"] | None,
) -> Float[Tensor, "batch head"]:
    """-sum A log A / log n, summed over queries; a sink is one more key."""
    surprise = attention.clamp(min=TINY).log_().mul_(attention).sum(-1)
    if sink is not None:
        n_seen = n_seen + 1
        surprise = surprise + sink.clamp(min=TINY).log() * sink
    share = counted / n_seen.clamp(min=2).float().log()
    return -(surprise @ share[..., None])[..., 0]


def _diagonal(
    attention: Float[Tensor, "batch head query key"],
    counted: Float[Tensor, "batch query"],
    offset: int,
) -> Float[Tensor, "batch head"]:
    """Attention on the key at a fixed place from the query, summed over queries that have one."""
    line = attention.diagonal(offset, -2, -1)
    start = max(0, -offset)
    stop = start + line.shape[-1]
    return (line * counted[:, None, start:stop]).sum(-1)
