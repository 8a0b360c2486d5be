"""Which heads follow dependencies, and which look at fixed places: read off where each word looks
most.

Attention between words is summed over the attended word's tokens and averaged over the attending
word's (Clark et al. 2019). A head agrees with an arc if the most attended other word that it can
see is the arc's other end; the baseline is the best fixed offset. The head is chosen on one half of
the sentences and scored on the other, and the offset is the best one of the half that is scored, so
that choosing among hundreds of heads is not mistaken for agreement. Sources: Voita et al. 2019,
section 5; Clark et al. 2019, section 4.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerscope.errors import InputError

from ...probes.evaluation import ClusterBootstrap
from ..corpus import Sentence
from ..features.layout import Layout
from ..report.schema import Interval
from ..subject import Subject
from ..subject.batches import Batch
from .passes import PATTERN, VISIBLE, layers_with_patterns

OFFSETS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
POSITIONAL = 0.9
"""Share of words whose most attended word is at one offset,
from which a head is called positional (Voita et al. 2019).
"""
SYNTACTIC = 0.1
"""By how much a head must beat the best fixed offset to be called syntactic (Voita et al. 2019)."""
DIRECTIONS = ("to governor", "to dependent")


@dataclass(frozen=True)
class RelationScore:
    """How often a head's most attended word is the one that a dependency names, on sentences that
    did not choose it.

    Args:
        direction: ``to governor`` (from the dependent) or ``to dependent`` (from the governor).
        score: share of the dependencies; ``baseline`` that of the best fixed ``offset``.
        gain: score - baseline, with its interval over sentences.
        n: dependencies that were scored.
    """

    layer: int
    head: int
    relation: str
    direction: str
    score: float
    baseline: float
    offset: int
    gain: float
    gain_interval: Interval | None
    n: int

    @property
    def syntactic(self) -> bool:
        """Clearly better than every fixed offset, by at least ``SYNTACTIC``."""
        return self.gain >= SYNTACTIC and bool(self.gain_interval and self.gain_interval.low > 0)


@dataclass(frozen=True)
class WordRoles:
    """What heads do between words.

    Args:
        relations: the best head for each relation and direction.
        of_heads: for each head that is syntactic, the relation in which it gains most.
        positional: share of words that attend most to the word at the head's most frequent
            offset, and that offset.
        n_left_out: words without tokens.
        n_shared: dependencies between two words that are the same tokens: no head can tell the two
            apart.
    """

    relations: list[RelationScore]
    of_heads: list[RelationScore]
    positional: Float[np.ndarray, "layer head"]
    offset: Int[np.ndarray, "layer head"]
    n_left_out: int
    n_shared: int = 0


class WordTotals:
    """Makes `WordRoles` in one pass.

    Args:
        layout: the sentences as tokens.
        groups: the group of each sentence, which is resampled as one.
        least: relations that fewer texts of a half have are left out: twenty arcs of one list are
            one observation.
    """

    parts = (PATTERN, VISIBLE)

    def __init__(
        self,
        subject: Subject,
        sentences: Sequence[Sentence],
        layout: Layout,
        groups: Int[np.ndarray, " n"],
        least: int = 20,
    ) -> None:
        self.layers = layers_with_patterns(subject.model)
        self._layout, self._groups, self._n_groups = layout, groups, int(groups.max()) + 1
        self._n_shared = 0
        named = []
        for sentence, line in zip(sentences, layout.spans, strict=True):
            arcs, n_shared = _arcs(sentence, line, subject.causal)
            named.append(arcs)
            self._n_shared += n_shared
        # the first word of a causal model has no other to look at
        self._first = 1 if subject.causal else 0
        self.kinds = self._frequent(named, least)
        place = {kind: i for i, kind in enumerate(self.kinds)}
        self._arcs = [[(place[k], q, key) for k, q, key in line if k in place] for line in named]
        self._n, self._by_offset = self._count()
        self._hits: Tensor | None = None
        self._seen = 0

    def _frequent(self, named: Sequence[Sequence[Arc]], least: int) -> list[tuple[str, str]]:
        halves: list[Counter[tuple[str, str]]] = [Counter(), Counter()]
        for line, group in zip(named, self._groups, strict=True):
            # Once a text: twenty arcs of one list are one observation.
            halves[group % 2].update({kind for kind, _, _ in line})
        first, second = halves
        return sorted(kind for kind in first if min(first[kind], second[kind]) >= least)

    def _count(
        self,
    ) -> tuple[Float[np.ndarray, "kind group"], Float[np.ndarray, "kind group offset"]]:
        """Arcs of each kind, and those at each offset."""
        n = np.zeros((len(self.kinds), self._n_groups))
        by_offset = np.zeros((*n.shape, len(OFFSETS)))
        for line, group in zip(self._arcs, self._groups, strict=True):
            for kind, query, key in line:
                n[kind, group] += 1
                # A fixed offset is the baseline: much of what heads find is the word next to them.
                if key - query in OFFSETS:
                    by_offset[kind, group, OFFSETS.index(key - query)] += 1
        return n, by_offset

    def begin(self, batch: Batch) -> None:
        """Lay out the batch's words and arcs."""
        spans = []
        for line in batch.spans(self._layout.spans):
            spans.append([span for span in line if span is not None])
        self._member, self._same = _word_tables(spans, length=batch.input_ids.shape[1])

        arcs = []
        for row, text in enumerate(batch.rows):
            arcs += [(row, *arc) for arc in self._arcs[text]]
        table = torch.tensor(arcs, dtype=torch.long).reshape(-1, 4)
        self._rows, self._kind, self._query, self._key = table.unbind(1)
        groups = torch.from_numpy(self._groups)[torch.tensor(batch.rows)]
        # A bin for each kind and group, so that hits are counted by one `index_add_`.
        self._bin = self._kind * self._n_groups + groups[self._rows]

        # A word that is alone, or the first where only earlier ones are seen, has nothing to choose
        # from.
        counts = torch.tensor([len(line) for line in spans])[:, None]
        places = torch.arange(self._member.shape[-1])
        has_choice = (places >= self._first) & (counts > 1)
        self._looks = (places < counts) & has_choice
        self._seen += int(self._looks.sum())

    def see(self, layer: int, part: str, value: Tensor) -> None:
        """Where each word looks most, in one layer."""
        if part == VISIBLE:
            member, visible = self._member.to(value.device), value.isfinite().float()
            is_hidden = (member.transpose(1, 2) @ visible @ member) == 0
            is_hidden |= torch.eye(member.shape[-1], dtype=torch.bool, device=value.device)
            # as a word does not count as what it attends to itself
            self._hidden = is_hidden | self._same.to(value.device)
            return
        best = most_attended(value.float(), self._member.to(value.device), self._hidden).cpu()
        n_heads = value.shape[1]
        if self._hits is None:
            n_bins = len(self.kinds) * self._n_groups
            self._hits = torch.zeros(len(self.layers), n_bins, n_heads)
            self._places = torch.zeros(len(self.layers), len(OFFSETS), n_heads)
        is_hit = best[self._rows, :, self._query] == self._key[:, None]
        self._hits[layer].index_add_(0, self._bin, is_hit.float())
        relative = best - torch.arange(best.shape[-1])
        for at, offset in enumerate(OFFSETS):
            is_there = (relative == offset) & self._looks[:, None]
            self._places[layer, at] += is_there.sum((0, 2))

    def end(self) -> None:
        """Nothing is left of the batch."""
        del self._hidden

    def result(self, seed: int = 0) -> WordRoles:
        """Scores with their intervals."""
        if self._hits is None:
            raise InputError("expected sentences with words, got none")
        # Odd groups choose the heads, even ones score them.
        chooses = np.arange(self._n_groups) % 2 == 1
        n_scored = int((~chooses).sum())
        boot = ClusterBootstrap(np.arange(n_scored), seed=seed) if n_scored else None
        hits = rearrange(
            self._hits.double().numpy(),
            "layer (kind group) head -> kind group layer head",
            kind=len(self.kinds),
            group=self._n_groups,
        )
        scores = _Scores(self.layers, self.kinds, hits, self._n, self._by_offset, chooses, boot)
        places = self._places.permute(1, 0, 2).numpy()
        favourite = places.argmax(0)
        n_words = sum(len(line) for line in self._layout.spans)
        return WordRoles(
            scores.best_heads(),
            scores.syntactic_heads(),
            places.max(0) / max(self._seen, 1),
            np.array(OFFSETS)[favourite],
            n_words - self._layout.n_rows,
            self._n_shared,
        )


