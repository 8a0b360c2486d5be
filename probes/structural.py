"""Structural probes (Hewitt & Manning 2019): is the syntax tree in the geometry of the vectors?

    distance   d_B(i, j)^2 = ||B (h_i - h_j)||^2   against the number of edges between two words
    depth      ||B h_i||^2                         against a word's distance from the root
    loss       mean over sentences of  1/|s|^2 sum_ij |d_T - d_B^2|   (depth: 1/|s| sum_i)

All layers and ranks are trained at once, in one batched model, from the same batches in the same
order; each stops on its own dev loss. Scores are those of the published code: UUAS (undirected
edges of the minimum spanning tree, punctuation left out), Spearman's correlation by sentence length
from 5 to 50, and the root's accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

from layerscope.errors import InputError

from .design import check_finite
from .ranks import spearman
from .training import Schedule, by_autograd, train

Kind = Literal["distance", "depth"]
LENGTHS = range(5, 51)
"""Sentence lengths over which correlations are averaged."""
SCHEDULES = tuple(
    Schedule(rate=rate, epochs=300, batch=20, gain=1e-4, patience=3, cut=0.1, stalls=3)
    for rate in (5e-2, 1e-2)
)
"""Each trains until the dev loss falls at no rate; of each probe the run with the lower dev loss is
kept.

