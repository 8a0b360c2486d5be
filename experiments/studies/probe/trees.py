"""Structural probes in a study: how much of the syntax tree is in the distances between words,
layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....probes.evaluation import ClusterBootstrap
from ....probes.structural import (
    Kind,
    StructuralFit,
    depth_spearman,
    distance_spearman,
    structural_many,
    tree_edges,
    tree_roots,
)
from ...corpus import Corpus, Split
from ...features.layout import Layout
from ...report.schema import estimated
from ...report.words import layer_label
from .records import TreeRecord

TOGETHER = 8
"""Layers that a study trains in one model, and keeps when they are done."""


@dataclass(frozen=True)
class Trees:
    """The sentences of one split that can be used: every word has a vector, there are at least two,
    and one root.
    """

    rows: list[list[int]]
    heads: list[list[int]]
    counted: list[list[bool]]
    dropped: int

    @classmethod
    def of(cls, corpus: Corpus, layout: Layout, offset: int) -> Trees:
        """Read them off; punctuation does not count in UUAS and root accuracy."""
        rows, heads, counted = [], [], []
        for sentence, at in zip(corpus.sentences, layout.rows, strict=True):
            present = [row + offset for row in at if row is not None]
            governors = [word.head for word in sentence.words]
            # A word without a vector would leave a hole in the tree, and distances through it.
            is_complete = len(present) == len(governors)
            has_one_root = governors.count(0) == 1
            if is_complete and has_one_root and len(present) > 1:
                rows.append(present)
                heads.append(governors)
                counted.append([word.upos != "PUNCT" for word in sentence.words])
        return cls(rows, heads, counted, len(corpus) - len(rows))

    def vectors(self, features: Float[Tensor, "rows d"]) -> list[Tensor]:
        """Word vectors of each sentence."""
        return [features[rows] for rows in self.rows]


def tree_scores_of(
    splits: Mapping[Split, Trees],
    read: Callable[[str], Float[Tensor, "rows d"]],
    sites: Sequence[str],
    rank: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Scores of each site; the sites are trained in one model, and held in memory together.

    Args:
        read: a site's features.
        rank: rows of the probe's matrix.

    Returns:
        For each site the fields of a `TreeRecord` that need neither the chain nor a random-weight
        model.
    """
    train, dev, test = splits["train"], splits["dev"], splits["test"]
    features: dict[str, dict[str, list[Tensor]]] = {"train": {}, "dev": {}, "test": {}}
    for site in sites:
        whole = read(site)
        for split, trees in splits.items():
            features[split][site] = trees.vectors(whole)
    width = features["train"][sites[0]][0].shape[1]
    # A matrix of more rows than the space has dimensions gives no other distances.
    rank = min(rank, width)

    def fit(kind: Kind) -> dict[tuple[str, int], StructuralFit]:
        return structural_many(
            features["train"],
            train.heads,
            features["dev"],
            dev.heads,
            kind,
            (rank,),
            seed=seed,
        )

    distances, depths = fit("distance"), fit("depth")
    records = []
    for site in sites:
        distance, depth = distances[site, rank], depths[site, rank]
        words = features["test"][site]
        scores = tree_scores(
            [distance.predict(of_sentence) for of_sentence in words],
            [depth.predict(of_sentence) for of_sentence in words],
            test,
            seed,
        )
        records.append(
            {
                "site": site,
                "rank": len(distance.projection),
                **scores,
                "epochs": max(distance.epochs, depth.epochs),
                "stationary": distance.stationary and depth.stationary,
                "apart": max(distance.apart, depth.apart),
            }
        )
    return records


def chain_scores(test: Trees, seed: int) -> dict[str, Any]:
    """The baseline that knows no tree: words are as far apart as they stand,
    and the first word is the root.
    """
    lengths = [len(heads) for heads in test.heads]
    places = [np.arange(n, dtype=float) for n in lengths]
    return tree_scores([np.abs(p[:, None] - p) for p in places], places, test, seed)


def tree_scores(
    distances: Sequence[np.ndarray], depths: Sequence[np.ndarray], test: Trees, seed: int
) -> dict[str, Any]:
    """All four scores, and intervals over sentences of the two that are shares;
    no root's where none counts.
    """
    # Each sentence is a cluster: the arcs of one tree are not independent.
    boot = ClusterBootstrap(np.arange(len(test.heads)), seed=seed)
    recovered, of_tree = tree_edges(distances, test.heads, test.counted).T
    edges = boot.share(recovered, of_tree)
    roots = tree_roots(depths, test.heads, test.counted)
    known = np.isfinite(roots)
    root = None
    if known.any():
        of_known = ClusterBootstrap(np.flatnonzero(known), seed=seed)
        root = of_known.mean(roots[known], kind="share")
    return {
        **estimated("uuas", edges),
        "distance_spearman": distance_spearman(distances, test.heads),
        **estimated("root_accuracy", root),
        "depth_spearman": depth_spearman(depths, test.heads),
        "n": len(test.heads),
    }


def tree_finding(records: Sequence[TreeRecord]) -> str:
    """One sentence in words."""
    top = max(records, key=lambda record: record.uuas)
    span = f" (95% CI {top.uuas_interval.text()})" if top.uuas_interval else ""
    text = (
        f"tree: structural probes of rank {top.rank} work best at layer "
        f"{layer_label(top.layer, top.site)}, where they recover "
        f"{top.uuas:.3f} of the undirected edges{span}. The first layer read gives "
        f"{records[0].uuas:.3f}, and linking each word to the next gives "
        f"{top.chain_uuas:.3f}."
    )
    if top.random_uuas is not None:
        text += f" The same layer of a random-weight model gives {top.random_uuas:.3f}."
    if top.root_accuracy is not None:
        text += f" The root is found in {top.root_accuracy:.3f} of the sentences."
    return text