def _word_tables(
    spans: Sequence[Sequence[slice]], length: int
) -> tuple[Float[Tensor, "batch pos word"], Bool[Tensor, "batch word word2"]]:
    """Which tokens each word has, and which words are the same tokens:
    no head can tell these apart.
    """
    most = max(map(len, spans))
    member = torch.zeros(len(spans), length, most)
    is_same = torch.zeros(len(spans), most, most, dtype=torch.bool)
    for row, line in enumerate(spans):
        for word, span in enumerate(line):
            member[row, span, word] = 1
            alike = [other for other, other_span in enumerate(line) if other_span == span]
            is_same[row, word, alike] = True
    return member, is_same


Arc = tuple[tuple[str, str], int, int]
"""(dependency and direction, attending word, attended word);
words are counted among those with tokens.
"""


def _arcs(sentence: Sentence, spans: Sequence[slice | None], causal: bool) -> tuple[list[Arc], int]:
    """Each dependency that can be seen, in both directions,
    and how many are between words that are the same tokens.
    """
    with_tokens = [i for i, span in enumerate(spans) if span is not None]
    place_of = {sentence.words[i].id: place for place, i in enumerate(with_tokens)}
    arcs: list[Arc] = []
    n_shared = 0
    for i in with_tokens:
        word = sentence.words[i]
        if word.head not in place_of:
            continue
        dependent, governor = place_of[word.id], place_of[word.head]
        if spans[with_tokens[dependent]] == spans[with_tokens[governor]]:
            n_shared += 1
            continue
        pairs = ((dependent, governor), (governor, dependent))
        for direction, (query, key) in zip(DIRECTIONS, pairs, strict=True):
            # A causal head cannot see what is ahead: to ask for it would count against every head.
            is_ahead = key > query
            if not (causal and is_ahead):
                arcs.append(((word.deprel, direction), query, key))
    return arcs, n_shared