Of few sentences the dev loss depends on the way that leads to its least: large first steps end at
weights from which no step lowers it, and which are worse than those that smaller steps reach first
(SmolLM2's block 19: 1.27 against .81).
"""
_PUBLISHED = {
    "hewitt2019": Schedule(
        rate=1e-3, epochs=40, batch=20, gain=1e-4, patience=1, cut=0.1, stalls=5, returns=False
    )
}


def published(compat: str) -> Schedule:
    """The schedule of a paper's code: its rate falls to nothing before the loss has stopped
    falling.

    Raises:
        ValueError: another convention.

    >>> published("hewitt2019").rate
    0.001
    """
    if compat not in _PUBLISHED:
        raise InputError(f"compat: expected {', '.join(map(repr, _PUBLISHED))}, got {compat!r}")
    return _PUBLISHED[compat]


@dataclass(frozen=True)
class StructuralFit:
    """A fitted structural probe.

    Attributes:
        projection: B, [rank d].
        dev_loss: the lowest, at which B was kept.
        epochs: passes over the training sentences.
        stationary: whether training from these weights lowered the dev loss at none of the
            schedule's rates; False of a schedule that does not try (`published`).
        apart: by how much the dev losses of the schedules' trainings differ, as a share of the
            lowest: the loss is not convex, and only trainings that end alike speak for one another.
            NaN of a single schedule.
    """

    kind: Kind
    projection: Float[Tensor, "rank d"]
    dev_loss: float
    epochs: int
    stationary: bool
    apart: float

    def predict(self, words: Float[Tensor, "n d"] | Float[np.ndarray, "n d"]) -> np.ndarray:
        """Squared distances [n n], or squared depths [n]."""
        projected = torch.as_tensor(words).to(self.projection) @ self.projection.T
        if self.kind == "depth":
            return (projected**2).sum(1).numpy()
        differences = projected[:, None] - projected[None]
        return (differences**2).sum(2).numpy()


def tree_distances(heads: Sequence[int]) -> Float[np.ndarray, "n n"]:
    """Edges between every two words of a sentence.

    Args:
        heads: each word's head, counted from 1; 0 for the root.

    >>> tree_distances([2, 0, 2, 3])[0].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    n = len(heads)
    distance = np.full((n, n), np.inf)
    distance[np.arange(n), np.arange(n)] = 0
    for word, head in enumerate(heads):
        if head:
            distance[word, head - 1] = distance[head - 1, word] = 1
    for middle in range(n):  # Floyd-Warshall: shortest ways over the words up to this one
        through = distance[:, middle, None] + distance[None, middle]
        distance = np.minimum(distance, through)
    if not np.isfinite(distance).all():
        raise InputError(f"expected heads that form a tree, got {list(heads)}")
    return distance


def tree_depths(heads: Sequence[int]) -> Float[np.ndarray, " n"]:
    """Edges between each word and the root.

    >>> tree_depths([2, 0, 2, 3]).tolist()
    [1.0, 0.0, 1.0, 2.0]
    """
    return tree_distances(heads)[list(heads).index(0)]


def structural_many(
    features: Mapping[str, Sequence[Float[Tensor, "_ _"]]],
    heads: Sequence[Sequence[int]],
    dev_features: Mapping[str, Sequence[Float[Tensor, "_ _"]]],
    dev_heads: Sequence[Sequence[int]],
    kind: Kind = "distance",
    ranks: Sequence[int] = (64,),
    schedule: Schedule | Sequence[Schedule] = SCHEDULES,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[tuple[str, int], StructuralFit]:
    """One probe for each layer and rank.

    Args:
        features: by layer, the words' vectors of each sentence; one width for all layers.
        heads: of each sentence, as `tree_distances` takes them.
        schedule: of the training, of several the best on dev; ``published("hewitt2019")`` is that
            of the paper's code.
        progress: called with (epochs done, epochs at most).

    Returns:
        (layer, rank) -> its probe.

    Raises:
        ValueError: layers of other widths, vectors that are not finite, or sentences whose heads
            are no tree or are not as many as the words.
    """
    names = list(features)
    scales = {name: _scale(layer) for name, layer in features.items()}
    sentences = _Trees(features, heads, kind, scales)
    dev = _Trees(dev_features, dev_heads, kind, scales)
    width, highest = sentences.width, max(ranks)
    generator = torch.Generator().manual_seed(seed)
    schedules = [schedule] if isinstance(schedule, Schedule) else list(schedule)
    # The published start, uniform in +-0.05; all probes have the same, so that layers differ by
    # their vectors alone.
    start = torch.rand(highest, width, generator=generator) * 0.1 - 0.05
    rank_of_model = torch.tensor(list(ranks)).repeat(len(names))  # layer by layer
    B = start.expand(len(rank_of_model), highest, width).clone()
    # a probe of lower rank has fewer rows
    has_row = torch.arange(highest)[None] < rank_of_model[:, None]
    free = has_row.float()[:, :, None]

    def grid(B: Float[Tensor, "m r d"]) -> Float[Tensor, "l p r d"]:
        return B.unflatten(0, (len(names), len(ranks)))

    runs = []
    for one in schedules:
        runs.append(
            train(
                [B * free],
                by_autograd(
                    lambda w, chosen: sentences.loss(grid(w[0]), chosen.tolist()).flatten()
                ),
                lambda w: dev.mean_loss(grid(w[0])).flatten(),
                len(sentences),
                one,
                generator,
                free=[free],
                progress=progress,
            )
        )
    # NaN, of a run that diverged, is the lowest of nothing.
    losses = torch.stack([run.lowest for run in runs]).nan_to_num(nan=torch.inf)
    best = losses.argmin(0).tolist()
    fits = {}
    for i, (name, rank) in enumerate(itertools.product(names, ranks)):
        trained = runs[best[i]]
        fits[name, rank] = StructuralFit(
            kind,
            # Trained on vectors that were divided by the scale: B takes the vectors as they are.
            trained.weights[0][i, :rank] / scales[name],
            float(trained.lowest[i]),
            int(trained.epochs[i]),
            bool(trained.stationary[i]),
            _apart(losses[:, i]),
        )
    return fits


def _apart(losses: Float[Tensor, " trainings"]) -> float:
    """How far apart trainings ended, as a share of the lowest loss."""
    if len(losses) < 2:
        return float("nan")
    return float((losses.max() - losses.min()) / losses.min())


def _scale(layer: Sequence[Float[Tensor, "_ _"]]) -> float:
    """Root mean square about the mean: divided by it,
    the published start and steps mean the same at every layer and model.
    """
    words = torch.cat(list(layer)).double()
    return max(float((words - words.mean(0)).square().mean().sqrt()), 1e-12)


def _check_sizes(
    features: Mapping[str, Sequence[Float[Tensor, "_ _"]]], heads: Sequence[Sequence[int]]
) -> None:
    """Raise unless all layers have one width, and a finite vector for each word."""
    layers = list(features.values())
    widths = {int(words.shape[1]) for layer in layers for words in layer}
    if len(widths) != 1:
        raise InputError(f"expected layers of one width, got {sorted(widths)}")
    for number, tree in enumerate(heads):
        if any(len(layer[number]) != len(tree) for layer in layers):
            raise InputError(f"sentence {number}: expected a vector for each of {len(tree)} words")
        for name, layer in features.items():
            check_finite(layer[number], f"layer {name!r}, sentence {number},")


class _Trees:
    """Sentences of all layers, and what is to be met."""

    def __init__(
        self,
        features: Mapping[str, Sequence[Float[Tensor, "_ _"]]],
        heads: Sequence[Sequence[int]],
        kind: Kind,
        scales: Mapping[str, float],
    ) -> None:
        _check_sizes(features, heads)
        self.width = next(iter(features.values()))[0].shape[1]
        self.kind = kind
        self.words = []
        for i in range(len(heads)):
            # Layers differ in size by orders of magnitude; one learning rate serves all when each
            # is brought to the same.
            of_layers = [layer[i].float() / scales[name] for name, layer in features.items()]
            self.words.append(torch.stack(of_layers))
        goal = tree_distances if kind == "distance" else tree_depths
        self.goals = [torch.from_numpy(goal(tree)).float() for tree in heads]

    def __len__(self) -> int:
        return len(self.words)

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Words [s l n d], goals and weights [s n (n)], padded with weight 0."""
        longest = max(self.words[i].shape[1] for i in rows)
        layers = self.words[0].shape[0]
        axes = 2 if self.kind == "distance" else 1  # of words in a goal
        words = torch.zeros(len(rows), layers, longest, self.width)
        shape = (len(rows), *[longest] * axes)
        goals, weights = torch.zeros(shape), torch.zeros(shape)
        for place, i in enumerate(rows):
            n = self.words[i].shape[1]
            words[place, :, :n] = self.words[i]
            at = (place, *[slice(n)] * axes)
            goals[at] = self.goals[i]
            weights[at] = 1 / n**axes  # a sentence counts as one, however long it is
        return words, goals, weights / len(rows)

    def loss(self, B: Float[Tensor, "l p r d"], rows: Sequence[int]) -> Float[Tensor, "l p"]:
        """Every probe's loss on a batch of sentences."""
        words, goals, weights = self._batch(rows)
        projected = torch.einsum("slnd,lprd->slpnr", words, B)
        norms = (projected**2).sum(-1)
        # Goals and weights are the same for every layer and rank.
        goals, weights = goals[:, None, None], weights[:, None, None]
        if self.kind == "depth":
            return ((norms - goals).abs() * weights).sum((0, 3))
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a'b, without a tensor of all differences
        products = 2 * projected @ projected.transpose(-1, -2)
        distances = norms[..., :, None] + norms[..., None, :] - products
        return ((distances - goals).abs() * weights).sum((0, 3, 4))

    def mean_loss(self, B: Float[Tensor, "l p r d"], batch: int = 20) -> Float[Tensor, "l p"]:
        """Mean over sentences."""
        batches = torch.arange(len(self)).split(batch)
        sums = [self.loss(B, rows.tolist()) * len(rows) for rows in batches]
        return torch.stack(sums).sum(0) / len(self)


def distance_spearman(
    predicted: Sequence[Float[np.ndarray, "_ _"]], heads: Sequence[Sequence[int]]
) -> float:
    """For each word between its rows of predicted and gold distances, averaged by length, then over
    lengths 5 to 50.

    The average of a length is over the words of all its sentences.
    """
    by_length: dict[int, list[float]] = {}
    for distances, tree in zip(predicted, heads, strict=True):
        if len(tree) not in LENGTHS:
            continue
        of_words = by_length.setdefault(len(tree), [])
        for row, gold in zip(np.asarray(distances), tree_distances(tree), strict=True):
            of_words.append(spearman(row, gold))
    return _by_length(by_length)


def tree_edges(
    predicted: Sequence[Float[np.ndarray, "_ _"]],
    heads: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]] | None = None,
) -> Float[np.ndarray, "n 2"]:
    """For each sentence the gold edges that the minimum spanning tree of the predicted distances
    has, and all gold edges.

    UUAS is the sum of the first over that of the second.

    Args:
        counted: words that take part; the published code leaves punctuation out.
    """
    out = np.zeros((len(heads), 2))
    for number, (distances, tree) in enumerate(zip(predicted, heads, strict=True)):
        keep = np.arange(len(tree)) if counted is None else np.flatnonzero(counted[number])
        if len(keep) < 2:
            continue
        square = np.ix_(keep, keep)
        gold = _edges(tree_distances(tree)[square])
        spanning = _edges(np.asarray(distances)[square])
        out[number] = len(gold & spanning), len(gold)
    return out


def depth_spearman(
    predicted: Sequence[Float[np.ndarray, " _"]], heads: Sequence[Sequence[int]]
) -> float:
    """Between predicted and gold depths of a sentence, averaged by length,
    then over lengths 5 to 50.
    """
    by_length: dict[int, list[float]] = {}
    for depths, tree in zip(predicted, heads, strict=True):
        if len(tree) not in LENGTHS:
            continue
        correlation = spearman(np.asarray(depths), tree_depths(tree))
        by_length.setdefault(len(tree), []).append(correlation)
    return _by_length(by_length)


def tree_roots(
    predicted: Sequence[Float[np.ndarray, " _"]],
    heads: Sequence[Sequence[int]],
    counted: Sequence[Sequence[bool]] | None = None,
) -> Float[np.ndarray, " n"]:
    """For each sentence 1 where the counted word of least predicted depth is the root, else 0;
    NaN if none is counted.
    """
    out = np.full(len(heads), np.nan)
    for number, (depths, tree) in enumerate(zip(predicted, heads, strict=True)):
        keep = np.arange(len(tree)) if counted is None else np.flatnonzero(counted[number])
        if not len(keep):
            continue
        shallowest = keep[np.asarray(depths)[keep].argmin()]
        out[number] = int(shallowest) == list(tree).index(0)
    return out


def _edges(distances: Float[np.ndarray, "n n"]) -> set[tuple[int, int]]:
    """Edges of the minimum spanning tree."""
    shifted = np.triu(distances - distances.min() + 1.0, 1)  # scipy reads 0 as no edge
    tree = minimum_spanning_tree(shifted).tocoo()
    pairs = zip(tree.row.tolist(), tree.col.tolist(), strict=True)
    return {(min(a, b), max(a, b)) for a, b in pairs}


def _by_length(values: Mapping[int, Sequence[float]]) -> float:
    """Mean over lengths of the mean over items; NaN without any."""
    means = []
    for of_items in values.values():
        if np.isfinite(of_items).any():
            means.append(float(np.nanmean(of_items)))
    return float(np.mean(means)) if means else float("nan")