def most_attended(
    pattern: Float[Tensor, "batch head query key"],
    member: Float[Tensor, "batch pos word"],
    hidden: Bool[Tensor, "batch word word2"],
) -> Int[Tensor, "batch head word"]:
    """Each word's most attended word among those that are not hidden from it.

    Args:
        member: 1 where a token is part of a word.
    """
    # What goes to a word is the sum over its tokens; what it gives is the mean over its own.
    n_heads = pattern.shape[1]
    # One product for all heads, for which their members would be copied otherwise.
    to_words = (pattern.flatten(1, 2) @ member).unflatten(1, (n_heads, -1))
    size = member.sum(1).clamp(min=1)
    words = (member / size[:, None]).transpose(1, 2)[:, None] @ to_words
    return words.masked_fill(hidden[:, None], -1.0).argmax(-1)


@dataclass(frozen=True)
class _Scores:
    """Hits of all heads on all kinds of arcs, by group; those that ``chooses`` choose,
    the others are scored.
    """

    layers: list[int]
    kinds: list[tuple[str, str]]
    hits: Float[np.ndarray, "kind group layer head"]
    n: Float[np.ndarray, "kind group"]
    by_offset: Float[np.ndarray, "kind group offset"]
    chooses: Bool[np.ndarray, " group"]
    boot: ClusterBootstrap | None

    def best_heads(self) -> list[RelationScore]:
        """For each kind the head with most hits on the half that chooses, scored on the other."""
        hits = self.hits[:, self.chooses].sum(1)
        scores = []
        for kind, of_kind in enumerate(hits):
            layer, head = np.unravel_index(int(of_kind.argmax()), of_kind.shape)
            scores.append(self._score(kind, int(layer), int(head)))
        return scores

    def syntactic_heads(self) -> list[RelationScore]:
        """For each head the kind in which it gains most on the half that chooses,
        if it is syntactic on the other.
        """
        if not self.kinds:
            return []
        n = self.n[:, self.chooses].sum(1)
        fixed = self.by_offset[:, self.chooses].sum(1).max(1)  # of the best fixed offset
        hits = self.hits[:, self.chooses].sum(1)
        gains = hits / n[:, None, None] - (fixed / n)[:, None, None]
        scores = []
        for layer, head in np.argwhere(gains.max(0) >= SYNTACTIC):
            kind = int(gains[:, layer, head].argmax())
            score = self._score(kind, int(layer), int(head))
            if score.syntactic:
                scores.append(score)
        return scores

    def _score(self, kind: int, layer: int, head: int) -> RelationScore:
        scored = ~self.chooses
        hits, n = self.hits[kind, scored, layer, head], self.n[kind, scored]
        fixed = self.by_offset[kind, scored]
        offset = int(fixed.sum(0).argmax())
        at_offset = fixed[:, offset]
        assert self.boot is not None
        gain = self.boot.ratio(hits - at_offset, n)
        relation, direction = self.kinds[kind]
        return RelationScore(
            layer=self.layers[layer],
            head=head,
            relation=relation,
            direction=direction,
            score=float(hits.sum() / n.sum()),
            baseline=float(at_offset.sum() / n.sum()),
            offset=OFFSETS[offset],
            gain=gain.value,
            gain_interval=Interval.of(gain),
            n=int(n.sum()),
        )
